# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of this host as the kernel tells them in /proc: whether one is still there, whether it has had its SIGTERM, SIGKILL for exactly one.

Nodes in containers run under an init (targets/init.py), which ignores SIGTERM from the first one on; so a drain shows, whoever began it.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import os
import re
import signal
import time
import typing as t

PROC = "/proc"
AGAIN = 1.0  # seconds
TERM = 1 << (signal.SIGTERM - 1)
_INIT = b"\0init\0"  # in the command line of a container's init, see targets.init.command


def started(pid: int) -> str | None:
    """When a process started (ticks after boot); None where there is none, or only its remains."""
    fields = _read(f"{PROC}/{pid}/stat").rpartition(b")")[2].split()
    return fields[19].decode() if len(fields) > 19 and fields[0] not in (b"Z", b"X") else None


def told(pid: int) -> bool:
    """Whether the init with this process id has had its SIGTERM."""
    found = re.search(rb"^SigIgn:\s*([0-9a-f]+)", _read(f"{PROC}/{pid}/status"), re.M)
    return bool(found and int(found[1], 16) & TERM)


def kill(pid: int, right: t.Callable[[], bool]) -> tuple[bool, str]:
    """SIGKILL for the process that has this id now, if right() says that it is the one: (whether it is gone or was killed, why not)."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True, ""
    except OSError as exc:
        return False, str(exc)
    try:
        if not right():
            return False, f"process {pid} is another one by now"
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError as exc:
        return isinstance(exc, ProcessLookupError), str(exc)
    finally:
        os.close(handle)
    return True, ""


class Inits:
    """The inits of pods on this host, found by the pods' uids in the names of their control groups. For a process that sees those of the host."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, str | None]] = {}
        self._missed: tuple[frozenset[str], float] = (frozenset(), 0.0)  # who was looked for last, and when

    def find(self, uids: t.Collection[str]) -> dict[str, int]:
        """{uid: process id} of those that run. The kernel's list is gone through for those that are not known yet, once a second for the same ones."""
        known = {uid: one for uid, one in self._known.items() if uid in uids and started(one[0]) == one[1]}
        missing, now = frozenset(uids) - frozenset(known), time.monotonic()
        if missing and (missing != self._missed[0] or now - self._missed[1] >= AGAIN):
            self._missed = (missing, now)
            known.update({uid: (pid, started(pid)) for uid, pid in self._search(missing).items()})
        self._known = known
        return {uid: pid for uid, (pid, _started) in known.items()}

    @staticmethod
    def _search(uids: t.Collection[str]) -> dict[str, int]:
        found = {}
        for name in filter(str.isdigit, os.listdir(PROC)):
            groups = _read(f"{PROC}/{name}/cgroup").decode("utf-8", "replace").replace("_", "-")  # systemd's names of groups have no "-"
            uid = next((uid for uid in uids if uid in groups), None)
            if uid and _INIT in _read(f"{PROC}/{name}/cmdline") and re.search(rb"^NSpid:.*\s1$", _read(f"{PROC}/{name}/status"), re.M):
                found[uid] = int(name)
        return found


def _read(path: str) -> bytes:
    """b"" where the process has gone."""
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except OSError:
        return b""
