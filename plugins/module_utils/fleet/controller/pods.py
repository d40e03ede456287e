# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Kubernetes needs of a controller beside what hosts need. Everything else is the same code.

- Which pod goes first when there are to be fewer: the one with the fewest participants (pod-deletion-cost).
- A pod that leaves has a grace, at the end of which the kubelet kills it. So its drain gets a deadline before that, whoever deleted it: an
  autoscaler, `kubectl drain`, a Deployment that was retired. What is left by then is moved, by the code that does so on hosts.
- Machines and balancers that are gone for good are forgotten.

Decisions are pure functions; Keeper carries them out.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import threading
import time
import typing as t

from .. import drain
from ..drain import Request
from ..errors import FleetError
from ..journal import Journal
from ..reports import HOSTS, HostReport, Reports
from ..targets.kubernetes import cluster as c
from ..targets.kubernetes.api import MERGE, Api
from ..targets.kubernetes.mirror import Mirror
from ..targets.kubernetes.objects import COMPONENT, DELETION_COST
from ..targets.kubernetes.settings import MOVE_MARGIN

if t.TYPE_CHECKING:
    from ..registry import Registry
    from .hands import Tell
    from .loop import Loop

EVERY = 1.0  # seconds
COSTS = 10.0  # seconds between two looks at what each pod costs
GONE = 600.0  # seconds of silence after which a report of a machine that is no more is removed
WATCHED = f"app.kubernetes.io/name=livekit,{COMPONENT} in (server,haproxy)"


def cost(participants: int) -> int:
    """Only the order counts, and every change is a write: two digits are enough."""
    step = 10 ** max(0, len(str(participants)) - 2)
    return participants // step * step


def costs(pods: t.Iterable[c.Row], reports: Reports, now: float) -> dict[str, str]:
    """{pod: deletion cost} of those whose cost is to change. A pod nobody tells anything of keeps what it has."""
    found = {}
    for pod in pods:
        report = reports.hosts.get(str((pod.get("spec") or {}).get("nodeName")))
        slot = next((s for s in report.slots if s.slot == c.slot_of(pod)), None) if report and report.fresh(now) else None
        if slot is None or slot.participants is None or pod["metadata"].get("deletionTimestamp") or slot.generation != c.generation_of(pod):
            continue
        wanted = str(cost(slot.participants))
        if c.notes(pod).get(DELETION_COST, "0") != wanted:
            found[c.name(pod)] = wanted
    return found


def deadlines(pods: t.Iterable[c.Row], reports: Reports, requests: t.Mapping[str, Request], now: float, by: str) -> list[Request]:
    """Drains to ask for, or to ask for anew, so that nobody is left on a pod when the kubelet kills it."""
    found = []
    for pod in pods:
        ends = c.moment(pod["metadata"].get("deletionTimestamp"))
        report = reports.hosts.get(str((pod.get("spec") or {}).get("nodeName")))
        slot = next((s for s in report.slots if s.slot == c.slot_of(pod) and s.draining), None) if report and report.fresh(now) else None
        if ends is None or report is None or slot is None or not slot.node_id or slot.generation != c.generation_of(pod):
            continue
        last = ends - MOVE_MARGIN
        asked = requests.get(slot.node_id)
        if asked is None:
            found.append(Request(slot.node_id, report.host, slot.slot, "move", last, now, by))
        elif asked.policy != "now" and (asked.deadline is None or asked.deadline > last + 1.0):
            found.append(dataclasses.replace(asked, policy="move" if asked.policy == "wait" else asked.policy, deadline=last))
    return found


def gone(reports: Reports, machines: t.Collection[str], pods: t.Collection[str], now: float) -> list[str]:
    """Hosts that will not report any more: machines the cluster does not have, balancers whose pod is no more."""
    def over(report: HostReport) -> bool:
        return report.host not in (machines if report.ports else pods)
    return [report.host for report in reports.hosts.values() if now - report.at > GONE and over(report)]


class Keeper:
    """Carries that out while the loop leads and its data can be trusted. Threads of its own, so that an API that hangs holds up nobody."""

    def __init__(self, namespace: str, loop: Loop, registry: Registry, tell: Tell, connect: t.Callable[[float], Api] = Api.in_pod) -> None:
        self.namespace, self.loop, self.registry = namespace, loop, registry
        self.journal = Journal(registry, loop.settings.owner, tell)
        self.pods = Mirror(connect, f"/api/v1/namespaces/{namespace}/pods", WATCHED)
        self._stop = threading.Event()
        self._costs_at = float("-inf")
        self._said = ""

    def start(self) -> None:
        for work in (lambda: self.pods.keep(self._stop, self._tell), self._run):
            threading.Thread(target=work, name="pods", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            try:
                self.step()
                got = ""
            except FleetError as exc:
                got = str(exc)
            except Exception as exc:  # pylint: disable=broad-except
                got = f"{type(exc).__name__}: {exc}"
            if got != self._said:
                self._tell(got)
            self._said = got

    def _tell(self, got: str) -> None:
        if got:
            self._note("failed", got, outcome="kubernetes")

    def _note(self, kind: str, reason: str, **fields: t.Any) -> None:
        self.journal.note(kind, reason, **fields)
        self.journal.entries.clear()

    def step(self) -> None:
        look, settings = self.loop.look, self.loop.settings
        if not self.loop.leads or look.frozen or settings.dry_run or look.snapshot is None or look.reports is None or not self.pods.in_step:
            return
        pods, now = self.pods.rows(), look.snapshot.taken_at
        if settings.drains:
            for request in deadlines([p for p in pods if c.slot_of(p)], look.reports, look.requests, now, settings.owner):
                self._ask(request)
        if time.monotonic() - self._costs_at >= COSTS:
            self._costs_at = time.monotonic()
            for name, wanted in costs([p for p in pods if c.slot_of(p)], look.reports, now).items():
                self._patch(name, {"metadata": {"annotations": {DELETION_COST: wanted}}})
            if any(now - report.at > GONE for report in look.reports.hosts.values()):
                self._forget(look.reports, {c.name(p) for p in pods}, now)

    def _ask(self, request: Request) -> None:
        """Not where somebody asked otherwise since the look."""
        if drain.requests(self.registry).get(request.node_id) != self.loop.look.requests.get(request.node_id):
            return
        drain.put(self.registry, request)
        self._note("drain deadline", "its pod was deleted", node=request.node_id, host=request.host, slot=request.slot, deadline=request.deadline,
                   policy=request.policy)

    def _patch(self, name: str, body: dict[str, t.Any]) -> None:
        try:
            self.pods.api().ask("PATCH", f"/api/v1/namespaces/{self.namespace}/pods/{name}", body, kind=MERGE)
        except FleetError as exc:
            if exc.failure["code"] != "not_found":
                raise

    def _forget(self, reports: Reports, pods: t.Collection[str], now: float) -> None:
        machines = {c.name(row) for row in self.pods.api().items("/api/v1/nodes", metadata_only=True)}
        names = gone(reports, machines, pods, now)
        if names:
            self.registry.ask("forget hosts that are gone", ("HDEL", HOSTS, *names))
            self._note("forget", "the cluster has no such machine or balancer any more", hosts=names)
