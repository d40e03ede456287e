# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel settings: what a host has, what it should have, and what it refuses. Pure but for the two functions that touch /proc/sys.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import os
import typing as t

from .slots import Layout


def reserved_ports(layout: Layout, turn: bool) -> str:
    """The slots' ports as net.ipv4.ip_local_reserved_ports takes them, so that no outgoing connection sits on one before a node starts."""
    spans: list[list[int]] = []
    for first, last in sorted((first, last) for dummy, first, last, use in layout.claims(turn)):
        if spans and first <= spans[-1][1] + 1:
            spans[-1][1] = max(spans[-1][1], last)
        else:
            spans.append([first, last])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def same(one: str, other: str) -> bool:
    """Whether two values mean the same to the kernel, which writes tabs between numbers."""
    return one.split() == other.split()


def satisfied(want: str, have: str, minimum: bool) -> bool:
    """Whether the running value will do: equal, or with `minimum` every number at least as large."""
    if same(want, have):
        return True
    if not minimum:
        return False
    wanted, found = want.split(), have.split()
    return len(wanted) == len(found) and all(f.isdigit() and w.isdigit() and int(f) >= int(w) for w, f in zip(wanted, found))


def path(key: str, root: str = "/proc/sys") -> str:
    return os.path.join(root, *key.split("."))


def read(key: str, root: str = "/proc/sys") -> str | None:
    """The running value, None where this kernel or container has no such setting."""
    try:
        with open(path(key, root), encoding="ascii") as handle:
            return handle.read().strip()
    except OSError:
        return None


def write(key: str, value: str, root: str = "/proc/sys") -> str | None:
    """Set it; the kernel's words where it refuses, None when the value now reads back."""
    try:
        with open(path(key, root), "w", encoding="ascii") as handle:
            handle.write(value)
    except OSError as exc:
        return exc.strerror or str(exc)
    now = read(key, root)
    return None if now is not None and same(now, value) else f"reads back as {now}"


def drop_in(settings: t.Mapping[str, str]) -> str:
    """The file for /etc/sysctl.d. A leading "-" lets a boot go on where the kernel has no such setting."""
    lines = [f"-{key} = {value}" for key, value in sorted(settings.items())]
    return "\n".join(["# Managed by openrtc.livekit, role kernel.", *lines, ""])
