# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What targets share: one configuration for LiveKit, and the init of its containers."""
from __future__ import annotations

import base64
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from kubernetes_sample import LAYOUT, SECRET, VARIABLES, settings

from ansible_collections.openrtc.livekit.plugins.action.generation import Desired
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import init, kubernetes

SENTINEL = {"sentinel_master_name": "livekit", "sentinel_addresses": ["10.0.0.1:26379"], "password": SECRET}
CASES = {
    "plain": {},
    "sentinel": {"livekit_redis": SENTINEL},
    "no turn": {"livekit_turn": {}},
    "turn behind a balancer": {"livekit_turn": {"enabled": True, "domain": "turn.example.org", "external_tls": True}},
    "turn without tls": {"livekit_turn": {"enabled": True, "tls_port": 0}},
    "behind NAT": {"livekit_use_external_ip": True},
    "older release": {"livekit_version": "1.9.4", "livekit_turn": {}},
    "webhook and more": {"livekit_webhook": {"urls": ["https://example.org/hook"], "api_key": "apikey"}, "livekit_region": "eu",
                         "livekit_server_config": {"room": {"empty_timeout": 60}, "node_selector": {"sort_by": "rooms"}}},
    "one controller": {"livekit_controllers": True},
}


def of_host(variables, slot, target="native"):
    """Native and Compose: the files of a slot on a host, in its directory there."""
    wanted = Desired({"model": {**variables, "livekit_address": "10.0.0.1"}, "config_dir": "/etc/livekit/slots", "peers": [], "target": target,
                      "compose": {"image": "livekit/livekit-server:v1.13.5"} if target == "compose" else {}}, LAYOUT)
    assert bool(wanted.container) == (target == "compose")
    return wanted.files(slot), f"/etc/livekit/slots/{slot}"


def of_kubernetes(variables, slot):
    chosen = settings(controller={"replicas": 2 if variables.get("livekit_controllers") else 0}, node_cidrs=["10.0.0.1/32"])
    secret = kubernetes.desired(kubernetes.Material(config.Model.from_vars(variables), chosen, LAYOUT, variables), slot)[0]
    return {name: base64.b64decode(text).decode() for name, text in secret["data"].items()}, "/etc/livekit"


@pytest.mark.parametrize("slot", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_every_target_gives_livekit_the_same_configuration(case, slot):
    """But for paths, and the address that a pod learns from NODE_IP."""
    variables = {**VARIABLES, **CASES[case]}
    found = []
    for files, directory in (of_host(variables, slot), of_host(variables, slot, "compose"), of_kubernetes(variables, slot)):
        text = files["config.yaml"].replace(f"{directory}/", "")
        config_ = yaml.safe_load(text)
        config_["rtc"].pop("node_ip", None)
        kept = {name: files[name] for name in files if name in ("keys.yaml", "turn.crt", "turn.key")}
        found.append((config_, kept))
    native, containers, pods = found
    assert native == containers == pods


# --- init -------------------------------------------------------------------------------------------------------------

NODE = """
import signal, sys, time
terms = []
def term(*_):
    terms.append(1)
    print("TERM", len(terms), flush=True)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
signal.signal(signal.SIGTERM, term)
signal.signal(signal.SIGALRM, lambda *_: sys.exit(7))
print("up", flush=True)
while True:
    time.sleep(5)
"""
SHELLS = [shell for shell in (["dash"], ["bash"], ["busybox", "sh"]) if shutil.which(shell[0])]


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_node_gets_one_sigterm_however_many_come(shell):
    process = subprocess.Popen([*shell, "-c", init.INIT, "init", sys.executable, "-c", NODE], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.03)
    assert process.communicate(timeout=10)[0] == "TERM 1\n"
    assert process.returncode == 7


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_init_ends_as_the_node_ends(shell):
    assert subprocess.run([*shell, "-c", init.INIT, "init", "sh", "-c", "exit 3"], check=False, timeout=10).returncode == 3
    assert subprocess.run([*shell, "-c", init.INIT, "init", "sh", "-c", "kill -KILL $$"], check=False, timeout=10).returncode == 137


def test_signal_before_the_node_is_up_is_not_lost():
    for pause in (0.0, 0.002, 0.005, 0.01, 0.02):
        process = subprocess.Popen(["dash", "-c", init.INIT, "init", "sleep", "20"])
        time.sleep(pause)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) in (143, -signal.SIGTERM)


def test_command_line_of_a_container():
    assert init.command("--config", "x") == ["sh", "-c", init.INIT, "init", "/livekit-server", "--config", "x"]
