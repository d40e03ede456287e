# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module kubernetes_gate against a real Redis: when the nodes of a generation count as there."""
from __future__ import annotations

import time

import pytest

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.generation import Slot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import HOSTS, HostReport
from ansible_collections.openrtc.livekit.plugins.modules import kubernetes_gate

NEW, OLD = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
NAME = f"livekit-s2-{NEW}"


@pytest.fixture
def cluster(redis_server, run_module):
    """cluster(**options) -> result. OLD serves in slot 1 on two machines, NEW stands in slot 2 beside it."""
    server = redis_server()

    def report(machine, age=-60.0, **fields):
        slots = (Slot(1, state="active", generation=OLD, gate=OLD, pid=1, node_id=f"ND_old_{machine}", http=200),
                 Slot(2, **{"state": "active", "generation": NEW, "pid": 2, "node_id": f"ND_new_{machine}", "http": 200, **fields}))
        server.client.hset(HOSTS, machine, HostReport(machine, "10.0.0.1", time.time() - age, slots, {1: 7880, 2: 7890}).as_json())

    def ask(check=False, **options):
        given = {"redis": {"address": server.address}, "name": NAME, "machines": ["node1", "node2"], "timeout": 0.2, **options}
        return run_module(kubernetes_gate.main, given, check=check)

    for machine in ("node1", "node2"):
        report(machine)
        for age in ("old", "new"):
            server.add_node(f"ND_{age}_{machine}")
    ask.report, ask.server = report, server
    return ask


def test_nodes_that_answer_and_are_registered_pass(cluster):
    found = cluster()
    assert [(n["node_id"], n["machine"], n["url"]) for n in found["nodes"]] == [
        ("ND_new_node1", "node1", "http://10.0.0.1:7890"), ("ND_new_node2", "node2", "http://10.0.0.1:7890")]
    assert sorted(n["node_id"] for n in found["others"][f"livekit-s1-{OLD}"]) == ["ND_old_node1", "ND_old_node2"]


@pytest.mark.parametrize("spoil", [
    lambda c: c.report("node2", age=30),  # its executor is silent
    lambda c: c.report("node2", http=406),
    lambda c: c.report("node2", state="deactivating"),
    lambda c: c.report("node2", node_id=None),
    lambda c: c.report("node2", generation=OLD),
    lambda c: c.server.add_node("ND_new_node2", age=30),  # nobody refreshes it
    lambda c: c.server.client.hdel("nodes", "ND_new_node2"),
])
def test_a_machine_without_such_a_node_is_named(cluster, spoil):
    spoil(cluster)
    failure = cluster()["failure"]
    assert failure["code"] == "gate_registry" and failure["machines"] == ["node2"]


def test_check_mode_waits_for_nothing(cluster):
    cluster.report("node2", http=406)
    assert [n["fresh"] for n in cluster(check=True, timeout=60)["nodes"]] == [True, False]


def test_balancers_that_cannot_be_asked_fail_the_gate(cluster):
    failure = cluster(gate="balancer", pages=["http://127.0.0.1:9/;csv"], password="not-to-be-told")["failure"]
    assert failure["code"] == "balancer_stats" and "not-to-be-told" not in str(failure)


def test_without_balancers_there_is_nothing_to_wait_for(cluster):
    assert len(cluster(gate="balancer")["nodes"]) == 2
