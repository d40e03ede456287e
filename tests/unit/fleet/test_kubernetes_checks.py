# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said before anything is applied: each code once, with a fix, and no secret in it."""
from __future__ import annotations

import dataclasses
import pathlib

import pytest
import yaml
from kubernetes_sample import LAYOUT, SECRET, cluster, everything, model, node, pod, settings

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import slots
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes import Settings, checks

APIS = {"v1": ["Secret"], "apps/v1": ["Deployment"]}


def found(model_=None, cluster_=None, layout=LAYOUT, objects=(), **changes):
    """(code, where) of each problem."""
    problems = checks.problems(model_ or model(), settings(**changes), layout, objects, cluster_)
    for problem in problems:
        assert problem.text and problem.fix and SECRET not in str(problem)
    return [(p.code, p.where) for p in problems]


def foreign(port, on="node1", protocol="TCP", host_network=False, phase="Running"):
    ports = [{"containerPort": port, "protocol": protocol, **({} if host_network else {"hostPort": port})}]
    return {"metadata": {"name": "other", "namespace": "web"}, "spec": {"nodeName": on, "hostNetwork": host_network, "containers": [{"ports": ports}]},
            "status": {"phase": phase}}


def test_good_deployment_has_no_problem():
    assert found(cluster_=cluster(version="1.34", storage_classes={"fast": True})) == []


@pytest.mark.parametrize(("changes", "code", "where"), [
    ({"redis": {"mode": "sentinel", "password": SECRET}}, "redis_twice", "livekit_kubernetes_redis"),
    ({"tls": {"issuer": "letsencrypt"}, "signalling": {"type": "none"}}, "no_secret", "livekit_kubernetes_tls.secret"),
    ({"tls": {}}, "no_certificate", "livekit_kubernetes_tls.secret"),
    ({"executor": False}, "no_executor", "livekit_kubernetes_executor"),
    ({"signalling": {"cloud": "hetzner"}}, "no_location", "livekit_kubernetes_signalling.annotations"),
    ({"node_cidrs": ["10.0.0"]}, "bad_value", "livekit_kubernetes_node_cidrs"),
])
def test_settings_that_cannot_work(changes, code, where):
    assert found(**changes) == [(code, where)]


def test_own_redis_needs_a_long_password():
    assert found(model(redis={}), redis={"mode": "standalone", "password": "short"}) == [("short_secret", "livekit_kubernetes_redis.password")]


def test_cluster_without_redis_is_no_cluster():
    assert ("redis_missing", "livekit_redis") in found(model(redis={}))


def test_ports_below_1024_need_root():
    assert found(layout=slots.Layout(turn_tls=443)) == [("privileged_port", "livekit_layout")]


def test_pods_see_no_files_of_their_host():
    turn = {"enabled": True, "domain": "turn.example.org", "cert_file": "/etc/turn.crt", "key_file": "/etc/turn.key"}
    assert found(model(turn=turn)) == [("turn_certificate", "livekit_turn.cert_file"), ("turn_certificate", "livekit_turn.key_file")]


def test_more_nodes_than_machines():
    nodes = [node("node1"), node("node2", cordoned=True), node("node3", ready=False)]
    (problem,) = checks.problems(model(), settings(replicas=3), LAYOUT, cluster=cluster(nodes=nodes))
    assert problem.code == "too_few_nodes" and "node2 (cordoned), node3 (not ready)" in problem.text


def test_only_machines_that_pods_may_go_to_count():
    tainted = node("node1", taints=[{"key": "media", "value": "yes", "effect": "NoSchedule"}], media="yes")
    nodes = [tainted, node("node2"), node("node3", taints=[{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}])]
    assert found(cluster_=cluster(nodes=nodes), replicas=2) == [("too_few_nodes", "livekit_kubernetes_replicas")]
    assert found(cluster_=cluster(nodes=nodes), replicas=2, tolerations=[{"key": "media", "operator": "Exists"}]) == []
    assert found(cluster_=cluster(nodes=nodes), replicas=1, node_selector={"media": "yes"}) == [("no_media_nodes", "livekit_kubernetes_node_selector")]
    one = {"key": "media", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}
    assert found(cluster_=cluster(nodes=nodes), replicas=1, node_selector={"media": "yes"}, tolerations=[one]) == []


def test_autoscaler_finds_its_smallest_number_of_machines():
    assert found(cluster_=cluster(), autoscaling={"min": 4, "max": 9}) == [("too_few_nodes", "livekit_kubernetes_autoscaling.min")]
    assert found(cluster_=cluster(), autoscaling={"min": 3, "max": 9}) == []


@pytest.mark.parametrize(("taken", "use"), [
    (foreign(7880), "slot 1 signalling"), (foreign(7891, host_network=True), "slot 2 ICE/TCP"), (foreign(50250, protocol="UDP"), "slot 3 ICE/UDP"),
    (foreign(3478, protocol="UDP"), "slot 1 TURN/UDP"),
])
def test_port_that_another_pod_has(taken, use):
    (problem,) = checks.problems(model(), settings(), LAYOUT, cluster=cluster(pods=[taken]))
    assert problem.code == "hostport_taken" and problem.where == "node node1" and use in problem.text and "web/other" in problem.text


@pytest.mark.parametrize("harmless", [
    foreign(7880, protocol="UDP"), foreign(8080), foreign(7880, phase="Succeeded"), foreign(7880, on="elsewhere"), pod(1, "a" * 12, "node1")])
def test_ports_that_are_in_nobodys_way(harmless):
    assert found(cluster_=cluster(pods=[harmless])) == []


@pytest.mark.parametrize(("classes", "wanted", "good"), [
    ({}, "", False), ({"slow": False}, "", False), ({"slow": True}, "", True), ({"slow": True}, "fast", False), ({"fast": False}, "fast", True)])
def test_storage_for_redis(classes, wanted, good):
    redis = {"mode": "standalone", "password": SECRET, "storage_class": wanted}
    expected = [] if good else [("no_storage_class", "livekit_kubernetes_redis.storage_class")]
    assert found(model(redis={}), cluster(storage_classes=classes), redis=redis) == expected


def test_cluster_that_is_too_old():
    assert found(cluster_=cluster(version="1.28")) == [("cluster_too_old", "the cluster")]
    assert found(cluster_=cluster(version="v1.29+")) == []


def test_kinds_that_the_cluster_does_not_have():
    problems = checks.problems(model(), settings(), LAYOUT, everything(), cluster(apis=APIS, version="1.34"))
    texts = {p.text: p.fix for p in problems}
    assert {p.code for p in problems} == {"api_missing"}
    assert texts["it does not serve autoscaling/v2 HorizontalPodAutoscaler"] == "Upgrade the cluster (1.34)"
    assert "Prometheus operator" in texts["it does not serve monitoring.coreos.com/v1 PodMonitor"]
    assert "Gateway API" in texts["it does not serve gateway.networking.k8s.io/v1 HTTPRoute"]


def test_turn_has_to_reach_the_nodes():
    assert found(cluster_=cluster(), node_cidrs=[]) == [("turn_peers", "livekit_kubernetes_node_cidrs")]
    assert found(cluster_=cluster(nodes=[node(f"n{n}", address=f"203.0.113.{n}") for n in (1, 2)]), node_cidrs=[]) == []


def test_missing_right_is_named():
    asked = {"verb": "create", "group": "apps", "resource": "deployments", "namespace": "livekit"}
    (problem,) = checks.missing_rights([{"spec": {"resourceAttributes": asked}, "status": {"allowed": False}},
                                        {"spec": {"resourceAttributes": {"verb": "list", "resource": "nodes"}}, "status": {"allowed": True}}])
    assert (problem.code, problem.text) == ("no_rights", "it may not create deployments.apps in namespace livekit")


# --- settings ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("changes", "expected"), [
    ({"replica": 3}, "livekit_kubernetes_replica: there is no such setting. Did you mean replicas?"),
    ({"autoscaling": {"maximum": 3}}, "livekit_kubernetes_autoscaling.maximum: there is no such setting. Did you mean max?"),
    ({"replicas": "three"}, "livekit_kubernetes_replicas: is a string, and must be a number"),
    ({"tls": "livekit-tls"}, "livekit_kubernetes_tls: is a string, and must be a mapping"),
    ({"signalling": {"type": "Loadbalancer"}}, 'livekit_kubernetes_signalling.type: cannot be "Loadbalancer". Did you mean LoadBalancer?'),
    ({"replicas": 0}, "livekit_kubernetes_replicas: is 0, and must be 1 or more"),
    ({"drain_deadline": "soon"}, "livekit_kubernetes_drain_deadline: it is no duration"),
    ({"autoscaling": {"min": 5, "max": 3}}, "livekit_kubernetes_autoscaling.max: is 3, and must be 5 or more"),
    ({"user": 0}, "livekit_kubernetes_user: is 0, and must be 1 or more"),
])
def test_settings_are_refused_with_advice(changes, expected):
    with pytest.raises(FleetError) as failed:
        settings(**changes)
    assert expected in str(failed.value)


def test_settings_come_with_or_without_their_prefix_and_as_text():
    found_ = settings(**{"livekit_kubernetes_replicas": "4", "executor": "no", "user": "1000"})
    assert (found_.replicas, found_.executor, found_.user) == (4, False, 1000)


def test_settings_show_no_secret():
    assert SECRET not in repr(settings(redis={"mode": "standalone", "password": SECRET}))


def test_role_passes_every_setting_on_with_its_default():
    role = pathlib.Path(__file__).parents[3] / "roles" / "kubernetes"
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text())
    passed = yaml.safe_load((role / "vars/main.yml").read_text())["__livekit_kubernetes_settings"]
    assert sorted(passed) == sorted(f.name for f in dataclasses.fields(Settings))
    assert set(passed.values()) == {f"{{{{ livekit_kubernetes_{name} }}}}" for name in passed}
    assert Settings.from_vars({name: defaults[f"livekit_kubernetes_{name}"] for name in passed}) == Settings()
