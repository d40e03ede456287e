# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scaler looks at: machines of the pool and nodes of the registry brought together, and the demand on them. Pure.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import fnmatch
import typing as t

from . import capacity
from .drain import HOST_GONE
from .move_plan import frozen
from .policies.base import DRAINING, SERVING, STARTING, Member, View
from .pools.base import ENDING, FAILED, ORDERED, RUNNING, Machine
from .reports import Reports

if t.TYPE_CHECKING:
    from .drain import Request
    from .forecast import Outlook
    from .registry import Snapshot
    from .registry_messages import Room
    from .reports import Place


@dataclasses.dataclass(frozen=True)
class Mark:
    """What is remembered of a machine from one look to the next. Unix seconds; 0: never."""

    seen: float = 0.0  # first
    served: float = 0.0  # last
    leaving: float = 0.0  # when it was decided to give it back


@dataclasses.dataclass(frozen=True)
class Measure:
    """How demand is counted. by: load (shares of a node, by the capacity profiles) or rooms (per_node rooms fill a node); profiles: {pattern of host
    names, or default: what such a machine carries}."""

    by: str = "load"
    per_node: float = 20.0
    profiles: t.Mapping[str, capacity.Profile] = dataclasses.field(default_factory=dict)
    cpus: int = 0  # of a machine that the pool adds; 0: as those that are there

    @property
    def capacity(self) -> float:
        return self.per_node if self.by == "rooms" else 1.0

    @property
    def room(self) -> float:
        """Units that a room of which nothing is known stands for."""
        return self.capacity / (self.per_node if self.by == "rooms" else self.default.rooms_per_node)

    @property
    def default(self) -> capacity.Profile:
        return self.profiles.get(capacity.DEFAULT, capacity.Profile())

    def kind(self, host: str) -> str:
        """The profile of a host: the first whose pattern fits."""
        return next((name for name in self.profiles if fnmatch.fnmatch(host, name)), capacity.DEFAULT)

    def profile(self, host: str) -> capacity.Profile:
        return self.profiles.get(self.kind(host), self.default)


@dataclasses.dataclass(frozen=True)
class Sight:
    """One moment, as it was read. requests: drains that were asked for; marks: {machine id: Mark}; size: what the pool counts."""

    snapshot: Snapshot
    reports: Reports
    machines: t.Sequence[Machine] = ()
    size: int | None = None
    pool_error: str = ""
    requests: t.Mapping[str, Request] = dataclasses.field(default_factory=dict)
    marks: t.Mapping[str, Mark] = dataclasses.field(default_factory=dict)
    rooms: t.Mapping[str, Room] = dataclasses.field(default_factory=dict)
    waiting: float = 0.0
    refused: int = 0

    @property
    def at(self) -> float:
        return self.snapshot.taken_at

    def places(self) -> list[Place]:
        """Slots in which a node runs or drains, of all hosts that report."""
        found = [self.reports.place_of(s.node_id) for r in self.reports.hosts.values() for s in r.slots if s.node_id and not s.free]
        return [place for place in found if place]

    def nodes_of(self, machine: Machine) -> list[str]:
        """The nodes on a machine: by the report of its host, else by its address in the registry."""
        here = [p for p in self.places() if (p.host == machine.host if machine.host else p.report.address == machine.address)]
        if here or machine.host in self.reports.hosts:
            return [str(p.slot.node_id) for p in here if machine.slot in (0, p.slot.slot)]
        return sorted(n.id for n in self.snapshot.nodes.values() if machine.address and n.ip == machine.address and n.fresh(self.at))

    def serves(self, node_id: str) -> bool:
        """Whether it takes new rooms: by the registry, and by its host where that reports."""
        node, place = self.snapshot.nodes.get(node_id), self.reports.place_of(node_id)
        return bool(node and node.serving and node.fresh(self.at) and node_id not in self.requests and (place is None or place.slot.label == "serving"))

    def empty(self, machine: Machine) -> bool:
        """Whether nothing runs on it any more. What a host said last counts for a while after it fell silent."""
        return not any(self._holds(node_id) for node_id in self.nodes_of(machine))

    def _holds(self, node_id: str) -> bool:
        place = self.reports.place_of(node_id)
        return self.snapshot.fresh(node_id) or bool(self.snapshot.rooms_of(node_id)) or place is not None and self.at - place.report.at < HOST_GONE


class Demand(t.NamedTuple):
    units: float
    by: t.Mapping[str, float]  # {node id: units}


def measured(sight: Sight, measure: Measure) -> Demand:
    """Raises FleetError stats_invalid where a node's figures cannot be."""
    if measure.by == "rooms":
        counts = {n: float(len(rooms)) for n, rooms in sight.snapshot.rooms_by_node().items() if sight.snapshot.fresh(n)}
        return Demand(sum(counts.values()), counts)
    found = loads(sight, measure)
    return Demand(found.units, {node: load.share for node, load in found.by.items()})


def loads(sight: Sight, measure: Measure) -> capacity.Demand:
    """The load of each node, whatever demand is counted in. Raises FleetError stats_invalid."""
    cpus = measure.cpus or max((n.num_cpus for n in sight.snapshot.nodes.values()), default=0)
    kinds = {str(p.slot.node_id): measure.kind(p.host) for p in sight.places()}
    return capacity.demand(sight.snapshot, sight.rooms, {capacity.DEFAULT: measure.default, **measure.profiles}, kinds, reference_cpus=cpus)


def marked(sight: Sight) -> dict[str, Mark]:
    """The marks after this look; machines that are gone have none."""
    found = {}
    for machine in sight.machines:
        mark = sight.marks.get(machine.id, Mark(seen=sight.at))
        serves = any(map(sight.serves, sight.nodes_of(machine)))
        found[machine.id] = dataclasses.replace(mark, served=sight.at) if serves else mark
    return found


def members(sight: Sight, loads: t.Mapping[str, float]) -> list[Member]:
    """The machines of the pool, then nodes outside of it. Those count as capacity and are never given back."""
    found = [_member(machine, sight, loads) for machine in sight.machines]
    ours = {node for machine in sight.machines for node in sight.nodes_of(machine)}
    outside = [n for n in sight.snapshot.nodes.values() if n.fresh(sight.at) and n.id not in ours]
    return found + [Member(n.id, SERVING if sight.serves(n.id) else DRAINING, 0.0, loads.get(n.id, 0.0), True) for n in sorted(outside, key=_by_id)]


def _by_id(node: t.Any) -> str:
    return str(node.id)


def _member(machine: Machine, sight: Sight, loads: t.Mapping[str, float]) -> Member:
    nodes, mark = sight.nodes_of(machine), sight.marks.get(machine.id, Mark(seen=sight.at))
    load = sum(loads.get(n, 0.0) for n in nodes)
    ordered = machine.since or mark.seen
    if machine.state == ENDING or mark.leaving:
        return Member(machine.id, DRAINING, ordered, load, machine.protected)
    if machine.state == FAILED:
        return Member(machine.id, STARTING, 0.0, load, machine.protected)
    if any(map(sight.serves, nodes)):
        return Member(machine.id, SERVING, ordered, load, machine.protected)
    leaving = [n for n in nodes if n in sight.requests or n in sight.snapshot.nodes and sight.snapshot.nodes[n].draining]
    if nodes and len(leaving) == len(nodes):
        return Member(machine.id, DRAINING, ordered, load, machine.protected)
    # One that served and does not now has the time to come back that a new one has to come.
    return Member(machine.id, STARTING, max(ordered, mark.served), load, machine.protected)


def view(sight: Sight, found: Demand, measure: Measure, outlook: Outlook | None = None, heard: float | None = None, lead: float = 0.0) -> View:
    here = members(sight, found.by)
    known = {m.id for m in sight.machines}
    # Hosts that report but are not of the pool are the operator's own. A node that nobody reports is one too many to give anything back.
    outside = sum(m.id not in known and sight.reports.place_of(m.id) is not None for m in here)
    live = sum(m.state in (ORDERED, RUNNING) for m in sight.machines)
    size = None if sight.size is None else sight.size - live + len(sight.machines) + outside
    return View(sight.at, found.units, measure.capacity, tuple(here), outlook, sight.waiting, heard, sight.refused, size, sight.pool_error,
                frozen(sight.snapshot), lead)
