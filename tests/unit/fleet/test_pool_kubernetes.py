# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool kubernetes over HTTP, against a model of the API that goes by the rules of a ReplicaSet (pkg/controller/controller_utils.go)."""
from __future__ import annotations

import copy
import http.server
import json
import threading
import urllib.parse

import kubernetes_sample as sample
import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.pools import ENDING, ORDERED
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.pools.kubernetes import Kubernetes
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.api import Api
from pool_conformance import Conformance, code, ids

COST = "controller.kubernetes.io/pod-deletion-cost"


class Model:
    """A namespace: one generation that serves, an older Deployment without a gate, and a controller of ReplicaSets."""

    def __init__(self):
        self.version, self.number, self.down, self.deaf, self.held, self.conflicts = 1, 0, False, False, False, 0
        self.lock = threading.Lock()
        self.deployments = {d["metadata"]["name"]: d for d in (sample.deployment(1, sample.OLD), sample.deployment(2, sample.NEW, gated=False))}
        self.pods = {}
        for found in self.deployments.values():
            found["metadata"]["resourceVersion"] = "1"
        self.deployments[f"livekit-s2-{sample.NEW}"]["spec"]["replicas"] = 0
        self.control()
        self.settle()

    def control(self):
        name = f"livekit-s1-{sample.OLD}"
        live = [p for p in self.pods.values() if "deletionTimestamp" not in p["metadata"]]
        for dummy in range(self.deployments[name]["spec"]["replicas"] - len(live)):
            self.number += 1
            pod = sample.pod(1, sample.OLD, f"node{self.number}", ready=False)
            pod["metadata"].update(name=f"{name}-{self.number}", creationTimestamp="2026-01-01T00:00:00Z", annotations={})
            pod["status"]["hostIP"] = f"10.0.0.{self.number}"
            self.pods[pod["metadata"]["name"]] = pod
        for pod in sorted(live, key=self.rank)[:max(0, len(live) - self.deployments[name]["spec"]["replicas"])]:
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00Z"

    @staticmethod
    def rank(pod):
        """Which goes first: not ready, then by cost, then by name for want of anything else."""
        ready = pod["status"]["conditions"][0]["status"] == "True"
        return ready, int(pod["metadata"]["annotations"].get(COST, 0)), pod["metadata"]["name"]

    def settle(self):
        for name, pod in list(self.pods.items()):
            if "deletionTimestamp" in pod["metadata"]:
                del self.pods[name]
            elif not self.held:
                pod["status"]["conditions"] = [{"type": "Ready", "status": "True"}]

    def get(self, path):
        parts = urllib.parse.urlsplit(path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        wanted = [term.split("=") for term in query.get("labelSelector", "").split(",") if term]
        rows = self.pods if parts.path.endswith("/pods") else self.deployments
        return {"items": [r for r in rows.values() if all(r["metadata"]["labels"].get(k) == v for k, v in wanted)]}

    def patch(self, path, body):
        kind, name = path.split("/")[-2:]
        row = (self.pods if kind == "pods" else self.deployments)[name]
        if kind == "deployments":
            if self.conflicts or body["metadata"]["resourceVersion"] != row["metadata"]["resourceVersion"]:
                self.conflicts = max(0, self.conflicts - 1)
                return 409, {"message": "the object has been modified"}
            self.version += 1
            row["metadata"]["resourceVersion"] = str(self.version)
            row["spec"].update(body["spec"])
        row["metadata"].setdefault("annotations", {}).update(body["metadata"]["annotations"])
        self.control()
        return 200, row


@pytest.fixture
def model():
    made = Model()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status, body):
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self):
            with made.lock:
                self.answer(*((503, {"message": "the server is shutting down"}) if made.down else (200, made.get(self.path))))

        def do_PATCH(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with made.lock:
                status, found = (503, {"message": "down"}) if made.down else made.patch(self.path, body)
                if made.deaf:
                    made.deaf, status, found = False, 504, {"message": "timeout"}
                self.answer(status, found)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


class World:
    room, stranger, away = 3, f"livekit-s1-{sample.OLD}-99", ("pool_unreachable",)

    def __init__(self, model):
        self.model, self.pool = model, Kubernetes(Api(model.url), most=6)

    def who(self):
        return set(self.model.pods)

    def settle(self):
        self.model.settle()

    def hold(self):
        self.model.held = True

    def lose(self, name):
        self.model.pods[name]["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00Z"

    def cut(self):
        self.model.down = True

    def mend(self):
        self.model.down = False

    def deaf(self):
        self.model.deaf = True


@pytest.fixture
def world(model):
    return World(model)


class TestKubernetes(Conformance):
    pass


def test_pods_are_found_by_machine_and_slot(world):
    found = world.pool.machines()[0]
    assert (found.host, found.address, found.slot, found.since) == ("node1", "10.0.0.1", 1, 1767225600.0)


def test_somebody_else_scales_at_the_same_time(world):
    world.model.conflicts = 1
    world.pool.add(1, "one")
    assert world.pool.size() == 4
    world.model.conflicts = 9
    assert code(world.pool.add, 1, "two") == "conflict" and world.pool.size() == 4


def test_a_pod_that_is_not_ready_would_go_in_place_of_the_one_that_is_meant(world):
    world.model.held = True
    world.pool.add(1)
    victim = sorted(ids(world))[0]
    new = [m.id for m in world.pool.machines() if m.state == ORDERED]
    with pytest.raises(FleetError, match="would go first"):
        world.pool.retire([victim])
    assert world.pool.size() == 4 and all(m.state != ENDING for m in world.pool.machines())
    assert world.pool.retire(new) == new and world.pool.size() == 3


def test_a_pod_may_be_protected(world):
    name = sorted(ids(world))[0]
    world.model.pods[name]["metadata"]["annotations"]["openrtc.livekit/protected"] = "true"
    assert [m.id for m in world.pool.machines() if m.protected] == [name]


def test_the_generation_that_passed_its_gate_last_is_scaled(world):
    newer = copy.deepcopy(sample.deployment(3, "cccccccccccc", replicas=1, served_at="2000.5"))
    newer["metadata"]["resourceVersion"] = "1"
    world.model.deployments[newer["metadata"]["name"]] = newer
    assert world.pool.size() == 1
    world.model.deployments.clear()
    assert code(world.pool.size) == "pool_refused"
