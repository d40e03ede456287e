# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scaler over a real Redis and the model of a cluster, with the pool of warm slots."""
from __future__ import annotations

import json
import time

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import drain, move_plan, scaler
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.journal import Journal
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.lock import Lock
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.orders import Orders
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.policies.fixed import Fixed
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.pools import Machine, load
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.scaler import Scaler
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.scaling_settings import ScalingSettings
from fleet_model import Cluster, hurry

LIMITS = {"min": 1, "max": 6, "boot": 5.0, "settle": 0.0, "protect": 0.0}


class World:
    """Two hosts serve, two are warm. by: rooms, two of which fill a node."""

    def __init__(self, server, **settings):
        self.cluster = Cluster(server, {f"ND_{n}": (f"sfu{n}", 1) for n in (1, 2, 3, 4)})
        for n in (3, 4):
            self.cluster.nodes[f"ND_{n}"].state = "gone"
        registry = self.cluster.registry()
        self.lock = Lock(registry, "scale", "me", ttl=60)
        self.settings = ScalingSettings.of({"pool": {"kind": "slots"}, "measure": "rooms", "per_node": 2, "limits": LIMITS, **settings})
        self.pool = load(self.settings.pool, registry, Orders(registry, self.lock))
        self.scaler = Scaler(registry, self.pool, self.settings, Journal(registry, "me"), "me")
        self.registry = registry

    def step(self, policies=None):
        self.cluster.pump()
        sight = self.scaler.look()
        self.scaler.finish(sight)
        seen = self.scaler.view(sight, self.scaler.measure(sight))
        decision = self.scaler.decide(seen, policies)
        self.scaler.act(decision, sight)
        self.scaler.tell(decision, seen)
        return decision

    def kinds(self, policies=None):
        return [(a.kind, a.count) for a in self.step(policies).actions]

    def serving(self):
        return sorted(n.host for n in self.cluster.nodes.values() if n.state == "active")


@pytest.fixture
def world(redis_server, monkeypatch):
    hurry(monkeypatch)
    made = World(redis_server())
    with made.cluster:
        made.lock.acquire()
        yield made


def test_rooms_that_need_more_nodes_get_them(world):
    for n in range(5):
        world.cluster.room(f"room-{n}", "ND_1", f"ada-{n}")
    assert world.kinds() == [("add", 2)]  # 5 rooms and a quarter more: four nodes of two
    assert world.serving() == ["sfu1", "sfu2", "sfu3", "sfu4"]
    assert world.kinds() == [("hold", 0)]
    told = scaler.status(world.registry)
    assert (told["demand"], told["capacity"], told["serving"], told["size"]) == (5.0, 2.0, 4, 4)


def test_a_node_is_given_back_when_its_calls_have_moved(world):
    world.cluster.room("standup", "ND_1", "ada", "bob")
    decision = world.step([Fixed(1)])
    assert [a.nodes for a in decision.actions] == [("sfu2/1",)]  # the emptier one
    asked = drain.requests(world.registry)
    assert [(r.host, r.policy, r.by) for r in asked.values()] == [("sfu2", "move", "me")]
    mover = world.cluster.mover(owner="controller")
    with mover.lock:
        drain.Drainer(mover).step(asked["ND_2"])
    end = time.monotonic() + 5
    while "sfu2" in world.serving() + [n.host for n in world.cluster.nodes.values() if n.alive and n.id == "ND_2"] and time.monotonic() < end:
        time.sleep(0.02)
    assert world.kinds([Fixed(1)]) == [("hold", 0)]
    assert world.serving() == ["sfu1"] and world.cluster.nodes["ND_2"].terms == 1
    assert all(c.joins == 1 for c in world.cluster.callers)


def test_a_leaving_node_is_not_asked_twice_and_does_not_count(world):
    world.cluster.room("standup", "ND_2", "ada")
    world.cluster.room("lesson", "ND_1", "bob")
    world.step([Fixed(1)])
    before = world.cluster.client.hgetall(drain.DRAINS)
    assert world.kinds([Fixed(1)]) == [("hold", 0)]
    assert world.cluster.client.hgetall(drain.DRAINS) == before
    assert world.kinds([Fixed(2)]) == [("add", 1)]


def test_nothing_is_done_while_all_nodes_look_stale(world):
    world.cluster.stopped.set()
    time.sleep(0.1)
    for node in world.cluster.nodes.values():
        node.frozen = True
        world.cluster.server.add_node(node.id, age=30)
    sight = world.scaler.look()
    decision = world.scaler.decide(world.scaler.view(sight, world.scaler.measure(sight)), [Fixed(6)])
    assert [a.kind for a in decision.actions] == ["freeze"] and "stale" in decision.actions[0].reason
    assert move_plan.frozen(sight.snapshot)


def test_nothing_is_done_while_the_pool_does_not_answer(world):
    world.pool.machines = unreachable
    decision = world.step([Fixed(6)])
    assert [a.kind for a in decision.actions] == ["freeze"] and "the cloud is away" in decision.actions[0].reason
    assert world.serving() == ["sfu1", "sfu2"]
    assert world.cluster.client.hgetall(scaler.MARKS) == {}  # and nothing is forgotten for it


def unreachable():
    raise FleetError("list machines", "the cloud", "the cloud is away", "wait", code="pool_unreachable")


def test_a_dry_run_decides_and_does_nothing(redis_server):
    made = World(redis_server(), limits={**LIMITS, "dry_run": True})
    with made.cluster:
        made.lock.acquire()
        before = made.cluster.orders[:]
        assert made.kinds([Fixed(4)]) == [("add", 2)]
        assert made.serving() == ["sfu1", "sfu2"] and made.cluster.orders == before
        assert made.kinds([Fixed(1)]) == [("retire", 1)] and drain.requests(made.registry) == {}
        assert not [key for key in made.cluster.client.keys("openrtc:scaling:*") if not key.endswith(b":dry-run")]


def test_an_order_whose_answer_was_lost_is_not_given_again(world):
    add = world.pool.add

    def lost(count, order=""):
        add(count, order)
        raise FleetError("add", "pool", "connection reset", "wait", code="pool_unreachable")

    world.pool.add = lost
    with pytest.raises(FleetError):
        world.step([Fixed(3)])
    world.pool.add = add
    assert world.kinds([Fixed(3)]) == [("hold", 0)]
    assert world.serving() == ["sfu1", "sfu2", "sfu3"]


def test_a_start_that_never_serves_is_replaced(world):
    world.cluster.slow_start = True
    world.step([Fixed(3)])
    assert world.kinds([Fixed(3)]) == [("hold", 0)]
    marks = {k.decode(): json.loads(v) for k, v in world.cluster.client.hgetall(scaler.MARKS).items()}
    assert sorted(marks) == ["sfu1/1", "sfu2/1", "sfu3/1"]
    for node in world.cluster.nodes.values():
        if node.state == "activating":
            node.since = time.time() - 4000
    assert world.kinds([Fixed(3)]) == [("replace", 0), ("add", 1)]
    assert [(o[0], o[1]) for o in world.cluster.orders] == [("sfu3", "start"), ("sfu3", "rest"), ("sfu4", "start")]


def test_a_node_that_served_and_hangs_has_time_to_come_back(world):
    world.step([Fixed(2)])
    world.cluster.nodes["ND_2"].frozen = True
    world.cluster.nodes["ND_2"].since = time.time() - 90000
    world.cluster.server.add_node("ND_2", age=20)
    sight = world.scaler.look()
    found = {m.id: m.state for m in world.scaler.view(sight, world.scaler.measure(sight)).members}
    assert found["sfu2/1"] == "starting"
    assert world.kinds([Fixed(2)]) == [("hold", 0)]


def test_nodes_outside_of_the_pool_count_and_are_never_given_back(redis_server):
    made = World(redis_server(), pool={"kind": "slots", "hosts": ["sfu[234]"]})
    with made.cluster:
        made.lock.acquire()
        decision = made.step([Fixed(1)])
        assert [a.nodes for a in decision.actions] == [("sfu2/1",)]
        assert made.step([Fixed(1)]).have == 1


def test_a_node_that_nobody_reports_keeps_all_others(world):
    world.cluster.server.add_node("ND_stray", age=-60)
    decision = world.step([Fixed(1)])
    assert decision.actions[0].kind == "hold" and "nothing is given back before they agree" in decision.actions[0].reason


def test_those_who_wait_count_for_a_minute(world):
    now = world.registry.now()
    rows = {"lobby": {"units": 3, "at": now}, "old": {"units": 50, "at": now - 100}, "odd": {"units": "x", "at": now}, "below": {"units": -4, "at": now}}
    world.cluster.client.hset(scaler.WAITING, mapping={k: json.dumps(v) for k, v in rows.items()})
    assert world.scaler.look().waiting == 3.0


class TakesAway:
    """A pool that wants a machine back by itself, as an ASG does that evens out its zones."""

    name, takes_away = "asg", True

    def __init__(self):
        self.gone = []

    def machines(self):
        return [Machine("i-1", "ending", "sfu1"), Machine("i-2", "running", "sfu2")]

    def size(self):
        return 1

    def retire(self, ids):
        self.gone += ids
        return list(ids)


def test_a_machine_that_its_pool_takes_is_emptied_first(world):
    world.scaler.pool = pool = TakesAway()
    world.cluster.room("standup", "ND_1", "ada")
    world.step([Fixed(1)])
    assert pool.gone == [] and [(r.host, r.policy) for r in drain.requests(world.registry).values()] == [("sfu1", "now")]
    mover = world.cluster.mover(owner="controller")
    with mover.lock:
        drain.Drainer(mover).step(drain.requests(world.registry)["ND_1"])
        mover_end = time.monotonic() + 5
        while drain.requests(world.registry) and time.monotonic() < mover_end:
            drain.Drainer(mover).step(drain.requests(world.registry)["ND_1"])
    world.cluster.pump()
    world.step([Fixed(1)])
    assert pool.gone == ["i-1"] and world.cluster.callers[0].node == "ND_2"


def test_a_pool_whose_return_is_a_drain_is_asked_for_no_other(world):
    world.scaler.pool = pool = TakesAway()
    pool.graceful, pool.machines = True, lambda: [Machine(f"pod-{n}", "running", f"sfu{n}") for n in (1, 2)]
    pool.size = lambda: 2
    world.step([Fixed(1)])
    assert pool.gone == ["pod-1"] and drain.requests(world.registry) == {}


@pytest.mark.parametrize("values, code", [
    ({"limts": {}}, "scaling_settings"), ({"limits": [1]}, "scaling_settings"), ({"limits": {"min": 3, "max": 2}}, "scaling_min_max"),
    ({"measure": "calls"}, "scaling_settings"), ({"per_node": 0}, "scaling_settings"), ({"per_node": True}, "scaling_settings"),
    ({"goal": 1}, "scaling_settings"), ({"drain": {"policy": "end"}}, "scaling_settings"), ({"drain": {"wait": 1}}, "scaling_settings"),
    ({"drain": {"deadline": "soon"}}, "bad_duration"), ({"policies": {"headrom": {}}}, "policy_invalid"), ({"profiles": {"c5": {"cpu": 3}}}, "profile_invalid"),
])
def test_settings_that_cannot_work_are_told(values, code):
    with pytest.raises(FleetError) as caught:
        ScalingSettings.of(values)
    assert caught.value.failure["code"] == code
