# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a controller does in Kubernetes: which pod goes first, by when a deleted one is empty, what is forgotten."""
from __future__ import annotations

import threading
import types

import pytest
from controller_sample import registry, settings
from engine_sample import NOW, node, report, snapshot
from kubernetes_sample import NEW, OLD, pod
from pods_sample import Cluster, until

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import drain
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.look import Look
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.pods import Keeper, cost, costs, deadlines, gone
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.drain import Request
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.generation import Slot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import HOSTS, Reports
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.cluster import moment
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.objects import DELETION_COST

LAST = moment("2026-01-01T02:02:00Z") - 120  # of a pod of the sample that leaves


def machine(name, node_id, participants=0, state="active", number=1, **more):
    return report(name, Slot(number, state, generation=NEW, gate=NEW, pid=7, node_id=node_id, participants=participants), **more)


def test_cost_changes_seldom():
    assert [cost(n) for n in (0, 7, 42, 119, 1234)] == [0, 7, 42, 110, 1200]


def test_emptiest_pod_is_the_cheapest():
    pods = [pod(1, NEW, "node1"), pod(1, NEW, "node2"), pod(1, NEW, "node3")]
    pods[2]["metadata"]["annotations"] = {DELETION_COST: "119"}
    reports = Reports([machine("node1", "ND_a", 12), machine("node2", "ND_b", 0), machine("node3", "ND_c", 119)])
    assert costs(pods, reports, NOW) == {f"livekit-s1-{NEW}-node1": "12", f"livekit-s1-{NEW}-node3": "110"}


@pytest.mark.parametrize("reports", [[], [machine("node1", "ND_a", 12, age=60)], [machine("node1", "ND_a", 12, number=2)], [machine("node1", None, None)]])
def test_pod_nobody_tells_of_keeps_its_cost(reports):
    assert costs([pod(1, NEW, "node1")], Reports(reports), NOW) == {}


def test_deleted_pod_gets_a_deadline_before_the_kubelet_kills_it():
    found = deadlines([pod(1, NEW, "node1", leaving=True), pod(1, NEW, "node2")],
                      Reports([machine("node1", "ND_a", 3, "deactivating"), machine("node2", "ND_b", 3)]), {}, NOW, "me")
    assert found == [Request("ND_a", "node1", 1, "move", LAST, NOW, "me")]


@pytest.mark.parametrize("policy, deadline, becomes", [
    ("wait", None, ("move", LAST)), ("move", LAST + 600, ("move", LAST)), ("end", LAST + 600, ("end", LAST)),
    ("move", LAST - 600, None), ("now", None, None),
])
def test_drain_that_was_asked_for_ends_by_then_too(policy, deadline, becomes):
    asked = Request("ND_a", "node1", 1, policy, deadline, 1.0, "ops")
    found = deadlines([pod(1, NEW, "node1", leaving=True)], Reports([machine("node1", "ND_a", 3, "deactivating")]), {"ND_a": asked}, NOW, "me")
    assert [(r.policy, r.deadline, r.by) for r in found] == ([(*becomes, "ops")] if becomes else [])


@pytest.mark.parametrize("reports", [[], [machine("node1", "ND_a", 3, "deactivating", age=60)], [machine("node1", "ND_a", 3)],
                                     [machine("node1", None, 0, "inactive")]])
def test_nothing_is_asked_of_what_is_not_seen_draining(reports):
    assert deadlines([pod(1, NEW, "node1", leaving=True)], Reports(reports), {}, NOW, "me") == []


def test_successor_in_the_slot_is_not_taken_for_the_pod_that_left():
    assert deadlines([pod(1, OLD, "node1", leaving=True)], Reports([machine("node1", "ND_a", 3, "deactivating")]), {}, NOW, "me") == []


def test_machines_and_balancers_that_are_gone_for_good():
    reports = Reports([machine("node1", "ND_a", age=700), machine("node2", "ND_b", age=700), machine("node3", "ND_c", age=60),
                       report("haproxy-a", age=700, balancer="haproxy-http"), report("haproxy-b", age=700, balancer="haproxy-http")])
    assert gone(reports, {"node1"}, {"haproxy-a"}, NOW) == ["haproxy-b", "node2"]


# --- carried out ------------------------------------------------------------------------------------------------------

@pytest.fixture(name="keeper")
def fixture_keeper(redis_server):
    """keeper(hosts) -> (keeper, cluster, Redis), in step with the API."""
    cluster, made, server = Cluster(), [], redis_server()

    def start(*hosts, **more):
        loop = types.SimpleNamespace(settings=settings(server, **more), leads=True, look=Look(snapshot([node("a")]), Reports(hosts)))
        keeper = Keeper("livekit", loop, registry(server), lambda entry: None, cluster.connect)
        threading.Thread(target=keeper.pods.keep, args=(keeper._stop, lambda got: None), daemon=True).start()
        made.append(keeper)
        assert until(lambda: keeper.pods.in_step)
        return keeper, cluster, server

    yield start
    for keeper in made:
        keeper.stop()
    cluster.close()


def test_deadline_and_cost_are_written(keeper):
    keeper_, cluster, server = keeper(machine("node1", "ND_a", 3, "deactivating"), machine("node2", "ND_b", 44))
    cluster.add(1, NEW, "node1", runs=False, leaving=True)
    cluster.add(1, NEW, "node2", runs=False)
    assert until(lambda: len(keeper_.pods.rows()) == 2)
    keeper_.step()
    assert drain.requests(registry(server))["ND_a"].deadline == LAST
    assert cluster.pod(1, NEW, "node2")["metadata"]["annotations"][DELETION_COST] == "44" and len(cluster.done) == 1
    keeper_.step()
    assert len(cluster.done) == 1


def test_request_that_came_meanwhile_is_left_alone(keeper):
    keeper_, cluster, server = keeper(machine("node1", "ND_a", 3, "deactivating"))
    cluster.add(1, NEW, "node1", runs=False, leaving=True)
    assert until(keeper_.pods.rows)
    drain.put(registry(server), Request("ND_a", "node1", 1, "now"))
    keeper_.step()
    assert drain.requests(registry(server))["ND_a"].policy == "now"


@pytest.mark.parametrize("how", ["dry_run", "follower", "drains"])
def test_who_must_not_act_does_not(keeper, how):
    keeper_, cluster, server = keeper(machine("node1", "ND_a", 3, "deactivating"), **({"dry_run": True} if how == "dry_run" else {}),
                                      **({"drains": False} if how == "drains" else {}))
    keeper_.loop.leads = how != "follower"
    cluster.add(1, NEW, "node1", runs=False, leaving=True)
    assert until(keeper_.pods.rows)
    keeper_.step()
    assert drain.requests(registry(server)) == {} and cluster.done == []


def test_gone_machine_is_forgotten(keeper):
    keeper_, cluster, server = keeper(machine("node1", "ND_a", age=700), machine("node2", "ND_b", age=700))
    cluster.put("nodes", {"metadata": {"name": "node1"}})
    for name in ("node1", "node2"):
        server.client.hset(HOSTS, name, "{}")
    keeper_.step()
    assert server.client.hkeys(HOSTS) == [b"node1"]
