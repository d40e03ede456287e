# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Target headroom, the default: what is there now, and so much free beyond it as was ever needed before a new node could serve.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses

from .base import View, Wish


@dataclasses.dataclass(frozen=True)
class Headroom:
    """share: of the demand to keep free; nodes: at least so many nodes' worth; both where nothing was learned, and `nodes` always if it is given.

    Learned headroom (headroom.py) replaces `share` as soon as there is an outlook.
    """

    share: float = 0.25
    nodes: float = 0.0
    name: str = "headroom"

    def wish(self, view: View) -> Wish:
        spare = self.nodes * view.capacity
        outlook = view.outlook
        if outlook is None:
            free = max(spare, self.share * view.demand)
            return Wish(self.name, view.nodes(view.demand + free), f"{view.demand:.4g} now and {free:.4g} free")
        need = max(view.demand + spare, outlook.level + max(outlook.margin, spare))
        keep = max(need, outlook.keep if outlook.expected is None else 0.0)
        why = (f"{view.demand:.4g} now; {outlook.level:.4g} and {outlook.margin:.4g} free, as earlier errors over {outlook.lead} min demand "
               f"({outlook.model})")
        return Wish(self.name, view.nodes(need), why, view.nodes(keep))
