# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Claims: how several controllers and modules place one room on one node.

LiveKit creates a room where CreateRoom.node_id says, and two such calls at once with different nodes would open it twice. So whoever wants to
place a room claims it in the registry first: one script answers the node that has the room already, or the one that somebody else
claimed for it, or keeps ours. Everybody then calls CreateRoom with the same node, which is idempotent. A claim ends by itself; room_node_map
is the truth. Claims also tell the others what was placed and how large it will be, before any node reports it.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import json
import typing as t

from ..redis_connection import as_text
from .placer import CLAIM_SECONDS
from .policy import Wish

if t.TYPE_CHECKING:
    from ..registry import Registry

CLAIMS = "openrtc:placed"  # hash: room -> Claim as JSON
HABITS = "openrtc:habits"  # hash: kind of room -> what was learnt of it
FORGET = 900.0  # seconds after which a room has grown, and its claim is of no more use

# KEYS: room_node_map, claims. ARGV: room, claim, now, seconds a claim holds, a node that does not count as its home or '', nodes a claim may be of.
_CLAIM = """
local home = redis.call('HGET', KEYS[1], ARGV[1])
if home and home ~= ARGV[5] then return {'found', home} end
local held = redis.call('HGET', KEYS[2], ARGV[1])
if held then
  local claim = cjson.decode(held)
  if tonumber(ARGV[3]) - claim.at < tonumber(ARGV[4]) then
    for i = 6, #ARGV do
      if ARGV[i] == claim.node_id then return {'claimed', claim.node_id} end
    end
  end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return {'new', cjson.decode(ARGV[2]).node_id}
"""
# KEYS: claims. ARGV: room, node, by. Only the claim that was made for this node, by this one.
_RELEASE = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if not held then return 0 end
local claim = cjson.decode(held)
if claim.node_id ~= ARGV[2] or claim.by ~= ARGV[3] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""


class Claim(t.NamedTuple):
    """at: Redis' clock, Unix seconds. participants, video: as they were asked for, None where they were not."""

    node_id: str
    at: float
    by: str
    participants: float | None = None
    video: float | None = None
    labels: tuple[str, ...] = ()

    def wish(self, room: str) -> Wish:
        return Wish(room, self.participants, self.video, tuple(self.labels))


def claim(registry: Registry, wish: Wish, node_id: str, now: float, by: str, among: t.Collection[str], dead: str = "") -> tuple[str, str]:
    """(found, claimed or new; the node that the room is on or goes to). among: nodes whose claims hold; dead: a node that the room is mapped to."""
    mine = Claim(node_id, now, by, wish.participants, wish.video, wish.labels)
    kind, node = registry.evaluate("claim a room", _CLAIM, ["room_node_map", CLAIMS],
                                   [wish.room, json.dumps(mine._asdict(), separators=(",", ":")), now, CLAIM_SECONDS, dead, *sorted(among)])
    return as_text(kind), as_text(node)


def release(registry: Registry, room: str, node_id: str, by: str) -> bool:
    """The room did not get there; somebody else may try."""
    return bool(registry.evaluate("release the claim of a room", _RELEASE, [CLAIMS], [room, node_id, by]))


def claims(registry: Registry) -> dict[str, Claim]:
    """All claims; such that cannot be read are left out."""
    (found,) = registry.ask("read the claims of rooms", ("HGETALL", CLAIMS))
    out = {}
    for room, raw in found.items():
        try:
            values = json.loads(as_text(raw))
            out[as_text(room)] = Claim(**{k: v for k, v in values.items() if k in Claim._fields})
        except (TypeError, ValueError, AttributeError):
            continue
    return out


def outdated(held: t.Mapping[str, Claim], rooms: t.Container[str], now: float) -> list[str]:
    """Claims that are of no more use: the room has grown, has ended, or never came."""
    return [room for room, c in held.items() if now - c.at > FORGET or now - c.at > 2 * CLAIM_SECONDS and room not in rooms]


def forget(registry: Registry, rooms: t.Sequence[str]) -> None:
    if rooms:
        registry.ask("forget claims of rooms", ("HDEL", CLAIMS, *rooms))
