# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry: what a LiveKit cluster says about itself in Redis.

connect() takes LiveKit's own `redis` section, Registry.snapshot() reads the whole state in one round trip, and
Snapshot answers questions about it without any further I/O. Everything here only reads; move_store.py writes.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import time
import typing as t

from .errors import FleetError
from .redis_connection import RedisConnection, as_text
from .registry_messages import UNREADABLE, Node, Participant, Room, messages


@dataclasses.dataclass(frozen=True)
class Ghosts:
    """What dead nodes leave behind; LiveKit never clears any of it by itself. Truthy if there is anything."""

    nodes: tuple[str, ...] = ()  # entries of `nodes` that nobody refreshes
    rooms: t.Mapping[str, str] = dataclasses.field(default_factory=dict)  # {room: node} of `room_node_map` with such a node or a missing one
    missing: tuple[str, ...] = ()  # nodes that rooms point at though `nodes` does not know them
    unmapped: tuple[str, ...] = ()  # entries of `rooms` that no node hosts

    def __bool__(self) -> bool:
        return bool(self.nodes or self.rooms or self.missing or self.unmapped)

    def as_dict(self) -> dict[str, t.Any]:
        return {"nodes": list(self.nodes), "rooms": dict(self.rooms), "missing": list(self.missing), "unmapped": list(self.unmapped)}


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The registry at one moment of Redis' clock. Every question is answered from here; nothing is read again."""

    taken_at: float  # Unix seconds, Redis' clock
    clock_offset: float  # this machine's clock minus Redis' clock, seconds
    nodes: t.Mapping[str, Node]
    room_node_map: t.Mapping[str, str]
    rooms: frozenset[str]
    highest_version: str = ""  # highest livekit-server version that ever started here, not what runs

    def node_of(self, room: str) -> Node | None:
        return self.nodes.get(self.room_node_map.get(room, ""))

    def rooms_of(self, node_id: str) -> list[str]:
        """Rooms mapped to the node, sorted."""
        return sorted(room for room, node in self.room_node_map.items() if node == node_id)

    def rooms_by_node(self) -> dict[str, list[str]]:
        """{node id: its rooms, sorted}, missing nodes included; one pass for callers that need all."""
        found: dict[str, list[str]] = {}
        for room, node in sorted(self.room_node_map.items()):
            found.setdefault(node, []).append(room)
        return found

    def fresh(self, node_id: str) -> bool:
        node = self.nodes.get(node_id)
        return node is not None and node.fresh(self.taken_at)

    def serving(self) -> list[Node]:
        """Nodes that LiveKit would place a room on: fresh and SERVING, by id."""
        return [n for _id, n in sorted(self.nodes.items()) if n.serving and n.fresh(self.taken_at)]

    @property
    def all_stale(self) -> bool:
        """There are nodes and none is fresh: a sign that Redis stalled, not that every node died."""
        return bool(self.nodes) and not any(n.fresh(self.taken_at) for n in self.nodes.values())

    def ghosts(self) -> Ghosts:
        return Ghosts(
            nodes=tuple(i for i, n in sorted(self.nodes.items()) if not n.fresh(self.taken_at)),
            rooms={r: n for r, n in sorted(self.room_node_map.items()) if not self.fresh(n)},
            missing=tuple(sorted({n for n in self.room_node_map.values() if n not in self.nodes})),
            unmapped=tuple(sorted(r for r in self.rooms if r not in self.room_node_map)),
        )


class Registry(RedisConnection):
    """A connection to a cluster's registry."""

    def __init__(self, config: t.Mapping[str, t.Any], timeout: float = 3.0) -> None:
        super().__init__(config, timeout)
        messages()

    def snapshot(self) -> Snapshot:
        """The whole cluster state, one round trip."""
        started = time.time()
        now, nodes, room_node_map, rooms, version, _role = self.ask(
            "read the registry", ("TIME",), ("HGETALL", "nodes"), ("HGETALL", "room_node_map"), ("HKEYS", "rooms"), ("GET", "livekit_version"), ("ROLE",),
        )
        middle = (started + time.time()) / 2
        taken_at = now[0] + now[1] / 1e6
        return Snapshot(
            taken_at=taken_at,
            clock_offset=middle - taken_at,
            nodes={as_text(key): self._parse(Node, raw, f"nodes[{as_text(key)}]") for key, raw in nodes.items()},
            room_node_map={as_text(room): as_text(node) for room, node in room_node_map.items()},
            rooms=frozenset(map(as_text, rooms)),
            highest_version=as_text(version or b""),
        )

    def nodes(self) -> list[Node]:
        """Only the nodes, in no order, for who asks often."""
        (found,) = self.ask("read the nodes", ("HGETALL", "nodes"))
        return [self._parse(Node, raw, f"nodes[{as_text(key)}]") for key, raw in found.items()]

    def room_details(self, names: t.Iterable[str] | None = None) -> dict[str, Room]:
        """{room: details} of the named rooms that exist, or of all."""
        if names is None:
            (found,) = self.ask("read the rooms", ("HGETALL", "rooms"))
            pairs = [(as_text(name), raw) for name, raw in found.items()]
        else:
            wanted = list(names)
            if not wanted:
                return {}
            (values,) = self.ask("read the rooms", ("HMGET", "rooms", *wanted))
            pairs = [(name, raw) for name, raw in zip(wanted, values) if raw is not None]
        return {name: self._parse(Room, raw, f"rooms[{name}]") for name, raw in pairs}

    def participants(self, room: str) -> list[Participant]:
        """Who is in the room, by identity. Left-overs of a crashed node are told apart by Snapshot.ghosts()."""
        return self.participants_of([room])[room]

    def participants_of(self, rooms: t.Iterable[str]) -> dict[str, list[Participant]]:
        """{room: its participants, by identity}, one round trip for all."""
        wanted = list(rooms)
        if not wanted:
            return {}
        answers = self.ask("read the participants", *[("HGETALL", f"room_participants:{room}") for room in wanted])
        return {
            room: sorted((self._parse(Participant, raw, f"room_participants:{room}") for raw in found.values()), key=lambda p: p.identity)
            for room, found in zip(wanted, answers)
        }

    def sizes(self, rooms: t.Iterable[str]) -> dict[str, int]:
        """{room: number of participants}, one round trip."""
        wanted = list(rooms)
        answers = self.ask("count the participants", *[("HLEN", f"room_participants:{room}") for room in wanted]) if wanted else []
        return dict(zip(wanted, map(int, answers)))

    def _parse(self, cls: t.Any, raw: bytes, what: str) -> t.Any:
        try:
            return cls.parse(raw)
        except UNREADABLE as exc:
            raise FleetError("read the registry", f"{what} on {self._where()}", exc,
                             "This Redis database holds something else than LiveKit's state: give LiveKit a Redis of its own",
                             code="registry_unreadable") from exc


def connect(config: t.Mapping[str, t.Any], timeout: float = 3.0) -> Registry:
    """A registry that answered, from LiveKit's own `redis` section. Raises FleetError with one of these codes:

    redis_unreachable, redis_auth, redis_acl, redis_replica, redis_tls, redis_config, redis_cluster, sentinel_no_master,
    redis_error, missing_library.
    """
    return Registry(config, timeout).open()
