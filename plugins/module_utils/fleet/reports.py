# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every host says about itself, several times a minute: its slots, and the balancer it runs.

The executor of a host (executor.py) writes its report into the registry; modules, the controller and the status page read
all of them at once. A report tells what Redis alone cannot: which host and slot a node runs in, and what systemd knows of it.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import json
import typing as t

from .generation import Slot
from .redis_connection import as_text

if t.TYPE_CHECKING:
    from .registry import Registry

HOSTS = "openrtc:hosts"  # hash: host -> report as JSON
FRESH_SECONDS = 3.0  # reports come every second, and at once when a unit changes


@dataclasses.dataclass(frozen=True)
class HostReport:
    """One host. `at` is in Redis' clock, Unix seconds."""

    host: str
    address: str
    at: float
    slots: tuple[Slot, ...] = ()
    ports: t.Mapping[int, int] = dataclasses.field(default_factory=dict)  # {slot: signalling port}
    balancer: str = ""  # haproxy-http, haproxy-tcp, nginx, or "" for none
    neighbours: t.Mapping[str, str] = dataclasses.field(default_factory=dict)  # {unit: ActiveState} of egress, ingress, agents ...
    ended: tuple[str, ...] = ()  # nodes that ran here and whose process is gone, the latest ones

    def fresh(self, now: float) -> bool:
        return now - self.at < FRESH_SECONDS

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> HostReport:
        values = json.loads(text)
        return cls(host=values["host"], address=values["address"], at=float(values["at"]), balancer=values.get("balancer") or "",
                   slots=tuple(Slot.from_mapping(row) for row in values.get("slots") or ()), neighbours=values.get("neighbours") or {},
                   ports={int(slot): int(port) for slot, port in (values.get("ports") or {}).items()},
                   ended=tuple(str(node) for node in values.get("ended") or ()))


def _readable(raw: bytes) -> HostReport | None:
    """A report that cannot be read is as good as none: its host then counts as silent, and the others go on."""
    try:
        return HostReport.parse(as_text(raw))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a node runs, as its host reported it."""

    report: HostReport
    slot: Slot

    @property
    def host(self) -> str:
        return self.report.host

    @property
    def url(self) -> str:
        """The node's own HTTP address."""
        return f"http://{self.report.address}:{self.report.ports[self.slot.slot]}"

    def __str__(self) -> str:
        return f"{self.host} slot {self.slot.slot}"


class Reports:
    """All reports of one moment."""

    def __init__(self, hosts: t.Iterable[HostReport]) -> None:
        self.hosts = {h.host: h for h in sorted(hosts, key=lambda h: h.host)}

    @classmethod
    def read(cls, registry: Registry) -> Reports:
        (found,) = registry.ask("read the reports of the hosts", ("HGETALL", HOSTS))
        return cls(report for report in map(_readable, found.values()) if report)

    def place_of(self, node_id: str) -> Place | None:
        """Where the node runs; of several hosts that claim it (never seen) the latest."""
        found = [Place(h, s) for h in self.hosts.values() for s in h.slots if s.node_id == node_id]
        return max(found, key=lambda p: p.report.at) if found else None

    def balancers(self, now: float) -> list[HostReport]:
        """Hosts that run a balancer and whose report is fresh."""
        return [h for h in self.hosts.values() if h.balancer and h.fresh(now)]

    def serving(self, host: str) -> list[Slot]:
        return [s for s in self.hosts[host].slots if s.label == "serving"] if host in self.hosts else []
