# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a move keeps and changes in the registry: its record, the rooms' node, the entries a late close may erase.

Each change is one script, so that it happens whole or not at all, and only under the lock it was decided under.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import json
import typing as t

from .errors import FleetError
from .move_plan import Moved, Record
from .redis_connection import as_text

if t.TYPE_CHECKING:
    from .lock import Lock
    from .registry import Registry

MOVES = "openrtc:moves"  # hash: record id -> Record as JSON
SAVED = "openrtc:saved:"  # + record id; hash: "rooms|ROOM", "room_internal|ROOM" -> the entry as it was
DEAD = "openrtc:dead"  # hash: node id -> JSON {at, by}; executors kill such a node when they see it again
_KEEP = 3600  # seconds saved entries stay

_HELD = """
local held = redis.call('GET', KEYS[1])
if not held or cjson.decode(held).token ~= tonumber(ARGV[1]) then return redis.error_reply('LOCKLOST the lock went to somebody else') end
"""
# KEYS: lock, saved. ARGV: token, record id, record, then room, from, to each. Answers the rooms that were still where they were thought to be.
_REMAP = _HELD + """
local moved = {}
for i = 4, #ARGV, 3 do
  local room, from, to = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if redis.call('HGET', 'room_node_map', room) == from then
    redis.call('HSET', 'room_node_map', room, to)
    for _, hash in ipairs({'rooms', 'room_internal'}) do
      local raw = redis.call('HGET', hash, room)
      if raw then redis.call('HSET', KEYS[2], hash .. '|' .. room, raw) end
    end
    moved[#moved + 1] = room
  end
end
redis.call('HSET', 'openrtc:moves', ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[2], %d)
return moved
""" % _KEEP
# KEYS: saved. ARGV: room, to each. Puts back what a late close has erased; answers these rooms.
_RESTORE = """
local restored = {}
for i = 1, #ARGV, 2 do
  local room = ARGV[i]
  local raw = redis.call('HGET', KEYS[1], 'rooms|' .. room)
  if raw and redis.call('HEXISTS', 'room_node_map', room) == 0 then
    redis.call('HSET', 'room_node_map', room, ARGV[i + 1])
    redis.call('HSETNX', 'rooms', room, raw)
    local internal = redis.call('HGET', KEYS[1], 'room_internal|' .. room)
    if internal then redis.call('HSETNX', 'room_internal', room, internal) end
    restored[#restored + 1] = room
  end
end
return restored
"""
# KEYS: lock. ARGV: token, node id, tombstone or ''. A dead node's entry stays for ever otherwise.
_PURGE = _HELD + """
if ARGV[3] ~= '' then redis.call('HSET', 'openrtc:dead', ARGV[2], ARGV[3]) end
return redis.call('HDEL', 'nodes', ARGV[2])
"""


class MoveStore:
    """Records and scripts, under a lock."""

    def __init__(self, registry: Registry, lock: Lock) -> None:
        self.registry, self.lock = registry, lock

    def records(self) -> dict[str, Record]:
        (found,) = self.registry.ask("read the moves in progress", ("HGETALL", MOVES))
        return {as_text(key): Record.parse(as_text(raw)) for key, raw in found.items()}

    def save(self, record: Record) -> None:
        self.registry.ask("keep the record of a move", ("HSET", MOVES, record.id, record.as_json()))

    def remap(self, record: Record, rooms: t.Mapping[str, Moved]) -> Record:
        """Point the rooms at their new nodes. The record with those that were still where they should be."""
        after = record.with_rooms(rooms)
        flat = [word for room, m in rooms.items() for word in (room, m.frm, m.to)]
        moved = set(map(as_text, self._locked("move rooms in the registry", _REMAP, [self.lock.key, SAVED + record.id],
                                              [self.lock.token, record.id, after.as_json(), *flat])))
        if len(moved) < len(rooms):  # ended, or placed anew by somebody else meanwhile
            after = record.with_rooms({room: m for room, m in rooms.items() if room in moved})
            self.save(after)
        return after

    def restore(self, record: Record, rooms: t.Iterable[str]) -> list[str]:
        """Put the entries of these rooms of the record back where they were erased; the rooms that needed it."""
        flat = [word for room in rooms if room in record.rooms for word in (room, record.rooms[room].to)]
        if not flat:
            return []
        return [as_text(r) for r in self.registry.evaluate("restore rooms", _RESTORE, [SAVED + record.id], flat)]

    def purge(self, node_id: str, tombstone: t.Mapping[str, t.Any] | None = None) -> bool:
        """Take the node's entry out of the registry; with a tombstone its host kills it should it come back."""
        stone = json.dumps(tombstone) if tombstone else ""
        return bool(self._locked("remove a dead node", _PURGE, [self.lock.key], [self.lock.token, node_id, stone]))

    def forget_absent(self, record: Record) -> int:
        """Remove participants of the record's rooms who never came back: their entries still carry the old session."""
        now = self.registry.participants_of(record.rooms)
        gone = [("HDEL", f"room_participants:{room}", p.identity) for room, people in now.items() for p in people
                if record.rooms[room].sids.get(p.identity) == p.sid]
        if gone:
            self.registry.ask("remove participants who did not come back", *gone)
        return len(gone)

    def close(self, record: Record) -> None:
        self.registry.ask("close the record of a move", ("HDEL", MOVES, record.id), ("DEL", SAVED + record.id))

    def _locked(self, tried: str, script: str, keys: list[str], args: list[t.Any]) -> t.Any:
        try:
            return self.registry.evaluate(tried, script, keys, args)
        except FleetError as exc:
            if "LOCKLOST" not in exc.failure["got"]:
                raise
            raise FleetError(tried, self.lock.name, "the lock went to somebody else", "Run again: the next run goes on from where this one stopped",
                             code="lock_lost") from exc
