# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks against a real Redis."""
from __future__ import annotations

import threading
import time

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.lock import PREFIX, TOKENS, Lock
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.move_store import MoveStore
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry import connect


@pytest.fixture
def server(redis_server):
    return redis_server()


@pytest.fixture
def registry(server):
    with connect({"address": server.address}) as found:
        yield found


def test_the_second_is_told_who_holds_it_and_for_how_long(registry):
    with Lock(registry, "move", "alice@desk pid 1", ttl=7):
        with pytest.raises(FleetError) as caught:
            Lock(registry, "move", "bob").acquire()
        with Lock(registry, "other", "bob"):
            pass
    failure = caught.value.failure
    assert failure["code"] == "locked" and failure["owner"] == "alice@desk pid 1" and 6 < failure["expires_in"] <= 7
    assert "alice@desk pid 1" in str(caught.value)


def test_tokens_grow_over_all_locks(registry):
    tokens = []
    for name in ("a", "b", "a"):
        with Lock(registry, name, "me") as lock:
            tokens.append(lock.token)
    assert tokens == sorted(set(tokens)) and lock.token == 0


def test_an_expired_lock_is_lost_and_its_release_harms_nobody(registry, server):
    late = Lock(registry, "move", "late", ttl=0.05).acquire()
    time.sleep(0.1)
    token = late.token
    with pytest.raises(FleetError) as caught:
        late.renew()
    assert caught.value.failure["code"] == "lock_lost"
    with Lock(registry, "move", "next") as held:
        late.token = token
        late.release()
        held.renew()
        assert server.client.exists(PREFIX + "move")
    assert not server.client.exists(PREFIX + "move")


def test_renewing_holds_it(registry):
    lock = Lock(registry, "move", "me", ttl=0.3).acquire()
    for _n in range(5):
        time.sleep(0.1)
        lock.renew()
    with pytest.raises(FleetError):
        Lock(registry, "move", "you").acquire()


def test_waiting_for_it(registry, server):
    held = Lock(registry, "move", "me").acquire()
    with connect({"address": server.address}) as own:
        begin = time.monotonic()
        threading.Timer(0.3, lambda: own.ask("drop", ("DEL", held.key))).start()
        assert Lock(registry, "move", "you", wait=5).acquire().token > held.token
        assert 0.25 < time.monotonic() - begin < 2
        begin = time.monotonic()
        with pytest.raises(FleetError):
            Lock(registry, "move", "third", wait=0.3).acquire()
        assert time.monotonic() - begin >= 0.3


@pytest.mark.parametrize("count", [9_999_999, 2**31, 2**40, 10**13])
def test_big_tokens_are_the_same_to_scripts(registry, server, count):
    server.client.set(TOKENS, count)
    lock = Lock(registry, "move", "me").acquire()
    assert lock.token == count + 1
    lock.renew()
    MoveStore(registry, lock).purge("ND_none")
    other = Lock(registry, "move", "me")
    other.token = count
    for refused in (other.renew, lambda: MoveStore(registry, other).purge("ND_none")):
        with pytest.raises(FleetError) as caught:
            refused()
        assert caught.value.failure["code"] == "lock_lost"
        other.token = count
    lock.release()
    assert not server.client.exists(PREFIX + "move")


def test_why_a_holder_stopped_is_not_hidden_by_redis_being_away(server):
    registry = connect({"address": server.address}, timeout=0.5)
    with pytest.raises(ZeroDivisionError), Lock(registry, "move", "me"):
        server.stop()
        raise ZeroDivisionError
