# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which node takes which room. Pure, but for claims.py.

receivers.py: rooms that have to leave a node. placer.py: new rooms, by the load that is expected of them; habits.py knows how large rooms
become, policy.py what they ask for. rebalance.py: live rooms, within a budget of moves. claims.py: two controllers agree through Redis.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

from .rebalance import Budget, rebalance, relieve, vacate
from .receivers import Limits, Receiver, receivers, spread

__all__ = ["Budget", "Limits", "Receiver", "rebalance", "receivers", "relieve", "spread", "vacate"]
