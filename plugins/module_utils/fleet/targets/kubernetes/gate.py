# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of a generation that only somebody in the cluster can watch: its nodes in the registry, and the balancers that take them.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import time
import typing as t

from ...balancers import haproxy
from ...errors import FleetError
from ...registry import Registry
from ...reports import Place, Reports
from .server import name_of

PAUSE = 0.3


def look(registry: Registry) -> tuple[dict[str, list[dict[str, t.Any]]], float]:
    """({name of a Deployment: its nodes}, now); a node is {node_id, machine, slot, label, url, fresh}, fresh when it is in the registry as serving."""
    snapshot, reports = registry.snapshot(), Reports.read(registry)
    found: dict[str, list[dict[str, t.Any]]] = {}
    for report in reports.hosts.values():
        for slot in report.slots if report.fresh(snapshot.taken_at) else ():
            node = snapshot.nodes.get(slot.node_id or "")
            row = {"node_id": slot.node_id, "machine": report.host, "slot": slot.slot, "label": slot.label, "url": Place(report, slot).url,
                   "fresh": bool(slot.http == 200 and node and node.serving and node.fresh(snapshot.taken_at))}
            if slot.node_id:
                found.setdefault(name_of(slot.slot, slot.generation or ""), []).append(row)
    return found, snapshot.taken_at


def wait_registered(registry: Registry, name: str, machines: t.Collection[str], timeout: float) -> dict[str, list[dict[str, t.Any]]]:
    """look() once the generation has a node that serves on each of these machines. Raises FleetError gate_registry."""
    end = time.monotonic() + timeout
    while True:
        found, dummy = look(registry)
        missing = sorted(set(machines) - {row["machine"] for row in found.get(name, ()) if row["fresh"] and row["label"] != "draining"})
        if not missing:
            return found
        if time.monotonic() > end:
            raise FleetError("see new nodes in the registry", name, f"no executor reports one that serves on {', '.join(missing)} after {timeout:g} s",
                             "Check that the nodes reach Redis, that the clocks agree, and that an executor runs on each machine", code="gate_registry",
                             machines=missing)
        time.sleep(PAUSE)


def wait_taken(pages: t.Sequence[t.Mapping[str, t.Any]], nodes: t.Iterable[t.Mapping[str, t.Any]], timeout: float) -> None:
    """Until every HAProxy sends new connections to all of these nodes. Raises FleetError gate_balancer."""
    end = time.monotonic() + timeout
    for node in nodes:
        haproxy.wait_taken(pages, haproxy.server_name(node["machine"], node["slot"]), timeout=max(0.0, end - time.monotonic()))
