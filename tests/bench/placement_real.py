# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real part of the placement bench: 300 rooms with real participants on six real nodes, asked for within a minute.

Each room is asked for at both controllers at once; participants join through the balancer, or in a local cluster through one node. Told is how many come.
Beside it the same rooms as LiveKit places them, with the collection's settings (local: sort_by clients, twochoice). Figures are what the registry says
afterwards: max/mean of participants, rooms, and whether any room was opened twice (the nodes then count more rooms than there are).
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
from placement_local import Local

from fleet import api

NODES = 6
WITHIN = 60.0  # seconds in which all rooms are asked for
SIZES = (1, 1, 1, 2)  # participants; each costs two DTLS handshakes on a machine that runs all of it
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


def ask_all(desks: t.Sequence[str], room: str, people: int, bearer: str, pool: concurrent.futures.Executor) -> tuple[int, dict[str, t.Any], float]:
    """(status, answer, seconds) of the slowest controller; status 0 unless they agree on the node and exactly one has created the room."""
    answers = list(pool.map(lambda desk: ask(desk, room, people, bearer), desks))
    agree = sorted(a[0] for a in answers) == [200] * (len(desks) - 1) + [201] and len({a[1].get("node_id") for a in answers}) == 1
    status, answer, seconds = max(answers, key=lambda a: a[2])
    return status if agree else 0, answer, seconds


def ask(desk: str, room: str, people: int, bearer: str) -> tuple[int, dict[str, t.Any], float]:
    """(status, answer, seconds) of POST /v1/rooms."""
    body = json.dumps({"room": room, "participants": people, "video": 0, "identity": "p0"}).encode()
    request = urllib.request.Request(f"{desk}/v1/rooms", body, {"Authorization": f"Bearer {bearer}"})
    begin = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer), time.monotonic() - begin
    except (urllib.error.URLError, OSError) as exc:
        return getattr(exc, "code", 0), {"error": str(exc)}, time.monotonic() - begin


def burst(cluster: Cluster | Local, desks: t.Sequence[str], rooms: t.Sequence[tuple[str, int]], ours: bool) -> dict[str, t.Any]:
    """Ask for all rooms within WITHIN seconds, let their people join, and see what the nodes carry."""
    key, secret, url = (cluster.endpoint[name] for name in ("api_key", "api_secret", "url"))
    bearer = api.token(key, secret, grants={"room_create": True})
    stock = api.Api(url, key, secret)

    def one(number: int) -> tuple[int, dict[str, t.Any], float]:
        room, size = rooms[number]
        time.sleep(max(0.0, begin + number * WITHIN / len(rooms) - time.monotonic()))
        if ours:
            got = ask_all(desks, room, size, bearer, both)
        else:
            stock.create_room(room)
            got = 201, {"room": room}, 0.0
        for n in range(size):
            people.jobs.put(api.token(key, secret, f"p{n}", room))
        return got

    with People(url) as people:
        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(8) as pool, concurrent.futures.ThreadPoolExecutor(16) as both:
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


@contextlib.contextmanager
def a_cluster(where: str) -> t.Iterator[tuple[Cluster | Local, list[str]]]:
    """(a cluster of six nodes, the addresses of its controllers): a lab, or processes on this machine."""
    if where == "local":
        with Local(NODES) as local:
            yield local, local.desks
        return
    with lab_of() as lab:
        lab.playbook("deploy", "livekit_controller_placement=true")
        cluster = Cluster(lab)
        cluster.wait_serving(NODES)
        yield cluster, [f"http://{cluster.address(host)}:{PORT}" for host in ("edge1", "edge2")]


def measure(where: str = "lab", count: int = 300, seed: int = 1) -> dict[str, t.Any]:
    """Both bursts one after the other; prints a table. {"where", "ours", "stock", "met"}."""
    with a_cluster(where) as (cluster, desks):
        ours = burst(cluster, desks, rooms_of(count, "ours", seed), True)
        drained(cluster)
        stock = burst(cluster, desks, rooms_of(count, "stock", seed), False)
    met = table(f"placement, real ({where})", [
        (f"{count} rooms on {ours['nodes']} nodes: participants, max/mean", ours["ratio"], RATIO, ours["ratio"] <= RATIO and ours["nodes"] == NODES),
        ("... the same placed by LiveKit", stock["ratio"], "", True),
        ("participants that joined", ours["participants_joined"], sum(ours["told"].values()), ours["participants_joined"] == sum(ours["told"].values())),
        ("rooms refused", len(ours["refused"]), 0, not ours["refused"]),
        ("rooms that are elsewhere than answered", ours["elsewhere"], 0, not ours["elsewhere"]),
        ("rooms opened twice", ours["opened_twice"], 0, not ours["opened_twice"]),
        ("answer of POST /v1/rooms, p50 / p99 ms", f"{ours['answer_p50_ms']} / {ours['answer_p99_ms']}", "", True)])
    return {"where": where, "ours": ours, "stock": stock, "met": met}


def drained(cluster: Cluster | Local, seconds: float = 90.0) -> None:
    """Until nobody is left of the burst before; its rooms end 20 s after that. Without: the second burst just comes on top."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with cluster.registry() as registry:
            snapshot = registry.snapshot()
        if not any(n.num_clients or n.num_rooms for n in snapshot.serving()):
            return
        time.sleep(1)
