# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every policy sees and says: a View of the cluster goes in, a Wish comes out. Pure.

Demand is counted in units: rooms where nothing better is known, else shares of a node (capacity.py). `capacity` units fill one node.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import math
import typing as t

from ..forecast import Outlook

STARTING, SERVING, DRAINING = "starting", "serving", "draining"


@dataclasses.dataclass(frozen=True)
class Member:
    """A machine or slot of the pool. Times are Unix seconds."""

    id: str
    state: str  # starting: ordered, not serving yet; serving; draining: takes no new rooms
    since: float = 0.0  # when it was ordered
    load: float = 0.0  # units of demand on it
    protected: bool = False  # by the operator: never to be given back


@dataclasses.dataclass(frozen=True)
class View:
    """The cluster at one moment, and what was learned and announced about its demand."""

    at: float  # Unix seconds, the registry's clock
    demand: float  # units, rooms of draining nodes included
    capacity: float  # units that one node carries
    members: tuple[Member, ...] = ()
    outlook: Outlook | None = None
    waiting: float = 0.0  # units that ask for a place and have none: queued by the application
    heard: float | None = None  # units by webhooks and registry together (events.py); None where nothing was heard
    refused: int = 0  # joins and rooms refused for want of room since the last look
    pool_size: int | None = None  # machines the pool itself counts; None where it cannot be asked
    pool_error: str = ""  # why the pool did not answer
    frozen: str = ""  # why the registry cannot be trusted
    lead: float = 0.0  # seconds until a node ordered now serves

    def count(self, *states: str) -> int:
        return sum(m.state in states for m in self.members)

    def nodes(self, units: float) -> int:
        """Whole nodes that carry so many units."""
        return max(0, math.ceil(units / self.capacity - 1e-9))


class Wish(t.NamedTuple):
    """What a policy wants. size: nodes to have; keep: nodes not to go below, though none is ordered for it."""

    policy: str
    size: int
    reason: str
    keep: int = 0


class Policy(t.Protocol):
    """Policies are frozen dataclasses: what they need beyond their settings is in the view."""

    @property
    def name(self) -> str:
        """As in the configuration and in reasons."""

    def wish(self, view: View) -> Wish | None:
        """What it wants now, or None where it has nothing to say."""
