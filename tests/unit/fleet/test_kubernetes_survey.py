# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator's machine is told of a cluster: machines and executors, slots with pods, what is not up yet, what there is to go back to."""
from __future__ import annotations

import json

import pytest
from kubernetes_sample import LAYOUT, NEW, OLD, SECRET, VARIABLES, cluster, deployment, material, node, pod, secret, serving, settings

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import kubernetes
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes import survey
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.plan import change


def worker(component, on, ready=True, leaving=False, ip="10.1.0.1"):
    meta = {"name": f"livekit-{component}-{on}", "namespace": "livekit", "labels": {"app.kubernetes.io/component": component}}
    if leaving:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {"metadata": meta, "spec": {"nodeName": on}, "status": {"phase": "Running", "podIP": ip, "conditions": [
        {"type": "Ready", "status": "True" if ready else "False"}]}}


def workload(kind, name, wanted=3, updated=3, ready=3, generation=2, seen=2, **labels):
    status = {"observedGeneration": seen, "updatedReplicas": updated, "readyReplicas": ready, "desiredNumberScheduled": wanted,
              "updatedNumberScheduled": updated, "numberAvailable": ready}
    return kind, {"metadata": {"name": name, "generation": generation, "labels": labels}, "spec": {"replicas": wanted}, "status": status}


# --- machines ---------------------------------------------------------------------------------------------------------

def test_machines_with_their_executors():
    drained = node("node3", cordoned=True, address="10.0.0.3")
    drained["metadata"]["annotations"] = {"openrtc.livekit/drained": "true"}
    found = serving(pods=[worker("executor", "node1"), worker("executor", "node2", ready=False), worker("executor", "node3", leaving=True)])
    rows = survey.machines(cluster(nodes=[*found.nodes[:2], drained], pods=found.pods), settings())
    assert [(r["name"], r["address"], r["executor"], r["nodes"]) for r in rows] == [
        ("node1", "10.0.0.1", "livekit-executor-node1", 1), ("node2", "10.0.0.2", "", 1), ("node3", "10.0.0.3", "", 1)]
    assert [(r["cordoned"], r["drained"]) for r in rows] == [(False, False), (False, False), (True, True)]


def test_a_machine_that_is_none_for_media_counts_only_with_a_pod():
    other = node("edge1", role="edge")
    found = cluster(nodes=[node("node1", media="yes"), other], pods=[pod(1, OLD, "edge1", leaving=True)])
    chosen = settings(node_selector={"media": "yes"})
    assert [r["name"] for r in survey.machines(found, chosen)] == ["edge1", "node1"]
    assert [r["name"] for r in survey.machines(cluster(nodes=found.nodes), chosen)] == ["node1"]


def test_balancers_that_take_connections():
    found = cluster(pods=[worker("haproxy", "node1", ip="10.1.0.7"), worker("haproxy", "node2", ready=False), worker("haproxy", "node3", leaving=True)])
    assert survey.balancers(found, settings()) == [{"name": "livekit-haproxy-node1", "address": "10.1.0.7"}]


# --- slots ------------------------------------------------------------------------------------------------------------

def test_slots_with_their_pods():
    found = serving(deployments=[deployment(2, NEW, ready=1, gated=False)],
                    pods=[pod(2, NEW, "node1", serving=False), pod(2, NEW, "node2", ready=False, serving=False), pod(2, NEW)])
    first, second, third = survey.slots(found, settings(), 3)
    assert (first["label"], first["name"], first["replicas"], first["ready"]) == ("serving", f"livekit-s1-{OLD}", 3, 3)
    assert (second["label"], second["replicas"], second["ready"]) == ("gating", 3, 1)
    assert [(p["machine"], p["state"], p["serving"]) for p in second["pods"]] == [
        ("", "activating", True), ("node1", "active", False), ("node2", "activating", False)]
    assert (third["label"], third["name"], third["pods"]) == ("free", "", [])


def test_a_slot_that_drains_has_no_deployment():
    row = survey.slots(cluster(pods=[pod(1, OLD, "node1", leaving=True)]), settings(), 3)[0]
    assert (row["label"], row["replicas"], row["ready"]) == ("draining", 0, 0) and row["pods"][0]["state"] == "deactivating"


def test_trouble_that_waiting_does_not_mend():
    pull, crash = {"reason": "ErrImagePull", "message": "no such image"}, {"reason": "CrashLoopBackOff"}
    found = cluster(pods=[pod(1, NEW, "node1", waiting=pull), pod(1, NEW, "node2", waiting=crash), pod(2, OLD, "node3", waiting=pull, leaving=True)])
    assert survey.trouble(found, settings()) == {f"livekit-s1-{NEW}-node1": "ErrImagePull: no such image"}


@pytest.mark.parametrize("row, said", [
    (workload("Deployment", "a"), []),
    (workload("Deployment", "a", ready=2), ["Deployment/a: 2 of 3"]),
    (workload("Deployment", "a", updated=1), ["Deployment/a: 1 of 3"]),
    (workload("Deployment", "a", seen=1), ["Deployment/a: 0 of 3"]),
    (workload("StatefulSet", "r", updated=0), []),
    (workload("StatefulSet", "r", ready=0), ["StatefulSet/r: 0 of 3"]),
    (workload("DaemonSet", "e", ready=2), ["DaemonSet/e: 2 of 3"]),
    (workload("DaemonSet", "e", wanted=4), []),  # one machine of four is down
    (workload("Deployment", "livekit-s1-x", ready=0, **{"openrtc.livekit/slot": "1"}), []),
])
def test_what_is_not_up_yet(row, said):
    assert survey.rolling([row], 3) == said


# --- going back -------------------------------------------------------------------------------------------------------

def back(found):
    return survey.previous(found, settings(), 3)


def test_back_to_the_one_before():
    found = serving(2, NEW, deployments=[], secrets=[secret(1, OLD, "900")])
    taken, why = back(found)
    assert (taken.slot, taken.generation) == (1, OLD) and f"back from generation {NEW}" in why and OLD in why


def test_back_while_the_one_before_still_drains():
    found = serving(2, NEW, pods=[pod(1, OLD, "node1", leaving=True)], secrets=[secret(1, OLD, "900")])
    taken, why = back(found)
    assert taken.generation == OLD and taken.draining and "cannot be called back" in why


def test_one_that_never_served_is_nothing_to_go_back_to():
    with pytest.raises(FleetError) as failed:
        back(serving(2, NEW, secrets=[secret(1, OLD)]))
    assert failed.value.failure["code"] == "no_previous_generation"


def test_rolled_back_already():
    row = secret(3, OLD, "2000")
    row["metadata"]["annotations"]["openrtc.livekit/rolled-back"] = "true"
    found = cluster(deployments=[deployment(3, OLD, served_at="2000")], pods=[pod(3, OLD, "node1")], secrets=[secret(2, NEW, "1000.5"), row])
    assert back(found) == (None, "rolled back already")


def test_a_generation_is_made_again_from_what_was_kept_of_it():
    """Settings that have changed since do not change it; where it runs and how often is as today."""
    made = material(drain_deadline="10m", replicas=2)
    kept = json.loads(json.dumps(survey.kept(made.variables, made.settings)))
    model, was = survey.split(kept, {"livekit_kubernetes_drain_deadline": "2h", "replicas": 5, "namespace": "rtc"})
    again = kubernetes.Settings.from_vars(was)
    assert model == VARIABLES and (again.replicas, again.namespace, again.drain_deadline) == (5, "rtc", "10m")
    fresh = kubernetes.Material(made.model, again, LAYOUT)
    assert kubernetes.generation_name(fresh) == kubernetes.generation_name(made)


def test_what_is_kept_lies_in_the_secret_only():
    made = material(redis={"mode": "sentinel", "password": SECRET})
    made = kubernetes.Material(made.model, made.settings, LAYOUT, survey.kept(made.variables, made.settings))
    record, workload_ = kubernetes.desired(made, 1)
    assert SECRET not in json.dumps(workload_) and "model.json" in record["data"]


def test_a_rollback_takes_a_free_slot_and_leaves_the_rest_alone():
    """The plan of a change knows nothing of going back: the same generation starts in the lowest free slot."""
    found = serving(2, NEW, pods=[pod(1, OLD, "node1", leaving=True)], secrets=[secret(1, OLD, "900")])
    done = change(OLD, "1.13.5", found, settings(replicas=3), 3)
    assert [step.kind for step in done.steps][:3] == ["create", "gate", "serve"] and done.plan.slot == 3 and done.steps[-1].kind == "retire"
