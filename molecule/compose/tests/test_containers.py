# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be true of hosts that run everything in containers, asked of Docker and of the processes."""
from __future__ import annotations

import json
import os

import pytest

WANT = json.loads(os.environ["LIVEKIT_EXPECTED"])
NODE = f"livekit-slot-{WANT['slot']}"
server, edge = pytest.mark.group("livekit_server"), pytest.mark.group("livekit_balancer")


def inspect(host, name: str) -> dict:
    return json.loads(host.check_output(f"docker inspect {name}"))[0]


def names(host) -> set[str]:
    return set(host.check_output("docker ps -a --format '{{.Names}}'").split())


@server
def test_what_runs_on_a_media_host(host) -> None:
    assert names(host) == {NODE, "livekit-executor", "livekit-agent-check"}
    found = inspect(host, NODE)
    assert found["State"]["Status"] == "running" and found["RestartCount"] == 0
    assert found["Config"]["Labels"]["openrtc.livekit.version"] == WANT["version"]


@edge
def test_what_runs_on_the_balancer(host) -> None:
    assert names(host) == {"livekit-redis", "livekit-haproxy", "livekit-executor", "livekit-controller"}
    assert all(inspect(host, name)["State"]["Status"] == "running" for name in names(host))


@server
def test_a_node_may_do_nothing_that_it_need_not(host) -> None:
    found = inspect(host, NODE)
    limits = found["HostConfig"]
    assert limits["ReadonlyRootfs"] and limits["CapDrop"] == ["ALL"] and not limits["CapAdd"] and not limits["Privileged"]
    assert limits["NetworkMode"] == "host" and limits["PidsLimit"] > 0 and limits["LogConfig"]["Config"]["max-size"]
    assert limits["RestartPolicy"]["Name"] == "unless-stopped" and found["Config"]["StopTimeout"] > 365 * 86400
    status = host.check_output(f"cat /proc/{found['State']['Pid']}/status")
    assert "NoNewPrivs:\t1" in status and "CapEff:\t0000000000000000" in status
    assert host.check_output(f"stat -c %U /proc/{found['State']['Pid']}") == "livekit"


@server
def test_secrets_are_private_files_and_nowhere_else(host) -> None:
    keys = host.file(f"/etc/livekit/slots/{WANT['slot']}/keys.yaml")
    assert (keys.user, keys.group, keys.mode) == ("root", "livekit", 0o640)
    secret = keys.content_string.split(": ")[1].strip().strip('"')
    for name in names(host):
        assert secret not in json.dumps(inspect(host, name)), name
    assert secret not in host.check_output("ps axww -o args")


@server
def test_docker_shows_the_node_as_healthy(host) -> None:
    host.check_output(f"timeout 60 sh -c 'until [ \"$(docker inspect -f {{{{.State.Health.Status}}}} {NODE})\" = healthy ]; do sleep 1; done'")


@server
@pytest.mark.parametrize("slot, answer", [(WANT["slot"], "up ready"), (3 - WANT["slot"], "down"), (9, "down")])
def test_the_agent_check_tells_the_balancer_which_slot_serves(host, slot, answer) -> None:
    ask = f"import socket; s = socket.create_connection(('127.0.0.1', 7870), 5); s.sendall(b'{slot}\\n'); print(s.recv(99).decode())"
    assert host.check_output(f'python3 -c "{ask}"').startswith(answer)


@server
def test_only_the_executor_has_the_socket_of_docker(host) -> None:
    for name in names(host):
        mounted = any("docker.sock" in mount["Source"] for mount in inspect(host, name)["Mounts"])
        assert mounted == (name == "livekit-executor"), name


def test_nothing_runs_with_all_powers(host) -> None:
    for name in names(host):
        limits = inspect(host, name)["HostConfig"]
        assert limits["CapDrop"] == ["ALL"] and limits["ReadonlyRootfs"] and not limits["Privileged"], name
