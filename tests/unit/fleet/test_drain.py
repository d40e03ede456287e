# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drains: what each policy does when, and whole runs against a real Redis and a model of the rest (fleet_model.py)."""
from __future__ import annotations

import dataclasses
import threading
import time

import fleet_model
import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import drain, drain_run
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.drain import Request, next_action
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.drain_run import DrainRun
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement import Limits
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry_messages import Participant
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import HOSTS
from engine_sample import NOW, hosts, node, record, report, slot, view

DRAINING = slot("a", "deactivating", participants=2)
NODES = {"ND_a": ("sfu1", 1), "ND_b": ("sfu2", 1), "ND_c": ("sfu3", 1)}


def code(call, *args, **kwargs):
    with pytest.raises(FleetError) as caught:
        call(*args, **kwargs)
    return caught.value.failure["code"]


# --- the deadline

@pytest.mark.parametrize(("text", "want"), [
    ("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1d", 86400), ("0", 0), ("0s", 0), ("1.5m", 90), (" 2H ", 7200), (45, 45), (1.5, 1.5),
])
def test_durations(text, want):
    assert drain.seconds(text) == want


@pytest.mark.parametrize("text", ["", "soon", "30 minutes", "1h 30m", "m", "30x", "1:30", "1e3", "inf", "nan", "None", "-5m", "-1", "30m-"])
def test_what_is_no_duration(text):
    with pytest.raises(FleetError) as caught:
        drain.seconds(text)
    assert caught.value.failure["code"] == "bad_duration"
    assert ("in the past" in str(caught.value)) == text.startswith("-")


# --- what to do now

def action(policy="move", deadline=None, **fields):
    return next_action(Request("ND_a", "sfu1", 1, policy, deadline, NOW - 60, "me"), view(**fields))


def test_a_serving_node_drains_whatever_the_policy():
    for policy in drain.POLICIES:
        assert action(policy, NOW - 1, rooms={"r": "a"}) == ("drain", "it takes new rooms still")


def test_policies_before_and_after_the_deadline():
    there = {"hosts": hosts(DRAINING), "rooms": {"r": "a", "s": "a"}, "sizes": {"r": 2, "s": 1}}
    assert action("wait", None, **there) == ("wait", "2 rooms, 3 participants")
    assert action("move", NOW + 90, **there) == ("wait", "2 rooms, 3 participants, move in 90 s")
    assert action("end", NOW + 90, **there) == ("wait", "2 rooms, 3 participants, end in 90 s")
    assert action("move", NOW, **there) == ("move", "the deadline has passed")
    assert action("end", NOW - 5, **there) == ("end", "the deadline has passed")
    assert action("now", None, **there) == ("move", "at once")
    for policy in drain.POLICIES:
        assert action(policy, NOW - 5, hosts=hosts(DRAINING)).kind == "wait", "nobody is there: it ends by itself"


def test_a_move_that_has_begun_is_finished_whatever_the_policy():
    assert action("wait", hosts=hosts(DRAINING), rooms={"r": "b"}, record=record({"r": ("b", 1, True)})).kind == "move"
    assert action("wait", hosts=hosts(slot(None)), nodes=[node("b")], record=record({"r": ("b", 1, True)})).kind == "move"


def test_a_node_that_is_gone():
    gone = hosts(slot(None))
    assert action(nodes=[node("b")], hosts=gone) == ("gone", "the node is gone")
    assert action(nodes=[node("a", 1), node("b")], hosts=gone).kind == "freeze", "contradictory: it may be just starting to be reported"
    assert action(nodes=[node("a", 9), node("b")], hosts=gone, rooms={"r": "a"}) == ("move", "it is gone and left 1 rooms behind")
    assert action(nodes=[node("a", 9), node("b")], hosts=gone).kind == "move", "its entry has to go"
    assert action(nodes=[node("b")], hosts=gone, rooms={"r": "a"}).kind == "move"


def test_a_host_that_is_gone():
    assert action(nodes=[node("b")], hosts=[report("sfu1", DRAINING, age=61)]).kind == "gone"
    assert action(nodes=[node("b")], hosts=[report("sfu1", DRAINING, age=30)]).kind == "freeze"
    assert action(nodes=[node("b")], hosts=[report("sfu1", DRAINING, age=61)], rooms={"r": "a"}).kind == "freeze"
    assert action(nodes=[node("a", 61), node("b")], hosts=[report("sfu1", DRAINING, age=61)]).kind == "freeze"


def test_frozen():
    assert action(nodes=[]).kind == action(nodes=[node("a", 9)]).kind == "freeze"
    assert action(hosts=hosts(DRAINING, age=4)) == ("freeze", "the report of sfu1 is 4 s old")


def test_headroom_matters_only_where_calls_may_have_to_move():
    full = {"nodes": [node("a", clients=2), node("b", cpu=1.0), node("c", cpu=1.0)], "rooms": {"r": "a"}}
    for policy, want in (("move", "no_headroom"), ("now", "no_headroom")):
        assert code(action, policy, **full) == want
    for policy in ("wait", "end"):
        assert action(policy, **full).kind == "drain"
    for policy in drain.POLICIES:
        assert code(action, policy, nodes=[node("a")]) == "last_node"


def test_blockers_are_those_whom_nobody_sees():
    def person(identity, kind="STANDARD"):
        return Participant(identity, "PA", "", "ACTIVE", kind, 0, False, False)

    assert drain.blockers({"r": [person("ann"), person("line", "SIP"), person("rec", "EGRESS")], "s": [person("bob")], "t": [person("bot", "AGENT")]}) == {
        "r": ["SIP line", "EGRESS rec"], "t": ["AGENT bot"]}


# --- whole runs

@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    fleet_model.hurry(monkeypatch)
    for name, value in (("LOOK", 0.02), ("FREEZE_SECONDS", 1.0)):
        monkeypatch.setattr(drain_run, name, value)


@pytest.fixture
def cluster(redis_server):
    with fleet_model.Cluster(redis_server(), NODES, linger=0.1) as found:
        found.room("r1", "ND_a", "ann", "bob")
        found.room("r2", "ND_a", "eve")
        found.room("other", "ND_b", "joe")
        yield found


def run(cluster, policy="move", seconds=1800.0, hosts=("sfu1",), node_ids=(), wait=True, poll=0.0, limits=Limits(), neighbours=(), owner="me"):
    found = DrainRun(cluster.mover(owner, limits=limits, wait=5.0), policy, None if policy in ("wait", "now") else seconds, neighbours)
    found.choose(hosts, node_ids)
    if found.begin(poll):
        found.pursue(wait, poll)
    return found


def requests(cluster):
    return drain.requests(cluster.registry())


def everybody_leaves(cluster, after):
    threading.Timer(after, lambda: [cluster.leave(c) for c in list(cluster.callers)]).start()


def test_now(cluster):
    done = run(cluster, "now")
    cluster.assert_evacuated("ND_a", ("r1", "r2"))
    assert done.done and done.changed and requests(cluster) == {}
    assert [(d["node_id"], d["state"]) for d in done.drains()] == [("ND_a", "gone")]


def test_the_deadline(cluster):
    done = run(cluster, seconds=0.3)
    cluster.assert_evacuated("ND_a", ("r1", "r2"))
    noted = [e["kind"] for e in done.mover.journal.entries]
    assert noted.index("drain drain") < noted.index("move") < noted.index("drain gone")


def test_it_ends_by_itself_before_the_deadline(cluster):
    everybody_leaves(cluster, 0.3)
    assert run(cluster, "wait").done
    assert cluster.nodes["ND_a"].terms == 1 and cluster.nodes["ND_a"].kills == 0


def test_calls_are_ended_only_when_asked_for(cluster):
    assert run(cluster, "end", 0.2).done
    assert {c.identity for c in cluster.callers} == {"joe"} and cluster.nodes["ND_a"].kills == 0
    assert [args["rooms"] for _host, what, args, _result in cluster.orders if what == "end"][0] == ["r1", "r2"]


def test_without_waiting_it_returns_once_the_node_drains(cluster):
    done = run(cluster, wait=False)
    row, = done.drains()
    assert not done.done and done.changed and (row["state"], row["rooms"], row["participants"]) == ("wait", 2, 3)
    assert 1790 < row["deadline"] <= 1800 and row["oldest"] > 90 and row["eta"] is None
    assert cluster.nodes["ND_a"].state == "deactivating" and set(requests(cluster)) == {"ND_a"}


def test_the_request_outlives_the_run_and_keeps_its_deadline(cluster):
    run(cluster, seconds=100.0, wait=False)
    first = requests(cluster)["ND_a"]
    assert first.policy == "move" and first.by == "me" and abs(first.deadline - first.requested_at - 100) < 0.01
    time.sleep(0.2)
    again = run(cluster, seconds=100.0, wait=False, owner="you")
    assert not again.changed and requests(cluster)["ND_a"] == dataclasses.replace(first, by="you")
    assert sum(n.terms for n in cluster.nodes.values()) == 1
    longer = run(cluster, seconds=200.0, wait=False)
    assert longer.changed and requests(cluster)["ND_a"].deadline == first.requested_at + 200


def test_a_new_policy_counts_from_now(cluster):
    """Also in the second turn of a run: the deadline does not slip back to the first request."""
    registry = cluster.registry()
    drain.put(registry, Request("ND_a", "sfu1", 1, "wait", None, registry.now() - 5000, "old"))
    for _turn in range(2):
        run(cluster, seconds=100.0, wait=False)
        assert requests(cluster)["ND_a"].deadline > registry.now() + 90


def test_turns(cluster):
    """As the action plugin runs it."""
    done = run(cluster, "wait", poll=0.2)
    assert not done.done and done.drains()[0]["state"] == "wait"
    everybody_leaves(cluster, 0.1)
    done = run(cluster, "wait", poll=3.0)
    assert done.done and requests(cluster) == {}
    done = run(cluster, "wait", poll=0.2)
    assert done.done and not done.changed and done.drains() == []


def test_an_interrupted_run_is_gone_on_with(cluster):
    run(cluster, seconds=0.5, wait=False)
    time.sleep(0.5)
    done = run(cluster, seconds=0.5, owner="second")
    assert done.done
    cluster.assert_evacuated("ND_a", ("r1", "r2"))


def test_several_nodes_and_none_gets_rooms_of_another(cluster):
    done = run(cluster, "now", hosts=("sfu1", "sfu2"))
    assert done.done and set(cluster.homes().values()) == {"ND_c"}
    assert all(c.joins == 2 for c in cluster.callers), "nobody moved twice"


def test_two_nodes_of_one_host(redis_server):
    with fleet_model.Cluster(redis_server(), {**NODES, "ND_d": ("sfu1", 2)}, linger=0.1) as cluster:
        cluster.room("r1", "ND_a", "ann")
        cluster.room("r4", "ND_d", "dan")
        registry = cluster.registry()
        drain.put(registry, Request("ND_a", "sfu1", 1, "now", None, registry.now(), "old"))
        with cluster.lock:
            cluster.nodes["ND_a"].state, cluster.nodes["ND_a"].terms = "deactivating", 1
        assert run(cluster, "now").done
        assert all(c.joins == 2 and cluster.nodes[c.node].host != "sfu1" for c in cluster.callers)


def test_what_was_to_be_a_drain_is_no_move(cluster):
    """Between the look and the lock a node may have begun to drain; all nodes of a run drain before the first room moves."""
    registry = cluster.registry()
    request = Request("ND_a", "sfu1", 1, "now", None, registry.now(), "me")
    with cluster.lock:
        cluster.nodes["ND_a"].state, cluster.nodes["ND_a"].terms = "deactivating", 1
    cluster.pump()
    drainer = drain.Drainer(cluster.mover())
    with drainer.mover.lock:
        assert drainer.step(request, ("drain",)).kind == "move"
        assert not cluster.orders and set(cluster.homes().values()) & {"ND_a"}


def test_what_is_refused(cluster):
    for want, arguments in (
        ("host_unknown", {"hosts": ("sfu9",)}), ("host_unknown", {"hosts": ("edge1",)}), ("node_unknown", {"hosts": (), "node_ids": ("ND_none",)}),
        ("last_node", {"hosts": ("sfu1", "sfu2", "sfu3")}), ("no_headroom", {"limits": Limits(participants=1)}),
        ("no_headroom", {"policy": "now", "hosts": ("sfu1", "sfu2"), "limits": Limits(participants=3)}),
    ):
        assert code(run, cluster, **arguments) == want
    assert run(cluster, "wait", limits=Limits(participants=2), wait=False).changed
    assert {n.id for n in cluster.nodes.values() if n.terms} == {"ND_a"}
    assert set(requests(cluster)) == {"ND_a"}


def test_the_last_node(cluster):
    cluster.kill("ND_b", age=10)
    cluster.kill("ND_c", age=10)
    for policy in drain.POLICIES:
        assert code(run, cluster, policy) == "last_node"
    assert cluster.nodes["ND_a"].terms == 0 and requests(cluster) == {}


@pytest.mark.parametrize(("change", "want"), [({"at": -20}, "host_silent"), ({"slots": (slot(None, "activating", pid=7),)}, "node_unnamed")])
def test_a_host_whose_nodes_are_not_known_is_not_called_empty(cluster, change, want):
    cluster.silent.add("sfu1")
    with cluster.lock:
        found = dataclasses.replace(cluster.report("sfu1", time.time()), **{k: time.time() + v if k == "at" else v for k, v in change.items()})
        cluster.client.hset(HOSTS, "sfu1", found.as_json())
    assert code(run, cluster) == want


def test_stale_data_for_a_moment_and_for_long(cluster, monkeypatch):
    run(cluster, wait=False)
    with cluster.lock:
        cluster.silent.add("sfu1")
        cluster.client.hset(HOSTS, "sfu1", dataclasses.replace(cluster.report("sfu1", 0), at=time.time() - 20).as_json())
    threading.Timer(0.5, lambda: cluster.silent.discard("sfu1")).start()
    assert run(cluster, "now").done
    with cluster.lock:
        cluster.silent.add("sfu2")
        cluster.client.hset(HOSTS, "sfu2", dataclasses.replace(cluster.report("sfu2", 0), at=time.time() - 20).as_json())
    assert code(run, cluster, hosts=("sfu2",)) == "host_silent"
    assert code(run, cluster, hosts=(), node_ids=("ND_b",)) == "frozen"
    assert cluster.nodes["ND_b"].terms == 0


def test_redis_is_away_for_a_moment(cluster):
    found = DrainRun(cluster.mover(), "now", None)
    found.choose(["sfu1"], [])
    found.begin()
    real, begin = found.registry._ask_once, time.monotonic()

    def ask(tried, commands):
        if 0.1 < time.monotonic() - begin < 0.5:
            time.sleep(0.02)
            raise FleetError(tried, "redis", "refused", "", code="redis_unreachable")
        return real(tried, commands)

    found.registry._ask_once = ask
    found.pursue()
    cluster.assert_evacuated("ND_a", ("r1", "r2"))
    assert found.done


def test_nodes_that_a_killed_run_left_draining(cluster):
    """Their SIGTERM was sent, what becomes of their calls nobody has said. Nodes that serve, or for which it was said, are left alone."""
    mover = cluster.mover("killed")
    with mover.lock:
        mover.drain("ND_a", "the run is killed right afterwards")
        mover.drain("ND_b", "another one")
    drain.put(cluster.registry(), Request("ND_b", "sfu2", 1, "wait", by="somebody"))
    cluster.settle(0.5)
    found = DrainRun(cluster.mover(wait=5.0), "now", None, draining=True)
    found.choose(["sfu1", "sfu2", "sfu3", "no-host"], ["ND_gone"])
    assert [r.node_id for r in found.requests] == ["ND_a"] and found.changed
    found.begin()
    found.pursue(wait=False)
    assert {room: home for room, home in cluster.homes().items() if home != "ND_c"} == {"other": "ND_b"}
    assert cluster.nodes["ND_a"].terms == 1 and not cluster.nodes["ND_a"].alive and list(requests(cluster)) == ["ND_b"]
    assert cluster.nodes["ND_b"].kills == cluster.nodes["ND_c"].terms == 0
    again = DrainRun(cluster.mover(wait=5.0), "now", None, draining=True)
    again.choose(["sfu1", "sfu2"], ["ND_a"])
    assert again.done and not again.changed


def test_a_drain_that_the_controller_finishes(cluster):
    """It removes the request; the run that still looks sees that the node is gone."""
    found = DrainRun(cluster.mover(wait=5.0), "wait", None)
    found.choose(["sfu1"], [])
    found.begin()

    def controller():
        time.sleep(0.3)
        mover = cluster.mover("controller", wait=3.0)
        with mover.lock:
            mover.evacuate("ND_a")
        drain.remove(mover.registry, "ND_a")

    thread = threading.Thread(target=controller)
    thread.start()
    found.pursue()
    thread.join()
    assert found.done and cluster.nodes["ND_a"].terms == 1


def test_neighbours_end_first_and_hold_no_lock(cluster):
    cluster.neighbours["sfu1"] = {"livekit-egress.service": "active", "livekit-agent.service": "active"}
    near = [{"unit": "livekit-egress.service", "kind": "egress"}, {"unit": "livekit-agent.service", "kind": "agent"}]
    held = run(cluster, "now", neighbours=near, poll=0.3)
    assert not held.done and held.changed and held.drains()[0]["reason"] == "livekit-agent.service on sfu1 finish their work first"
    assert cluster.neighbours["sfu1"] == {"livekit-egress.service": "active", "livekit-agent.service": "deactivating"}
    assert cluster.nodes["ND_a"].terms == 0 and requests(cluster) == {}
    with cluster.mover("somebody else").lock:
        pass
    cluster.neighbours["sfu1"]["livekit-agent.service"] = "inactive"
    threading.Timer(0.4, lambda: cluster.neighbours["sfu1"].update({"livekit-egress.service": "inactive"})).start()
    done = run(cluster, "now", neighbours=near)
    assert done.done
    stopped = [args["unit"] for _host, what, args, result in cluster.orders if what == "stop_unit" and result["signalled"]]
    assert stopped == ["livekit-agent.service", "livekit-egress.service"]
    assert [what for _host, what, _args, _result in cluster.orders].index("drain") > 2


def test_blockers_and_the_oldest_room_are_told(cluster):
    cluster.server.add_participant("r1", "line", kind=3)
    row, = run(cluster, "wait", wait=False).drains()
    assert row["blockers"] == {"r1": ["SIP line"]} and row["deadline"] is None and 99 < row["oldest"] < 130


def test_nothing_is_asked_for_in_check_mode(cluster):
    found = DrainRun(cluster.mover(), "now", None)
    found.choose(["sfu1"], [])
    assert found.changed and found.drains()[0]["state"] == "drain" and not found.done
    assert not cluster.orders and not cluster.client.exists(drain.DRAINS)


def test_a_run_waits_for_another_mover(cluster):
    other = cluster.mover("other")
    other.lock.acquire()
    threading.Timer(0.4, other.lock.release).start()
    assert run(cluster, "now").done
    other.lock.acquire()
    impatient = DrainRun(cluster.mover(wait=0.1), "now", None)
    impatient.choose(["sfu2"], [])
    impatient.begin()
    with pytest.raises(FleetError) as caught:
        impatient.pursue()
    assert caught.value.failure["code"] == "locked" and caught.value.failure["owner"] == "other"


def test_requests_round_trip(cluster):
    registry = cluster.registry()
    asked = Request("ND_x", "sfu1", 2, "end", 12.5, 10.25, "me ☎")
    drain.put(registry, asked)
    assert drain.requests(registry) == {"ND_x": asked}
    drain.remove(registry, "ND_x")
    assert drain.requests(registry) == {}
