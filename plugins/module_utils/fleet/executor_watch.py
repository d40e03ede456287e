# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the executor sees of its host: units by D-Bus, processes by /proc, nodes by their own ports. Nothing here changes anything.

A look reads everything and spawns systemctl, so it is taken only when something changed, and every few seconds. In between a tick
asks D-Bus for the states of the units, and /proc whether the processes are still the same. Nodes are asked in threads of their own:
one that hangs holds up nobody.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
import typing as t

from .host import SlotHost
from .reports import HostReport
from .runtimes.processes import started
from .runtimes.systemd import UNIT

try:
    import dbus
except ImportError:
    dbus = None  # type: ignore[assignment]

TICK = 0.2  # seconds
LOOK_EVERY = 5.0
MEASURE_TIMEOUT = 0.8
DBUS_TIMEOUT = 1.0
ENDED = 16  # nodes that are gone and still told of
Process = t.Tuple[int, str]  # pid and when it started: names one process for ever


class Unknown(Exception):
    """D-Bus does not tell the states of the units now."""


class Units:
    """ActiveState of units, one D-Bus call for all of them. For one thread only."""

    def __init__(self, patterns: t.Sequence[str]) -> None:
        self.patterns = patterns
        self.bus: t.Any = None
        self.manager: t.Any = None

    def __call__(self) -> dict[str, str]:
        """{unit: ActiveState} of those that systemd has loaded; raises Unknown."""
        if dbus is None:
            raise Unknown("python3-dbus is missing")
        try:
            if self.manager is None:
                self.bus = dbus.SystemBus(private=True)
                self.bus.set_exit_on_disconnect(False)
                proxy = self.bus.get_object("org.freedesktop.systemd1", "/org/freedesktop/systemd1", introspect=False)
                self.manager = dbus.Interface(proxy, "org.freedesktop.systemd1.Manager")
            found = self.manager.ListUnitsByPatterns(dbus.Array([], signature="s"), dbus.Array(self.patterns, signature="s"), timeout=DBUS_TIMEOUT)
            return {str(unit[0]): str(unit[3]) for unit in found}
        except dbus.exceptions.DBusException as exc:
            self.manager = None
            if self.bus is not None:
                bus, self.bus = self.bus, None
                bus.close()
            raise Unknown(str(exc)) from exc


class Memory:
    """Which process is which node, of the latest that ended too. A file keeps it over a restart of the executor, as a node that hangs cannot be asked
    again, and one that is gone even less."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.nodes: dict[Process, str] = {}
        try:
            with open(path, encoding="utf-8") as handle:
                self.nodes = {(int(pid), str(start)): str(node) for pid, start, node in json.load(handle)}
        except (OSError, ValueError, TypeError):
            pass

    def learn(self, process: Process, node_id: str) -> bool:
        """Whether that was new."""
        if self.nodes.get(process) == node_id:
            return False
        self.nodes = {**{p: n for p, n in self.nodes.items() if n not in self.forgotten()}, process: node_id}
        try:
            with open(self.path + ".new", "w", encoding="utf-8") as out:
                json.dump([[*p, n] for p, n in self.nodes.items()], out)
            os.replace(self.path + ".new", self.path)
        except OSError:
            pass  # known until this process ends
        return True

    def ended(self) -> tuple[str, ...]:
        """Nodes whose process is gone, oldest first."""
        return tuple(n for p, n in self.nodes.items() if started(p[0]) != p[1])

    def forgotten(self) -> tuple[str, ...]:
        return self.ended()[:-ENDED]


class Watch:
    """The slots and neighbours of the host. tick() belongs to one thread; everything else may be called from any."""

    def __init__(self, host: SlotHost | None, units: t.Callable[[], t.Mapping[str, str]], neighbours: t.Sequence[str], memory: Memory) -> None:
        self.host, self.units, self.neighbours, self.memory = host, units, neighbours, memory
        self.changed = threading.Event()  # something that others want to know at once
        self.seen_at = float("-inf")  # when the host could be looked at last, on the steady clock
        self._slots: list[tuple[t.Any, Process | None]] = []
        self._measured: dict[Process, tuple[float, dict[str, t.Any]]] = {}
        self._asking: set[Process] = set()
        self._states: t.Mapping[str, str] | None = None
        self._marks: t.Any = None
        self._looked = 0.0
        self._looking = threading.Lock()

    # -- looking -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The first look, nodes asked, so that the first report tells all that can be known."""
        self.look(tell=False)
        self.ask_all(1.0)

    def tick(self) -> None:
        """Notice what changed, and ask the nodes whose turn it is."""
        try:
            states: t.Mapping[str, str] | None = self.units()
            every = LOOK_EVERY
        except Unknown:
            states, every = None, 1.0
        marks = (states, [started(p[0]) for dummy, p in self._slots if p], self.host.shelf.marks(self.host.layout.numbers) if self.host else None)
        changed, self._marks = marks != self._marks, marks
        if changed or time.monotonic() - self._looked > every:
            self._states = states
            self.look(changed)
        if states is not None:
            self.seen_at = time.monotonic()
        for slot, process in self._slots:
            if process and process not in self._asking and self._due(slot, process):
                self._asking.add(process)
                threading.Thread(target=self.ask, args=(slot.slot, process), daemon=True).start()

    def look(self, tell: bool = True) -> None:
        """Read the units and files of all slots."""
        with self._looking:
            found = self.host.observe(measure=False) if self.host else []
            slots = []
            for slot in found:
                start = started(slot.pid) if slot.pid else None
                slots.append((slot, (t.cast(int, slot.pid), start) if start else None))
            self._slots = slots
            self._looked = self.seen_at = time.monotonic()
            alive = {p for dummy, p in slots}
            self._measured = {p: m for p, m in self._measured.items() if p in alive}
        if tell:
            self.changed.set()

    def _due(self, slot: t.Any, process: Process) -> bool:
        at, dummy = self._measured.get(process, (0.0, {}))
        every = 0.4 if process not in self.memory.nodes else 1.0 if slot.draining else 2.0
        return time.monotonic() - at >= every - TICK / 2

    def ask(self, n: int, process: Process) -> None:
        """Ask the node in slot n. What comes back counts only if the process is still there: ports go from one to the next."""
        try:
            seen = self.host.measure(n, MEASURE_TIMEOUT) if self.host else {}
            if started(process[0]) != process[1]:
                return
            dummy, before = self._measured.get(process, (0.0, {}))
            self._measured[process] = (time.monotonic(), seen)
            new = bool(seen.get("node_id")) and self.memory.learn(process, seen["node_id"])
            if new or seen.get("http") != before.get("http") or seen.get("participants") != before.get("participants"):
                self.changed.set()
        finally:
            self._asking.discard(process)

    def ask_all(self, timeout: float) -> None:
        """Ask every node, for so long."""
        threads = [threading.Thread(target=self.ask, args=(slot.slot, process), daemon=True) for slot, process in self._slots if process]
        end = time.monotonic() + timeout
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    # -- telling -----------------------------------------------------------------------------------------------

    def slots(self) -> list[t.Any]:
        """The slots as they were seen last, with what their nodes said. A node that does not answer keeps its id."""
        out = []
        for slot, process in self._slots:
            if process:
                seen = self._measured.get(process, (0.0, {}))[1]
                slot = dataclasses.replace(slot, **{k: v for k, v in seen.items() if k != "node_id"}, node_id=self.memory.nodes.get(process))
            out.append(slot)
        return out

    def process(self, n: int) -> Process | None:
        return next((p for slot, p in self._slots if slot.slot == n), None)

    def report(self, host: str, address: str, balancer: str, at: float) -> HostReport:
        slots = tuple(self.slots())
        ports = {slot.slot: self.host.layout.ports(slot.slot).signal for slot in slots} if self.host else {}
        states = self._states
        near = {unit: "unknown" if states is None else states.get(unit, "inactive") for unit in self.neighbours}
        return HostReport(host, address, at, slots, ports, balancer, near, self.memory.ended())


def patterns(neighbours: t.Sequence[str], slots: bool) -> list[str]:
    return [*([UNIT.format("*")] if slots else []), *neighbours]
