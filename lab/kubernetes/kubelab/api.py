# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""As much of a Kubernetes client as the lab needs; a start of kubectl takes longer than all of its questions."""
from __future__ import annotations

import json
import ssl
import typing as t
import urllib.error
import urllib.request

from common import LabError

from . import pki
from .layout import Lab


class Api:
    """The API server of a lab, as its administrator."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._token = pki.token_of(lab)
        self._tls = ssl.create_default_context(cafile=str(lab.pki / "ca.crt"))

    def call(self, method: str, path: str, body: t.Mapping[str, t.Any] | None = None, kind: str = "application/json") -> dict[str, t.Any] | None:
        """The answer; None for what is not there, or while nobody answers properly."""
        question = urllib.request.Request(
            f"{self.lab.server}{path}", None if body is None else json.dumps(body).encode(), method=method,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": kind, "Accept": "application/json"},
        )
        try:
            with urllib.request.urlopen(question, timeout=10, context=self._tls) as answer:
                text = answer.read()
        except urllib.error.HTTPError as exc:
            if exc.code in (404, 429, 500, 503):
                return None
            raise LabError(f"lab {self.lab.name}: {method} {path} failed with {exc.code}: {exc.read().decode(errors='replace')[:400]}") from exc
        except OSError:
            return None
        return t.cast("dict[str, t.Any]", json.loads(text)) if text[:1] == b"{" else {}

    def apply(self, path: str, item: t.Mapping[str, t.Any]) -> bool:
        """Server-side apply of one object; path is that of its collection. False when it should be tried again."""
        where = f"{path}/{item['metadata']['name']}?fieldManager=openrtc-lab&force=true"
        return self.call("PATCH", where, item, "application/apply-patch+yaml") is not None

    def condition(self, path: str, name: str) -> str:
        """When an object was last seen to have a condition that is True, "" while it is not."""
        conditions = ((self.call("GET", path) or {}).get("status") or {}).get("conditions") or []
        found = (one.get("lastHeartbeatTime") or one["lastTransitionTime"] for one in conditions if one["type"] == name and one["status"] == "True")
        return next(found, "")
