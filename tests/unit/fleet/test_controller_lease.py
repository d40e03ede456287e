# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of several controllers leads, and how long a cluster is without one."""
from __future__ import annotations

import json
import time
import typing as t

import pytest
from controller_sample import registry

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller import lease as module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.lease import Lease, controllers


def until(happens: t.Callable[[], t.Any], timeout: float = 8.0) -> float:
    """Seconds until it happens."""
    begin = time.monotonic()
    while not happens():
        if time.monotonic() - begin > timeout:
            pytest.fail(f"it did not happen within {timeout} s")
        time.sleep(0.02)
    return time.monotonic() - begin


@pytest.fixture
def make(redis_server: t.Callable[..., t.Any]) -> t.Iterator[t.Callable[..., Lease]]:
    server, made = redis_server(), []

    def build(name: str, **more: t.Any) -> Lease:
        made.append(Lease(registry(server), name, **more))
        return made[-1]

    build.server = server  # type: ignore[attr-defined]
    yield build
    for one in made:
        if one._thread.is_alive():
            one.stop()


def test_one_of_two_leads_and_both_are_listed(make: t.Callable[..., Lease]) -> None:
    a, b = make("a"), make("b")
    a.step()
    assert b.step() <= module.RENEW
    assert (a.held, b.held) == (True, False)
    assert a.age < 1 and b.age == 0
    listed = controllers(registry(make.server))  # type: ignore[attr-defined]
    assert {name: c["leader"] for name, c in listed.items()} == {"a": True, "b": False}


def test_a_dead_leader_is_followed_within_its_expiry(make: t.Callable[..., Lease]) -> None:
    a, b = make("a"), make("b")
    a.step()  # and never again: it was killed
    b.start()
    took = until(lambda: b.held)
    assert 2.5 < took < 5.0
    assert not a.held


def test_a_leader_that_stops_is_followed_at_once(make: t.Callable[..., Lease]) -> None:
    heard: list[dict[str, t.Any]] = []
    a, b = make("a", tell=heard.append), make("b")
    a.start()
    until(lambda: a.held)
    b.start()
    a.stop()
    assert not a.held
    assert until(lambda: b.held) < 2.5
    assert [entry["kind"] for entry in heard] == ["lead"]


def test_a_leader_that_is_restarted_leaves_the_lease_to_the_other(make: t.Callable[..., Lease]) -> None:
    """It does not know what ran where, the other one does."""
    a, b = make("a"), make("b")
    a.step()
    a.lock.release()
    b.step()
    b.lock.release()  # free, and its holder was there a moment ago
    again = make("a")
    assert again.step() < 0.5 and not again.held
    again.begun -= module.YOUNG
    again.step()
    assert again.held


def test_without_redis_nobody_leads_and_then_one_does_again(make: t.Callable[..., Lease]) -> None:
    heard: list[dict[str, t.Any]] = []
    a = make("a", tell=heard.append)
    a.start()
    until(lambda: a.held)
    make.server.client.execute_command("CLIENT", "PAUSE", 4500, "ALL")  # type: ignore[attr-defined]
    assert until(lambda: not a.held) < 4.5
    until(lambda: a.held)
    until(lambda: [e["kind"] for e in heard] == ["lead", "follow", "lead"])


def test_a_dry_run_never_keeps_a_real_one_from_leading(make: t.Callable[..., Lease]) -> None:
    dry, real = make("dry", dry_run=True), make("real")
    dry.step()
    real.step()
    assert dry.held and real.held


def test_a_lease_taken_away_ends(make: t.Callable[..., Lease]) -> None:
    a = make("a")
    a.step()
    make.server.client.set(module.KEY, json.dumps({"owner": "controller@b", "token": 99}))  # type: ignore[attr-defined]
    a.step()
    assert not a.held
