# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rooms that live on two nodes. Pure but for a little memory: looks go in, rooms that were split come out.

When Redis has hung, a node looks dead to LiveKit until it has refreshed its entry. Who joins one of its rooms in that moment has the room
placed anew (pkg/service/roomallocator.go: SelectRoomNode), while those who are in it stay where they are: one name, two rooms, and nobody
hears the others. Two who join a new room within a millisecond may do the same. Everybody who connects anew meets in the room that the registry names.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from .move_plan import Record
    from .registry import Snapshot

SETTLE = 3.0  # seconds left to whoever has just joined: an SDK that is cut while it publishes gives up publishing and stays silent
FORGET = 60.0  # seconds for which the old node may look dead; after that nobody is left on it


class Split(t.NamedTuple):
    """A room that LiveKit placed anew: the node that may still have callers of it, the node it is mapped to, and since when (Redis' clock)."""

    old: str
    new: str
    at: float


class Splits:
    """Remembers where rooms were."""

    def __init__(self) -> None:
        self.homes: t.Mapping[str, str] = {}
        self.open: dict[str, Split] = {}

    def look(self, snapshot: Snapshot, records: t.Mapping[str, Record]) -> dict[str, Split]:
        """Rooms whose callers have to connect anew, each told once. Those that were moved on purpose are in a record, which may have been read a moment
        before the registry, or their old node is gone."""
        now, moved = snapshot.taken_at, {room: m.to for record in records.values() for room, m in record.rooms.items()}
        for room, node in snapshot.room_node_map.items():
            before = self.homes.get(room, node)
            if before != node and moved.get(room) != node:
                self.open[room] = Split(before, node, now)
        self.homes = snapshot.room_node_map
        self.open = {room: s for room, s in self.open.items()
                     if self.homes.get(room) == s.new != moved.get(room) and s.old in snapshot.nodes and now - s.at < FORGET}
        ready = {room: s for room, s in self.open.items() if now - s.at >= SETTLE and snapshot.fresh(s.old) and snapshot.fresh(s.new)}
        self.open = {room: s for room, s in self.open.items() if room not in ready}
        return ready
