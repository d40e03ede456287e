# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller over HTTP: health and metrics for machines, the status page for people, webhooks from LiveKit, and where rooms get their
node. The rest only shows.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import hmac
import json
import os
import time
import typing as t

from ..errors import FleetError, require
from ..registry import Snapshot
from ..reports import Reports
from . import look, view, webhook
from .metrics import CONTENT_TYPE
from .placing import STATUS, Placing, admit

try:
    import aiohttp
    from aiohttp import web
except ImportError:
    aiohttp = web = None  # type: ignore[assignment]

if t.TYPE_CHECKING:
    from ..registry import Registry
    from .loop import Loop
    from .metrics import Metrics
    from .scaling import Scaling
    from .settings import Settings

BODY_LIMIT = 1 << 20  # bytes of a webhook
PENDING_LIMIT = 200  # webhooks that wait for Redis; LiveKit repeats what is turned away
VIEWERS = 50  # pages open at a time
EVERY = 1.0  # seconds between two states of the page
WRONG_PASSWORD = 0.5  # seconds a wrong password costs
FILES = {"/": ("page.html", "text/html"), "/page.js": ("page.js", "text/javascript"), "/page.css": ("page.css", "text/css")}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
                               "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
}


def digest(user: str, password: str) -> str:
    """How the configuration keeps the password of the page; role controller makes the same."""
    return hashlib.sha256(f"openrtc.livekit:{user}:{password}".encode()).hexdigest()


class Web:
    def __init__(self, settings: Settings, loop: Loop, registry: Registry, metrics: Metrics, placing: Placing | None = None,
                 scaling: Scaling | None = None) -> None:
        require(aiohttp, "aiohttp", "python3-aiohttp")
        self.placing, self.scaling = placing, scaling
        self.settings, self.loop, self.registry, self.metrics = settings, loop, registry, metrics
        self._reader = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="web")  # one thread for the one connection
        self._status: dict[str, t.Any] = {}
        self._status_at = 0.0
        self._reading: asyncio.Future[t.Any] | None = None
        self._viewers = self._pending = 0
        self._closing = False
        self._files = {path: (self._load(name), kind) for path, (name, kind) in FILES.items()} if settings.password_sha256 else {}

    def _load(self, name: str) -> bytes:
        path = os.path.join(self.settings.page, name)
        try:
            with open(path, "rb") as handle:
                return handle.read()
        except OSError as exc:
            raise FleetError("read the status page", path, exc, "Run openrtc.livekit.deploy, which lays it down", code="page_missing") from exc

    def app(self) -> t.Any:
        @web.middleware
        async def guard(request: t.Any, handler: t.Any) -> t.Any:
            return await self._guard(request, handler)

        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[guard])
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/metrics", self.show_metrics)
        if self.settings.webhook:
            app.router.add_post("/webhook", self.take_webhook)
        if self.placing:
            app.router.add_post("/v1/rooms", self.place_room)
            app.cleanup_ctx.append(self.placing.run)
        for path in self._files:
            app.router.add_get(path, self.page)
        app.router.add_get("/api/status", self.api_status)
        app.router.add_get("/events", self.events)
        return app

    def close(self) -> None:
        self._closing = True
        self._reader.shutdown(wait=False)

    # -- who may ---------------------------------------------------------------------------------------------------

    async def _guard(self, request: t.Any, handler: t.Any) -> t.Any:
        try:
            answer = await self._admit(request, handler)
        except web.HTTPException as exc:
            exc.headers.update(HEADERS)
            raise
        if not answer.prepared:
            answer.headers.update(HEADERS)
        return answer

    async def _admit(self, request: t.Any, handler: t.Any) -> t.Any:
        if request.path in ("/healthz", "/metrics", "/webhook", "/v1/rooms"):
            return await handler(request)
        if not self.settings.password_sha256:
            raise web.HTTPNotFound(text="There is no status page without a password: set livekit_controller_password\n")
        if not self._allowed(request.headers.get("Authorization", "")):
            if request.headers.get("Authorization"):
                await asyncio.sleep(WRONG_PASSWORD)
            raise web.HTTPUnauthorized(text="Name and password, please\n", headers={"WWW-Authenticate": 'Basic realm="LiveKit status", charset="UTF-8"'})
        return await handler(request)

    def _allowed(self, header: str) -> bool:
        try:
            given = aiohttp.BasicAuth.decode(header, encoding="utf-8")
        except ValueError:
            return False
        return hmac.compare_digest(digest(given.login, given.password), self.settings.password_sha256)

    # -- for machines ----------------------------------------------------------------------------------------------

    async def healthz(self, _request: t.Any) -> t.Any:
        state = {"ok": self.loop.alive, **self._self()}
        return web.json_response(state, status=200 if self.loop.alive else 503)

    async def show_metrics(self, _request: t.Any) -> t.Any:
        body = self.metrics.render(self.loop, self.loop.lease, time.monotonic() - self.loop.ticked)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def take_webhook(self, request: t.Any) -> t.Any:
        if self._pending >= PENDING_LIMIT:
            raise web.HTTPServiceUnavailable(text="too many at a time\n")
        self._pending += 1
        name = "unknown"
        try:
            event = webhook.verify(await request.read(), request.headers.get("Authorization", ""), self.settings.keys)
            name = str(event.get("event")) if event.get("event") in webhook.KNOWN else "other"
            if self.scaling:
                self.scaling.hear(event)
            new = await asyncio.get_running_loop().run_in_executor(self._reader, webhook.note, self.registry, event)
        except FleetError as exc:
            refused = exc.failure["code"] == "webhook_refused"
            self.metrics.event(name, "refused" if refused else "failed")
            return web.Response(status=401 if refused else 503, text=f"{exc.failure['got'] if refused else 'not now'}\n")
        finally:
            self._pending -= 1
        self.metrics.event(name, "taken" if new else "known")
        return web.Response(text="ok\n")

    async def place_room(self, request: t.Any) -> t.Any:
        if self.placing is None:  # there is no such route then
            raise web.HTTPNotFound
        try:
            key = admit(request.headers.get("Authorization", ""), self.settings.keys)
            try:
                body = await request.json()
            except ValueError:
                body = None
            status, answer = await self.placing.place(body, key)
        except FleetError as exc:
            code = str(exc.failure["code"])
            status, answer = STATUS.get(code, 503), {"error": exc.failure}
            if self.scaling and code == "no_receiver":
                self.scaling.refused()
            if status == 401:
                await asyncio.sleep(WRONG_PASSWORD)
        self.metrics.placed("refused" if status in (400, 401, 403) else "failed" if status >= 500 else "created" if status == 201 else "found")
        return web.json_response(answer, status=status, headers={"Retry-After": "2"} if status == 503 else None)

    # -- for people ------------------------------------------------------------------------------------------------

    async def page(self, request: t.Any) -> t.Any:
        body, kind = self._files[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def api_status(self, _request: t.Any) -> t.Any:
        return web.json_response(await self.status())

    async def events(self, request: t.Any) -> t.Any:
        if self._viewers >= VIEWERS:
            raise web.HTTPServiceUnavailable(text="too many pages are open\n")
        answer = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        self._viewers += 1
        try:
            await answer.prepare(request)
            while not self._closing and request.transport is not None and not request.transport.is_closing():
                await asyncio.wait_for(answer.write(f"data: {json.dumps(await self.status())}\n\n".encode()), 10)
                await asyncio.sleep(EVERY)
        except (ConnectionError, asyncio.TimeoutError):
            pass
        finally:
            self._viewers -= 1
        return answer

    def _self(self) -> dict[str, t.Any]:
        return {"name": self.settings.name, "leader": self.loop.leads, "frozen": self.loop.look.frozen, "dry_run": self.settings.dry_run}

    async def status(self) -> dict[str, t.Any]:
        """The state of the moment, read at most once per EVERY however many look at it."""
        if time.monotonic() - self._status_at >= EVERY * 0.9:
            if self._reading is None:
                self._reading = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(self._reader, self._read))
                self._reading.add_done_callback(lambda _done: setattr(self, "_reading", None))
            await asyncio.shield(self._reading)
        return {**self._status, "frozen": self.loop.look.frozen, "self": self._self()}

    def _read(self) -> None:
        try:
            found = look.sources(self.registry, self.loop.look)
        except FleetError:
            found = None  # the page keeps what it had, and says how old it is
        if found is not None:
            self._status = view.status(found)
        elif not self._status:
            self._status = view.status(view.Sources(Snapshot(time.time(), 0.0, {}, {}, frozenset()), Reports([])))
        self._status_at = time.monotonic()
