# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run over one component: what is asked for, the commands of the host, and what was changed.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import os
import shlex
import typing as t


class Failure(Exception):
    """What was tried, on what, what came back; becomes fail_json."""

    def __init__(self, msg: str, **fields: t.Any) -> None:
        self.fields = fields
        super().__init__(msg)


def systemd_runs() -> bool:
    return os.path.isdir("/run/systemd/system")


class Run:
    """The options of the module, and what all steps write down. `run_command` and `get_bin_path` are those of AnsibleModule."""

    def __init__(
        self, params: dict[str, t.Any], check: bool,
        run_command: t.Callable[..., tuple[int, str, str]], get_bin_path: t.Callable[..., str | None],
    ) -> None:
        self.p = params
        self.check = check
        self.run_command = run_command
        self.get_bin_path = get_bin_path
        self.systemd = systemd_runs()
        self.changes: list[str] = []
        self.notes: list[str] = []
        self.behind: list[dict[str, str]] = []  # projects that the control machine has to bring up
        self.done: dict[str, list[str]] = {"started": [], "stopped": [], "restarted": [], "reloaded": [], "installed": []}
        self.diffs: list[dict[str, str]] = []  # of the contents of files
        self.before: list[str] = []  # the state part of the diff: lines before and after
        self.after: list[str] = []

    def note_change(self, what: str, before: str | None = None, after: str | None = None) -> None:
        self.changes.append(what)
        if before is not None:
            self.before.append(before)
        if after is not None:
            self.after.append(after)

    def command(self, *argv: str, ok: t.Container[int] = (0,), env: dict[str, str] | None = None) -> str:
        """What a command prints; a Failure when its exit code is not one of `ok`."""
        rc, out, err = self.run_command(list(argv), environ_update=env)
        if rc not in ok:
            raise Failure(f"{shlex.join(argv)} failed ({rc}): {(err or out).strip()[-2000:]}", rc=rc)
        return out

    def result(self) -> dict[str, t.Any]:
        return {"changed": bool(self.changes), "changes": self.changes, "notes": self.notes, "behind": self.behind, **self.done}

    def diff(self) -> list[dict[str, str]]:
        if not self.before and not self.after:
            return self.diffs
        header = f"{self.p['name']} (state)"
        return [*self.diffs, {
            "before_header": header, "after_header": header,
            "before": "".join(f"{line}\n" for line in self.before), "after": "".join(f"{line}\n" for line in self.after),
        }]
