# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one setting of the machine that a lab raises: how many inotify instances a user may have. Kubelets need dozens, the usual limit is 128."""
from __future__ import annotations

import pathlib

from common import say

from . import layout

LIMIT = pathlib.Path("/proc/sys/fs/inotify/max_user_instances")
ENOUGH = 2048


def noted() -> pathlib.Path:
    """Where the machine's own value is kept while labs are up."""
    return layout.STATE / "max_user_instances"


def borrow() -> None:
    """Raise the limit where it is lower than labs need."""
    before = int(LIMIT.read_text(encoding="ascii"))
    if before >= ENOUGH:
        return
    if not noted().exists():
        noted().write_text(str(before), encoding="ascii")
    say(f"fs.inotify.max_user_instances is raised from {before} to {ENOUGH}, until the last lab goes down")
    LIMIT.write_text(str(ENOUGH), encoding="ascii")


def give_back() -> None:
    """Put the machine's own value back, unless somebody has set another one since."""
    if not noted().exists():
        return
    if int(LIMIT.read_text(encoding="ascii")) == ENOUGH:
        LIMIT.write_text(noted().read_text(encoding="ascii"), encoding="ascii")
    noted().unlink()
