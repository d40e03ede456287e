# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""POST /v1/rooms: create a room on the best node, or find it, and give a token for it.

Who asks shows a LiveKit access token of one of our keys with the grant roomCreate, as for LiveKit's own CreateRoom. Asking again is harmless, at this
controller or at another one: see placement/claims.py.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import math
import time
import typing as t

from .. import api
from ..errors import FleetError, require
from ..placement.desk import Desk, Settled
from ..placement.policy import Policy, Wish
from ..reports import Reports
from .webhook import LEEWAY

try:
    import aiohttp
except ImportError:
    aiohttp = None  # type: ignore[assignment]

try:
    import jwt
except ImportError:
    jwt = None  # type: ignore[assignment]

if t.TYPE_CHECKING:
    from ..registry import Registry
    from .loop import Loop
    from .settings import Settings

LOOK = 1.0  # seconds between two looks while nobody asks: what happened since is in the placer's memory
CREATE_TIMEOUT = 5.0  # seconds for a node to create a room
TRIES = 3  # nodes that are asked to take a room
NAME_LIMIT = 256  # LiveKit's own max_room_name_length and max_participant_identity_length
LIMIT = 1e6  # participants, seconds: anything beyond is a mistake
STATUS = {"bad_request": 400, "unauthorized": 401, "forbidden": 403, "no_receiver": 503, "node_dead": 503, "frozen": 503, "not_created": 502,
          "not_answered": 504}
# What may be in a request: name -> (types, words)
_TEXT, _NUMBER, _FLAG, _TEXTS = (str, "text"), ((int, float), "a number, 0 or more"), (bool, "true or false"), (list, "a list of texts")
FIELDS: dict[str, tuple[t.Any, str]] = {
    "room": _TEXT, "participants": _NUMBER, "video": _NUMBER, "labels": _TEXTS, "node_label": _TEXT, "region": _TEXT, "version": _TEXT,
    "required": _FLAG, "identity": _TEXT, "name": _TEXT, "ttl": _NUMBER, "can_publish": _FLAG, "can_subscribe": _FLAG, "can_publish_data": _FLAG,
    "metadata": _TEXT, "empty_timeout": _NUMBER, "departure_timeout": _NUMBER, "max_participants": _NUMBER,
}
_WISH = ("room", "participants", "video", "labels", "node_label", "region", "version", "required")
_ROOM = ("metadata", "empty_timeout", "departure_timeout", "max_participants")
_GRANTS = ("can_publish", "can_subscribe", "can_publish_data")


def refused(code: str, got: str, fix: str) -> FleetError:
    return FleetError("place a room", "POST /v1/rooms", got, fix, code=code)


def admit(header: str, keys: t.Mapping[str, str], now: float | None = None) -> str:
    """The key that may create rooms, from "Bearer TOKEN". Raises FleetError unauthorized, forbidden."""
    require(jwt, "pyjwt", "python3-jwt")
    kind, dummy, text = header.partition(" ")
    try:
        if kind.lower() != "bearer":
            raise ValueError("there is no bearer token")
        key = str(jwt.decode(text.strip(), options={"verify_signature": False}).get("iss"))
        if key not in keys:
            raise ValueError("its key is not ours")
        claims = jwt.decode(text.strip(), keys[key], algorithms=["HS256"], options={"require": ["exp"], "verify_exp": False, "verify_nbf": False,
                                                                                    "verify_iat": False, "verify_aud": False})
        moment = time.time() if now is None else now
        if moment > float(claims["exp"]) + LEEWAY or moment < float(claims.get("nbf") or 0) - LEEWAY:
            raise ValueError("it is out of date, or the clocks differ")
        video = claims.get("video")
    except (jwt.InvalidTokenError, ValueError, TypeError) as exc:
        raise refused("unauthorized", str(exc), "Send Authorization: Bearer with an access token of one of livekit_keys") from exc
    if not isinstance(video, dict) or video.get("roomCreate") is not True:
        raise refused("forbidden", "the token lacks the grant roomCreate", "Make it with that grant, as for LiveKit's own CreateRoom")
    return key


def parse(body: t.Any) -> dict[str, t.Any]:
    """The request, checked. Raises FleetError bad_request."""
    if not isinstance(body, dict):
        raise refused("bad_request", "the body is no JSON object", 'Send something like {"room": "daily", "participants": 12, "identity": "alice"}')
    for name, value in body.items():
        if name not in FIELDS:
            raise refused("bad_request", f"there is no field {name[:50]}", f"Use these: {', '.join(FIELDS)}")
        types, words = FIELDS[name]
        good = isinstance(value, types) and (types is bool or not isinstance(value, bool))
        if good and types is list:
            good = all(isinstance(v, str) for v in value) and len(value) <= 20
        if good and FIELDS[name] is _NUMBER:
            good = math.isfinite(value) and 0 <= value <= LIMIT
        if not good:
            raise refused("bad_request", f"{name} is not {words}", "Correct it")
    for name in ("room", "identity", "name"):
        if len(body.get(name, "")) > NAME_LIMIT:
            raise refused("bad_request", f"{name} has more than {NAME_LIMIT} characters", "Use a shorter one")
    if not body.get("room", "").strip():
        raise refused("bad_request", "room is missing", "Name the room")
    return body


class Placing:
    """The desk, in a thread of its own, and the calls to the nodes."""

    def __init__(self, settings: Settings, loop: Loop, registry: Registry, tell: t.Callable[[dict[str, t.Any]], None] = lambda entry: None) -> None:
        require(aiohttp, "aiohttp", "python3-aiohttp")
        self.settings, self.loop, self._tell = settings, loop, tell
        self.desk = Desk(registry, Policy.from_mapping(dict(settings.placement_policy)), settings.owner)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="placing")
        self._looking: asyncio.Task[None] | None = None
        self._seen: t.Any = None  # the snapshot of the last look

    async def run(self, _app: t.Any) -> t.AsyncIterator[None]:
        """For aiohttp's cleanup_ctx: looks on as long as the web runs, so that growing rooms are known when somebody asks."""
        self._looking = asyncio.ensure_future(self._keep_looking())
        yield
        self._looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._looking
        self._thread.shutdown(wait=False)

    async def _keep_looking(self) -> None:
        while True:
            with contextlib.suppress(FleetError):  # the loop tells why nothing can be seen; who asks is told too
                await self._do(self._look)
            await asyncio.sleep(LOOK)

    async def _do(self, work: t.Callable[..., t.Any], *args: t.Any) -> t.Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, functools.partial(work, *args))

    def _look(self) -> None:
        look = self.loop.look
        why = look.frozen if self.loop.alive else "the controller's loop has not looked for ten seconds"
        if why or look.snapshot is None or look.reports is None:
            raise refused("frozen", why or "nothing was read yet", "Nothing is decided on data that cannot be trusted; try again in some seconds")
        if look.snapshot is not self._seen:
            self.desk.look(look.snapshot, look.reports, {*look.requests, *(r.node_id for r in look.records.values())},
                           keep=self.loop.leads and not self.settings.dry_run)
            self._seen = look.snapshot

    async def place(self, body: t.Any, key: str) -> tuple[int, dict[str, t.Any]]:
        """(status, answer) of a request that was admitted for that key. Raises FleetError with a code of STATUS."""
        asked = parse(body)
        wish = Wish(**{**{name: asked[name] for name in _WISH if name in asked}, "labels": tuple(asked.get("labels", ()))})
        if self.desk.age > LOOK or self.loop.look.frozen:
            await self._do(self._look)
        if self.settings.dry_run:
            return 200, self._answer(asked, key, await self._do(self.desk.preview, wish), dry_run=True)
        tried: list[str] = []
        while True:
            settled = await self._do(self.desk.settle, wish, tried, self.settings.recover)
            try:
                room = {} if settled.kind == "found" else await self._create(asked, settled.node_id, key)
                break
            except FleetError as exc:
                if exc.failure["code"] == "not_answered":  # it may yet create the room: the claim stays, so that nobody creates another one elsewhere
                    raise
                await self._do(self.desk.release, wish, settled.node_id)
                tried.append(settled.node_id)
                if len(tried) >= TRIES:
                    raise
        home = await self._do(self.desk.home, wish.room) or settled.node_id
        if home != settled.node_id:  # somebody joined before it was made, and LiveKit chose; that is where it is
            settled = Settled("found", home)
        answer = self._answer(asked, key, settled, **({"sid": room["sid"]} if room.get("sid") else {}))
        if settled.kind == "new":
            self._tell({"at": round(self.desk.now, 3), "kind": "place", "outcome": "created",
                        **{k: answer.get(k) for k in ("reason", "room", "node_id", "host", "expected")}})
            return 201, answer
        return 200, answer

    def _answer(self, asked: t.Mapping[str, t.Any], key: str, settled: Settled, **more: t.Any) -> dict[str, t.Any]:
        choice = settled.choice
        place = (self.loop.look.reports or Reports([])).place_of(settled.node_id)
        found = "it is there already" if settled.kind == "found" else "somebody is just placing it there"
        answer: dict[str, t.Any] = {"room": asked["room"], "node_id": settled.node_id, "host": place.host if place else "", "created": settled.kind == "new",
                                    "reason": choice.reason if choice else found, "url": self.settings.public_url, **more}
        if choice:
            answer["expected"] = {"participants": round(choice.size.participants, 1), "video": round(choice.size.video, 1),
                                  "node_share": round(choice.share, 3)}
        if asked.get("identity"):
            grants = {"room_join": True, **{g: asked[g] for g in _GRANTS if g in asked}}
            answer["token"] = api.token(key, self.settings.keys[key], asked["identity"], asked["room"], asked.get("ttl") or api.DEFAULT_TTL, grants,
                                        name=asked.get("name", ""))
        return answer

    async def _create(self, asked: t.Mapping[str, t.Any], node_id: str, key: str) -> dict[str, t.Any]:
        """LiveKit's CreateRoom, asked of the node itself. Raises FleetError not_created where it is sure, not_answered where it is not."""
        place = (self.loop.look.reports or Reports([])).place_of(node_id)
        url = place.url if place else self.settings.public_url
        request = {"name": asked["room"], "node_id": node_id, **{k: asked[k] if k == "metadata" else int(asked[k]) for k in _ROOM if k in asked}}
        bearer, code = api.token(key, self.settings.keys[key], grants={"room_create": True}, ttl=60), "not_created"
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CREATE_TIMEOUT)) as session:
                async with session.post(f"{api.http_url(url)}/twirp/livekit.RoomService/CreateRoom", json=request,
                                        headers={"Authorization": f"Bearer {bearer}"}) as answer:
                    said = await answer.json(content_type=None)
                    if answer.status == 200 and isinstance(said, dict):
                        return said
                    got = f"HTTP {answer.status}: {said.get('msg') if isinstance(said, dict) else said}"
        except aiohttp.ClientConnectorError as exc:
            got = str(exc)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as exc:
            got, code = str(exc) or type(exc).__name__, "not_answered"
        raise FleetError("create a room", f"{asked['room']} on {node_id}", got, "Try again; if it stays so, look at the log of that node", code=code)
