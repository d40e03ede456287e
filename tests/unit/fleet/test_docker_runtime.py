# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes as containers: what SlotHost sees and does, against an Engine API on a real socket and processes under the real init."""
from __future__ import annotations

import os
import pathlib
import signal
import time

import pytest
import yaml
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.host import SlotHost
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.runtimes.docker import Docker, moment
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.runtimes.docker_api import DockerApi
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.runtimes.docker_pulse import Pulse, stop_container
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slots import Layout
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import compose

from docker_sample import FakeDocker

# A node that holds a call: it goes on after its first SIGTERM, and a second one would be seen.
HOLDS = ("sh", "-c", "trap 'echo told >>\"$0\"' TERM; while :; do sleep 0.05; done")


@pytest.fixture(name="docker")
def fixture_docker(tmp_path):
    made = FakeDocker(tmp_path / "docker.sock")
    yield made
    made.close()


@pytest.fixture(name="host")
def fixture_host(docker, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1)  # no such group as livekit here
    docker.images["livekit/livekit-server:v1.13.5"] = {"Config": {"Entrypoint": ["/livekit-server"]}}
    settings = compose.Settings(image="livekit/livekit-server:v1.13.5", socket=docker.path, user="root")
    layout, commands = Layout(count=2), []

    def run(command):
        commands.append(command)
        return 0, "TCP Ports\n7880" if "ports" in command else "2.27.1\n", ""

    config_dir = str(tmp_path / "etc")
    made = SlotHost(run, layout, config_dir, str(tmp_path / "var"), address="127.0.0.1", runtime=Docker(run, layout, settings, config_dir, "127.0.0.1"))
    made.commands = commands
    return made


def states(host):
    return [(s.slot, s.state, s.enabled) for s in host.observe(measure=False)]


def until(check, timeout=3.0):
    end = time.monotonic() + timeout
    while not check() and time.monotonic() < end:
        time.sleep(0.02)
    return check()


def test_an_empty_docker_has_only_free_slots(host):
    assert states(host) == [(1, "inactive", False), (2, "inactive", False)]


def test_a_running_node_is_told_with_its_process_and_version(host, docker):
    pid = docker.slot(1, version="1.13.4")
    slot = host.observe(measure=False)[0]
    assert (slot.state, slot.pid, slot.version, slot.enabled, slot.since) == ("active", pid, "1.13.4", True, 1767323045.5)


def test_a_drain_is_one_signal_and_is_seen_at_once(host, docker, tmp_path):
    docker.slot(1, program=(*HOLDS, str(tmp_path / "log")))
    assert host.drain(1) and not host.drain(1)
    assert docker.done == [("update", "livekit-slot-1", "no"), ("kill", "livekit-slot-1", "SIGTERM")]
    assert states(host)[0] == (1, "deactivating", False)
    assert until((tmp_path / "log").exists) and (tmp_path / "log").read_text() == "told\n"


def test_a_drain_by_hand_is_seen_and_a_second_signal_does_not_reach_the_node(host, docker, tmp_path):
    docker.slot(1, program=(*HOLDS, str(tmp_path / "log")))
    for _attempt in range(3):
        docker.processes["livekit-slot-1"].terminate()
        time.sleep(0.15)
    assert states(host)[0][1] == "deactivating" and (tmp_path / "log").read_text() == "told\n"


def test_a_node_that_ended_leaves_its_slot_free(host, docker):
    docker.slot(1)
    host.drain(1)
    assert until(lambda: states(host)[0] == (1, "inactive", False))


@pytest.mark.parametrize("code, label", [(0, "free"), (137, "free"), (1, "failed")])
def test_how_a_node_ended(host, docker, code, label):
    docker.slot(1, state="exited", code=code, policy="no")
    assert host.observe(measure=False)[0].label == label


def test_a_slot_beyond_the_layout_that_still_runs_is_seen(host, docker):
    docker.slot(7)
    docker.slot(8, state="exited")
    assert [s.slot for s in host.observe(measure=False)] == [1, 2, 7]


@pytest.mark.parametrize("program", [("sleep", "60"), HOLDS])
def test_a_fence_kills_exactly_that_process(host, docker, program, tmp_path):
    pid = docker.slot(1, program=(*program, *([str(tmp_path / "log")] if program is HOLDS else [])))
    assert not host.fence(1, "ND_a", pid + 1) and docker.processes["livekit-slot-1"].poll() is None
    assert host.fence(1, "ND_a", pid)
    assert docker.processes["livekit-slot-1"].returncode == -9 and ("kill", "livekit-slot-1", "SIGTERM") not in docker.done


def test_nothing_that_a_test_started_outlives_it(tmp_path):
    made = FakeDocker(tmp_path / "docker.sock")
    os.kill(made.slot(1, program=(*HOLDS, str(tmp_path / "log"))), signal.SIGKILL)
    group = made.processes["livekit-slot-1"].pid
    os.killpg(group, 0)  # what runs under its init goes on
    made.close()
    with pytest.raises(ProcessLookupError):
        until(lambda: os.killpg(group, 0))


def test_a_slot_writes_its_project_beside_its_configuration(host, tmp_path):
    host.write(1, "abc", "1.13.5", {"config.yaml": "port: 7880\n"})
    base = tmp_path / "etc/1"
    made = yaml.safe_load((base / "compose.yaml").read_text())["services"]["livekit"]
    assert made["image"] == "livekit/livekit-server:v1.13.5" and made["user"] == "0:0" and made["entrypoint"] == ["sh", f"{base}/init"]
    assert sorted(p.name for p in base.iterdir()) == ["compose.yaml", "config.yaml", "generation.json", "init"]
    assert host.observe(measure=False)[0].intact


def test_a_project_file_changed_by_hand_is_seen(host, tmp_path):
    host.write(1, "abc", "1.13.5", {"config.yaml": "port: 7880\n"})
    (tmp_path / "etc/1/compose.yaml").write_text("name: other\n")
    assert not host.observe(measure=False)[0].intact


def test_an_image_that_is_not_there_writes_nothing(host, docker, tmp_path):
    docker.images.clear()
    with pytest.raises(FleetError) as caught:
        host.write(1, "abc", "1.13.5", {})
    assert caught.value.failure["code"] == "release_absent" and not (tmp_path / "etc").exists()


def test_the_static_check_runs_the_image_without_network_or_privileges(host):
    host.write(1, "abc", "1.13.5", {"config.yaml": "port: 7880\n"})
    host.static_check(1)
    words = host.commands[-1]
    assert words[-3:] == ["--config", f"{host.shelf.config_dir}/1/config.yaml", "ports"]
    assert ["--network", "none"] == words[words.index("--network"):][:2] and "--rm" in words and "--read-only" in words


def test_serving_and_draining_set_what_a_reboot_does(host, docker):
    docker.slot(1, policy="no")
    host.serve(1, "abc")
    assert states(host)[0] == (1, "active", True)


def test_a_discarded_node_leaves_no_container(host, docker):
    host.write(1, "abc", "1.13.5", {"config.yaml": "port: 7880\n"})
    docker.slot(1)
    host.discard(1)
    assert docker.containers == {} and ("kill", "livekit-slot-1", "SIGTERM") in docker.done


def test_a_stranger_in_a_slots_project_is_never_touched(host, docker):
    docker.add("web-1", {"com.docker.compose.project": "livekit-slot-2"})
    with pytest.raises(FleetError, match="web-1") as caught:
        host.observe()
    assert caught.value.failure["code"] == "project_foreign" and docker.done == []


def test_who_only_watches_goes_on_without_a_stranger(host, docker):
    docker.add("web-1", {"com.docker.compose.project": "livekit-slot-2"})
    docker.slot(1)
    host.runtime.strict = False
    assert states(host) == [(1, "active", True), (2, "inactive", False)]


def test_a_docker_that_does_not_answer_is_never_taken_for_free_slots(host, docker):
    docker.close()
    docker.processes.clear()
    pathlib.Path(docker.path).unlink()
    with pytest.raises(FleetError) as caught:
        host.observe()
    assert caught.value.failure["code"] == "docker_unreachable"


@pytest.mark.parametrize("kept, words", [(True, "leaves every call alone"), (False, "ends the calls")])
def test_what_a_restart_of_docker_would_cost_is_told(host, docker, kept, words):
    docker.live_restore = kept
    about = host.runtime.about()
    assert about["live_restore"] is kept and words in about["restart"] and about["compose"] == "2.27.1"


@pytest.mark.parametrize("answer", [(1, "", "docker: 'compose' is not a docker command.\n"), (0, "1.29.2\n", ""), (127, "", "docker is not installed")])
def test_a_missing_or_old_compose_is_told(host, answer):
    host.runtime.run = lambda command: answer
    with pytest.raises(FleetError) as caught:
        host.runtime.about()
    assert caught.value.failure["code"] == "compose_missing"


def test_the_last_lines_of_a_node_come_with_secrets_masked(host, docker):
    docker.slot(1)
    assert host.journal(1) == ["one", "password: ********"]


@pytest.mark.parametrize("stamp, seconds", [("2026-01-02T03:04:05Z", 1767323045.0), ("2026-01-02T03:04:05.123456789Z", 1767323045.123456),
                                            ("0001-01-01T00:00:00Z", None), ("", None)])
def test_moments(stamp, seconds):
    assert moment(stamp) == seconds


def test_the_pulse_changes_with_every_start_drain_and_end(docker):
    pulse = Pulse(DockerApi(docker.path), "livekit-slot-", ["egress"])
    docker.add("egress", state="exited")
    seen = [pulse()]
    docker.slot(1)
    seen.append(pulse())
    docker.processes["livekit-slot-1"].terminate()
    until(lambda: pulse() != seen[-1])
    seen.append(pulse())
    assert seen[0] == {"egress": "inactive"} and len({str(s) for s in seen}) == 3


def test_a_neighbour_gets_one_signal(docker, tmp_path):
    docker.add("egress", program=(*HOLDS, str(tmp_path / "log")))
    assert stop_container(DockerApi(docker.path), "egress") and not stop_container(DockerApi(docker.path), "egress")
    assert not stop_container(DockerApi(docker.path), "nobody")
    assert docker.done == [("kill", "egress", "SIGTERM")]
