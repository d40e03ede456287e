# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be true of the hosts of either scenario, seen past Ansible."""
from __future__ import annotations

import json
import os
import time

import pytest

WANT = json.loads(os.environ["LIVEKIT_EXPECTED"])
SLOT, VERSION = WANT["slot"], WANT["version"]
SIGNAL, ICE_TCP, METRICS, UDP = (base + step * (SLOT - 1) for base, step in ((7880, 10), (7881, 10), (6789, 10), (50000, 100)))
server, redis = (pytest.mark.group(f"livekit_{name}") for name in ("server", "redis"))


def states(host) -> dict[int, str]:
    """{slot: ActiveState} of the units systemd knows."""
    lines = host.check_output("systemctl list-units --all --plain --no-legend 'livekit-server@*'").splitlines()
    return {int(line.split("@")[1].split(".")[0]): line.split()[2] for line in lines}


def test_nothing_failed(host) -> None:
    assert host.run("systemctl --failed --plain --no-legend").stdout == ""


@server
def test_one_slot_runs_the_wanted_version_and_the_old_one_ended_by_itself(host) -> None:
    end = time.time() + 60  # calls that ended just now: LiveKit looks every 5 s whether it is empty
    while time.time() < end and [n for n, state in states(host).items() if state not in ("inactive", "failed")] != [SLOT]:
        time.sleep(1)
    assert {n: state for n, state in states(host).items() if state != "inactive"} == {SLOT: "active"}
    assert host.service(f"livekit-server@{SLOT}").is_enabled
    pid = host.check_output(f"systemctl show -p MainPID --value livekit-server@{SLOT}")
    assert host.check_output(f"readlink /proc/{pid}/exe") == f"/opt/livekit/{VERSION}/livekit-server"
    assert host.check_output(f"systemctl show -p NRestarts --value livekit-server@{SLOT}") == "0"


@server
def test_the_node_listens_on_the_ports_of_its_slot(host) -> None:
    for socket in (f"tcp://0.0.0.0:{ICE_TCP}", f"tcp://:::{SIGNAL}", f"tcp://:::{METRICS}"):
        assert host.socket(socket).is_listening or host.socket(socket.replace(":::", "0.0.0.0:")).is_listening, socket
    vcpus = int(host.check_output("nproc"))
    udp = {int(line.split()[3].rsplit(":", 1)[1]) for line in host.check_output("ss -Hlun").splitlines()}
    assert set(range(UDP, UDP + vcpus)) <= udp, "one UDP port per CPU"


@server
def test_the_node_runs_unprivileged_and_its_secrets_are_private(host) -> None:
    pid = host.check_output(f"systemctl show -p MainPID --value livekit-server@{SLOT}")
    status = host.check_output(f"cat /proc/{pid}/status")
    assert "NoNewPrivs:\t1" in status and "CapEff:\t0000000000000000" in status
    assert host.check_output(f"stat -c %U /proc/{pid}") == "livekit"
    for name in ("config.yaml", "keys.yaml", "generation.json"):
        file = host.file(f"/etc/livekit/slots/{SLOT}/{name}")
        assert (file.user, file.group, file.mode) == ("root", "livekit", 0o640), name
    assert "secret" not in host.check_output(f"tr '\\0' ' ' </proc/{pid}/cmdline")


@server
@pytest.mark.parametrize("slot, answer", [(SLOT, "up ready"), (3 - SLOT, "down"), (9, "down")])
def test_the_agent_check_tells_the_balancer_which_slot_serves(host, slot, answer) -> None:
    ask = f"import socket; s = socket.create_connection(('127.0.0.1', 7870), 5); s.sendall(b'{slot}\\n'); print(s.recv(99).decode())"
    assert host.check_output(f'python3 -c "{ask}"').startswith(answer)


@server
def test_only_wanted_releases_are_installed(host) -> None:
    found = set(host.check_output("ls /opt/livekit").split())
    assert VERSION in found and "1.13.98" not in found


@redis
def test_redis_wants_a_password_and_keeps_its_own_secrets(host) -> None:
    assert "NOAUTH" in host.run("redis-cli ping").stdout + host.run("redis-cli ping").stderr
    for name in host.check_output("find /etc/redis -name 'livekit*' -type f").split():
        assert host.file(name).mode & 0o007 == 0, name
