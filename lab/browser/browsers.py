#!/usr/bin/env python3
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real calls of browsers: pairs of pages with livekit-client in Debian's Chromium. One sends its fake camera, the other one shows it.

    LIVEKIT_API_KEY=... LIVEKIT_API_SECRET=... lab/browser/browsers.py --url ws://192.0.2.10:7880 --calls 3 \
        --until-file build/stop --status build/status.json --out build/browsers.json

The sibling of lab/callers.py, with the same options where they make sense, the same --status and the same --out, so that
lab/report.py takes both; a call of here has client "browser", and what counts as heard is a video frame on the screen.
A gap in which the browser itself was held up (frames shown late, timers late) has client_lag_ms, as with the native callers.
Each page is photographed when its call is up and again at the end: build/browsers-1-subscriber-before.png and so on.
Chromium: lab/bootstrap --with chromium. livekit-client: npm.py, pinned by package-lock.json. Two cores carry three calls.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.server
import os
import pathlib
import shutil
import signal
import sys
import threading
import time
import typing as t

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "plugins" / "module_utils")]

import npm  # noqa: E402
from callers import credentials, summarise, write_json  # noqa: E402
from common import LabError  # noqa: E402
from fleet.api import Api, token  # noqa: E402
from fleet.call_figures import SILENCE, Heard, drop_reason, signal_url, without_tokens  # noqa: E402
from fleet.errors import FleetError  # noqa: E402

SIDES = ("publisher", "subscriber")
MOST = 8  # calls in one Chromium; more would measure the client, not the cluster
POLL = 0.5  # seconds between two looks at the pages
SETTLED = 2.0  # seconds of video before the first picture is taken
HELD_UP = 0.1  # s; a browser that was later than that may have made the silence itself
NEWS: dict[str, t.Any] = {"frames": (), "events": (), "joinMs": None, "failed": None, "lagMs": 0}


class Record:
    """What the pages of one call have told, and what it comes to. Without any I/O."""

    def __init__(self, number: int, room: str, url: str, node: str | None = None) -> None:
        self.number, self.room, self.url, self.node = number, room, url, node
        self.heard = Heard()
        self.started = self.ended = 0.0
        self._came: float | None = None
        self.joins: dict[str, int] = {}
        self.events: list[dict[str, t.Any]] = []
        self.paths: list[dict[str, t.Any]] = []
        self.lost: list[tuple[str, str]] = []
        self.failed: str | None = None
        self.screenshots: dict[str, str] = {}

    def take(self, who: str, told: t.Mapping[str, t.Any]) -> None:
        """The news of one page (call.js, tell)."""
        told = {**NEWS, **told}
        if told["joinMs"] is not None:
            self.joins[who] = told["joinMs"]
        for at, came in told["frames"]:
            gap = self.heard.add(at, at)
            waited, self._came = came - (self._came or came), came
            if gap:
                late = max(gap["seconds"] - waited if waited <= SILENCE else 0.0, told["lagMs"] / 1000)
                if late >= HELD_UP:
                    gap["client_lag_ms"] = round(1000 * late)
                self.events.append({"t": round(at, 3), "who": who, "event": "gap", "seconds": gap["seconds"]})
        for event in told["events"]:
            self.events.append({**event, "t": round(event["t"], 3), "who": who})
            if event["event"] == "disconnected":
                self.lost.append((who, event.get("reason", "UNKNOWN_REASON")))
        if told["failed"]:
            self.fail(f"{who} {told['failed']}")

    def fail(self, why: str) -> None:
        self.failed = self.failed or without_tokens(why)[:400]

    @property
    def over(self) -> bool:
        """Whether the call cannot go on."""
        return bool(self.lost or self.failed)

    def has_media(self, now: float) -> bool:
        age = self.heard.age(now)
        return age is not None and age < 1.0 + POLL and not self.over

    def result(self, now: float) -> dict[str, t.Any]:
        """The record of the call, as one of lab/callers.py."""
        end, heard = self.ended or now, self.heard
        gaps, age = heard.until(end), heard.age(end)
        reason = drop_reason(self.started, end, heard.first, heard.last, self.lost, self.failed)
        ways = {who: next((p for p in reversed(self.paths) if p["who"] == who), {}) for who in SIDES}
        packets, lost = ways["subscriber"].get("packets"), ways["subscriber"].get("lost_packets")
        closed = sum(g["seconds"] for g in gaps if not g.get("open"))
        return {
            "client": "browser", "line": self.number, "room": self.room, "url": self.url, "node_id": self.node,
            "started": round(self.started, 3), "ended": round(end, 3),
            "join_ms": max(self.joins.values()) if len(self.joins) == len(SIDES) else None, "joins": dict(self.joins),
            "first_media_ms": None if heard.first is None else round(1000 * (heard.first - self.started)),
            "first_media": None if heard.first is None else round(heard.first, 3),
            "last_media": None if heard.last is None else round(heard.last, 3),
            "last_media_age": None if age is None else round(age, 3),
            "frames": heard.frames, "media_seconds": round((heard.last or 0.0) - (heard.first or 0.0) - closed, 2) if heard.frames else 0.0,
            "events": sorted(self.events, key=lambda e: e["t"]), "gaps": gaps, "dropped": reason is not None, "reason": reason,
            "transport": ways["subscriber"].get("transport"), "remote": ways["subscriber"].get("remote"),
            "publisher_transport": ways["publisher"].get("transport"), "publisher_remote": ways["publisher"].get("remote"),
            "loss_percent": round(100 * lost / (packets + lost), 2) if packets and lost is not None else None,
            "packets": packets, "lost_packets": lost, "rtt_ms": ways["subscriber"].get("rtt_ms"), "paths": list(self.paths),
            "screenshots": dict(self.screenshots),
        }


class BrowserCall(Record):
    """The two pages of a call."""

    def __init__(self, browser: t.Any, page_url: str, pictures: pathlib.Path, *what: t.Any) -> None:
        super().__init__(*what)
        self._browser, self._page_url, self._pictures = browser, page_url, pictures
        self._pages: dict[str, t.Any] = {}
        self._to_look: set[str] = set(SIDES)  # pages whose way of media has changed since it was noted

    async def prepare(self) -> None:
        """Open both pages, without a call yet: the start of a renderer takes so much CPU that calls which are up would stutter."""
        for who in SIDES:
            # Certificates are for call_probe to check. Here a lab's own authority must do, and Chromium cannot be handed one.
            context = await self._browser.new_context(
                viewport={"width": 480, "height": 340}, permissions=["camera", "microphone"], ignore_https_errors=self.url.startswith("wss:"))
            page = self._pages[who] = await context.new_page()
            page.on("crash", lambda _page, who=who: self.fail(f"{who}: the page crashed"))
            await page.goto(self._page_url)

    async def open(self, job: argparse.Namespace) -> None:
        """Make the room and let both pages join. How that went is told by the pages later."""
        self.started = time.time()
        try:
            if self.node:
                api = Api(self.url, job.key, job.secret, job.ca_file)
                await asyncio.to_thread(api.create_room, self.room, node_id=self.node, empty_timeout=60)
            for who, page in self._pages.items():
                what = {"url": self.url, "token": token(job.key, job.secret, identity=who, room=self.room), "name": self.room, "publish": who == "publisher"}
                await page.evaluate("(what) => { start(what); }", what)
        except Exception as exc:  # whatever Playwright and the browser may come up with  # pylint: disable=broad-except
            self.fail(f"no room or no page: {exc}")

    async def look(self) -> None:
        """Fetch what is new on both pages."""
        try:
            for who, page in list(self._pages.items()):
                told = await asyncio.wait_for(page.evaluate("tell()"), 10)
                self.take(who, told)
                if any(event["event"] == "reconnected" for event in told["events"]):
                    self._to_look.add(who)
            settled = self.heard.first is not None and time.time() - self.heard.first > SETTLED
            if settled and not self.over and not self.ended:
                await self._note_paths(self._to_look)
                if not self.screenshots:
                    await self._picture("before")
        except Exception as exc:  # pylint: disable=broad-except
            self.fail(f"the pages do not answer: {exc}")

    async def _note_paths(self, sides: t.Iterable[str]) -> None:
        for who in sorted(sides):
            found = await asyncio.wait_for(self._pages[who].evaluate("path()"), 10)
            if found["transport"] or self.ended:
                self.paths.append({"t": round(time.time(), 3), "who": who, **found})
                self._to_look.discard(who)

    async def _picture(self, when: str) -> None:
        for who, page in self._pages.items():
            path = self._pictures.with_name(f"{self._pictures.stem}-{self.number + 1}-{who}-{when}.png")
            await page.screenshot(path=path)
            self.screenshots[f"{who}_{when}"] = path.name

    async def close(self) -> None:
        """What was seen is settled first, then both hang up."""
        await self.look()
        self.ended = time.time()
        for step in (self._picture("after"), self._note_paths(() if self.over else SIDES)):
            with contextlib.suppress(Exception):
                await step
        for page in self._pages.values():
            with contextlib.suppress(Exception):
                await asyncio.wait_for(page.evaluate("hangUp()"), 5)
                await page.context.close()


# ---------------------------------------------------------------- all of them


class Run:
    """All calls of a run: what is up, what is over."""

    def __init__(self, job: argparse.Namespace) -> None:
        self.job = job
        self.stop = asyncio.Event()
        self.live: list[BrowserCall] = []
        self.done: list[dict[str, t.Any]] = []
        self.load: list[dict[str, t.Any]] = []

    def status(self) -> dict[str, t.Any]:
        now, live = time.time(), [c for c in self.live if len(c.joins) == len(SIDES)]
        return {
            "calls": len(live), "with_media": sum(c.has_media(now) and bool(c.screenshots) for c in live), "wanted": self.job.calls, "finished": len(self.done),
            "dropped": sum(c["dropped"] for c in self.done), "gaps": sum(len(c["gaps"]) for c in self.done) + sum(len(c.heard.gaps) for c in self.live),
            "pid": os.getpid(), "t": round(now, 3),
        }

    async def end(self, call: BrowserCall) -> None:
        await call.close()
        self.done.append(call.result(call.ended))
        self.live.remove(call)

    async def line(self, call: BrowserCall, wait: float) -> None:
        """One call from its turn to its end."""
        if await self._stopped(wait):
            return
        self.live.append(call)
        await call.open(self.job)
        while not call.over and not await self._stopped(POLL):
            await call.look()
        await self.end(call)

    async def _stopped(self, seconds: float) -> bool:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)
        return self.stop.is_set()

    async def watch(self) -> None:
        """Status, progress, load, and the end of time."""
        job, begun, lag = self.job, time.time(), 0.0
        next_line = next_load = cpu_at = cpu = 0.0
        while True:
            asleep = time.monotonic()
            await asyncio.sleep(POLL)
            lag = max(lag, time.monotonic() - asleep - POLL)
            now, status = time.time(), self.status()
            if job.until_file and job.until_file.exists() or job.seconds and now - begun > job.seconds:
                self.stop.set()
            if now >= next_load:
                used = cpu_seconds(os.getpid())
                if cpu_at:
                    self.load.append({"t": round(now, 1), "load1": round(os.getloadavg()[0], 2), "lag_ms": round(1000 * lag),
                                      "client_cpu": round(max(0.0, used - cpu) / (now - cpu_at), 3)})
                cpu, cpu_at, lag, next_load = used, now, 0.0, now + 2
            if job.status:
                write_json(job.status, status)
            if job.every and now >= next_line:
                print(f"browsers {now - begun:5.0f} s: {status['calls']} up, {status['with_media']} with video, {status['finished']} ended, "
                      f"{status['gaps']} gaps, {status['dropped']} dropped", flush=True)
                next_line = now + job.every


def cpu_seconds(root: int) -> float:
    """What a process and all its descendants have used so far."""
    parents, used = {}, {}
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = entry.read_text().rpartition(")")[2].split()
            parents[int(entry.parent.name)] = int(fields[1])
            used[int(entry.parent.name)] = int(fields[11]) + int(fields[12])
    ours, size = {root}, 0
    while len(ours) != size:
        size = len(ours)
        ours |= {pid for pid, parent in parents.items() if parent in ours}
    return sum(used.get(pid, 0) for pid in ours) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def pages(script: bytes) -> t.Iterator[str]:
    """The address of call.html on this machine's loopback, which browsers take for a secure place."""
    files = {
        "/call.html": ("text/html; charset=utf-8", (HERE / "call.html").read_bytes()),
        "/call.js": ("text/javascript", (HERE / "call.js").read_bytes()),
        "/livekit-client.umd.js": ("text/javascript", script),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        """Three files and nothing else."""

        def do_GET(self) -> None:  # pylint: disable=invalid-name
            kind, body = files.get(self.path, ("", b""))
            self.send_response(200 if kind else 404)
            for name, value in (("Content-Type", kind or "text/plain"), ("Content-Length", str(len(body)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: t.Any) -> None:  # pylint: disable=arguments-differ
            """Nobody wants to read it."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/call.html"
        server.shutdown()


async def hold(job: argparse.Namespace, script: bytes) -> Run:
    """Bring the calls up and hold them until told to stop."""
    from playwright.async_api import async_playwright  # pylint: disable=import-outside-toplevel  # for the pure parts it is not needed

    run = Run(job)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, run.stop.set)
    with pages(script) as page_url:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=job.browser, handle_sigint=False, handle_sigterm=False, handle_sighup=False,
                args=["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream=fps=15", "--autoplay-policy=no-user-gesture-required"])
            watch = asyncio.ensure_future(run.watch())
            calls = [
                BrowserCall(browser, page_url, job.out, n, f"{job.prefix}-{n}", job.url[n % len(job.url)], job.pin[n % len(job.pin)] if job.pin else None)
                for n in range(job.calls)
            ]
            for call in calls:
                await call.prepare()
            await asyncio.gather(*(run.line(call, call.number * job.join_every) for call in calls))
            watch.cancel()
            await browser.close()
    return run


def arguments(argv: t.Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--url", action="append", required=True, help="URL of the cluster; several (again, or with commas) are used in turn")
    add("--calls", type=int, default=3, help=f"calls, up to {MOST} (default 3)")
    add("--seconds", type=float, help="end after so many seconds")
    add("--until-file", type=pathlib.Path, help="end when this file is there")
    add("--out", type=pathlib.Path, required=True, help="where the JSON goes, and the pictures beside it")
    add("--status", type=pathlib.Path, help="file with the live state, for those who wait until all calls have video")
    add("--rooms-prefix", "--prefix", dest="prefix", help="begin of the room names (default: a new one for each run)")
    add("--join-every", type=float, default=1.0, help="seconds between two joins at the start (default 1)")
    add("--pin", nargs="+", default=[], metavar="NODE_ID", help="create the rooms on these nodes, in turn")
    add("--credentials", metavar="FILE", help="JSON file with api_key and api_secret (default: LIVEKIT_API_KEY, LIVEKIT_API_SECRET)")
    add("--ca-file", help="CA of the balancer's certificate, for the API calls of --pin")
    add("--browser", default=shutil.which("chromium"), help="path of Chromium (default: the one of the distribution)")
    add("--every", type=float, default=5, help="seconds between two lines of progress; 0: none (default 5)")
    found = parser.parse_args(argv)
    found.url = [signal_url(u) for entry in found.url for u in entry.split(",") if u]
    found.prefix = found.prefix or f"browser-{int(time.time()):x}"
    if not 1 <= found.calls <= MOST:
        parser.error(f"--calls {found.calls}: from 1 to {MOST} (more would measure the client, not the cluster)")
    if not found.browser or not os.access(found.browser, os.X_OK):
        parser.error("there is no Chromium here: run lab/bootstrap --with chromium, or name one with --browser")
    return found


def main() -> int:
    job = arguments()
    job.key, job.secret = credentials(job.credentials)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    job.out.unlink(missing_ok=True)
    started = time.time()
    try:
        version, script = npm.client()
        run = asyncio.run(hold(job, script))
    except (LabError, FleetError) as exc:
        print(f"browsers: ERROR: {exc}", file=sys.stderr)
        return 1
    calls = sorted(run.done, key=lambda c: (c["started"], c["line"]))
    summary = summarise(calls)
    busy = [x["client_cpu"] for x in run.load]
    write_json(job.out, {
        "started": round(started, 3), "ended": round(time.time(), 3), "urls": job.url, "calls": calls, "summary": summary, "load": run.load,
        "clients": {"browser": "chromium", "livekit-client": version, "cpu_mean": round(sum(busy) / len(busy), 3) if busy else None,
                    "cpu_max": max(busy, default=None), "lag_ms_max": max((x["lag_ms"] for x in run.load), default=None)},
    })
    if job.status:
        write_json(job.status, {**run.status(), "done": True})
    print(f"browsers: {summary['calls']} calls, {summary['dropped']} dropped, {summary['gaps']} gaps, the longest {summary['worst_gap']:.2f} s, "
          f"{sum(c['frames'] for c in calls)} frames", flush=True)
    for call in calls:
        if call["dropped"]:
            print(f"  dropped: {call['room']}: {call['reason']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
