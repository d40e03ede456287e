# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The slots of a host: real files in a temporary root, systemd played by a table of unit states that records every command."""
from __future__ import annotations

import http.server
import json
import os
import threading

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.host import SlotHost
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slot_files import mask
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slots import Layout

FILES = {"config.yaml": "port: 7880\n", "keys.yaml": "key: secret\n"}


class Systemd:
    """Unit states by slot and the commands that were run, as (verb, slot, options)."""

    def __init__(self) -> None:
        self.states: dict[int, str] = {}
        self.enabled: set[int] = set()
        self.done: list[tuple[str, int]] = []
        self.stubborn = False

    def __call__(self, command):
        words = [w for w in command if not w.startswith("-")]
        units = [int(w.split("@")[1].split(".")[0]) for w in words if w.startswith("livekit-server@") and "*" not in w]
        if words[0] != "systemctl" or words[1] == "list-units":
            return 0, "\n".join(f"livekit-server@{n}.service loaded" for n in self.states), ""
        if words[1] == "show":
            if "--value" in command:
                return 0, self.states.get(units[0], "inactive") + "\n", ""
            return 0, "\n\n".join(self._block(n) for n in units), ""
        self.done.append((words[1], units[0]))
        if words[1] == "stop":
            self.states[units[0]] = "deactivating" if self.stubborn else "inactive"
        elif words[1] == "kill":
            self.states[units[0]] = "failed"
        elif words[1] in ("enable", "disable"):
            (self.enabled.add if words[1] == "enable" else self.enabled.discard)(units[0])
        return 0, "", ""

    def _block(self, n):
        return f"Id=livekit-server@{n}.service\nActiveState={self.states.get(n, 'inactive')}\nMainPID=0\nActiveEnterTimestamp=\n" \
               f"UnitFileState={'enabled' if n in self.enabled else 'disabled'}"


@pytest.fixture
def systemd():
    return Systemd()


@pytest.fixture
def host(tmp_path, systemd, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1)  # no such user as livekit here
    binary = tmp_path / "opt/1.13.5/livekit-server"
    binary.parent.mkdir(parents=True)
    binary.write_text("")
    return SlotHost(systemd, Layout(count=2), config_dir=str(tmp_path / "etc"), state_dir=str(tmp_path / "var"), opt_dir=str(tmp_path / "opt"))


def test_a_bare_host_has_only_free_slots(tmp_path):
    bare = SlotHost(lambda command: (127, "", "no systemctl"), Layout(), config_dir=str(tmp_path), state_dir=str(tmp_path))
    assert [(s.slot, s.label, s.generation) for s in bare.observe()] == [(1, "free", None), (2, "free", None), (3, "free", None)]


def test_written_files_are_private_and_recorded(host, tmp_path):
    host.write(1, "abc", "1.13.5", FILES)
    base = tmp_path / "etc/1"
    assert (base / "keys.yaml").stat().st_mode & 0o777 == 0o640 and base.stat().st_mode & 0o777 == 0o750
    assert os.readlink(base / "server") == str(tmp_path / "opt/1.13.5/livekit-server")
    slot = host.observe()[0]
    assert (slot.generation, slot.version, slot.intact, slot.gate) == ("abc", "1.13.5", True, None)


def test_a_file_changed_by_hand_is_seen(host, tmp_path):
    host.write(1, "abc", "1.13.5", FILES)
    (tmp_path / "etc/1/config.yaml").write_text("port: 1\n")
    assert not host.observe()[0].intact


def test_a_key_file_that_everybody_can_read_is_named(host, tmp_path):
    host.write(1, "abc", "1.13.5", FILES)
    (tmp_path / "etc/1/keys.yaml").chmod(0o644)
    assert host.observe()[0].exposed == (str(tmp_path / "etc/1/keys.yaml"),)


def test_writing_a_generation_takes_the_gate_mark_away(host):
    host.shelf.set_gate(1, "old")
    host.write(1, "new", "1.13.5", FILES)
    assert host.observe()[0].gate is None


def test_a_version_that_is_not_installed_writes_nothing(host, tmp_path):
    with pytest.raises(FleetError) as caught:
        host.write(1, "abc", "9.9.9", FILES)
    assert caught.value.failure["code"] == "release_absent" and not (tmp_path / "etc/1").exists()


def test_a_full_disk_leaves_the_slot_as_it_was(host, tmp_path, monkeypatch):
    host.write(1, "abc", "1.13.5", FILES)

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(host.shelf, "_put", full)
    with pytest.raises(FleetError, match="No space left") as caught:
        host.write(1, "new", "1.13.5", FILES)
    assert caught.value.failure["code"] == "write_failed"
    assert host.observe()[0].generation == "abc" and os.listdir(tmp_path / "etc") == ["1"]


@pytest.mark.parametrize("state, signals", [("active", 1), ("activating", 1), ("deactivating", 0), ("inactive", 0), ("failed", 0)])
def test_only_a_running_node_gets_the_one_signal(host, systemd, state, signals):
    systemd.states[1], systemd.enabled = state, {1}
    host.drain(1)
    assert [verb for verb, dummy in systemd.done].count("stop") == signals
    assert 1 not in systemd.enabled, "a draining slot must not come back at boot"


def test_draining_twice_signals_once(host, systemd):
    systemd.states[1], systemd.stubborn = "active", True
    assert host.drain(1) and not host.drain(1)
    assert systemd.done.count(("stop", 1)) == 1


def test_a_slot_in_service_is_never_discarded(host, systemd):
    host.write(1, "abc", "1.13.5", FILES)
    host.serve(1, "abc")
    systemd.states[1] = "active"
    with pytest.raises(FleetError) as caught:
        host.discard(1)
    assert caught.value.failure["code"] == "slot_serving" and ("stop", 1) not in systemd.done


def test_a_broken_node_that_ignores_the_signal_is_killed_once(host, systemd):
    host.write(1, "abc", "1.13.5", FILES)
    systemd.states[1], systemd.stubborn = "active", True
    host.discard(1, timeout=0.3)
    assert [verb for verb, dummy in systemd.done] == ["disable", "stop", "kill", "reset-failed"]


def test_static_check_judges_by_words_not_by_exit_code(host, systemd):
    host.run = lambda command: (0, "", "could not parse config: yaml: field nope not found in type config.Config")
    with pytest.raises(FleetError, match="nope") as caught:
        host.static_check(1)
    assert caught.value.failure["code"] == "static_check"


def test_the_static_check_sees_no_environment_that_would_override_the_file(host):
    seen = []
    host.run = lambda command: (seen.append(command), (0, "TCP Ports\n7880", ""))[1]
    host.static_check(1)
    assert seen[0][:2] == ["env", "-i"]


def test_generation_json_that_is_no_json_counts_as_none(host, tmp_path):
    host.write(1, "abc", "1.13.5", FILES)
    (tmp_path / "etc/1/generation.json").write_text("{")
    assert host.observe()[0].generation is None


def test_a_slot_beyond_the_layout_that_still_runs_is_seen(host, systemd):
    systemd.states[7] = "deactivating"
    assert [(s.slot, s.label) for s in host.observe()] == [(1, "free"), (2, "free"), (7, "draining")]


def test_secrets_are_masked():
    text = mask("redis:\n  password: abc\n  sentinel_password: def\n  - secret: ghi\nport: 1\n")
    assert "abc" not in text and "def" not in text and "ghi" not in text and "port: 1" in text


def test_meta_names_the_digest_of_each_file(host, tmp_path):
    host.write(1, "abc", "1.13.5", FILES)
    assert set(json.loads((tmp_path / "etc/1/generation.json").read_text())["files"]) == set(FILES)


def test_a_discarded_node_on_which_callers_landed_is_left_to_drain(host, systemd, monkeypatch):
    host.write(1, "abc", "1.13.5", FILES)
    systemd.states[1], systemd.stubborn = "active", True
    monkeypatch.setattr(host, "measure", lambda n: {"http": 200, "node_id": "ND_1", "rooms": 1, "participants": 2})
    host.discard(1, timeout=0.3)
    assert ("stop", 1) in systemd.done and ("kill", 1) not in systemd.done


def test_systemd_that_does_not_answer_is_never_taken_for_free_slots(host):
    host.run = lambda command: (1, "", "Failed to connect to bus") if "show" in command else (0, "", "")
    with pytest.raises(FleetError, match="connect to bus"):
        host.observe()


def test_a_port_that_somebody_else_answers_on_stops_the_start(host, systemd, tmp_path):
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host.layout = Layout(count=2, signal=server.server_port)
    with pytest.raises(FleetError) as caught:
        host.start(1)
    server.shutdown()
    assert caught.value.failure["code"] == "port_taken" and ("start", 1) not in systemd.done
