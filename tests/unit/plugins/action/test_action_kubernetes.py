# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Actions kubernetes_plan against a scripted API, and kubernetes_tree: what they ask, what they refuse, what they write."""
from __future__ import annotations

import base64
import http.server
import json
import pathlib
import sys
import threading
import types

import pytest
import yaml

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "fleet"))
from kubernetes_sample import OLD, SECRET, VARIABLES, deployment, node, pod  # noqa: E402  pylint: disable=wrong-import-position

from ansible_collections.openrtc.livekit.plugins.action import kubernetes_info, kubernetes_mark, kubernetes_plan, kubernetes_tree  # noqa: E402
from ansible_collections.openrtc.livekit.plugins.filter.kubernetes_objects import kubernetes_objects  # noqa: E402
from ansible_collections.openrtc.livekit.plugins.filter.kubernetes_redis import kubernetes_redis  # noqa: E402
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError  # noqa: E402
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.api import Api  # noqa: E402

SETTINGS = {"replicas": 3, "tls": {"secret": "livekit-tls"}, "node_cidrs": ["10.0.0.0/24"]}
ARGS = {"model": VARIABLES, "settings": SETTINGS, "layout": {"count": 3}, "haproxy": "frontend in\n", "controller": {}, "kubeconfig": None, "context": None}
KINDS = {
    "/api/v1": ["Namespace", "Secret", "ConfigMap", "Service", "ServiceAccount"], "/apis/apps/v1": ["Deployment", "DaemonSet"],
    "/apis/rbac.authorization.k8s.io/v1": ["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"],
    "/apis/networking.k8s.io/v1": ["NetworkPolicy"], "/apis/policy/v1": ["PodDisruptionBudget"], "/apis/scheduling.k8s.io/v1": ["PriorityClass"],
}


class Cluster(http.server.ThreadingHTTPServer):
    """Answers GETs from a table, and every review with yes but for what is denied; notes what it was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.denied, self.refuse, self.page = [], set(), {}, 0
        self.bodies = []
        self.kept = None  # {path: object} of what was applied; None while the namespace is missing
        self.lists = {"nodes": [node(f"node{n}", address=f"10.0.0.{n}") for n in (1, 2, 3)], "pods": [], "deployments": [], "replicasets": [], "secrets": [],
                      "configmaps": []}
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, path, query, body):
        if path in self.refuse:
            return self.refuse[path], {"message": "refused for the test"}
        if path == "/version":
            return 200, {"major": "1", "minor": "34"}
        if path in KINDS:
            return 200, {"resources": [{"kind": kind} for kind in KINDS[path]]}
        if path.endswith("selfsubjectaccessreviews"):
            asked = body["spec"]["resourceAttributes"]
            return 201, {**body, "status": {"allowed": (asked["verb"], asked["resource"]) not in self.denied}}
        if self.kept is not None and path == "/api/v1/namespaces/livekit":
            return 200, {"metadata": {"name": "livekit"}}
        if body and "kind" in body:  # applied as a trial
            return (200, self.tried(path, body)) if "dryRun=All" in query and "fieldValidation=Strict" in query else (500, {})
        if self.kept is not None and path in self.kept:
            return 200, self.kept[path]
        rows = self.lists.get(path.rpartition("/")[2])
        if rows is None or path.startswith("/api/v1/namespaces/livekit") and path.count("/") == 4:
            return 404, {"message": "not found"}
        if self.page and "continue" not in query:
            return 200, {"items": rows[:self.page], "metadata": {"continue": "more"}}
        return 200, {"items": rows[self.page:] if self.page else rows, "metadata": {}}

    def tried(self, path, body):
        """With what a cluster adds by itself, and differently each time."""
        return {**body, "metadata": {**body["metadata"], "resourceVersion": str(len(self.asked)), "managedFields": [len(self.asked)]}, "status": {}}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536

    def do_GET(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        path, dummy, query = self.path.partition("?")
        self.server.bodies.append((self.command, path, body))
        self.server.asked.append((self.command, path, self.headers.get("Authorization"), self.headers.get("Accept")))
        status, answer = self.server.answer(path, query, body)
        raw = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_POST = do_PATCH = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def cluster():
    server = Cluster()
    yield server
    server.shutdown()
    server.server_close()


def planned(server, **changes):
    return kubernetes_plan.planned({**ARGS, **changes}, Api(f"http://127.0.0.1:{server.server_port}"))


def refused(server, code, **changes):
    with pytest.raises(FleetError) as failed:
        planned(server, **changes)
    assert failed.value.failure["code"] == code and SECRET not in str(failed.value.failure)
    return str(failed.value)


def test_first_plan(cluster):
    found = planned(cluster)
    assert list(found["steps"]) == ["create", "gate", "serve"] and found["slot"] == 1 and found["changed"]
    assert found["steps"]["create"]["replicas"] == 3 and not found["namespace_exists"]
    assert SECRET not in json.dumps(found) and "pa:ss#word" not in json.dumps(found)


def test_objects_that_differ_are_told_by_the_cluster(cluster):
    everything_ = planned(cluster)["differs"]
    assert {"Namespace/livekit", "Service/livekit", "DaemonSet/livekit-executor"} <= set(everything_)
    cluster.kept = {}
    assert planned(cluster)["differs"] == [name for name in everything_ if name != "Namespace/livekit"]
    paths = [path for verb, path, *dummy in cluster.asked if verb == "GET" and path.startswith("/apis/apps/v1/namespaces/livekit/daemonsets/livekit-executor")]
    executor = next(o for o in kubernetes_objects(VARIABLES, SETTINGS, {"count": 3}) if o["kind"] == "DaemonSet")
    cluster.kept[paths[0]] = cluster.tried("", executor)
    assert "DaemonSet/livekit-executor" not in planned(cluster)["differs"]
    cluster.kept[paths[0]] = cluster.tried("", {**executor, "spec": {}})
    assert "DaemonSet/livekit-executor" in planned(cluster)["differs"]


def test_it_changes_nothing_and_reads_of_secrets_only_their_names(cluster):
    planned(cluster)
    assert {(verb, path) for verb, path, *dummy in cluster.asked if verb != "GET"} == {("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")}
    assert all(accept.startswith("application/json;as=PartialObjectMetadataList") for dummy, path, dummy2, accept in cluster.asked if path.endswith("/secrets"))


def test_running_generation_is_no_change(cluster):
    name = planned(cluster)["generation"]
    cluster.lists["deployments"] = [deployment(2, name)]
    cluster.lists["pods"] = [pod(2, name, f"node{n}") for n in (1, 2, 3)]
    found = planned(cluster)
    assert found["steps"] == {} and found["slot"] == 2
    assert {rows[1]["label"] for rows in found["nodes"].values()} == {"serving"}


def test_change_is_shown(cluster):
    cluster.lists["deployments"] = [deployment(1, OLD, version="1.13.4")]
    found = planned(cluster)
    assert found["retire"] == [f"livekit-s1-{OLD}"] and found["reason"] == "version 1.13.4 -> 1.13.5"
    assert f"slot 1: draining 1.13.4 {OLD}" in found["diff"]["after"] and f"slot 2: serving 1.13.5 {found['generation']}" in found["diff"]["after"]


def test_what_the_settings_do_not_ask_for_any_more_goes(cluster):
    labels = {"app.kubernetes.io/managed-by": "openrtc.livekit"}
    rows = [{"metadata": {"name": name, "labels": labels}} for name in ("livekit", "livekit-internal", "livekit-turn")]
    cluster.lists |= {"services": rows, "ingresses": rows[:1]}
    name = planned(cluster)["generation"]
    cluster.lists["deployments"] = [deployment(2, name)]
    found = planned(cluster)
    assert list(found["steps"]) == ["prune"]
    assert found["prune"] == [{"api_version": "networking.k8s.io/v1", "kind": "Ingress", "name": "livekit"},
                              {"api_version": "v1", "kind": "Service", "name": "livekit-turn"}]


def test_lists_come_page_by_page(cluster):
    cluster.page = 2
    assert planned(cluster)["steps"]["create"]["replicas"] == 3


def test_missing_right_is_named(cluster):
    cluster.denied = {("create", "deployments")}
    assert "it may not create deployments.apps in namespace livekit" in refused(cluster, "no_rights")
    cluster.denied, cluster.refuse = set(), {"/api/v1/nodes": 403}
    assert "refused for the test" in refused(cluster, "no_rights")


def test_what_is_wrong_with_the_cluster_is_said(cluster):
    assert "4 nodes of LiveKit need as many machines, and 3 can take one" in refused(cluster, "too_few_nodes", settings={**SETTINGS, "replicas": 4})
    assert "Prometheus operator" in refused(cluster, "bad_configuration", settings={**SETTINGS, "monitoring": {"kind": "pod"}})


def test_variables_are_judged_before_the_cluster_is_asked(cluster):
    refused(cluster, "unknown_key", settings={"replica": 2})
    refused(cluster, "no_certificate", settings={**SETTINGS, "tls": {}})
    assert cluster.asked == []


def test_playbooks_need_to_reach_the_pods_of_executors(cluster):
    cluster.denied = {("create", "pods")}
    assert "it may not create pods/exec in namespace livekit" in refused(cluster, "no_rights")


def test_a_generation_that_runs_again_keeps_its_name_and_touches_nothing_else(cluster):
    rows = [{"metadata": {"name": "livekit-turn", "labels": {"app.kubernetes.io/managed-by": "openrtc.livekit"}}}]
    cluster.kept, cluster.lists["services"] = {}, rows
    cluster.lists["deployments"] = [deployment(1, OLD)]
    found = planned(cluster, generation="cccccccccccc")
    assert found["name"] == "livekit-s2-cccccccccccc" and list(found["steps"]) == ["create", "gate", "serve", "retire"]
    assert found["differs"] == [] and found["prune"] == []


def test_credentials_that_are_not_accepted(cluster):
    cluster.refuse = {"/version": 401}
    refused(cluster, "unauthorized")


def test_cluster_that_is_not_there(cluster):
    cluster.shutdown()
    cluster.server_close()
    refused(cluster, "kubernetes_unreachable")


def test_kubeconfig(cluster, tmp_path):
    with pytest.raises(FleetError) as failed:
        Api.from_kubeconfig(str(tmp_path / "none"))
    assert failed.value.failure["code"] == "no_kubeconfig"
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "one",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{cluster.server_port}"}}],
        "users": [{"name": "u", "user": {"token": "sesame"}}], "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}]}))
    assert Api.from_kubeconfig(str(path)).ask("GET", "/version")["minor"] == "34"
    assert cluster.asked[-1][2] == "Bearer sesame"


def test_api_asks_again_when_a_kept_connection_has_ended(cluster):
    api = Api(f"http://127.0.0.1:{cluster.server_port}")
    api.ask("GET", "/version")
    api.connection.sock.close()
    api.connection.sock = types.SimpleNamespace(sendall=lambda data: (x for x in ()).throw(BrokenPipeError()), close=lambda: None)
    assert api.ask("GET", "/version")["minor"] == "34"


# --- trees ------------------------------------------------------------------------------------------------------------

TREE = {**ARGS, "directory": "x", "form": "plain", "secrets": "external", "store": {"name": "vault"}, "sealed_certificate": "", "sops_arguments": [],
        "argocd": {"repo": "https://git.example.org/ops.git"}, "retire": False}


def written(existing=None, **changes):
    return kubernetes_tree.planned({**TREE, **changes}, existing or {})


def deployments(files):
    return sorted(path.split("livekit-")[1][:2] for path in files if path.startswith("server/deployment-livekit-s"))


def newer(version):
    return {"model": {**VARIABLES, "livekit_version": version}}


@pytest.mark.parametrize("form", ["plain", "kustomize"])
def test_generation_before_stays_in_the_tree_until_it_is_retired(form):
    files, told = written(form=form, **newer("1.13.4"))
    assert (told["slot"], deployments(files)) == (1, ["s1"])
    files, told = written(files, form=form)
    assert (told["slot"], deployments(files), len(told["kept"])) == (2, ["s1", "s2"], 1)
    again, dummy = written(files, form=form)
    assert again == files
    for path, text in files.items():  # every list names every file
        if path.endswith("/kustomization.yaml"):
            folder = path.split("/")[0]
            there = sorted(p.split("/", 1)[1] for p in files if p.startswith(f"{folder}/") and p != path)
            assert sorted(yaml.safe_load(text)["resources"]) == there
    files, told = written(files, form=form, retire=True)
    assert (told["slot"], deployments(files), told["kept"]) == (2, ["s2"], [])


def test_tree_of_argocd_holds_one_generation_and_takes_slots_in_turn():
    files, slots = {}, []
    for version in ("1.13.1", "1.13.2", "1.13.3", "1.13.4"):
        files, told = written(files, form="argocd", **newer(version))
        slots.append(told["slot"])
        assert deployments(files) == [f"s{told['slot']}"]
    assert slots == [1, 2, 3, 1]
    assert any(path.startswith("server/secret-livekit-s1-") for path in files)


@pytest.mark.parametrize(("changes", "code"), [
    ({"secrets": ""}, "secrets_in_clear"), ({"store": {}}, "no_store"), ({"form": "argocd", "argocd": {}}, "argocd_repo"),
    ({"form": "argocd", "argocd": {"repository": "x"}}, "unknown_key"), ({"secrets": "sealed"}, "sealed_certificate"),
])
def test_trees_that_cannot_be_written(changes, code):
    with pytest.raises(FleetError) as failed:
        written(**changes)
    assert failed.value.failure["code"] == code


def test_sops_gets_the_secret_on_its_standard_input(tmp_path, monkeypatch):
    program = tmp_path / "sops"
    program.write_text("#!/bin/sh\necho \"$@\" >" + str(tmp_path / "args") + "\ncat >" + str(tmp_path / "in") + "\n"
                       "echo '{\"kind\": \"Secret\", \"data\": {\"a\": \"ENC[]\"}, \"sops\": {\"mac\": \"ENC[]\"}}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    files, dummy = written(secrets="sops", sops_arguments=["--age", "age1abc"])
    assert "--age age1abc" in (tmp_path / "args").read_text() and SECRET not in (tmp_path / "args").read_text()
    assert json.loads((tmp_path / "in").read_text())["kind"] == "Secret"
    assert "ENC[]" in next(text for path, text in files.items() if path.startswith("server/secret-"))


def test_sops_that_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FleetError) as failed:
        written(secrets="sops")
    assert failed.value.failure["code"] == "no_sops"


# --- the filter -------------------------------------------------------------------------------------------------------

def test_filter_parts_are_disjoint_and_complete():
    layout = {"count": 3}
    parts = [(part, secrets) for part in ("namespace", "base", "generation") for secrets in (False, True)]
    found = {key: [o["kind"] for o in kubernetes_objects(VARIABLES, SETTINGS, layout, *key)] for key in parts}
    assert found["namespace", False] == ["Namespace"] and found["namespace", True] == []
    assert found["generation", False] == ["Deployment"] and found["generation", True] == ["Secret"]
    assert set(found["base", True]) == {"Secret"} and not {"Secret", "Namespace"} & set(found["base", False])
    assert kubernetes_objects(VARIABLES, SETTINGS, layout, "autoscaler") == []
    (scaler,) = kubernetes_objects(VARIABLES, {**SETTINGS, "autoscaling": {"max": 4, "adapter": True}}, layout, "autoscaler", slot=2, generation=OLD)
    assert scaler["spec"]["scaleTargetRef"]["name"] == f"livekit-s2-{OLD}"


# --- kubernetes_info --------------------------------------------------------------------------------------------------

INFO = {"settings": SETTINGS, "layout": {"count": 3}, "keys": None, "previous": False, "wait_for": None, "name": "", "timeout": 0.0}


def told(server, **changes):
    return kubernetes_info.waited({**INFO, **changes}, Api(f"http://127.0.0.1:{server.server_port}"), pause=0.01)


def not_told(server, code, **changes):
    with pytest.raises(FleetError) as failed:
        told(server, **changes)
    assert failed.value.failure["code"] == code
    return str(failed.value)


@pytest.fixture
def running(cluster):
    """OLD serves in slot 1 on three machines."""
    cluster.lists |= {"deployments": [deployment(1, OLD)], "pods": [pod(1, OLD, f"node{n}") for n in (1, 2, 3)], "daemonsets": [], "statefulsets": []}
    return cluster


def with_files(server, slot, generation, **files):
    name = f"livekit-s{slot}-{generation}"
    server.kept = {**(server.kept or {}), f"/api/v1/namespaces/livekit/secrets/{name}": {"data": {
        f"{key}.{'json' if key == 'model' else 'yaml'}": base64.b64encode(text.encode()).decode() for key, text in files.items()}}}


def test_info_of_a_cluster(running):
    found = told(running)
    assert [m["name"] for m in found["machines"]] == ["node1", "node2", "node3"] and found["rolling"] == [] and found["balancers"] == []
    assert [row["label"] for row in found["slots"]] == ["serving", "free", "free"] and found["slots"][0]["ports"]["signal"] == 7880
    assert "previous" not in found and "api_keys" not in found["slots"][0]


def test_info_tells_which_keys_a_generation_accepts_and_no_secret(running):
    with_files(running, 1, OLD, keys=f"apikey: {SECRET}\nother: {'y' * 32}\n")
    found = told(running, keys={"apikey": SECRET, "other": "z" * 32, "new": "n" * 32})
    assert found["slots"][0]["api_keys"] == ["apikey", "other"] and found["slots"][0]["other_secrets"] == ["other"]
    assert found["slots"][1]["api_keys"] == [] and SECRET not in json.dumps(found)


def test_info_waits_for_pods_and_says_what_keeps_them(running):
    name = f"livekit-s1-{OLD}"
    assert told(running, wait_for="generation", name=name)["slots"][0]["ready"] == 3
    running.lists["pods"][2:] = [pod(1, OLD, ready=False)]
    said = not_told(running, "gate_pods", wait_for="generation", name=name)
    assert "2 of 3 pods are ready" in said and "on no machine" in said and "didn't have free ports" in said
    running.lists["pods"][0] = pod(1, OLD, "node1", ready=False, waiting={"reason": "ErrImagePull", "message": "no such image"})
    assert "no such image" in not_told(running, "pod_failed", wait_for="generation", name=name, timeout=60.0)
    assert "no such Deployment" in not_told(running, "gate_pods", wait_for="generation", name="livekit-s2-x")


def test_info_waits_for_what_stays(running):
    running.lists["daemonsets"] = [{"metadata": {"name": "livekit-executor", "generation": 1}, "status": {
        "observedGeneration": 1, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 1}}]
    assert "DaemonSet/livekit-executor: 1 of 3" in not_told(running, "not_up", wait_for="base")


def test_info_finds_the_generation_before_and_what_it_was_made_from(running):
    row = {"metadata": {**deployment(1, OLD)["metadata"], "annotations": {"openrtc.livekit/served-at": "1000"}}}
    older = {"metadata": {**deployment(2, "dddddddddddd", version="1.13.4")["metadata"], "annotations": {"openrtc.livekit/served-at": "500"}}}
    running.lists["secrets"] = [row, older]
    with_files(running, 2, "dddddddddddd", model=json.dumps({"model": {**VARIABLES, "livekit_version": "1.13.4", "livekit_kubernetes_drain_deadline": "5m"}}))
    found = told(running, previous=True)["previous"]
    assert found["generation"] == "dddddddddddd" and found["model"]["livekit_version"] == "1.13.4"
    assert found["settings"]["drain_deadline"] == "5m" and found["settings"]["replicas"] == 3
    with_files(running, 2, "dddddddddddd", model="{}")
    assert "before this collection kept" in not_told(running, "no_previous_generation", previous=True)


def test_a_generation_that_comes_back_says_so_and_keeps_its_settings():
    parts = {"part": "generation", "slot": 3, "generation": OLD, "rolled_back": True}
    (record,) = kubernetes_objects(VARIABLES, SETTINGS, {"count": 3}, secrets=True, **parts)
    (workload,) = kubernetes_objects(VARIABLES, SETTINGS, {"count": 3}, replicas=2, **parts)
    assert {o["metadata"]["annotations"]["openrtc.livekit/rolled-back"] for o in (record, workload)} == {"true"}
    kept = json.loads(base64.b64decode(record["data"]["model.json"]))
    assert kept["rolled_back"] and kept["model"]["livekit_kubernetes_tls"]["secret"] == "livekit-tls" and workload["spec"]["replicas"] == 2


def test_redis_as_the_cluster_sees_it():
    given = {"address": "10.0.0.9:6379"}
    assert kubernetes_redis({}, given) == given
    inside = kubernetes_redis({"livekit_kubernetes_redis": {"mode": "standalone", "password": SECRET}}, {})
    assert inside["address"].startswith("livekit-redis-0.") and inside["password"] == SECRET


# --- kubernetes_mark --------------------------------------------------------------------------------------------------

POD, PAIR = "/api/v1/namespaces/livekit/pods/web-1", [f"/{api}/namespaces/livekit/{kind}/livekit-s1-{OLD}" for api, kind in (
    ("api/v1", "secrets"), ("apis/apps/v1", "deployments"))]


def marked(server, check=False, **given):
    args = {"namespace": "livekit", "pods": [], "name": None, "generation": None, "kubeconfig": None, "context": None, **given}
    marks = kubernetes_mark.Marks(args, lambda *dummy: Api(f"http://127.0.0.1:{server.server_port}"), 1234.9, check)
    marks.run()
    return marks.changed


def patches(server):
    return [(path, body) for verb, path, body in server.bodies if verb == "PATCH"]


def test_pods_that_passed_get_the_label_once(running):
    running.kept = {POD: {"metadata": {"labels": {"a": "b"}}}}
    assert marked(running, check=True, pods=["web-1"]) == ["web-1"] and patches(running) == []
    assert marked(running, pods=["web-1"]) == ["web-1"]
    assert patches(running) == [(POD, {"metadata": {"labels": {"openrtc.livekit/serving": "true"}}})]
    running.kept[POD]["metadata"]["labels"]["openrtc.livekit/serving"] = "true"
    assert marked(running, pods=["web-1"]) == []


def test_a_generation_that_passed_is_noted_the_deployment_last_and_keeps_its_time(running):
    running.kept = {path: {"metadata": {}} for path in PAIR}
    assert len(marked(running, name=f"livekit-s1-{OLD}", generation=OLD)) == 2
    assert [path for path, body in patches(running)] == PAIR
    assert patches(running)[1][1] == {"metadata": {"annotations": {"openrtc.livekit/gate": OLD, "openrtc.livekit/served-at": "1234"}}}
    running.kept = {path: {"metadata": {"annotations": {"openrtc.livekit/gate": OLD, "openrtc.livekit/served-at": "1000"}}} for path in PAIR}
    assert marked(running, name=f"livekit-s1-{OLD}", generation=OLD) == []


def test_no_content_of_a_secret_is_read_for_a_mark(running):
    running.kept = {path: {"metadata": {}} for path in PAIR}
    marked(running, name=f"livekit-s1-{OLD}", generation=OLD)
    assert {accept for dummy, path, dummy2, accept in running.asked if path in PAIR} == {kubernetes_mark.METADATA}
