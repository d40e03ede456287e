# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ghosts: what dead nodes leave in the registry. plan() decides (pure), apply() removes, and only what is still as it was.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import typing as t

from .errors import FleetError
from .move_plan import frozen
from .move_store import HELD, under_lock
from .redis_connection import as_text

if t.TYPE_CHECKING:
    from .lock import Lock
    from .registry import Registry, Snapshot
    from .registry_messages import Room
    from .reports import Reports

GHOST_SECONDS = 60.0

# KEYS: lock. ARGV: token, room, node it was mapped to ('' for none), 1 if that node lives. Removes the room unless somebody has taken it meanwhile.
_REMOVE_ROOM = HELD + """
local node = redis.call('HGET', 'room_node_map', ARGV[2])
if (node or '') ~= ARGV[3] then return 0 end
if ARGV[4] == '1' and redis.call('EXISTS', 'room_participants:' .. ARGV[2]) == 1 then return 0 end
redis.call('HDEL', 'room_node_map', ARGV[2])
redis.call('HDEL', 'rooms', ARGV[2])
redis.call('HDEL', 'room_internal', ARGV[2])
redis.call('DEL', 'room_participants:' .. ARGV[2], 'agent_dispatch:' .. ARGV[2], 'agent_job:' .. ARGV[2])
return 1
"""
_REMOVE_NODE = HELD + """
return redis.call('HDEL', 'nodes', ARGV[2])
"""


@dataclasses.dataclass(frozen=True)
class Cleanup:
    """What to remove, each with its reason. Truthy if there is anything."""

    nodes: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    rooms: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    homes: t.Mapping[str, str] = dataclasses.field(default_factory=dict)  # {room: the node it was mapped to, or ""}
    lasting: t.Mapping[str, float] = dataclasses.field(default_factory=dict)  # {room: seconds it has to be seen like this, where that is not `after`}

    def __bool__(self) -> bool:
        return bool(self.nodes or self.rooms)

    def as_dict(self) -> dict[str, t.Any]:
        return {"nodes": dict(self.nodes), "rooms": dict(self.rooms)}


def plan(snapshot: Snapshot, reports: Reports, probes: t.Mapping[str, str], details: t.Mapping[str, Room] | None = None,
         after: float = GHOST_SECONDS, empty: t.Collection[str] = ()) -> Cleanup:
    """What is a ghost for sure. A node: silent for `after` seconds, run by no host (one that is silent itself for as long does not count), port
    not answering. A room: mapped to such a node or to one that neither registry nor hosts know; or mapped nowhere. Of a room that is younger
    than `after` nothing is sure. Raises FleetError frozen.

    empty: rooms without participants. One that moved and that nobody came back to is on a living node, which has never opened it and so never closes
    it. It is a ghost when it stays empty for longer than a node would have kept it open, which only somebody who goes on watching can tell (`lasting`)."""
    why = frozen(snapshot)
    if why:
        raise FleetError("look for ghosts", "the registry", why, "Nothing is removed on data that cannot be trusted", code="frozen")
    now, details = snapshot.taken_at, details or {}
    nodes = {n.id: f"silent for {n.age(now):.0f} s" for n in snapshot.nodes.values()
             if n.age(now) > after and not _run(n.id, reports, probes, now, after) and not probes.get(n.id, "").isdigit()}
    gone = {n for n in snapshot.room_node_map.values() if n in nodes or n not in snapshot.nodes and not _run(n, reports, probes, now, after)}
    rooms = {room: f"on node {node}, which is gone" for room, node in snapshot.room_node_map.items() if node in gone and _old(room, details, now, after)}
    loose = {room: "no node hosts it" for room in snapshot.rooms if room not in snapshot.room_node_map and room in details and _old(room, details, now, after)}
    left = {room: f"empty, and node {snapshot.room_node_map[room]} should have closed it" for room in empty
            if room in details and snapshot.fresh(snapshot.room_node_map.get(room, "")) and _old(room, details, now, after + details[room].empty_timeout)}
    found = {**rooms, **loose, **left}
    return Cleanup(nodes, found, {room: snapshot.room_node_map.get(room, "") for room in found},
                   {room: after + details[room].departure_timeout for room in left})


def _run(node_id: str, reports: Reports, probes: t.Mapping[str, str], now: float, after: float) -> bool:
    """Whether a host runs the node, or may run it."""
    place = reports.place_of(node_id)
    if place is None or place.slot.free:
        return False
    return now - place.report.at <= after or node_id not in probes


def _old(room: str, details: t.Mapping[str, Room], now: float, after: float) -> bool:
    """A room without details has nothing but its mapping; one that was opened ahead may wait for its first participant as long as its empty timeout."""
    return room not in details or now - details[room].created_at > max(after, details[room].empty_timeout)


def apply(registry: Registry, lock: Lock, found: Cleanup) -> Cleanup:
    """Remove it under the lock; what was really removed."""
    rooms, nodes = {}, {}
    alive = registry.snapshot()  # a node may have come back since
    for room, why in found.rooms.items():
        lives = alive.fresh(found.homes[room])
        if lives == (room in found.lasting) and _locked(registry, lock, _REMOVE_ROOM, [lock.token, room, found.homes[room], int(lives)]):
            rooms[room] = why
    for node, why in found.nodes.items():
        if not alive.fresh(node) and _locked(registry, lock, _REMOVE_NODE, [lock.token, node]):
            nodes[node] = why
    return Cleanup(nodes, rooms)


def _locked(registry: Registry, lock: Lock, script: str, args: list[t.Any]) -> int:
    return int(as_text(under_lock(registry, lock, "remove a ghost", script, [lock.key], args)))
