# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what the API shows to slots, and from slots to steps."""
from __future__ import annotations

import pytest
from kubernetes_sample import NEW, OLD, cluster, deployment, node, pod, secret, serving, settings

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes import plan


def steps(found, generation=NEW, version="1.13.5", count=3, pointed_at=None, kept=(), **changes):
    done = plan.change(generation, version, found, settings(**{"replicas": 3, **changes}), count, now=10000.0, pointed_at=pointed_at, kept=kept)
    return [(s.kind, s.slot) for s in done.steps], done


def labels(found, count=2, **changes):
    return {host: [s.label for s in rows] for host, rows in plan.node_slots(found, settings(**changes), count).items()}


# --- slots ------------------------------------------------------------------------------------------------------------

def test_slots_of_a_machine_are_called_as_on_hosts():
    pods = [pod(1, OLD, "node1", leaving=True), pod(2, NEW, "node1"), pod(2, NEW, "node2", serving=False), pod(2, NEW, "node3", ready=False, serving=False)]
    assert labels(cluster(pods=pods)) == {"node1": ["draining", "serving"], "node2": ["free", "gating"], "node3": ["free", "gating"]}


def test_pod_that_does_not_come_up_says_why():
    broken = pod(1, NEW, "node1", ready=False, waiting={"reason": "ImagePullBackOff", "message": 'Back-off pulling image "livekit/none"'})
    assert labels(cluster(pods=[broken]))["node1"] == ["failed", "free"]
    assert plan.trouble(broken) == 'ImagePullBackOff: Back-off pulling image "livekit/none"'


def test_drain_is_as_old_as_the_deletion():
    row = plan.node_slots(cluster(pods=[pod(1, OLD, "node1", leaving=True)]), settings(), 1)["node1"][0]
    assert row.state_since - row.since == 3600  # deleted at one o'clock; the API tells when the grace ends


def test_machine_that_is_none_for_media_any_more_counts_while_a_pod_is_on_it():
    nodes = [node("node1", media="yes"), node("node2")]
    found = labels(cluster(nodes=nodes, pods=[pod(1, OLD, "node2", leaving=True)]), node_selector={"media": "yes"})
    assert found == {"node1": ["free", "free"], "node2": ["draining", "free"]}


def test_slot_beyond_the_layout_counts_while_a_pod_is_in_it():
    assert [s.slot for s in plan.slots(cluster(pods=[pod(4, OLD, "node1", leaving=True)]), settings(), 2)] == [1, 2, 4]


def test_pod_without_a_machine_tells_what_the_scheduler_says():
    assert plan.unscheduled(cluster(pods=[pod(1, NEW)]), settings()) == {f"livekit-s1-{NEW}-None": "0/3 nodes are available: 3 node(s) didn't have free ports"}


def test_slot_is_free_when_no_deployment_and_no_pod_is_in_it():
    found = cluster(deployments=[deployment(1, NEW)], pods=[pod(2, OLD, "node3", leaving=True)])
    assert [s.label for s in plan.slots(found, settings(), 3)] == ["serving", "draining", "free"]


def test_deployment_that_is_being_deleted_is_gone():
    leaving = deployment(1, OLD)
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert plan.slots(cluster(deployments=[leaving], pods=[pod(1, OLD, "node1")]), settings(), 1)[0].label == "draining"


def test_pods_and_deployments_of_others_count_for_nothing():
    other = pod(1, OLD, "node1")
    other["metadata"]["namespace"] = "elsewhere"
    stranger = deployment(2, OLD)
    stranger["metadata"]["labels"] = {"app": "livekit"}
    assert [s.label for s in plan.slots(cluster(pods=[other], deployments=[stranger]), settings(), 2)] == ["free", "free"]


# --- steps ------------------------------------------------------------------------------------------------------------

def test_first_generation():
    kinds, done = steps(cluster())
    assert kinds == [("create", 1), ("gate", 1), ("serve", 1)]
    assert done.steps[0].name == f"livekit-s1-{NEW}" and done.steps[0].replicas == 3


def test_same_generation_is_no_change():
    assert steps(serving(), OLD)[0] == []


def test_new_generation_starts_beside_and_the_old_one_is_retired_last():
    kinds, done = steps(serving(), version="1.13.6")
    assert kinds == [("create", 2), ("gate", 2), ("serve", 2), ("retire", 1)]
    assert done.steps[-1].name == f"livekit-s1-{OLD}" and done.plan.reason == "version 1.13.5 -> 1.13.6"


def test_next_generation_takes_a_slot_in_which_nothing_drains():
    assert steps(serving(2, pods=[pod(1, "c" * 12, "node1", leaving=True)]))[0][0] == ("create", 3)


def test_no_slot_is_free():
    found = serving(1, pods=[pod(2, "c" * 12, "node1", leaving=True), pod(3, "d" * 12, "node1", leaving=True)])
    with pytest.raises(FleetError) as failed:
        steps(found)
    assert failed.value.failure["code"] == "no_free_slot"


@pytest.mark.parametrize(("found", "expected"), [
    (serving(1, deployments=[deployment(2, NEW, ready=1, gated=False)]), [("gate", 2), ("serve", 2), ("retire", 1)]),  # after create
    (serving(1, deployments=[deployment(2, NEW, ready=3, gated=False)]), [("gate", 2), ("serve", 2), ("retire", 1)]),  # before serve
    (serving(1, deployments=[deployment(2, NEW)]), [("retire", 1)]),  # after serve
    (serving(1, secrets=[secret(2, NEW)]), [("discard", 2), ("create", 2), ("gate", 2), ("serve", 2), ("retire", 1)]),  # between Secret and Deployment
])
def test_run_that_was_killed_is_gone_on_with(found, expected):
    assert steps(found)[0] == expected


def test_gated_generation_that_lost_a_machine_is_left_alone():
    found = serving()
    found.deployments[0]["status"]["readyReplicas"] = 2
    assert steps(found, OLD)[0] == []


def test_pods_edited_by_hand_are_replaced_by_clean_ones_beside():
    kinds, done = steps(cluster(deployments=[deployment(1, OLD, revision="2")]), OLD)
    assert kinds == [("create", 2), ("gate", 2), ("serve", 2), ("retire", 1)]
    assert "changed after its start" in done.plan.reason


def test_number_of_nodes_is_scaled_in_place():
    kinds, done = steps(serving(), OLD, replicas=2)
    assert kinds == [("scale", 1)] and done.steps[0].replicas == 2 and done.steps[0].reason == "3 -> 2 nodes"


def test_autoscaler_is_pointed_at_the_new_generation_which_has_the_size_of_the_old():
    kinds, done = steps(serving(), pointed_at=f"livekit-s1-{OLD}", autoscaling={"min": 2, "max": 9})
    assert kinds == [("create", 2), ("gate", 2), ("serve", 2), ("point", 2), ("retire", 1)]
    assert done.steps[0].replicas == 3
    assert steps(serving(), OLD, pointed_at=f"livekit-s1-{OLD}", autoscaling={"min": 2, "max": 9})[0] == []


def test_pods_that_came_later_are_let_in_where_no_executor_does_it():
    found = serving()
    del found.pods[1]["metadata"]["labels"]["openrtc.livekit/serving"]
    assert steps(found, OLD)[0] == []
    assert steps(found, OLD, executor=False)[0] == [("serve", 1)]


def test_two_deployments_in_a_slot():
    with pytest.raises(FleetError) as failed:
        steps(cluster(deployments=[deployment(1, OLD), deployment(1, NEW)]))
    assert failed.value.failure["code"] == "slot_twice"


def test_serving_is_the_newest_that_passed_its_gate():
    found = cluster(deployments=[deployment(1, OLD, served_at="1000"), deployment(2, NEW, served_at="2000"), deployment(3, "c" * 12, gated=False)])
    assert plan.serving(found, settings(), 3).generation == NEW


# --- what is left over ------------------------------------------------------------------------------------------------

def kept_map(name, labels):
    return {"metadata": {"name": name, "labels": labels}}


def test_generation_before_is_kept_for_a_rollback_and_older_ones_go():
    older = [secret(2, "c" * 12, "500"), secret(3, "d" * 12, "900"), secret(3, "e" * 12)]
    kinds, done = steps(serving(secrets=older), OLD)
    assert kinds == [("prune", 0)]
    assert done.steps[0].names == (f"Secret/livekit-s2-{'c' * 12}", f"Secret/livekit-s3-{'e' * 12}")


def test_secret_of_a_draining_pod_stays():
    found = serving(pods=[pod(2, "c" * 12, "node1", leaving=True)], secrets=[secret(2, "c" * 12, "500"), secret(3, "d" * 12, "900")])
    assert steps(found, OLD)[0] == []


def test_old_settings_go_when_no_pod_reads_them_and_those_of_others_stay():
    ours, one, two = {"app.kubernetes.io/managed-by": "openrtc.livekit"}, "1" * 12, "2" * 12
    rows = [kept_map(f"livekit-executor-{one}", ours), kept_map(f"livekit-executor-{two}", ours), kept_map(f"theirs-{one}", {}), kept_map("by-hand", ours)]
    found = serving(secrets=rows, config_maps=[kept_map(f"livekit-haproxy-{one}", ours)])
    assert steps(found, OLD, kept=[f"livekit-executor-{two}"])[1].steps[0].names == (f"ConfigMap/livekit-haproxy-{one}", f"Secret/livekit-executor-{one}")
