# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""component with projects of Compose: what is brought up, recreated, reloaded and left alone, by comparison with the containers."""
from __future__ import annotations

import datetime
import os
import pwd
import time

import pytest

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.component import run
from ansible_collections.openrtc.livekit.plugins.modules import component

from docker_sample import FakeDocker

LABELS = {"com.docker.compose.project": "thing", "openrtc.livekit.component": "thing"}


class Host:
    def __init__(self, root, run_module):
        self.root, self.run_module = root, run_module
        self.docker = FakeDocker(root / "docker.sock")

    def run(self, content="a\n", check=False, **params):
        """One call of the module: compose.yaml, a file that needs a reload, one that needs a restart."""
        log = self.root / "log"
        return self.run_module(component.main, {
            "name": "thing", "record_dir": str(self.root / "record"), "docker_socket": self.docker.path,
            "files": [{"dest": str(self.root / "compose.yaml"), "content": "name: thing\n", "restart": ["thing.project"]},
                      {"dest": str(self.root / "thing.conf"), "content": content, "reload": ["thing.project"]},
                      {"dest": str(self.root / "thing.json"), "content": params.pop("json", "{}"), "restart": ["thing.project"]}],
            "projects": [{"name": "thing", "file": str(self.root / "compose.yaml"), "reload": f"sh -c 'echo reload >>{log}'",
                          "prepare": f"sh -c 'echo prepare >>{log}'", **params.pop("project", {})}], **params}, check=check)

    def up(self, labels=None):
        self.docker.add("thing-1", labels or LABELS)
        stamp = datetime.datetime.fromtimestamp(time.time(), datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.docker.containers["thing-1"]["State"]["StartedAt"] = stamp

    def settled(self):
        """The host after a first run."""
        self.run()
        self.up()
        assert not self.run(projects_up=["thing"])["changed"]
        self.log(clear=True)

    def log(self, clear=False):
        path = self.root / "log"
        text = path.read_text().split() if path.exists() else []
        if clear:
            path.unlink(missing_ok=True)
        return text


@pytest.fixture(name="host")
def fixture_host(tmp_path, run_module):
    made = Host(tmp_path, run_module)
    yield made
    made.docker.close()


def test_a_project_that_does_not_run_is_prepared_and_named(host):
    first = host.run()
    assert [p["name"] for p in first["behind"]] == ["thing"] and first["started"] == ["thing"] and host.log() == ["prepare"]
    host.up()
    again = host.run(projects_up=["thing"])
    assert not again["changed"] and again["behind"] == [] and host.log() == ["prepare"]


def test_a_file_to_reload_is_reloaded_once(host):
    host.settled()
    assert host.run("b\n")["reloaded"] == ["thing"] and host.log() == ["reload"]
    assert not host.run("b\n")["changed"]


def test_a_run_that_died_between_writing_and_reloading_is_completed(host):
    host.settled()
    (host.root / "thing.conf").write_text("b\n")
    assert host.run("b\n")["reloaded"] == ["thing"] and host.log() == ["reload"]


def test_a_file_that_is_read_at_the_start_makes_a_new_container(host):
    host.settled()
    assert host.run(json='{"a": 1}')["restarted"] == ["thing"]
    assert host.run(json='{"a": 1}')["restarted"] == ["thing"], "as long as nobody has brought it up"


def test_check_mode_tells_and_does_nothing(host):
    shown = host.run(check=True)
    assert shown["changed"] and shown["behind"] and host.log() == [] and not (host.root / "compose.yaml").exists()


@pytest.mark.parametrize("code, reloads", [(0, []), (1, ["reload"])])
def test_a_process_that_says_itself_that_it_differs_is_reloaded(host, code, reloads):
    host.settled()
    assert host.run(project={"check": f"sh -c 'exit {code}'"})["changed"] == bool(reloads)
    assert host.log() == reloads


def test_a_project_that_ends_at_once_is_told_with_its_last_words(host):
    host.run()
    host.docker.add("thing-1", LABELS, state="exited", code=1)
    failed = host.run(projects_up=["thing"])
    assert failed["failed"] and "does not stay up" in failed["msg"] and "one" in failed["msg"]


def test_a_project_of_somebody_else_is_left_alone(host):
    host.up({"com.docker.compose.project": "thing"})
    failed = host.run()
    assert failed["failed"] and failed["code"] == "project_foreign"


def test_gates_wait_until_the_project_is_up(host):
    gate = [{"path": str(host.root / "no.sock"), "timeout": 0.1}]
    assert not host.run(gates=gate)["failed"]


def test_numbers_of_users_land_in_files(host):
    me = pwd.getpwuid(os.geteuid()).pw_name
    host.run_module(component.main, {"name": "x", "record_dir": str(host.root / "r"), "files": [
        {"dest": str(host.root / "n"), "content": f"@uid:{me}@ @gid:nobody-of-this-name@\n", "numbers": True},
        {"dest": str(host.root / "m"), "content": f"@uid:{me}@\n"}]})
    assert (host.root / "n").read_text() == f"{os.geteuid()} @gid:nobody-of-this-name@\n" and (host.root / "m").read_text() == f"@uid:{me}@\n"


def test_a_docker_that_does_not_answer_stops_the_run_before_a_file_is_written(host):
    failed = host.run(docker_socket="/nowhere.sock", images=["redis:7"])
    assert failed["failed"] and failed["failure"]["code"] == "docker_unreachable" and not (host.root / "compose.yaml").exists()


def test_a_gate_that_nobody_answers_tells_what_the_containers_said_last(host, monkeypatch):
    host.settled()
    docker = host.root / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\necho \"controller | unknown setting $*\"\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(run, "systemd_runs", lambda: True)
    told = host.run(gates=[{"path": str(host.root / "no.sock"), "timeout": 0.2}])["msg"]
    assert "did not pass its gate" in told and "controller | unknown setting" in told and "compose -p thing logs" in told
