# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Events: rooms that webhooks tell of before the registry is read again.

Webhooks get lost, come twice and in any order, so they are never counted. A Ledger keeps one line per room, which an event can only bring
forward in the life of the room (started, then finished, then started anew), whatever the order of arrival; and each look at the registry replaces
everything that is older than it. So nothing can drift: a mistake lives until the next look.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import typing as t

from .base import View, Wish

SLACK = 2.0  # seconds an event's time may be older than a look that did not know of it yet: times of events are whole seconds
PATIENCE = 30.0  # seconds until a room that no look confirms is forgotten
STARTED, FINISHED = "room_started", "room_finished"


class _Line(t.NamedTuple):
    """What is known of a room by its events; the largest line is the latest. Times are Unix seconds."""

    created: float  # when this life of the room began
    finished: bool
    at: float  # of the event


class Ledger:
    """Which rooms live: the last look at the registry, and what events have told since."""

    def __init__(self) -> None:
        self.rooms: frozenset[str] = frozenset()
        self.taken_at = 0.0
        self._lines: dict[str, _Line] = {}

    def hear(self, event: str, room: str, created: float, at: float) -> bool:
        """Take an event (kind, room, when the room was created, when the event happened); False where it says nothing new."""
        if event not in (STARTED, FINISHED) or not room or at < self.taken_at - SLACK:
            return False
        line = _Line(created, event == FINISHED, at)
        known = self._lines.get(room)
        if known is not None and known[:2] >= line[:2]:
            return False
        self._lines[room] = line
        return True

    def look(self, rooms: t.Iterable[str], taken_at: float) -> None:
        """The registry's rooms at that moment: the truth. An older look than the last one is ignored."""
        if taken_at < self.taken_at:
            return
        self.rooms, self.taken_at = frozenset(rooms), taken_at
        # An event from just before the look may not be in it yet; such a line is kept a little, then the registry is right.
        self._lines = {room: line for room, line in self._lines.items() if line.at >= taken_at - SLACK and line.finished == (room in self.rooms)
                       and taken_at - line.at < PATIENCE}

    def live(self) -> set[str]:
        """Names of the rooms that live."""
        return (set(self.rooms) | {r for r, line in self._lines.items() if not line.finished}) - {r for r, line in self._lines.items() if line.finished}


@dataclasses.dataclass(frozen=True)
class Events:
    """Orders for demand that was heard of, with the same headroom beyond it as beyond measured demand."""

    name: str = "events"

    def wish(self, view: View) -> Wish | None:
        if view.heard is None or view.heard <= view.demand:
            return None
        free = view.outlook.margin if view.outlook else 0.0
        return Wish(self.name, view.nodes(view.heard + free), f"webhooks tell of {view.heard:.4g}, the registry of {view.demand:.4g}; {free:.4g} free")
