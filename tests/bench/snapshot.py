#!/usr/bin/env python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long one snapshot of a large cluster takes: 100 nodes with 2,000 rooms, from a Redis server of its own.

Prints a table, writes build/bench/snapshot.json, and ends with 1 if the 95th percentile misses the limit.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t

import google.protobuf
import redis

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "build" / "dev"))

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import (  # noqa: E402  pylint: disable=wrong-import-position
    registry, registry_messages,
)


@contextlib.contextmanager
def private_redis() -> t.Iterator[str]:
    """The address of a redis-server that lives as long as the block."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", home, "--save", "", "--appendonly", "no"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            for _attempt in range(100):
                with contextlib.suppress(redis.exceptions.ConnectionError):
                    if redis.Redis(port=port).ping():
                        break
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def fill(address: str, nodes: int, rooms: int) -> int:
    """Write a cluster of that size as livekit-servers write it, every field set; returns the bytes of the registry."""
    message = registry_messages.messages()
    rand = random.Random(1)
    client = redis.Redis(port=int(address.rsplit(":", 1)[1]))
    pipeline, size = client.pipeline(transaction=False), 0
    ids = [f"ND_{rand.getrandbits(60):012x}" for _n in range(nodes)]
    for number, node_id in enumerate(ids):
        stats = message["NodeStats"](updated_at=int(time.time()) + 3600, cpu_load=rand.random(), num_rooms=rooms // nodes)
        for field in message["NodeStats"].DESCRIPTOR.fields:
            if field.name != "rates" and not getattr(stats, field.name):
                setattr(stats, field.name, rand.randrange(1, 1 << 30))
        for _rate in range(2):
            stats.rates.append(message["NodeStatsRate"](**{f.name: rand.randrange(1, 1 << 20) for f in message["NodeStatsRate"].DESCRIPTOR.fields}))
        raw = message["Node"](id=node_id, ip=f"192.0.2.{number % 250}", region="eu-west-1", num_cpus=8, state=1, stats=stats).SerializeToString()
        pipeline.hset("nodes", node_id, raw)
        size += len(raw)
    for number in range(rooms):
        name = f"room-{number:06d}-{rand.getrandbits(32):08x}"
        raw = message["Room"](sid=f"RM_{number:012x}", name=name, metadata="x" * 200, creation_time=1, num_participants=4).SerializeToString()
        pipeline.hset("rooms", name, raw)
        pipeline.hset("room_node_map", name, rand.choice(ids))
        size += len(raw) + 2 * len(name) + 15
    pipeline.execute()
    return size


def measure(address: str, runs: int) -> list[float]:
    """Milliseconds of each snapshot, its first questions included, as a controller asks them."""
    taken = []
    with registry.connect({"address": address}) as store:
        for _run in range(runs):
            before = time.perf_counter()
            snapshot = store.snapshot()
            snapshot.serving()
            snapshot.ghosts()
            snapshot.rooms_by_node()
            taken.append((time.perf_counter() - before) * 1000)
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--rooms", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--limit", type=float, default=150.0, help="milliseconds that the 95th percentile may take")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "build" / "bench" / "snapshot.json")
    args = parser.parse_args()
    with private_redis() as address:
        size = fill(address, args.nodes, args.rooms)
        taken = measure(address, args.runs)
    cuts = statistics.quantiles(taken, n=100)
    result = {
        "what": "registry snapshot", "nodes": args.nodes, "rooms": args.rooms, "registry_bytes": size, "runs": args.runs, "unit": "ms",
        "first": round(taken[0], 3), "p50": round(cuts[49], 3), "p95": round(cuts[94], 3), "p99": round(cuts[98], 3), "max": round(max(taken), 3),
        "limit_p95": args.limit, "ok": cuts[94] <= args.limit, "python": platform.python_version(), "redis_py": redis.__version__,
        "protobuf": google.protobuf.__version__, "milliseconds": [round(x, 3) for x in taken],
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{'NODES':>6} {'ROOMS':>6} {'RUNS':>5} {'FIRST':>8} {'P50':>8} {'P95':>8} {'P99':>8} {'MAX':>8}  LIMIT P95")
    print(f"{args.nodes:>6} {args.rooms:>6} {args.runs:>5} " + " ".join(f"{result[k]:>8.1f}" for k in ("first", "p50", "p95", "p99", "max"))
          + f"  {args.limit:g} ms: {'ok' if result['ok'] else 'MISSED'}")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
