# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that may take new rooms, with what they carry and what they can carry. Pure.

Load is in units of one participant without video. What a room costs and what a node can carry are functions that the caller gives;
the ones here know no machine in particular.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import typing as t

if t.TYPE_CHECKING:
    from ..registry import Snapshot
    from ..registry_messages import Node
    from ..reports import Reports
    from .policy import Policy

RoomLoad = t.Callable[[float, float], float]  # (participants, of these with video) -> load
NodeLoad = t.Callable[["Node"], float]  # what a node carries, and what it can carry
VIDEO_LOAD = 3.0  # what a participant with video costs, in participants without
PER_CPU = 100.0  # load that one CPU carries; a default for want of a measured profile


@dataclasses.dataclass(frozen=True)
class Target:
    """A node as placing sees it."""

    node_id: str
    host: str
    capacity: float
    load: float  # as of its latest report
    region: str = ""
    version: str = ""
    labels: frozenset[str] = frozenset()


def room_load(participants: float, video: float) -> float:
    """What a room costs its node."""
    return participants + (VIDEO_LOAD - 1) * video


def node_load(node: Node) -> float:
    """What the node carries: its participants, each further track counted as video; or its CPU, if that says more."""
    video = min(max(0, node.num_tracks_in - node.num_clients), node.num_clients)
    return max(room_load(node.num_clients, video), node.cpu_load * node_capacity(node))


def node_capacity(node: Node) -> float:
    return max(1, node.num_cpus) * PER_CPU


def targets(snapshot: Snapshot, reports: Reports, policy: Policy, leaving: t.Collection[str] = (), load: NodeLoad = node_load,
            capacity: NodeLoad = node_capacity) -> list[Target]:
    """Nodes that serve, by id. Where hosts report their slots these have to agree; a cluster without executors is judged by its registry."""
    found = []
    managed = any(report.slots for report in reports.hosts.values())
    for node in snapshot.serving():
        place = reports.place_of(node.id)
        if node.id in leaving or managed and (place is None or place.slot.label != "serving" or not place.report.fresh(snapshot.taken_at)):
            continue
        host = place.host if place else node.ip
        found.append(Target(node.id, host, capacity(node), load(node), node.region, place.slot.version or "" if place else "", policy.labels_of(host)))
    return found
