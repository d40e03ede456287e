# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warm slots of hosts that are there: a slot whose generation served before and lies ready starts within seconds.

A slot is warm when its node has ended, its files are those that passed the gates, and what it would run is a version that serves now.
`deploy` makes them: it starts a node on each host, the scaler drains those that are not needed, and their slots stay behind warm. Nothing has to be
given back afterwards, so retiring a slot is the one SIGTERM that lets its node finish.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import fnmatch
import json
import typing as t

from ..errors import FleetError
from ..orders import Order, Orders
from ..redis_connection import as_text
from ..reports import HostReport, Reports
from .base import ENDING, ORDERED, RUNNING, Base, Machine, check_count, option

if t.TYPE_CHECKING:
    from ..generation import Slot
    from ..registry import Registry

START_TIMEOUT = 15.0  # seconds an executor may take to start a unit
ORDER = "openrtc:pool:order:"  # + its word: JSON [[host, slot, generation]]
KEEP_ORDER = 3600  # seconds


def warm(slot: Slot, versions: t.Collection[str]) -> bool:
    """Whether the slot could serve as it lies there. versions: those that serve; none: nothing serves, so any will do."""
    ready = slot.free and slot.generation and slot.gate == slot.generation and slot.intact and not slot.exposed
    return bool(ready and (not versions or slot.version in versions))


class Slots(Base):
    """hosts: patterns of host names that belong to the pool; per_host: nodes one host may run at a time, those that drain not counted."""

    name = "slots"
    poll = 0.2

    def __init__(self, registry: Registry, orders: Orders, hosts: t.Sequence[str] = ("*",), per_host: int = 1, protected: t.Sequence[str] = ()) -> None:
        self.registry, self.orders, self.hosts, self.per_host, self.protected = registry, orders, tuple(hosts), per_host, tuple(protected)

    @classmethod
    def of(cls, settings: t.Mapping[str, t.Any], registry: Registry, orders: Orders) -> Slots:
        found = option("slots", settings, {"hosts": ["*"], "per_host": 1.0, "protected": []})
        return cls(registry, orders, found["hosts"], max(1, int(found["per_host"])), found["protected"])

    def reports(self) -> tuple[Reports, float]:
        return Reports.read(self.registry), self.registry.now()

    @staticmethod
    def versions(reports: Reports) -> set[str]:
        """Those that serve."""
        return {s.version for r in reports.hosts.values() for s in reports.serving(r.host) if s.version}

    def _ours(self, reports: Reports) -> list[HostReport]:
        return [r for r in reports.hosts.values() if r.slots and any(fnmatch.fnmatch(r.host, p) for p in self.hosts)]

    def machines(self) -> list[Machine]:
        reports, _now = self.reports()
        return [self._machine(report, slot) for report in self._ours(reports) for slot in report.slots if not slot.free]

    def _machine(self, report: HostReport, slot: Slot) -> Machine:
        state = ENDING if slot.draining else RUNNING if slot.node_id else ORDERED
        return Machine(f"{report.host}/{slot.slot}", state, report.host, report.address, slot.slot, slot.since or slot.state_since or 0.0,
                       any(fnmatch.fnmatch(report.host, p) for p in self.protected))

    def add(self, count: int, order: str = "") -> list[str]:
        check_count(count)
        chosen = self._chosen(count, order)
        if not chosen:
            raise FleetError("start warm slots", f"{count} of them", "there is no host with a warm slot and room for another node",
                             "Run openrtc.livekit.deploy on more hosts; or raise per_host, if the hosts can carry two nodes", code="pool_full", warm=0)
        answers = self.orders.try_all([Order(host, "start", {"slot": slot, "generation": generation}) for host, slot, generation in chosen], START_TIMEOUT)
        failed = [a for a in answers if isinstance(a, FleetError)]
        started = [f"{host}/{slot}" for (host, slot, _generation), a in zip(chosen, answers) if not isinstance(a, FleetError)]
        if failed and not started:
            raise failed[0]
        return started

    def _chosen(self, count: int, order: str) -> list[tuple[str, int, str]]:
        """[(host, slot, generation)]. What was chosen for an order is noted before anything is started, and chosen again when it is repeated."""
        key = f"{ORDER}{order}"
        if order:
            (known,) = self.registry.ask("read an order", ("GET", key))
            if known:
                return t.cast("list[tuple[str, int, str]]", json.loads(as_text(known)))
        chosen = [(host, slot.slot, str(slot.generation)) for host, slot in self._choose(count)]
        if order and chosen:
            self.registry.ask("note an order", ("SET", key, json.dumps(chosen), "EX", KEEP_ORDER))
        return chosen

    def _choose(self, count: int) -> list[tuple[str, Slot]]:
        """Hosts that run least first; of a host's warm slots the one whose generation served last."""
        reports, now = self.reports()
        versions = self.versions(reports)
        places: list[tuple[int, str, Slot]] = []
        for report in self._ours(reports):
            busy = sum(not s.free and not s.draining for s in report.slots)
            ready = sorted((s for s in report.slots if warm(s, versions)), key=_newest)
            if report.fresh(now):
                places += [(busy + n, report.host, slot) for n, slot in enumerate(ready[:max(0, self.per_host - busy)])]
        return [(host, slot) for _busy, host, slot in sorted(places, key=_emptiest)[:count]]

    def retire(self, ids: t.Sequence[str]) -> list[str]:
        reports, _now = self.reports()
        running = {f"{r.host}/{s.slot}": (r.host, s) for r in self._ours(reports) for s in r.slots if s.running}
        chosen = [i for i in ids if i in running]
        self.orders.ask([Order(running[i][0], "rest", {"slot": running[i][1].slot, "generation": running[i][1].generation}) for i in chosen], START_TIMEOUT)
        return chosen


def _newest(slot: Slot) -> tuple[float, int]:
    return -(slot.served_at or 0.0), slot.slot


def _emptiest(place: tuple[int, str, Slot]) -> tuple[int, str, int]:
    return place[0], place[1], place[2].slot
