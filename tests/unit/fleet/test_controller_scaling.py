# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller as scaler, over a real Redis and the model of a cluster."""
from __future__ import annotations

import dataclasses
import time

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import drain, journal, scaler
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller import scaling as module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.look import Look
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.scaling import Scaling
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.demand_store import DemandStore
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.lock import Lock
from controller_sample import settings
from fleet_model import Cluster

CONFIG = {"pool": {"kind": "slots"}, "measure": "rooms", "per_node": 2, "limits": {"min": 2, "max": 6, "boot": 5.0, "settle": 0.0, "protect": 0.0}}


@dataclasses.dataclass
class Loop:
    leads: bool = True
    look: Look = Look()

    def __post_init__(self):
        self.look = Healthy()


class Healthy:
    frozen = ""


class World:
    def __init__(self, server, folder, name="edge1", **more):
        self.server, self.told, self.loop = server, [], Loop()
        self.cluster = Cluster(server, {f"ND_{n}": (f"sfu{n}", 1) for n in (1, 2, 3, 4)})
        for n in (3, 4):
            self.cluster.nodes[f"ND_{n}"].state = "gone"
        self.scaling = self.make(folder, name, **more)

    def make(self, folder, name, scaling=None, **more):
        found = settings(self.server, name=name, scaling=scaling or CONFIG, demand_file=str(folder / f"{name}.sqlite"), **more)
        return Scaling(found, self.loop, self.cluster.registry, self.told.append)

    def look_again(self):
        self.scaling._looked = 0.0
        return self.step()

    def step(self):
        self.cluster.pump()
        return self.scaling.step()

    def serving(self):
        return sum(n.state == "active" for n in self.cluster.nodes.values())

    def event(self, kind, room, at=None, created=None):
        now = time.time()
        self.scaling.hear({"event": kind, "room": {"name": room, "creationTime": str(int(created or now))}, "createdAt": str(int(at or now))})


@pytest.fixture
def world(redis_server, tmp_path):
    made = World(redis_server(), tmp_path)
    with made.cluster:
        yield made


def test_demand_grows_and_shrinks_the_cluster(world):
    for n in range(6):
        world.cluster.room(f"room-{n}", f"ND_{n % 2 + 1}", f"ada-{n}")
    world.step()
    assert world.serving() == 4
    assert [(e["kind"], e["action"], e["count"], e["outcome"]) for e in world.told if e["kind"] == "scale"] == [("scale", "add", 2, "done")]
    entry = journal.recent(world.cluster.registry(), 5)[0]
    assert entry["by"] == "controller@edge1" and entry["wishes"] and "6 now" in entry["reason"]
    for caller in world.cluster.callers[:]:
        world.cluster.leave(caller)
    for n in range(6):
        world.server.client.hdel("room_node_map", f"room-{n}")
        world.server.client.hdel("rooms", f"room-{n}")
    world.look_again()
    asked = drain.requests(world.cluster.registry())
    assert len(asked) == 2 and {r.policy for r in asked.values()} == {"move"}


def test_a_follower_learns_and_does_nothing(world):
    world.loop.leads = False
    for n in range(6):
        world.cluster.room(f"room-{n}", "ND_1", f"ada-{n}")
    before = world.server.dump()
    assert world.step() is None and world.serving() == 2 and world.told == []
    changed = {key for key, value in world.server.dump().items() if key.startswith(b"openrtc:") and before.get(key) != value} - {b"openrtc:hosts"}
    assert changed == set()
    assert world.scaling._most == 6.0


def test_a_webhook_is_decided_on_at_once_and_cannot_drift(world):
    world.step()
    assert world.serving() == 2
    for n in range(5):
        world.event("room_started", f"room-{n}")
        world.event("room_started", f"room-{n}")  # doubled
    looked = world.scaling._looked
    decision = world.scaling.step()
    assert world.scaling._looked == looked and [(a.kind, a.count) for a in decision.actions] == [("add", 1)]
    assert "webhooks tell of 5" in decision.actions[0].reason
    world.event("room_finished", "room-0")
    world.event("room_started", "room-0", created=time.time() - 5)  # late and out of order
    world.look_again()
    assert world.serving() == 3


def test_a_webhook_after_an_action_does_not_order_twice(world):
    for n in range(3):
        world.event("room_started", f"room-{n}")
    world.step()
    for n in range(3, 5):
        world.event("room_started", f"room-{n}")
        world.step()
    assert world.serving() == 3


def test_odd_webhooks_are_ignored(world):
    for event in ({}, {"room": 3}, {"event": "room_started", "room": {"name": "a", "creationTime": "soon"}}, {"event": 3, "room": {}}):
        world.scaling.hear(event)
    assert world.scaling.ledger.live() == set()


def test_refusals_ask_for_more(world):
    for n in range(4):
        world.cluster.room(f"room-{n}", "ND_1", f"ada-{n}")
    world.scaling.refused()
    decision = world.step()
    assert any(w.policy == "queue" and "1 were refused" in w.reason for w in decision.wishes)


def test_a_frozen_registry_stops_everything(world):
    world.loop.look.frozen = "Redis is away"
    assert world.step() is None and world.told == []


def test_an_operators_run_comes_first(world):
    other = Lock(world.cluster.registry(), "scale", "ops pid 7", ttl=60)
    other.acquire()
    for n in range(6):
        world.cluster.room(f"room-{n}", "ND_1", f"ada-{n}")
    with pytest.raises(FleetError) as caught:
        world.step()
    assert caught.value.failure["code"] == "locked" and world.serving() == 2


def test_what_an_operators_run_did_meanwhile_is_seen(world):
    world.step()
    registry = world.cluster.registry()
    state = world.scaling.scaler.state(registry.now())
    registry.ask("", ("SET", scaler.STATE, dataclasses.replace(state, at=state.at + 0.5).as_json()))
    looked = world.scaling._looked
    world.step()
    assert world.scaling._looked > looked


def test_a_dry_run_tells_once_and_leaves_no_lock(redis_server, tmp_path):
    made = World(redis_server(), tmp_path, dry_run=True)
    with made.cluster:
        for n in range(6):
            made.cluster.room(f"room-{n}", "ND_1", f"ada-{n}")
        made.step()
        made.look_again()
        assert made.serving() == 2 and [(e["action"], e["outcome"]) for e in made.told] == [("add", "dry_run")]
        assert not made.server.client.keys("*lock*")


def test_a_pool_that_refuses_is_told_and_tried_again(world):
    world.cluster.refusing |= {"sfu3", "sfu4"}
    for n in range(6):
        world.cluster.room(f"room-{n}", "ND_1", f"ada-{n}")
    with pytest.raises(FleetError):
        world.step()
    assert [e["outcome"] for e in world.told] == ["slot_cold"]
    world.cluster.refusing.clear()
    world.look_again()
    assert world.serving() == 4


def test_the_largest_demand_of_each_minute_is_kept_and_learned_from(world, tmp_path):
    world.scaling._remember(6000.0, 3.0)
    world.scaling._remember(6030.0, 7.0)
    world.scaling._remember(6059.0, 5.0)
    world.scaling.sight = world.scaling.scaler.look()
    world.scaling._remember(6060.0, 1.0)
    assert DemandStore(str(tmp_path / "edge1.sqlite")).rows() == [(6000.0, 7.0)]
    assert list(world.scaling.forecaster.series.values) == [7.0]
    drawn = scaler.history(world.cluster.registry())
    assert [(p["at"], p["demand"], p["serving"]) for p in drawn] == [(6000.0, 7.0, 2)] and drawn[0]["low"] <= drawn[0]["middle"] <= drawn[0]["high"]


def test_history_is_learned_at_the_start(world, tmp_path):
    now = time.time() // 60 * 60
    DemandStore(str(tmp_path / "edge2.sqlite")).add([(now - 60 * n, 4.0) for n in range(300)] + [(now - 90 * 86400, 9.0)])
    scaling = world.make(tmp_path, "edge2")
    assert scaling.learn() == 300 and scaling.forecaster.outlook().level == pytest.approx(4.0, abs=0.5)


def test_the_thread_goes_on_after_whatever_happens(world, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.05)
    broken = world.scaling.scaler.look
    world.scaling.scaler.look = None
    world.scaling.start()
    end = time.monotonic() + 5
    while not any(e["kind"] == "error" for e in world.told) and time.monotonic() < end:
        time.sleep(0.02)
    world.scaling.scaler.look = broken
    for n in range(6):
        world.cluster.room(f"room-{n}", "ND_1", f"ada-{n}")
    while world.serving() < 4 and time.monotonic() < end:
        time.sleep(0.02)
    world.scaling.stop()
    assert world.serving() == 4 and sum(e["kind"] == "error" for e in world.told) == 1


@pytest.mark.parametrize("scaling, code", [
    ({"pool": {"kind": "slotz"}}, "pool_unknown"), ({"limits": {"min": 5, "max": 2}}, "scaling_min_max"), ({"x": 1}, "scaling_settings"),
])
def test_wrong_settings_end_the_start(world, tmp_path, scaling, code):
    with pytest.raises(FleetError) as caught:
        world.make(tmp_path, "edge3", scaling={"pool": {"kind": "slots"}, **scaling})
    assert caught.value.failure["code"] == code
