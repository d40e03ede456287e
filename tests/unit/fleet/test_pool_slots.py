# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool of warm slots, on the model of a cluster."""
from __future__ import annotations

import time

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.generation import Slot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.lock import Lock
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.orders import Orders
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.pools import ENDING, load
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.pools.slots import warm
from fleet_model import Cluster
from pool_conformance import Conformance, code, ids


class World:
    """Six hosts, of which three serve and three are warm."""

    room, stranger, away = 3, "sfu9/1", ("redis_unreachable", "redis_lost")

    def __init__(self, server):
        self.server = server
        self.cluster = Cluster(server, {f"ND_{n}": (f"sfu{n}", 1) for n in range(1, 7)}, balancers=())
        for n in (4, 5, 6):
            self.cluster.nodes[f"ND_{n}"].state = "gone"
        registry = self.cluster.registry()
        registry.timeout = 0.3
        self.lock = Lock(registry, "scale", "me", ttl=60)
        self.pool = load({"kind": "slots"}, registry, Orders(registry, self.lock))

    def who(self):
        return {f"{n.host}/{n.slot}" for n in self.cluster.nodes.values() if n.alive}

    def settle(self):
        self.cluster.come_up()
        end = time.monotonic() + 5
        while any(n.state not in ("active", "gone") for n in self.cluster.nodes.values()) and time.monotonic() < end:
            time.sleep(0.02)
        self.cluster.pump()

    def hold(self):
        self.cluster.slow_start = True

    def lose(self, name):
        self.cluster.kill(next(i for i, n in self.cluster.nodes.items() if n.alive and name == f"{n.host}/{n.slot}"))
        self.cluster.pump()

    def cut(self):
        self.was = self.pool.registry.ask
        self.pool.registry.ask = self.unreachable

    def unreachable(self, *_args):
        raise FleetError("ask Redis", "here", "refused", "wait", code="redis_unreachable")

    def mend(self):
        self.pool.registry.ask = self.was

    def deaf(self):
        answer = self.pool.registry.wait_for
        self.pool.registry.wait_for = lambda key, timeout: setattr(self.pool.registry, "wait_for", answer) or answer(key, timeout) and None


@pytest.fixture
def world(redis_server):
    made = World(redis_server())
    with made.cluster:
        made.lock.acquire()
        yield made


class TestSlots(Conformance):
    pass


def test_a_node_with_a_call_on_it_ends_when_the_call_does(world):
    world.cluster.room("standup", "ND_1", "ada")
    world.cluster.pump()
    assert world.pool.retire(["sfu1/1"]) == ["sfu1/1"]
    time.sleep(0.2)
    world.cluster.pump()
    assert {m.id: m.state for m in world.pool.machines()}["sfu1/1"] == ENDING
    assert (world.cluster.nodes["ND_1"].terms, world.cluster.nodes["ND_1"].kills) == (1, 0)
    assert world.pool.retire(["sfu1/1"]) == []  # no second signal
    world.cluster.leave(world.cluster.callers[0])
    world.settle()
    assert "sfu1/1" not in ids(world)


def test_hosts_that_run_nothing_come_before_second_nodes(world):
    world.pool.per_host = 2
    assert world.pool.add(3) == ["sfu4/1", "sfu5/1", "sfu6/1"]


def test_only_hosts_that_the_patterns_name_belong_to_it(world):
    world.pool.hosts = ("sfu[14]",)
    assert ids(world) == {"sfu1/1"}
    assert world.pool.add(3) == ["sfu4/1"]
    assert code(world.pool.add, 1) == "pool_full"


def test_a_host_that_refuses_does_not_keep_the_others_from_starting(world):
    world.cluster.refusing.add("sfu4")
    assert world.pool.add(2) == ["sfu5/1"]
    world.cluster.refusing |= {"sfu5", "sfu6"}
    world.settle()
    assert code(world.pool.add, 1) == "slot_cold"


def test_what_the_operator_protects_is_told(world):
    world.pool.protected = ("sfu2",)
    assert [m.id for m in world.pool.machines() if m.protected] == ["sfu2/1"]


def slot(**fields):
    return Slot(1, **{"generation": "g", "gate": "g", "version": "1.13.5", **fields})


@pytest.mark.parametrize("found, ready", [
    (slot(), True),
    (slot(state="active"), False),
    (slot(state="deactivating"), False),
    (slot(gate=None), False),
    (slot(gate="other"), False),
    (slot(intact=False), False),
    (slot(exposed=("/etc/livekit/slots/1/keys.yaml",)), False),
    (slot(version="1.13.4"), False),
    (Slot(1), False),
])
def test_a_slot_is_warm_when_it_served_what_serves_now(found, ready):
    assert warm(found, {"1.13.5"}) is ready


def test_settings_that_nobody_knows_are_refused(world):
    assert code(load, {"kind": "slots", "per_hots": 2}, None, None) == "pool_settings"
    assert code(load, {"kind": "slotz"}, None, None) == "pool_unknown"
    assert code(load, {}, None, None) == "pool_unknown"
