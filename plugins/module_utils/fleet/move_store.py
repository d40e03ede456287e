# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a move keeps and changes in the registry: its record, the rooms' node, the entries a late close may erase.

Each change is one script, so that it happens whole or not at all, and only under the lock it was decided under.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import json
import typing as t

from .errors import FleetError
from .move_plan import Moved, Record
from .redis_connection import as_text
from .registry_messages import room_patch

if t.TYPE_CHECKING:
    from .lock import Lock
    from .registry import Registry

MOVES = "openrtc:moves"  # hash: record id -> Record as JSON
SAVED = "openrtc:saved:"  # + record id; hash: "rooms|ROOM", "room_internal|ROOM" -> the entry as it was
DEAD = "openrtc:dead"  # hash: node id -> JSON {at, by}; executors kill such a node when they see it again
_KEEP = 3600  # seconds saved entries stay

# KEYS[1]: lock. ARGV[1]: token.
HELD = """
local held = redis.call('GET', KEYS[1])
if not held or cjson.decode(held).token ~= tonumber(ARGV[1]) then return redis.error_reply('LOCKLOST the lock went to somebody else') end
"""
# KEYS: lock, saved. ARGV: token, record id, record, then room, from, to, and what to add to its entry, each. Answers the rooms that were
# still where they were thought to be. Protobuf takes the last of a field's values, so adding one to an entry replaces it.
_REMAP = HELD + """
local moved = {}
for i = 4, #ARGV, 4 do
  local room, from, to, more = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if redis.call('HGET', 'room_node_map', room) == from then
    redis.call('HSET', 'room_node_map', room, to)
    for _, hash in ipairs({'rooms', 'room_internal'}) do
      local raw = redis.call('HGET', hash, room)
      if raw then
        if hash == 'rooms' and more ~= '' then raw = raw .. more; redis.call('HSET', hash, room, raw) end
        redis.call('HSET', KEYS[2], hash .. '|' .. room, raw)
      end
    end
    moved[#moved + 1] = room
  end
end
redis.call('HSET', 'openrtc:moves', ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[2], %d)
return moved
""" % _KEEP
# KEYS: saved. ARGV: record id, rooms. Puts back what a late close has erased, where somebody has been since the move; answers these rooms.
# LiveKit erases the two hashes at the same time and in any order, so either may be missing. It goes by the record as it is now.
_RESTORE = """
local erased = {}
for i = 2, #ARGV do
  if redis.call('HEXISTS', 'room_node_map', ARGV[i]) * redis.call('HEXISTS', 'rooms', ARGV[i]) == 0 then erased[#erased + 1] = ARGV[i] end
end
local record = #erased > 0 and redis.call('HGET', 'openrtc:moves', ARGV[1])
if not record then return {} end
local restored, rooms = {}, cjson.decode(record).rooms
for _, room in ipairs(erased) do
  local raw, moved = redis.call('HGET', KEYS[1], 'rooms|' .. room), rooms[room]
  if raw and moved and moved.seen then
    redis.call('HSETNX', 'room_node_map', room, moved.to)
    if redis.call('HGET', 'room_node_map', room) == moved.to then
      redis.call('HSETNX', 'rooms', room, raw)
      local internal = redis.call('HGET', KEYS[1], 'room_internal|' .. room)
      if internal then redis.call('HSETNX', 'room_internal', room, internal) end
      restored[#restored + 1] = room
    end
  end
end
return restored
"""
# KEYS: lock. ARGV: token, record id, record.
_SAVE = HELD + """
return redis.call('HSET', 'openrtc:moves', ARGV[2], ARGV[3])
"""
# ARGV: room, identity, sid each. Removes participants who still have that session; answers how many.
_FORGET = """
local gone = 0
for i = 1, #ARGV, 3 do
  local key = 'room_participants:' .. ARGV[i]
  local raw = redis.call('HGET', key, ARGV[i + 1])
  if raw and string.find(raw, ARGV[i + 2], 1, true) then gone = gone + redis.call('HDEL', key, ARGV[i + 1]) end
end
return gone
"""
# KEYS: lock. ARGV: token, node id, tombstone or ''. A dead node's entry stays for ever otherwise.
_PURGE = HELD + """
if ARGV[3] ~= '' then redis.call('HSET', 'openrtc:dead', ARGV[2], ARGV[3]); redis.call('EXPIRE', 'openrtc:dead', 604800) end
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
        self._locked("keep the record of a move", _SAVE, [self.lock.key], [self.lock.token, record.id, record.as_json()])

    def remap(self, record: Record, rooms: t.Mapping[str, Moved]) -> Record:
        """Point the rooms at their new nodes. The record with those that were still where they should be."""
        after = record.with_rooms(rooms)
        flat = [word for room, m in rooms.items() for word in (room, m.frm, m.to, room_patch(m.empty_timeout))]
        moved = set(map(as_text, self._locked("move rooms in the registry", _REMAP, [self.lock.key, SAVED + record.id],
                                              [self.lock.token, record.id, after.as_json(), *flat])))
        if len(moved) < len(rooms):  # ended, or placed anew by somebody else meanwhile
            after = record.with_rooms({room: m for room, m in rooms.items() if room in moved})
            self.save(after)
        self._follow(record.id, {room: rooms[room].to for room in moved})
        return after

    def _follow(self, number: str, homes: t.Mapping[str, str]) -> None:
        """Rooms that moved on while an earlier move still guards them: that one must not put them back where they were."""
        for other in self.records().values():
            again = {room: dataclasses.replace(m, to=homes[room]) for room, m in other.rooms.items() if room in homes}
            if again and other.id != number:
                self.save(other.with_rooms(again))

    def restore(self, record: Record, rooms: t.Iterable[str]) -> list[str]:
        """Put the entries of these rooms of the record back where they were erased; the rooms that needed it."""
        named = [room for room in rooms if room in record.rooms]
        if not named:
            return []
        return [as_text(r) for r in self.registry.evaluate("restore rooms", _RESTORE, [SAVED + record.id], [record.id, *named])]

    def purge(self, node_id: str, tombstone: t.Mapping[str, t.Any] | None = None) -> bool:
        """Take the node's entry out of the registry; with a tombstone its host kills it should it come back."""
        stone = json.dumps(tombstone) if tombstone else ""
        return bool(self._locked("remove a dead node", _PURGE, [self.lock.key], [self.lock.token, node_id, stone]))

    def forget_absent(self, record: Record) -> int:
        """Remove participants of the record's rooms who never came back: their entries still carry the old session."""
        now = self.registry.participants_of(record.rooms)
        gone = [word for room, people in now.items() for p in people if record.rooms[room].sids.get(p.identity) == p.sid for word in (room, p.identity, p.sid)]
        return int(self.registry.evaluate("remove participants who did not come back", _FORGET, [], gone)) if gone else 0

    def close(self, record: Record) -> None:
        self.registry.ask("close the record of a move", ("HDEL", MOVES, record.id), ("DEL", SAVED + record.id))

    def _locked(self, tried: str, script: str, keys: list[str], args: list[t.Any]) -> t.Any:
        return under_lock(self.registry, self.lock, tried, script, keys, args)


def under_lock(registry: Registry, lock: Lock, tried: str, script: str, keys: list[str], args: list[t.Any]) -> t.Any:
    """The answer of a script that begins with HELD. Raises FleetError lock_lost."""
    try:
        return registry.evaluate(tried, script, keys, args)
    except FleetError as exc:
        if "LOCKLOST" not in exc.failure["got"]:
            raise
        raise FleetError(tried, lock.name, "the lock went to somebody else", "Run again: the next run goes on from where this one stopped",
                         code="lock_lost") from exc
