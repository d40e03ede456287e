# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""POST /v1/rooms, with a real Redis and nodes that create rooms as LiveKit does."""
from __future__ import annotations

import collections
import concurrent.futures
import json
import time
import typing as t
import urllib.error
import urllib.request

import pytest
from aiohttp import web
from controller_sample import KEYS, registry, report, settings, slot
from livekit import api as livekit_api

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import api
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.lease import Lease
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.loop import Loop
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.metrics import Metrics
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.placing import Placing
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.web import Web
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement import claims
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import HOSTS

NODES = {"ND_one": "sfu1", "ND_two": "sfu2", "ND_three": "sfu3"}
KEY = next(iter(KEYS))


class Nodes:
    """Stand-ins for livekit-servers: CreateRoom as LiveKit does it, idempotent by name, and where node_id says for a new room."""

    def __init__(self, server: t.Any, serve: t.Callable[..., str]) -> None:
        self.server = server
        self.created: dict[str, set[str]] = collections.defaultdict(set)  # room -> nodes that opened it
        self.refuses: dict[str, int] = {}  # node -> HTTP status it answers
        self.calls = 0
        self.port = int(serve(self._app()).rpartition(":")[2])
        self.live()

    def live(self, **draining: bool) -> None:
        for node_id, host in NODES.items():
            self.server.add_node(node_id, num_clients=0)
            report(self.server, host, [slot(1, node_id)], ports={1: self.port})

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/twirp/livekit.RoomService/CreateRoom", self._create)
        return app

    async def _create(self, request: web.Request) -> web.Response:
        self.calls += 1
        token = request.headers["Authorization"].removeprefix("Bearer ")
        assert livekit_api.TokenVerifier(KEY, KEYS[KEY]).verify(token).video.room_create
        asked = await request.json()
        name, node = asked["name"], asked["node_id"]
        if node in self.refuses:
            return web.json_response({"code": "internal", "msg": "no"}, status=self.refuses[node])
        home = self.server.client.hget("room_node_map", name)
        node = home.decode() if home else node
        self.server.add_room(name, node, metadata=asked.get("metadata", ""))
        self.created[name].add(node)
        return web.json_response({"sid": f"RM_{name}", "name": name})


class Desk:
    """A controller's web on a port."""

    def __init__(self, server: t.Any, serve: t.Callable[..., str], name: str, **more: t.Any) -> None:
        self.settings = settings(server, name=name, placement=True, public_url="wss://livekit.example.org", password_sha256="", **more)
        self.told: list[dict[str, t.Any]] = []
        lease = Lease(registry(server), name)
        self.loop = Loop(self.settings, lease, lambda: registry(server), lambda entry: None)
        self.tick()
        self.web = Web(self.settings, self.loop, registry(server), Metrics(), Placing(self.settings, self.loop, registry(server), self.told.append))
        self.url = serve(self.web.app())

    def tick(self) -> None:
        self.loop.tick()
        self.loop.ticked += 600  # however slow the machine is

    def post(self, body: t.Any, bearer: str | None = None, raw: bytes | None = None) -> tuple[int, t.Any]:
        token = api.token(KEY, KEYS[KEY], grants={"room_create": True}) if bearer is None else bearer
        request = urllib.request.Request(f"{self.url}/v1/rooms", json.dumps(body).encode() if raw is None else raw, {"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            return exc.code, json.load(exc)


@pytest.fixture(name="place")
def fixture_place(redis_server: t.Callable[..., t.Any], serve: t.Callable[..., str]) -> t.Iterator[t.Callable[..., tuple[t.Any, Nodes, list[Desk]]]]:
    made: list[Desk] = []

    def build(controllers: int = 1, **more: t.Any) -> tuple[t.Any, Nodes, list[Desk]]:
        server = redis_server()
        nodes = Nodes(server, serve)
        made.extend(Desk(server, serve, f"edge{n + 1}", **more) for n in range(controllers))
        return server, nodes, made[-controllers:]

    yield build
    for desk in made:
        desk.web.close()
        desk.loop.probes.close()


def test_a_room_is_created_then_found(place: t.Callable[..., t.Any]) -> None:
    server, nodes, (desk,) = place()
    status, first = desk.post({"room": "daily", "participants": 12, "identity": "alice", "name": "Alice", "metadata": "m", "can_publish": False})
    assert status == 201 and first["created"] and first["node_id"] in NODES and first["host"] == NODES[first["node_id"]]
    assert (first["room"], first["sid"], first["url"]) == ("daily", "RM_daily", "wss://livekit.example.org")
    assert first["expected"]["participants"] == 12 and first["reason"].startswith("the emptiest of 3")
    joins = livekit_api.TokenVerifier(KEY, KEYS[KEY]).verify(first["token"])
    assert (joins.identity, joins.name, joins.video.room, joins.video.room_join, joins.video.can_publish) == ("alice", "Alice", "daily", True, False)
    assert not joins.video.room_create and not joins.video.room_admin
    assert server.client.hget("room_node_map", "daily").decode() == first["node_id"]
    status, again = desk.post({"room": "daily"})
    assert status == 200 and not again["created"] and again["node_id"] == first["node_id"] and "token" not in again
    assert nodes.created == {"daily": {first["node_id"]}}
    assert [(e["kind"], e["room"], e["node_id"]) for e in desk.told] == [("place", "daily", first["node_id"])]
    assert "token" not in str(desk.told)
    metrics = urllib.request.urlopen(f"{desk.url}/metrics").read().decode()
    assert 'openrtc_controller_placements_total{outcome="created"} 1.0' in metrics


def test_a_burst_is_spread_though_no_node_reports_anything(place: t.Callable[..., t.Any]) -> None:
    _server, _nodes, (desk,) = place()
    sizes: collections.Counter[str] = collections.Counter()
    for n in range(30):
        answer = desk.post({"room": f"burst-{n}", "participants": 3 + 5 * (n % 4)})[1]
        sizes[answer["node_id"]] += 3 + 5 * (n % 4)
    assert max(sizes.values()) - min(sizes.values()) <= 18 and len(sizes) == 3


def test_two_controllers_place_each_room_once(place: t.Callable[..., t.Any]) -> None:
    server, nodes, desks = place(2)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        rooms = [f"room-{n}" for n in range(25) for _twice in range(4)]
        answers = list(pool.map(lambda job: desks[job[0] % 2].post({"room": job[1]}), enumerate(rooms)))
    assert {status for status, _answer in answers} <= {200, 201}
    homes = {k.decode(): v.decode() for k, v in server.client.hgetall("room_node_map").items()}
    assert all(answer["node_id"] == homes[answer["room"]] for _status, answer in answers)
    assert all(len(opened) == 1 for opened in nodes.created.values()) and len(homes) == 25
    assert sum(status == 201 for status, _answer in answers) == 25


def test_a_node_that_refuses_is_passed_over(place: t.Callable[..., t.Any]) -> None:
    server, nodes, (desk,) = place()
    first = desk.post({"room": "a"})[1]["node_id"]
    others = [n for n in NODES if n != first]
    nodes.refuses = dict.fromkeys(others[:1], 500)
    for n in range(6):
        status, answer = desk.post({"room": f"b{n}"})
        assert status == 201 and answer["node_id"] != others[0]
    nodes.refuses = dict.fromkeys(NODES, 500)
    status, answer = desk.post({"room": "c"})
    assert (status, answer["error"]["code"]) == (502, "not_created")
    nodes.refuses = {}
    assert desk.post({"room": "c"})[0] == 201
    assert server.client.hget("room_node_map", "c")


def test_a_claim_whose_maker_died_is_carried_out_by_the_next(place: t.Callable[..., t.Any]) -> None:
    server, nodes, (desk,) = place()
    claim = claims.Claim("ND_two", time.time(), "controller@gone", 40.0)
    server.client.hset(claims.CLAIMS, "orphan", json.dumps(claim._asdict()))
    status, answer = desk.post({"room": "orphan"})
    assert (status, answer["created"], answer["node_id"]) == (200, False, "ND_two") and nodes.created["orphan"] == {"ND_two"}
    late = claim._replace(at=time.time() - 60)
    server.client.hset(claims.CLAIMS, "late", json.dumps(late._asdict()))
    assert desk.post({"room": "late"})[0] == 201
    server.client.hset(claims.CLAIMS, "gone", json.dumps(claim._replace(node_id="ND_gone")._asdict()))
    assert desk.post({"room": "gone"})[1]["node_id"] in NODES
    server.client.hset(claims.CLAIMS, "odd", "{")  # what cannot be read is nobody's
    assert desk.post({"room": "fine"})[0] == 201


def test_rules_and_bad_policy(place: t.Callable[..., t.Any]) -> None:
    policy = {"labels": {"vip": ["sfu3"]}, "exclusive": ["vip"], "rules": [{"match": "board-*", "node_label": "vip", "required": True}]}
    server, _nodes, (desk,) = place(placement_policy=policy)
    assert {desk.post({"room": f"board-{n}"})[1]["node_id"] for n in range(4)} == {"ND_three"}
    assert {desk.post({"room": f"other-{n}"})[1]["node_id"] for n in range(6)} == {"ND_one", "ND_two"}
    server.client.hdel("nodes", "ND_three")
    desk.tick()
    time.sleep(1.1)
    status, answer = desk.post({"room": "board-9"})
    assert (status, answer["error"]["code"]) == (503, "no_receiver") and "label vip" in answer["error"]["got"]
    with pytest.raises(FleetError, match="spraed"):
        place(placement_policy={"strategy": "spraed"})


def test_who_may_ask(place: t.Callable[..., t.Any]) -> None:
    server, nodes, (desk,) = place()
    good = {"room": "r"}
    for token, want in (("", 401), ("abc", 401), (api.token("APIwho", "x" * 40, grants={"room_create": True}), 401),
                        (api.token(KEY, "x" * 64, grants={"room_create": True}), 401), (api.token(KEY, KEYS[KEY], "a", "r"), 403),
                        (api.token(KEY, KEYS[KEY], grants={"room_create": True}, now=time.time() - 99999), 401)):
        status, answer = desk.post(good, bearer=token)
        assert status == want and "s" * 64 not in str(answer), token
    assert nodes.calls == 0 and not server.client.exists(claims.CLAIMS)


@pytest.mark.parametrize(("body", "words"), [
    ({}, "room is missing"), ([], "no JSON object"), ({"room": ""}, "room is missing"), ({"room": 5}, "room is not text"), ({"room": "x" * 300}, "256"),
    ({"room": "r", "participants": -1}, "participants is not"), ({"room": "r", "participants": True}, "participants is not"),
    ({"room": "r", "participants": 1e9}, "participants is not"), ({"room": "r", "labels": "vip"}, "labels is not"), ({"room": "r", "fly": 1}, "no field fly"),
])
def test_bad_requests(place: t.Callable[..., t.Any], body: t.Any, words: str) -> None:
    _server, nodes, (desk,) = place()
    status, answer = desk.post(body)
    assert status == 400 and words in answer["error"]["got"] and nodes.calls == 0


def test_bad_json(place: t.Callable[..., t.Any]) -> None:
    _server, _nodes, (desk,) = place()
    for raw in (b"{", b"", b'{"room": "r", "participants": NaN}', b"\xff"):
        assert desk.post(None, raw=raw)[0] == 400


def test_nothing_is_placed_on_data_that_cannot_be_trusted(place: t.Callable[..., t.Any]) -> None:
    server, nodes, (desk,) = place()
    for node_id in NODES:
        server.add_node(node_id, age=60)
    desk.tick()
    status, answer = desk.post({"room": "r"})
    assert (status, answer["error"]["code"]) == (503, "frozen") and nodes.calls == 0
    nodes.live()
    desk.tick()
    assert desk.post({"room": "r"})[0] == 201
    desk.loop.ticked -= 700
    time.sleep(1.1)
    status, answer = desk.post({"room": "s"})
    assert (status, answer["error"]["code"]) == (503, "frozen") and "not looked" in answer["error"]["got"]
    server.client.hset("room_node_map", "lost", "ND_dead")
    desk.tick()
    time.sleep(1.1)
    status, answer = desk.post({"room": "lost"})
    assert (status, answer["error"]["code"]) == (503, "node_dead")


def test_dry_run_only_says_what_it_would_do(place: t.Callable[..., t.Any]) -> None:
    server, nodes, (desk,) = place(dry_run=True)
    status, answer = desk.post({"room": "r", "identity": "a"})
    assert status == 200 and answer["dry_run"] and answer["node_id"] in NODES and nodes.calls == 0
    assert not server.client.exists("room_node_map") and not server.client.exists(claims.CLAIMS)


def test_without_placement_there_is_no_such_path(place: t.Callable[..., t.Any], serve: t.Callable[..., str]) -> None:
    _server, _nodes, (desk,) = place()
    bare = serve(Web(desk.settings, desk.loop, desk.loop.registry, Metrics()).app())
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(f"{bare}/v1/rooms", b"{}"))
    assert caught.value.code == 404


def test_a_draining_host_takes_no_room(place: t.Callable[..., t.Any]) -> None:
    server, nodes, (desk,) = place()
    server.add_node("ND_one", state=2)
    report(server, "sfu1", [slot(1, "ND_one", "deactivating")], ports={1: nodes.port})
    server.client.hdel(HOSTS, "sfu2")
    desk.tick()
    time.sleep(1.1)
    assert {desk.post({"room": f"r{n}"})[1]["node_id"] for n in range(4)} == {"ND_three"}
