# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Systemd units of a component: enabled, started, stopped; reloaded or restarted when they have not loaded their files.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import os
import shlex
import time
import typing as t

from . import record
from .files import Wants
from .guard import PROJECT, is_node, triggered
from .run import Failure, Run

UNIT_PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,InvocationID,ActiveEnterTimestampMonotonic,CanReload,Result"
)
RUNNING = ("active", "reloading")

State = t.Dict[str, str]  # the properties of one unit


def parse_show(text: str, names: t.Sequence[str]) -> dict[str, State]:
    """The output of systemctl show for several units: blocks in the order of the arguments."""
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in text.strip().split("\n\n")]
    if len(blocks) != len(names):
        raise Failure(f"systemctl show answered for {len(blocks)} units instead of {len(names)}: {', '.join(names)}")
    return dict(zip(names, blocks))


def last_words(run: Run, name: str) -> str:
    """The last log lines of a unit, for the message of a failure."""
    journalctl = run.get_bin_path("journalctl")
    if not journalctl:
        return ""
    rc, out, err = run.run_command([journalctl, "-q", "--no-pager", "-o", "cat", "-n", "15", "-u", name])
    return f"Its last log lines: {out.strip()}" if rc == 0 and out.strip() else ""


class Units:
    """The units of one run. Made before anything is changed; apply() when all files are in place."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.names = list(dict.fromkeys([*(u["name"] for u in run.p["units"]), *(name for name in triggered(run.p["files"]) if not name.endswith(PROJECT))]))
        self.systemctl = run.get_bin_path("systemctl") if self.names else None
        self.wants = Wants()
        self.acted = False

    def apply(self, wants: Wants) -> None:
        self.wants = wants
        if not self.names and not wants.unit_file_changed:
            return
        if not self.run.systemd:
            self._offline()
            return
        if not self.systemctl:
            self.systemctl = self.run.get_bin_path("systemctl", required=True)
        state = self._show()
        if wants.unit_file_changed or any(s.get("NeedDaemonReload") == "yes" for s in state.values()):
            self.run.note_change("daemon-reload")
            if not self.run.check:
                self._ctl("daemon-reload")
                state = self._show()
        for unit in self.run.p["units"]:
            if unit["enabled"] is not None:
                self._enable(unit, state[unit["name"]].get("UnitFileState", ""))
        path = record.record_path(self.run.p)
        old = record.read(path)
        wanted = {u["name"]: u["state"] for u in self.run.p["units"]}
        for name in self.names:
            self._settle(name, state[name], wanted.get(name), old.get(name, {}))
        if not self.run.check:
            self._note(path, old, self._show() if self.acted else state)

    def _ctl(self, *argv: str, ok: t.Container[int] = (0,)) -> str:
        return self.run.command(self.systemctl, *argv, ok=ok)

    def _show(self) -> dict[str, State]:
        if not self.names:
            return {}
        return parse_show(self._ctl("show", "--no-pager", "-p", UNIT_PROPERTIES, "--", *self.names), self.names)

    def _offline(self) -> None:
        if not self.systemctl:
            self.run.notes.append("systemd is not installed here: units were neither enabled nor started")
            return
        for unit in self.run.p["units"]:
            if unit["enabled"] is not None:
                now = self._ctl("--root=/", "is-enabled", "--", unit["name"], ok=range(0, 256)).strip()
                self._enable(unit, now, "--root=/")
        self.run.notes.append("systemd is not running here: units were enabled by their links, none was started or reloaded")

    def _enable(self, unit: dict[str, t.Any], now: str, *options: str) -> None:
        name, verb = unit["name"], "enable" if unit["enabled"] else "disable"
        if unit["enabled"] and now in ("enabled", "static", "alias", "generated"):
            return
        if not unit["enabled"] and now not in ("enabled", "enabled-runtime", "linked"):
            return
        self.run.note_change(f"{verb} {name}", f"unit {name}: {now or 'unknown'}", f"unit {name}: {verb}d")
        if self.run.check:
            return
        if now.startswith("masked") and unit["enabled"]:
            self._ctl(*options, "unmask", "--", name)
        self._ctl(*options, "-q", verb, "--", name)

    def _settle(self, name: str, unit: State, wanted: str | None, noted: dict[str, t.Any]) -> None:
        """Bring one unit into its state."""
        active = unit.get("ActiveState", "inactive")
        if wanted == "stopped":
            if active not in ("inactive", "failed"):
                self._do("stop", name, active, "stopped")
        elif active in RUNNING:
            if not is_node(name):
                self._refresh(name, unit, active, noted)
        elif wanted == "started":
            # "activating" may be a start under way or the pause before an automatic restart; after a change only a restart is right.
            verb = "restart" if active == "activating" and (name in self.wants.restart or name in self.wants.reload) else "start"
            self._do(verb, name, active, "started")

    def _refresh(self, name: str, unit: State, active: str, noted: dict[str, t.Any]) -> None:
        """Make a running unit run what its files say."""
        loads = self.wants.loads.get(name, {})
        behind = record.stale(record.mtimes(loads), unit, noted, time.time(), time.monotonic())
        restart = [*self.wants.restart.get(name, []), *(p for p in behind if loads[p] == "restart")]
        reload = [*self.wants.reload.get(name, []), *(p for p in behind if loads[p] == "reload")]
        if restart:
            self._do("restart", name, active, "restarted", restart)
        elif reload:
            if unit.get("CanReload") == "no" and not self.run.check:
                raise Failure(f"{name} cannot be reloaded (it has no ExecReload=), but {', '.join(reload)} changed; "
                              "declare 'restart' for these files")
            self._do("reload", name, active, "reloaded", reload)
        else:
            self._check(name, active)

    def _check(self, name: str, active: str) -> None:
        """Reload a unit that says itself that it does not run what its files say."""
        command = next((u["check"] for u in self.run.p["units"] if u["name"] == name and u["check"]), None)
        if command is None:
            return
        argv = shlex.split(command)
        if self.run.check and not all(os.path.exists(arg) for arg in argv if arg.startswith("/")):
            return
        rc, out, err = self.run.run_command(argv)
        if rc == 1:
            self._do("reload", name, active, "reloaded", out.strip().splitlines()[:20])
        elif rc != 0:
            raise Failure(f"{name}: '{command}' could not tell what is running ({rc}): {(err or out).strip()[-1000:]}", unit=name, rc=rc)

    def _do(self, verb: str, name: str, active: str, done: str, why: t.Iterable[str] = ()) -> None:
        why = list(dict.fromkeys(why))
        after = {"start": "active", "stop": "inactive"}.get(verb, f"active, {done}")
        self.run.note_change(
            f"{verb} {name}" + (f" (it has not loaded {', '.join(why)})" if why else ""), f"unit {name}: {active}", f"unit {name}: {after}",
        )
        self.run.done[done].append(name)
        self.acted = True
        if self.run.check:
            return
        if verb in ("start", "restart") and active == "failed":
            self.run.run_command([self.systemctl, "reset-failed", "--", name])
        rc, out, err = self.run.run_command([self.systemctl, verb, "--", name])
        if rc != 0:
            said = last_words(self.run, name)
            raise Failure(f"systemctl {verb} {name} failed ({rc}): {(err or out).strip()} {said}".rstrip(), unit=name, rc=rc)

    def _note(self, path: str, old: dict[str, t.Any], state: dict[str, State]) -> None:
        """Write down what each running unit has loaded by now."""
        new = {
            name: {"invocation": state[name].get("InvocationID", ""), "files": record.mtimes(paths)}
            for name, paths in self.wants.loads.items() if state.get(name, {}).get("ActiveState") in RUNNING
        }
        if self.wants.loads and new != old:
            record.write(path, new)
