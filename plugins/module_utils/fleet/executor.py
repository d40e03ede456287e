# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The executor: the hands of the fleet on one host. It reports the host into the registry every second and carries out orders.

    PYTHONPATH=/usr/local/lib/livekit/fleet.zip python3 -m fleet.executor --config /etc/livekit/executor.json

It decides one thing by itself: a node that was given up while this host was cut off (`openrtc:dead`) is killed as soon as the
registry is in reach again, because its rooms live elsewhere by now. In Kubernetes it does some more (executor_cluster.py). It may be
stopped and started at any time; no node notices.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import typing as t

from .balancers.haproxy_runtime import Runtime
from .errors import FleetError
from .executor_hands import ORDERS, Hands
from .executor_orders import Listener, Log
from .executor_settings import Settings
from .executor_targets import TARGETS
from .executor_watch import TICK, Memory, Watch
from .host import Run, SlotHost
from .move_store import DEAD
from .orders import CHANNEL
from .registry import Registry
from .reports import HOSTS

__all__ = ["ORDERS", "Executor", "Settings"]

BEAT = 1.0  # seconds
BLIND = 4.0  # a host that could not be looked at for so long is not reported: old news must not look fresh


def log(event: str, **fields: t.Any) -> None:
    """One JSON line to the journal."""
    sys.stdout.write(json.dumps({"at": round(time.time(), 3), "event": event, **fields}, default=str, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def run_command(command: list[str]) -> tuple[int, str, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False, stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"})
        return done.returncode, done.stdout, done.stderr
    except FileNotFoundError as exc:
        return 127, "", str(exc)
    except subprocess.TimeoutExpired:
        return 124, "", f"{command[0]} did not end in 15 s"


def tell_systemd(word: str) -> None:
    """Type=notify: a start that cannot read its settings or lacks a library fails there and then."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(word.encode(), "\0" + path[1:] if path.startswith("@") else path)


class Executor:
    """Three threads: one looks at the host, one reports, one hears orders; more by target. run() returns when `stop` is set."""

    def __init__(self, settings: Settings, run: Run = run_command,
                 units: t.Callable[[], t.Mapping[str, str]] | None = None, host: SlotHost | None = None, logs: Log = log) -> None:
        self.settings, self.log = settings, logs
        self.stop = threading.Event()
        self.registry: t.Any = Registry(settings.redis) if settings.redis else None  # None: it only watches, for the agent check
        near = [row["unit"] for row in settings.neighbours]
        self.here = TARGETS[settings.target](settings, run)
        host = host or self.here.host()
        self.watch = Watch(host, units or self.here.units(near), near, Memory(settings.memory))
        proxy = Runtime(settings.socket, master_path=settings.master) if settings.balancer.startswith("haproxy") else None
        self.hands = Hands(run, host, self.watch, self._report_now, proxy, near, self.here.end)
        self.listener: t.Any = Listener(settings.redis, settings.host, self.hands.do, logs, self.stop) if settings.redis else None
        self._up: bool | None = None
        self._at = (0.0, 0.0)  # Redis' clock and this one's steady clock at the same moment
        self._fencing: set[str] = set()

    def run(self) -> None:
        try:
            self.watch.begin()
        except FleetError as exc:
            self.log("host", state="unseen", got=exc.failure["got"])
        work: list[tuple[str, t.Callable[[], None]]] = [("watch", self._watch)]
        if self.registry:
            work += [("report", self._report), ("orders", self.listener.run), *self.here.work(self)]
        threads = [threading.Thread(target=each, name=name, daemon=True) for name, each in work]
        for thread in threads:
            thread.start()
        while not self.stop.wait(1.0):
            dead = [thread.name for thread in threads if not thread.is_alive()]
            if dead:  # systemd starts us again
                raise FleetError("go on", self.settings.host, f"the thread {dead[0]} ended", "See the lines before this one", code="executor_thread")
        if self.settings.passing:
            self.watch.changed.set()
            threads[1].join(2.0)
            self.registry.ask("leave the registry", ("HDEL", HOSTS, self.settings.host))

    # -- looking

    def _watch(self) -> None:
        said = ""
        while not self.stop.is_set():
            try:
                self.watch.tick()
                self._tell_states()
                problem = ""
            except Exception as exc:  # pylint: disable=broad-except  # systemd may be busy with itself; look again
                problem = str(exc.failure["got"] if isinstance(exc, FleetError) else f"{type(exc).__name__}: {exc}")
            if problem != said:
                said = problem
                self.log("host", state="unseen" if problem else "seen", **({"got": problem} if problem else {}))
            self.stop.wait(TICK if not problem else 1.0)

    def _tell_states(self) -> None:
        """{slot: ActiveState} for the agent check where it has no socket of Docker; as fresh as the file."""
        if not self.settings.states:
            return
        text = json.dumps({slot.slot: slot.state for slot in self.watch.slots()})
        with open(self.settings.states + ".new", "w", encoding="utf-8") as out:
            out.write(text)
        os.chmod(self.settings.states + ".new", 0o644)
        os.replace(self.settings.states + ".new", self.settings.states)

    # -- reporting

    def _report(self) -> None:
        pause = 0.1
        while not self.stop.is_set():
            begun = time.monotonic()
            self.watch.changed.clear()
            try:
                if time.monotonic() - self.watch.seen_at < BLIND:
                    self.beat()
                    self._note_redis(True)
                pause = 0.1
            except Exception as exc:  # pylint: disable=broad-except  # nothing may end this: the registry comes back
                self._note_redis(False, str(exc.failure["got"] if isinstance(exc, FleetError) else f"{type(exc).__name__}: {exc}"))
                self.registry.close()
                self.stop.wait(pause)
                pause = min(1.0, pause * 2)
                continue
            self.stop.wait(0.05)  # changes come in bunches
            self.watch.changed.wait(max(0.0, BEAT - (time.monotonic() - begun)))

    def beat(self) -> None:
        """Write the report, see whether orders would be heard, and whether one of our nodes was given up."""
        now = self.registry.now()
        self._at = (now, time.monotonic())
        report = self.watch.report(self.settings.host, self.settings.address, self.settings.balancer, now)
        nodes = [slot for slot in report.slots if slot.node_id]
        asked: list[tuple[t.Any, ...]] = [("HSET", HOSTS, self.settings.host, report.as_json()), ("PUBLISH", CHANNEL + self.settings.host, "")]
        asked += [("HMGET", DEAD, *[slot.node_id for slot in nodes])] if nodes else []
        dummy, heard, *dead = self.registry.ask("report this host", *asked)
        if not heard:
            self.listener.unheard()
        for slot, word in zip(nodes, dead[0] if dead else ()):
            if word is not None and slot.node_id not in self._fencing:
                self._fencing.add(slot.node_id)
                threading.Thread(target=self._fence, args=(slot.slot, slot.node_id), daemon=True).start()

    def _fence(self, slot: int, node_id: str) -> None:
        try:
            killed = self.hands.fence(slot, node_id)["killed"]
            self.log("fenced", slot=slot, node=node_id, reason="it was given up and its rooms went elsewhere", killed=killed)
        except FleetError as exc:
            self.log("fence_failed", slot=slot, node=node_id, got=exc.failure["got"])
        finally:
            self._fencing.discard(node_id)

    def _report_now(self) -> str:
        """The report as JSON, for whoever asked for it; the registry gets it at once."""
        self.watch.changed.set()
        redis, steady = self._at
        return self.watch.report(self.settings.host, self.settings.address, self.settings.balancer, redis + time.monotonic() - steady).as_json()

    def _note_redis(self, up: bool, got: str = "") -> None:
        if up != self._up:
            self._up = up
            self.log("redis", state="up" if up else "down", redis=self.registry.address, **({"got": got} if got else {}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Report this host into the registry of a LiveKit cluster and carry out orders.")
    parser.add_argument("--config", default="/etc/livekit/executor.json")
    try:
        executor = Executor(Settings.read(parser.parse_args().config))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda dummy, frame: executor.stop.set())
        log("start", host=executor.settings.host)
        tell_systemd("READY=1")
        executor.run()
    except FleetError as exc:
        raise SystemExit(str(exc)) from exc


if __name__ == "__main__":
    main()
