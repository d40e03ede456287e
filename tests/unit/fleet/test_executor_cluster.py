# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The executor in Kubernetes: who it is, what it reports, the label it keeps, the servers it keeps."""
from __future__ import annotations

import http.server
import json
import threading

import pytest
from controller_sample import registry
from kubernetes_sample import NEW, OLD
from pods_sample import Cluster, Inits, until

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import executor_targets
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.balancers.haproxy_runtime import Runtime
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.executor import Executor
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.executor_cluster import admit, dismiss
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.executor_settings import Settings
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.generation import Slot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.lock import Lock
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.orders import Order, Orders
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import HOSTS, HostReport
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.runtimes.pods import Pods

SERVING = "openrtc.livekit/serving"


def slot(**more):
    return Slot(1, **{**dict(state="active", generation="g", gate=None, enabled=True, http=200, node_id="ND_a"), **more})


def test_pods_that_callers_are_let_to():
    assert admit([slot()])
    for other in (dict(gate="g"), dict(enabled=False), dict(http=406), dict(state="activating"), dict(node_id=None), dict(state="deactivating")):
        assert not admit([slot(**other)])


def test_pods_that_lose_the_label():
    assert dismiss([slot(state="deactivating", gate="g")])
    assert not dismiss([slot(state="deactivating")]) and not dismiss([slot(gate="g")])


def test_who_it_is_comes_from_its_pod(tmp_path, monkeypatch):
    for name, value in (("NODE_NAME", "node1"), ("NODE_IP", "10.0.0.1"), ("POD_NAME", "livekit-haproxy-x"), ("POD_IP", "10.1.0.7")):
        monkeypatch.setenv(name, value)
    path = tmp_path / "executor.json"
    path.write_text(json.dumps({"host": "", "address": "", "redis": {}, "layout": {}, "target": "kubernetes"}))
    found = Settings.read(str(path))
    assert (found.host, found.address, found.passing) == ("node1", "10.0.0.1", False)
    path.write_text(json.dumps({"host": "", "address": "", "redis": {"address": "x"}, "layout": None, "target": "kubernetes"}))
    found = Settings.read(str(path))
    assert (found.host, found.address, found.passing) == ("livekit-haproxy-x", "10.1.0.7", True)
    monkeypatch.delenv("POD_IP")
    with pytest.raises(FleetError):
        Settings.read(str(path))


# --- running ----------------------------------------------------------------------------------------------------------

class Answers(http.server.BaseHTTPRequestHandler):
    """A node's ports."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'livekit_room_total{node_id="ND_a"} 1\nlivekit_participant_total{node_id="ND_a"} 2\n')

    def log_message(self, *args):
        pass


@pytest.fixture(name="machine")
def fixture_machine(redis_server, tmp_path, monkeypatch):
    """machine() -> (cluster, Redis, executor): a machine with an executor that runs, and an answer on the ports of its slot 1."""
    cluster, server, running = Cluster(), redis_server(), []
    node = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=node.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(executor_targets, "Pods", lambda *args: Pods(*args, cluster.connect, Inits(cluster)))

    def start():
        made = Executor(Settings("node1", "127.0.0.1", {"address": server.address}, {"count": 1, "signal": node.server_port, "metrics": node.server_port},
                                 target="kubernetes", namespace="livekit", memory=str(tmp_path / "nodes.json")), logs=lambda event, **fields: None)
        thread = threading.Thread(target=made.run, daemon=True)
        thread.start()
        running.append((made, thread))
        return cluster, server, made

    yield start
    for made, thread in running:
        made.stop.set()
        thread.join(5)
    node.shutdown()
    cluster.close()


def reported(server):
    raw = server.client.hget(HOSTS, "node1")
    return HostReport.parse(raw.decode()).slots[0] if raw else Slot(1)


def test_pod_is_reported_and_admitted_once_its_generation_passed(machine):
    cluster, server, _executor = machine()
    cluster.add(1, NEW, serving=False)
    server.add_node("ND_a")
    assert until(lambda: reported(server).label == "gating" and reported(server).participants == 2)
    assert SERVING not in cluster.pod(1, NEW)["metadata"]["labels"]
    cluster.deploy(1, NEW)
    assert until(lambda: reported(server).label == "serving"), "its Deployment tells that the generation passed"


def test_pod_the_registry_does_not_know_is_not_admitted(machine):
    cluster, server, _executor = machine()
    cluster.deploy(1, NEW)
    cluster.add(1, NEW, serving=False)
    assert until(lambda: reported(server).http == 200) and reported(server).label == "gating"
    assert not until(lambda: reported(server).label == "serving", 1.5)


def test_drain_by_order_and_by_hand(machine):
    cluster, server, _executor = machine()
    cluster.deploy(1, OLD)
    cluster.add(1, OLD, program=("sh", "-c", "trap : TERM; while :; do sleep 0.05; done"))
    assert until(lambda: reported(server).node_id == "ND_a")
    with Lock(registry(server), "move", "test") as lock:
        assert Orders(registry(server), lock).ask([Order("node1", "drain", {"slot": 1, "node_id": "ND_a"})]) == [{"signalled": True}]
        assert until(lambda: reported(server).label == "draining" and reported(server).gate is None), "it loses the label"
        next(iter(cluster.processes.values())).poll()
        threading.Thread(target=next(iter(cluster.processes.values())).wait, daemon=True).start()
        assert Orders(registry(server), lock).ask([Order("node1", "fence", {"slot": 1, "node_id": "ND_a"})]) == [{"killed": True}]
    assert until(lambda: reported(server).label == "free")
    assert [verb for verb, *dummy in cluster.done] == ["DELETE", "PATCH"]


def test_executor_beside_haproxy_tells_it_its_servers_and_takes_its_report_along(redis_server, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Runtime, "ask", lambda self, command: asked.append(command) or ("# name\nlivekit\n" if command == "show backend" else "1\n"))
    server = redis_server()
    server.add_node("ND_a", cpu_load=0.3)
    serving = Slot(1, "active", "g", gate="g", node_id="ND_a")
    server.client.hset(HOSTS, "node1", HostReport("node1", "10.0.0.1", registry(server).now(), (serving,), {1: 7880}).as_json())
    made = Executor(Settings("livekit-haproxy-x", "10.1.0.7", {"address": server.address}, target="kubernetes", balancer="haproxy-http", pool={},
                             synced=str(tmp_path / "synced"), memory=str(tmp_path / "nodes.json")), logs=lambda event, **fields: None)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    assert until((tmp_path / "synced").exists) and "set server livekit/node1-s1 state ready" in asked
    assert until(lambda: server.client.hexists(HOSTS, "livekit-haproxy-x"))
    made.stop.set()
    thread.join(5)
    assert server.client.hkeys(HOSTS) == [b"node1"]
