# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server API facade against a scripted server, tokens against LiveKit's own verifier."""
from __future__ import annotations

import ssl

import aiohttp
import pytest
from aiohttp import web
from livekit import api as livekit_api
from livekit.protocol import agent as agent_protocol
from livekit.protocol import models

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import api
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError

KEY, SECRET = "devkey", "secretsecretsecretsecretsecretsecret"


def code(call):
    with pytest.raises(FleetError) as caught:
        call()
    assert SECRET not in repr(caught.value.as_result())
    return caught.value.failure["code"]


def client(twirp, **more):
    return api.Api(twirp.url, KEY, SECRET, **more)


# --- tokens

def test_a_token_is_what_livekit_verifies():
    token = api.token(KEY, SECRET, "alice", "daily", name="Alice", metadata="m", kind="agent", attributes={"a": "b"})
    claims = livekit_api.TokenVerifier(KEY, SECRET).verify(token)
    assert (claims.identity, claims.name, claims.metadata, claims.kind, claims.attributes) == ("alice", "Alice", "m", "agent", {"a": "b"})
    assert claims.video.room_join and claims.video.room == "daily" and claims.video.can_publish


def test_every_grant_has_livekits_name():
    def camel(name):
        first, *rest = name.split("_")
        return first + "".join(word.capitalize() for word in rest)

    assert set(api.GRANTS) == set(livekit_api.VideoGrants.__dataclass_fields__)
    assert all(camel(ours) == theirs for ours, theirs in api.GRANTS.items())


def test_grants_are_taken_by_either_name_and_none_is_left_out():
    token = api.token(KEY, SECRET, room="r", grants={"room_admin": True, "canPublish": False, "hidden": None})
    video = livekit_api.TokenVerifier(KEY, SECRET).verify(token).video
    assert (video.room_admin, video.can_publish, video.hidden, video.room_join) == (True, False, None, None)


def test_a_token_expires():
    with pytest.raises(Exception, match="expired"):
        livekit_api.TokenVerifier(KEY, SECRET).verify(api.token(KEY, SECRET, "a", "r", ttl=10, now=1_000_000))


def test_tokens_that_make_no_sense():
    assert code(lambda: api.token(KEY, SECRET, "a", "r", grants={"fly": True})) == "token_grant"
    assert code(lambda: api.token(KEY, SECRET, room="r")) == "token_join"
    assert code(lambda: api.token(KEY, SECRET, "a", grants={"room_join": True})) == "token_join"
    assert code(lambda: api.token(KEY, "", "a", "r")) == "token_key"


# --- URLs

@pytest.mark.parametrize(("url", "http"), [
    ("ws://h:7880", "http://h:7880"), ("wss://h", "https://h"), ("https://h/livekit/", "https://h/livekit"), ("http://[fd00::1]:7880", "http://[fd00::1]:7880"),
])
def test_urls(url, http):
    assert api.http_url(url) == http


@pytest.mark.parametrize("url", ["h:7880", "ftp://h", "", f"http://u:{SECRET}@h", f"wss://h?access_token={SECRET}"])
def test_urls_that_are_none(url):
    assert code(lambda: api.http_url(url)) == "api_url"


# --- calls

def test_calls_and_the_grants_they_use(twirp):
    twirp.expect("CreateRoom", {"name": "r", "node_id": "ND_a", "metadata": "m", "empty_timeout": 60, "max_participants": 4, "departure_timeout": 9},
                 models.Room(name="r", sid="RM_1", metadata="m", empty_timeout=60))
    twirp.expect("ListRooms", {}, livekit_api.ListRoomsResponse(rooms=[models.Room(name="z"), models.Room(name="r", num_participants=2)]))
    twirp.expect("ListParticipants", {"room": "r"}, livekit_api.ListParticipantsResponse(
        participants=[models.ParticipantInfo(identity="b", kind=3), models.ParticipantInfo(identity="a")]))
    twirp.expect("UpdateRoomMetadata", {"room": "r", "metadata": "n"}, models.Room(name="r", metadata="n"))
    twirp.expect("DeleteRoom", {"room": "r"})
    lk = client(twirp)
    room = lk.create_room("r", node_id="ND_a", metadata="m", empty_timeout=60, departure_timeout=9, max_participants=4)
    assert (room.name, room.sid, room.metadata, room.empty_timeout) == ("r", "RM_1", "m", 60)
    assert [r.name for r in lk.list_rooms()] == ["r", "z"]
    assert [(p.identity, p.kind) for p in lk.list_participants("r")] == [("a", "STANDARD"), ("b", "SIP")]
    assert lk.update_room_metadata("r", "n").metadata == "n"
    assert lk.delete_room("r") is True
    assert [(g.room_create, g.room_list, g.room_admin, g.room) for g in twirp.grants] == [
        (True, None, None, ""), (None, True, None, ""), (None, None, True, "r"), (None, None, True, "r"), (True, None, None, "")]
    assert lk.list_rooms([]) == [] and lk.participants_of([]) == {}


def test_ending_a_room_that_is_not_there(twirp):
    twirp.expect("DeleteRoom", {"room": "r"}, error=("not_found", "requested room does not exist", 404))
    assert client(twirp).delete_room("r") is False


def test_ending_a_room_whose_node_died_places_it_anew_first(twirp):
    twirp.expect("DeleteRoom", {"room": "r"}, error=("unknown", "could not find object", 500))
    twirp.expect("CreateRoom", {"name": "r"}, models.Room(name="r"))
    twirp.expect("DeleteRoom", {"room": "r"})
    assert client(twirp).delete_room("r") is True


def test_refusals(twirp):
    twirp.expect("ListRooms", {}, error=("not_found", "twirp error", 404))
    twirp.expect("ListRooms", {}, error=("unknown", "could not find any available nodes", 500))
    twirp.expect("ListRooms", {}, error=("bad_route", "no handler", 404))
    lk = client(twirp)
    assert [code(lk.list_rooms) for _n in range(3)] == ["api_not_found", "api_error", "api_error"]
    assert code(api.Api(twirp.url, KEY, "x" * 32).list_rooms) == "api_unauthorized"
    assert code(lambda: api.Api(twirp.url, KEY, "")) == "api_unauthorized"


def test_a_proxy_without_nodes_and_something_else_altogether(serve):
    async def busy(_request):
        return web.Response(status=503, text="<html>No server is available</html>", content_type="text/html")

    app = web.Application()
    app.router.add_post("/twirp/{tail:.*}", busy)
    url = serve(app)
    assert code(api.Api(url, KEY, SECRET).list_rooms) == "api_unreachable"
    assert code(api.Api(url + "/elsewhere", KEY, SECRET).list_rooms) == "api_error"


def test_nobody_there():
    assert code(api.Api("ws://127.0.0.1:9", KEY, SECRET, timeout=1).list_rooms) == "api_unreachable"


def test_private_authority(serve, certificate):
    async def rooms(_request):
        return web.Response(body=b"", content_type="application/protobuf")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    app = web.Application()
    app.router.add_post("/twirp/livekit.RoomService/ListRooms", rooms)
    url = serve(app, ssl_context=context)
    assert api.Api(url, KEY, SECRET, ca_file=str(certificate[0])).list_rooms() == []
    assert code(api.Api(url, KEY, SECRET).list_rooms) == "api_tls"
    assert code(lambda: api.Api(url, KEY, SECRET, ca_file="/nowhere.pem")) == "api_tls"


# --- versions

async def agent(request):
    """What livekit-server's /agent does when a worker registers."""
    claims = livekit_api.TokenVerifier(KEY, SECRET).verify(request.headers["Authorization"].removeprefix("Bearer "))
    if not claims.video.agent:
        raise web.HTTPUnauthorized
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        assert message.type == aiohttp.WSMsgType.BINARY
        worker = agent_protocol.WorkerMessage.FromString(message.data)
        assert worker.register.agent_name  # without a name it would be sent every room of the cluster
        info = models.ServerInfo(version="1.13.5", node_id="ND_a", region="eu", protocol=17)
        answer = agent_protocol.RegisterWorkerResponse(worker_id="AW_1", server_info=info)
        await socket.send_bytes(agent_protocol.ServerMessage(register=answer).SerializeToString())
    return socket


def test_versions_are_asked_side_by_side(serve):
    app = web.Application()
    app.router.add_get("/agent", agent)
    url, other = serve(app), serve(web.Application())
    found = api.server_infos([url, other, "ws://127.0.0.1:9", url], KEY, SECRET, timeout=2)
    assert found[url] == api.ServerInfo("1.13.5", "ND_a", "eu", 17)
    assert found[other].failure["code"] == "api_error" and found["ws://127.0.0.1:9"].failure["code"] == "api_unreachable"
    assert api.server_info(url, KEY, SECRET).version == "1.13.5"
    assert code(lambda: api.server_info(other, KEY, SECRET)) == "api_error"
