# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the status page shows, as one JSON-able mapping. Pure: everything read goes in, the mapping comes out.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import typing as t

from ..drain import Request, blockers
from ..eta import eta
from ..move_plan import Record
from ..reports import HostReport, Place, Reports

if t.TYPE_CHECKING:
    from ..generation import Slot
    from ..registry import Snapshot
    from ..registry_messages import Node, Participant, Room

SHOWN = 50  # rooms listed of a draining node
POINTS = 120  # of the plot
ALIVE = 5.0  # seconds since a controller was last there


@dataclasses.dataclass(frozen=True)
class Sources:
    """What was read of one moment. rooms, participants: of the nodes that leave."""

    snapshot: Snapshot
    reports: Reports
    requests: t.Mapping[str, Request] = dataclasses.field(default_factory=dict)
    records: t.Mapping[str, Record] = dataclasses.field(default_factory=dict)
    rooms: t.Mapping[str, Room] = dataclasses.field(default_factory=dict)
    participants: t.Mapping[str, t.Sequence[Participant]] = dataclasses.field(default_factory=dict)
    durations: t.Sequence[float] = ()
    journal: t.Sequence[t.Mapping[str, t.Any]] = ()
    events: t.Sequence[t.Mapping[str, t.Any]] = ()
    controllers: t.Mapping[str, t.Mapping[str, t.Any]] = dataclasses.field(default_factory=dict)
    scaling: t.Mapping[str, t.Any] | None = None  # scaler.status
    demand: t.Sequence[t.Mapping[str, t.Any]] = ()  # scaler.history


def leaving(snapshot: Snapshot, reports: Reports, requests: t.Mapping[str, Request]) -> list[str]:
    """Nodes that drain, by request or by anybody's hand."""
    found = {s.node_id for h in reports.hosts.values() for s in h.slots if s.draining and s.node_id}
    found |= {n.id for n in snapshot.nodes.values() if n.draining and n.fresh(snapshot.taken_at)}
    return sorted(found | set(requests))


def status(found: Sources, frozen: str = "") -> dict[str, t.Any]:
    snapshot, now = found.snapshot, found.snapshot.taken_at
    nodes = dict(snapshot.nodes)
    hosts = [_host(report, nodes, now) for report in found.reports.hosts.values()]
    placed = {s["node_id"] for h in hosts for s in h["slots"]}
    slots = [s for h in hosts for s in h["slots"]]
    return {
        "at": now,
        "frozen": frozen,
        "totals": {
            "hosts": sum(1 for h in hosts if h["slots"]),
            "serving": sum(s["state"] == "serving" for s in slots),
            "draining": sum(s["state"] == "draining" for s in slots),
            "rooms": len(snapshot.room_node_map),
            "participants": sum(n.num_clients for n in nodes.values() if n.fresh(now)),
            "versions": sorted({s["version"] for s in slots if s["version"] and s["state"] in ("serving", "draining", "gating")}),
        },
        "hosts": hosts,
        "strays": [_stray(n, now) for i, n in sorted(nodes.items()) if i not in placed],
        "drains": [_drain(node_id, found) for node_id in leaving(snapshot, found.reports, found.requests)],
        "moves": [_move(record) for record in sorted(found.records.values(), key=lambda r: r.started_at)],
        "decisions": list(found.journal),
        "events": list(found.events),
        "scaling": _scaling(found),
        "controllers": [{"name": name, "leader": bool(c.get("leader")), "dry_run": bool(c.get("dry_run")), "age": max(0.0, now - c["at"]),
                         "alive": now - c["at"] < ALIVE} for name, c in sorted(found.controllers.items())],
    }


def _scaling(found: Sources) -> dict[str, t.Any] | None:
    """The last decision and what the plot is drawn from: {at, demand, room (what the serving nodes carry), then, low, middle, high}."""
    if found.scaling is None:
        return None
    every = max(1, len(found.demand) // POINTS)
    points = [{"at": p["at"], "demand": p["demand"], "room": p["serving"] * p["capacity"], "then": p["at"] + 60 * p["ahead"], "low": p["low"],
               "middle": p["middle"], "high": p["high"]} for p in list(found.demand)[::-1][::every][::-1]]
    told = {key: found.scaling.get(key) for key in ("at", "have", "size", "dry_run", "demand", "capacity", "serving", "draining")}
    return {**told, "reason": "; ".join(a["reason"] for a in found.scaling.get("actions", ())), "points": points}


def _host(report: HostReport, nodes: t.Mapping[str, Node], now: float) -> dict[str, t.Any]:
    return {"host": report.host, "address": report.address, "age": max(0.0, now - report.at), "fresh": report.fresh(now), "balancer": report.balancer,
            "neighbours": dict(report.neighbours), "slots": [_slot(s, nodes.get(s.node_id or ""), now) for s in report.slots]}


def _slot(slot: Slot, node: Node | None, now: float) -> dict[str, t.Any]:
    return {"slot": slot.slot, "state": slot.label, "version": slot.version, "generation": slot.generation, "node_id": slot.node_id, "since": slot.since,
            "rooms": slot.rooms, "participants": node.num_clients if node else slot.participants, "cpu": node.cpu_load if node and not slot.free else None,
            "cpus": node.num_cpus if node else None, "bytes_out": node.bytes_out_rate if node else None, "http": slot.http,
            "registered": node is not None and node.fresh(now)}


def _stray(node: Node, now: float) -> dict[str, t.Any]:
    """A node that no host reports: dead, or nobody manages it."""
    return {"node_id": node.id, "ip": node.ip, "state": node.state, "fresh": node.fresh(now), "age": max(0.0, node.age(now)), "rooms": node.num_rooms,
            "participants": node.num_clients}


def _drain(node_id: str, found: Sources) -> dict[str, t.Any]:
    now, request, place = found.snapshot.taken_at, found.requests.get(node_id), found.reports.place_of(node_id)
    names = [room for room in found.snapshot.rooms_of(node_id) if room in found.rooms]
    ages = [max(0.0, now - found.rooms[room].created_at) for room in names]
    people = {room: found.participants.get(room, ()) for room in names}
    held = blockers(people)
    rooms = [{"room": room, "age": age, "participants": len(people[room]), "blockers": held.get(room, [])} for room, age in zip(names, ages)]
    left = eta(ages, found.durations)
    return {
        "node_id": node_id, **_where(place, request), "policy": request.policy if request else "wait", "deadline": request.deadline if request else None,
        "since": request.requested_at if request else getattr(place.slot, "state_since", None) if place else None, "by": request.by if request else "",
        "moving": node_id in found.records, "eta": None if left is None else now + left, "participants": sum(map(len, people.values())),
        "rooms": sorted(rooms, key=lambda r: -t.cast(float, r["age"]))[:SHOWN], "room_count": len(rooms),
        "blockers": [{"room": room, "who": who} for room, all_of in held.items() for who in all_of][:SHOWN],
    }


def _where(place: Place | None, request: Request | None) -> dict[str, t.Any]:
    if place:
        return {"host": place.host, "slot": place.slot.slot}
    return {"host": request.host, "slot": request.slot} if request else {"host": "", "slot": None}


def _move(record: Record) -> dict[str, t.Any]:
    return {"id": record.id, "kind": record.kind, "by": record.by, "at": record.started_at, "host": record.host, "slot": record.slot, "reason": record.reason,
            "rooms": len(record.rooms), "cut": len(record.rooms) - len(record.uncut)}
