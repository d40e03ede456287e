# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long it takes to cut the signalling of one room and of twenty among thousands of WebSockets, and whether it hits these and no others.

HAProxy runs the role's own template on this machine; the same again for the sessions that a reload left in the old process. Writes build/bench/cuts.json.
"""
from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import resource
import socket
import subprocess
import sys
import tempfile
import time
import typing as t

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/unit/fleet"))
from haproxy_sample import HAPROXY, Balancer, Nodes, Runtime  # noqa: E402

LIMIT = 0.3  # s


def alive(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return bool(sock.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


def timed(runtime: Runtime, rooms: list[str]) -> tuple[dict[str, t.Any], float]:
    begin = time.perf_counter()
    return runtime.cut(rooms), time.perf_counter() - begin


class Bench:
    def __init__(self, balancer: Balancer, sockets: int, per_room: int) -> None:
        # A process of its own, as the executor is: this one plays the nodes and clients, and has its hands full when they are cut.
        self.executor = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self.executor.submit(timed, balancer.runtime, []).result()
        self.balancer = balancer
        self.rooms = {f"room {number}": [balancer.socket(f"room {number}") for dummy in range(per_room)] for number in range(sockets // per_room)}
        self.next = 0
        self.cuts: list[dict[str, t.Any]] = []

    def cut(self, count: int, what: str) -> None:
        names = [f"room {number}" for number in range(self.next, self.next + count)]
        self.next += count
        result, seconds = self.executor.submit(timed, self.balancer.runtime, names).result()
        time.sleep(0.1)
        open_in = {name for name, sockets in self.rooms.items() if any(map(alive, sockets))}
        wrong = sum(not alive(s) for number, name in enumerate(self.rooms) if number >= self.next for s in self.rooms[name]) + len(open_in & set(names))
        self.cuts.append({"what": what, "rooms": count, "sessions": result["cut"], "left": result["left"], "seconds": round(seconds, 4), "wrong": wrong})
        print(self.cuts[-1], flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=5000)
    parser.add_argument("--per-room", type=int, default=25)
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "build/bench/cuts.json")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        balancer = Balancer(pathlib.Path(folder), Nodes())
        try:
            bench = Bench(balancer, args.sockets, args.per_room)
            for what in ("current process", "old process"):
                for count in (1, 20, 1, 20):
                    bench.cut(count, what)
                balancer.reload()
        finally:
            balancer.stop()
    version = subprocess.run([HAPROXY or "haproxy", "-v"], check=True, capture_output=True, text=True).stdout.split()[2]
    slowest = max(cut["seconds"] for cut in bench.cuts)
    result = {"haproxy": version, "sockets": args.sockets, "cuts": bench.cuts, "seconds_max": slowest, "limit": LIMIT, "load_average": os.getloadavg()[0]}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "cuts"}, indent=2))
    return 1 if slowest > LIMIT or any(cut["wrong"] or cut["left"] for cut in bench.cuts) else 0


if __name__ == "__main__":
    sys.exit(main())
