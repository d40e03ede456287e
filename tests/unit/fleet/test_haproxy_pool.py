# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that come and go in a running HAProxy with the role's own configuration."""
from __future__ import annotations

import re
import time

import pytest
from haproxy_sample import NODES, Balancer, Nodes, lives

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.balancers.haproxy_pool import Pool, Seen, Wanted, commands, parse_servers, wanted
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.generation import Slot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import HostReport, Reports
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slots import Layout

ONE, TWO, THREE = NODES


class Empty(Balancer):
    """As in a pod: no server is configured."""

    up = 503

    def render(self, nodes):
        super().render(nodes)
        path = self.home / "haproxy.cfg"
        path.write_text(re.sub(r"(?m)^    server sfu.*\n", "", path.read_text()))


def slot(state="active", number=1, gate="g"):
    return Slot(number, state=state, generation="g", gate=gate)


def report(host, address, port, *slots, at=1000.0):
    return HostReport(host, address, at, tuple(slots), {s.slot: port for s in slots})


# --- what is to be ----------------------------------------------------------------------------------------------------

def test_only_nodes_that_passed_their_gate_are_servers():
    reports = Reports([report("node1", ONE, 7880, slot(), slot("deactivating", 2), slot(number=3, gate=None))])
    assert wanted(reports, Layout(), 1000.0) == {"node1-s1": Wanted(ONE, 7880, 5349, "ready"), "node1-s2": Wanted(ONE, 7880, 5359, "drain")}


def test_silent_machine_changes_nothing():
    reports = Reports([report("node1", ONE, 7880, slot("deactivating"))])
    found = wanted(reports, Layout(), 1060.0)
    assert found["node1-s1"].state == "keep"
    assert commands(found, {"livekit": {"node1-s1": Seen(ONE, 7880, "ready")}}, ["livekit"]) == []
    assert commands(found, {}, ["livekit"]) == []


def test_number_of_a_server_is_the_same_in_every_balancer():
    wish = {"b-s1": Wanted(TWO, 7880, 5349, "ready")}
    first = commands({"a-s1": Wanted(ONE, 7880, 5349, "ready"), **wish}, {}, ["livekit"])
    assert first[3:] == commands(wish, {}, ["livekit"])


def test_retiring_keys_are_offered_to_draining_nodes_too():
    wish, have = {"a-s1": Wanted(ONE, 7880, 5349, "drain")}, {"a-s1": Seen(ONE, 7880, "ready")}
    assert commands(wish, {"livekit": have, "livekit_retiring": have}, ["livekit", "livekit_retiring"]) == ["set server livekit/a-s1 state drain"]


def test_name_that_another_machine_has_now_is_removed_first():
    wish = {"a-s1": Wanted(TWO, 7880, 5349, "ready")}
    assert commands(wish, {"livekit": {"a-s1": Seen(ONE, 7880, "ready")}}, ["livekit"])[-1] == "del server livekit/a-s1"
    assert commands(wish, {}, ["livekit"])[0].startswith(f"add server livekit/a-s1 {TWO}:7880 ")


# --- a real one -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def running(tmp_path_factory):
    nodes = Nodes()
    balancer = Empty(tmp_path_factory.mktemp("pool"), nodes)
    yield balancer, nodes
    balancer.stop()


def states(balancer):
    return {name: seen.state for name, seen in parse_servers(balancer.runtime.ask("show servers state")).get("livekit", {}).items()}


def test_nodes_come_serve_drain_and_go(running):
    balancer, nodes = running
    pool = Pool(balancer.runtime, Layout())
    three = [report(f"node{n}", address, nodes.signal, slot()) for n, address in enumerate(NODES, 1)]
    assert balancer.answer("GET", "/")[0] == 503
    assert pool.sync(lambda: (Reports(three), 1000.0, {}))
    Balancer.wait(lambda: balancer.answer("GET", "/")[0] == 200)
    assert states(balancer) == {"node1-s1": "ready", "node2-s1": "ready", "node3-s1": "ready"}
    assert pool.sync(lambda: (Reports(three), 1000.0, {})) == []

    socks = {room: balancer.socket(room) for room in ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")}
    servers = {s.server for s in balancer.runtime.sessions_of(None)}
    assert len(servers) > 1
    gone = sorted(servers)[0]
    rest = [report(r.host, r.address, nodes.signal, slot("deactivating" if f"{r.host}-s1" == gone else "active")) for r in three]
    pool.sync(lambda: (Reports(rest), 1000.0, {}))
    assert states(balancer)[gone] == "drain" and all(lives(sock) for sock in socks.values())
    for number in range(30):
        balancer.socket(f"fresh{number}")
    mine = [s for s in balancer.runtime.sessions_of(None) if s.server == gone]
    assert 0 < len(mine) < len(socks)  # those from before, and no other

    left = Reports([r for r in rest if f"{r.host}-s1" != gone])
    pool.sync(lambda: (left, 1000.0, {}))
    assert all(lives(sock) for sock in socks.values()) and gone in states(balancer)  # sessions hold it
    balancer.runtime.cut(None, [gone])
    time.sleep(0.1)
    pool.sync(lambda: (left, 1000.0, {}))
    assert gone not in states(balancer) and pool.sync(lambda: (left, 1000.0, {})) == []
    pool.sync(lambda: (Reports(three), 1000.0, {}))
    Balancer.wait(lambda: states(balancer).get(gone) == "ready")


def test_weight_follows_the_cpu(running):
    balancer, nodes = running
    pool = Pool(balancer.runtime, Layout())
    report_ = report("busy", ONE, nodes.signal, Slot(1, state="active", generation="g", gate="g", node_id="ND_a"))

    def weights():
        return {name: seen.weight for name, seen in parse_servers(balancer.runtime.ask("show servers state"))["livekit"].items()}

    for share, weight in ((0.0, 100), (0.62, 40), (0.64, 40), (1.0, 10)):
        pool.sync(lambda share=share: (Reports([report_]), 1000.0, {"ND_a": share}))
        pool.sync(lambda share=share: (Reports([report_]), 1000.0, {"ND_a": share}))
        assert weights()["busy-s1"] == weight
    assert not any("busy" in sent for sent in pool.sync(lambda: (Reports([report_]), 1000.0, {"ND_a": 1.0})))
