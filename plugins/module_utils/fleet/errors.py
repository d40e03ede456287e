# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the core says what is wrong: FleetError, its one exception (what was tried, on what, what came back, the fix), and Problem.

A Problem is found before anything is tried; raise_for() makes one FleetError of all that were found.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that keeps a deployment from being right: a stable code, the variable or key, what is wrong, what to do."""

    code: str
    where: str
    text: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}. {self.fix}"

    def as_dict(self) -> dict[str, str]:
        return dataclasses.asdict(self)


def raise_for(found: t.Iterable[Problem], on: str = "the livekit_* variables") -> None:
    """Raise one FleetError that lists every problem; failure.problems holds them as mappings. Nothing found: nothing raised."""
    found = list(found)
    if not found:
        return
    listing = "".join(f"\n{number}. {problem}" for number, problem in enumerate(found, 1))
    raise FleetError("accept the configuration", on, "1 problem" if len(found) == 1 else f"{len(found)} problems",
                     f"Nothing was changed. Correct and run again:{listing}", code=found[0].code if len(found) == 1 else "bad_configuration",
                     problems=[problem.as_dict() for problem in found])
