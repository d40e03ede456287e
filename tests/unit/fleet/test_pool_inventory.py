# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool of spare hosts, on the model of a cluster. What converges a host is a program that writes down its name."""
from __future__ import annotations

import os
import signal
import time

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.lock import Lock
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.orders import Orders
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.pools import FAILED, ORDERED, load
from fleet_model import Cluster, ModelNode
from pool_conformance import Conformance, code, ids


class World:
    """Three hosts serve, one is warm, two were never converged."""

    room, stranger, away = 3, "sfu9", ("redis_unreachable",)

    def __init__(self, server, folder):
        self.cluster = Cluster(server, {f"ND_{n}": (f"sfu{n}", 1) for n in (1, 2, 3, 4)}, balancers=())
        self.cluster.nodes["ND_4"].state = "gone"
        self.registry = self.cluster.registry()
        self.lock = Lock(self.registry, "scale", "me", ttl=60)
        self.folder, self.done, self.held, self.made = folder, folder / "done", False, set()
        self.pool = self.make(["sh", "-c", f"echo converged $0; echo $0 >>{self.done}", "{host}"])

    def make(self, converge):
        hosts = {f"sfu{n}": f"10.0.0.{n}" for n in range(1, 7)}
        return load({"kind": "inventory", "hosts": hosts, "directory": str(self.folder / "state"), "converge": converge}, self.registry,
                    Orders(self.registry, self.lock))

    def who(self):
        return {n.host for n in self.cluster.nodes.values() if n.alive}

    def ended(self, host):
        end = time.monotonic() + 5
        while self.pool.job(host).end is None and time.monotonic() < end:
            time.sleep(0.01)
        return self.pool.job(host)

    def settle(self):
        for host in self.pool.hosts:
            if self.pool.job(host) and host not in self.made:
                self.ended(host)
        self.cluster.come_up()
        for host in self.done.read_text().split() if self.done.exists() else ():
            if host not in self.made:
                self.made.add(host)
                with self.cluster.lock:
                    self.cluster.nodes[f"ND_{host}"] = ModelNode(f"ND_{host}", host, 1)
        end = time.monotonic() + 5
        while any(n.state == "deactivating" for n in self.cluster.nodes.values()) and time.monotonic() < end:
            time.sleep(0.02)
        self.cluster.pump()

    def hold(self):
        self.cluster.slow_start = True

    def lose(self, name):
        self.cluster.kill(next(i for i, n in self.cluster.nodes.items() if n.alive and n.host == name))
        self.cluster.pump()

    def cut(self):
        self.was = self.registry.ask
        self.registry.ask = self.unreachable

    def unreachable(self, *_args):
        raise FleetError("ask Redis", "here", "refused", "wait", code="redis_unreachable")

    def mend(self):
        self.registry.ask = self.was

    def deaf(self):
        answer = self.registry.wait_for
        self.registry.wait_for = lambda key, timeout: setattr(self.registry, "wait_for", answer) or answer(key, timeout) and None


@pytest.fixture
def world(redis_server, tmp_path):
    made = World(redis_server(), tmp_path)
    with made.cluster:
        made.lock.acquire()
        yield made


class TestInventory(Conformance):
    pass


def test_warm_hosts_come_first_and_are_not_converged(world):
    assert world.pool.add(1) == ["sfu4"] and world.pool.job("sfu4") is None
    assert world.pool.add(2) == ["sfu5", "sfu6"]
    assert world.ended("sfu5").end == world.ended("sfu6").end == 0
    assert (world.folder / "state" / "sfu5.log").read_text() == "converged sfu5\n"


def test_a_run_that_fails_is_told_and_its_host_is_free_again_once_it_was_given_back(world):
    world.pool.add(1)
    world.pool = world.make(["sh", "-c", "echo no route to $0; exit 4", "{host}"])
    assert world.pool.add(1) == ["sfu5"]
    assert world.ended("sfu5").end == 4
    assert {m.id: m.state for m in world.pool.machines()}["sfu5"] == FAILED
    assert world.pool.add(1) == ["sfu6"]
    assert world.pool.retire(["sfu5"]) == ["sfu5"] and "sfu5" not in ids(world)


def test_a_run_that_was_killed_failed(world):
    world.pool.add(1)
    world.pool = world.make(["sleep", "60"])
    world.pool.add(1)
    assert {m.id: m.state for m in world.pool.machines()}["sfu5"] == ORDERED
    job = world.pool.job("sfu5")
    os.killpg(job.pid, signal.SIGKILL)
    os.waitpid(job.pid, 0)
    assert {m.id: m.state for m in world.pool.machines()}["sfu5"] == FAILED


def test_a_run_whose_host_never_serves_failed(world, monkeypatch):
    monkeypatch.setattr("ansible_collections.openrtc.livekit.plugins.module_utils.fleet.pools.inventory.GRACE", 0.0)
    world.pool.add(2)
    world.ended("sfu5")
    assert {m.id: m.state for m in world.pool.machines()}["sfu5"] == FAILED


def test_another_scaler_knows_what_goes_on(world):
    world.pool.add(2, "one")
    again = world.make(["false"])
    assert again.add(2, "one") == ["sfu4", "sfu5"] and again.size() == world.pool.size() == 5


@pytest.mark.parametrize("settings", [{}, {"hosts": []}, {"hosts": {}}, {"hosts": {"../x": ""}}, {"hosts": {"-x": ""}}, {"hosts": {"a": ""}, "converge": "x"}])
def test_settings_that_cannot_work_are_refused(settings):
    assert code(load, {"kind": "inventory", **settings}, None, None) == "pool_settings"


def test_hosts_are_all_that_has_to_be_said(world):
    pool = load({"kind": "inventory", "hosts": {"sfu1": "10.0.0.1"}}, world.registry, None)
    assert pool.converge == ["ansible-playbook", "openrtc.livekit.deploy", "--limit", "{host}"] and ids(type("W", (), {"pool": pool})) == {"sfu1"}


def test_a_directory_that_cannot_be_written_is_told_before_anything_starts(world):
    (world.folder / "file").write_text("")
    world.pool.directory = str(world.folder / "file" / "state")
    assert code(world.pool.add, 1, "one") == "pool_refused" and world.pool.size() == 3
