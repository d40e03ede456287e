# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixed: a size that somebody asked for.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses

from .base import View, Wish


@dataclasses.dataclass(frozen=True)
class Fixed:
    size: int
    name: str = "asked for"

    def wish(self, view: View) -> Wish:
        return Wish(self.name, self.size, f"{self.size} nodes", self.size)
