# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots and reports for tests of decisions: a node per host, built in one line."""
from __future__ import annotations

import dataclasses

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.generation import Slot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.move_plan import Moved, Record, View
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry import Snapshot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry_messages import Node
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import HostReport, Reports

NOW = 1_700_000_000.0


def node(name, age=1.0, state="SERVING", clients=0, cpu=0.1, cpus=2):
    return Node(f"ND_{name}", "192.0.2.1", "", state, updated_at=NOW - age, num_clients=clients, cpu_load=cpu, num_cpus=cpus)


def slot(name, state="active", number=1, pid=100, **fields):
    """The slot of ND_<name>; name None: free, or unnamed with another state."""
    if name is None and state == "active":
        return Slot(number)
    return Slot(number, state=state, generation="g", gate="g", pid=pid, node_id=name and f"ND_{name}", **fields)


def report(host, *slots, age=0.5, balancer="", **fields):
    return HostReport(host, "192.0.2.1", NOW - age, slots, {s.slot: 7880 for s in slots}, balancer, **fields)


def snapshot(nodes, rooms=None, now=NOW, known=()):
    """nodes: [Node]; rooms: {room: name of its node}."""
    homes = {room: f"ND_{name}" for room, name in (rooms or {}).items()}
    return Snapshot(now, 0.0, {n.id: n for n in nodes}, homes, frozenset(homes) | frozenset(known))


def usual():
    """Three hosts, a node each, as they are in good health."""
    return [node("a"), node("b"), node("c")], [report(f"sfu{i}", slot(name)) for i, name in enumerate("abc", 1)]


def view(nodes=None, hosts=None, rooms=None, record=None, sizes=None, back=(), **fields):
    default_nodes, default_hosts = usual()
    found = snapshot(default_nodes if nodes is None else nodes, rooms)
    mine = {room for room, n in found.room_node_map.items() if n == "ND_a"}
    sizes = {room: 2 for room in mine} if sizes is None else sizes
    return View(found, Reports(default_hosts if hosts is None else hosts), record, sizes, frozenset(back), **fields)


def record(rooms=None, started=NOW - 1, **fields):
    """rooms: {room: (to, seconds since, cut)}."""
    moved = {room: Moved("ND_a", f"ND_{to}", NOW - age, cut) for room, (to, age, cut) in (rooms or {}).items()}
    return dataclasses.replace(Record("ND_a", "evacuate", "me", started, "ND_a", "sfu1", 1, rooms=moved), **fields)


def hosts(a, **fields):
    """The usual hosts, the first one with this slot."""
    return [report("sfu1", a, **fields), *usual()[1][1:]]
