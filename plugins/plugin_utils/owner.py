# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who runs this playbook, as locks and journal name it."""
from __future__ import annotations

import getpass
import os
import socket


def owner() -> str:
    """user@machine pid N, N being ansible-playbook itself: the same for every task of a run. Task workers are children of it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container that runs under a number
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} pid {os.getppid()}"
