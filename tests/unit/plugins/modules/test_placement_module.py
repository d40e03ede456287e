# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module placement: where rooms go, and that they are created there once."""
from __future__ import annotations

import json
import time

import pytest
from livekit.protocol import models

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement import claims
from ansible_collections.openrtc.livekit.plugins.modules import placement


@pytest.fixture(name="server")
def fixture_server(redis_server):
    server = redis_server()
    for node_id, people in (("ND_a", 10), ("ND_b", 90)):
        server.add_node(node_id, ip=f"192.0.2.{people}", num_clients=50)  # that counts signalling for rooms elsewhere too
        server.add_room(f"old-{people}", node_id)
        for n in range(people):
            server.add_participant(f"old-{people}", f"p{n}")
    server.add_room("there", "ND_b")
    return server


def ask(server, *rooms, **more):
    return {"redis": {"address": server.address}, "rooms": [r if isinstance(r, dict) else {"name": r} for r in rooms], **more}


def test_it_only_says_where(server, run_module):
    before = server.dump()
    got = run_module(placement.main, ask(server, {"name": "big", "participants": 100}, "small", "there"))
    assert not got["failed"] and not got["changed"] and server.dump() == before
    assert [(p["room"], p["node_id"], p["exists"]) for p in got["placements"]] == [("big", "ND_a", False), ("small", "ND_b", False), ("there", "ND_b", True)]
    assert got["placements"][0]["participants"] == 100 and got["placements"][0]["host"] == "192.0.2.10"
    assert got["diff"] == {"before": {}, "after": {}}


def test_rooms_are_created_once(server, run_module, twirp):
    arguments = ask(server, "new", create=True, **twirp.options)
    twirp.read_only = True
    got = run_module(placement.main, arguments, check=True)
    assert got["changed"] and got["diff"] == {"before": {}, "after": {"new": "ND_a"}} and not server.client.exists(claims.CLAIMS)
    twirp.read_only = False
    twirp.expect("CreateRoom", {"name": "new", "node_id": "ND_a"}, models.Room(name="new"))
    assert run_module(placement.main, arguments)["changed"]
    assert json.loads(server.client.hget(claims.CLAIMS, "new"))["node_id"] == "ND_a"
    server.add_room("new", "ND_a")  # as LiveKit does
    got = run_module(placement.main, arguments)
    assert not got["changed"] and got["placements"][0]["exists"] and got["diff"] == {"before": {"new": "ND_a"}, "after": {"new": "ND_a"}}


def test_somebody_elses_claim_holds(server, run_module, twirp):
    claim = claims.Claim("ND_b", time.time(), "controller@edge1", 3.0)
    server.client.hset(claims.CLAIMS, "new", json.dumps(claim._asdict()))
    twirp.expect("CreateRoom", {"name": "new", "node_id": "ND_b"}, models.Room(name="new"))
    got = run_module(placement.main, ask(server, "new", create=True, **twirp.options))
    assert got["placements"][0]["node_id"] == "ND_b" and not got["changed"]


def test_a_refusal_releases_the_claim(server, run_module, twirp):
    twirp.expect("CreateRoom", {"name": "new", "node_id": "ND_a"}, error=("internal", "no", 500))
    got = run_module(placement.main, ask(server, "new", create=True, **twirp.options))
    assert got["failed"] and got["failure"]["code"] == "api_error" and not got["changed"]
    assert not server.client.hexists(claims.CLAIMS, "new")


@pytest.mark.parametrize(("more", "words"), [
    ({"policy": {"strategy": "x"}}, "strategy"), ({"rooms": [{"name": " "}]}, "name is empty"),
    ({"rooms": [{"name": "r", "participants": -2}]}, "participants is -2"),
    ({"create": True}, "url"), ({"rooms": [{"name": "r", "region": "mars", "required": True}]}, "region mars"),
])
def test_bad_input_changes_nothing(server, run_module, more, words):
    before = server.dump()
    got = run_module(placement.main, {**ask(server, "r"), **more})
    assert got["failed"] and words in got["msg"] and server.dump() == before


def test_nothing_is_decided_on_stale_data(redis_server, run_module):
    server = redis_server()
    server.add_node("ND_a", age=60)
    assert run_module(placement.main, ask(server, "r"))["failure"]["code"] == "frozen"
