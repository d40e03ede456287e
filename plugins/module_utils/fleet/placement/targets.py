# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that may take new rooms, with what they carry and what they can carry. Pure.

Load is in units of one participant without video. What a room costs and what a node can carry come from a Loads, or anything with its
three methods; this one knows no machine in particular.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import collections
import dataclasses
import typing as t

if t.TYPE_CHECKING:
    from ..registry import Snapshot
    from ..registry_messages import Node
    from ..reports import Reports
    from .policy import Policy

VIDEO_LOAD = 3.0  # what a participant with video costs, in participants without
PER_CPU = 100.0  # load that one CPU carries; a default for want of a measured profile
RoomLoad = t.Callable[[float, float], float]  # (participants, of these with video) -> load


@dataclasses.dataclass(frozen=True)
class Loads:
    """What rooms cost and nodes carry. The CPU that nodes report is no part of it, as it lags behind; Policy.cpu_limit goes by that."""

    video: float = VIDEO_LOAD
    per_cpu: float = PER_CPU

    def room(self, participants: float, video: float) -> float:
        return participants + (self.video - 1) * video

    def node(self, node: Node, participants: int) -> float:
        """What the node carries with so many participants in its rooms: each track beyond one per participant is taken for video.

        The node's own num_clients is no measure: it also counts those whose signalling only passes through it (pkg/rtc/signalanddatastats.go).
        """
        return self.room(participants, min(max(0, node.num_tracks_in - participants), participants))

    def capacity(self, node: Node) -> float:
        return max(1, node.num_cpus) * self.per_cpu


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
    cpu: float = 0.0  # 0 to 1, as it reports


def targets(snapshot: Snapshot, reports: Reports, policy: Policy, sizes: t.Mapping[str, int], loads: Loads = Loads(),
            leaving: t.Collection[str] = ()) -> list[Target]:
    """Nodes that serve, by id. sizes: {room: participants} of all rooms.

    Where hosts report their slots these have to agree; a cluster without executors is judged by its registry.
    """
    found = []
    people = collections.Counter[str]()
    for room, home in snapshot.room_node_map.items():
        people[home] += sizes.get(room, 0)
    managed = any(report.slots for report in reports.hosts.values())
    for node in snapshot.serving():
        place = reports.place_of(node.id)
        if node.id in leaving or managed and (place is None or place.slot.label != "serving" or not place.report.fresh(snapshot.taken_at)):
            continue
        host = place.host if place else node.ip
        version = place.slot.version or "" if place else ""
        found.append(Target(node.id, host, loads.capacity(node), loads.node(node, people[node.id]), node.region, version, policy.labels_of(host),
                            node.cpu_load))
    return found
