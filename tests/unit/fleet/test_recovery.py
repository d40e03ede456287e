# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which nodes are dead: looks every quarter of a second, as the controller takes them, over made-up histories."""
from __future__ import annotations

import dataclasses

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.recovery import Watch
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry import Snapshot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import Reports
from engine_sample import NOW, node, report, slot

NAMES = "abcd"


class World:
    """Nodes refresh their entry every 2 s in whole seconds, executors report every second. Each switch says from when on that fails."""

    def __init__(self):
        self.watch = Watch()
        self.ports = dict.fromkeys(NAMES, "200")
        self.stopped = {}  # name -> since when its entry is not refreshed
        self.silent = {}  # name -> since when its host does not report
        self.slots = {n: slot(n, pid=100 + i) for i, n in enumerate(NAMES)}
        self.ended = {}  # name -> nodes that its host says have ended
        self.away = None  # since when Redis cannot be asked
        self.asked = set()

    def look(self, at):
        """The verdicts of the look `at` seconds in."""
        if self.away is not None and at >= self.away:
            return self.watch.decide(None, None, {})
        now = NOW + at
        nodes = {}
        for i, n in enumerate(NAMES):
            last = min(at, self.stopped.get(n, at))
            nodes[f"ND_{n}"] = dataclasses.replace(node(n), updated_at=int(NOW + last - (last + i * 0.5) % 2))
        hosts = [dataclasses.replace(report(f"sfu-{n}", self.slots[n], ended=self.ended.get(n, ())), at=NOW + int(min(at, self.silent.get(n, at))))
                 for n in NAMES]
        snapshot, reports = Snapshot(now, 0.0, nodes, {}, frozenset()), Reports(hosts)
        suspects = self.watch.suspects(snapshot, reports)
        self.asked = set(suspects)
        return self.watch.decide(snapshot, reports, {n: self.ports[n[3:]] for n in suspects})

    def until(self, end, begin=0.0):
        """{node: when it was first called dead} in that time."""
        found, at = {}, begin
        while at < end:
            for verdict in self.look(at):
                if verdict.dead:
                    found.setdefault(verdict.node_id, (at, verdict))
            at += 0.25
        return found


def calm(seconds=10):
    world = World()
    assert world.until(seconds) == {}
    return world


def test_good_health_needs_no_probe():
    assert calm().asked == set()


def test_a_killed_process_is_dead_at_once():
    world = calm()
    world.slots["b"], world.ports["b"], world.stopped["b"] = slot(None), "refused", 10
    at, verdict = world.until(12, 10)["ND_b"]
    assert at == 10 and verdict.reason == "dead" and verdict.signals == ["sfu-b no longer runs it", "its port: refused"]


def test_a_killed_process_that_systemd_starts_again():
    """The new node has the slot and the port; the entry of the old one goes stale."""
    world = calm()
    world.slots["b"], world.stopped["b"] = slot("new", pid=999), 10
    found = world.until(20, 10)
    assert list(found) == ["ND_b"] and 12 < found["ND_b"][0] < 15
    world = calm()
    world.slots["b"], world.stopped["b"], world.ports["b"] = slot(None, "activating", pid=None), 10, "refused"
    assert world.until(11, 10)["ND_b"][0] == 10


def test_a_process_that_was_killed_before_we_looked():
    """A controller that was just started never saw it in its slot, where another node runs by now. Its host still knows."""
    world = World()
    world.slots["b"], world.stopped["b"] = slot("new", pid=999), -5
    assert world.until(20) == {}
    world.ended["b"] = ("ND_b",)
    assert list(world.until(21, 20)) == ["ND_b"]
    world = World()
    world.slots["b"], world.ended["b"] = slot("new", pid=999), ("ND_b",)
    assert world.until(10) == {}, "its entry is refreshed, so something is odd with the host's word"


def test_a_process_that_only_lost_its_name_lives():
    """An executor that was just started does not know yet which node the process is."""
    world = calm()
    world.slots["b"] = slot(None, "deactivating", pid=101)
    world.ports["b"] = "timeout"
    assert world.until(14, 10) == {}


def test_a_stall_of_redis_kills_nobody():
    for stall in (3, 4, 4.9, 60):
        world = calm()
        world.stopped, world.silent = dict.fromkeys(NAMES, 10.0), dict.fromkeys(NAMES, 10.0)
        assert world.until(10 + stall, 10) == {}
        world.stopped, world.silent = {}, {}
        assert world.until(20 + stall, 10 + stall) == {}


def test_redis_down_for_minutes_and_back():
    """All health checks say 406 meanwhile. Back again, nodes and hosts report at different times."""
    world = calm()
    world.ports = dict.fromkeys(NAMES, "406")
    world.away = 10
    assert world.until(200, 10) == {}
    world.away = None
    world.stopped = {"a": 10, "b": 10, "c": 10}
    world.silent = dict.fromkeys(NAMES, 10)
    assert world.until(202, 200) == {}
    world.silent = {"b": 10}
    assert world.until(203, 202) == {}
    world.stopped = world.silent = {}
    assert world.until(220, 203) == {}


def test_a_death_during_the_outage_is_seen_afterwards():
    world = calm()
    world.away = 10
    world.until(20, 10)
    world.away, world.slots["b"], world.ports["b"], world.stopped["b"] = None, slot(None), "refused", 15
    found = world.until(30, 20)
    assert list(found) == ["ND_b"] and found["ND_b"][0] == 24


def test_a_hung_process():
    world = calm()
    world.ports["b"], world.stopped["b"] = "timeout", 10
    found = world.until(20, 10)
    assert list(found) == ["ND_b"] and 13 < found["ND_b"][0] < 17.5


def test_a_pause_of_three_seconds_is_no_death():
    world = calm()
    world.ports["b"], world.stopped["b"] = "timeout", 10
    assert world.until(13, 10) == {}
    world.ports["b"], world.stopped = "200", {}
    assert world.until(25, 13) == {}


def test_a_host_that_is_gone():
    for answer in ("timeout", "unreachable"):
        world = calm()
        world.ports["b"], world.stopped["b"], world.silent["b"] = answer, 10, 10
        found = world.until(20, 10)
        assert list(found) == ["ND_b"] and found["ND_b"][0] < 14
        assert len(found["ND_b"][1].signals) >= 2


def test_a_host_cut_off_from_redis_only():
    """Its ports answer us, so calls go on there."""
    world = calm()
    world.stopped["b"], world.silent["b"] = 10, 10
    world.ports["b"] = "406"
    assert world.until(60, 10) == {}


def test_an_executor_that_is_gone():
    world = calm()
    world.silent["b"] = 10
    assert world.until(60, 10) == {}


def test_a_slow_node():
    """Its entry comes late now and then, its port answers, if slowly."""
    world = calm()
    world.stopped["b"] = 10
    assert world.until(14, 10) == {}
    world.ports["b"] = "timeout"
    assert world.until(15, 14) == {}
    world.ports["b"], world.stopped = "200", {}
    assert world.until(30, 15) == {}


def test_a_controller_that_reaches_no_port():
    """Redis it reaches. A stall makes everybody odd, no port answers: that is us."""
    world = calm()
    world.ports = dict.fromkeys(NAMES, "unreachable")
    assert world.until(20, 10) == {}
    world.stopped = {"a": 20, "b": 20.5}
    world.silent = {"a": 20, "b": 20}
    assert world.until(30, 20) == {}
    assert {"ND_a", "ND_b"} < world.asked, "healthy nodes were asked too"


def test_two_of_four_hosts_at_once():
    world = calm()
    for name in "bc":
        world.ports[name], world.stopped[name], world.silent[name] = "timeout", 10, 10
    assert set(world.until(20, 10)) == {"ND_b", "ND_c"}


def test_nobody_is_judged_in_the_first_seconds():
    world = World()
    world.slots["b"], world.ports["b"], world.stopped["b"] = slot(None), "refused", -20
    assert world.until(4) == {}
    assert all(v.reason.startswith("Redis was away") for v in world.look(3.9)) and world.look(3.9)
    assert [v.node_id for v in world.look(4) if v.dead] == ["ND_b"]


def test_the_last_node_alive_is_never_called_dead_with_all_others():
    world = calm()
    for name in NAMES:
        world.slots[name], world.ports[name], world.stopped[name] = slot(None), "refused", 10
    found = world.until(13, 10)
    assert not found
