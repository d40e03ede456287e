# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server API of LiveKit, for code that is not asynchronous, and access tokens.

Thin over livekit-api; what comes back are the same Room and Participant that the registry gives. token() needs no library.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import json
import ssl
import time
import typing as t
import urllib.parse

from .errors import FleetError, require
from .registry_messages import Participant, Room

try:
    import aiohttp
    from livekit import api as livekit_api
    from livekit.api.room_service import RoomService
except ImportError:
    livekit_api = None  # type: ignore[assignment]

try:
    from livekit.protocol import agent as agent_protocol
except ImportError:
    agent_protocol = None  # type: ignore[assignment]

DEFAULT_TTL = 21600  # seconds, as in LiveKit's own SDKs
GRANTS = {  # name here -> name in the token
    "room_create": "roomCreate", "room_list": "roomList", "room_record": "roomRecord", "room_admin": "roomAdmin", "room_join": "roomJoin",
    "room": "room", "destination_room": "destinationRoom", "can_publish": "canPublish", "can_subscribe": "canSubscribe",
    "can_publish_data": "canPublishData", "can_publish_sources": "canPublishSources", "can_update_own_metadata": "canUpdateOwnMetadata",
    "can_subscribe_metrics": "canSubscribeMetrics", "can_manage_agent_session": "canManageAgentSession", "ingress_admin": "ingressAdmin",
    "hidden": "hidden", "recorder": "recorder", "agent": "agent",
}
_CONCURRENT = 16


def token(
    key: str, secret: str, identity: str = "", room: str = "", ttl: float = DEFAULT_TTL, grants: t.Mapping[str, t.Any] | None = None,
    sip: t.Mapping[str, bool] | None = None, name: str = "", metadata: str = "", kind: str = "", attributes: t.Mapping[str, str] | None = None,
    now: float | None = None,
) -> str:
    """An access token (JWT). With a room and no grants it lets `identity` join that room; grants are named as in GRANTS."""
    if not key or not secret:
        raise FleetError("make an access token", key or "no key", "key or secret is empty", "Give both parts of an entry of livekit_keys", code="token_key")
    wanted = {"room_join": True} if room and not grants else dict(grants or {})
    unknown = sorted(g for g in wanted if g not in GRANTS and g not in GRANTS.values())
    if unknown:
        raise FleetError("make an access token", identity or key, f"there is no grant {', '.join(unknown)}", f"Use only these: {', '.join(GRANTS)}",
                         code="token_grant", unknown=unknown)
    video = {GRANTS.get(g, g): value for g, value in wanted.items() if value is not None}
    if room:
        video["room"] = room
    if video.get("roomJoin") and not (identity and video.get("room")):
        raise FleetError("make an access token", identity or key, "joining needs an identity and a room", "Give identity and room", code="token_join")
    issued = int(time.time() if now is None else now)
    claims: dict[str, t.Any] = {"iss": key, "sub": identity, "nbf": issued, "exp": issued + int(ttl), "video": video}
    claims.update({k: v for k, v in (("name", name), ("metadata", metadata), ("kind", kind)) if v})
    if attributes:
        claims["attributes"] = dict(attributes)
    if sip:
        claims["sip"] = dict(sip)
    signed = b".".join(_base64(json.dumps(part, separators=(",", ":")).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return (signed + b"." + _base64(hmac.new(secret.encode(), signed, hashlib.sha256).digest())).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def http_url(url: str) -> str:
    """The http(s) form of a LiveKit URL, which may be ws(s) too."""
    parts = urllib.parse.urlsplit(str(url))
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password or parts.query:
        raise FleetError("use the LiveKit URL", str(url).split("?", maxsplit=1)[0].rpartition("@")[2], "it is not a plain ws, wss, http or https URL",
                         "Write it like wss://livekit.example.com or http://10.0.0.5:7880", code="api_url")
    return urllib.parse.urlunsplit((scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


@dataclasses.dataclass(frozen=True)
class ServerInfo:
    """What the node behind a signalling address says about itself."""

    version: str
    node_id: str
    region: str
    protocol: int


class Api:
    """LiveKit's RoomService of one URL. Each call is complete in itself; calls raise FleetError with one of these codes:

    api_unreachable, api_tls, api_unauthorized, api_not_found, api_error, api_url, missing_library.
    """

    def __init__(self, url: str, key: str, secret: str, ca_file: str | None = None, timeout: float = 10.0) -> None:
        require(livekit_api, "livekit-api", "(no Debian package: use pip, or run this on the controller)")
        self.url = http_url(url)
        self._key, self._secret, self._timeout = key, secret, timeout
        self._tls = _context(self.url, ca_file)
        if not key or not secret:
            raise FleetError("call the LiveKit API", self.url, "key or secret is empty", "Give both parts of an entry of livekit_keys", code="api_unauthorized")

    def create_room(
        self, name: str, node_id: str | None = None, metadata: str | None = None, empty_timeout: int | None = None,
        departure_timeout: int | None = None, max_participants: int | None = None,
    ) -> Room:
        """Create the room, or return it unchanged if it exists. node_id pins a new room, even to a node that drains or is gone."""
        request = livekit_api.CreateRoomRequest(name=name)
        for field, value in (("node_id", node_id), ("metadata", metadata), ("empty_timeout", empty_timeout), ("departure_timeout", departure_timeout),
                             ("max_participants", max_participants)):
            if value is not None:
                setattr(request, field, value)
        return _room(self._call(f"create room {name}", lambda service: service.create_room(request)))

    def delete_room(self, name: str) -> bool:
        """End the room for everybody in it. False if there was none.

        A room whose node died cannot be ended ("could not find object"): LiveKit asks that node. Created again it lands on a
        living node, and then it can.
        """
        def delete() -> bool:
            try:
                self._call(f"delete room {name}", lambda service: service.delete_room(livekit_api.DeleteRoomRequest(room=name)))
            except FleetError as exc:
                if exc.failure["code"] == "api_not_found":
                    return False
                raise
            return True

        try:
            return delete()
        except FleetError as exc:
            if "could not find object" not in exc.failure["got"]:
                raise
            self.create_room(name)
            return delete()

    def list_rooms(self, names: t.Iterable[str] | None = None) -> list[Room]:
        """Rooms of the whole cluster, by name: the named ones that exist, or all."""
        wanted = list(names) if names is not None else []
        if names is not None and not wanted:
            return []
        request = livekit_api.ListRoomsRequest(names=wanted)
        answer = self._call("list rooms", lambda service: service.list_rooms(request))
        return sorted((_room(r) for r in answer.rooms), key=lambda r: r.name)

    def list_participants(self, room: str) -> list[Participant]:
        return self.participants_of([room])[room]

    def participants_of(self, rooms: t.Iterable[str]) -> dict[str, list[Participant]]:
        """{room: its participants, by identity}, asked side by side."""
        wanted = list(rooms)

        async def ask(service: t.Any) -> list[t.Any]:
            gate = asyncio.Semaphore(_CONCURRENT)

            async def one(room: str) -> t.Any:
                async with gate:
                    return await service.list_participants(livekit_api.ListParticipantsRequest(room=room))

            return await asyncio.gather(*[one(room) for room in wanted])

        if not wanted:
            return {}
        answers = self._call(f"list participants of {', '.join(wanted[:3])}{' ...' if len(wanted) > 3 else ''}", ask)
        return {
            room: sorted((Participant.parse(p.SerializeToString()) for p in answer.participants), key=lambda p: p.identity)
            for room, answer in zip(wanted, answers)
        }

    def update_room_metadata(self, room: str, metadata: str) -> Room:
        request = livekit_api.UpdateRoomMetadataRequest(room=room, metadata=metadata)
        return _room(self._call(f"set the metadata of room {room}", lambda service: service.update_room_metadata(request)))

    def _call(self, tried: str, ask: t.Callable[[t.Any], t.Awaitable[t.Any]]) -> t.Any:
        async def run() -> t.Any:
            async with _session(self._tls, self._timeout) as session:
                return await ask(RoomService(session, self.url, self._key, self._secret))

        try:
            return asyncio.run(run())
        except livekit_api.TwirpError as exc:
            raise self._refused(tried, exc.code, exc.message, getattr(exc, "status", 0)) from exc
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as exc:
            raise _unreachable(tried, self.url, exc, self._timeout) from exc

    def _refused(self, tried: str, code: str, message: str, status: int) -> FleetError:
        got = f"{code}: {message}" if message else f"HTTP {status}"
        fields = {"twirp_code": code, "status": status}
        if code in ("unauthenticated", "permission_denied") or status in (401, 403):
            return FleetError(tried, self.url, got, f"Check that {self._key} and its secret are in the server's keys, and that clocks agree within a minute",
                              code="api_unauthorized", **fields)
        if code == "not_found":
            return FleetError(tried, self.url, got, "Check the name; the room may have ended", code="api_not_found", **fields)
        if code == "unknown" and not message and status in (502, 503, 504):
            return FleetError(tried, self.url, got, "A proxy answered, no LiveKit node is behind it: look at the balancer", code="api_unreachable", **fields)
        if code in ("bad_route", "unimplemented") or status == 404:
            return FleetError(tried, self.url, got, "That is no LiveKit server: check the URL, path included", code="api_error", **fields)
        fix = "Look at the log of the node; no node may be serving, or the room's node is gone (node_info shows both)"
        return FleetError(tried, self.url, got, fix, code="api_error", **fields)


def _room(message: t.Any) -> Room:
    return Room.parse(message.SerializeToString())


def _context(url: str, ca_file: str | None) -> ssl.SSLContext | None:
    if not url.startswith("https:"):
        return None
    try:
        context = ssl.create_default_context()
        if ca_file:
            context.load_verify_locations(cafile=ca_file)
        return context
    except (OSError, ssl.SSLError) as exc:
        raise FleetError("load the CA certificate", str(ca_file), exc, "Give the path of a PEM file that exists here", code="api_tls") from exc


def _session(tls: ssl.SSLContext | None, timeout: float) -> t.Any:
    connector = aiohttp.TCPConnector(ssl=tls) if tls else aiohttp.TCPConnector()
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=timeout))


def _unreachable(tried: str, url: str, exc: BaseException, timeout: float) -> FleetError:
    if isinstance(exc, asyncio.TimeoutError):
        return FleetError(tried, url, f"no answer within {timeout:g} s", "Check that the node or balancer runs and that no firewall is in between",
                          code="api_unreachable")
    if isinstance(exc, (aiohttp.ClientSSLError, ssl.SSLError)):
        return FleetError(tried, url, exc, "Give the private CA's certificate as ca_file, and use a name that the certificate covers", code="api_tls")
    return FleetError(tried, url, exc, "Check the URL, that the node or balancer runs and that no firewall is in between", code="api_unreachable")


def server_infos(
    urls: t.Iterable[str], key: str, secret: str, ca_file: str | None = None, timeout: float = 3.0,
) -> dict[str, ServerInfo | FleetError]:
    """{url: what the node behind it runs, or why that is not known}, asked side by side.

    Neither the registry nor Prometheus nor an HTTP header tells the version of a node. The answer to an agent worker's
    registration does, with the node's id, so we register one under a name that nobody dispatches to, and leave at once: no
    room, no participant, no webhook. Draining nodes answer too.
    """
    require(livekit_api, "livekit-api", "(no Debian package: use pip, or run this on the controller)")
    require(agent_protocol, "livekit-protocol", "(no Debian package: use pip, or run this on the controller)")
    wanted = list(dict.fromkeys(urls))
    return asyncio.run(_server_infos(wanted, key, secret, ca_file, timeout)) if wanted else {}


def server_info(url: str, key: str, secret: str, ca_file: str | None = None, timeout: float = 3.0) -> ServerInfo:
    """What the node behind one signalling URL runs."""
    found = server_infos([url], key, secret, ca_file, timeout)[url]
    if isinstance(found, FleetError):
        raise found
    return found


async def _server_infos(urls: list[str], key: str, secret: str, ca_file: str | None, timeout: float) -> dict[str, ServerInfo | FleetError]:
    gate = asyncio.Semaphore(_CONCURRENT)
    bearer = token(key, secret, grants={"agent": True}, ttl=60)

    async def ask(url: str) -> ServerInfo | FleetError:
        tried = "ask the version of a node"
        try:
            base = http_url(url)
            async with gate, _session(_context(base, ca_file), timeout) as session:
                async with session.ws_connect(f"{base}/agent", headers={"Authorization": f"Bearer {bearer}"}) as socket:
                    hello = agent_protocol.RegisterWorkerRequest(agent_name="openrtc-version", version="0")
                    await socket.send_bytes(agent_protocol.WorkerMessage(register=hello).SerializeToString())
                    answer = await socket.receive(timeout)
                    if answer.type != aiohttp.WSMsgType.BINARY:
                        return FleetError(tried, base, f"the socket ended with {answer.type.name}", "Look at the log of the node", code="api_error")
                    info = agent_protocol.ServerMessage.FromString(answer.data).register.server_info
            return ServerInfo(info.version, info.node_id, info.region, info.protocol)
        except FleetError as exc:
            return exc
        except aiohttp.WSServerHandshakeError as exc:
            code = "api_unauthorized" if exc.status in (401, 403) else "api_error"
            fix = "Check that the key and secret are in the server's keys, and that this is a LiveKit node"
            return FleetError(tried, url, f"HTTP {exc.status}", fix, code=code)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as exc:
            return _unreachable(tried, url, exc, timeout)
        except Exception as exc:  # a server that speaks another protocol  # pylint: disable=broad-except
            return FleetError(tried, url, f"{type(exc).__name__}: {exc}", "Check that this is a LiveKit node", code="api_error")

    return dict(zip(urls, await asyncio.gather(*[ask(url) for url in urls])))
