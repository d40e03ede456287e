# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ghosts: what is one for sure, and that nothing else is removed."""
from __future__ import annotations

import dataclasses
import time

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import cleanup
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.lock import Lock
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry import connect
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry_messages import Room
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import Reports
from engine_sample import NOW, node, report, slot, snapshot, usual


def details(**ages):
    return {name: Room(name, "RM", int(NOW - age), 0, 0, 0, 300, 20, False, "") for name, age in ages.items()}


def plan(nodes, hosts=(), rooms=None, probes=None, ages=None, known=()):
    return cleanup.plan(snapshot(nodes, rooms, known=known), Reports(hosts), probes or {}, details(**(ages or {})))


def test_good_health():
    nodes, hosts = usual()
    assert not plan(nodes, hosts, {"r": "a"}, ages={"r": 900})


def test_a_dead_node_and_its_rooms():
    found = plan([node("a", 90), node("b")], usual()[1][1:], {"r": "a", "s": "b"}, ages={"r": 900, "s": 900})
    assert found.nodes == {"ND_a": "silent for 90 s"} and found.rooms == {"r": "on node ND_a, which is gone"} and found.homes == {"r": "ND_a"}
    assert found.as_dict() == {"nodes": dict(found.nodes), "rooms": dict(found.rooms)}


@pytest.mark.parametrize(("hosts", "probes"), [
    ([report("sfu1", slot("a"))], {}),  # its host runs it
    ([report("sfu1", slot("a", "deactivating"))], {"ND_a": "timeout"}),
    ([report("sfu1", slot("a"), age=90)], {}),  # nobody asked its port
    ([report("sfu1", slot("a"), age=30)], {"ND_a": "timeout"}),  # its host is silent for half a minute only
    ([report("sfu1", slot("a"), age=90)], {"ND_a": "406"}),  # its port answers
    ([], {"ND_a": "200"}),
    ([], {"ND_a": "0"}),
])
def test_a_node_that_may_live_is_kept_with_its_rooms(hosts, probes):
    assert not plan([node("a", 90), node("b")], hosts, {"r": "a"}, probes, {"r": 900})


@pytest.mark.parametrize(("age", "answer"), [(61, "timeout"), (90000, "silent"), (90, "unreachable")])
def test_the_nodes_of_a_host_that_is_gone(age, answer):
    found = plan([node("a", 90), node("b")], [report("sfu1", slot("a"), age=age)], {"r": "a"}, {"ND_a": answer}, {"r": 900})
    assert list(found.nodes) == ["ND_a"] and list(found.rooms) == ["r"]


def test_a_node_that_is_only_stale_is_no_ghost():
    assert not plan([node("a", 59), node("b")], rooms={"r": "a"}, ages={"r": 900})


def test_rooms_of_nodes_that_the_registry_does_not_know():
    found = plan([node("b")], rooms={"r": "zz", "young": "zz", "bare": "zz"}, ages={"r": 900, "young": 5})
    assert set(found.rooms) == {"r", "bare"}
    assert not plan([node("b")], [report("sfu1", slot("zz"))], {"r": "zz"}, ages={"r": 900}), "its host runs it: it has not registered again yet"


def test_rooms_that_no_node_hosts():
    found = plan([node("b")], known=("r", "young", "odd"), ages={"r": 900, "young": 5})
    assert found.rooms == {"r": "no node hosts it"} and found.homes == {"r": ""}


def test_rooms_that_moved_and_that_nobody_came_back_to():
    """Their node has never opened them, so it never closes them."""
    rooms, ages = dict.fromkeys(("left", "young", "busy"), "b"), {"left": 400, "young": 320, "busy": 900}
    found = cleanup.plan(snapshot([node("b")], rooms), Reports([]), {}, details(**ages), empty=["left", "young"])
    assert found.rooms == {"left": "empty, and node ND_b should have closed it"} and found.homes == {"left": "ND_b"}
    assert found.lasting == {"left": 80}, "its node may keep it open for 20 s after the last participant"


def test_frozen():
    for nodes in ([], [node("a", 90), node("b", 90)]):
        with pytest.raises(FleetError) as caught:
            plan(nodes, rooms={"r": "a"})
        assert caught.value.failure["code"] == "frozen"


@pytest.fixture
def server(redis_server):
    return redis_server()


def test_only_what_is_still_as_it_was_is_removed(server):
    for name in ("gone", "taken", "back", "loose", "opened"):
        server.add_room(name, creation_time=1)
        server.add_participant(name, "ann")
    server.client.hset("room_internal", "gone", "x")
    server.client.hset("room_node_map", mapping={"gone": "ND_dead", "taken": "ND_dead", "back": "ND_back"})
    server.add_node("ND_dead", age=90)
    server.add_node("ND_back", age=90)
    server.add_node("ND_b", rooms=["mine"])
    with connect({"address": server.address}) as registry:
        found = cleanup.plan(registry.snapshot(), Reports([]), {}, registry.room_details())
        assert set(found.nodes) == {"ND_dead", "ND_back"} and set(found.rooms) == {"gone", "taken", "back", "loose", "opened"}
        server.client.hset("room_node_map", mapping={"taken": "ND_b", "opened": "ND_b"})
        server.add_node("ND_back")
        with Lock(registry, "move", "me") as lock:
            removed = cleanup.apply(registry, lock, found)
            assert set(removed.rooms) == {"gone", "loose"} and set(removed.nodes) == {"ND_dead"}
            assert not cleanup.apply(registry, lock, dataclasses.replace(found, nodes={}, rooms={"gone": "x"}, homes={"gone": "ND_dead"}))
    assert server.client.hkeys("nodes") == [b"ND_back", b"ND_b"]
    assert set(server.client.hkeys("rooms")) == {b"taken", b"back", b"opened", b"mine"}
    assert not server.client.exists("room_participants:gone") and not server.client.exists("room_internal") and server.client.exists("room_participants:taken")


def test_an_empty_room_is_removed_only_while_it_is_empty_and_its_node_lives(server):
    for name in ("left", "joined", "moved"):
        server.add_room(name, "ND_b", creation_time=1)
    server.add_node("ND_b")
    server.add_node("ND_c", age=90)
    with connect({"address": server.address}) as registry:
        found = cleanup.plan(registry.snapshot(), Reports([]), {}, registry.room_details(), empty=["left", "joined", "moved"])
        assert set(found.lasting) == set(found.rooms) == {"left", "joined", "moved"}
        server.add_participant("joined", "ann")
        server.client.hset("room_node_map", "moved", "ND_c")
        with Lock(registry, "move", "me") as lock:
            assert set(cleanup.apply(registry, lock, dataclasses.replace(found, nodes={})).rooms) == {"left"}
    assert set(server.client.hkeys("rooms")) == {b"joined", b"moved"}


def test_nothing_is_removed_without_the_lock(server):
    server.add_node("ND_dead", age=90, rooms=["r"])
    server.add_node("ND_b")
    with connect({"address": server.address}) as registry:
        found = cleanup.plan(registry.snapshot(), Reports([]), {}, {})
        late = Lock(registry, "move", "late", ttl=0.05).acquire()
        time.sleep(0.1)
        Lock(registry, "move", "now").acquire()
        for what in (found, dataclasses.replace(found, rooms={})):
            with pytest.raises(FleetError) as caught:
                cleanup.apply(registry, late, what)
            assert caught.value.failure["code"] == "lock_lost"
    assert server.client.hexists("rooms", "r") and server.client.hexists("nodes", "ND_dead")
