# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who runs this playbook, as locks and journal name it."""
from __future__ import annotations

import getpass
import os
import re
import socket


def owner() -> str:
    """user@machine pid N, N being ansible-playbook itself: the same for every task of a run. Task workers are children of it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container that runs under a number
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} pid {os.getppid()}"


def has_ended(name: str) -> bool:
    """Whether the run of this owner() was on this machine and is there no more. False where that cannot be known from here."""
    found = re.fullmatch(r"[^@]*@(.+) pid (\d+)", name)
    return bool(found) and found[1] == socket.gethostname() and not os.path.exists(f"/proc/{found[2]}") and os.path.exists("/proc/self")
