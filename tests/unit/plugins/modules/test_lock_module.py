# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module lock against a real Redis."""
from __future__ import annotations

import time

import pytest

from ansible_collections.openrtc.livekit.plugins.modules import lock

KEY = "openrtc:lock:host:sfu1"


@pytest.fixture
def call(redis_server, run_module):
    """call(**options, check=False) -> result; call.redis is the server."""
    server = redis_server()

    def ask(check=False, **options):
        return run_module(lock.main, {"redis": {"address": server.address}, "name": "host:sfu1", **options}, check=check)

    ask.redis = server.client
    return ask


def test_held_renewed_and_released(call):
    held = call(owner="anna", ttl=60)
    assert held["changed"] and held["token"] > 0 and held["diff"] == {"before": {"holder": ""}, "after": {"holder": "anna"}}
    assert 50_000 < call.redis.pttl(KEY) <= 60_000
    again = call(owner="anna", ttl=600, token=held["token"])
    assert not again["changed"] and again["token"] == held["token"] and call.redis.pttl(KEY) > 500_000
    assert call(state="released", token=held["token"])["changed"] and not call.redis.exists(KEY)
    assert not call(state="released", token=held["token"])["changed"]


def test_who_comes_second_is_told_who_holds_it(call):
    call(owner="anna", ttl=60)
    got = call(owner="bert")
    assert got["failed"] and got["failure"]["code"] == "locked" and got["failure"]["owner"] == "anna" and 50 < got["failure"]["expires_in"] <= 60


def test_a_lock_expires_by_itself_and_its_token_is_worth_nothing_then(call):
    first = call(owner="anna", ttl=1)
    time.sleep(1.1)
    second = call(owner="bert")
    assert second["token"] > first["token"]
    assert not call(state="released", token=first["token"])["changed"] and call.redis.exists(KEY)
    assert call(owner="anna", token=first["token"])["failure"]["code"] == "lock_lost"


def test_check_mode_takes_nothing(call):
    assert call(owner="anna", check=True)["changed"] and not call.redis.exists(KEY)
    held = call(owner="anna")
    before = call.redis.get(KEY), call.redis.get("openrtc:tokens")
    assert call(owner="bert", check=True)["failure"]["code"] == "locked"
    assert call(state="released", token=held["token"], check=True)["changed"]
    assert not call(owner="anna", token=held["token"], check=True)["changed"]
    assert (call.redis.get(KEY), call.redis.get("openrtc:tokens")) == before


def test_bad_options(call):
    assert call()["failed"] and call(state="released")["failed"] and call(owner="anna", ttl=0)["failed"]
