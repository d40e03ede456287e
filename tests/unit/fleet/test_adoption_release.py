# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release of the official Helm chart as livekit_* variables."""
from __future__ import annotations

import base64
import copy

import pytest
import yaml
from adoption_sample import SECRET, VALUES, labels, release_objects
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.adoption import inventory, livekit_config
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.adoption.found import report
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.adoption.release import Release, adopt
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError


def live(objects=None, **values):
    return adopt(Release("calls", "rtc", objects=release_objects({**VALUES, **values}) if objects is None else objects, load=yaml.safe_load))


def by_values(**values):
    return adopt(Release("calls", "rtc", {**copy.deepcopy(VALUES), **values}, app_version="v1.9.0"))


def what(found, kind):
    return {row.source.split(": ")[-1]: row for row in found.rows if row.what == kind}


def unexplained(found):
    rendered = config.render(config.Model.from_vars(found.variables), config.layout_of(found.variables).ports(1), "keys.yaml")
    return [row for row in livekit_config.differences(found.config, rendered, found.rows, found.where) if "without a reason" in row.note]


def test_live_objects_become_variables_of_the_kubernetes_target():
    v = live().variables
    assert v["livekit_target"] == "kubernetes" and v["livekit_kubernetes_namespace"] == "rtc" and v["livekit_version"] == "1.9.0"
    assert v["livekit_keys"] == {"APIw7example": SECRET} and v["livekit_redis"]["address"] == "redis.data.svc:6379"
    assert v["livekit_kubernetes_redis"] == {"mode": "external"} and v["livekit_kubernetes_replicas"] == 3
    assert v["livekit_kubernetes_node_selector"] == {"media": "yes"} and v["livekit_public_url"] == "wss://calls.example.net"
    assert v["livekit_kubernetes_signalling"] == {"type": "LoadBalancer", "cloud": "digitalocean"}
    assert v["livekit_kubernetes_tls"] == {"secret": "calls-tls", "issuer": "letsencrypt", "issuer_kind": "ClusterIssuer"}
    assert v["livekit_turn"]["certificate"].startswith("-----BEGIN CERTIFICATE") and "secretName" not in v["livekit_turn"]


def test_values_alone_say_the_same_but_for_what_only_the_cluster_knows():
    from_values, from_cluster = by_values().variables, live().variables
    differ = {name for name in {*from_values, *from_cluster} if from_values.get(name) != from_cluster.get(name)}
    assert differ == {"livekit_turn"} and "certificate" not in from_values["livekit_turn"]
    assert "tls.crt" in what(by_values(), "to do")["turn.secretName"].note


@pytest.mark.parametrize("found", [live(), by_values()])
def test_nothing_differs_without_a_reason(found):
    assert unexplained(found) == []


def test_what_was_changed_in_the_cluster_since_goes_before_the_values():
    objects = release_objects(config={**VALUES["livekit"], "room": {"empty_timeout": 77}})
    assert live(objects).variables["livekit_server_config"]["room"] == {"empty_timeout": 77}


def test_keys_in_a_secret_of_their_own():
    values = {**VALUES, "livekit": {**VALUES["livekit"], "keys": {}, "key_file": "keys.yaml"}, "storeKeysInSecret": {"enabled": True, "keys": {"APIb": SECRET}}}
    objects = [*release_objects(values), {"kind": "Secret", "metadata": {"name": "mine", "labels": labels()},
                                          "data": {"keys.yaml": base64.b64encode(f"APIa: {SECRET}\n".encode()).decode()}}]
    assert live(objects).variables["livekit_keys"] == {"APIa": SECRET}
    assert adopt(Release("calls", values=values, app_version="v1.9.0")).variables["livekit_keys"] == {"APIb": SECRET}


def test_an_autoscaler_keeps_its_bounds_and_loses_memory():
    scaler = {"kind": "HorizontalPodAutoscaler", "metadata": {"name": "calls-livekit-server", "labels": labels()}, "spec": {
        "minReplicas": 2, "maxReplicas": 9, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 55}}},
            {"type": "Resource", "resource": {"name": "memory", "target": {"averageUtilization": 80}}}]}}
    found = live([*release_objects(), scaler])
    assert found.variables["livekit_kubernetes_autoscaling"] == {"min": 2, "max": 9, "cpu": 55} and "livekit_kubernetes_replicas" not in found.variables
    assert "memory" in what(found, "no place")["metric"].value
    assert by_values(autoscaling={"enabled": True, "maxReplicas": 4}).variables["livekit_kubernetes_autoscaling"] == {"min": 1, "max": 4, "cpu": 60}


def test_what_has_no_place_is_told_with_a_reason():
    found = live(podAnnotations={"x": "y"}, affinity={"podAntiAffinity": {}})
    dropped = what(found, "no place")
    assert {"terminationGracePeriodSeconds", "podAnnotations", "affinity", "resources.limits.cpu", "turn.loadBalancerAnnotations"} <= set(dropped)
    assert all(row.note for row in dropped.values()) and found.variables["livekit_kubernetes_resources"]["server"]["limits"] == {"memory": "4Gi"}


def test_a_key_that_livekit_reads_over_because_the_chart_is_not_strict():
    found = by_values(livekit={**VALUES["livekit"], "rtc": {"tcp_prot": 7881}})
    assert "rtc.tcp_port" in what(found, "no place")["rtc.tcp_prot"].note and unexplained(found) == []


def test_redis_on_the_machine_itself_is_no_cluster():
    found = by_values(livekit={**VALUES["livekit"], "redis": {"address": "localhost:6379"}})
    assert "one Redis first" in what(found, "to do")["redis.address"].note


def test_secrets_stay_out_of_what_is_shown():
    found = live()
    files = inventory.files(found, "calls", {}, "a release")
    shown = "\n".join([*report(found.rows), *(f.content for f in files if not f.secret)])
    assert SECRET not in shown and "example-redis-password" not in shown and "PRIVATE KEY" not in shown
    assert 'secret: calls-tls' in shown  # the name of a Secret is none


@pytest.mark.parametrize("given, code", [
    (Release("calls"), "adopt_release"),
    (Release("calls", values={"image": {"tag": "latest"}}), "adopt_version"),
    (Release("calls", values={"livekit": {"room": {"empty_timeout": "soon"}}}, app_version="v1.9.0"), "wrong_type"),
])
def test_a_release_that_cannot_be_read_is_refused(given, code):
    with pytest.raises(FleetError) as caught:
        adopt(given)
    assert caught.value.failure["code"] == code


def test_what_helm_keeps_must_be_readable():
    broken = release_objects()[-1]
    broken["data"]["release"] = "bm90aGluZw=="
    with pytest.raises(FleetError) as caught:
        Release("calls", objects=[broken])
    assert caught.value.failure["code"] == "adopt_release"
