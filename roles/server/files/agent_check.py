# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells balancers which slots of this host take new connections.

One resident process per host. A balancer connects, sends the number of a slot and a newline (HAProxy: agent-send "1\\n"), gets one line
and the connection is closed:

    up ready 80%   the slot's unit is active and its generation has passed its gates; the weight follows the idle CPU of the host
    drain          the unit is stopping: calls on it go on, nothing new goes there
    down           anything else: no unit, starting, not yet through its gates

`GET /` of a node stays 200 while it drains, so only this keeps new connections away from it, whoever started the drain.

When the state cannot be known for certain (D-Bus does not answer, a file is unreadable), nothing is sent. HAProxy then keeps the last
state: a hiccup here must not take healthy nodes out of service.
"""
from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
import typing as t

UNITS = "livekit-server@*.service"
CACHE = 0.2  # seconds the state of all units is good for; AGENT_CACHE of fleet/move.py is longer
READ_TIMEOUT = 2.0
DBUS_TIMEOUT = 1.0
STALE = 3.0  # seconds after which the states in a file are no news any more


class Unknown(Exception):
    """The state cannot be told; say nothing."""


def verdict(active_state: str | None, generation: str | None, gate: str | None, weight: int) -> str:
    """The answer for one slot (pure). active_state: systemd's word, None when the unit is not loaded."""
    if active_state == "deactivating":
        return "drain"
    if active_state == "active" and generation is not None and gate == generation:
        return f"up ready {weight}%"
    return "down"


def weight_of(busy: float) -> int:
    """Weight in percent from the busy share of the CPU (0..1), in steps of ten so that it is calm."""
    return max(10, min(100, round((1.0 - busy) * 10) * 10))


def cpu_times(text: str) -> tuple[int, int]:
    """(busy, total) jiffies from the first line of /proc/stat; waiting for a disk is idle, time stolen by others is busy."""
    values = [int(v) for v in text.split("\n", 1)[0].split()[1:9]]
    idle = values[3] + values[4]
    return sum(values) - idle, sum(values)


class Cpu:
    """Busy share of the host's CPU over the last seconds."""

    def __init__(self, path: str = "/proc/stat", keep: float = 0.9) -> None:
        self.path, self.keep = path, keep
        self.busy = 0.0
        self.last: tuple[int, int] | None = None

    def sample(self) -> None:
        try:
            with open(self.path, encoding="ascii") as f:
                now = cpu_times(f.read(4096))
        except (OSError, ValueError, IndexError):
            return  # keep the last value
        if self.last is not None and now[1] > self.last[1]:
            share = (now[0] - self.last[0]) / (now[1] - self.last[1])
            self.busy = self.keep * self.busy + (1 - self.keep) * min(1.0, max(0.0, share))
        self.last = now


class Systemd:
    """States of the node units, one D-Bus call for all of them."""

    def __init__(self, pattern: str = UNITS) -> None:
        import dbus  # python3-dbus; imported here so that everything else works without it

        self.dbus, self.pattern = dbus, pattern
        self.bus: t.Any = None
        self.manager: t.Any = None

    def __call__(self) -> dict[str, str]:
        """{unit name: ActiveState}; raises Unknown."""
        try:
            if self.manager is None:
                self.bus = self.dbus.SystemBus(private=True)
                self.bus.set_exit_on_disconnect(False)
                proxy = self.bus.get_object("org.freedesktop.systemd1", "/org/freedesktop/systemd1", introspect=False)
                self.manager = self.dbus.Interface(proxy, "org.freedesktop.systemd1.Manager")
            units = self.manager.ListUnitsByPatterns(
                self.dbus.Array([], signature="s"), self.dbus.Array([self.pattern], signature="s"), timeout=DBUS_TIMEOUT,
            )
            return {str(unit[0]): str(unit[3]) for unit in units}
        except self.dbus.exceptions.DBusException as err:
            self.manager = None
            if self.bus is not None:
                bus, self.bus = self.bus, None
                bus.close()
            raise Unknown(str(err)) from err


class States:
    """The same where nodes are containers: from the file that the executor keeps, as only that has the socket of Docker."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self) -> dict[str, str]:
        try:
            with open(self.path, encoding="utf-8") as f:
                age = time.time() - os.fstat(f.fileno()).st_mtime
                found = {f"livekit-server@{int(slot)}.service": str(state) for slot, state in json.load(f).items()}
        except (OSError, ValueError, AttributeError) as err:
            raise Unknown(f"{self.path}: {err}") from err
        if age > STALE:
            raise Unknown(f"{self.path} is {age:.0f} s old: the executor does not see this host")
        return found


class AgentCheck:
    """Answers questions about slots. units: {unit: state} or raises Unknown; busy: share of the CPU in use."""

    def __init__(self, units: t.Callable[[], t.Mapping[str, str]], busy: t.Callable[[], float], config_dir: str, state_dir: str) -> None:
        self.units, self.busy, self.config_dir, self.state_dir = units, busy, config_dir, state_dir
        self.lock: asyncio.Lock | None = None
        self.cached: t.Mapping[str, str] | None = None
        self.cached_at = -CACHE
        self.silent_since: float | None = None

    async def states(self) -> t.Mapping[str, str]:
        """The cached states, or fresh ones; many questions at once cost one look."""
        if self.lock is None:
            self.lock = asyncio.Lock()
        async with self.lock:
            if self.cached is None or time.monotonic() - self.cached_at >= CACHE:
                self.cached = None
                self.cached = await asyncio.get_running_loop().run_in_executor(None, self.units)
                self.cached_at = time.monotonic()
            return self.cached

    def generation(self, slot: int) -> str | None:
        """The generation the slot holds, None when it is empty."""
        try:
            with open(os.path.join(self.config_dir, str(slot), "generation.json"), encoding="utf-8") as f:
                found = json.load(f)
            return str(found["generation"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise Unknown(f"generation.json of slot {slot}: {err}") from err

    def gate(self, slot: int) -> str | None:
        """The generation of this slot that passed its gates, None when none has."""
        try:
            with open(os.path.join(self.state_dir, str(slot), "gate"), encoding="utf-8") as f:
                return f.read(256).strip()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as err:
            raise Unknown(f"gate of slot {slot}: {err}") from err

    async def answer(self, slot: int) -> str:
        states = await self.states()
        return verdict(states.get(f"livekit-server@{slot}.service"), self.generation(slot), self.gate(slot), weight_of(self.busy()))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), READ_TIMEOUT)
            text = line.decode("ascii", "replace").strip()
            if text.isdigit() and len(text) < 6 and int(text) > 0:
                reply = await self.answer(int(text))
                self.note(None)
                writer.write(f"{reply}\n".encode())
                await writer.drain()
        except Unknown as err:
            self.note(str(err))
        except (OSError, ValueError, asyncio.TimeoutError):
            pass  # the balancer went away or sent nonsense
        finally:
            writer.close()

    def note(self, problem: str | None) -> None:
        """One line in the journal when answers stop, one when they are back."""
        if problem is not None and self.silent_since is None:
            self.silent_since = time.monotonic()
            print(f"not answering, balancers keep the last state: {problem}", file=sys.stderr, flush=True)
        elif problem is None and self.silent_since is not None:
            print(f"answering again after {time.monotonic() - self.silent_since:.1f} s", file=sys.stderr, flush=True)
            self.silent_since = None


async def run(check: AgentCheck, cpu: Cpu, address: str | None, port: int) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await asyncio.start_server(check.serve, address or None, port, limit=1024, reuse_address=True)

    async def sample() -> None:
        while True:
            cpu.sample()
            await asyncio.sleep(1)

    sampler = asyncio.ensure_future(sample())
    await stop.wait()
    sampler.cancel()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer a balancer's agent checks for the LiveKit slots of this host.")
    parser.add_argument("--address", default="", help="address to listen on; all when empty")
    parser.add_argument("--port", type=int, default=7870)
    parser.add_argument("--config-dir", default="/etc/livekit/slots", help="where SLOT/generation.json lies")
    parser.add_argument("--state-dir", default="/var/lib/livekit/slots", help="where SLOT/gate lies")
    parser.add_argument("--states", help="file with the states of the slots, where systemd does not know them")
    args = parser.parse_args()
    try:
        units: t.Callable[[], t.Mapping[str, str]] = States(args.states) if args.states else Systemd()
    except ImportError:
        sys.exit("python3-dbus is missing; install it: apt install python3-dbus")
    cpu = Cpu()
    asyncio.run(run(AgentCheck(units, lambda: cpu.busy, args.config_dir, args.state_dir), cpu, args.address, args.port))


if __name__ == "__main__":
    main()
