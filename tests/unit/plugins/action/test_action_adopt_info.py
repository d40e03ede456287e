# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action adopt_info with a scripted host: what it prints, what it hands back, what it keeps to itself."""
from __future__ import annotations

import types

import pytest
import yaml
from adoption_sample import CADDY, COMPOSE, HERE, LIVEKIT, SECRET, VALUES, container, release_objects
from ansible_collections.openrtc.livekit.plugins.action import adopt_info as action


def host(**more):
    """What the module reads there."""
    files = {"docker-compose.yaml": COMPOSE, "livekit.yaml": LIVEKIT, "caddy.yaml": CADDY, ".env": "A=1\n", "redis.conf": "port 6379\n"}
    return {"files": {f"{HERE}/{name}": text for name, text in {**files, **more.pop("files", {})}.items()},
            "containers": [container("livekit", "livekit/livekit-server:latest")], "versions": {f"{1:064x}": "1.13.4"},
            "listening": [["tcp", 7880]], "vcpus": 2, "address": "192.0.2.10", "slots": [], **more}


@pytest.fixture
def run(monkeypatch):
    """run(what the host answers, **options) -> (result, printed lines)."""
    monkeypatch.setattr(action.ActionBase, "run", lambda self, tmp=None, task_vars=None: {})

    def run(answer=None, **options):
        printed = []
        monkeypatch.setattr(action, "Display", lambda: types.SimpleNamespace(display=printed.append))
        plugin = object.__new__(action.ActionModule)
        plugin._task = types.SimpleNamespace(args=options, async_val=0, check_mode=True)
        plugin._play_context = types.SimpleNamespace(no_log=False)

        def execute(module_name, module_args, task_vars):
            assert module_name == "openrtc.livekit.adopt_info" and plugin._play_context.no_log and SECRET not in str(module_args)
            return answer

        plugin._execute_module = execute
        result = plugin.run(task_vars={"inventory_hostname": "calls1"})
        assert not plugin._play_context.no_log
        return result, printed

    return run


def test_a_folder_is_told_and_returned_as_an_inventory(run):
    result, printed = run(host(), folder=f"{HERE}/", connection={"ansible_host": "calls.example.net", "ansible_user": "root"})
    assert not result.get("failed") and result["changed"] is False and result["_ansible_no_log"]
    assert result["secrets"] == {"livekit_keys": {"APIw7example": SECRET}} and SECRET not in "\n".join(printed) + str(result["variables"])
    files = {file["path"]: file for file in result["files"]}
    assert yaml.safe_load(files["hosts.yml"]["content"])["all"]["hosts"]["calls1"] == {
        "ansible_host": "calls.example.net", "ansible_user": "root", "livekit_address": "192.0.2.10"}
    assert result["variables"]["livekit_adopt_folder"] == HERE and result["variables"]["livekit_adopt_compose_file"] == "docker-compose.yaml"
    assert files["group_vars/all/vault.yml"]["secret"] and any(line.startswith("to do") for line in printed)


def test_an_address_that_the_inventory_knows_stays(run):
    result, _printed = run(host(), folder=HERE, connection={"ansible_host": "198.51.100.7"})
    assert yaml.safe_load(result["files"][0]["content"])["all"]["hosts"]["calls1"] == {"ansible_host": "198.51.100.7"}


def test_a_release_is_read_without_a_host(run):
    result, printed = run(release="calls", namespace="rtc", objects=release_objects())
    assert result["variables"]["livekit_kubernetes_namespace"] == "rtc" and SECRET not in "\n".join(printed)
    again, _printed = run(release="calls", namespace="rtc", values={**VALUES, "image": {"tag": "v1.9.0"}})
    assert again["variables"]["livekit_version"] == result["variables"]["livekit_version"]


@pytest.mark.parametrize("answer, code", [
    (host(slots=["livekit-slot-1"]), "adopted_already"),
    (host(files={"livekit.yaml": "keys: {a: [" + SECRET}), "adopt_config"),
    ({**host(), "files": {f"{HERE}/livekit.yaml": LIVEKIT}}, "adopt_folder"),
    ({"failed": True, "msg": "x", "failure": {"tried": "ask Docker", "on": "/run/x", "got": "no", "fix": "start it", "code": "docker_unreachable"}},
     "docker_unreachable"),
])
def test_what_cannot_be_read_is_refused_without_a_word_of_the_files(run, answer, code):
    result, printed = run(answer, folder=HERE)
    assert result["failed"] and result["failure"]["code"] == code and printed == [] and SECRET not in str(result)
