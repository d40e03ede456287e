# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forecast: nodes that will be needed when one ordered now serves, and nodes that would be needed again before one given back has gone.

It only speaks while its backtest holds; it asks for more, never for less.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses

from .base import View, Wish


@dataclasses.dataclass(frozen=True)
class Forecast:
    """ahead: whether to order for what is forecast; without it the forecast only keeps nodes from being given back too early."""

    ahead: bool = True
    name: str = "forecast"

    def wish(self, view: View) -> Wish | None:
        outlook = view.outlook
        if outlook is None or outlook.expected is None:
            return None
        need = outlook.expected + outlook.margin
        size = view.nodes(need) if self.ahead else 0
        return Wish(self.name, size, f"{outlook.expected:.4g} in {outlook.lead} min and {outlook.margin:.4g} free ({outlook.why})",
                    max(size, view.nodes(outlook.keep)))
