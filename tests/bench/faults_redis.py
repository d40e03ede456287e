# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of Redis: gone, failed over, slow, hanging; with and without a move in progress. The registry is all the engine has."""
from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import threading
import time
import typing as t

from cluster import Cluster
from common import ROOT
from faults_moves import recovered_once
from faults_scene import Scene, fault
from fleet import drain
from fleet.api import Api
from fleet.errors import FleetError
from fleet.move_store import MOVES
from fleet.reports import HOSTS

SERVING = 10.0  # seconds after Redis is back until the cluster takes calls
THAW = 3.0  # seconds after Redis is back in which nobody may be judged


def takes_calls(scene: Scene, begin: float, limit: float = SERVING) -> None:
    """Until all hosts serve and a new room can be made through a balancer; longer than `limit` seconds since `begin` is a problem."""
    ready, made = 0.0, False
    endpoint = scene.cluster.endpoint
    while time.monotonic() - begin < 60 and not made:
        with contextlib.suppress(FleetError, SystemExit):
            scene.cluster.wait_serving(seconds=1)
            ready = ready or time.monotonic() - begin
            Api(endpoint["urls"][0], endpoint["api_key"], endpoint["api_secret"], timeout=3).create_room(f"after-{time.time():.0f}", empty_timeout=5)
            made = True
    took = time.monotonic() - begin
    scene.r.facts["serving after"] = f"{ready:.1f} s, a new room after {took:.1f} s" if made else "not within 60 s"
    if not made or took > limit:
        scene.r.problems.append(f"it served {took:.1f} s after Redis was back, {limit:g} s are allowed")


def outage(scene: Scene, seconds: float) -> None:
    """Stop Redis on all hosts for so long, and start it again."""
    r, cluster = scene.r, scene.cluster
    hosts = list(cluster.redis_hosts().values())
    r.same_nodes, r.out = True, 3  # what the registry says about who serves is not told from outside now
    begin = time.time()
    cluster.units("stop", "redis-server", hosts)
    time.sleep(max(0.0, seconds - (time.time() - begin)))
    cluster.units("start", "redis-server", hosts)
    back = time.monotonic()
    r.facts["Redis was away"] = f"{time.time() - begin:.1f} s"
    r.calm.append((begin, time.time() + THAW))
    takes_calls(scene, back)


@fault()
def redis_stopped_10s(scene: Scene) -> None:
    """Redis is away for 10 s. Calls go on; who joins or reconnects in that time waits."""
    outage(scene, 10)


@fault(most=2)
def redis_stopped_60s(scene: Scene) -> None:
    """Redis is away for a minute. Media of calls goes on; nobody can join."""
    outage(scene, 60)


@fault(most=1)
def redis_stopped_7min(scene: Scene) -> None:
    """Redis is away for seven minutes. Media of calls goes on; nobody can join; ten seconds after it is back all is as before."""
    outage(scene, 420)


@fault()
def redis_primary_lost(scene: Scene) -> None:
    """The primary of Redis goes away, Sentinel promotes a replica. Calls go on; joins wait for some seconds."""
    r, cluster = scene.r, scene.cluster
    primary, begin = cluster.primary(), time.time()
    r.same_nodes, r.out = True, 3
    cluster.units("stop", "redis-server", [primary])
    gone = time.monotonic()
    try:
        while time.monotonic() - gone < 40:
            with contextlib.suppress(FleetError, KeyError):
                if cluster.primary() != primary:
                    break
            time.sleep(0.3)
        else:
            r.problems.append("no other Redis was promoted in 40 s")
        r.facts["failover"] = f"{primary} gone, {time.monotonic() - gone:.1f} s until {cluster.primary()} was primary"
        r.calm.append((begin, time.time() + THAW))
        takes_calls(scene, time.monotonic())
    finally:
        cluster.units("start", "redis-server", [primary])


def replicated(cluster: Cluster, seconds: float = 30.0) -> None:
    """Until all replicas follow: one that is made the primary before, right after another failover, brings back old data."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(FleetError, KeyError), cluster.registry() as registry:
            (found,) = registry.ask("read the replication", ("INFO", "replication"))
            if str(found).count("online") == len(cluster.redis_hosts()) - 1:
                return
        time.sleep(0.5)
    raise SystemExit(f"the replicas of Redis do not follow in {seconds:g} s")


@fault()
def redis_failover_mid_move(scene: Scene) -> None:
    """Sentinel is told to fail over while rooms are being moved. Callers of that node notice the move; it may take some seconds longer."""
    node, dummy = scene.victim()
    at, delay = scene.moment("drain", "move", "cut", "settle")
    scene.r.out = 3
    replicated(scene.cluster)

    def act(dummy: dict[str, t.Any]) -> None:
        cluster = scene.cluster
        before = cluster.primary()
        cluster.run(before, "redis-cli", "-p", "26379", *_admin(cluster), "SENTINEL", "FAILOVER", "livekit")

    scene.evacuate(node, at, act, delay)


@fault()
def redis_hangs_mid_move(scene: Scene) -> None:
    """Redis does not answer for 1 to 8 s while rooms are being moved. Callers whose room is between two nodes wait that long."""
    node, dummy = scene.victim()
    at, delay = scene.moment("drain", "move", "cut", "settle", "fence")
    seconds = round(scene.rng.uniform(1, 8), 1)  # beyond 5 s Sentinel may promote a replica meanwhile
    scene.r.facts["hung"] = f"{seconds} s"
    scene.r.out, scene.r.hung = 3, seconds

    def act(dummy: dict[str, t.Any]) -> None:
        host = scene.cluster.primary()
        scene.cluster.signal(host, "redis-server", "STOP")
        time.sleep(seconds)
        scene.cluster.signal(host, "redis-server", "CONT")

    scene.evacuate(node, at, act, delay)


@fault()
def redis_hangs(scene: Scene) -> None:
    """Redis does not answer for 3 s, too short for Sentinel. Nobody notices; no node is given up."""
    host, begin = scene.cluster.primary(), time.time()
    scene.r.same_nodes, scene.r.out = True, 3
    scene.cluster.signal(host, "redis-server", "STOP")
    time.sleep(3)
    scene.cluster.signal(host, "redis-server", "CONT")
    scene.r.calm.append((begin, time.time() + THAW))
    takes_calls(scene, time.monotonic())


@fault()
def redis_slow(scene: Scene) -> None:
    """Every word to and from Redis takes 0.3 to 3 s there and back for 12 s. Calls go on; joins are slow or fail meanwhile."""
    seconds = scene.rng.choice([0.3, round(scene.rng.uniform(0.3, 1.5), 1), round(scene.rng.uniform(1.5, 3.0), 1)])
    scene.r.facts["delay"] = f"{seconds} s"
    scene.r.same_nodes, scene.r.out = True, 3
    begin = time.time()
    with delayed(scene.cluster, seconds):
        time.sleep(12)
    scene.r.calm.append((begin, time.time() + THAW))
    takes_calls(scene, time.monotonic())


@fault()
def redis_slow_mid_move(scene: Scene) -> None:
    """Redis takes 0.15 to 0.6 s for every answer when rooms are to be moved. The node drains, its calls stay on it until Redis is quick again."""
    r, seconds = scene.r, round(scene.rng.uniform(0.15, 0.6), 2)
    r.facts["delay"], r.out = f"{seconds} s", 3
    node, dummy = scene.victim()
    begin = time.time()
    mover = threading.Thread(target=scene.evacuate, args=(node,))
    with delayed(scene.cluster, seconds):
        mover.start()
        time.sleep(15)
        ended = time.time()  # from here on Redis may be quick again: to take the delay away takes seconds where the machine is busy
    mover.join()
    early = [e for e in scene.cluster.log(begin) if e["kind"] == "move" and e["at"] < ended]
    if early:
        r.problems.append(f"rooms were moved {early[0]['at'] - begin:.1f} s after Redis had become slow")


@fault()
def entries_of_others(scene: Scene) -> None:
    """The registry holds what this version does not understand: a host's report that is no report, fields of a newer version. A move and the controllers
    go on as if it were not there."""
    node, place = scene.victim()
    newer = {"since_version": "99.0.0"}
    rooms = {"nobody-s-room": {"frm": "ND_x", "to": "ND_y", "at": time.time(), "cut": True, **newer}}
    guard = {"id": "rooms-99", "kind": "rooms", "by": "bench", "started_at": time.time(), "rooms": rooms, **newer}
    request = {"node_id": "ND_x", "host": place.host, "slot": 9, "policy": "wait", **newer}
    with scene.cluster.registry() as registry:
        registry.ask("put in what nobody knows", ("HSET", HOSTS, "nobody", scene.rng.choice(["", "no report", "[]", '{"host": 1}'])),
                     ("HSET", MOVES, "rooms-99", json.dumps(guard)), ("HSET", drain.DRAINS, "ND_x", json.dumps(request)))
        try:
            time.sleep(2)
            scene.evacuate(node)
            scene.cluster.restore()
            again, there = scene.victim()
            begin = time.time()
            scene.kill_node(again, there)
            recovered_once(scene, again, begin)
        finally:
            registry.ask("take it out", ("HDEL", HOSTS, "nobody"), ("HDEL", MOVES, "rooms-99"), ("HDEL", drain.DRAINS, "ND_x"))


def _admin(cluster: Cluster) -> list[str]:
    """Options of redis-cli for the role's admin, whose password follows from the other one."""
    password = hashlib.sha256(f"{cluster.endpoint['redis']['password']}:admin".encode()).hexdigest()
    return ["--no-auth-warning", "--user", "admin", "--pass", password]  # a lab's password, on a lab's host


@contextlib.contextmanager
def delayed(cluster: Cluster, seconds: float) -> t.Iterator[None]:
    """Answers of Redis' primary come so late: its port leads to a relay. There is no netem on such machines."""
    host, code = cluster.primary(), (ROOT / "tests/bench/faults_delay.py").read_text()
    pid = cluster.docker("inspect", "-f", "{{.State.Pid}}", cluster.container(host)).strip()
    rule = ["nsenter", "--net", "--target", pid, "iptables", "-t", "nat", "{}", "PREROUTING", "-p", "tcp", "--dport", "6379",
            "-j", "REDIRECT", "--to-ports", "16379"]
    command = ["docker", "exec", "-i", cluster.container(host), "python3", "-c", code, "16379", "6379", str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as relay:
        try:
            subprocess.run([w.format("-A") for w in rule], check=True)
            drop_connections(cluster, host)
            yield
        finally:
            subprocess.run([w.format("-D") for w in rule], check=False)
            if relay.stdin:
                relay.stdin.close()
            drop = threading.Timer(0.5, relay.kill)  # the client; the relay itself ends with its input
            drop.start()
            relay.wait()
            drop.cancel()
            drop_connections(cluster, host)


def drop_connections(cluster: Cluster, host: str) -> None:
    """Have all clients of a Redis connect anew."""
    for kind in ("normal", "pubsub"):
        cluster.run(host, "redis-cli", *_admin(cluster), "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
