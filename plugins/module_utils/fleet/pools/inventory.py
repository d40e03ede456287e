# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Spare hosts of the Ansible inventory, converged when they are needed. So whoever scales by this runs on a machine that has Ansible and the inventory.

A spare host with a warm slot starts at once (slots.py). Any other is converged by a program, ansible-playbook as a rule, in the background; its log
and how it ended lie in `directory`, so that a scaler that was restarted knows of it. A host that is given back keeps its slot warm.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import json
import os
import subprocess
import time
import typing as t

from ..errors import FleetError
from .base import ENDING, FAILED, ORDERED, RUNNING, Base, Machine, check_count, option
from .slots import Slots, warm

if t.TYPE_CHECKING:
    from ..orders import Orders
    from ..registry import Registry

CONVERGE = ["ansible-playbook", "openrtc.livekit.deploy", "--limit", "{host}"]
GRACE = 60.0  # seconds from the end of a run until its host must report a node
KEEP_FAILED = 3600.0  # seconds a failed run keeps its host from being tried again
WRAP = '"$@" >"$LIVEKIT_LOG" 2>&1 </dev/null; echo $? >"$LIVEKIT_END.new" && mv "$LIVEKIT_END.new" "$LIVEKIT_END"'


class Job(t.NamedTuple):
    """A run that converges a host. end: its exit status, None while it goes on."""

    at: float
    pid: int
    order: str
    end: int | None = None
    ended_at: float = 0.0


class Inventory(Base):
    """hosts: {inventory name: private address}; converge: program and options, {host} stands for the name; directory: for logs and what goes on."""

    name, poll = "inventory", 1.0

    def __init__(self, registry: Registry, orders: Orders, hosts: t.Mapping[str, str], directory: str, converge: t.Sequence[str] = tuple(CONVERGE)) -> None:
        self.hosts, self.directory, self.converge = dict(hosts), directory, list(converge)
        self.slots = Slots(registry, orders, list(self.hosts))

    @classmethod
    def of(cls, settings: t.Mapping[str, t.Any], registry: Registry, orders: Orders) -> Inventory:
        known: dict[str, t.Any] = {"hosts": {}, "directory": "/var/lib/livekit-controller/converge", "converge": CONVERGE}
        found = option("inventory", settings, known, ("hosts", "directory", "converge"))
        odd = [name for name in found["hosts"] if "/" in str(name) or str(name).startswith((".", "-"))]
        if odd:
            raise FleetError("read the settings of a pool", "inventory.hosts", f"{', '.join(odd)} is no name of a host", "Correct it", code="pool_settings")
        return cls(registry, orders, {str(k): str(v) for k, v in found["hosts"].items()}, found["directory"], [str(w) for w in found["converge"]])

    # -- reading

    def machines(self) -> list[Machine]:
        up: dict[str, list[Machine]] = {}
        for machine in self.slots.machines():
            up.setdefault(machine.host, []).append(machine)
        found = [self._up(host, up[host]) if host in up else self._coming(host, self.job(host)) for host in sorted(self.hosts)]
        return [m for m in found if m]

    def _up(self, host: str, slots: t.Sequence[Machine]) -> Machine:
        """What the best of its slots is."""
        rank = (RUNNING, ORDERED, ENDING)
        best = min(slots, key=lambda m: rank.index(m.state))
        return best._replace(id=host, slot=0, address=best.address or self.hosts[host])

    def _coming(self, host: str, job: Job | None) -> Machine | None:
        if job is None:
            return None
        failed = job.end is not None and (job.end != 0 or time.time() - job.ended_at > GRACE)
        if job.end is not None and time.time() - job.ended_at > KEEP_FAILED:
            return None
        return Machine(host, FAILED if failed else ORDERED, host, self.hosts[host], since=job.at)

    def job(self, host: str) -> Job | None:
        try:
            with open(self._path(host, "job"), encoding="utf-8") as handle:
                job = Job(*json.load(handle))
        except (OSError, ValueError, TypeError):
            return None
        try:
            with open(self._path(host, "end"), encoding="utf-8") as handle:
                return job._replace(end=int(handle.read()), ended_at=os.stat(self._path(host, "end")).st_mtime)
        except (OSError, ValueError):
            pass
        return job if _alive(job.pid) else job._replace(end=-1, ended_at=job.at)  # it was killed

    def _path(self, host: str, what: str) -> str:
        return os.path.join(self.directory, f"{host}.{what}")

    # -- doing

    def add(self, count: int, order: str = "") -> list[str]:
        check_count(count)
        here = {m.id for m in self.machines()}
        done = self._ordered(order)
        if done:
            return done
        spare = [host for host in sorted(self.hosts) if host not in here]
        if not spare:
            raise FleetError("converge spare hosts", f"{count} of them", f"all {len(self.hosts)} hosts of the pool are in use",
                             "Name more hosts in livekit_scaling.pool.hosts", code="pool_full")
        reports, now = self.slots.reports()
        versions = self.slots.versions(reports)
        hot = [h for h in spare if h in reports.hosts and reports.hosts[h].fresh(now) and any(warm(s, versions) for s in reports.hosts[h].slots)]
        chosen = [*hot, *(h for h in spare if h not in hot)][:count]
        self._note(order, chosen)
        started = [name.partition("/")[0] for name in self.slots.add(len(set(hot) & set(chosen)), order)] if set(hot) & set(chosen) else []
        for host in chosen:
            if host not in started:
                self._converge(host, order)
        return chosen

    def _ordered(self, order: str) -> list[str]:
        """The hosts that this order brought, if it was given before."""
        try:
            with open(os.path.join(self.directory, "orders.json"), encoding="utf-8") as handle:
                return [str(host) for host in json.load(handle).get(order, ())] if order else []
        except (OSError, ValueError, AttributeError):
            return []

    def _note(self, order: str, hosts: t.Sequence[str]) -> None:
        """The last order is enough: they are given one after the other."""
        self._write(os.path.join(self.directory, "orders.json"), json.dumps({order: list(hosts)}))

    def _write(self, path: str, text: str) -> None:
        try:
            os.makedirs(self.directory, mode=0o750, exist_ok=True)
            with open(path + ".new", "w", encoding="utf-8") as handle:
                handle.write(text)
            os.replace(path + ".new", path)
        except OSError as exc:
            raise FleetError("note what is converged", path, exc, "Nothing was started; make livekit_scaling.pool.directory writable",
                             code="pool_refused") from exc

    def _converge(self, host: str, order: str) -> None:
        argv = [word.replace("{host}", host) for word in self.converge]
        self._forget(host)
        self._write(self._path(host, "log"), "")
        environment = {**os.environ, "LIVEKIT_LOG": self._path(host, "log"), "LIVEKIT_END": self._path(host, "end")}
        try:
            process = subprocess.Popen(  # pylint: disable=consider-using-with
                ["/bin/sh", "-c", WRAP, "converge", *argv], start_new_session=True, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL)
        except OSError as exc:
            raise FleetError("converge a host", host, exc, f"Run it by hand: {' '.join(argv)}", code="pool_refused") from exc
        self._write(self._path(host, "job"), json.dumps(Job(time.time(), process.pid, order)[:3]))

    def retire(self, ids: t.Sequence[str]) -> list[str]:
        """The nodes of these hosts drain, if any is left. A run that goes on is left to end, and its node then counts as one more."""
        found = {m.id: m for m in self.machines()}
        chosen = [i for i in ids if i in found and found[i].state != ENDING]
        slots = [m.id for m in self.slots.machines() if m.host in chosen]
        self.slots.retire(slots)
        for host in chosen:
            self._forget(host)
        return chosen

    def _forget(self, host: str) -> None:
        for what in ("job", "end"):
            try:
                os.unlink(self._path(host, what))
            except FileNotFoundError:
                pass


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as handle:
            return handle.read().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
