# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules drain, room_move and registry_cleanup, with a real Redis and a model of nodes and executors (fleet_model.py)."""
from __future__ import annotations

import dataclasses
import time

import fleet_model
import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils import _engine_module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import drain_run
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.move_plan import Moved, Record
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import HOSTS
from ansible_collections.openrtc.livekit.plugins.modules import drain, registry_cleanup, room_move

NODES = {"ND_a": ("sfu1", 1), "ND_b": ("sfu2", 1), "ND_c": ("sfu3", 1)}


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    fleet_model.hurry(monkeypatch)
    monkeypatch.setattr(drain_run, "LOOK", 0.02)
    monkeypatch.setattr(drain_run, "FREEZE_SECONDS", 0.5)


@pytest.fixture
def cluster(redis_server):
    with fleet_model.Cluster(redis_server(), NODES, linger=0.3) as found:
        found.room("r1", "ND_a", "ann", "bob")
        found.room("r2", "ND_a", "eve")
        found.room("other", "ND_b", "joe")
        yield found


@pytest.fixture
def run(cluster, run_module):
    """run(module, check=…, **options) -> its result."""
    return lambda module, check=False, **options: run_module(module.main, {"redis": {"address": cluster.server.address}, "lock_wait": 0.2, **options},
                                                             check=check)


def state(cluster):
    """What check mode must leave alone: all that nodes and executors do not write themselves."""
    keys = [k for k in cluster.client.keys("*") if k not in (b"nodes", HOSTS.encode())]
    return {k: cluster.client.dump(k) for k in keys}


def stop(cluster):
    """From now on nothing refreshes: for dumps that can be compared."""
    cluster.stopped.set()
    for thread in cluster.threads:
        thread.join(5)


# --- drain

def test_drain(cluster, run):
    got = run(drain, hosts=["sfu1"], policy="now", owner="alice")
    assert not got["failed"] and got["changed"] and got["done"]
    assert [(d["node_id"], d["state"]) for d in got["drains"]] == [("ND_a", "gone")]
    assert {"drain", "move", "cut", "fence"} <= {e["kind"] for e in got["timeline"]} and {e["by"] for e in got["timeline"]} == {"alice"}
    cluster.assert_evacuated("ND_a", ("r1", "r2"))
    again = run(drain, hosts=["sfu1"], policy="now")
    assert not again["failed"] and not again["changed"] and again["done"] and again["drains"] == [] and again["timeline"] == []


@pytest.mark.parametrize("policy", ["move", "wait", "now", "end"])
def test_drain_in_check_mode(cluster, run, policy):
    before = state(cluster)
    got = run(drain, check=True, hosts=["sfu1"], policy=policy)
    assert not got["failed"] and got["changed"] and not got["done"] and got["drains"][0]["state"] == "drain"
    assert got["drains"][0]["rooms"] == 2 and got["timeline"] == []
    assert state(cluster) == before and not cluster.orders


def test_drain_without_waiting(cluster, run):
    got = run(drain, node_ids=["ND_a"], wait=False, deadline="1h")
    row, = got["drains"]
    assert got["changed"] and not got["done"] and row["state"] == "wait" and 3590 < row["deadline"] <= 3600
    again = run(drain, node_ids=["ND_a"], wait=False, deadline="1h")
    assert not again["changed"] and cluster.nodes["ND_a"].terms == 1
    assert not run(drain, check=True, node_ids=["ND_a"], wait=False, deadline="1h")["changed"]
    turn = run(drain, node_ids=["ND_a"], deadline="1h", poll=0.1)
    assert not turn["failed"] and not turn["done"]


@pytest.mark.parametrize(("options", "code"), [
    ({"hosts": ["sfu9"]}, "host_unknown"), ({"node_ids": ["ND_none"]}, "node_unknown"), ({"hosts": ["sfu1", "sfu2", "sfu3"]}, "last_node"),
    ({"hosts": ["sfu1"], "deadline": "-5m"}, "bad_duration"), ({"hosts": ["sfu1"], "deadline": "soon"}, "bad_duration"),
    ({"hosts": ["sfu1"], "participants_limit": 1}, "no_headroom"), ({"hosts": ["sfu1"], "policy": "now", "cpu_limit": 0.01}, "no_headroom"),
])
@pytest.mark.parametrize("check", [False, True])
def test_drain_refuses(cluster, run, options, code, check):
    got = run(drain, check=check, **options)
    assert got["failed"] and got["failure"]["code"] == code and not got["changed"] and got["msg"].startswith("Could not") and got["failure"]["fix"]
    assert not cluster.orders and not cluster.client.exists("openrtc:drains")


def test_drain_with_bad_options(cluster, run):
    assert "hosts or node_ids" in run(drain)["msg"]
    assert run(drain, hosts=["sfu1"], policy="kill")["failed"]
    assert run(drain, hosts=[], node_ids=[])["failed"]
    assert run(drain, hosts=["sfu1"], neighbours=[{"unit": "x"}])["failed"]
    assert not run(drain, hosts=["sfu1"], policy="wait", deadline="soon", wait=False)["failed"], "no deadline is read for that policy"


def test_drain_tells_who_else_moves(cluster, run):
    other = cluster.mover("bob@desk pid 1")
    with other.lock:
        got = run(drain, hosts=["sfu1"], policy="now")
    assert got["failure"]["code"] == "locked" and got["failure"]["owner"] == "bob@desk pid 1" and "bob@desk pid 1" in got["msg"]


def test_an_empty_registry_is_frozen(redis_server, run_module):
    server = redis_server()
    redis = {"redis": {"address": server.address}}
    for main, options, in ((drain.main, {"hosts": ["sfu1"]}), (room_move.main, {"rooms": ["r"]}), (room_move.main, {"rebalance": True}),
                           (registry_cleanup.main, {})):
        got = run_module(main, {**redis, **options})
        assert got["failed"] and got["failure"]["code"] == "frozen" and not got["changed"], main
    assert server.dump() == {}
    server.add_node("ND_a", age=60, rooms=["r"])
    before = server.dump()
    for main, options, in ((drain.main, {"node_ids": ["ND_a"]}), (room_move.main, {"rooms": ["r"]}), (registry_cleanup.main, {})):
        assert run_module(main, {**redis, **options})["failure"]["code"] == "frozen"
    assert server.dump() == before


def test_redis_out_of_reach(run_module):
    for main, options in ((drain.main, {"hosts": ["a"]}), (room_move.main, {"rooms": ["r"]}), (registry_cleanup.main, {})):
        got = run_module(main, {"redis": {"address": "127.0.0.1:1"}, **options})
        assert got["failed"] and got["failure"]["code"] == "redis_unreachable" and got["timeline"] == []


def test_who_acts_is_named(redis_server):
    with _engine_module.engine({"redis": {"address": redis_server().address}, "owner": None, "lock_wait": 0, "cpu_limit": 0.5,
                                "participants_limit": 7}) as mover:
        assert mover.lock.owner == mover.journal.by and " pid " in mover.lock.owner and (mover.limits.cpu, mover.limits.participants) == (0.5, 7)
        mover.lock.renew()


# --- room_move

def test_rooms_move(cluster, run):
    got = run(room_move, rooms=["r1"], to="sfu3")
    assert got["changed"] and got["moved"] == {"r1": "ND_c"} and {"cut", "move"} <= {e["kind"] for e in got["timeline"]}
    cluster.settle()
    assert cluster.homes() == {"r1": "ND_c", "r2": "ND_a", "other": "ND_b"} and cluster.rooms()["r1"] == "about r1"


@pytest.mark.parametrize("options", [{"rooms": ["r1", "r2"]}, {"node_id": "ND_a"}, {"host": "sfu1", "to": "ND_b"}, {"rebalance": True}])
def test_room_move_in_check_mode(cluster, run, options):
    stop(cluster)
    cluster.server.add_participant("r1", "zed")
    before = state(cluster)
    got = run(room_move, check=True, **options)
    assert not got["failed"] and got["changed"] and set(got["moved"]) <= {"r1", "r2"} and "ND_a" not in got["moved"].values()
    assert got["timeline"] == [] and state(cluster) == before and not cluster.orders


def test_all_rooms_of_a_node_and_then_none(cluster, run):
    cluster.room("empty", "ND_a")
    got = run(room_move, host="sfu1")
    assert set(got["moved"]) == {"r1", "r2"}, "nobody is in the third"
    again = run(room_move, node_id="ND_a")
    assert not again["failed"] and not again["changed"] and again["moved"] == {}


def test_rebalance_empties_a_node_within_a_budget(cluster, run):
    plan = {"rebalance": True, "goal": "vacate", "policy": {"fill": 0.8}}
    got = run(room_move, check=True, **plan)
    homes = cluster.homes()
    emptied = {homes[room] for room in got["moved"]}
    assert got["changed"] and len(emptied) == 1 and set(got["moved"]) == {room for room, home in homes.items() if home in emptied}
    assert not set(got["moved"].values()) & {"ND_c"}, "an empty node stays empty"
    assert run(room_move, check=True, at_most=0, participants_at_most=1, **plan)["moved"] in ({}, {"other": "ND_a"})
    assert run(room_move, rebalance=True, goal="relieve")["moved"] == {}, "no node is full"
    assert "must not be negative" in run(room_move, rebalance=True, at_most=-1)["msg"]
    assert "strategy" in run(room_move, rebalance=True, goal="relieve", policy={"strategy": "x"})["msg"]


def test_rebalance(cluster, run):
    got = run(room_move, rebalance=True)
    assert got["changed"] and len(got["moved"]) == 1 and set(got["moved"].values()) == {"ND_c"}
    cluster.settle()
    again = run(room_move, rebalance=True)
    assert not again["changed"] and again["moved"] == {}


@pytest.mark.parametrize(("options", "code"), [
    ({"rooms": ["nope"]}, "room_unknown"), ({"rooms": ["r1"], "to": "ND_a"}, "same_node"), ({"rooms": ["r1"], "to": "sfu1"}, "same_node"),
    ({"rooms": ["r1"], "to": "ND_none"}, "node_unknown"), ({"rooms": ["r1"], "to": "sfu9"}, "host_unknown"), ({"node_id": "ND_none"}, "node_unknown"),
    ({"host": "edge1"}, "host_unknown"), ({"rooms": ["r1"], "participants_limit": 1}, "no_headroom"), ({"rooms": ["r1"], "cpu_limit": 0.01}, "no_headroom"),
])
@pytest.mark.parametrize("check", [False, True])
def test_room_move_refuses(cluster, run, options, code, check):
    got = run(room_move, check=check, **options)
    assert got["failed"] and got["failure"]["code"] == code and not got["changed"]
    assert not cluster.orders and set(cluster.homes().values()) == {"ND_a", "ND_b"}


def test_room_move_with_bad_options(cluster, run):
    for options in ({}, {"rooms": ["r1"], "node_id": "ND_a"}, {"rebalance": True, "rooms": ["r1"]}, {"rebalance": True, "to": "sfu1"}, {"rooms": []}):
        got = run(room_move, **options)
        assert got["failed"] and "failure" not in got


def test_a_move_that_failed_half_way_tells_so(cluster, run):
    cluster._cut = lambda host, rooms=None, servers=None: {"code": "no_balancer", "tried": "cut", "on": host, "got": "no HAProxy", "fix": ""}
    got = run(room_move, rooms=["r1"], to="sfu3")
    assert got["failed"] and got["failure"]["code"] == "cut_failed" and got["timeline"] and cluster.homes()["r1"] == "ND_a"


# --- registry_cleanup

def crash(cluster):
    """ND_a died a while ago together with its host; eve's room still has her entry, r0 has nobody's."""
    cluster.room("r0", "ND_a")
    with cluster.lock:
        last = dataclasses.replace(cluster.report("sfu1", time.time() - 90))
        cluster.silent.add("sfu1")
        cluster.callers = [c for c in cluster.callers if c.node != "ND_a"]
        cluster.kill("ND_a", age=90)
        cluster.client.hset(HOSTS, "sfu1", last.as_json())


@pytest.mark.parametrize("check", [True, False])
def test_cleanup(cluster, run, check):
    crash(cluster)
    cluster.server.add_room("loose", creation_time=1)
    before = state(cluster)
    got = run(registry_cleanup, check=check)
    assert not got["failed"] and got["changed"]
    assert set(got["recovered"]) == ({"r1", "r2"} if check else {"r0", "r1", "r2"}), "a recovery takes the node's empty rooms along"
    assert set(got["rooms"]) == ({"r0", "loose"} if check else {"loose"})
    if check:
        assert got["nodes"] == {"ND_a": got["nodes"]["ND_a"]} and state(cluster) == before and got["timeline"] == []
        return
    homes = cluster.homes()
    assert "ND_a" not in homes.values() and got["recovered"] == {r: homes[r] for r in ("r0", "r1", "r2")} and not cluster.client.hexists("nodes", "ND_a")
    assert homes["other"] == "ND_b" and "loose" not in cluster.rooms()
    again = run(registry_cleanup)
    assert not again["failed"] and not again["changed"] and again["nodes"] == again["rooms"] == again["recovered"] == {}


def test_cleanup_without_recovery(cluster, run):
    crash(cluster)
    got = run(registry_cleanup, recover=False)
    assert set(got["rooms"]) == {"r0", "r1", "r2"} and set(got["nodes"]) == {"ND_a"} and got["recovered"] == {}
    assert cluster.homes() == {"other": "ND_b"} and set(cluster.rooms()) == {"other"} and not cluster.client.exists("room_participants:r1")


def test_cleanup_of_a_healthy_cluster(cluster, run):
    before = state(cluster)
    for check in (True, False):
        got = run(registry_cleanup, check=check)
        assert not got["changed"] and got["nodes"] == got["rooms"] == got["recovered"] == {} and state(cluster) == before


def test_cleanup_finishes_a_move_that_was_left(cluster, run):
    mover = cluster.mover()
    with mover.lock:
        mover.drain("ND_a")
        now = mover.registry.now()
        mover.store.remap(Record("ND_a", "evacuate", "me", now, "ND_a", "sfu1", 1),
                          {"r1": Moved("ND_a", "ND_b", now, sids={"ann": "PA_ann_1", "bob": "PA_bob_1"})})
    assert run(registry_cleanup, check=True)["changed"]
    got = run(registry_cleanup)
    assert got["changed"] and not got["failed"]
    cluster.assert_evacuated("ND_a", ("r1", "r2"))
