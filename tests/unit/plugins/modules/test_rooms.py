# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules node_info, room and room_info: what a play gets from them."""
from __future__ import annotations

import pytest
from livekit import api as livekit_api
from livekit.protocol import models

from ansible_collections.openrtc.livekit.plugins.modules import node_info, room, room_info


def rooms(*found):
    return livekit_api.ListRoomsResponse(rooms=list(found))


OPEN = models.Room(name="r", sid="RM_1", metadata="m", empty_timeout=60, departure_timeout=20)
ASK = {"names": ["r"]}


# --- node_info

@pytest.mark.parametrize("check", [False, True])
def test_node_info(redis_server, run_module, check):
    server = redis_server(password="s3cret-s3cret")
    server.add_node("ND_b", ip="192.0.2.12", rooms=["r2", "r1"], num_clients=3, started_at=1)
    server.add_node("ND_a", ip="192.0.2.11", state=2, started_at=9)
    server.add_node("ND_0", ip="192.0.2.11", age=30, started_at=1, rooms=["gone"])
    before = server.dump()
    got = run_module(node_info.main, {"redis": {"address": server.address, "password": "s3cret-s3cret"}, "rooms": True, "check_access": True}, check=check)
    assert not got["failed"] and not got["changed"]
    assert [(n["id"], n["state"], n["fresh"], n["mapped_rooms"], n["rooms"]) for n in got["nodes"]] == [
        ("ND_0", "SERVING", False, 1, ["gone"]), ("ND_a", "SHUTTING_DOWN", True, 0, []), ("ND_b", "SERVING", True, 2, ["r1", "r2"])]
    assert got["serving"] == ["ND_b"] and got["rooms"] == 3 and got["all_stale"] is False
    assert got["ghosts"] == {"nodes": ["ND_0"], "missing": [], "rooms": {"gone": "ND_0"}, "unmapped": []}
    assert abs(got["clock_offset"]) < 0.2 and got["redis_address"] == server.address
    assert "s3cret" not in str(got)
    assert server.dump() == before


def test_node_info_takes_livekits_whole_section(redis_server, run_module):
    redis = {"address": redis_server().address, "db": 0, "use_tls": False, "tls": {"enabled": False}, "dial_timeout": 2000, "read_timeout": 200,
             "write_timeout": 200, "max_redirects": 2, "pool_timeout": "2s", "pool_size": 10, "cluster_addresses": [], "sentinel_addresses": []}
    assert run_module(node_info.main, {"redis": redis})["nodes"] == []


def test_node_info_leaves_rooms_out_unless_asked(redis_server, run_module):
    server = redis_server()
    server.add_node("ND_a", rooms=["r"])
    assert "rooms" not in run_module(node_info.main, {"redis": {"address": server.address}})["nodes"][0]


def test_node_info_failure_is_for_operators_and_programs(run_module, redis_server):
    server = redis_server(password="s3cret-s3cret")
    got = run_module(node_info.main, {"redis": {"address": server.address, "password": "wrong-pass"}})
    assert got["failed"] and got["failure"]["code"] == "redis_auth" and got["msg"].startswith("Could not connect to Redis")
    assert "wrong-pass" not in str(got)
    assert run_module(node_info.main, {"redis": {}})["failure"]["code"] == "redis_config"
    assert run_module(node_info.main, {})["failed"]


# --- room

def test_room_is_opened_once(twirp, run_module):
    twirp.expect("ListRooms", ASK, rooms()).expect("CreateRoom", {"name": "r", "metadata": "m", "empty_timeout": 60}, OPEN)
    wanted = {**twirp.options, "name": "r", "metadata": "m", "empty_timeout": 60}
    got = run_module(room.main, wanted)
    assert got["changed"] and got["room"]["sid"] == "RM_1"
    assert got["diff"] == {"before": {}, "after": {"name": "r", "metadata": "m", "empty_timeout": 60, "departure_timeout": 20, "max_participants": 0}}
    twirp.expect("ListRooms", ASK, rooms(OPEN))
    again = run_module(room.main, wanted)
    assert not again["changed"] and again["room"] == got["room"] and again["diff"]["before"] == again["diff"]["after"]


def test_room_metadata_is_changed_and_nothing_else(twirp, run_module):
    changed = models.Room(name="r", sid="RM_1", metadata="n", empty_timeout=60, departure_timeout=20)
    twirp.expect("ListRooms", ASK, rooms(OPEN)).expect("UpdateRoomMetadata", {"room": "r", "metadata": "n"}, changed)
    got = run_module(room.main, {**twirp.options, "name": "r", "metadata": "n"})
    assert got["changed"] and got["diff"]["before"]["metadata"] == "m" and got["diff"]["after"]["metadata"] == "n"
    twirp.expect("ListRooms", ASK, rooms(OPEN))
    got = run_module(room.main, {**twirp.options, "name": "r", "metadata": "n", "empty_timeout": 61})
    assert got["failed"] and got["failure"]["code"] == "room_differs" and got["failure"]["differs"] == ["empty_timeout"]


def test_room_is_ended_once(twirp, run_module):
    twirp.expect("ListRooms", ASK, rooms(OPEN)).expect("DeleteRoom", {"room": "r"})
    got = run_module(room.main, {**twirp.options, "name": "r", "state": "absent"})
    assert got["changed"] and got["room"] == {} and got["diff"]["after"] == {}
    twirp.expect("ListRooms", ASK, rooms())
    assert not run_module(room.main, {**twirp.options, "name": "r", "state": "absent"})["changed"]


@pytest.mark.parametrize(("found", "options"), [
    ((), {"metadata": "m", "node_id": "ND_a"}), ((OPEN,), {"metadata": "n"}), ((OPEN,), {"state": "absent"}),
])
def test_check_mode_tells_the_change_and_makes_none(twirp, run_module, found, options):
    twirp.read_only = True
    twirp.expect("ListRooms", ASK, rooms(*found))
    got = run_module(room.main, {**twirp.options, "name": "r", **options}, check=True)
    assert got["changed"] and got["diff"]["before"] != got["diff"]["after"]
    if "metadata" in options:
        assert got["room"]["metadata"] == options["metadata"] and "sid" in got["room"]


@pytest.mark.parametrize("check", [False, True])
def test_room_is_pinned_to_a_serving_node_only(twirp, run_module, redis_server, check):
    server = redis_server()
    server.add_node("ND_a")
    server.add_node("ND_drain", state=2)
    server.add_node("ND_dead", age=60)
    wanted = {**twirp.options, "name": "r", "redis": {"address": server.address}}
    for node, words in (("ND_drain", "SHUTTING_DOWN"), ("ND_dead", "not reported"), ("ND_none", "does not know")):
        twirp.expect("ListRooms", ASK, rooms())
        got = run_module(room.main, {**wanted, "node_id": node}, check=check)
        assert got["failure"]["code"] == "node_not_serving" and words in got["msg"] and "ND_a" in got["failure"]["fix"]
    twirp.expect("ListRooms", ASK, rooms())
    if not check:
        twirp.expect("CreateRoom", {"name": "r", "node_id": "ND_a"}, OPEN)
        server.add_room("r", "ND_a")
    got = run_module(room.main, {**wanted, "node_id": "ND_a"}, check=check)
    assert got["changed"] and got["node_id"] == "ND_a"


def test_an_open_room_is_not_moved(twirp, run_module, redis_server):
    server = redis_server()
    server.add_node("ND_a", rooms=["r"])
    server.add_node("ND_b")
    wanted = {**twirp.options, "name": "r", "redis": {"address": server.address}}
    twirp.expect("ListRooms", ASK, rooms(OPEN))
    got = run_module(room.main, {**wanted, "node_id": "ND_b"})
    assert got["failure"]["code"] == "room_elsewhere" and got["failure"]["node_id"] == "ND_a"
    twirp.expect("ListRooms", ASK, rooms(OPEN))
    got = run_module(room.main, {**wanted, "node_id": "ND_a"})
    assert not got["changed"] and got["node_id"] == "ND_a"


def test_a_room_without_redis_settings_needs_no_redis(twirp, run_module):
    twirp.expect("ListRooms", ASK, rooms(OPEN))
    assert not run_module(room.main, {**twirp.options, "name": "r", "redis": {}})["failed"]


def test_room_failure_keeps_the_secret(twirp, run_module):
    got = run_module(room.main, {**twirp.options, "api_secret": "another-secret-another-secret-xx", "name": "r"})
    assert got["failed"] and got["failure"]["code"] == "api_unauthorized" and "another-secret" not in str(got)


# --- room_info

@pytest.mark.parametrize("check", [False, True])
def test_room_info(twirp, run_module, redis_server, check):
    server = redis_server()
    server.add_node("ND_a", ip="192.0.2.11", rooms=["r"])
    server.add_room("lost", "ND_gone")
    twirp.read_only = True
    twirp.expect("ListRooms", {}, rooms(OPEN, models.Room(name="lost")))
    got = None

    def people(*who):
        return livekit_api.ListParticipantsResponse(participants=[models.ParticipantInfo(identity=i, kind=k) for i, k in who])

    # sorted by name: "lost" is asked before "r"
    twirp.expect("ListParticipants", {"room": "lost"}, people()).expect("ListParticipants", {"room": "r"}, people(("a", 0), ("line", 3)))
    got = run_module(room_info.main, {**twirp.options, "participants": True, "redis": {"address": server.address}}, check=check)
    assert not got["changed"]
    assert [(r["name"], r["node_id"], r["node_ip"], r["kinds"]) for r in got["rooms"]] == [
        ("lost", "ND_gone", "", {}), ("r", "ND_a", "192.0.2.11", {"SIP": 1, "STANDARD": 1})]
    assert [p["identity"] for p in got["rooms"][1]["participants"]] == ["a", "line"]


def test_room_info_of_named_rooms(twirp, run_module):
    twirp.expect("ListRooms", ASK, rooms(OPEN))
    got = run_module(room_info.main, {**twirp.options, "names": ["r"]})
    assert [r["name"] for r in got["rooms"]] == ["r"] and "node_id" not in got["rooms"][0] and "participants" not in got["rooms"][0]
