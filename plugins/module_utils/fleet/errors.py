# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception of the core: what was tried, on what, what came back, and the fix.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t


class FleetError(Exception):
    """An operation that could not be done, told so that an operator can act.

    tried: the operation ("connect to Redis"); on: its object ("10.0.0.5:6379"); got: what came back; fix: what to do.
    code: a stable word for programs ("redis_auth"). Everything else lands beside them in the failure mapping.
    """

    def __init__(self, tried: str, on: str, got: t.Any, fix: str, code: str = "failed", **fields: t.Any) -> None:
        self.failure: dict[str, t.Any] = {"code": code, "tried": tried, "on": on, "got": str(got), "fix": fix, **fields}
        super().__init__(f"Could not {tried} ({on}): {got}. {fix}")

    def as_result(self) -> dict[str, t.Any]:
        """{msg: text, failure: {code, tried, on, got, fix, ...}} for a module's fail_json."""
        return {"msg": str(self), "failure": self.failure}


def require(module: t.Any, name: str, package: str) -> t.Any:
    """An optional import (None where it failed), or a FleetError that names the package to install."""
    if module is None:
        raise FleetError(
            "import", name, "the Python library is missing on this host",
            f"Install it: pip install {name}, or on a managed Debian host apt install {package}", code="missing_library",
        )
    return module
