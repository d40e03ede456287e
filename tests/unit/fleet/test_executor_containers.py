# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The executor of a host that runs containers: what it reports, the orders it carries out, the states it tells the agent check."""
from __future__ import annotations

import json
import threading
import time

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.executor import Executor, Settings
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import HOSTS, HostReport

from docker_sample import FakeDocker


def until(check, timeout=5.0):
    end = time.monotonic() + timeout
    while not check() and time.monotonic() < end:
        time.sleep(0.05)
    return check()


@pytest.fixture(name="start")
def fixture_start(tmp_path):
    """start(redis) -> (executor, docker), which run until the test ends."""
    docker, running = FakeDocker(tmp_path / "docker.sock"), []

    def start(redis):
        settings = Settings(host="sfu1", address="127.0.0.1", redis=redis, layout={"count": 2, "signal": 1, "metrics": 2}, target="compose",
                            compose={"socket": docker.path}, states=str(tmp_path / "states.json"), memory=str(tmp_path / "nodes.json"),
                            config_dir=str(tmp_path / "etc"), state_dir=str(tmp_path / "var"), neighbours=[{"unit": "egress", "kind": "egress"}])
        made = Executor(settings, logs=lambda event, **fields: None)
        thread = threading.Thread(target=made.run, daemon=True)
        thread.start()
        running.append((made, thread))
        return made, docker

    yield start
    for made, thread in running:
        made.stop.set()
        thread.join(5)
    docker.close()


def test_containers_are_reported_as_slots(start, redis_server):
    server = redis_server()
    docker = start({"address": server.address})[1]
    docker.add("egress")
    pid = docker.slot(1)

    def report():
        raw = server.client.hget(HOSTS, "sfu1")
        return HostReport.parse(raw.decode()) if raw else None

    assert until(lambda: report() and report().slots[0].state == "active" and report().neighbours == {"egress": "active"})
    assert report().slots[0].pid == pid and report().slots[0].version == "1.13.5"
    docker.processes["livekit-slot-1"].terminate()
    assert until(lambda: report().slots[0].state != "active"), "a drain by hand is seen"


def test_the_agent_check_learns_the_states_and_stops_learning_them_with_docker(start, tmp_path):
    """Without Redis too: then nothing else is done."""
    docker = start({})[1]
    docker.slot(2)
    path = tmp_path / "states.json"
    assert until(lambda: path.exists() and json.loads(path.read_text()) == {"1": "inactive", "2": "active"})
    docker.server.shutdown()
    docker.server.server_close()
    time.sleep(0.5)
    before = path.stat().st_mtime_ns
    time.sleep(0.7)
    assert path.stat().st_mtime_ns == before


def test_a_neighbour_is_ended_by_its_container(start, redis_server):
    made, docker = start({"address": redis_server().address})
    docker.add("egress")
    assert made.hands.stop_unit("egress") == {"signalled": True} and docker.done == [("kill", "egress", "SIGTERM")]
