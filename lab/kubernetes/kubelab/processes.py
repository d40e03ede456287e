# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's processes: started with a mark in their environment, found again by it, ended by their ids.

No file has to say which process is whose: the mark is in /proc as long as the process is there, also after `up` was killed, and what a
program starts itself (containerd's shims) inherits it. Processes of pods are found by their control group instead.
"""
from __future__ import annotations

import contextlib
import os
import pathlib
import select
import signal
import subprocess
import time
import typing as t

from common import LabError

from .layout import Lab, Member

MARK = "OPENRTC_KUBE_LAB"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUPS = pathlib.Path("/sys/fs/cgroup")


def inside(member: Member, holder: int) -> list[str]:
    """What a command is prefixed with to run as on that member."""
    return ["nsenter", "-t", str(holder), "-n", "-m", "-u", "--wd=/", "--"]


def start(lab: Lab, name: str, *command: str) -> int:
    """Start a program that outlives this one, its output in <lab>/log/<name>.log. name: "control/etcd"; gives its process id."""
    log = lab.log / f"{name.replace('/', '-')}.log"
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/",
            env={"PATH": PATH, "HOME": "/root", MARK: f"{lab.name}/{name}"},
        )
    # Not ours to wait for; without this Python would say so at exit.
    process.returncode = 0
    return process.pid


def read(path: str | pathlib.Path) -> bytes:
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except OSError:
        return b""


def mark_of(pid: int) -> str:
    """Whose a process is, as "demo/node1/kubelet"; "" for one of no lab."""
    for entry in read(f"/proc/{pid}/environ").split(b"\0"):
        if entry.startswith(MARK.encode() + b"="):
            return entry.split(b"=", 1)[1].decode(errors="replace")
    return ""


def marked(lab: Lab, under: str = "") -> dict[int, str]:
    """The processes of a lab, or of a part of it ("node1/"), by id, with their names without the lab's."""
    prefix = f"{lab.name}/{under}"
    found = {int(pid): mark_of(int(pid)) for pid in os.listdir("/proc") if pid.isdigit()}
    return {pid: mark.removeprefix(f"{lab.name}/") for pid, mark in found.items() if mark.startswith(prefix)}


def find(lab: Lab, name: str) -> int | None:
    """The id of a running program by its name; shims that inherited a mark do not count."""
    program = name.rpartition("/")[2][:15].encode()
    for pid, known in marked(lab, name).items():
        # On its way into the namespaces it is nsenter still; the holder of a node is sleep.
        if known == name and read(f"/proc/{pid}/comm").strip() in (program, b"nsenter", b"sleep") and not gone(pid):
            return pid
    return None


def gone(pid: int) -> bool:
    return read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[:1] in ([], [b"Z"], [b"X"])


def hierarchies() -> list[pathlib.Path]:
    """Where control groups are mounted: one place with version 2, one per controller with version 1."""
    mounts = (line.split() for line in read("/proc/self/mounts").decode().splitlines())
    return [pathlib.Path(place) for _source, place, kind, *_rest in mounts if kind in ("cgroup", "cgroup2") and place.startswith(str(CGROUPS))]


def cgroups(lab: Lab, member: Member | None = None) -> list[pathlib.Path]:
    """The control groups of a lab or of one of its nodes, innermost first."""
    pattern = member.cgroup if member else f"{lab.cgroup_prefix}*"
    return [pathlib.Path(where) for top in hierarchies() for root in top.glob(pattern) for where, _dirs, _files in os.walk(root, topdown=False)]


def contained(lab: Lab, member: Member | None = None) -> set[int]:
    """The processes of its pods."""
    return {int(pid) for group in cgroups(lab, member) for pid in read(group / "cgroup.procs").split()}


def kill(pid: int, belongs: t.Callable[[int], bool], number: signal.Signals = signal.SIGKILL) -> None:
    """Signal a process, held by a descriptor while it is asked whether it is still the one that is meant."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            if belongs(pid):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def kill_all(lab: Lab, member: Member | None = None) -> None:
    """End every process of a lab or of one node, as a power cut does."""
    under = f"{member.name}/" if member else ""
    deadline = time.monotonic() + 20
    clean = 0
    # Twice, because a program that is just being loaded cannot be seen.
    while clean < 2:
        ours = {pid: name for pid, name in marked(lab, under).items() if not gone(pid)}
        # Those that would bring others back go first, those that hold the namespaces last.
        for pid in sorted(ours, key=lambda pid: ("kubelet" not in ours[pid], "holder" in ours[pid])):
            kill(pid, lambda pid: mark_of(pid).startswith(f"{lab.name}/{under}"))
        pods = {pid for pid in contained(lab, member) if not gone(pid)}
        for pid in pods:
            kill(pid, lambda pid: lab.cgroup_prefix.encode() in read(f"/proc/{pid}/cgroup"))
        clean = clean + 1 if not ours and not pods else 0
        if time.monotonic() > deadline:
            raise LabError(f"lab {lab.name}: these processes do not end: {sorted([*ours, *pods])}")
        time.sleep(0.05)


def stop(lab: Lab, name: str) -> None:
    """End one program with SIGTERM, as a package upgrade does, and wait for its end; what it started lives on."""
    pid = find(lab, name)
    if pid is None:
        return
    descriptor = os.pidfd_open(pid)
    try:
        kill(pid, lambda pid: mark_of(pid) == f"{lab.name}/{name}", signal.SIGTERM)
        if not select.select([descriptor], [], [], 30)[0]:
            raise LabError(f"lab {lab.name}: {name} (process {pid}) does not end after SIGTERM")
    finally:
        os.close(descriptor)


def tail(lab: Lab, name: str, lines: int = 4) -> str:
    return "\n  ".join(read(lab.log / f"{name.replace('/', '-')}.log").decode(errors="replace").splitlines()[-lines:])


def ended(lab: Lab, name: str) -> bool:
    """Whether a program is gone for good; one that is just being loaded has neither name nor environment for a moment."""
    for _look in range(4):
        if find(lab, name) is not None:
            return False
        time.sleep(0.1)
    return True


def wait(lab: Lab, what: str, ready: t.Callable[[], bool], *names: str, timeout: float = 60, every: float = 0.05) -> None:
    """Until it is ready; an end of one of the named programs before that, or the time, is an error with the end of its log."""
    deadline = time.monotonic() + timeout
    while not ready():
        dead = next((name for name in names if ended(lab, name)), "")
        if dead or time.monotonic() > deadline:
            blamed = dead or next(iter(names), "")
            why = f"{dead} has ended" if dead else f"not within {timeout:.0f} s"
            said = f"; the log of {blamed} ends with:\n  {tail(lab, blamed)}" if blamed else ""
            raise LabError(f"lab {lab.name}: {what} did not come up: {why}{said}")
        time.sleep(every)
