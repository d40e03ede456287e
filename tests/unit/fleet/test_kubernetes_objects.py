# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import json
import pathlib

import kubernetes_validate
import pytest
import yaml
from kubernetes_sample import LAYOUT, SECRET, VARIABLES, everything, material, model, pick, settings

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import slots
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.settings import Settings as ControllerSettings
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.executor_settings import Settings as ExecutorSettings
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import kubernetes
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes import autoscaling, edge, objects, rights, tuning

ROLES = pathlib.Path(__file__).parents[3] / "roles"
FOREIGN = ("monitoring.coreos.com/v1", "cert-manager.io/v1", "gateway.networking.k8s.io/v1")  # not of Kubernetes itself


def text(secret, name):
    return base64.b64decode(secret["data"][name]).decode()


@pytest.mark.parametrize("version", ["1.29", "1.34"])
def test_every_object_fits_the_schemas_of_kubernetes(version):
    known = [o for o in everything() if o["apiVersion"] not in FOREIGN]
    assert len(known) > 35
    for obj in known:
        kubernetes_validate.validate(obj, version, strict=True)


def test_same_input_same_bytes():
    assert json.dumps(everything()) == json.dumps(everything())


def test_no_two_objects_share_a_name():
    names = [objects.identity(o) for o in everything()]
    assert len(names) == len(set(names))


# --- a generation -----------------------------------------------------------------------------------------------------

def test_generation_is_one_immutable_secret_and_one_deployment_named_after_slot_and_generation():
    secret, deployment = kubernetes.desired(material(), 2)
    generation = kubernetes.generation_name(material())
    assert secret["immutable"] is True
    assert {o["metadata"]["name"] for o in (secret, deployment)} == {f"livekit-s2-{generation}"}
    assert sorted(secret["data"]) == ["config.yaml", "generation.json", "keys.yaml", "model.json", "turn.crt", "turn.key"]
    assert json.loads(text(secret, "generation.json")) == {"generation": generation, "slot": 2, "version": "1.13.5"}
    assert json.loads(text(secret, "model.json"))["model"] == VARIABLES


def test_node_reads_its_files_but_not_the_model():
    spec = kubernetes.desired(material(), 2)[1]["spec"]["template"]["spec"]
    (volume,) = spec["volumes"]
    assert [i["key"] for i in volume["secret"]["items"]] == ["config.yaml", "keys.yaml", "turn.crt", "turn.key"]
    assert volume["secret"]["defaultMode"] & 0o007 == 0  # LiveKit refuses a key file that others can read
    config = yaml.safe_load(text(kubernetes.desired(material(), 2)[0], "config.yaml"))
    assert config["key_file"] == "/etc/livekit/keys.yaml" and config["turn"]["cert_file"] == "/etc/livekit/turn.crt"
    assert "node_ip" not in config["rtc"]
    assert {e["name"]: e["valueFrom"]["fieldRef"]["fieldPath"] for e in spec["containers"][0]["env"]} == {"NODE_IP": "status.hostIP"}


def test_node_asks_a_stun_server_where_that_is_wished():
    spec = kubernetes.desired(material(model(use_external_ip=True)), 1)[1]["spec"]["template"]["spec"]
    assert "env" not in spec["containers"][0]


def test_ports_keep_pods_of_a_slot_apart():
    def ports(slot, found=None):
        container = kubernetes.desired(material(found), slot)[1]["spec"]["template"]["spec"]["containers"][0]
        assert all(p["hostPort"] == p["containerPort"] for p in container["ports"])
        return {(p["protocol"], p["hostPort"]) for p in container["ports"]}
    for one in LAYOUT.numbers:
        for other in LAYOUT.numbers:
            assert bool(ports(one) & ports(other)) == (one == other)
    own = LAYOUT.ports(2)
    assert {("TCP", own.signal), ("TCP", own.ice_tcp), ("TCP", own.metrics), ("UDP", own.udp[0])} == ports(2, model(turn={}))
    assert {("TCP", own.turn_tls), ("UDP", own.turn_udp)} <= ports(2)


def test_nothing_ends_a_node_with_calls():
    spec = kubernetes.desired(material(drain_deadline="2h"), 1)[1]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["terminationGracePeriodSeconds"] == 7200 + 120
    assert "livenessProbe" not in container and "lifecycle" not in container
    assert container["command"][:2] == ["sh", "-c"] and container["command"][3:] == ["init", "/livekit-server", "--config", "/etc/livekit/config.yaml"]
    assert kubernetes.desired(material(drain_deadline=""), 1)[1]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 7 * 86400


def test_outage_of_redis_takes_no_node_out_of_its_services():
    """Every node's / is 406 then; only the start is judged by it."""
    (container,) = kubernetes.desired(material(), 1)[1]["spec"]["template"]["spec"]["containers"]
    assert container["startupProbe"]["httpGet"] == {"path": "/", "port": "signal"}
    assert "httpGet" not in container["readinessProbe"]


def test_services_are_not_put_into_the_environment_of_a_node():
    """A Service named livekit would set LIVEKIT_PORT, which livekit-server reads as its port."""
    assert kubernetes.desired(material(), 1)[1]["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_pods_are_as_restricted_as_host_network_allows():
    for obj in everything():
        template = obj.get("spec", {}).get("template", {}).get("spec")
        if not template or obj["metadata"]["name"] == tuning.NAME:
            continue
        assert template["securityContext"]["runAsNonRoot"] and template["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*template["containers"], *template.get("initContainers", [])]:
            found = container["securityContext"]
            assert found["readOnlyRootFilesystem"] and not found["allowPrivilegeEscalation"] and found["capabilities"] == {"drop": ["ALL"]}


def test_callers_come_only_after_the_gate():
    gated, ungated = (kubernetes.desired(material(), 1, serving=serving)[1] for serving in (True, False))
    service = pick(edge.services(model(), settings(balancer={"kind": "none"})), "Service", "livekit")
    labels = [d["spec"]["template"]["metadata"]["labels"].items() for d in (gated, ungated)]
    assert [service["spec"]["selector"].items() <= found for found in labels] == [True, False]
    assert gated["spec"]["selector"] == ungated["spec"]["selector"]


def test_generation_changes_with_what_a_pod_is_made_of_and_with_nothing_else():
    name = kubernetes.generation_name(material())
    assert kubernetes.generation_name(material(replicas=7, monitoring={"kind": "pod"}, controller={"replicas": 3})) == name
    for changed in (material(model(version="1.13.4")), material(model(keys={"other": SECRET})), material(resources={"server": {"requests": {"cpu": "2"}}}),
                    material(images={"server": "mirror/livekit:1"}), material(drain_deadline="3h"), material(model(log_level="debug"))):
        assert kubernetes.generation_name(changed) != name


def test_as_many_nodes_as_the_generation_before_has():
    assert kubernetes.desired(material(replicas=3), 1)[1]["spec"]["replicas"] == 3
    assert kubernetes.desired(material(autoscaling={"min": 2, "max": 9}), 1, replicas=6)[1]["spec"]["replicas"] == 6


# --- rights -----------------------------------------------------------------------------------------------------------

def test_rights_are_the_least():
    found = everything()
    roles = {o["metadata"]["name"]: o["rules"] for o in found if o["kind"] in ("Role", "ClusterRole")}
    assert sorted(roles) == ["livekit-controller", "livekit-controller-nodes", "livekit-executor", "livekit-executor-nodes"]
    for rules in roles.values():
        for rule in rules:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"] and "secrets" not in rule["resources"]
    assert [r for name in roles if name.endswith("-nodes") for r in roles[name]] == 2 * [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"]}]
    tokens = {o["metadata"]["name"] for o in found if o.get("spec", {}).get("template", {}).get("spec", {}).get("automountServiceAccountToken") is True}
    assert tokens == {"livekit-executor", "livekit-controller"}


def test_rights_of_who_deploys_are_asked_once_each():
    asked = [tuple(sorted(r["spec"]["resourceAttributes"].items())) for r in rights.needed(everything())]
    assert len(asked) == len(set(asked))
    assert (("group", "apps"), ("namespace", "livekit"), ("resource", "deployments"), ("verb", "delete")) in asked
    assert (("group", "networking.k8s.io"), ("namespace", "livekit"), ("resource", "networkpolicies"), ("verb", "create")) in asked


# --- the edge ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["NodePort", "LoadBalancer", "ClusterIP"])
def test_service_of_signalling(kind):
    spec = pick(edge.services(model(), settings(signalling={"type": kind})), "Service", "livekit")["spec"]
    assert spec["type"] == kind and spec.get("externalTrafficPolicy") == (None if kind == "ClusterIP" else "Local")
    assert spec["ports"] == [{"name": "signalling", "port": 443, "targetPort": "https", "protocol": "TCP"}]


def test_clouds_have_their_annotations_and_the_operators_win():
    for cloud, expected in edge.CLOUDS.items():
        entry = {"cloud": cloud, "annotations": {next(iter(expected)): "mine", "extra": 1}}
        notes = pick(edge.services(model(), settings(signalling=entry)), "Service", "livekit")["metadata"]["annotations"]
        assert notes == {**expected, next(iter(expected)): "mine", "extra": "1"}
    assert "connection_termination.enabled=true" not in str(edge.CLOUDS)


def test_turn_service_finds_the_port_of_every_slot_by_its_name():
    service = pick(edge.services(model(), settings(turn={"type": "LoadBalancer"})), "Service", "livekit-turn")
    named = [p["name"] for p in kubernetes.desired(material(), 3)[1]["spec"]["template"]["spec"]["containers"][0]["ports"]]
    assert service["spec"]["ports"][0]["targetPort"] == "turn-tls" and "turn-tls" in named


def test_no_proxy_ends_a_websocket_after_a_minute():
    found = everything()
    assert pick(found, "Ingress")["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"] == "3600"
    assert pick(found, "HTTPRoute")["spec"]["rules"][0]["timeouts"] == {"request": "0s", "backendRequest": "0s"}


def test_certificate_names_what_callers_use():
    assert pick(everything(), "Certificate")["spec"]["dnsNames"] == ["livekit.example.org", "turn.example.org"]


def test_media_ports_are_in_no_service():
    media = {"ice-tcp", "ice-udp", "turn-udp", "turn-relay", "metrics"}
    assert not media & {p["targetPort"] for o in everything() if o["kind"] == "Service" for p in o["spec"]["ports"]}


def test_executor_sees_and_may_kill_the_nodes_of_its_machine():
    def spec(**changes):
        return pick(everything(**changes), "DaemonSet", "livekit-executor")["spec"]["template"]["spec"]
    assert spec()["hostPID"] and spec()["securityContext"]["runAsUser"] == material().settings.user
    alone = spec(balancer={"kind": "none"})["containers"][0]["securityContext"]["capabilities"]["add"]
    assert set(alone) == {"NET_ADMIN", "KILL"}  # it is another user than the nodes there
    rules = {(r, v) for o in everything() if o["kind"] == "Role" for rule in o["rules"] for r in rule["resources"] for v in rule["verbs"]}
    assert ("pods/exec", "create") not in rules


def test_haproxy_shares_its_socket_with_an_executor_that_outlives_it():
    spec = pick(everything(), "Deployment", "livekit-haproxy")["spec"]["template"]["spec"]
    (sidecar,), (proxy,) = spec["initContainers"], spec["containers"]
    assert sidecar["restartPolicy"] == "Always"
    assert [m for m in sidecar["volumeMounts"] if m["name"] == "run"] == [m for m in proxy["volumeMounts"] if m["name"] == "run"]


def test_haproxy_is_ready_once_its_servers_are_known():
    spec = pick(everything(), "Deployment", "livekit-haproxy")["spec"]["template"]["spec"]
    (sidecar,) = spec["initContainers"]
    kept = next(o for o in everything() if o["kind"] == "Secret" and o["metadata"]["name"].startswith("livekit-haproxy-executor"))
    told = json.loads(text(kept, "executor.json"))
    assert sidecar["readinessProbe"]["exec"]["command"] == ["test", "-f", told["synced"]] and slots.Layout.from_mapping(told["pool"]) == LAYOUT
    assert f"{told['master']},mode,660" in spec["containers"][0]["command"]


# --- everything else --------------------------------------------------------------------------------------------------

def test_pods_are_replaced_when_what_they_read_changes():
    one, two = (pick(kubernetes.base(model(), settings(), LAYOUT, text), "Deployment", "livekit-haproxy") for text in ("a", "b"))
    assert one["spec"]["template"] != two["spec"]["template"]


def test_secrets_are_in_secrets_only():
    for obj in everything():
        if obj["kind"] != "Secret":
            assert SECRET not in json.dumps(obj), obj["metadata"]["name"]
        else:
            assert obj["immutable"]


def test_settings_of_executor_and_controller():
    found = everything()
    named = {o["metadata"]["name"].rpartition("-")[0]: o for o in found if o["kind"] == "Secret"}
    executor, controller = (json.loads(text(named[f"livekit-{what}"], f"{what}.json")) for what in ("executor", "controller"))
    assert executor["redis"]["sentinel_addresses"][0] == "livekit-redis-0.livekit-redis.livekit.svc:26379"
    assert slots.Layout.from_mapping(executor["layout"]) == LAYOUT and executor["target"] == "kubernetes"
    assert ExecutorSettings(**executor).in_pod({"NODE_NAME": "node1", "NODE_IP": "10.0.0.1"}).host == "node1"
    assert ControllerSettings(**{"name": "x", **controller}).namespace == "livekit"
    assert controller["redis"] == executor["redis"] and controller["user"] == "admin"


def test_autoscaler_uses_names_that_livekit_exports():
    exported = {"livekit_participant_total", "livekit_room_total", "livekit_track_subscribed_total", "livekit_packet_bytes"}
    assert {r["seriesQuery"].split("{")[0] for r in autoscaling.rules()} == exported
    served = {r["name"]["as"] for r in autoscaling.rules()}
    metrics = pick(everything(), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert {m["pods"]["metric"]["name"] for m in metrics if m["type"] == "Pods"} == served
    assert not [r for r in autoscaling.rules() if "rate(" in r["metricsQuery"] and "_total" in r["seriesQuery"]]  # those are gauges


def test_network_policies_let_in_what_is_needed():
    found = {o["metadata"]["name"]: o["spec"] for o in everything() if o["kind"] == "NetworkPolicy"}
    assert found["livekit-deny"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    assert {"ipBlock": {"cidr": "10.0.0.0/24"}} in found["livekit-redis"]["ingress"][0]["from"]
    assert [p["port"] for p in found["livekit-haproxy"]["ingress"][0]["ports"]] == [8080, 8404, 8443]


def test_kernel_settings_are_those_of_the_role():
    ours = yaml.safe_load((ROLES / "kernel/vars/main.yml").read_text())["__livekit_kernel_all"]
    size = yaml.safe_load((ROLES / "kernel/defaults/main.yml").read_text())["livekit_kernel_buffer_bytes"]
    raised = {name: int(value[2:].replace("{{ livekit_kernel_buffer_bytes }}", str(size))) for name, value in ours.items() if str(value).startswith(">=")}
    assert tuning.RAISED == raised
    assert tuning.reserved(slots.Layout(count=1), turn=False) == "7880,7881,6789,50000-50099"
