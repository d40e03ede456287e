# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What slot_info tells about the generation in a slot: the variables it was made from, the keys its node accepts, since when it is good."""
from __future__ import annotations

import os
import time

import pytest

from ansible_collections.openrtc.livekit.plugins.module_utils import _slot_module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config, generation, rollback
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.host import SlotHost
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slots import Layout
from ansible_collections.openrtc.livekit.plugins.modules import slot_info

SECRET = "s" * 40
MODEL = {"livekit_version": "1.13.5", "livekit_keys": {"APIold": SECRET, "a b:c": 'q"uote'}}
ASK = {"keys": {}, "config": False, "model": "none"}


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host whose slot 1 holds a generation; systemd knows of nothing."""
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    binary = tmp_path / "opt/1.13.5/livekit-server"
    binary.parent.mkdir(parents=True)
    binary.write_text("")
    found = SlotHost(lambda command: (127, "", ""), Layout(count=2), config_dir=str(tmp_path / "etc"), state_dir=str(tmp_path / "var"),
                     opt_dir=str(tmp_path / "opt"))
    found.write(1, "abc", "1.13.5", {"keys.yaml": config.to_yaml(MODEL["livekit_keys"]), "model.json": rollback.record(MODEL)})
    return found


def row(host, state="inactive", **options):
    return slot_info.as_row(host, generation.Slot(1, state=state), {**ASK, **options})


def test_the_keys_of_a_running_node_are_named_and_their_secrets_are_not(host):
    found = row(host, "active", keys={"APIold": "t" * 40, "a b:c": 'q"uote', "APInew": "n" * 40})
    assert found["api_keys"] == ["APIold", "a b:c"] and found["other_secrets"] == ["APIold"]
    assert SECRET not in str(found) and 'q"uote' not in str(found)


def test_a_slot_where_nothing_runs_accepts_no_key(host):
    assert row(host)["api_keys"] == [] and row(host, keys={"APIold": "t" * 40})["other_secrets"] == []


def test_the_variables_come_only_when_asked_for(host):
    assert "model" not in row(host)
    assert row(host, model="full")["model"] == MODEL
    assert set(row(host, model="digests")["model"]) == set(MODEL) and SECRET not in str(row(host, model="digests"))
    assert slot_info.as_row(host, generation.Slot(2), {**ASK, "model": "full"})["model"] == {}


def test_a_generation_is_good_since_its_gates(host):
    assert host.observe()[0].served_at is None
    host.shelf.set_gate(1, "abc")
    assert time.time() - 5 < host.observe()[0].served_at <= time.time()
    host.shelf.set_gate(1, "another")
    assert host.observe()[0].served_at is None


def test_a_generation_taken_from_another_slot_is_good_since_it_was_there(host):
    host.write(1, "abc", "1.13.5", {"model.json": rollback.record(MODEL, 5.0, True)})
    slot = host.observe()[0]
    assert slot.served_at == 5.0 and slot.rolled_back


def test_the_module_on_a_host_without_systemd(run_module, tmp_path, monkeypatch):
    monkeypatch.setattr(_slot_module, "_run", lambda module, command: (127, "", ""))
    got = run_module(slot_info.main, {"config_dir": str(tmp_path), "state_dir": str(tmp_path), "model": "digests"})
    assert not got["failed"] and not got["changed"] and got["slots"][0]["model"] == {} and got["slots"][0]["label"] == "free"


def test_the_module_on_a_host_that_is_no_machine_of_a_cluster(run_module, monkeypatch):
    monkeypatch.delenv("NODE_NAME", raising=False)
    failure = run_module(slot_info.main, {"target": "kubernetes"})["failure"]
    assert failure["code"] == "no_executor" and "livekit_kubernetes" in failure["fix"]
