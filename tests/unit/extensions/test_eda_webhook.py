# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The event source, loaded and called as ansible-rulebook does it, with requests as LiveKit signs them."""
from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import pathlib
import runpy
import time

import aiohttp
import jwt
import pytest
import yaml
from conftest import free_port

EDA = pathlib.Path(__file__).parents[3] / "extensions" / "eda"
KEYS = {"APItest": "s" * 64}


def signed(event, key="APItest", secret="s" * 64, body=None):
    raw = json.dumps(event).encode()
    digest = base64.b64encode(hashlib.sha256(raw if body is None else body).digest()).decode()
    return raw, jwt.encode({"iss": key, "exp": time.time() + 60, "sha256": digest}, secret, algorithm="HS256")


def call(requests, size=0, **args):
    """[statuses], [events]: what these (body, token) are answered, and what reaches the rules."""
    async def run():
        queue, port = asyncio.Queue(size), free_port()
        source = runpy.run_path(str(EDA / "plugins/event_source/webhook.py"))
        task = asyncio.ensure_future(source["main"](queue, {"keys": KEYS, "port": port, **args}))
        statuses = []
        async with aiohttp.ClientSession() as session:
            for raw, token in requests:
                for dummy in range(100):
                    with contextlib.suppress(aiohttp.ClientConnectorError):
                        async with session.post(f"http://127.0.0.1:{port}{args.get('path', '/webhook')}", data=raw, headers={"Authorization": token}) as answer:
                            statuses.append(answer.status)
                        break
                    await asyncio.sleep(0.02)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return statuses, [queue.get_nowait() for dummy in range(queue.qsize())]

    return asyncio.run(run())


EVENT = {"event": "room_started", "id": "EV_1", "room": {"name": "standup", "creationTime": "1790000000"}, "createdAt": "1790000001"}


def test_a_signed_event_reaches_the_rules():
    statuses, events = call([signed(EVENT)], path="/livekit")
    assert statuses == [200]
    assert events == [{**EVENT, "meta": {"source": "openrtc.livekit.webhook", "path": "/livekit"}}]


def test_what_nobody_of_ours_signed_does_not():
    statuses, events = call([signed(EVENT, secret="x" * 64), signed(EVENT, key="APIother"), signed(EVENT, body=b"{}"), (b"{}", ""), (b"{}", "no token")])
    assert statuses == [401] * 5 and events == []


def test_an_event_that_is_repeated_comes_once():
    other = {**EVENT, "id": "EV_2"}
    statuses, events = call([signed(EVENT), signed(EVENT), signed(other)])
    assert statuses == [200] * 3 and [e["id"] for e in events] == ["EV_1", "EV_2"]


def test_only_the_kinds_that_are_wanted():
    statuses, events = call([signed(EVENT), signed({**EVENT, "id": "EV_2", "event": "room_finished"})], events=["room_finished"])
    assert statuses == [200, 200] and [e["event"] for e in events] == ["room_finished"]


def test_an_event_the_rules_have_no_time_for_is_asked_for_again():
    other = {**EVENT, "id": "EV_2"}
    statuses, events = call([signed(EVENT), signed(other), signed(other)], size=1, patience=0.1)
    assert statuses == [200, 503, 503] and len(events) == 1


@pytest.mark.parametrize("args, word", [
    ({"keys": {}}, "needs keys"), ({"keys": {"a": ""}}, "needs keys"), ({"keys": "a"}, "needs keys"), ({"kyes": 1}, "kyes"),
])
def test_settings_that_cannot_work_end_it(args, word):
    source = runpy.run_path(str(EDA / "plugins/event_source/webhook.py"))
    with pytest.raises(ValueError, match=word):
        asyncio.run(source["main"](asyncio.Queue(), {"keys": KEYS, **args}))


def test_rulebooks_name_playbooks_and_sources_that_exist():
    for path in (EDA / "rulebooks").glob("*.yml"):
        for ruleset in yaml.safe_load(path.read_text()):
            (source,) = ruleset["sources"]
            assert set(source) == {"openrtc.livekit.webhook"} and (EDA / "plugins/event_source/webhook.py").exists()
            for rule in ruleset["rules"]:
                name = rule["action"]["run_playbook"]["name"]
                assert (EDA.parents[1] / "playbooks" / f"{name.rpartition('.')[2]}.yml").exists()
