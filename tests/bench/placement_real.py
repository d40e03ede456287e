# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real part of the placement bench: 300 rooms with real participants on six real nodes, asked for within a minute.

Requests go in turn to both controllers' POST /v1/rooms, participants join through the balancer. Told is how many come. Beside it the same rooms as LiveKit
places them, with the collection's settings. Figures are what the registry says afterwards: max/mean of participants, rooms, and whether any room was
opened twice (the nodes then count more rooms than there are).
"""
from __future__ import annotations

import concurrent.futures
import contextlib
import json
import multiprocessing
import random
import time
import typing as t
import urllib.error
import urllib.request

import placement_people
from cluster import Cluster
from common import Lab, table

from fleet import api

NODES = 6
WITHIN = 60.0  # seconds in which all rooms are asked for
SIZES = (1, 1, 1, 2, 2, 4)
RATIO = 1.15
SETTLE = 7.0  # seconds until every node has reported twice
PROCESSES = 2
PORT = 8405


def lab_of(name: str = "bench-placement", subnet: str = "172.30.83.0/24") -> Lab:
    """Two edges with Redis and a controller each, six media hosts."""
    lab = Lab(name, subnet)
    edges = [{"name": f"edge{n}", "image": "debian12", "groups": ["livekit_balancer", "livekit_redis", "livekit_controller"]} for n in (1, 2)]
    media = [{"name": f"sfu{n + 1}", "image": "debian12", "groups": ["livekit_server"]} for n in range(NODES)]
    hosts = [*edges, *media, {"name": "redis1", "image": "debian12", "groups": ["livekit_redis"]}]
    lab.options += ["-e", json.dumps({"lab_hosts": hosts})]
    return lab


def rooms_of(count: int, prefix: str, seed: int = 1) -> list[tuple[str, int]]:
    pick = random.Random(seed)
    return [(f"{prefix}-{n}", pick.choice(SIZES)) for n in range(count)]


class People:
    """Participants, in processes of their own; they stay until the block ends."""

    def __init__(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.jobs, self.joined, self.failed, self.stop = context.Queue(), context.Value("i", 0), context.Value("i", 0), context.Event()
        self._processes = [context.Process(target=placement_people.run, args=(url, self.jobs, self.joined, self.failed, self.stop), daemon=True)
                           for _n in range(PROCESSES)]

    def __enter__(self) -> People:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_exc: t.Any) -> None:
        self.stop.set()
        for process in self._processes:
            process.join(20)
            if process.is_alive():
                process.terminate()

    def wait(self, count: int, seconds: float = 90.0) -> int:
        """How many have joined, once all have or the time is over."""
        end = time.monotonic() + seconds
        while self.joined.value + self.failed.value < count and time.monotonic() < end:
            time.sleep(0.2)
        return int(self.joined.value)


def ask(address: str, room: str, people: int, bearer: str) -> tuple[int, dict[str, t.Any], float]:
    """(status, answer, seconds) of POST /v1/rooms."""
    body = json.dumps({"room": room, "participants": people, "video": 0, "identity": "p0"}).encode()
    request = urllib.request.Request(f"http://{address}:{PORT}/v1/rooms", body, {"Authorization": f"Bearer {bearer}"})
    begin = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer), time.monotonic() - begin
    except (urllib.error.URLError, OSError) as exc:
        return getattr(exc, "code", 0), {"error": str(exc)}, time.monotonic() - begin


def burst(cluster: Cluster, rooms: t.Sequence[tuple[str, int]], ours: bool) -> dict[str, t.Any]:
    """Ask for all rooms within WITHIN seconds, let their people join, and see what the nodes carry."""
    key, secret, url = (cluster.endpoint[name] for name in ("api_key", "api_secret", "url"))
    bearer = api.token(key, secret, grants={"room_create": True})
    edges = [cluster.address(host) for host in ("edge1", "edge2")]
    stock = api.Api(url, key, secret)

    def one(number: int) -> tuple[int, dict[str, t.Any], float]:
        room, size = rooms[number]
        time.sleep(max(0.0, begin + number * WITHIN / len(rooms) - time.monotonic()))
        if ours:
            got = ask(edges[number % 2], room, size, bearer)
        else:
            stock.create_room(room)
            got = 201, {"room": room}, 0.0
        for n in range(size):
            people.jobs.put(api.token(key, secret, f"p{n}", room))
        return got

    with People(url) as people:
        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(one, range(len(rooms))))
        joined = people.wait(sum(size for _room, size in rooms))
        time.sleep(SETTLE)
        with cluster.registry() as registry:
            snapshot = registry.snapshot()
            sizes = registry.sizes(snapshot.room_node_map)
        found = figures(rooms, answers, snapshot, sizes, ours)
        return {**found, "participants_joined": joined, "joins_failed": int(people.failed.value)}


def figures(rooms: t.Sequence[tuple[str, int]], answers: t.Sequence[tuple[int, dict[str, t.Any], float]], snapshot: t.Any, sizes: t.Mapping[str, int],
            ours: bool) -> dict[str, t.Any]:
    """sizes: {room: participants}, of all rooms; what nodes count themselves includes signalling that only passes through."""
    serving = snapshot.serving()
    people = {n.id: sum(sizes[room] for room in snapshot.rooms_of(n.id)) for n in serving}
    told = dict.fromkeys(people, 0)
    for room, size in rooms:
        told[snapshot.room_node_map.get(room, "")] = told.get(snapshot.room_node_map.get(room, ""), 0) + size
    names = {room for room, _size in rooms}
    seconds = sorted(s for _status, _answer, s in answers)
    mean = sum(people.values()) / max(1, len(people))
    return {
        "nodes": len(people), "rooms": len(rooms), "participants": people, "rooms_per_node": {n.id: n.num_rooms for n in serving}, "told": told,
        "ratio": round(max(people.values()) / mean, 3) if mean else 0.0, "told_ratio": round(max(told.values()) * len(people) / sum(told.values()), 3),
        "refused": [answer for status, answer, _s in answers if status not in (200, 201)],
        "elsewhere": sum(answer.get("node_id") != snapshot.room_node_map.get(answer.get("room", "")) for _status, answer, _s in answers) if ours else 0,
        "opened_twice": sum(n.num_rooms for n in serving) - len(names & set(snapshot.room_node_map)),
        "answer_p50_ms": round(1000 * seconds[len(seconds) // 2], 1), "answer_p99_ms": round(1000 * seconds[int(len(seconds) * 0.99)], 1),
    }


def measure(count: int = 300, seed: int = 1) -> dict[str, t.Any]:
    """Both bursts on a lab of their own, one after the other; prints a table. {"ours", "stock", "met"}."""
    with lab_of() as lab:
        lab.playbook("deploy", "livekit_controller_placement=true")
        cluster = Cluster(lab)
        cluster.wait_serving(NODES)
        ours = burst(cluster, rooms_of(count, "ours", seed), True)
        with contextlib.suppress(SystemExit):
            drained(cluster)
        stock = burst(cluster, rooms_of(count, "stock", seed), False)
    met = table("placement, real", [
        (f"{count} rooms on {ours['nodes']} nodes: participants, max/mean", ours["ratio"], RATIO, ours["ratio"] <= RATIO and ours["nodes"] == NODES),
        ("... the same placed by LiveKit", stock["ratio"], "", True),
        ("participants that joined", ours["participants_joined"], sum(ours["told"].values()), ours["participants_joined"] == sum(ours["told"].values())),
        ("rooms refused", len(ours["refused"]), 0, not ours["refused"]),
        ("rooms that are elsewhere than answered", ours["elsewhere"], 0, not ours["elsewhere"]),
        ("rooms opened twice", ours["opened_twice"], 0, not ours["opened_twice"]),
        ("answer of POST /v1/rooms, p50 / p99 ms", f"{ours['answer_p50_ms']} / {ours['answer_p99_ms']}", "", True)])
    return {"ours": ours, "stock": stock, "met": met}


def drained(cluster: Cluster, seconds: float = 60.0) -> None:
    """Until nobody is left of the burst before; its rooms end 20 s after that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with cluster.registry() as registry:
            snapshot = registry.snapshot()
        if not any(n.num_clients or n.num_rooms for n in snapshot.serving()):
            return
        time.sleep(1)
    raise SystemExit(f"the rooms of the first burst are still there after {seconds:g} s")
