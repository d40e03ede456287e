# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be true of a deployment in a cluster, asked of its API past everything of ours."""
from __future__ import annotations

import base64
import json
import os
import pathlib
import subprocess

import pytest

LAB = pathlib.Path(os.environ["LAB_INVENTORY"]).parent
WANT = json.loads(os.environ["LIVEKIT_EXPECTED"])


def kubectl(*words: str) -> str:
    return subprocess.run([LAB / "kubectl", "--kubeconfig", LAB / "kubeconfig", "-n", "livekit", *words], check=True, capture_output=True, text=True).stdout


def items(kind: str, component: str = "") -> list[dict]:
    return json.loads(kubectl("get", kind, "-o", "json", *(["-l", f"app.kubernetes.io/component={component}"] if component else [])))["items"]


@pytest.fixture(scope="module")
def nodes() -> list[dict]:
    return items("pods", "server")


def test_one_node_per_machine_of_one_generation(nodes: list[dict]) -> None:
    assert len(nodes) == WANT["nodes"] == len({pod["spec"]["nodeName"] for pod in nodes})
    labels = [pod["metadata"]["labels"] for pod in nodes]
    assert {label["openrtc.livekit/version"] for label in labels} == {WANT["version"]} and len({label["openrtc.livekit/generation"] for label in labels}) == 1
    assert {label.get("openrtc.livekit/serving") for label in labels} == {"true"}
    assert len(items("deployments", "server")) == 1


def test_nothing_was_restarted_but_what_crashed(nodes: list[dict]) -> None:
    assert sum(status["restartCount"] for pod in nodes for status in pod["status"]["containerStatuses"]) == WANT.get("crashes", 0)


def test_a_node_may_do_nothing_that_it_need_not(nodes: list[dict]) -> None:
    for pod in nodes:
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] and container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["spec"]["securityContext"]["runAsNonRoot"] and pod["spec"]["automountServiceAccountToken"] is False
        assert not pod["spec"].get("hostPID")


def test_secrets_are_in_secrets_and_nowhere_else() -> None:
    files = [base64.b64decode(secret["data"]["keys.yaml"]).decode() for secret in items("secrets", "server")]
    (secret, *_more) = {text.split(": ")[1].strip().strip('"') for text in files}
    for kind in ("pods", "deployments", "daemonsets", "configmaps", "statefulsets"):
        assert secret not in kubectl("get", kind, "-o", "json"), kind


def test_every_haproxy_sends_callers_to_every_node(nodes: list[dict]) -> None:
    slot = nodes[0]["metadata"]["labels"]["openrtc.livekit/slot"]
    ask = ("import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock'); s.sendall(b'show servers state livekit\\n');"
           "print(b''.join(iter(lambda: s.recv(65536), b'')).decode())")
    for proxy in items("pods", "haproxy"):
        if proxy["metadata"].get("deletionTimestamp"):
            continue
        said = kubectl("exec", proxy["metadata"]["name"], "-c", "executor", "--", "python3", "-c", ask)
        rows = [line.split() for line in said.splitlines() if line[:1].isdigit() and len(line.split()) > 6]
        assert {row[3] for row in rows if row[5] == "2"} == {f"{pod['spec']['nodeName']}-s{slot}" for pod in nodes}
