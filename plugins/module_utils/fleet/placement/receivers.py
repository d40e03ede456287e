# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that may take rooms which have to leave theirs, and which takes which: headroom and spread. Pure.

A room goes whole, as it lives on one node. New rooms are placer.py's.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import typing as t

from ..errors import FleetError

if t.TYPE_CHECKING:
    from ..registry import Snapshot
    from ..reports import Reports


@dataclasses.dataclass(frozen=True)
class Limits:
    """How full a receiver may get; 0 switches a limit off. cpu: share 0..1 of its host; participants: per node."""

    cpu: float = 0.9
    participants: int = 0


@dataclasses.dataclass(frozen=True)
class Receiver:
    """A node that may take rooms, and what it carries now."""

    node_id: str
    host: str
    cpus: int
    cpu_load: float  # 0..1 of its host
    participants: int


def receivers(snapshot: Snapshot, reports: Reports, leaving: t.Collection[str] = ()) -> list[Receiver]:
    """Nodes that serve by the registry and by their host's report (gates passed, not draining), by id."""
    found = []
    for node in snapshot.serving():
        place = reports.place_of(node.id)
        if node.id in leaving or place is None or place.slot.label != "serving" or not place.report.fresh(snapshot.taken_at):
            continue
        found.append(Receiver(node.id, place.host, max(1, node.num_cpus), node.cpu_load, node.num_clients))
    return found


def spread(rooms: t.Mapping[str, int], among: t.Sequence[Receiver], limits: Limits = Limits(), host: str | None = None,
           cpu_per_participant: float = 0.0) -> dict[str, str]:
    """{room: node id}: big rooms first, each to the receiver that is emptiest then.

    rooms: {room: participants}. host: where the rooms are now; receivers on it come first, and CPU limits do not bind there as
    the load only changes its process. cpu_per_participant: CPUs one participant costs. Raises FleetError no_receiver, no_headroom.
    """
    if not among:
        raise FleetError("find a node for the rooms", f"{len(rooms)} rooms", "no other node serves",
                         "Start another node first: openrtc.livekit.deploy, or wait until one has passed its gates", code="no_receiver")
    taken = {r.node_id: r.participants for r in among}
    added = dict.fromkeys(taken, 0)
    placed = {}
    for room, size in sorted(rooms.items(), key=lambda item: (-item[1], item[0])):
        fits = [r for r in among if _fits(r, taken[r.node_id] + size, added[r.node_id] + size, limits, r.host == host, cpu_per_participant)]
        if not fits:
            raise _no_headroom(room, size, among, taken, limits)
        best = min(fits, key=lambda r: (r.host != host, taken[r.node_id] / r.cpus, r.cpu_load, r.node_id))
        placed[room] = best.node_id
        taken[best.node_id] += size
        added[best.node_id] += size
    return placed


def _fits(r: Receiver, participants: int, added: int, limits: Limits, same_host: bool, cost: float) -> bool:
    if limits.participants and participants > limits.participants:
        return False
    return same_host or not limits.cpu or r.cpu_load + added * cost / r.cpus <= limits.cpu


def _no_headroom(room: str, size: int, among: t.Sequence[Receiver], taken: t.Mapping[str, int], limits: Limits) -> FleetError:
    got = "; ".join(f"{r.host} {r.node_id}: {taken[r.node_id]} participants, CPU {r.cpu_load:.0%}" for r in among)
    return FleetError("find headroom", f"room {room} ({size} participants)", f"every receiver would be over its limit: {got}",
                      f"Add a node, wait for calls to end, or raise the limits (cpu {limits.cpu:g}, participants {limits.participants})",
                      code="no_headroom", room=room, receivers=[dataclasses.asdict(r) for r in among])
