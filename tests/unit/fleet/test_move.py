# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live moves against a real Redis and a model of nodes, executors and callers (fleet_model.py)."""
from __future__ import annotations

import dataclasses
import json
import threading
import time

import fleet_model
import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import journal, move, move_plan, splits
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.lock import PREFIX
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.move import Mover
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.move_plan import Moved, Record
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.move_store import DEAD, MOVES, SAVED
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement import Limits
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry_messages import messages
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import HOSTS
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.splits import Split

NODES = {"ND_a": ("sfu1", 1), "ND_b": ("sfu2", 1), "ND_c": ("sfu3", 1)}
ROOMS = ("r1", "r2", "empty")


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    fleet_model.hurry(monkeypatch)


@pytest.fixture
def server(redis_server):
    return redis_server()


def fill(cluster):
    cluster.room("r1", "ND_a", "ann", "bob")
    cluster.room("r2", "ND_a", "eve")
    cluster.room("empty", "ND_a")
    cluster.room("other", "ND_b", "joe")
    return cluster


@pytest.fixture
def cluster(server):
    with fill(fleet_model.Cluster(server, NODES)) as found:
        yield found


def code(call, *args, **kwargs):
    with pytest.raises(FleetError) as caught:
        call(*args, **kwargs)
    return caught.value.failure["code"]


def kinds(outcome):
    return [e["kind"] for e in outcome.timeline]


# --- evacuation

def test_evacuation(cluster):
    mover = cluster.mover()
    with mover.lock:
        outcome = mover.evacuate("ND_a", "test")
    cluster.assert_evacuated("ND_a", ROOMS)
    assert set(outcome.moved) == set(ROOMS) and outcome.moved == {room: cluster.homes()[room] for room in ROOMS}
    order = [k for k in dict.fromkeys(kinds(outcome)) if k in ("drain", "move", "cut", "fence", "tidy")]
    assert order == ["drain", "move", "cut", "fence", "tidy"]
    assert cluster.nodes["ND_a"].terms == cluster.nodes["ND_a"].kills == 1
    assert next(c for c in cluster.callers if c.identity == "joe").joins == 1, "calls of other nodes are left alone"
    assert cluster.homes()["other"] == "ND_b"
    assert all({"at", "by", "kind", "reason"} <= set(e) for e in outcome.timeline) and json.dumps(outcome.as_dict())
    noted = [(e["kind"], e["at"]) for e in reversed(journal.recent(mover.registry))]
    assert noted == [(e["kind"], e["at"]) for e in outcome.timeline]


def test_a_second_run_finds_nothing_to_do(cluster):
    mover = cluster.mover()
    with mover.lock:
        mover.evacuate("ND_a")
        orders = len(cluster.orders)
        again = mover.evacuate("ND_a")
    assert again.moved == {} and again.timeline == [] and len(cluster.orders) == orders


class Kill:
    """Raises at the call of that number to Redis; 0 for never. `after`: the call still happens, its answer is lost."""

    def __init__(self, mover, number, error=fleet_model.Killed, after=False):
        self.calls, self.number, self.error, self.after = 0, number, error, after
        self._ask = mover.registry._ask_once
        mover.registry._ask_once = self

    def __call__(self, tried, commands):
        self.calls += 1
        if self.calls == self.number:
            if self.after:
                self._ask(tried, commands)
            raise self.error() if isinstance(self.error, type) else self.error
        return self._ask(tried, commands)


def attempt(server, number, error=fleet_model.Killed, after=False, pause=0.0, again="evacuate"):
    """One evacuation that is killed at a call, and the next one that finishes it. How many calls the first made, and whether it was killed."""
    server.client.flushall()
    slow = {} if pause else {"linger": 30, "departure": 30}  # the old node's own end is another test's business
    with fill(fleet_model.Cluster(server, NODES, **slow)) as cluster:
        mover, killed = cluster.mover(), False
        mover.lock.acquire()
        kill = Kill(mover, number, error, after)
        try:
            mover.evacuate("ND_a", "first")
        except (fleet_model.Killed, FleetError) as exc:
            assert isinstance(exc, fleet_model.Killed) or exc is error
            killed = True
        if killed:
            time.sleep(pause)
            server.client.delete(PREFIX + "move")  # as if it had expired
            second = cluster.mover("second")
            with second.lock:
                if again == "resume":
                    second.resume()
                second.evacuate("ND_a", "second")
        cluster.assert_evacuated("ND_a", ROOMS)
        joe = next(c for c in cluster.callers if c.identity == "joe")
        assert cluster.homes()["other"] == "ND_b" and joe.joins == 1
        assert sum(what == "drain" and result["signalled"] for _host, what, _args, result in cluster.orders) == 1
        return kill.calls, killed


@pytest.mark.parametrize(("part", "again"), [(0, "evacuate"), (1, "resume"), (2, "evacuate"), (3, "resume")])
def test_killed_at_every_call(server, part, again):
    """Four tests share the work; each index of a call to Redis is met once."""
    number, killed = part + 1, True
    while killed:
        _calls, killed = attempt(server, number, again=again)
        number += 4
    assert number > 40


@pytest.mark.parametrize("after", [False, True])
def test_redis_fails_once_at_any_call(server, after):
    """One failure of Redis does not even stop the run; where the answer is lost the step has happened."""
    away = FleetError("x", "redis", "timeout", "", code="redis_unreachable")
    calls, _killed = attempt(server, 0)
    for number in range(3, calls, 3):
        _calls, stopped = attempt(server, number, away, after)
        assert not stopped, number


@pytest.mark.parametrize("number", (24, 32, 50, 61))
def test_killed_and_nobody_goes_on_until_the_old_node_has_closed(server, number):
    """The old node ends by itself and erases the rooms; whoever looks next puts them back, with people in them."""
    attempt(server, number, pause=2.2, again="resume")


def test_the_late_close_is_undone(server, monkeypatch):
    """Signalling was cut, but the fence is slow to come: the old node ends by itself first."""
    monkeypatch.setattr(fleet_model.Cluster, "_fence", lambda self, host, slot, node_id: {"killed": False})
    with fill(fleet_model.Cluster(server, NODES, linger=0.3)) as cluster:
        mover = cluster.mover()
        with mover.lock:
            outcome = mover.evacuate("ND_a")
        assert any(e["kind"] == "restore" for e in outcome.timeline)
        cluster.assert_evacuated("ND_a", ("r1", "r2"))


def test_a_room_that_ended_is_not_brought_back(server, monkeypatch):
    """Its people do not come back, and the old node closes it: that room is over, the other one lives on."""
    monkeypatch.setattr(fleet_model.Cluster, "_fence", lambda self, host, slot, node_id: {"killed": False})
    cluster = fill(fleet_model.Cluster(server, NODES, linger=0.3))
    for caller in cluster.callers:
        caller.returns = caller.room != "r2"
    with cluster:
        mover = cluster.mover()
        mover.lock.acquire()
        threading.Timer(0.5, lambda: [cluster.leave(c) for c in list(cluster.callers) if c.room == "r2"]).start()
        mover.evacuate("ND_a")
        cluster.assert_evacuated("ND_a", ("r1",))
        assert "r2" not in cluster.homes() and "r2" not in cluster.rooms()


def test_people_who_never_come_back_are_waited_for_and_forgotten(cluster):
    caller = next(c for c in cluster.callers if c.identity == "eve")
    caller.returns = False
    mover = cluster.mover()
    with mover.lock:
        outcome = mover.evacuate("ND_a")
    cluster.assert_evacuated("ND_a", ROOMS)
    assert outcome.seconds >= move.FENCE_AFTER
    assert next(e for e in outcome.timeline if e["kind"] == "forget")["participants"] == 1
    assert not cluster.client.exists("room_participants:r2") and cluster.client.hlen("room_participants:r1") == 2


def test_nobody_who_came_back_late_is_forgotten(cluster):
    """The entry is removed only while it is that of the old session."""
    mover = cluster.mover()
    record = Record("ND_a", "evacuate", "me", 0.0, rooms={"r1": Moved("ND_a", "ND_b", 0.0, sids={"ann": "PA_ann_1", "bob": "PA_bob_1"})})
    real = mover.registry.participants_of

    def then_joins(rooms):
        found = real(rooms)
        with cluster.lock:
            cluster._join(next(c for c in cluster.callers if c.identity == "ann"))
        return found

    mover.registry.participants_of = then_joins
    assert mover.store.forget_absent(record) == 1
    assert cluster.client.hkeys("room_participants:r1") == [b"ann"]


def test_a_room_created_meanwhile_goes_too(cluster):
    def late():
        cluster.room("late", "ND_a", "zoe")

    real = cluster._cut

    def cut(host, rooms=None, servers=None):
        if rooms and not late_once:
            late_once.append(1)
            late()
        return real(host, rooms, servers)

    late_once = []
    cluster._cut = cut
    mover = cluster.mover()
    with mover.lock:
        outcome = mover.evacuate("ND_a")
    cluster.assert_evacuated("ND_a", (*ROOMS, "late"))
    assert "late" in outcome.moved


def test_a_receiver_that_dies_loses_its_rooms_to_another(server):
    with fleet_model.Cluster(server, {**NODES, "ND_d": ("sfu1", 2)}) as cluster:
        fill(cluster)
        real = cluster._cut

        def cut(host, rooms=None, servers=None):
            if cluster.nodes["ND_d"].alive and rooms:  # the same host's node is everybody's first choice
                cluster.kill("ND_d", age=10)
            return real(host, rooms, servers)

        cluster._cut = cut
        mover = cluster.mover()
        with mover.lock:
            outcome = mover.evacuate("ND_a")
        assert any(e["reason"] == "their new node died" for e in outcome.timeline)
        cluster.client.hdel("nodes", "ND_d")
        cluster.assert_evacuated("ND_a", ("r1", "r2"))


def test_rooms_stay_on_their_host_where_they_can(server):
    with fleet_model.Cluster(server, {**NODES, "ND_d": ("sfu1", 2)}) as cluster:
        fill(cluster)
        mover = cluster.mover()
        with mover.lock:
            assert set(mover.evacuate("ND_a").moved.values()) == {"ND_d"}


def test_without_a_balancer_sockets_are_cut_on_the_hosts(server):
    with fill(fleet_model.Cluster(server, NODES, balancers=())) as cluster:
        mover = cluster.mover()
        with mover.lock:
            mover.evacuate("ND_a")
        cluster.assert_evacuated("ND_a", ROOMS)
        assert {what for _host, what, _args, _result in cluster.orders} == {"drain", "cut_sockets", "fence"}


def test_where_nothing_can_be_cut_the_fence_comes_at_once(cluster):
    cluster._cut = lambda host, rooms=None, servers=None: {"code": "no_balancer", "tried": "cut", "on": host, "got": "no HAProxy", "fix": ""}
    mover = cluster.mover()
    with mover.lock:
        outcome = mover.evacuate("ND_a")
    cluster.assert_evacuated("ND_a", ROOMS)
    assert outcome.seconds < move.FENCE_AFTER + 0.4 and "settle" not in kinds(outcome)


def test_an_executor_that_is_away_for_a_moment(cluster):
    cluster.silent.add("sfu1")
    threading.Timer(0.6, lambda: cluster.silent.discard("sfu1")).start()
    mover = cluster.mover()
    real = mover.orders.try_all
    mover.orders.try_all = lambda orders, timeout=5.0: real(orders, 0.2)
    with mover.lock:
        mover.evacuate("ND_a")
    cluster.assert_evacuated("ND_a", ROOMS)


def test_a_node_that_cannot_be_killed_does_not_hold_the_run_for_ever(cluster, monkeypatch):
    monkeypatch.setattr(move, "FREEZE_SECONDS", 0.5)
    cluster._fence = lambda host, slot, node_id: {"killed": False}
    cluster.linger = 60  # and it does not end by itself
    mover = cluster.mover()
    with mover.lock:
        assert code(mover.evacuate, "ND_a") == "stuck"


def test_a_node_that_refuses_to_drain(cluster, monkeypatch):
    monkeypatch.setattr(move, "FREEZE_SECONDS", 0.5)
    cluster._drain = lambda host, slot, node_id: {"signalled": False}
    mover = cluster.mover()
    with mover.lock:
        assert code(mover.evacuate, "ND_a") == "stuck"
    assert cluster.homes()["r1"] == "ND_a" and cluster.callers[0].joins == 1


def test_nothing_is_done_on_stale_data(cluster, monkeypatch):
    monkeypatch.setattr(move, "FREEZE_SECONDS", 0.3)
    cluster.silent.add("sfu1")
    with cluster.lock:
        stale = dataclasses.replace(cluster.report("sfu1", 0), at=time.time() - 20)
        cluster.client.hset(HOSTS, "sfu1", stale.as_json())
    mover = cluster.mover()
    with mover.lock:
        assert code(mover.evacuate, "ND_a") == "frozen"
    assert not cluster.orders and cluster.homes()["r1"] == "ND_a"


def test_refused_before_anything_has_begun(server):
    with fill(fleet_model.Cluster(server, {"ND_a": ("sfu1", 1), "ND_b": ("sfu2", 1)})) as cluster:
        for limits, want in ((Limits(cpu=0.05), "no_headroom"), (Limits(participants=3), "no_headroom")):
            mover = cluster.mover(limits=limits)
            with mover.lock:
                assert code(mover.evacuate, "ND_a") == want
        cluster.kill("ND_b", age=10)
        mover = cluster.mover()
        with mover.lock:
            assert code(mover.evacuate, "ND_a") == code(mover.drain, "ND_a") == "last_node"
        assert code(mover.evacuate, "ND_a") == "lock_lost"  # it holds none
        assert not cluster.orders and cluster.homes()["r1"] == "ND_a"


def test_a_silent_balancer_stops_it_before_the_drain(cluster):
    cluster.silent.add("edge1")
    with cluster.lock:
        cluster.client.hset(HOSTS, "edge1", dataclasses.replace(cluster.report("edge1", 0), at=time.time() - 10).as_json())
    mover = cluster.mover()
    with mover.lock:
        assert code(mover.evacuate, "ND_a") == "balancer_silent"
    assert cluster.nodes["ND_a"].state == "active"


def test_a_broken_report_is_no_report(cluster):
    cluster.client.hset(HOSTS, "old", b"\xff{}")
    cluster.client.hset(HOSTS, "older", json.dumps({"host": "older"}))
    mover = cluster.mover()
    with mover.lock:
        mover.evacuate("ND_a")
    cluster.assert_evacuated("ND_a", ROOMS)


# --- two movers

def test_the_second_mover_is_told_who_moves(cluster):
    first, second = cluster.mover("first"), cluster.mover("second")
    with first.lock:
        with pytest.raises(FleetError) as caught:
            second.lock.acquire()
        assert caught.value.failure["owner"] == "first"


def test_a_mover_that_overslept_can_do_nothing(cluster):
    late, now = cluster.mover("late", ttl=0.05), cluster.mover("now")
    late.lock.acquire()
    token = late.lock.token
    time.sleep(0.1)
    now.lock.acquire()
    before, record = cluster.homes(), Record("ND_a", "evacuate", "late", 1.0)
    for act in (lambda: late.evacuate("ND_a"), lambda: late.store.remap(record, {"r1": Moved("ND_a", "ND_b", 1.0)}), lambda: late.store.purge("ND_a"),
                lambda: late.store.save(record), lambda: late.recover("ND_a"), lambda: late.move_rooms({"r1": None})):
        late.lock.token = token
        assert code(act) == "lock_lost"
    now.store.save(dataclasses.replace(record, node_id="ND_a"))
    assert code(late.resume) == "lock_lost"
    assert cluster.homes() == before and cluster.client.hexists("nodes", "ND_a")
    assert not any(what in ("drain", "cut") for _host, what, _args, _result in cluster.orders)


def test_an_order_of_an_old_lock_is_refused(cluster):
    late, now = cluster.mover("late", ttl=0.05), cluster.mover("now")
    late.lock.acquire()
    time.sleep(0.1)
    now.lock.acquire()
    place = move.Reports.read(now.registry).place_of("ND_b")
    now._order(place, "fence", "ND_none")
    assert code(late._order, place, "drain", "ND_b") == "order_void"
    assert cluster.nodes["ND_b"].terms == 0


# --- recovery

def test_recovery(cluster):
    cluster.kill("ND_a")
    mover = cluster.mover(name="recover")
    with mover.lock:
        outcome = mover.recover("ND_a", ["unit", "port"], "dead")
    cluster.settle()
    homes = cluster.homes()
    assert "ND_a" not in homes.values() and outcome.moved == {room: homes[room] for room in ROOMS}
    assert not cluster.client.hexists("nodes", "ND_a") and not cluster.client.hexists(DEAD, "ND_a")
    assert all(c.node == homes[c.room] and c.joins <= 2 for c in cluster.callers)
    assert set(cluster.rooms().values()) == {f"about {r}" for r in (*ROOMS, "other")}
    assert kinds(outcome)[-1] == "recover" and outcome.timeline[-1]["fenced"] and outcome.timeline[-1]["signals"] == ["unit", "port"]
    with mover.lock:
        while mover.store.records():
            mover.resume()
    assert not cluster.client.keys(SAVED + "*")


def test_a_host_out_of_reach_gets_a_tombstone(cluster):
    cluster.silent.add("sfu1")
    cluster.nodes["ND_a"].frozen = True
    mover = cluster.mover()
    with mover.lock:
        outcome = mover.recover("ND_a", ["report", "port"])
    assert not outcome.timeline[-1]["fenced"] and json.loads(cluster.client.hget(DEAD, "ND_a"))["by"] == "me"
    assert "ND_a" not in cluster.homes().values()


def test_a_hung_process_is_killed(cluster):
    cluster.nodes["ND_a"].frozen = True
    mover = cluster.mover()
    with mover.lock:
        assert mover.recover("ND_a").timeline[-1]["fenced"]
    assert cluster.nodes["ND_a"].kills == 1 and not cluster.nodes["ND_a"].alive


def test_nobody_to_recover_to_and_no_data(cluster):
    cluster.kill("ND_b", age=10)
    cluster.kill("ND_c", age=10)
    mover = cluster.mover()
    with mover.lock:
        assert code(mover.recover, "ND_a") == "no_receiver"
        cluster.kill("ND_a", age=10)
        assert code(mover.recover, "ND_a") == "frozen"
    assert cluster.homes()["r1"] == "ND_a"


@pytest.mark.parametrize("number", range(1, 15))
def test_recovery_killed_at_every_call(server, number):
    with fill(fleet_model.Cluster(server, NODES)) as cluster:
        cluster.kill("ND_a", age=10)
        for caller in cluster.callers:  # they hang until they are cut, or for a while
            caller.due = caller.due and caller.due + 0.6
        mover = cluster.mover(name="recover")
        mover.lock.acquire()
        Kill(mover, number)
        with pytest.raises(fleet_model.Killed):
            mover.recover("ND_a")
            raise fleet_model.Killed
        server.client.delete(PREFIX + "recover")
        second = cluster.mover("second", name="recover")
        with second.lock:
            second.resume()
            if server.client.hexists("nodes", "ND_a"):
                second.recover("ND_a")
            while second.store.records():
                second.resume()
        cluster.assert_evacuated("ND_a", ROOMS)


def test_a_node_that_dies_while_it_is_evacuated_is_recovered(cluster, monkeypatch):
    """The record changes its kind, so that nobody waits for a host that does not come back."""
    monkeypatch.setattr(move, "FREEZE_SECONDS", 0.3)
    mover = cluster.mover()
    mover.lock.acquire()
    Kill(mover, 30)
    with pytest.raises(fleet_model.Killed):
        mover.evacuate("ND_a")
    cluster.silent.add("sfu1")
    cluster.kill("ND_a", age=10)
    stale = dataclasses.replace(cluster.report("sfu1", 0), at=time.time() - 20, slots=tuple(
        dataclasses.replace(s, state="deactivating", node_id="ND_a") if s.slot == 1 else s for s in cluster.report("sfu1", 0).slots))
    cluster.client.hset(HOSTS, "sfu1", stale.as_json())
    rescue = cluster.mover("controller", name="recover")
    with rescue.lock:
        rescue.recover("ND_a", ["report", "port"])
        assert [r.kind for r in rescue.store.records().values()] == ["recover"]
        while rescue.store.records():
            rescue.resume()
    cluster.settle()
    assert "ND_a" not in cluster.homes().values()


def test_one_record_that_cannot_be_finished_does_not_stop_the_others(cluster, monkeypatch):
    monkeypatch.setattr(move, "FREEZE_SECONDS", 0.2)
    mover = cluster.mover()
    with mover.lock:
        mover.store.save(Record("ND_lost", "evacuate", "me", 1.0, node_id="ND_lost", host="sfu1", slot=1))
        cluster.nodes["ND_x"] = dataclasses.replace(cluster.nodes["ND_a"], id="ND_x", host="sfu9", rooms={})
        cluster.silent.add("sfu9")
        cluster.client.hset(HOSTS, "sfu9", dataclasses.replace(cluster.report("sfu9", 0), at=time.time() - 9).as_json())
        mover.store.save(Record("ND_x", "evacuate", "me", 1.0, node_id="ND_x", host="sfu9", slot=1))
        mover.store.save(Record("ND_z", "rooms", "me", 1.0, rooms={"r1": Moved("ND_z", "ND_a", 1.0, cut=True)}))
        assert code(mover.resume) == "frozen"
        assert set(mover.store.records()) == {"ND_x"}


# --- single rooms

def test_rooms_move_and_their_old_node_lives_on(cluster):
    """Its copies close later and erase the rooms; the guard puts them back."""
    mover = cluster.mover()
    with mover.lock:
        outcome = mover.move_rooms({"r1": "ND_b", "r2": None}, "test")
    cluster.settle()
    homes = cluster.homes()
    assert outcome.moved == {"r1": "ND_b", "r2": "ND_c"} == {room: homes[room] for room in ("r1", "r2")}
    assert [e["kind"] for e in outcome.timeline].count("restore") >= 1
    assert not cluster.nodes["ND_a"].rooms.keys() & {"r1", "r2"} and cluster.nodes["ND_a"].state == "active"
    assert cluster.rooms()["r1"] == "about r1" and all(c.node == homes[c.room] for c in cluster.callers)
    assert not cluster.client.exists(MOVES) and not cluster.problems and cluster.worst_split < 1
    assert next(c for c in cluster.callers if c.identity == "joe").joins == 1


@pytest.mark.parametrize("number", (8, 12, 14, 20, 32))
def test_a_move_of_rooms_that_is_killed_is_finished(server, number):
    with fill(fleet_model.Cluster(server, NODES)) as cluster:
        mover = cluster.mover()
        mover.lock.acquire()
        Kill(mover, number)
        with pytest.raises(fleet_model.Killed):
            mover.move_rooms({"r1": "ND_b"})
        server.client.delete(PREFIX + "move")
        second = cluster.mover("second")
        with second.lock:
            while second.store.records():
                second.resume()
        cluster.settle()
        homes = cluster.homes()
        assert homes["r1"] in ("ND_a", "ND_b") and cluster.rooms()["r1"] == "about r1"
        assert all(c.node == homes[c.room] for c in cluster.callers) and cluster.worst_split < 1


def test_rooms_go_back_where_nothing_can_be_cut(cluster):
    """No fence follows, so they would have two owners for good."""
    cluster._cut = lambda host, rooms=None, servers=None: {"code": "no_balancer", "tried": "cut", "on": host, "got": "no HAProxy", "fix": ""}
    mover = cluster.mover()
    with mover.lock:
        assert code(mover.move_rooms, {"r1": "ND_b"}) == "cut_failed"
    assert cluster.homes()["r1"] == "ND_a" and not cluster.client.exists(MOVES)


def test_a_room_that_moves_on_is_not_put_back_to_its_first_stop(cluster):
    """The guard of the first move still runs when the second node is evacuated."""
    mover = cluster.mover()
    with mover.lock:
        mover.move_rooms({"r1": "ND_b"}, guard=False)
        mover.evacuate("ND_b")
        while mover.store.records():
            mover.resume()
    cluster.settle()
    assert cluster.homes()["r1"] in ("ND_a", "ND_c") and cluster.rooms()["r1"] == "about r1"
    assert cluster.callers[0].node == cluster.homes()["r1"]


def test_what_cannot_be_moved(cluster):
    mover = cluster.mover(limits=Limits(participants=2))
    cluster.client.hset("room_node_map", "lost", "ND_gone")
    with mover.lock:
        for rooms, want in (({"nope": None}, "room_unknown"), ({"r1": "ND_a"}, "same_node"), ({"r1": "ND_zzz"}, "node_unknown"), ({"lost": None}, "node_dead"),
                            ({"r1": "ND_b"}, "no_headroom"), ({"empty": None}, "room_empty")):
            assert code(mover.move_rooms, rooms) == want
    assert cluster.homes()["r1"] == "ND_a" and not cluster.client.exists(MOVES) and not cluster.orders


# --- what is kept

def test_no_room_is_moved_while_redis_is_slow(cluster, monkeypatch):
    monkeypatch.setattr(move_plan, "SLOW", 0.0)
    mover, before = cluster.mover(), cluster.homes()
    with mover.lock:
        assert code(mover.move_rooms, {"r1": "ND_b"}) == "redis_slow"
    assert cluster.homes() == before and not cluster.orders


def test_callers_of_a_split_room_connect_anew(cluster):
    """Nobody is lost by it, in that room or another; and when the old copy closes at last, the room stays."""
    cluster.client.hset("room_node_map", "r1", "ND_b")
    mover = cluster.mover()
    with mover.lock:
        mover.rejoin({"r1": Split("ND_a", "ND_b", 0.0)})
        cluster.settle()
        while mover.store.records():
            mover.resume()
            mover.lock.renew()
            time.sleep(0.05)
    assert [(what, args["rooms"]) for _host, what, args, _result in cluster.orders] == [("cut", ["r1"])]
    told = [e for e in mover.journal.entries if e["kind"] == "rejoin"]
    assert [e["rooms"] for e in told] == [{"r1": ["ND_a", "ND_b"]}]
    assert "r1" not in cluster.nodes["ND_a"].rooms, "the old copy has closed"
    assert cluster.homes()["r1"] == "ND_b" and cluster.rooms()["r1"] == "about r1"
    assert {c.node for c in cluster.callers if c.room == "r1"} == {"ND_b"}


def test_rooms_that_livekit_placed_anew_belong_to_the_move(cluster, monkeypatch):
    """After a failover of Redis, say. The drained node would end after its last caller has left, and erase them where they live now."""
    monkeypatch.setattr(splits, "SETTLE", 0.1)
    order = Mover._order

    def drain(self, place, what, node_id):
        order(self, place, what, node_id)
        if what == "drain":
            for room in ROOMS:
                cluster.client.hset("room_node_map", room, "ND_b")

    monkeypatch.setattr(Mover, "_order", drain)
    mover = cluster.mover()
    with mover.lock:
        outcome = mover.evacuate("ND_a")
    cluster.assert_evacuated("ND_a", ROOMS)
    assert "adopt" in kinds(outcome) and set(cluster.homes()[room] for room in ROOMS) == {"ND_b"}
    assert cluster.nodes["ND_a"].kills == 1 and outcome.moved == dict.fromkeys(ROOMS, "ND_b")


def test_a_record_survives_the_round_trip():
    record = Record("ND_a", "evacuate", "me", 1700000000.123, "ND_a", "sfu1", 2, "because", 5.5, True, {
        "Zimmer ☎ \"1\"": Moved("ND_a", "ND_b", 1.5, True, {"ann": "PA_1"}, 7.0, True), "r": Moved("ND_a", "ND_c", 2.5)})
    assert Record.parse(record.as_json()) == record
    assert record.uncut == ["r"] and record.last_at == 2.5


def test_a_room_placed_anew_meanwhile_is_left_alone(cluster):
    mover = cluster.mover()
    with mover.lock:
        record = mover.store.remap(Record("ND_a", "evacuate", "me", 1.0), {room: Moved(frm, "ND_c", 1.0) for room, frm in (
            ("r1", "ND_a"), ("other", "ND_a"), ("nope", "ND_a"))})
    assert set(record.rooms) == {"r1"} == set(mover.store.records()["ND_a"].rooms)
    assert cluster.homes()["other"] == "ND_b" and "nope" not in cluster.homes()


def test_names_that_are_hard_on_scripts(cluster):
    name = "Zimmer | ☎ '\"\\ %d \x00"
    cluster.room(name, "ND_a", "Ünal|☎")
    mover = cluster.mover()
    with mover.lock:
        mover.evacuate("ND_a")
    cluster.assert_evacuated("ND_a", (*ROOMS, name))


def test_hundreds_of_rooms_go_in_waves(server, monkeypatch):
    monkeypatch.setattr(move, "POLL", 0.01)
    with fleet_model.Cluster(server, NODES, linger=5) as cluster:
        with cluster.lock:
            for n in range(120):
                cluster.room(f"room{n}", "ND_a", f"p{n}")
        mover = cluster.mover()
        with mover.lock:
            outcome = mover.evacuate("ND_a")
        cluster.assert_evacuated("ND_a", [f"room{n}" for n in range(120)])
        waves = [len(e["rooms"]) for e in outcome.timeline if e["kind"] == "move"]
        assert max(waves) <= 24 and len(waves) >= 5
        spread = [list(cluster.homes().values()).count(n) for n in ("ND_b", "ND_c")]
        assert min(spread) > 30


def test_a_room_older_than_its_empty_timeout_is_given_time_to_be_empty_for_a_moment(cluster):
    """The first who comes back opens the room on its new node with its old age; LiveKit would close and erase it at once."""
    now = int(time.time())
    old = messages()["Room"](name="old", sid="RM_old", empty_timeout=300, creation_time=now - 4000, metadata="keep").SerializeToString()
    young = messages()["Room"](name="young", sid="RM_young", empty_timeout=300, creation_time=now - 10).SerializeToString()
    for name, raw in (("old", old), ("young", young)):
        cluster.room(name, "ND_a", f"someone-{name}")
        cluster.client.hset("rooms", name, raw)
    mover = cluster.mover()
    with mover.lock:
        mover.evacuate("ND_a")
    rooms = mover.registry.room_details(["old", "young"])
    assert rooms["old"].empty_timeout in range(4050, 4200) and rooms["old"].sid == "RM_old" and rooms["old"].metadata == "keep"
    assert rooms["young"].empty_timeout == 300
