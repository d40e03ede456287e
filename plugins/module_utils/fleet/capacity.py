# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node carries and what a room weighs, from what the registry tells. Pure.

A load is a share of its node: 0 is idle, 1 is as full as it may get. It is the largest of what the node's tracks, bytes, packets, participants and
CPU come to against their limits, which a profile holds per machine type. `load_test` learns a profile; the one shipped here is a careful
guess and says so. Only where a node tells nothing but its number of rooms is a load rooms / rooms_per_node.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import json
import math
import typing as t

from .errors import FleetError

if t.TYPE_CHECKING:
    from .registry import Snapshot
    from .registry_messages import Node, Room

DEFAULT = "default"


@dataclasses.dataclass(frozen=True)
class Profile:
    """Limits of a machine type. Those per CPU grow with the machine; 0 means that this is no limit."""

    name: str = DEFAULT
    tracks_per_cpu: float = 400.0  # in and out together: LiveKit's own sample configuration has this figure
    packets_per_cpu: float = 25_000.0  # per second, in and out
    participants_per_cpu: float = 150.0
    bytes_per_second: float = 100_000_000.0  # in and out, of the machine's network: most of a gigabit, each way half
    cpu: float = 0.75  # share of the machine that may be busy
    rooms_per_node: float = 20.0  # where nothing but rooms is known
    tracks_per_publisher: float = 2.0  # what a participant who publishes is expected to send
    ramp: float = 300.0  # seconds until a room has its people
    typical: float = 0.0  # participants of a room that is older than that; 0: what the registry shows now
    learned: bool = False  # by load_test on such a machine; else a guess
    source: str = "shipped with the collection: a guess, run load_test to learn your own"

    @classmethod
    def of(cls, values: t.Mapping[str, t.Any], where: str = "the capacity profile") -> Profile:
        """From a mapping. Raises FleetError profile_invalid."""
        known = {f.name: f for f in dataclasses.fields(cls)}
        wrong = [f"{key} is unknown" for key in values if key not in known]
        for key, value in values.items():
            if key in known and known[key].type == "float" and not (_number(value) and value >= 0):
                wrong.append(f"{key} is {value!r}, not a number of 0 or more")
        profile = None if wrong else cls(**values)
        if profile and not (profile.rooms_per_node > 0 and 0 < profile.cpu <= 1):
            wrong.append("rooms_per_node must be above 0, cpu above 0 and at most 1")
        if wrong or profile is None:
            raise FleetError("read the capacity profile", where, "; ".join(wrong), f"Known are {', '.join(known)}; load_test writes such a file",
                             code="profile_invalid")
        return profile


def _number(value: t.Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def load(path: str) -> dict[str, Profile]:
    """{machine type: profile} of a saved file, the shipped one under "default" unless the file has one. Raises FleetError profile_invalid."""
    try:
        with open(path, encoding="utf-8") as handle:
            content = json.load(handle)
        if not isinstance(content, dict) or not all(isinstance(values, dict) for values in content.values()):
            raise ValueError("expected {machine type: {limit: number}}")
    except (OSError, ValueError) as exc:
        raise FleetError("read the capacity profile", path, exc, "Run load_test, which writes it, or leave the path empty for the shipped guess",
                         code="profile_invalid") from exc
    return {DEFAULT: Profile(), **{name: Profile.of({"name": name, **values}, f"{path}, {name}") for name, values in content.items()}}


def save(profiles: t.Mapping[str, Profile]) -> str:
    """The content of such a file."""
    return json.dumps({name: dataclasses.asdict(profile) for name, profile in sorted(profiles.items())}, indent=1) + "\n"


class Load(t.NamedTuple):
    """share: 0 idle, 1 full; by: the resource that is fullest."""

    share: float
    by: str


def node_load(node: Node, profile: Profile = Profile(), participants: int | None = None) -> Load:
    """How full the node is. participants: those of its rooms, where they are known: the node's own count includes callers whose signalling only passes
    through it. Raises FleetError stats_invalid for figures that cannot be (NaN, negative)."""
    cpus = max(1, node.num_cpus)
    used = {
        "tracks": (node.num_tracks_in + node.num_tracks_out, profile.tracks_per_cpu * cpus),
        "packets": (node.packets_in_rate + node.packets_out_rate, profile.packets_per_cpu * cpus),
        "bytes": (node.bytes_in_rate + node.bytes_out_rate, profile.bytes_per_second),
        "participants": (node.num_clients if participants is None else participants, profile.participants_per_cpu * cpus),
        "cpu": (node.cpu_load, profile.cpu),
    }
    wrong = [f"{name} {value}" for name, (value, _limit) in {**used, "rooms": (node.num_rooms, 0)}.items() if not math.isfinite(value) or value < 0]
    if wrong:
        raise FleetError("measure the node's load", node.id, ", ".join(wrong), "Such statistics are not used; look at that node's log", code="stats_invalid",
                         node_id=node.id)
    shares = {name: value / limit for name, (value, limit) in used.items() if limit}
    if not any(value for value, _limit in used.values()):
        return Load(node.num_rooms / profile.rooms_per_node, "rooms")
    best = max(shares, key=lambda name: shares[name], default="cpu")
    return Load(shares.get(best, 0.0), best)


def headroom(node: Node, profile: Profile = Profile()) -> float:
    """Share of the node that is still free; below 0 when it is overloaded."""
    return 1.0 - node_load(node, profile).share


def expected_size(participants: int, age: float, profile: Profile = Profile(), typical: float = 0.0) -> float:
    """Participants a room will soon have. A new room is expected to become a typical one; the older it gets, the more its own size counts."""
    typical = profile.typical or typical
    known = min(1.0, max(0.0, age) / profile.ramp) if profile.ramp else 1.0
    return max(float(participants), known * participants + (1.0 - known) * typical)


def room_tracks(participants: float, publishers: float, profile: Profile = Profile()) -> float:
    """Tracks, in and out, that a room of that size makes: everybody receives what everybody else sends."""
    published = publishers * profile.tracks_per_publisher
    return published + published * max(0.0, participants - (1.0 if publishers else 0.0))


def room_load(room: Room, cpus: int, now: float, profile: Profile = Profile(), typical: float = 0.0) -> float:
    """Share of a node with so many CPUs that the room takes, or soon will. By its size alone: the registry has no traffic per room."""
    size = expected_size(room.num_participants, now - room.created_at, profile, typical)
    share = room.num_publishers / room.num_participants if room.num_participants else 1.0
    publishers = max(float(room.num_publishers), min(size, share * size))
    cpus = max(1, cpus)
    shares = [1.0 / profile.rooms_per_node] if not room.num_participants and not (profile.typical or typical) else []
    if profile.tracks_per_cpu:
        shares.append(room_tracks(size, publishers, profile) / (profile.tracks_per_cpu * cpus))
    if profile.participants_per_cpu:
        shares.append(size / (profile.participants_per_cpu * cpus))
    return max(shares, default=1.0 / profile.rooms_per_node)


def room_loads(node: Node, rooms: t.Iterable[Room], now: float, profile: Profile = Profile(), typical: float = 0.0) -> dict[str, float]:
    """{room: share of its node}. What the node measures is laid on its rooms by their size now; what they are expected to grow comes on top."""
    rooms = list(rooms)
    still = {r.name: room_load(dataclasses.replace(r, created_at=0), node.num_cpus, now, profile) for r in rooms}
    grown = {r.name: room_load(r, node.num_cpus, now, profile, typical) for r in rooms}
    total, measured = sum(still.values()), node_load(node, profile, sum(r.num_participants for r in rooms) if rooms else None).share
    scale = measured / total if total else 0.0
    return {name: still[name] * scale + max(0.0, grown[name] - still[name]) for name in still}


class Demand(t.NamedTuple):
    """units: nodes of the reference type that the load of all nodes would fill; growth: how much of it is expected growth of young rooms."""

    units: float
    growth: float
    by: t.Mapping[str, Load]  # {node id: its load}
    grows: t.Mapping[str, float]  # {node id: share that its young rooms will take besides}


def demand(snapshot: Snapshot, rooms: t.Mapping[str, Room], profiles: t.Mapping[str, Profile], kinds: t.Mapping[str, str] | None = None,
           reference: str = DEFAULT, reference_cpus: int = 0) -> Demand:
    """The demand of a cluster. rooms: {name: details}; kinds: {node id: its machine type}; reference: the type that a pool adds, with so many CPUs.

    Nodes that drain count: their rooms have to be carried until they end. Stale nodes do not: their rooms are for crash recovery.
    """
    fresh = {i: n for i, n in snapshot.nodes.items() if n.fresh(snapshot.taken_at)}
    names = snapshot.rooms_by_node()
    old = [r.num_participants for r in rooms.values() if snapshot.taken_at - r.created_at > profiles[reference].ramp]
    typical = sum(old) / len(old) if old else 0.0
    by, grows, units, growth = {}, {}, 0.0, 0.0
    for node_id, node in sorted(fresh.items()):
        profile = profiles.get((kinds or {}).get(node_id, DEFAULT), profiles[DEFAULT])
        here = [rooms[name] for name in names.get(node_id, ()) if name in rooms]
        known = bool(here) and len(here) == len(names[node_id])
        by[node_id] = node_load(node, profile, sum(r.num_participants for r in here) if known else None)
        found = room_loads(node, here, snapshot.taken_at, profile, typical)
        more = max(0.0, sum(found.values()) - by[node_id].share) if found else 0.0
        grows[node_id] = more
        size = max(1, node.num_cpus) / (reference_cpus or max(1, node.num_cpus))
        units += (by[node_id].share + more) * size
        growth += more * size
    return Demand(units, growth, by, grows)
