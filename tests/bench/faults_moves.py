# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults around live moves and recovery: processes that are killed, hang or are there twice; rooms and callers at the worst moment."""
from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import typing as t

from common import ROOT
from cluster import Cluster
from faults_scene import ACTS, CALLS, FAULTS, Fault, Scene, fault
from fleet import drain
from fleet.api import Api
from fleet.errors import FleetError

STEPS = ("drain", "move", "remap", "cut", "settle", "fence", "tidy")
CHILD = [sys.executable, str(ROOT / "tests/bench/faults_child.py")]


def child(scene: Scene, node_id: str, *options: str) -> int:
    """Evacuate a node in a process of its own; its exit status."""
    path = scene.cluster.lab.directory / "endpoint.json"
    done = subprocess.run([*CHILD, "--endpoint", str(path), "--node", node_id, *options],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode > 0:
        scene.r.problems.append(f"the child ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.returncode


# -- who moves is killed ------------------------------------------------------------------------------------------


def mover_killed(scene: Scene, step: str) -> None:
    """Kill the process that moves; then the controller, or the next run, has to finish it."""
    r = scene.r
    node, dummy = scene.victim()
    delay = scene.rng.choice([0.0, 0.02, 0.1, 0.3]) if step != "remap" else 0.0
    # Killed before it has moved a room it leaves no more than a node that drains, which is nobody's business but its operator's.
    by_hand = step == "drain" or (r.number + STEPS.index(step)) % 2 == 0
    r.facts["moment"], r.facts["finished by"] = f"{delay} s after {step}", "a second run" if by_hand else "the controller"
    with scene.cluster.alone(by_hand):
        if child(scene, node, "--at", step, "--delay", str(delay), "--ttl", "6") == 0 and not delay:
            r.problems.append(f"the move never came to {step}")
        begin = time.monotonic()
        if by_hand:
            scene.evacuate(node)
        else:
            while time.monotonic() - begin < 60 and scene.unfinished():
                time.sleep(0.3)
        r.facts["finished after"] = f"{time.monotonic() - begin:.1f} s"


for _step in STEPS:
    FAULTS[f"mover-killed-at-{_step}"] = Fault(
        f"mover-killed-at-{_step}",
        f"The run that moves rooms is killed at its step {_step}. Callers between two nodes wait until its lock has expired and somebody goes on.",
        lambda scene, step=_step: mover_killed(scene, step))


@fault()
def controller_killed_in_drain(scene: Scene) -> None:
    """The leading controller is killed while it moves the rooms of a drain. Callers between two nodes wait until the other one goes on."""
    node, place = scene.victim()
    leader, begin = scene.cluster.leader(), time.time()
    at, delay = scene.moment("drain", "move", "cut", "settle", "fence")
    with scene.cluster.registry() as registry:
        drain.put(registry, drain.Request(node, place.host, place.slot.slot, "now", requested_at=begin, by="bench"))
    end = time.monotonic() + 30
    while time.monotonic() < end and not any(e["kind"] == at for e in scene.cluster.log(begin)):
        time.sleep(0.02)
    time.sleep(delay)
    scene.cluster.signal(leader, "livekit-controller", "KILL")
    gone = time.monotonic()
    while time.monotonic() - gone < 60:
        with scene.cluster.registry() as registry:
            if node not in drain.requests(registry):
                break
        time.sleep(0.3)
    else:
        scene.r.problems.append("nobody finished the drain in 60 s")
    by = ", ".join(sorted({e["by"] for e in scene.cluster.log(begin) if e["kind"] in ACTS}))
    scene.r.facts["finished after"] = f"{time.monotonic() - gone:.1f} s, by {by}"


# -- controllers --------------------------------------------------------------------------------------------------


def recovered_once(scene: Scene, node_id: str, begin: float, seconds: float = 20.0) -> None:
    """Until somebody has recovered the node; it must have been one controller alone."""
    end, found = time.monotonic() + seconds, []
    while time.monotonic() < end and not found:
        found = [e for e in scene.cluster.log(begin) if e["kind"] == "recover" and e.get("node") == node_id]
        time.sleep(0.1)
    if not found:
        scene.r.problems.append(f"nobody recovered {node_id} in {seconds:g} s")
        return
    scene.r.facts["recovered"] = f"{found[0]['at'] - begin:.1f} s after the fault, by {found[0]['by']}"
    time.sleep(2)
    by = {e["by"] for e in scene.cluster.log(begin) if e["kind"] == "recover" and e.get("node") == node_id}
    if len(by) > 1:
        scene.r.problems.append(f"{node_id} was recovered by {', '.join(sorted(by))}")


@fault()
def leader_killed(scene: Scene) -> None:
    """The leading controller and a node die together. The calls of the node are silent until the other controller leads, up to 5 s longer."""
    node, place = scene.victim()
    begin, leader = time.time(), scene.cluster.leader()
    scene.cluster.signal(leader, "livekit-controller", "KILL")
    scene.kill_node(node, place)
    recovered_once(scene, node, begin)


@fault()
def leader_hangs(scene: Scene) -> None:
    """The leading controller stops for 10 s and goes on, a node dies meanwhile. The other one recovers it; the one that woke up does nothing."""
    node, place = scene.victim()
    begin, leader = time.time(), scene.cluster.leader()
    scene.cluster.signal(leader, "livekit-controller", "STOP")
    try:
        time.sleep(scene.rng.uniform(0, 4))
        scene.kill_node(node, place)
        recovered_once(scene, node, time.time() - 0.5)
        time.sleep(max(0.0, begin + 10 - time.time()))
    finally:
        woke = time.time()
        scene.cluster.signal(leader, "livekit-controller", "CONT")
    time.sleep(3)
    late = [e["kind"] for e in scene.cluster.log(woke - 0.2) if e["by"] == f"controller@{leader}" and e["kind"] in ACTS]
    if late:
        scene.r.problems.append(f"the controller that woke up still acted: {', '.join(late)}")


@fault()
def clock_steps(scene: Scene) -> None:
    """The clock of controllers, an executor or of a run that moves rooms jumps by up to an hour, then a node dies. Nobody else is touched. A stand-in: their
    time.time() is stepped, as containers share the machine's clock; clocks of nodes cannot be stepped here."""
    r, cluster = scene.r, scene.cluster
    step = scene.rng.choice([-3600, -90, -5, 5, 90, 3600])
    node, place = scene.victim()
    r.facts["step"] = f"{step} s"
    hosts = {host: "livekit-controller" for host in cluster.controllers()} | {place.host: "livekit-executor"}
    with clocks(cluster, hosts) as set_to:
        time.sleep(6)  # a controller that has just started judges nobody
        set_to(float(step))
        time.sleep(3)
        if r.number % 2:
            begin = time.time()
            scene.kill_node(node, place)
            recovered_once(scene, node, begin)
        else:
            child(scene, node, "--at", scene.rng.choice(["drain", "move", "settle"]), "--step", str(step))
        others = {e.get("node") for e in cluster.log(r.at) if e["kind"] in ("dead", "recover", "fence")} - {node}
        if others:
            r.problems.append(f"nodes were touched that had nothing: {', '.join(map(str, others))}")


SITE = """
import os, time
_real = time.time
def _stepped():
    try:
        with open("/run/openrtc-clock/offset") as handle:
            return _real() + float(handle.read())
    except (OSError, ValueError):
        return _real()
time.time = _stepped
"""


@contextlib.contextmanager
def clocks(cluster: Cluster, hosts: t.Mapping[str, str]) -> t.Iterator[t.Callable[[float], None]]:
    """Processes of these {host: unit} whose time.time() can be stepped."""
    drop_in = "[Service]\nEnvironment=PYTHONPATH=/run/openrtc-clock:/usr/local/lib/livekit/fleet.zip\n"

    def each(script: str) -> None:
        for host, unit in hosts.items():
            cluster.run(host, "sh", "-c", script.replace("UNIT", unit))

    def set_to(seconds: float) -> None:
        each(f"echo {seconds} > /run/openrtc-clock/offset.new; mv /run/openrtc-clock/offset.new /run/openrtc-clock/offset")

    each(f"mkdir -p /run/openrtc-clock /run/systemd/system/UNIT.service.d; cat > /run/openrtc-clock/sitecustomize.py <<'EOF'\n{SITE}\nEOF\n"
         f"cat > /run/systemd/system/UNIT.service.d/clock.conf <<'EOF'\n{drop_in}EOF\n"
         "echo 0 > /run/openrtc-clock/offset; systemctl daemon-reload; systemctl stop UNIT; systemctl start UNIT")
    try:
        yield set_to
    finally:
        each("rm -rf /run/openrtc-clock /run/systemd/system/UNIT.service.d; systemctl daemon-reload; systemctl stop UNIT; systemctl start UNIT")


# -- something else dies in the middle of a move ------------------------------------------------------------------


@fault()
def receiver_killed(scene: Scene) -> None:
    """A node that takes in rooms dies while they come. Its callers wait until the rooms have been given to another one."""
    node, dummy = scene.victim()
    places = scene.cluster.places()
    at, delay = scene.moment("move", latest=1.0)
    scene.r.out = 2

    def act(entry: dict[str, t.Any]) -> None:
        target = sorted(entry["rooms"].values())[0]
        scene.r.facts["receiver"] = str(places[target])
        scene.kill_node(target, places[target])

    scene.evacuate(node, at, act, delay)


@fault()
def source_killed(scene: Scene) -> None:
    """A node dies while its rooms are being moved away. Callers who had not gone yet wait as after a crash."""
    node, place = scene.victim()
    at, delay = scene.moment("drain", "move", "cut", "settle", latest=1.0)

    def act(dummy: dict[str, t.Any]) -> None:
        with contextlib.suppress(SystemExit):  # the fence may have been quicker
            scene.kill_node(node, place)

    scene.evacuate(node, at, act, delay)


@fault()
def balancers_reloaded(scene: Scene) -> None:
    """Both balancers are reloaded while rooms are being moved. Nothing but the move itself is noticed."""
    node, dummy = scene.victim()
    at, delay = scene.moment("drain", "move", "cut", "settle")
    scene.evacuate(node, at, lambda dummy: scene.cluster.units("reload", "haproxy", ("edge1", "edge2")), delay)


@fault()
def balancer_killed(scene: Scene) -> None:
    """A balancer dies while rooms are being moved; systemd starts it again. Its callers reconnect, media of rooms that stay goes on."""
    node, dummy = scene.victim()
    host = scene.rng.choice(["edge1", "edge2"])
    at, delay = scene.moment("drain", "move", "cut", "settle")
    scene.evacuate(node, at, lambda dummy: scene.cluster.signal(host, "haproxy", "KILL"), delay)


@fault()
def executor_killed(scene: Scene) -> None:
    """The executor of the node's host or of a balancer dies while rooms are being moved; systemd starts it again. The move takes some seconds longer."""
    node, place = scene.victim()
    host = scene.rng.choice([place.host, "edge1", "edge2"])
    scene.r.facts["executor"] = host
    at, delay = scene.moment("drain", "move", "cut", "settle", "fence")
    scene.evacuate(node, at, lambda dummy: scene.cluster.signal(host, "livekit-executor", "KILL"), delay)


# -- rooms and callers at the worst moment ------------------------------------------------------------------------


@fault()
def room_created_mid_move(scene: Scene) -> None:
    """Rooms are made all the time while a node is emptied, some of them by name on that very node. All end up on living nodes and can be joined."""
    endpoint, cluster = scene.cluster.endpoint, scene.cluster
    node, dummy = scene.victim()
    prefix, stop = f"mid-{time.time():.0f}", threading.Event()
    made: list[str] = []
    refused: list[str] = []

    def create() -> None:
        turn = 0
        while not stop.wait(0.15):
            turn += 1
            try:
                api = Api(endpoint["urls"][turn % 2], endpoint["api_key"], endpoint["api_secret"], timeout=5)
                api.create_room(f"{prefix}-{len(made)}", node_id=node if turn % 3 == 0 else None, empty_timeout=60)
                made.append(f"{prefix}-{len(made)}")
            except FleetError as exc:  # the node by name is gone
                refused.append(exc.failure["got"])

    maker = threading.Thread(target=create, daemon=True)
    maker.start()
    time.sleep(1)
    scene.evacuate(node)
    time.sleep(0.5)
    stop.set()
    maker.join(10)
    time.sleep(1)
    with cluster.registry() as registry:
        snapshot = registry.snapshot()
    bad = [room for room in made if not snapshot.fresh(snapshot.room_node_map.get(room, ""))]
    scene.r.facts["rooms"] = f"{len(made)} made, {len(refused)} refused"
    if bad:
        scene.r.problems.append(f"{len(bad)} of {len(made)} rooms made meanwhile are on no living node: {', '.join(bad[:5])}")
    joined = cluster.calls(3, scene.out / "joined", "--every", "0", "--prefix", prefix)  # ends the round when they have no media
    joined.stop()


@fault(fresh=True)
def caller_never_back(scene: Scene) -> None:
    """The clients of half of the calls die right when their node is emptied. The others are not held up; nothing of the dead is left behind."""
    node, dummy = scene.victim()
    at, delay = scene.moment("drain", "move")

    def act(dummy: dict[str, t.Any]) -> None:
        parent = scene.calls.process.pid
        children = [int(pid) for pid in pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        clients = [pid for pid in children if b"spawn_main" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(scene.rng.choice(sorted(clients)), signal.SIGKILL)
        scene.r.given_up = CALLS // 2

    outcome = scene.evacuate(node, at, act, delay)
    if outcome and outcome.seconds > 15:
        scene.r.problems.append(f"the host was empty after {outcome.seconds} s only")
