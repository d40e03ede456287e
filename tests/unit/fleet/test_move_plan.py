# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a live move does next, state by state."""
from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.move_plan import FENCE_AFTER, first_wave, next_step
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement import Limits, Receiver
from engine_sample import hosts, node, record, report, slot, usual, view

DRAINING = slot("a", "deactivating", participants=2)
GONE = slot(None)


def step(**fields):
    return next_step("ND_a", view(**fields))


def code(**fields):
    with pytest.raises(FleetError) as caught:
        step(**fields)
    return caught.value.failure["code"]


# --- before it has begun

def test_a_serving_node_drains_first():
    assert step(rooms={"r": "a"}) == ("drain", "it leaves placement first, so that no room appears meanwhile", {})
    assert step(hosts=hosts(slot("a", "activating"))).kind == "drain"


def test_frozen_without_data():
    assert step(nodes=[]).reason == "the registry knows no node at all"
    assert "every node of the registry looks stale" in step(nodes=[node("a", 9), node("b", 9)]).reason
    assert step(nodes=[node("a", 9), node("b", 1)], hosts=hosts(DRAINING)).kind != "freeze", "stale nodes alone are nodes"


def test_frozen_on_an_old_report():
    found = step(hosts=hosts(DRAINING, age=4))
    assert (found.kind, found.reason) == ("freeze", "the report of sfu1 is 4 s old")


def test_the_last_node_stays():
    alone = [node("a")]
    assert code(nodes=alone) == "last_node"
    assert code(nodes=[node("a"), node("b", age=9)]) == "last_node"
    assert code(nodes=[node("a"), node("b", state="SHUTTING_DOWN")]) == "last_node"
    gating = dataclasses.replace(slot("b"), gate=None)
    assert code(nodes=[node("a"), node("b")], hosts=[report("sfu1", slot("a")), report("sfu2", gating)]) == "last_node"
    assert code(nodes=[node("a"), node("b")], hosts=[report("sfu1", slot("a")), report("sfu2", slot("b"), age=4)]) == "last_node"
    assert code(nodes=[node("a"), node("b")], hosts=[report("sfu1", slot("a"))]) == "last_node", "one that no host reports proves nothing"


def test_headroom_is_checked_before_it_drains_and_not_after():
    full = [node("a", clients=4, cpu=0.8), node("b", cpu=0.95), node("c", cpu=0.95)]
    assert code(nodes=full, rooms={"r": "a"}) == "no_headroom"
    assert step(nodes=full, rooms={"r": "a"}, hosts=hosts(DRAINING)).kind == "move"
    assert step(nodes=full).kind == "drain", "an empty node needs none"
    busy = [node("a", clients=10, cpu=0.8), node("b", cpu=0.5), node("c", cpu=0.5)]  # 0.16 CPUs each, two rooms of five
    assert code(nodes=busy, rooms={"r": "a", "s": "a"}, sizes={"r": 6, "s": 6}) == "no_headroom"
    assert step(nodes=busy, rooms={"r": "a", "s": "a"}, sizes={"r": 6, "s": 6}, limits=Limits(0, 0)).kind == "drain"


def test_a_node_that_no_host_reports():
    assert code(hosts=usual()[1][1:]) == "node_unplaced"
    assert next_step("ND_none", view()).kind == "gone"


# --- moving

def test_an_empty_draining_node_ends_by_itself():
    assert step(hosts=hosts(slot("a", "deactivating", participants=0))) == ("wait", "it is empty and ends by itself", {})
    assert "maps no room" in step(hosts=hosts(DRAINING)).reason


def test_rooms_move():
    found = step(hosts=hosts(DRAINING), rooms={"r": "a", "s": "a", "other": "b"})
    assert (found.kind, found.reason, dict(found.rooms)) == ("move", "wave of 2 of 2 rooms", {"r": "ND_b", "s": "ND_c"})


def test_nobody_is_moved_while_redis_is_slow():
    kind, why, rooms = step(hosts=hosts(DRAINING), rooms={"r": "a"}, latency=0.4)
    assert kind == "freeze" and "0.40 s" in why and not rooms
    half = step(hosts=hosts(DRAINING), rooms={"r": "b"}, record=record({"r": ("b", 1, False)}), latency=0.4)
    assert half.kind == "cut", "what has begun goes on"


def test_rooms_stay_on_their_host():
    both = report("sfu1", DRAINING, slot("n", number=2, pid=200))
    found = step(nodes=[*usual()[0], node("n", cpu=0.99, clients=50)], hosts=[both, *usual()[1][1:]], rooms={"r": "a"})
    assert found.rooms == {"r": "ND_n"}


def test_what_was_not_cut_is_cut_first():
    found = step(hosts=hosts(DRAINING), rooms={"s": "a", "r": "b"}, record=record({"r": ("b", 30, False)}))
    assert (found.kind, dict(found.rooms)) == ("cut", {"r": ""})


def test_a_wave_settles_but_not_for_long():
    waiting = {"rooms": {"s": "a", "r": "b"}, "hosts": hosts(DRAINING)}
    found = step(record=record({"r": ("b", 1, True)}), **waiting)
    assert (found.kind, found.reason) == ("settle", "1 rooms of the last wave are not back yet")
    assert step(record=record({"r": ("b", 2.5, True)}), **waiting).kind == "move"
    assert step(record=record({"r": ("b", 0.1, True)}), back=["r"], **waiting).kind == "move"


def test_a_room_created_meanwhile_goes_with_the_next_wave():
    found = step(hosts=hosts(DRAINING), rooms={"late": "a", "r": "b"}, record=record({"r": ("b", 1, True)}), back=["r"])
    assert (found.kind, list(found.rooms)) == ("move", ["late"])


def test_the_fence_comes_when_everybody_is_back_or_after_ten_seconds():
    assert FENCE_AFTER == 10
    moved = {"rooms": {"r": "b", "s": "c"}, "hosts": hosts(DRAINING)}
    rooms = {"r": ("b", 5, True), "s": ("c", 1, True)}
    assert step(record=record(rooms), back=["r", "s"], **moved) == ("fence", "everybody is back", {})
    assert step(record=record(rooms), back=["r"], **moved) == ("settle", "1 rooms are not back yet", {})
    assert step(record=record({"r": ("b", 12, True), "s": ("c", 9.9, True)}), back=["r"], **moved).kind == "settle"
    assert step(record=record({"r": ("b", 12, True), "s": ("c", 10, True)}), back=["r"], **moved) == ("fence", "1 rooms are not back", {})


def test_without_a_cut_only_the_fence_moves_anybody():
    assert step(hosts=hosts(DRAINING), rooms={"r": "b"}, record=record({"r": ("b", 0, True)}, blind=True)).kind == "fence"


def test_a_receiver_that_died_is_replaced():
    dead = [node("a", state="SHUTTING_DOWN"), node("b", age=9), node("c")]
    moved = {"rooms": {"r": "b"}, "record": record({"r": ("b", 6, True)})}
    usual_hosts = hosts(DRAINING)
    for second in (report("sfu2", GONE), report("sfu2", slot("new")), report("sfu2", slot("b"), age=4)):
        found = step(nodes=dead, hosts=[usual_hosts[0], second, usual_hosts[2]], **moved)
        assert (found.kind, found.reason, dict(found.rooms)) == ("move", "their new node died", {"r": "ND_c"})
    there = [usual_hosts[0], report("sfu2", GONE), usual_hosts[2]]
    assert step(nodes=[n for n in dead if n.id != "ND_b"], hosts=there, **moved).rooms == {"r": "ND_c"}
    assert step(nodes=[node("a"), node("b", age=9), node("c", cpu=1.0)], hosts=there, **moved).rooms == {"r": "ND_c"}, "crowded is better than nowhere"
    assert step(nodes=dead, hosts=usual_hosts, **moved).kind == "settle", "it hangs perhaps; unfenced it would close the room wherever that is by then"


def test_a_receiver_that_only_drains_keeps_its_rooms():
    leaving = [node("a"), node("b", state="SHUTTING_DOWN"), node("c")]
    assert step(nodes=leaving, hosts=hosts(DRAINING), rooms={"r": "b"}, record=record({"r": ("b", 6, True)}), back=["r"]).kind == "fence"
    assert step(hosts=hosts(DRAINING), rooms={"r": "c"}, nodes=leaving, record=record({"r": ("b", 6, True)}), back=["r"]).kind == "fence", "moved on by others"


def test_nobody_left_to_receive():
    assert code(nodes=[node("a"), node("b", age=9)], hosts=hosts(DRAINING), rooms={"r": "a"}) == "no_receiver"


# --- after the process is gone

def test_rooms_left_behind_move_then_are_cut_then_all_is_tidied():
    dead = {"nodes": [node("a", age=20), node("b"), node("c")], "hosts": hosts(GONE)}
    found = step(rooms={"r": "a"}, **dead)
    assert (found.kind, found.reason) == ("move", "left behind by a node that is gone")
    assert step(rooms={"r": "b"}, record=record({"r": ("b", 1, False)}), **dead).kind == "cut"
    assert step(rooms={"r": "b"}, record=record({"r": ("b", 1, True)}), **dead).kind == "tidy"
    assert step(rooms={"r": "b"}, **dead).kind == "tidy", "its entry never goes by itself"
    assert step(nodes=[node("b")], hosts=hosts(GONE), record=record()).kind == "tidy"
    assert step(nodes=[node("b")], hosts=hosts(GONE)) == ("gone", "the node is gone", {})


def test_a_room_that_came_in_late():
    """Between the last look and the fence."""
    found = step(hosts=hosts(GONE), rooms={"late": "a", "r": "b"}, record=record({"r": ("b", 1, True)}))
    assert (found.kind, list(found.rooms)) == ("move", ["late"])


def test_the_slot_runs_something_without_a_name():
    """It may be the node itself: nothing is tidied before that is known."""
    assert step(hosts=hosts(slot(None, "deactivating")), record=record({"r": ("b", 1, True)})).kind == "freeze"
    assert step(hosts=hosts(slot("n")), record=record({"r": ("b", 1, True)})).kind == "tidy", "another node has the slot"
    failed = slot(None, "failed")
    assert step(hosts=hosts(failed), record=record({"r": ("b", 1, True)})).kind == "tidy"


# --- waves

def test_waves_are_as_big_as_the_receivers_cpus():
    among = [Receiver("b", "h", 2, 0.1, 0), Receiver("c", "h", 1, 0.1, 0)]
    targets = {f"r{n}": "b" if n % 2 else "c" for n in range(20)}
    wave = first_wave(dict.fromkeys(targets, 2), targets, among)
    assert [sum(targets[r] == n for r in wave) for n in ("b", "c")] == [6, 3]
    assert first_wave({"huge": 100, "small": 1}, {"huge": "b", "small": "b"}, among) == ["small"]
    assert first_wave({"huge": 100}, {"huge": "b"}, among) == ["huge"], "at least one"
    assert first_wave({}, {}, among) == []
