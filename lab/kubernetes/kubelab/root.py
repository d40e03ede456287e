# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks, mounts and control groups are root's."""
from __future__ import annotations

import os
import shutil
import sys

from common import LabError, run


def as_root() -> None:
    """Go on as root: the program starts once more, through sudo without a password, with the caller's cache."""
    if os.getuid() == 0:
        os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        return
    if not shutil.which("sudo") or run("sudo", "-n", "true", quiet=True).returncode:
        raise LabError("root is needed for networks, mounts and control groups; run this as root or allow sudo without a password")
    os.execvp("sudo", ["sudo", "-n", "--preserve-env=HOME,XDG_CACHE_HOME,PATH", sys.executable, *sys.argv])
