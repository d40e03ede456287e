#!/usr/bin/env python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a webhook to the scaler's decision, while webhooks get lost, come twice and in any order. Then: does what was heard drift from what is?

The controller's scaler over a Redis of its own: 30 nodes, 600 rooms, one room after the other begins or ends. Time runs from the request's body, its
signature included, until a decision that knows of it is written down. The scaler looks at the registry every few seconds meanwhile, as ever.
Writes build/bench/webhooks.json; ends with 1 where a goal is missed.
"""
from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time
import typing as t

import jwt
import redis

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "build" / "dev"))

from snapshot import fill, private_redis  # noqa: E402  pylint: disable=wrong-import-position

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import registry, registry_messages  # noqa: E402  pylint: disable=wrong-import-position
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller import webhook  # noqa: E402  pylint: disable=wrong-import-position
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.scaling import Scaling  # noqa: E402  pylint: disable=wrong-import-position
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.settings import Settings  # noqa: E402  pylint: disable=wrong-import-position

KEYS = {"APIbench": "s" * 64}
LOST, DOUBLED, WINDOW = 0.1, 0.1, 25  # shares; webhooks among which the order is shuffled
LIMIT_MS = 50.0


class Nobody:
    """A pool without machines: the nodes are the operator's own."""

    name = "none"

    def machines(self) -> list[t.Any]:
        return []

    def size(self) -> int:
        return 0


class Loop:
    """A controller that leads and sees nothing wrong."""

    leads = True

    class look:  # pylint: disable=invalid-name
        frozen = ""


class Timed:
    """Notes when each webhook came that said something new, and when a decision knew of it."""

    def __init__(self, scaling: Scaling) -> None:
        self.taken: list[float] = []
        self._waiting: list[float] = []
        self.came = 0.0
        self._hear, self._decide = scaling.ledger.hear, scaling._decide
        scaling.ledger.hear = self.hear  # type: ignore[method-assign]
        scaling._decide = self.decide  # type: ignore[method-assign]

    def hear(self, *args: t.Any) -> bool:
        new = self._hear(*args)
        if new:
            self._waiting.append(self.came)
        return new

    def decide(self) -> t.Any:
        known, self._waiting = self._waiting, []
        decision = self._decide()
        now = time.perf_counter()
        self.taken += [1000 * (now - came) for came in known]
        return decision


def events(rand: random.Random, count: int, client: redis.Redis) -> t.Iterator[tuple[dict[str, t.Any], t.Callable[[], None]]]:
    """(webhook, what makes it true in the registry): rooms begin and end."""
    living: list[tuple[str, int]] = []
    rooms = registry_messages.messages()["Room"]
    for number in range(count):
        if living and rand.random() < 0.45:
            name, created = living.pop(rand.randrange(len(living)))
            kind, change = "room_finished", [("hdel", "rooms", name), ("hdel", "room_node_map", name)]
        else:
            name, created, kind = f"new-{number}", int(time.time()), "room_started"
            living.append((name, created))
            node = client.hkeys("nodes")[number % 30]
            change = [("hset", "rooms", name, rooms(name=name, creation_time=created).SerializeToString()), ("hset", "room_node_map", name, node)]
        event = {"event": kind, "id": f"EV_{number}", "room": {"name": name, "creationTime": str(created)}, "createdAt": str(int(time.time()))}
        yield event, lambda todo=change: [getattr(client, what)(*args) for what, *args in todo] and None  # type: ignore[misc]


def signed(event: t.Mapping[str, t.Any]) -> tuple[bytes, str]:
    body = json.dumps(event).encode()
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return body, jwt.encode({"iss": "APIbench", "exp": time.time() + 60, "sha256": digest}, KEYS["APIbench"], algorithm="HS256")


def run(address: str, count: int, rate: float, seed: int) -> dict[str, t.Any]:
    client, rand = redis.Redis(port=int(address.rsplit(":", 1)[1])), random.Random(seed)
    config = {"pool": {"kind": "slots"}, "measure": "rooms", "per_node": 20, "limits": {"min": 3, "max": 60, "dry_run": True}}
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(redis={"address": address}, name="bench", scaling=config, demand_file=f"{home}/demand.sqlite", keys=KEYS)
        scaling = Scaling(settings, Loop(), lambda: registry.connect({"address": address}), len, make=lambda *_args: Nobody())  # type: ignore[arg-type]
        timed, sent, wrong = Timed(scaling), 0, []
        scaling.start()
        time.sleep(1.0)
        batch: list[dict[str, t.Any]] = []
        for event, make_true in events(rand, count, client):
            make_true()
            copies = 0 if rand.random() < LOST else 2 if rand.random() < DOUBLED else 1
            batch += [event] * copies
            if len(batch) < WINDOW:
                continue
            rand.shuffle(batch)
            for one in batch:
                body, token = signed(one)
                timed.came = time.perf_counter()
                scaling.hear(webhook.verify(body, token, KEYS))
                sent += 1
                time.sleep(1 / rate)
            batch.clear()
        time.sleep(11.0)  # two looks
        known, there = scaling.ledger.live(), {name.decode() for name in client.hkeys("rooms")}
        wrong = sorted(known ^ there)
        scaling.stop()
    cuts = statistics.quantiles(timed.taken, n=100)
    return {"webhooks": sent, "new": len(timed.taken), "ms": {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2), "max": round(max(timed.taken), 2)},
            "limit_ms": LIMIT_MS, "wrong_rooms": len(wrong), "load": round(os.getloadavg()[0], 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1500, help="rooms that begin or end")
    parser.add_argument("--rate", type=float, default=50.0, help="webhooks per second")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with private_redis() as address:
        fill(address, 30, 600)
        result = run(address, args.count, args.rate, args.seed)
    out = ROOT / "build" / "bench" / "webhooks.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result) + "\n", encoding="utf-8")
    ms = result["ms"]
    print(f"{result['webhooks']} webhooks, {result['new']} with news: decided after {ms['p50']:.1f} ms (99 %: {ms['p99']:.1f}, most {ms['max']:.1f}); limit "
          f"{LIMIT_MS:g} ms; rooms known wrongly at the end: {result['wrong_rooms']}; load average {result['load']}")
    return 0 if ms["p99"] <= LIMIT_MS and not result["wrong_rooms"] else 1


if __name__ == "__main__":
    sys.exit(main())
