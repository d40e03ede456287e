#!/usr/bin/env python3
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real calls as load for demo, tests and benches: pairs of clients, one sends a tone, the other one listens.

    LIVEKIT_API_KEY=... LIVEKIT_API_SECRET=... lab/callers.py --url ws://192.0.2.10:7880 --calls 8 --processes 2 \
        --until-file build/stop --status build/status.json --out build/calls.json

Ends when --seconds are over, when --until-file appears or on SIGTERM/SIGINT; the calls are hung up properly first, then
--out is written: {started, ended, calls, summary, load, clients}. A call is a record of fleet/call.py with the number
of its line. --status is replaced about once a second:
{"calls": up now, "with_media": heard now, "wanted": N, "finished": n, "dropped": n, "gaps": n, "pid": ..., "t": unix}.
What the native library has to say goes to --out with .log at its end.

More than about 10 calls in one process measure the client instead of the cluster, so that is the limit per process.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import multiprocessing
import os
import pathlib
import queue
import random
import resource
import signal
import sys
import time
import typing as t

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "plugins" / "module_utils"))

from fleet import sdk  # noqa: E402
from fleet.call import TRANSPORTS, Call, warm  # noqa: E402
from fleet.call_figures import signal_url  # noqa: E402
from fleet.errors import FleetError  # noqa: E402

PER_PROCESS = 10
LIFE = (20.0, 60.0)  # seconds, of a call in --steady


def summarise(calls: t.Sequence[t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """The numbers of a run. Dropped, gaps and worst_gap are what the callers suffered, joins what they waited."""
    joins = sorted(c["join_ms"] for c in calls if c.get("join_ms") is not None)
    first = sorted(c["first_media_ms"] for c in calls if c.get("first_media_ms") is not None)
    gaps = sorted(g["seconds"] for c in calls for g in c.get("gaps", ()))
    return {
        "calls": len(calls), "dropped": sum(bool(c.get("dropped")) for c in calls), "gaps": len(gaps),
        "calls_with_gaps": sum(bool(c.get("gaps")) for c in calls), "worst_gap": gaps[-1] if gaps else 0.0, "gap_p50": percentile(gaps, 50),
        "joins": len(joins), "join_p50": percentile(joins, 50), "join_p95": percentile(joins, 95), "join_max": joins[-1] if joins else None,
        "first_media_p50": percentile(first, 50), "first_media_p95": percentile(first, 95),
        "media_seconds": round(sum(c.get("media_seconds") or 0 for c in calls), 1),
    }


def percentile(ordered: t.Sequence[float], share: float) -> float | None:
    """Nearest rank of an ordered list; None for an empty one."""
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)] if ordered else None


def write_json(path: pathlib.Path, value: t.Any) -> None:
    """Whole or not at all, for readers that look at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)


# ---------------------------------------------------------------- a client process


async def _lines(job: dict[str, t.Any], stop: t.Any, say: t.Callable[..., None]) -> None:
    ending = asyncio.Event()
    live: dict[int, Call] = {}
    seen = {"gaps": 0, "late": 0.0}
    born = time.time()

    def heard(call: Call, entry: dict[str, t.Any]) -> None:
        if entry["event"] != "gap":
            return
        seen["gaps"] += 1
        if seen["late"] >= 0.1:  # this process itself was held up: the silence may be its own
            entry["client_lag_ms"] = call.heard.gaps[-1]["client_lag_ms"] = round(1000 * seen["late"])

    async def line(number: int) -> None:
        await _pause(ending, max(0.0, job["begin"] + number * job["join_every"] - time.time()))
        turn = 0
        while not ending.is_set():
            room = f"{job['prefix']}-{number}" + (f"-{turn}" if job["steady"] else "")
            node = job["pin"][number % len(job["pin"])] if job["pin"] else None
            url = job["urls"][(number + turn) % len(job["urls"])]
            life = random.uniform(*LIFE) if job["steady"] else None
            if job["steady"] and turn == 0:
                life = random.uniform(1, LIFE[1])  # or all first calls would end together
            call = Call(url, job["key"], job["secret"], room, transport=job["transport"], one_peer_connection=job["one"], on_event=heard)
            say("start", number, {"room": room, "url": url, "line": number, "node_id": node, "started": time.time()})
            try:
                if node:
                    await _pinned_room(job, url, room, node)
                live[number] = call
                record = await call.run(life, ending)
            except (FleetError, OSError, asyncio.TimeoutError) as error:
                now = round(time.time(), 3)
                record = {**call.result(), "started": now, "ended": now, "dropped": True, "reason": f"no room on the node: {error}"[:300]}
            finally:
                live.pop(number, None)
            say("end", number, {**record, "line": number, "node_id": node})
            turn += 1
            if not job["steady"]:
                return
            if record["dropped"]:
                await _pause(ending, 1.0)

    async def pulse() -> None:
        ticks = 0
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.1)
            seen["late"] = max(seen["late"] * 0.9, time.monotonic() - begun - 0.1)
            ticks += 1
            if ticks % 5:
                continue
            if stop.is_set() or os.getppid() != job["parent"] or (job["seconds"] and time.time() - born > job["seconds"]):
                ending.set()
            use = resource.getrusage(resource.RUSAGE_SELF)
            say("pulse", -1, {
                "up": len(live), "media": sum(c.has_media for c in live.values()), "gaps": seen["gaps"],
                "cpu": use.ru_utime + use.ru_stime, "lag": round(seen["late"], 3),
            })

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    beat = asyncio.ensure_future(pulse())
    await asyncio.gather(*(line(n) for n in job["lines"]))
    beat.cancel()


async def _pause(ending: asyncio.Event, seconds: float) -> None:
    if seconds > 0:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ending.wait(), seconds)


async def _pinned_room(job: dict[str, t.Any], url: str, room: str, node: str) -> None:
    from livekit import api  # pylint: disable=import-outside-toplevel  # after sdk.isolate()

    lk = api.LiveKitAPI(url, job["key"], job["secret"], failover=False)
    try:
        await lk.room.create_room(api.CreateRoomRequest(name=room, node_id=node, empty_timeout=60))
    except api.TwirpError as error:
        raise OSError(f"{error.code}: {error.message}") from error
    finally:
        await lk.aclose()


def client(job: dict[str, t.Any], go: t.Any, stop: t.Any, results: t.Any) -> None:
    """A client process: loads the library, waits for the others, then holds its lines until told to stop."""
    if job["log"]:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 2)
        os.dup2(log, 1)
    sdk.isolate(job["ca_file"])

    def say(kind: str, number: int, what: dict[str, t.Any]) -> None:
        results.put((job["index"], kind, number, what))

    try:
        warm()
        say("ready", -1, {})
        go.wait(60)
        asyncio.run(_lines({**job, "begin": time.time()}, stop, say))
    except FleetError as error:
        say("failed", -1, {"msg": str(error)})
    finally:
        say("bye", -1, {})
        results.close()
        results.join_thread()
        sys.stderr.flush()
        os._exit(0)  # the native library may abort the process while Python takes itself down


# ---------------------------------------------------------------- the parent


class Board:
    """What the client processes have told so far."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.open: dict[tuple[int, int], dict[str, t.Any]] = {}
        self.calls: list[dict[str, t.Any]] = []
        self.pulses: dict[int, dict[str, t.Any]] = {}
        self.gone: set[int] = set()
        self.ready: set[int] = set()
        self.failed: str | None = None

    def take(self, index: int, kind: str, number: int, what: dict[str, t.Any]) -> None:
        if kind == "start":
            self.open[index, number] = what
        elif kind == "end":
            self.open.pop((index, number), None)
            self.calls.append({**what, "client": index})
        elif kind == "pulse":
            self.pulses[index] = what
        elif kind == "ready":
            self.ready.add(index)
        elif kind == "failed":
            self.failed = what["msg"]
        else:
            self.lost(index, None)

    def lost(self, index: int, code: int | None) -> None:
        """A client process is over; calls it still held are over too, and nobody heard their end."""
        self.gone.add(index)
        if index in self.pulses:
            self.pulses[index].update(up=0, media=0)
        for where in [w for w in self.open if w[0] == index]:
            start, now = self.open.pop(where), time.time()
            self.calls.append({
                **start, "ended": round(now, 3), "client": index, "join_ms": None, "first_media_ms": None, "gaps": [], "events": [], "dropped": True,
                "reason": f"the client process ended by itself ({code})",
            })

    @property
    def cpu(self) -> float:
        return sum(p["cpu"] for p in self.pulses.values())

    def status(self) -> dict[str, t.Any]:
        return {
            "calls": sum(p["up"] for p in self.pulses.values()), "with_media": sum(p["media"] for p in self.pulses.values()),
            "wanted": self.wanted, "finished": len(self.calls), "dropped": sum(c["dropped"] for c in self.calls),
            "gaps": sum(p["gaps"] for p in self.pulses.values()), "pid": os.getpid(), "t": round(time.time(), 3),
        }


def credentials(path: str | None) -> tuple[str, str]:
    """Key and secret from LIVEKIT_API_KEY and LIVEKIT_API_SECRET or a JSON file {api_key, api_secret} (a demo's endpoint.json)."""
    found = json.loads(pathlib.Path(path).read_text()) if path else {}
    key = found.get("api_key") or os.environ.pop("LIVEKIT_API_KEY", "")
    secret = found.get("api_secret") or os.environ.pop("LIVEKIT_API_SECRET", "")
    if not key or not secret:
        raise SystemExit("callers: no key or secret: set LIVEKIT_API_KEY and LIVEKIT_API_SECRET, or give --credentials FILE with api_key and api_secret")
    return key, secret


def arguments(argv: t.Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--url", action="append", required=True, help="URL of the cluster; several (again, or with commas) are used in turn")
    add("--calls", type=int, default=8, help="calls at any time (default 8)")
    add("--processes", type=int, default=0, help=f"client processes (default: as many as needed for {PER_PROCESS} calls each)")
    add("--seconds", type=float, help="end after so many seconds")
    add("--until-file", type=pathlib.Path, help="end when this file is there")
    add("--out", type=pathlib.Path, required=True, help="where the JSON goes")
    add("--status", type=pathlib.Path, help="file with the live state, for those who wait until all calls have media")
    add("--rooms-prefix", "--prefix", dest="prefix", help="begin of the room names (default: a new one for each run)")
    add("--join-every", type=float, default=0.25, help="seconds between two joins at the start (default 0.25)")
    add("--pin", nargs="+", default=[], metavar="NODE_ID", help="create the rooms on these nodes, in turn")
    add("--steady", action="store_true", help=f"a call lasts {LIFE[0]:.0f}-{LIFE[1]:.0f} s and is replaced by the next, so that there are joins all the time")
    add("--transport", choices=TRANSPORTS, default="any", help="how media may go, as for call_probe")
    add("--one-peer-connection", action="store_true", help="the SDK's default mode, which loses publishers on a busy machine by itself")
    add("--credentials", metavar="FILE", help="JSON file with api_key and api_secret (default: LIVEKIT_API_KEY, LIVEKIT_API_SECRET)")
    add("--ca-file", help="CA of the balancer's certificate, besides the system's")
    add("--every", type=float, default=5, help="seconds between two lines of progress; 0: none (default 5)")
    found = parser.parse_args(argv)
    found.url = [signal_url(u) for entry in found.url for u in entry.split(",") if u]
    found.processes = found.processes or math.ceil(found.calls / PER_PROCESS)
    if found.calls < 1 or found.calls > found.processes * PER_PROCESS:
        parser.error(f"--calls {found.calls} with --processes {found.processes}: from 1 to {PER_PROCESS} calls for each process "
                     "(more would measure the client, not the cluster)")
    if found.ca_file and not os.path.isfile(found.ca_file):
        parser.error(f"--ca-file {found.ca_file}: no such file")
    return found


def main() -> int:
    args = arguments()
    key, secret = credentials(args.credentials)
    spawn = multiprocessing.get_context("spawn")
    go, stop, results = spawn.Event(), spawn.Event(), spawn.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.unlink(missing_ok=True)
    log = args.out.with_name(args.out.name + ".log")
    log.write_text("")
    started = time.time()
    job = {
        "urls": args.url, "key": key, "secret": secret, "prefix": args.prefix or f"call-{int(started):x}", "steady": args.steady,
        "join_every": args.join_every, "pin": args.pin, "seconds": args.seconds, "transport": args.transport, "one": args.one_peer_connection,
        "ca_file": args.ca_file,
        "parent": os.getpid(), "log": str(log),
    }
    clients = [
        spawn.Process(target=client, args=({**job, "index": i, "lines": list(range(i, args.calls, args.processes))}, go, stop, results), name=f"client{i}")
        for i in range(args.processes)
    ]
    for process in clients:
        process.start()
    board, load = Board(args.calls), []
    next_line = next_status = next_load = cpu_at = 0.0
    cpu = 0.0
    give_up: float | None = None
    try:
        while len(board.gone) < len(clients):
            with contextlib.suppress(queue.Empty):
                board.take(*results.get(timeout=0.2))
                while True:
                    board.take(*results.get_nowait())
            now = time.time()
            for i, process in enumerate(clients):
                if i not in board.gone and process.exitcode is not None and results.empty():
                    board.lost(i, process.exitcode)
            if len(board.ready | board.gone) == len(clients):
                go.set()
            if args.until_file and args.until_file.exists() or args.seconds and now - started > args.seconds:
                stop.set()
            if stop.is_set():
                go.set()
                give_up = give_up or now + 30
                if now > give_up:
                    break
            if now >= next_load and board.pulses:
                if cpu_at:
                    load.append({"t": round(now, 1), "load1": round(os.getloadavg()[0], 2), "client_cpu": round(max(0.0, board.cpu - cpu) / (now - cpu_at), 3),
                                 "lag_ms": round(1000 * max((p["lag"] for p in board.pulses.values()), default=0))})
                cpu, cpu_at, next_load = board.cpu, now, now + 2
            status = board.status()
            if args.status and now >= next_status:
                write_json(args.status, status)
                next_status = now + 0.5
            if args.every and now >= next_line:
                print(f"calls {now - started:5.0f} s: {status['calls']} up, {status['with_media']} with media, {status['finished']} ended, "
                      f"{status['gaps']} gaps, {status['dropped']} dropped", flush=True)
                next_line = now + args.every
    finally:
        stop.set()
        for i, process in enumerate(clients):
            process.join(5)
            if process.exitcode is None:
                process.kill()
                process.join(5)
            if i not in board.gone:
                board.lost(i, process.exitcode)
    if board.failed:
        print(f"callers: {board.failed}", file=sys.stderr)
        return 1
    calls = sorted(board.calls, key=lambda c: (c["started"], c["line"]))
    summary = summarise(calls)
    busy = [x["client_cpu"] for x in load]
    write_json(args.out, {
        "started": round(started, 3), "ended": round(time.time(), 3), "urls": args.url, "calls": calls, "summary": summary, "load": load,
        "clients": {"processes": args.processes, "cpu_mean": round(sum(busy) / len(busy), 3) if busy else None, "cpu_max": max(busy, default=None),
                    "lag_ms_max": max((x["lag_ms"] for x in load), default=None)},
    })
    if args.status:
        write_json(args.status, {**board.status(), "done": True})
    print(f"calls: {summary['calls']} in all, {summary['dropped']} dropped, {summary['gaps']} gaps, the longest {summary['worst_gap']:.2f} s, "
          f"join {summary['join_p50']} ms (p95 {summary['join_p95']})", flush=True)
    for call in calls:
        if call["dropped"]:
            print(f"  dropped: {call['room']}: {call['reason']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
