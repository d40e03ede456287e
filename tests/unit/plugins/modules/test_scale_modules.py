# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules scale and capacity_info, with a real Redis and a model of nodes and executors (fleet_model.py)."""
from __future__ import annotations

import time

import fleet_model
import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import drain, journal, scaler
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.demand_store import DemandStore
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.lock import Lock
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import HOSTS
from ansible_collections.openrtc.livekit.plugins.modules import capacity_info, scale

SCALING = {"pool": {"kind": "slots"}, "measure": "rooms", "per_node": 2, "limits": {"min": 1, "max": 4, "protect": 0}}


@pytest.fixture
def cluster(redis_server, monkeypatch):
    fleet_model.hurry(monkeypatch)
    monkeypatch.setattr(scale, "POLL", 0.05)
    found = fleet_model.Cluster(redis_server(), {f"ND_{n}": (f"sfu{n}", 1) for n in (1, 2, 3)}, linger=0.3)
    found.nodes["ND_3"].state = "gone"
    with found:
        found.room("standup", "ND_1", "ann", "bob")
        yield found


@pytest.fixture
def run(cluster, run_module):
    def call(module=scale, check=False, **options):
        usual = {"scaling": SCALING, "lock_wait": 0.2, "owner": "ops"} if module is scale else {}
        return run_module(module.main, {"redis": {"address": cluster.server.address}, **usual, **options}, check=check)

    return call


def serving(cluster):
    return sorted(n.host for n in cluster.nodes.values() if n.state == "active")


def test_a_size_that_is_asked_for(cluster, run):
    got = run(size=3, wait=5)
    assert (got["failed"], got["changed"], got["have"], got["size"], got["added"]) == (False, True, 2, 3, ["sfu3/1"])
    assert got["msg"] == "2 nodes, 3 to be: add 1 (asked for: 3 nodes)"
    assert got["diff"] == {"before": "2 nodes\n", "after": "3 nodes\nadd 1 (asked for: 3 nodes)\n"}
    assert serving(cluster) == ["sfu1", "sfu2", "sfu3"]
    assert journal.recent(cluster.registry(), 1)[0]["action"] == "add"
    again = run(size=3)
    assert (again["changed"], [a["kind"] for a in again["actions"]], again["diff"]["after"]) == (False, ["hold"], "3 nodes\n")


def test_a_smaller_size_ends_no_call(cluster, run):
    cluster.room("lesson", "ND_2", "eve")
    scaling = {**SCALING, "drain": {"policy": "now"}}
    got = run(size=1, wait=10, scaling=scaling)
    assert (got["failed"], got["size"], serving(cluster)) == (False, 1, [{"sfu1/1": "sfu2", "sfu2/1": "sfu1"}[got["actions"][0]["nodes"][0]]])
    cluster.pump()
    assert all(n.terms <= 1 for n in cluster.nodes.values())
    assert {c.node for c in cluster.callers} == {n.id for n in cluster.nodes.values() if n.state == "active"}


def test_without_waiting_the_drain_is_left_to_others(cluster, run):
    got = run(size=1)
    assert got["changed"] and [a["kind"] for a in got["actions"]] == ["retire"]
    asked = drain.requests(cluster.registry())
    assert [(r.node_id, r.policy, r.by) for r in asked.values()] == [("ND_2", "move", "ops")]
    assert serving(cluster) == ["sfu1", "sfu2"]


def test_deciding_from_what_runs(cluster, run):
    for n in range(4):
        cluster.room(f"room-{n}", "ND_2", f"kim-{n}")
    got = run()
    assert (got["size"], got["demand"], got["capacity"]) == (4, 5.0, 2.0)
    assert got["wishes"][0]["policy"] == "headroom" and got["added"] == ["sfu3/1"]


def test_check_mode_tells_and_changes_nothing(cluster, run):
    for n in range(4):
        cluster.room(f"room-{n}", "ND_2", f"kim-{n}")
    cluster.stopped.set()
    for thread in cluster.threads:
        thread.join(5)
    before = {k: cluster.client.dump(k) for k in cluster.client.keys("*") if k not in (b"nodes", HOSTS.encode())}
    got = run(check=True)
    assert got["changed"] and got["actions"][0]["kind"] == "add" and got["added"] == []
    assert before == {k: cluster.client.dump(k) for k in cluster.client.keys("*") if k not in (b"nodes", HOSTS.encode())}
    assert serving(cluster) == ["sfu1", "sfu2"]


def test_the_history_of_a_controller_has_a_say(cluster, run, tmp_path):
    now = time.time() // 60 * 60
    store = DemandStore(str(tmp_path / "demand.sqlite"))
    store.add([(now - 60 * n, 1.0) for n in range(600)])
    store.close()
    got = run(check=True, history=str(tmp_path / "demand.sqlite"))
    assert "earlier errors" in got["wishes"][0]["reason"]
    assert "earlier errors" not in run(check=True, history=str(tmp_path / "none"))["wishes"][0]["reason"]


@pytest.mark.parametrize("options, code", [
    ({"size": 9}, "scaling_size"), ({"size": 0}, "scaling_size"), ({"size": -1}, "scaling_size"),
    ({"scaling": {}}, "pool_unknown"), ({"scaling": {"pool": {"kind": "slots", "x": 1}}}, "pool_settings"),
    ({"scaling": {**SCALING, "limits": {"min": 5, "max": 1}}}, "scaling_min_max"),
])
def test_bad_input_fails_before_anything_changes(cluster, run, options, code):
    got = run(**options)
    assert (got["failed"], got["failure"]["code"], got["changed"]) == (True, code, False)
    assert serving(cluster) == ["sfu1", "sfu2"] and not cluster.orders


def test_a_cluster_that_cannot_be_trusted_is_left_alone(cluster, run):
    cluster.stopped.set()
    for thread in cluster.threads:
        thread.join(5)
    for node in ("ND_1", "ND_2"):
        cluster.server.add_node(node, age=60)
    got = run(size=3)
    assert (got["failed"], got["failure"]["code"], got["changed"]) == (True, "frozen", False) and "stale" in got["msg"]


def test_one_run_at_a_time(cluster, run):
    with Lock(cluster.registry(), "scale", "controller@edge1", ttl=30):
        got = run(size=3)
    assert (got["failed"], got["failure"]["code"]) == (True, "locked") and not cluster.orders


def test_waiting_ends_with_what_is_missing(cluster, run):
    cluster.slow_start = True
    got = run(size=3, wait=0.5)
    assert (got["failed"], got["failure"]["code"], got["changed"], got["failure"]["serving"]) == (True, "scaling_slow", True, 2)


def test_capacity_info_tells_loads_and_the_last_decision(cluster, run):
    run(size=2)
    got = run(capacity_info)
    assert (got["changed"], got["serving"], [n["host"] for n in got["nodes"]]) == (False, 2, ["sfu1", "sfu2"])
    node = got["nodes"][0]
    assert node["rooms"] == 1 and 0 < node["load"] < 1 and node["serving"] and not node["learned"] and node["by"] in ("participants", "cpu")
    assert got["free"] == pytest.approx(2 - got["demand"]) and got["scaler"]["size"] == 2
    cluster.client.delete(scaler.STATUS)
    assert run(capacity_info)["scaler"] is None


def test_capacity_info_goes_by_the_profile_of_each_host(cluster, run):
    profiles = {"sfu1": {"cpu": 0.2, "learned": True}, "default": {"cpu": 0.4}}
    got = {n["host"]: n for n in run(capacity_info, scaling={"profiles": profiles})["nodes"]}
    assert (got["sfu1"]["load"], got["sfu1"]["learned"], got["sfu1"]["by"]) == (0.5, True, "cpu")
    assert (got["sfu2"]["load"], got["sfu2"]["learned"]) == (0.25, False)
