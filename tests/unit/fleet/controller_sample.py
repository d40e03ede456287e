# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster as the controller sees it, written into a test's Redis: what nodes, executors, operators and LiveKit would have written."""
from __future__ import annotations

import json
import pathlib
import time
import typing as t

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import drain, eta, journal
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller import lease, webhook
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.settings import Settings
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.web import digest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.generation import Slot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry import Registry
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import HOSTS, HostReport

PAGE = pathlib.Path(__file__).parents[3] / "roles/controller/files"
PASSWORD = "correct horse battery staple"
KEYS = {"APItest": "s" * 64, "APInext": "n" * 64}


def settings(server: t.Any, **more: t.Any) -> Settings:
    values = {"redis": {"address": server.address}, "name": "edge1", "keys": KEYS, "password_sha256": digest("admin", PASSWORD), "page": str(PAGE)}
    return Settings(**{**values, **more})


def registry(server: t.Any, timeout: float = 1.5) -> Registry:
    return Registry({"address": server.address}, timeout)


def slot(number: int, node_id: str = "", state: str = "active", **more: t.Any) -> Slot:
    values = {"version": "1.13.5", "generation": "5f2c1a9be07d", "gate": "5f2c1a9be07d", "since": time.time() - 7300, "pid": 100 + number, "http": 200,
              "enabled": state == "active", "rooms": 0, "participants": 0}
    return Slot(number, state, node_id=node_id, **{**values, **more}) if node_id else Slot(number)


def report(server: t.Any, host: str, slots: t.Sequence[Slot] = (), ago: float = -60.0, ports: t.Mapping[int, int] | None = None, **more: t.Any) -> None:
    """What the executor of a host reports. By default it stays fresh however slow the machine is."""
    values = {"address": "127.0.0.1", "ports": {n: 7880 + 10 * (n - 1) for n in (1, 2, 3)} if ports is None else ports}
    found = HostReport(host, at=time.time() - ago, slots=tuple(slots), **{**values, **more})
    server.client.hset(HOSTS, host, found.as_json())


def cluster(server: t.Any) -> None:
    """Two balancers and three media hosts, of which one drains while its new generation serves."""
    now = time.time()
    report(server, "edge1", address="10.0.0.11", balancer="haproxy-http", ports={})
    report(server, "edge2", address="10.0.0.12", balancer="haproxy-http", ports={})
    server.add_node("ND_new1", cpu_load=0.31, num_clients=24, num_rooms=6, ip="10.0.0.21")
    server.add_node("ND_old1", cpu_load=0.31, num_clients=9, num_rooms=3, state=2, ip="10.0.0.21")
    server.add_node("ND_two", cpu_load=0.74, num_clients=61, num_rooms=14, ip="10.0.0.22")
    server.add_node("ND_three", cpu_load=0.12, num_clients=7, num_rooms=2, ip="10.0.0.23")
    report(server, "sfu1", [slot(1, "ND_old1", "deactivating", version="1.13.4", generation="0c77d1e2ab31", gate="0c77d1e2ab31", rooms=3, participants=9,
                                 since=now - 90000), slot(2, "ND_new1", rooms=6, participants=24, since=now - 900), slot(3)], address="10.0.0.21")
    report(server, "sfu2", [slot(1, "ND_two", rooms=14, participants=61), slot(2), slot(3)], address="10.0.0.22",
           neighbours={"livekit-egress.service": "active"})
    report(server, "sfu3", [slot(1, "ND_three", rooms=2, participants=7), slot(2), slot(3)], address="10.0.0.23")
    for node, rooms in (("ND_new1", 6), ("ND_two", 14), ("ND_three", 2)):
        for n in range(rooms):
            server.add_room(f"{node[3:]}-{n}", node, creation_time=int(now - 600))
    for room, age, people in (("weekly-planning", 5400, 5), ("support-call-4711", 1260, 2), ("interview <b>Ada</b>", 2700, 2)):
        server.add_room(room, "ND_old1", creation_time=int(now - age))
        for n in range(people):
            server.add_participant(room, f"guest-{n}")
    server.add_participant("support-call-4711", "+49 30 1234", kind=3)
    server.client.hset(drain.DRAINS, "ND_old1", json.dumps(drain.Request("ND_old1", "sfu1", 1, "move", now + 1080, now - 720, "ops pid 4242").__dict__))
    server.client.lpush(eta.DURATIONS, *[600 + 97 * n for n in range(80)])
    history(server, now)


def history(server: t.Any, now: float) -> None:
    entries: list[dict[str, t.Any]] = [
        {"at": now - 720, "by": "ops pid 4242", "kind": "drain", "reason": "it takes new rooms still", "node": "ND_old1", "host": "sfu1", "slot": 1},
        {"at": now - 905, "by": "ops pid 4242", "kind": "move", "reason": "rebalance", "rooms": {"standup": "ND_three", "all-hands": "ND_two"}},
        {"at": now - 3630, "by": "controller@edge1", "kind": "recover", "reason": "dead", "node": "ND_gone", "rooms": {f"room-{n}": "ND_two" for n in range(7)},
         "signals": ["sfu3 no longer runs it", "its port: refused"], "seconds": 0.213},
        {"at": now - 3631, "by": "controller@edge1", "kind": "dead", "reason": "dead", "node": "ND_gone", "outcome": "recover",
         "signals": ["sfu3 no longer runs it", "its port: refused"]},
        {"at": now - 8100, "by": "controller@edge1", "kind": "cleanup", "reason": "ghosts", "rooms": {"old-room": "no node hosts it"}, "outcome": "removed"},
        {"at": now - 9000, "by": "controller@edge1", "kind": "lead", "reason": "the lease is ours"},
    ]
    server.client.rpush(journal.KEY, *map(json.dumps, entries))
    events = [("participant_joined", "weekly-planning", "guest-4", 8), ("room_finished", "standup", None, 41), ("participant_left", "standup", "grace", 62)]
    server.client.rpush(webhook.EVENTS, *[json.dumps({"at": now - age, "event": kind, "room": room, "who": who}) for kind, room, who, age in events])
    for name, leads in (("edge1", True), ("edge2", False)):
        server.client.hset(lease.CONTROLLERS, name, json.dumps({"at": now + 60, "leader": leads, "dry_run": False}))
