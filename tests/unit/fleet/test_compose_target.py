# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compose.yaml of a slot, and what can be said against its settings."""
from __future__ import annotations

import pytest
import yaml
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slots import Layout
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import compose

IMAGE = "livekit/livekit-server:v1.13.5"


def made(slot=2, address="10.0.0.1", **settings):
    wanted = compose.files(compose.Settings(image=IMAGE, **settings), Layout().ports(slot), generation="abc", version="1.13.5",
                           directory=f"/etc/livekit/slots/{slot}", address=address, user="997:996", server=["/livekit-server"])
    text = config.to_yaml(wanted)
    assert yaml.safe_load(text) == wanted, "the text means the mapping"
    return wanted["services"]["livekit"]


def test_a_container_may_do_nothing_that_it_need_not():
    service = made()
    assert service["user"] == "997:996" and service["read_only"] and service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"] and service["pids_limit"] and "privileged" not in service
    assert made(privileged_ports=True)["cap_add"] == ["NET_BIND_SERVICE"]


def test_secrets_are_files_and_nothing_else():
    service = made()
    assert "environment" not in service and "env_file" not in service
    assert [(v["source"], v["read_only"]) for v in service["volumes"]] == [("/etc/livekit/slots/2", True)]


def test_it_ends_by_one_signal_however_long_its_calls_last():
    service = made()
    assert service["stop_signal"] == "SIGTERM" and int(service["stop_grace_period"].rstrip("s")) > 365 * 86400
    assert service["restart"] == "unless-stopped" and service["entrypoint"] == ["sh", "/etc/livekit/slots/2/init"]


def test_logs_are_limited():
    assert made(log_size="5m", log_files=2)["logging"]["options"] == {"max-size": "5m", "max-file": "2"}


@pytest.mark.parametrize("address, url", [("10.0.0.1", "http://10.0.0.1:7890/"), ("fd00::1", "http://[fd00::1]:7890/")])
def test_health_takes_a_node_without_redis_for_alive(address, url):
    command = made(address=address)["healthcheck"]["test"][1]
    assert url in command and "200|406" in command and "health" not in url


def test_a_container_says_what_it_is():
    assert made()["labels"] == {"openrtc.livekit.slot": "2", "openrtc.livekit.generation": "abc", "openrtc.livekit.version": "1.13.5"}


def test_only_what_calls_could_notice_makes_another_generation():
    base = compose.Settings(image=IMAGE).identity()
    assert compose.Settings(image=IMAGE, log_files=9, pids=100, socket="/other").identity() == base
    assert compose.Settings(image=IMAGE + "x").identity() != base and compose.Settings(image=IMAGE, nofile=1).identity() != base


@pytest.mark.parametrize("image, code", [
    (IMAGE, None), ("registry.example.org:5000/a/livekit@sha256:" + "0" * 64, None), ("registry:5000/livekit", "image_floating"),
    ("livekit/livekit-server", "image_floating"), ("livekit/livekit-server:latest", "image_floating"), ("", "image_name"), ("a b", "image_name")])
def test_images(image, code):
    assert [p.code for p in compose.Settings(image=image).problems()] == ([code] if code else [])


def test_a_project_must_take_a_number_behind_it():
    assert [p.code for p in compose.Settings(image=IMAGE, project="Live Kit").problems()] == ["project_name"]


def test_settings_that_are_none_are_told():
    for wrong in ({"imag": "x"}, {"nofile": "many"}):
        with pytest.raises(FleetError) as caught:
            compose.Settings.from_mapping(wrong)
        assert caught.value.failure["code"] == "compose_settings"
    assert compose.Settings.from_mapping({"nofile": "7", "image": None, "privileged_ports": "true"}) == compose.Settings(nofile=7, privileged_ports=True)
