# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a live move is to do next. Pure: one look at the cluster goes in, one step with its reason comes out.

    serving -> draining -> moving (wave by wave: remap, cut) -> fenced -> gone

The state is what is seen, plus a record in the registry of the rooms that were moved. So a move that was killed between any
two steps is finished by whoever looks next, with the same code.

Why the fence: a draining node that is left alone ends about 22 s after its last participant has left and then erases its rooms
from the registry, although another node hosts them by now (pkg/service/roommanager.go: CloseIfEmpty, DeleteRoom).

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import json
import typing as t

from .errors import FleetError
from .placement import Limits, Receiver, receivers, spread

if t.TYPE_CHECKING:
    from .registry import Snapshot
    from .registry_messages import Participant, Room
    from .reports import Place, Reports

FENCE_AFTER = 10.0  # seconds after the last cut: who is not back by then will not come
# A caller who reconnects needs a dozen answers of Redis, one after the other. Slower than this (seconds), and a move is better put off.
SLOW = 0.1
WAVE_SECONDS = 2.0  # a wave whose callers are not back after this time does not hold up the next one
WAVE_PER_CPU = 6  # participants who reconnect at once, per CPU of the receivers: each costs a DTLS handshake
# Beyond a room's departure timeout, for which a copy on a living node may still erase it: somebody whose network went away at the move counts as
# present there until ICE has failed (15 s) and the session is cleaned up (5 s).
GUARD_SECONDS = 25.0


def known(kind: type, values: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What this version knows of an entry that another one may have written."""
    return {f.name: values[f.name] for f in dataclasses.fields(kind) if f.name in values}


@dataclasses.dataclass(frozen=True)
class Moved:
    """A room of a record: from which node to which, when (Redis' clock, anew at the cut), whether its signalling was cut, and who was in it."""

    frm: str
    to: str
    at: float
    cut: bool = False
    sids: t.Mapping[str, str] = dataclasses.field(default_factory=dict)  # {identity: participant sid} before the move
    departure: float = 20.0  # the room's departure timeout, seconds
    seen: bool = False  # somebody with a new session was in it since, or may have been: it lives on its new node
    empty_timeout: int = 0  # the room's empty timeout is raised to this, seconds; 0 leaves it

    @classmethod
    def of(cls, frm: str, to: str, now: float, people: t.Sequence[Participant], room: Room | None) -> Moved:
        """The first who comes back to a new node opens the room there with its old age, and is sent away to rejoin. For that moment it is empty, and
        LiveKit closes and erases an empty room that is older than its empty timeout (roommanager.go: CloseIfEmpty). So that is raised."""
        patience = int(now - room.created_at) + 60 if room else 0
        return cls(frm, to, now, sids={p.identity: p.sid for p in people}, departure=float(room.departure_timeout if room else 0) or 20.0,
                   empty_timeout=patience if room and patience > room.empty_timeout else 0)


@dataclasses.dataclass(frozen=True)
class Record:
    """A move in progress, kept in the registry. id: the node's for an evacuation or recovery, else one of its own."""

    id: str
    kind: str  # evacuate, recover, rooms
    by: str
    started_at: float
    node_id: str = ""
    host: str = ""
    slot: int = 0
    reason: str = ""
    looked_at: float = 0.0  # when a mover saw last who was in the rooms, to a second
    blind: bool = False  # signalling could not be cut, so only the fence makes callers move
    rooms: t.Mapping[str, Moved] = dataclasses.field(default_factory=dict)
    fenced: bool = False  # of a recovery: no process is that node any more, so what erases a room now is its own end

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Record:
        values = json.loads(text)
        return cls(**{**known(cls, values), "rooms": {room: Moved(**known(Moved, m)) for room, m in values["rooms"].items()}})

    def with_rooms(self, rooms: t.Mapping[str, Moved]) -> Record:
        return dataclasses.replace(self, rooms={**self.rooms, **rooms})

    @property
    def uncut(self) -> list[str]:
        return sorted(room for room, m in self.rooms.items() if not m.cut)

    @property
    def last_at(self) -> float:
        return max((m.at for m in self.rooms.values()), default=self.started_at)


@dataclasses.dataclass(frozen=True)
class View:
    """One look: the registry, the hosts' reports, the record, and what was read about the rooms concerned."""

    snapshot: Snapshot
    reports: Reports
    record: Record | None = None
    sizes: t.Mapping[str, int] = dataclasses.field(default_factory=dict)  # {room of the node: participants}
    back: frozenset[str] = frozenset()  # rooms of the record whose participants all have a new session, or are gone
    limits: Limits = Limits()
    latency: float = 0.0  # seconds Redis takes to answer

    @property
    def now(self) -> float:
        return self.snapshot.taken_at


class Step(t.NamedTuple):
    """kind: freeze, drain, wait, move, cut, settle, fence, tidy, gone. rooms: {room: node id to} of a move."""

    kind: str
    reason: str
    rooms: t.Mapping[str, str] = {}


def slow(latency: float) -> str:
    """Why no caller should have to reconnect now, or ""."""
    return f"Redis takes {latency:.2f} s to answer: who reconnects now would hear nothing for many seconds" if latency > SLOW else ""


def frozen(snapshot: Snapshot) -> str:
    """Why nothing may be decided from this snapshot, or "". Stale nodes alone are nodes; all of them together are Redis."""
    if not snapshot.nodes:
        return "the registry knows no node at all"
    if snapshot.all_stale:
        return "every node of the registry looks stale: that is Redis or the clocks, not the nodes"
    return ""


def next_step(node_id: str, view: View) -> Step:
    """The next step of evacuating a node. Raises FleetError last_node, no_receiver, no_headroom before anything has begun."""
    why = frozen(view.snapshot)
    if why:
        return Step("freeze", why)
    place = view.reports.place_of(node_id)
    if place is not None and not place.report.fresh(view.now):
        return Step("freeze", f"the report of {place.host} is {view.now - place.report.at:.0f} s old")
    if place is None or place.slot.free:
        return _after(node_id, view)
    among = receivers(view.snapshot, view.reports, leaving=(node_id,))
    if place.slot.running:
        check_leaving(node_id, view, among, place)
        return Step("drain", "it leaves placement first, so that no room appears meanwhile")
    return _moving(node_id, view, among, place)


def check_leaving(node_id: str, view: View, among: t.Sequence[Receiver], place: Place) -> None:
    """Whether the node may leave at all: another one serves and has headroom for its rooms."""
    if not among:
        raise FleetError("drain the node", f"{place}, {node_id}", "it is the last one that serves",
                         "Start another one first: openrtc.livekit.deploy on another host, or openrtc.livekit.upgrade, which starts a new one beside it",
                         code="last_node", node_id=node_id)
    spread(view.sizes, among, view.limits, place.host, _cost(node_id, view))


def _cost(node_id: str, view: View) -> float:
    """CPUs that one participant of the node costs, at most what its host can have spent on it."""
    node = view.snapshot.nodes.get(node_id)
    return node.cpu_load * max(1, node.num_cpus) / node.num_clients if node and node.num_clients else 0.0


def _moving(node_id: str, view: View, among: t.Sequence[Receiver], place: Place) -> Step:
    record = view.record
    if record and record.uncut:
        return Step("cut", "their rooms have moved, their signalling has not", dict.fromkeys(record.uncut, ""))
    lost = _orphans(view, among)
    if lost:
        return Step("move", "their new node died", spread({r: view.sizes.get(r, 1) for r in lost}, among, Limits(0, 0), place.host))
    here = {room: view.sizes.get(room, 0) for room in view.snapshot.rooms_of(node_id)}
    waiting = [room for room in (record.rooms if record else {}) if room not in view.back]
    since = view.now - record.last_at if record else 0.0
    if here:
        if waiting and since < WAVE_SECONDS:
            return Step("settle", f"{len(waiting)} rooms of the last wave are not back yet")
        if slow(view.latency):
            return Step("freeze", slow(view.latency))
        # CPU was checked before the drain began; half-way the rooms have to go somewhere.
        targets = spread(here, among, dataclasses.replace(view.limits, cpu=0), place.host)
        wave = first_wave(here, targets, among)
        return Step("move", f"wave of {len(wave)} of {len(here)} rooms", {room: targets[room] for room in wave})
    if record is None:
        if place.slot.participants:
            return Step("wait", f"{place.slot.participants} participants are here, but the registry maps no room to the node")
        return Step("wait", "it is empty and ends by itself")
    if waiting and since < FENCE_AFTER and not record.blind:
        return Step("settle", f"{len(waiting)} rooms are not back yet")
    return Step("fence", f"{len(waiting)} rooms are not back" if waiting else "everybody is back")


def _orphans(view: View, among: t.Sequence[Receiver]) -> list[str]:
    """Rooms of the record that point at a node which no longer can have them: its entry is stale, and its host does not say that it runs."""
    if view.record is None:
        return []
    living = {r.node_id for r in among} | {s.node_id for h in view.reports.hosts.values() if h.fresh(view.now) for s in h.slots if not s.free}
    return sorted(room for room, m in view.record.rooms.items()
                  if m.to not in living and view.snapshot.room_node_map.get(room) == m.to and not view.snapshot.fresh(m.to))


def _after(node_id: str, view: View) -> Step:
    """The process is gone. Rooms that came in late still have to go, then the traces."""
    here = {room: view.sizes.get(room, 0) for room in view.snapshot.rooms_of(node_id)}
    node = view.snapshot.nodes.get(node_id)
    if view.reports.place_of(node_id) is None and node is not None and node.fresh(view.now) and view.record is None:
        raise FleetError("find the node's host", node_id, "the registry knows the node, no executor reports it",
                         "Run openrtc.livekit.deploy so that every media host has an executor, or wait a few seconds if it has just started",
                         code="node_unplaced", node_id=node_id)
    if view.record and _unnamed(view.record, view):
        return Step("freeze", f"something runs in slot {view.record.slot} of {view.record.host} and does not say yet which node it is")
    if here:
        among = receivers(view.snapshot, view.reports, leaving=(node_id,))
        return Step("move", "left behind by a node that is gone", spread(here, among, Limits(0, 0)))
    if view.record and view.record.uncut:
        return Step("cut", "their rooms have moved, their signalling has not", dict.fromkeys(view.record.uncut, ""))
    if view.record or node is not None:
        return Step("tidy", "the process is gone")
    return Step("gone", "the node is gone")


def _unnamed(record: Record, view: View) -> bool:
    """Whether the node may still be there: its slot runs, without a name."""
    home = view.reports.hosts.get(record.host)
    return home is not None and any(s.slot == record.slot and not s.free and s.node_id is None for s in home.slots)


def first_wave(sizes: t.Mapping[str, int], targets: t.Mapping[str, str], among: t.Sequence[Receiver]) -> list[str]:
    """Rooms to move at once: at least one, as many as the receivers' CPUs can greet. Small rooms first: most callers are done soonest."""
    cpus = {r.node_id: r.cpus for r in among}
    room_for = {n: WAVE_PER_CPU * cpus.get(n, 1) for n in set(targets.values())}
    wave: list[str] = []
    for room in sorted(sizes, key=lambda name: (sizes[name], name)):
        if wave and room_for[targets[room]] < sizes[room]:
            continue
        wave.append(room)
        room_for[targets[room]] -= sizes[room]
    return wave
