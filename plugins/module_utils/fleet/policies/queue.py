# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Queue: places for those who wait for one, and for those who were turned away.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses

from .base import View, Wish


@dataclasses.dataclass(frozen=True)
class Queue:
    """per_refusal: units of demand that one refused join stands for; the client will try again."""

    per_refusal: float = 1.0
    name: str = "queue"

    def wish(self, view: View) -> Wish | None:
        waiting = view.waiting + self.per_refusal * view.refused
        if waiting <= 0:
            return None
        parts = [f"{view.waiting:.4g} wait"] if view.waiting else []
        parts += [f"{view.refused} were refused"] if view.refused else []
        return Wish(self.name, view.nodes(view.demand + waiting), f"{' and '.join(parts)}, beside {view.demand:.4g} in rooms")
