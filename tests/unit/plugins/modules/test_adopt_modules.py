# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules adopt_edge and adopt_drain, and what adopt_info reads on a host."""
from __future__ import annotations

import calendar
import contextlib
import http.server
import json
import os
import pathlib
import threading
import time

import pytest
import yaml
from adoption_sample import CADDY, COMPOSE, LIVEKIT
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.adoption import former, reading
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry import connect
from ansible_collections.openrtc.livekit.plugins.modules import adopt_drain, adopt_edge, adopt_info
from docker_sample import FakeDocker

STARTED = calendar.timegm((2026, 1, 2, 3, 4, 5))  # of FakeDocker's containers
UPSTREAMS = {"7880": "127.0.0.1:7980", "5349": "127.0.0.1:7981"}


@pytest.fixture
def home(tmp_path):
    """The folder of a former deployment."""
    for name, text in (("docker-compose.yaml", COMPOSE), ("caddy.yaml", CADDY), ("livekit.yaml", LIVEKIT), (".env", "A=1\n")):
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def docker(tmp_path):
    fake = FakeDocker(tmp_path / "docker.sock")
    yield fake
    fake.close()


def labels(home, service="livekit"):
    return {"com.docker.compose.project.working_dir": str(home), "com.docker.compose.service": service}


def signals(docker):
    return [entry for entry in docker.done if entry[0] == "kill"]


# --- adopt_edge -------------------------------------------------------------------------------------------------------

class Caddy(http.server.ThreadingHTTPServer):
    """Its admin API."""

    def __init__(self, refuses=False):
        self.config, self.loads, self.refuses = yaml.safe_load(CADDY), 0, refuses
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def _answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self._answer(200, json.dumps(self.server.config).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.refuses:
            self._answer(400, b'{"error": "no such module"}')
            return
        self.server.config, self.server.loads = body, self.server.loads + 1
        self._answer(200)

    def log_message(self, *_args):
        pass


@contextlib.contextmanager
def caddy(**options):
    server = Caddy(**options)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def edge(run_module, home, server, check=False, **more):
    return run_module(adopt_edge.main, {"folder": str(home), "upstreams": UPSTREAMS, "admin": server.url, **more}, check=check)


def test_callers_are_led_to_haproxy_once_now_and_after_a_restart(run_module, home):
    before = (home / "caddy.yaml").stat().st_ino
    with caddy() as server:
        assert edge(run_module, home, server, check=True)["changed"] and server.loads == 0 and (home / "caddy.yaml").read_text() == CADDY
        got = edge(run_module, home, server)
        assert got["changed"] and "127.0.0.1:7980" in got["diff"]["after"] and server.loads == 1
        assert yaml.safe_load((home / "caddy.yaml").read_text()) == server.config
        assert not edge(run_module, home, server)["changed"] and server.loads == 1
    assert (home / "caddy.yaml").stat().st_ino == before  # mounted as a file: another one would not be seen by the container
    assert (home / "caddy.yaml.before-adoption").read_text() == CADDY


def test_callers_can_be_led_back(run_module, home):
    with caddy() as server:
        edge(run_module, home, server)
        assert edge(run_module, home, server, upstreams={"7980": "localhost:7880", "7981": "192.0.2.10:5349"})["changed"]
        assert server.config == yaml.safe_load(CADDY) and (home / "caddy.yaml").read_text() == CADDY


def test_a_caddy_that_refuses_keeps_its_file(run_module, home):
    with caddy(refuses=True) as server:
        got = edge(run_module, home, server)
    assert got["failed"] and got["failure"]["code"] == "caddy_refused" and (home / "caddy.yaml").read_text() == CADDY


def test_a_caddy_that_does_not_answer_or_leads_elsewhere(run_module, home):
    got = run_module(adopt_edge.main, {"folder": str(home), "upstreams": UPSTREAMS, "admin": "http://127.0.0.1:1"})
    assert got["failure"]["code"] == "caddy_unreachable"
    with caddy() as server:
        assert edge(run_module, home, server, upstreams={"7000": "127.0.0.1:7980"})["failure"]["code"] == "adopt_edge"
        assert edge(run_module, home / "none", server)["failure"]["code"] == "adopt_edge"


# --- adopt_drain ------------------------------------------------------------------------------------------------------

@pytest.fixture
def scene(home, docker, redis_server, tmp_path):
    """A former node that serves and hosts a room, the new one beside it."""
    server = redis_server()
    docker.add("livekit-livekit-1", labels(home), program=("sh", "-c", "trap '' TERM; while :; do sleep 1; done"))  # it has calls
    server.add_node("ND_old", started_at=STARTED + 1, rooms=["r1"], num_clients=2)
    server.add_node("ND_new", started_at=int(time.time()))
    return server, {"folder": str(home), "socket": docker.path, "redis": {"address": server.address}, "state_dir": str(tmp_path / "state")}


def told(server, docker):
    """What the node itself does on its first signal."""
    end = time.monotonic() + 5
    while not signals(docker) and time.monotonic() < end:
        time.sleep(0.01)
    server.add_node("ND_old", started_at=STARTED + 1, rooms=["r1"], num_clients=2, state=2)


def test_the_former_node_gets_one_signal_and_is_started_no_more(run_module, scene, docker, home):
    server, options = scene
    assert run_module(adopt_drain.main, options, check=True)["changed"] and docker.done == [] and (home / "docker-compose.yaml").read_text() == COMPOSE
    answer = threading.Thread(target=told, args=(server, docker))
    answer.start()
    got = run_module(adopt_drain.main, options)
    answer.join()
    assert got["changed"] and (got["node_id"], got["rooms"], got["participants"]) == ("ND_old", 1, 2)
    assert len(signals(docker)) == 1 and docker.containers["livekit-livekit-1"]["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert yaml.safe_load((home / "docker-compose.yaml").read_text())["services"]["livekit"]["profiles"] == ["before-adoption"]
    again = run_module(adopt_drain.main, options)
    assert not again["changed"] and again["reason"] == "it drains" and len(signals(docker)) == 1


def test_no_second_signal_where_a_run_was_killed_before_it_knew(run_module, scene, docker):
    _server, options = scene
    drain = adopt_drain.Drain({"service": "livekit", "compose_file": "docker-compose.yaml", **options})
    os.makedirs(options["state_dir"])
    pathlib.Path(drain.mark()).write_text("now")
    got = run_module(adopt_drain.main, options)
    assert got["reason"] == "a run before this one has told it to end" and signals(docker) == []


def test_the_last_node_that_serves_is_never_drained(run_module, scene, docker, home):
    server, options = scene
    server.client.hdel("nodes", "ND_new")
    got = run_module(adopt_drain.main, options)
    assert run_module(adopt_drain.main, options, check=True)["changed"]  # the other one would be there by then
    assert got["failure"]["code"] == "no_other_node" and docker.done == [] and (home / "docker-compose.yaml").read_text() == COMPOSE


def test_another_redis_than_the_nodes_own_is_refused(run_module, scene, docker):
    server, options = scene
    server.client.hdel("nodes", "ND_old")
    assert run_module(adopt_drain.main, options)["failure"]["code"] == "adopt_registry" and docker.done == []


def test_a_node_that_has_ended_needs_nothing_but_to_stay_away(run_module, scene, docker, home):
    _server, options = scene
    docker.processes.pop("livekit-livekit-1").kill()
    docker.containers["livekit-livekit-1"]["State"].update(Status="exited", Running=False)
    got = run_module(adopt_drain.main, options)
    assert got["changed"] and got["reason"] == "it has ended" and signals(docker) == []
    docker.containers.clear()
    assert not run_module(adopt_drain.main, options)["changed"]


def test_two_nodes_that_started_together_are_told_apart_by_address_or_not_at_all(scene):
    server, _options = scene
    server.add_node("ND_twin", started_at=STARTED + 2, ip="192.0.2.9")
    now = former.Former("c", True, float(STARTED), True)
    with connect({"address": server.address}) as registry:
        snapshot = registry.snapshot()
    assert former.node_of(now, snapshot, ["192.0.2.1"]).id == "ND_old" and former.node_of(now, snapshot, []) is None


# --- what is read -----------------------------------------------------------------------------------------------------

def test_a_folder_is_read_with_its_containers_and_nobody_elses(run_module, home, docker):
    docker.add("livekit-livekit-1", labels(home))
    docker.containers["livekit-livekit-1"]["Config"]["Image"] = "redis:7"
    docker.add("web", {"com.docker.compose.project.working_dir": "/elsewhere"})
    got = run_module(adopt_info.main, {"folder": str(home), "socket": docker.path}, check=True)
    assert set(got["files"]) == {str(home / name) for name in ("docker-compose.yaml", "caddy.yaml", "livekit.yaml", ".env")}
    assert [c["Name"] for c in got["containers"]] == ["/livekit-livekit-1"] and got["slots"] == [] and docker.done == []
    assert run_module(adopt_info.main, {"folder": "/nowhere", "socket": docker.path})["failure"]["code"] == "adopt_folder"
    assert run_module(adopt_info.main, {"folder": str(home), "socket": "/nowhere"})["failure"]["code"] == "docker_unreachable"


def test_listening_ports_are_those_that_wait_for_somebody(tmp_path):
    head = "  sl  local_address rem_address   st\n"
    (tmp_path / "tcp").write_text(head + "   0: 0100007F:18EB 00000000:0000 0A\n   1: 0100007F:D431 0100007F:18EB 01\n")
    (tmp_path / "udp6").write_text(head + "   0: 00000000000000000000000000000000:0D96 0:0000 07\n")
    assert reading.listening(str(tmp_path)) == [["tcp", 6379], ["udp", 3478]]


def test_files_that_the_configuration_names_are_read_through_the_mounts(tmp_path):
    (tmp_path / "keys.yaml").write_text("APIa: x\n")
    container = {"Config": {"Env": ["LIVEKIT_TURN_CERT=/nowhere/c.pem"]}, "Args": ["--key-file", "/k/keys.yaml"],
                 "Mounts": [{"Type": "bind", "Source": str(tmp_path), "Destination": "/k"}]}
    assert reading.named_files({}, [container]) == {str(tmp_path / "keys.yaml"): "APIa: x\n"}
    assert reading.named_files({"livekit.yaml": "key_file: /k/keys.yaml\n"}, [{**container, "Args": []}])
