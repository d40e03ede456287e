# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry against real Redis servers."""
from __future__ import annotations

import time

import pytest
from livekit.protocol import models

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import redis_connection, registry, registry_messages
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry_messages import PARTICIPANT_KINDS, PARTICIPANT_STATES

SECRET = "hunter2-hunter2"


def failure(config, call=None):
    """The failure of connecting, or of what is done then; nothing of it may hold a password."""
    with pytest.raises(FleetError) as caught:
        store = registry.connect(config, timeout=1)
        (call or registry.Registry.snapshot)(store)
    text = repr(caught.value.as_result())
    assert SECRET not in text
    return caught.value.failure


# --- messages

def test_rooms_and_participants_are_read_as_livekits_own_classes_write_them():
    """Our field numbers against LiveKit's published descriptors."""
    for ours, theirs in (("Room", models.Room), ("ParticipantInfo", models.ParticipantInfo), ("ParticipantPermission", models.ParticipantPermission)):
        published = {f.name: f for f in theirs.DESCRIPTOR.fields}
        mine = registry_messages.messages()[ours].DESCRIPTOR.fields_by_name
        assert {n: f.number for n, f in mine.items()} == {n: published[n].number for n in mine}
        for name, field in mine.items():
            wire = published[name].type
            assert field.type == (field.TYPE_INT32 if wire == field.TYPE_ENUM else wire), name
    assert dict(enumerate(PARTICIPANT_STATES)) == {v.number: v.name for v in models.ParticipantInfo.State.DESCRIPTOR.values}
    assert PARTICIPANT_KINDS == {v.number: v.name for v in models.ParticipantInfo.Kind.DESCRIPTOR.values}


def test_unknown_fields_and_values_of_a_later_livekit_do_no_harm():
    raw = registry_messages.messages()["Node"](id="ND_a", state=9, type=99).SerializeToString() + b"\xfa\x3f\x03new"
    node = registry_messages.Node.parse(raw)
    assert (node.id, node.state, node.type, node.serving) == ("ND_a", "STATE_9", "TYPE_99", False)


# --- snapshot

def test_snapshot_is_one_round_trip_and_holds_everything(redis_server):
    server = redis_server()
    server.add_node("ND_a", ip="192.0.2.11", region="eu", rooms=["r1", "r2"], num_clients=7, cpu_load=0.25, started_at=5, bytes_in=10,
                    rates={"bytes_in": 1.5, "packets_out": 3})
    server.add_node("ND_b", ip="192.0.2.12", state=2, rooms=["r3"])
    server.client.set("livekit_version", "1.13.5")
    with registry.connect({"address": server.address}) as store:
        server.client.config_resetstat()
        snap = store.snapshot()
        calls = {k: v["calls"] for k, v in server.client.info("commandstats").items()}
    assert calls["cmdstat_hgetall"] == 2 and calls["cmdstat_hkeys"] == 1 and calls["cmdstat_time"] == 1
    a = snap.nodes["ND_a"]
    assert (a.ip, a.region, a.state, a.num_cpus, a.num_rooms, a.num_clients, a.started_at, a.bytes_in) == ("192.0.2.11", "eu", "SERVING", 2, 2, 7, 5, 10)
    assert (a.cpu_load, a.bytes_in_rate, a.packets_out_rate) == (0.25, 1.5, 3)
    assert snap.nodes["ND_b"].draining
    assert snap.room_node_map == {"r1": "ND_a", "r2": "ND_a", "r3": "ND_b"}
    assert snap.rooms == {"r1", "r2", "r3"}
    assert snap.rooms_of("ND_a") == ["r1", "r2"] and snap.rooms_by_node() == {"ND_a": ["r1", "r2"], "ND_b": ["r3"]}
    assert snap.node_of("r3").id == "ND_b" and snap.node_of("r9") is None
    assert [n.id for n in snap.serving()] == ["ND_a"]
    assert not snap.all_stale and not snap.ghosts()
    assert abs(snap.taken_at - time.time()) < 1 and abs(snap.clock_offset) < 0.2
    assert snap.highest_version == "1.13.5"


def test_nothing_in_redis_is_an_empty_cluster(redis_server):
    snap = registry.connect({"address": redis_server().address}).snapshot()
    assert (dict(snap.nodes), dict(snap.room_node_map), snap.rooms) == ({}, {}, frozenset())
    assert not snap.serving() and not snap.all_stale and not snap.ghosts()


def test_a_dead_node_is_a_ghost_whatever_it_says_of_itself(redis_server):
    server = redis_server()
    server.add_node("ND_live", rooms=["ok"])
    server.add_node("ND_dead", age=60, rooms=["orphan"])
    server.add_room("lost", "ND_gone")
    server.add_room("nowhere")
    snap = registry.connect({"address": server.address}).snapshot()
    ghosts = snap.ghosts()
    assert ghosts.as_dict() == {
        "nodes": ["ND_dead"], "missing": ["ND_gone"], "rooms": {"lost": "ND_gone", "orphan": "ND_dead"}, "unmapped": ["nowhere"],
    }
    assert snap.nodes["ND_dead"].serving and [n.id for n in snap.serving()] == ["ND_live"]
    assert not snap.all_stale


def test_all_stale_points_at_redis(redis_server):
    server = redis_server()
    server.add_node("ND_a", age=6)
    server.add_node("ND_b", age=9)
    assert registry.connect({"address": server.address}).snapshot().all_stale


@pytest.mark.parametrize(("age", "fresh"), [(-3, True), (0, True), (4.9, True), (5.0, False), (60, False)])
def test_fresh_is_livekits_five_seconds(age, fresh):
    node = registry_messages.Node(id="ND_a", ip="", region="", state="SERVING", updated_at=1000)
    assert node.fresh(1000 + age) is fresh and node.age(1000 + age) == pytest.approx(age)


def test_rooms_and_participants(redis_server):
    server = redis_server()
    server.add_room("r", "ND_a", metadata="m", empty_timeout=60, departure_timeout=20, creation_time=9, num_participants=3, active_recording=True)
    server.add_room("other")
    server.add_participant("r", "zoe")
    server.add_participant("r", "line", kind=3)
    server.add_participant("r", "bot", kind=4, is_publisher=True, permission={"hidden": True})
    store = registry.connect({"address": server.address})
    assert set(store.room_details()) == {"r", "other"}
    room = store.room_details(["r", "none"])["r"]
    assert (room.sid, room.metadata, room.empty_timeout, room.departure_timeout, room.created_at, room.num_participants, room.active_recording) == (
        "RM_r", "m", 60, 20, 9, 3, True)
    people = store.participants("r")
    assert [p.identity for p in people] == ["bot", "line", "zoe"]
    assert (people[0].hidden, people[0].is_publisher, people[0].state) == (True, True, "ACTIVE")
    assert registry_messages.count_kinds(people) == {"AGENT": 1, "SIP": 1, "STANDARD": 1}
    assert store.participants_of(["other"]) == {"other": []} and store.room_details([]) == {} and store.participants_of([]) == {}


def test_clock_offset_is_against_redis(redis_server):
    assert abs(registry.connect({"address": redis_server().address}).clock_offset()) < 0.05


def test_a_foreign_database_is_told(redis_server):
    server = redis_server()
    server.client.hset("nodes", "x", b"\xff\xff\xff not a node")
    assert failure({"address": server.address})["code"] == "registry_unreadable"
    server.client.delete("nodes")
    server.client.set("nodes", "a string")
    got = failure({"address": server.address})
    assert got["code"] == "redis_error" and "WRONGTYPE" in got["got"]


# --- access

def test_check_access_changes_nothing(redis_server):
    server = redis_server()
    server.add_node("ND_a", rooms=["r"])
    before = server.dump()
    with server.client.pubsub() as ear:
        ear.psubscribe("*")
        ear.get_message(timeout=1)
        access = registry.connect({"address": server.address}).check_access()
        assert ear.get_message(timeout=0.1) is None
    assert server.dump() == before
    assert access.role == "master" and access.user == "default" and access.redis_version.startswith("7.")
    assert abs(access.clock_offset) < 0.05


@pytest.mark.parametrize(
    ("rule", "denied"),
    [
        ("~* &* +@all -@dangerous", None),  # role and info are not needed
        ("~* resetchannels +@all", "PUBLISH Keepalive|Ping|ND_openrtc_check|REQ"),
        ("%R~* &* +@all", "HSET nodes"),
        ("~nodes ~room_node_map &* +@all", "HSET rooms"),
        ("~* &* +@all -eval", "EVAL return 1"),
        ("~* &* +@all -publish", "PUBLISH Keepalive|Ping|ND_openrtc_check|REQ"),
    ],
)
def test_check_access_names_what_an_acl_user_lacks(redis_server, rule, denied):
    server = redis_server(acl=[f"livekit on >{SECRET} {rule}"])
    before = server.dump()
    config = {"address": server.address, "username": "livekit", "password": SECRET}
    if denied is None:
        access = registry.connect(config).check_access()
        assert access.user in ("", "livekit")
    else:
        got = failure(config, registry.Registry.check_access)
        assert got["code"] == "redis_acl" and denied in got["denied"] and got["user"] == "livekit"
    assert server.dump() == before


def test_the_acl_that_the_message_recommends_is_enough(redis_server):
    server = redis_server(acl=[f"livekit on >{SECRET} ~* &* +@all -@dangerous +info +role"])
    access = registry.connect({"address": server.address, "username": "livekit", "password": SECRET}).check_access()
    assert access.role == "master" and access.redis_version


def test_no_read_permission(redis_server):
    server = redis_server(acl=[f"weak on >{SECRET} ~rooms &* +@all"])
    got = failure({"address": server.address, "username": "weak", "password": SECRET})
    assert got["code"] == "redis_acl" and got["denied"] == ["HGETALL nodes"] and "user weak" in got["on"]


# --- errors

@pytest.mark.parametrize("extra", [{}, {"password": "wrong-" + SECRET}, {"username": "nobody", "password": SECRET}])
def test_password_missing_or_wrong(redis_server, extra):
    server = redis_server(password=SECRET)
    got = failure({"address": server.address, **extra})
    assert got["code"] == "redis_auth" and got["on"].startswith(server.address)


def test_password_given_to_a_server_without_one(redis_server):
    got = failure({"address": redis_server().address, "password": SECRET})
    assert got["code"] == "redis_auth" and "remove redis.password" in got["fix"]


def test_right_password(redis_server):
    server = redis_server(password=SECRET)
    assert registry.connect({"address": server.address, "password": SECRET, "db": 3}).snapshot().rooms == frozenset()


def test_the_database_number_counts(redis_server):
    server = redis_server()
    server.add_room("r")
    assert registry.connect({"address": server.address, "db": 3}).snapshot().rooms == frozenset()
    assert registry.connect({"address": server.address, "db": 0}).snapshot().rooms == {"r"}


def test_nobody_listens(redis_server):
    server = redis_server()
    server.stop()
    before = time.monotonic()
    got = failure({"address": server.address, "password": SECRET})
    assert got["code"] == "redis_unreachable" and time.monotonic() - before < 2


def test_a_silent_server_costs_the_timeout_and_no_more(redis_server):
    server = redis_server()
    store = registry.connect({"address": server.address}, timeout=0.5)
    server.client.execute_command("CLIENT", "PAUSE", "3000", "ALL")
    before = time.monotonic()
    with pytest.raises(FleetError) as caught:
        store.snapshot()
    assert caught.value.failure["code"] == "redis_unreachable" and time.monotonic() - before < 1.5


def test_a_restarted_server_is_found_again(redis_server):
    server = redis_server()
    store = registry.connect({"address": server.address})
    server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert store.snapshot().rooms == frozenset()


def test_a_replica_names_its_master(redis_server):
    master = redis_server()
    replica = redis_server(replicaof=master)
    got = failure({"address": replica.address})
    assert got["code"] == "redis_replica" and got["master"] == master.address and master.address in got["fix"]


def test_a_replica_is_seen_even_if_the_user_may_not_ask_for_the_role(redis_server):
    master = redis_server()
    replica = redis_server(replicaof=master, acl=[f"livekit on >{SECRET} ~* &* +@all -role -info"])
    got = failure({"address": replica.address, "username": "livekit", "password": SECRET}, registry.Registry.check_access)
    assert got["code"] == "redis_replica"


def test_a_master_that_becomes_a_replica_is_noticed(redis_server):
    master, other = redis_server(), redis_server()
    store = registry.connect({"address": master.address})
    master.client.replicaof("127.0.0.1", str(other.port))
    with pytest.raises(FleetError) as caught:
        store.snapshot()
    assert caught.value.failure["code"] == "redis_replica"


def test_redis_that_cannot_write(redis_server):
    server = redis_server(lines=["min-replicas-to-write 1"])
    got = failure({"address": server.address}, registry.Registry.check_access)
    assert got["code"] == "redis_error" and "NOREPLICAS" in got["got"]


# --- sentinel

def test_sentinel_leads_to_the_master(redis_server):
    master = redis_server(password=SECRET)
    master.add_room("r")
    sentinel = redis_server(sentinel_of=master, lines=[f"sentinel auth-pass main {SECRET}"])
    dead = redis_server()
    dead.stop()
    config = {"sentinel_master_name": "main", "sentinel_addresses": [dead.address, sentinel.address], "password": SECRET}
    with registry.connect(config) as store:
        assert store.address == master.address
        assert store.snapshot().rooms == {"r"}
        assert store.check_access().role == "master"


def test_sentinel_failover_is_followed(redis_server):
    old, new = redis_server(), redis_server()
    sentinel = redis_server(sentinel_of=old)
    new.add_room("moved")
    store = registry.connect({"sentinel_master_name": "main", "sentinel_addresses": [sentinel.address]})
    old.stop()
    sentinel.client.execute_command("SENTINEL", "REMOVE", "main")
    sentinel.client.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", new.port, 1)
    assert store.snapshot().rooms == {"moved"} and store.address == new.address


@pytest.mark.parametrize("name", ["main", "other"])
def test_sentinel_knows_no_master(redis_server, name):
    master = redis_server()
    sentinel = redis_server(sentinel_of=master)
    if name == "main":
        sentinel.stop()
    got = failure({"sentinel_master_name": name, "sentinel_addresses": [sentinel.address], "sentinel_password": None, "password": SECRET})
    assert got["code"] == "sentinel_no_master" and sentinel.address in got["got"]


def test_sentinel_wants_a_password(redis_server):
    sentinel = redis_server(sentinel_of=redis_server(), password=SECRET)
    config = {"sentinel_master_name": "main", "sentinel_addresses": [sentinel.address]}
    assert failure(config)["code"] == "sentinel_no_master"
    assert registry.connect({**config, "sentinel_password": SECRET}).address


def test_a_sentinel_given_as_the_server(redis_server):
    got = failure({"address": redis_server(sentinel_of=redis_server()).address})
    assert got["code"] == "redis_config" and "sentinel_addresses" in got["fix"]


# --- settings

@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({}, "redis_config"), ({"address": "10.0.0.5"}, "redis_config"), ({"address": "fd00::5:6379"}, "redis_config"),
        ({"address": "h:99999"}, "redis_config"),
        ({"sentinel_addresses": ["h:26379"]}, "redis_config"), ({"cluster_addresses": ["h:7000"]}, "redis_cluster"),
        ({"address": "h:1", "tls": {"enabled": True, "ca_cert_file": "/nowhere/ca.pem"}}, "redis_config"),
    ],
)
def test_settings_that_cannot_work(config, code):
    assert failure({**config, "password": SECRET})["code"] == code


def test_addresses():
    assert redis_connection._address("[fd00::5]:6379") == ("fd00::5", 6379)
    assert redis_connection._format("fd00::5", 6379) == "[fd00::5]:6379"


# --- TLS

def test_tls(redis_server, certificate):
    server = redis_server(tls=certificate)
    trust = {"enabled": True, "ca_cert_file": str(certificate[0])}

    def code(**tls):
        try:
            registry.connect({"address": server.address, "tls": tls} if tls else {"address": server.address}, timeout=2).snapshot()
        except FleetError as exc:
            return exc.failure["code"]
        return "ok"

    assert code(**trust) == "ok"
    assert code(**trust, server_name="sfu.example.com") == "ok"
    assert code(**trust, server_name="other.example.com") == "redis_tls"
    assert code(enabled=True) == "redis_tls"
    assert code(enabled=True, insecure=True) == "ok"
    assert code() == "redis_unreachable"
    plain = redis_server()
    with pytest.raises(FleetError) as caught:
        registry.connect({"address": plain.address, "use_tls": True}, timeout=2)
    assert caught.value.failure["code"] in ("redis_tls", "redis_unreachable")
