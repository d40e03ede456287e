# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of the module drain: choose the nodes, check them all, ask for their drains, go on with them.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import time
import typing as t

from . import drain, eta
from .drain import Action, Drainer, Request
from .errors import FleetError
from .move import AWAY, FREEZE_SECONDS
from .move_plan import View, frozen
from .orders import Order
from .placement import receivers, spread
from .reports import Reports

if t.TYPE_CHECKING:
    from .move import Mover

LOOK = 0.5  # seconds between two looks at a node that is waited for
UNSEEN = (*AWAY, "frozen", "host_silent", "node_unnamed")  # errors that may pass
ORDER = (("agent",), ("egress", "ingress", "sip"))  # neighbours go in this order, the node last


class DrainRun:
    """See drain.py for what is decided; this carries several nodes along."""

    def __init__(self, mover: Mover, policy: str, seconds: float | None, neighbours: t.Sequence[t.Mapping[str, str]] = (), draining: bool = False) -> None:
        """draining: of the hosts only nodes that drain already and that nobody has asked about; nodes that are gone meanwhile do not matter."""
        self.mover, self.registry, self.drainer = mover, mover.registry, Drainer(mover)
        self.policy, self.seconds, self.neighbours, self.draining = policy, seconds, neighbours, draining
        self.requests: list[Request] = []
        self.state: dict[str, Action] = {}
        self.hosts: list[str] = []
        self.changed = False

    @property
    def done(self) -> bool:
        return all(self.state.get(r.node_id, Action("", "")).kind == "gone" for r in self.requests)

    def choose(self, hosts: t.Sequence[str], node_ids: t.Sequence[str]) -> None:
        """Find the nodes and see that all of them may leave. Nothing has changed when this raises."""
        end = time.monotonic() + FREEZE_SECONDS
        while True:
            try:
                return self._choose(hosts, node_ids)
            except FleetError as exc:
                if exc.failure["code"] not in UNSEEN or time.monotonic() > end:
                    raise
            time.sleep(LOOK)

    def _choose(self, hosts: t.Sequence[str], node_ids: t.Sequence[str]) -> None:
        snapshot, reports = self.registry.snapshot(), Reports.read(self.registry)
        if frozen(snapshot):
            raise FleetError("drain nodes", ", ".join([*hosts, *node_ids]), frozen(snapshot),
                             "Nothing is done on data that cannot be trusted; mend that, then run again",
                             code="frozen")
        self.hosts, self.requests = list(hosts), []
        if not self.draining:
            self._known_hosts(hosts, reports, snapshot.taken_at)
        asked = drain.requests(self.registry)
        now = self.registry.now()
        for node_id in dict.fromkeys([*node_ids, *self._nodes_of(hosts, reports, asked)]):
            place, before = reports.place_of(node_id), asked.get(node_id)
            if self.draining and before is None and (place is None or place.slot.free):
                continue
            if place is None and before is None:
                raise FleetError("find the node", node_id, "no host reports such a node" + (", the registry knows it" if node_id in snapshot.nodes else ""),
                                 "Check the identifier (openrtc.livekit.status shows them); for what a dead node left behind use openrtc.livekit.recover",
                                 code="node_unknown", node_id=node_id)
            host, slot = (place.host, place.slot.slot) if place else (before.host, before.slot) if before else ("", 0)
            since = before.requested_at if before and before.policy == self.policy else now
            self.requests.append(Request(node_id, host, slot, self.policy, None if self.seconds is None else since + self.seconds, since,
                                         self.mover.lock.owner))
        self._check_together(snapshot, reports)
        self.state = {r.node_id: self.drainer.look(r) for r in self.requests}
        self.changed = any(r.node_id not in asked or (asked[r.node_id].policy, asked[r.node_id].deadline) != (r.policy, r.deadline) for r in self.requests)

    def _nodes_of(self, hosts: t.Sequence[str], reports: Reports, asked: t.Mapping[str, Request]) -> list[str]:
        slots = [s for h in hosts if h in reports.hosts for s in reports.hosts[h].slots if s.node_id and not s.free]
        if self.draining:
            return [s.node_id for s in slots if s.node_id and s.draining and s.node_id not in asked]
        return [*(s.node_id for s in slots if s.node_id), *(r.node_id for r in asked.values() if r.host in hosts)]

    @staticmethod
    def _known_hosts(hosts: t.Sequence[str], reports: Reports, now: float) -> None:
        unknown = [h for h in hosts if h not in reports.hosts or not reports.hosts[h].slots]
        if unknown:
            raise FleetError("find the hosts", ", ".join(unknown), "no executor there reports any slots",
                             f"Hosts that do: {', '.join(h for h, r in reports.hosts.items() if r.slots)}",
                             code="host_unknown", hosts=unknown)
        silent = [h for h in hosts if not reports.hosts[h].fresh(now)]
        if silent:
            raise FleetError("see what runs on the hosts", ", ".join(silent), f"no report for {max(now - reports.hosts[h].at for h in silent):.0f} s",
                             "See systemctl status livekit-executor there, then run again; for the calls of a host that is gone use openrtc.livekit.recover",
                             code="host_silent", hosts=silent)
        unnamed = [f"{h} slot {s.slot}" for h in hosts for s in reports.hosts[h].slots if not s.free and not s.node_id]
        if unnamed:
            raise FleetError("see what runs on the hosts", ", ".join(unnamed), "a node runs there that has not said yet which one it is",
                             "It has just started, or its metrics do not answer: run again in some seconds, or see journalctl there", code="node_unnamed",
                             slots=unnamed)

    def _check_together(self, snapshot: t.Any, reports: Reports) -> None:
        """One after the other each node might leave; all of them together must be able to."""
        leaving = {r.node_id for r in self.requests}
        places = [place for place in map(reports.place_of, leaving) if place and place.slot.running]
        if not places:
            return
        among = receivers(snapshot, reports, leaving)
        if not among:
            raise FleetError("drain the nodes", ", ".join(sorted(map(str, places))), "no other node would be left serving",
                             "Start another one first: openrtc.livekit.deploy on another host, or openrtc.livekit.upgrade, which starts a new one beside it",
                             code="last_node")
        if self.policy in ("move", "now"):
            rooms = [room for node_id in leaving for room in snapshot.rooms_of(node_id)]
            spread(self.registry.sizes(rooms), among, self.mover.limits, host=places[0].host if len({p.host for p in places}) == 1 else None)

    def begin(self, poll: float = 0.0) -> bool:
        """Neighbours first, then the requests; from here on the controller would go on without us. False where neighbours still work after `poll` s."""
        end = time.monotonic() + poll if poll else None
        for kinds in ORDER:
            units = [n["unit"] for n in self.neighbours if n["kind"] in kinds]
            if units and not self._stop(units, end):
                return False
        for request in self.requests:
            drain.put(self.registry, request)
        return True

    def _stop(self, units: t.Sequence[str], end: float | None) -> bool:
        """They finish what they are at, however long that takes: a recording that is cut off is lost. Others may move rooms meanwhile."""
        with self.mover.lock:
            answers = self.mover.orders.ask([Order(host, "stop_unit", {"unit": unit}) for host in self.hosts for unit in units])
        self.changed = self.changed or any(a.get("signalled") for a in answers)
        while True:
            reports = Reports.read(self.registry)
            busy = [f"{u} on {h}" for h in self.hosts for u in units
                    if h in reports.hosts and reports.hosts[h].neighbours.get(u) in ("active", "deactivating", "reloading", "unknown")]
            if not busy:
                return True
            if end and time.monotonic() >= end:
                self.state = {r.node_id: Action("wait", f"{', '.join(busy)} finish their work first") for r in self.requests}
                return False
            time.sleep(LOOK)

    def pursue(self, wait: bool = True, poll: float = 0.0) -> None:
        """Until every node is gone, or `poll` seconds have passed; without `wait` until every node drains."""
        end, calm = time.monotonic() + poll if poll else None, time.monotonic()
        while True:
            if any(a.kind == "drain" for a in self.state.values()):  # all of them first, so that none gets rooms of another that leaves too
                for request in self.requests:
                    self._one(request, ("drain",))
            for request in self.requests:
                self._one(request)
            stuck = [a for a in self.state.values() if a.kind == "freeze"]
            calm = calm if stuck else time.monotonic()
            if time.monotonic() - calm > FREEZE_SECONDS:
                raise FleetError("go on with the drains", ", ".join(r.node_id for r in self.requests), stuck[0].reason,
                                 "Nothing is done on data that cannot be trusted; mend that, then run again", code="frozen")
            left = [a for a in self.state.values() if a.kind != "gone"]
            if not left or (not wait and all(a.kind == "wait" for a in left)) or (end and time.monotonic() >= end):
                return
            time.sleep(LOOK)

    def _one(self, request: Request, kinds: t.Collection[str] = drain.ACTS) -> None:
        try:
            if self.state[request.node_id].kind == "gone" and request.node_id not in drain.requests(self.registry):
                return
            action = self.drainer.look(request)
            if action.kind in kinds:
                with self.mover.lock:
                    action = self.drainer.step(request, kinds)  # it looks again, and may find another step than was seen without the lock
                self.changed = self.changed or action.kind in kinds
        except FleetError as exc:
            if exc.failure["code"] not in (*AWAY, "lock_lost"):  # a lock is lost when Redis was away for long
                raise
            action = Action("freeze", str(exc))
        self.state[request.node_id] = action

    # -- telling ------------------------------------------------------------------------------------------------

    def drains(self) -> list[dict[str, t.Any]]:
        """Where each drain stands, for people and programs."""
        return [self._tell(r) for r in self.requests]

    def _tell(self, request: Request) -> dict[str, t.Any]:
        action = self.state[request.node_id]
        row: dict[str, t.Any] = {"node_id": request.node_id, "host": request.host, "slot": request.slot, "policy": request.policy, "state": action.kind,
                                 "reason": action.reason, "rooms": 0, "participants": 0, "oldest": None, "blockers": {}, "eta": None, "deadline": None}
        if action.kind == "gone":
            return row
        view: View = self.mover.look(request.node_id)
        details, people = self.registry.room_details(view.sizes), self.registry.participants_of(view.sizes)
        ages = [view.now - d.created_at for d in details.values()]
        row.update(rooms=len(view.sizes), participants=sum(view.sizes.values()), oldest=max(ages, default=None), blockers=drain.blockers(people),
                   eta=eta.eta(ages, eta.durations(self.registry)), deadline=None if request.deadline is None else request.deadline - view.now)
        return row
