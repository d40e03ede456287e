# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""openrtc.livekit.webhook: LiveKit's webhooks as events of Event-Driven Ansible, once their signature was checked."""
from __future__ import annotations

import asyncio
import collections
import pathlib
import sys
import time
import typing as t

from aiohttp import web

# Rulebooks load this file by its path, with nothing of the collection around it. The core is imported as hosts do it.
_CORE = str(pathlib.Path(__file__).resolve().parents[4] / "plugins" / "module_utils")
if _CORE not in sys.path:
    sys.path.append(_CORE)

from fleet.controller.webhook import verify  # noqa: E402  pylint: disable=wrong-import-position
from fleet.errors import FleetError  # noqa: E402  pylint: disable=wrong-import-position

DOCUMENTATION = r"""
name: webhook
short_description: Receive the webhooks of LiveKit
description:
  - Listens for LiveKit's webhooks and passes on those that one of O(keys) signed; others are answered with 401.
  - LiveKit repeats what was not answered in time, so an event with a known identifier is passed on once. Events get lost when a node dies, and they
    come in any order. Playbooks that are called for them must look at the registry themselves, as those of this collection do.
options:
  host:
    description: Address to listen on.
    type: str
    default: 127.0.0.1
  port:
    description: Port to listen on.
    type: int
    default: 5000
  path:
    description: Path of the webhook, as in C(livekit_webhook.urls).
    type: str
    default: /webhook
  keys:
    description: API keys with their secrets, as C(livekit_keys). Take them from an encrypted file of variables, not from the rulebook.
    type: dict
    required: true
  events:
    description: Only these, such as V(room_started). Default is all.
    type: list
    elements: str
  patience:
    description: Seconds an event may wait for the rules to take it; then LiveKit is told to send it again.
    type: float
    default: 5
requirements:
  - aiohttp
  - pyjwt
"""

EXAMPLES = r"""
- openrtc.livekit.webhook:
    host: 10.0.0.11
    port: 5000
    keys: "{{ livekit_keys }}"
    events: [room_started, room_finished]
"""

KNOWN = {"host", "port", "path", "keys", "events", "patience"}
REMEMBER = 600.0  # seconds for which an event's identifier is known
BODY_LIMIT = 1 << 20


class Receiver:
    """Takes requests and puts their events into the queue of the rules."""

    def __init__(self, queue: asyncio.Queue[t.Any], args: t.Mapping[str, t.Any]) -> None:
        unknown = sorted(set(args) - KNOWN)
        if unknown:
            raise ValueError(f"openrtc.livekit.webhook knows no {', '.join(unknown)}, only {', '.join(sorted(KNOWN))}")
        keys = args.get("keys")
        if not isinstance(keys, dict) or not keys or not all(isinstance(v, str) and v for v in keys.values()):
            raise ValueError("openrtc.livekit.webhook needs keys: {API key: its secret}")
        self.queue, self.keys, self.patience = queue, {str(k): v for k, v in keys.items()}, float(args.get("patience", 5))
        self.events = frozenset(args["events"]) if args.get("events") else None
        self._known: collections.OrderedDict[str, float] = collections.OrderedDict()

    async def take(self, request: web.Request) -> web.Response:
        try:
            event = verify(await request.read(), request.headers.get("Authorization", ""), self.keys)
        except FleetError as exc:
            return web.Response(status=401, text=f"{exc.failure['got']}\n")
        number = str(event.get("id") or "")
        if self.events is not None and event.get("event") not in self.events or self._seen(number):
            return web.Response(text="ok\n")
        try:
            await asyncio.wait_for(self.queue.put({**event, "meta": {"source": "openrtc.livekit.webhook", "path": request.path}}), self.patience)
        except asyncio.TimeoutError:
            self._known.pop(number, None)
            return web.Response(status=503, text="not now\n")
        return web.Response(text="ok\n")

    def _seen(self, number: str) -> bool:
        """Whether this event was passed on before; it is known from now on."""
        now = time.monotonic()
        while self._known and now - next(iter(self._known.values())) > REMEMBER:
            self._known.popitem(last=False)
        if not number:
            return False
        if number in self._known:
            return True
        self._known[number] = now
        return False


async def main(queue: asyncio.Queue[t.Any], args: dict[str, t.Any]) -> None:
    """Called by ansible-rulebook; runs until it is cancelled."""
    receiver = Receiver(queue, args)
    app = web.Application(client_max_size=BODY_LIMIT)
    app.router.add_post(str(args.get("path", "/webhook")), receiver.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, str(args.get("host", "127.0.0.1")), int(args.get("port", 5000))).start()
        await asyncio.Future()
    finally:
        await runner.cleanup()
