# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an executor does by itself in Kubernetes, where pods and machines come and go without any run of ours.

On a media machine it keeps the label `serving`: a pod gets it whose generation passed its gates and which is fit itself, and loses it when it
drains. Beside HAProxy it keeps the servers equal to what the executors of the machines report.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import os
import threading
import typing as t

from .balancers.haproxy_pool import Pool
from .errors import FleetError
from .executor_orders import Log
from .generation import Slot
from .host import SlotHost
from .registry import Registry
from .reports import Reports

EVERY = 0.5  # seconds


def admit(slots: t.Iterable[Slot]) -> list[Slot]:
    """Nodes that answer and whose generation passed its gates, but that callers are not let to yet."""
    return [s for s in slots if s.state == "active" and s.enabled and s.gate != s.generation and s.http == 200 and s.node_id]


def dismiss(slots: t.Iterable[Slot]) -> list[Slot]:
    """Nodes that drain and have the label still. A disruption budget that selects it would count them."""
    return [s for s in slots if s.draining and s.gate]


def repeat(stop: threading.Event, log: Log, what: str, step: t.Callable[[], None]) -> None:
    """step() again and again until `stop`; what goes wrong is told once, until it goes well again or differently wrong."""
    said = ""
    while not stop.is_set():
        try:
            step()
            got = ""
        except Exception as exc:  # pylint: disable=broad-except  # Redis, HAProxy, the API: all of them come back
            got = str(exc.failure["got"] if isinstance(exc, FleetError) else f"{type(exc).__name__}: {exc}")
        if got != said:
            log(what, state="failing" if got else "well", **({"got": got} if got else {}))
        said = got
        stop.wait(EVERY if not got else 1.0)


class Doorkeeper:
    """The label `serving` of this machine's pods. slots: as the executor saw them last."""

    def __init__(self, host: SlotHost, slots: t.Callable[[], t.Sequence[Slot]], redis: t.Mapping[str, t.Any], log: Log) -> None:
        self.host, self.slots, self.registry, self.log = host, slots, Registry(redis), log

    def step(self) -> None:
        slots = self.slots()
        for slot in dismiss(slots):
            self.host.shelf.set_gate(slot.slot, None)
            self.log("dismiss", slot=slot.slot, node=slot.node_id)
        due = admit(slots)
        snapshot = self.registry.snapshot() if due else None
        for slot in due:
            node = snapshot.nodes.get(slot.node_id or "") if snapshot else None
            if node and node.serving and snapshot and snapshot.fresh(node.id):
                self.host.serve(slot.slot, slot.generation or "")
                self.log("admit", slot=slot.slot, node=slot.node_id, generation=slot.generation)


class PoolKeeper:
    """The servers of the HAProxy beside this executor. synced: file that is written once they are known; the pod is ready from then on."""

    def __init__(self, pool: Pool, redis: t.Mapping[str, t.Any], synced: str, log: Log) -> None:
        self.pool, self.synced, self.log = pool, synced, log
        self.registry = Registry(redis)
        self._told: list[str] = []

    def _read(self) -> tuple[Reports, float, dict[str, float]]:
        return Reports.read(self.registry), self.registry.now(), {node.id: node.cpu_load for node in self.registry.nodes()}

    def step(self) -> None:
        sent = [command for command in self.pool.sync(self._read) if " livekit/" in command and " weight " not in command]
        if sent and sent != self._told:  # one that has sessions still is removed again and again
            self.log("servers", sent=sent)
        self._told = sent
        if self.synced and not os.path.exists(self.synced):
            with open(self.synced, "w", encoding="ascii"):
                pass
