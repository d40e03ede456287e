# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes as units of systemd, one of a template per slot: the target `native`.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import os
import re
import typing as t

from ..errors import FleetError
from . import Running

Run = t.Callable[[t.List[str]], t.Tuple[int, str, str]]

UNIT = "livekit-server@{0}.service"
PROPERTIES = "Id,ActiveState,MainPID,ActiveEnterTimestamp,StateChangeTimestamp,UnitFileState"


def _moment(stamp: str) -> float | None:
    """systemd's "@1700000000" as Unix seconds; None where it has none."""
    number = stamp.lstrip("@")
    return float(number) if number.isdigit() and number != "0" else None


class Systemd:
    """`run` executes a command and returns (rc, stdout, stderr)."""

    def __init__(self, run: Run, config_dir: str, opt_dir: str) -> None:
        self.run, self.config_dir, self.opt_dir = run, config_dir, opt_dir

    # -- reading

    def look(self, numbers: t.Sequence[int]) -> dict[int, Running]:
        units = self._units(numbers)
        return {n: self._running(unit) for n, unit in units.items() if n in numbers or unit.get("ActiveState") not in ("inactive", "failed")}

    def _units(self, numbers: t.Sequence[int]) -> dict[int, dict[str, str]]:
        names = {n: UNIT.format(n) for n in numbers}
        listed = self.run(["systemctl", "list-units", "--plain", "--no-legend", "--all", UNIT.format("*")])[1]
        for name in re.findall(r"livekit-server@(\d+)\.service", listed):
            names.setdefault(int(name), UNIT.format(name))
        rc, out, err = self.run(["systemctl", "show", "--timestamp=unix", "-p", PROPERTIES, *names.values()])
        if rc == 127:  # no systemd here yet
            return {}
        if rc != 0:  # never to be taken for "nothing runs"
            raise FleetError("read the units", "livekit-server@*", err.strip() or f"systemctl ended with {rc}", "See whether systemd answers: systemctl status",
                             code="systemctl")
        units = {}
        for block in out.strip().split("\n\n"):
            values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            found = re.search(r"@(\d+)\.service", values.get("Id", ""))
            if found:
                units[int(found[1])] = values
        return units

    def _running(self, unit: dict[str, str]) -> Running:
        pid = int(unit.get("MainPID") or 0) or None
        return Running(
            state=unit.get("ActiveState", "inactive"), pid=pid, enabled=unit.get("UnitFileState") == "enabled",
            since=_moment(unit.get("ActiveEnterTimestamp", "")), state_since=_moment(unit.get("StateChangeTimestamp", "")),
            version=self._version(pid) if pid else None)

    def _version(self, pid: int) -> str | None:
        try:
            exe = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            return None
        found = re.match(re.escape(self.opt_dir) + r"/([^/]+)/livekit-server", exe)
        return found[1] if found else None

    def state(self, n: int) -> str:
        return self._value(n, "ActiveState")

    def pid(self, n: int) -> int | None:
        return int(self._value(n, "MainPID") or 0) or None

    def _value(self, n: int, name: str) -> str:
        return self.run(["systemctl", "show", "-p", name, "--value", UNIT.format(n)])[1].strip()

    def log(self, n: int, lines: int) -> list[str]:
        return self.run(["journalctl", "--no-pager", "-o", "cat", "-n", str(lines), "-u", UNIT.format(n)])[1].splitlines()

    def about(self) -> dict[str, t.Any]:
        return {}

    # -- doing

    def require(self, n: int, version: str) -> None:
        binary = f"{self.opt_dir}/{version}/livekit-server"
        if not os.path.exists(binary):
            raise FleetError("write a generation", f"slot {n}", f"{binary} does not exist",
                             "Install the release first (module openrtc.livekit.release)", code="release_absent", version=version)

    def lay(self, n: int, generation: str, version: str) -> dict[str, str]:
        return {}

    def link(self, folder: str, version: str) -> None:
        os.symlink(f"{self.opt_dir}/{version}/livekit-server", f"{folder}/server")

    def check(self, n: int) -> tuple[int, str, str]:
        base = f"{self.config_dir}/{n}"
        return self.run(["env", "-i", f"{base}/server", "--config", f"{base}/config.yaml", "ports"])  # LIVEKIT_* would override the file

    def start(self, n: int) -> None:
        self._systemctl("start", n, "--no-block")

    def stop(self, n: int) -> None:
        self._systemctl("stop", n, "--no-block")

    def enable(self, n: int) -> None:
        self._systemctl("enable", n)

    def disable(self, n: int) -> None:
        self._systemctl("disable", n)

    def kill(self, n: int, pid: int | None = None) -> tuple[bool, str]:
        """systemd names the main process by itself; `pid` was compared with it by the caller."""
        rc, out, err = self.run(["systemctl", "--signal=SIGKILL", "--kill-who=main", "kill", UNIT.format(n)])
        return rc == 0, (err or out).strip()

    def clear(self, n: int) -> None:
        self.run(["systemctl", "reset-failed", UNIT.format(n)])

    def _systemctl(self, verb: str, n: int, *options: str) -> None:
        rc, out, err = self.run(["systemctl", *options, verb, UNIT.format(n)])
        if rc != 0:
            raise FleetError(f"{verb} the unit", UNIT.format(n), (err or out).strip(), "See journalctl on this host", code="systemctl", slot=n)


def stop_unit(run: Run, unit: str) -> bool:
    """One SIGTERM for a neighbour of the nodes, which finishes its work; False when it does not run."""
    if _systemctl(run, "show", "-p", "ActiveState", "--value", unit).strip() != "active":
        return False
    _systemctl(run, "stop", "--no-block", unit)
    return True


def _systemctl(run: Run, *words: str) -> str:
    rc, out, err = run(["systemctl", *words])
    if rc != 0:
        raise FleetError("ask systemd", " ".join(words), (err or out).strip(), "See journalctl on this host", code="systemctl")
    return out
