# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scaler at work: look at registry and pool, have scaling.decide() decide, and do that. The controller does it all the time, the module `scale` once.

A node is given back in two steps. First it drains, by a request as any other drain, so its calls end or move as its policy says; the machine goes
back to the pool only when nothing runs on it any more. Both steps can be repeated at any time.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import json
import math
import typing as t

from . import drain
from .errors import FleetError
from .policies.base import DRAINING, SERVING, Policy, View
from .pools.base import ENDING, Machine, Pool
from .redis_connection import as_text
from .reports import Reports
from .scaling import Action, Decision, decide
from .scaling_rules import State
from .scaling_view import Demand, Mark, Sight, marked, measured, view

if t.TYPE_CHECKING:
    from .forecast import Outlook
    from .journal import Journal
    from .registry import Registry
    from .scaling_settings import ScalingSettings

STATE = "openrtc:scaling:state"  # JSON, see scaling_rules.State
MARKS = "openrtc:scaling:machines"  # hash: machine id -> Mark as JSON
STATUS = "openrtc:scaling:status"  # JSON of the last look and decision, for capacity_info and the page
# a list, newest first, one per minute: {at, demand, serving, capacity, ahead (minutes), low, middle, high}; the last three are forecast for then
HISTORY = "openrtc:scaling:history"
KEEP_HISTORY = 1440
WAITING = "openrtc:scaling:waiting"  # hash: whoever lets people wait -> JSON {units, at}; counts for WAITING_SECONDS
WAITING_SECONDS = 60.0
DRY = ":dry-run"  # a dry run keeps what it would have done by itself


class Scaler:
    """by: who it drains for. The lock "scale" has to be held from look() to the end of act(), as what is remembered is written in all of them; not so
    for a look that remembers nothing, and in a dry run, which has a memory of its own and does nothing."""

    def __init__(self, registry: Registry, pool: Pool, settings: ScalingSettings, journal: Journal, by: str) -> None:
        self.registry, self.pool, self.settings, self.journal, self.by = registry, pool, settings, journal, by

    def _key(self, name: str) -> str:
        return name + DRY if self.settings.rules.dry_run else name

    # -- looking

    def look(self, refused: int = 0, remember: bool = True) -> Sight:
        """What there is now. A pool that does not answer is told in the sight; a Redis that does not raises."""
        snapshot, reports = self.registry.snapshot(), Reports.read(self.registry)
        (raw,) = self.registry.ask("read the marks of machines", ("HGETALL", self._key(MARKS)))
        marks = {as_text(key): Mark(**json.loads(as_text(value))) for key, value in raw.items()}
        rooms = self.registry.room_details() if self.settings.measure.by == "load" else {}
        machines: list[Machine] = []
        size, error = None, ""
        try:
            machines = self.pool.machines()
            size = self.pool.size()
        except FleetError as exc:
            error = str(exc)
        sight = Sight(snapshot, reports, tuple(machines), size, error, drain.requests(self.registry), marks, rooms, self._waiting(snapshot.taken_at), refused)
        if remember and not error:
            sight = dataclasses.replace(sight, marks=self._mark(sight))
        return sight

    def _waiting(self, now: float) -> float:
        (raw,) = self.registry.ask("read who waits", ("HGETALL", WAITING))
        units = 0.0
        for value in raw.values():
            try:
                row = json.loads(as_text(value))
                fresh = 0 <= now - float(row["at"]) + 5 < WAITING_SECONDS + 5
                units += float(row["units"]) if fresh and float(row["units"]) >= 0 else 0.0
            except (KeyError, TypeError, ValueError):
                continue
        return units if math.isfinite(units) else 0.0

    def _mark(self, sight: Sight) -> dict[str, Mark]:
        found = marked(sight)
        gone = [i for i in sight.marks if i not in found]
        new = {i: m for i, m in found.items() if m != sight.marks.get(i)}
        commands: list[tuple[t.Any, ...]] = [("HSET", self._key(MARKS), i, json.dumps(dataclasses.asdict(m))) for i, m in new.items()]
        commands += [("HDEL", self._key(MARKS), *gone)] if gone else []
        if commands:
            self.registry.ask("remember machines", *commands)
        return found

    def measure(self, sight: Sight) -> Demand:
        return measured(sight, self.settings.measure)

    def view(self, sight: Sight, found: Demand, outlook: Outlook | None = None, heard: float | None = None) -> View:
        return view(sight, found, self.settings.measure, outlook, heard, self.settings.rules.boot)

    # -- deciding

    def state(self, now: float) -> State:
        """What was remembered, or a fresh start where that is too old to go on from."""
        (raw,) = self.registry.ask("read the scaler's state", ("GET", self._key(STATE)))
        found = State.parse(as_text(raw)) if raw else State()
        if now - found.at > self.settings.rules.jump:
            return dataclasses.replace(State(), last_order=found.last_order, last_return=found.last_return, day=found.day, spent=found.spent)
        return found

    def decide(self, seen: View, policies: t.Sequence[Policy] | None = None, now: float | None = None) -> Decision:
        return decide(seen, self.settings.policies if policies is None else policies, self.settings.rules, self.state(seen.at), now)

    # -- doing

    def act(self, decision: Decision, sight: Sight) -> list[str]:
        """Do what was decided: the ids that were added, as far as they are known. Raises FleetError of the pool; what it did shows at the next look."""
        # First: an order whose answer is lost must count as one.
        self.registry.ask("remember the scaler's state", ("SET", self._key(STATE), decision.state.as_json()))
        if decision.dry_run:
            return []
        added: list[str] = []
        for action in decision.actions:
            if action.kind == "add":
                added = self.pool.add(action.count, f"{decision.state.last_order:.3f}")
            elif action.kind == "retire":
                self._leave(action, sight)
            elif action.kind == "replace":
                self._replace(action, sight)
        return added

    def _leave(self, action: Action, sight: Sight) -> None:
        if getattr(self.pool, "graceful", False):
            self.pool.retire(action.nodes)
            return
        for machine in sight.machines:
            if machine.id in action.nodes:
                self._drain(machine, sight, self.settings.drain_policy, self.settings.deadline)

    def _drain(self, machine: Machine, sight: Sight, policy: str, seconds: float | None) -> None:
        mark = dataclasses.replace(sight.marks.get(machine.id, Mark(seen=sight.at)), leaving=sight.at)
        self.registry.ask("remember that a machine leaves", ("HSET", MARKS, machine.id, json.dumps(dataclasses.asdict(mark))))
        for node_id in sight.nodes_of(machine):
            place = sight.reports.place_of(node_id)
            if node_id not in sight.requests and place is not None:
                until = None if seconds is None else sight.at + seconds
                drain.put(self.registry, drain.Request(node_id, place.host, place.slot.slot, policy, until, sight.at, self.by))

    def _replace(self, action: Action, sight: Sight) -> None:
        """One that never served goes at once; one that did may have calls on it, and drains."""
        chosen = [m for m in sight.machines if m.id in action.nodes]
        idle = [m.id for m in chosen if getattr(self.pool, "graceful", False) or not sight.nodes_of(m)]
        for machine in chosen:
            if machine.id not in idle:
                self._drain(machine, sight, "now", None)
        if idle:
            self.pool.retire(idle)

    def finish(self, sight: Sight) -> list[str]:
        """Give back machines that were to leave and that nothing runs on any more; see to those that the pool itself wants to take."""
        if sight.pool_error or self.settings.rules.dry_run:
            return []
        for machine in sight.machines:
            if machine.state == ENDING and getattr(self.pool, "takes_away", False) and not sight.marks.get(machine.id, Mark()).leaving:
                self._drain(machine, sight, "now", None)
        ready = [m.id for m in sight.machines if sight.marks.get(m.id, Mark()).leaving and sight.empty(m)]
        gone = self.pool.retire(ready) if ready else []
        if gone:
            self.journal.note("scale", "nothing runs on them any more", machines=gone, outcome="given back")
        return gone

    def tell(self, decision: Decision, seen: View) -> dict[str, t.Any]:
        """Keep the decision for capacity_info and the page."""
        status = as_status(decision, seen)
        self.registry.ask("tell what was decided", ("SET", self._key(STATUS), json.dumps(status, separators=(",", ":"))))
        return status


def as_status(decision: Decision, seen: View) -> dict[str, t.Any]:
    """What is shown of a look and its decision. JSON-able; demand and its parts in units, capacity in units per node."""
    outlook = None if seen.outlook is None else dataclasses.asdict(seen.outlook)
    return {
        **decision.as_dict(), "at": seen.at, "demand": seen.demand, "capacity": seen.capacity, "waiting": seen.waiting, "heard": seen.heard, "outlook": outlook,
        "serving": seen.count(SERVING), "draining": seen.count(DRAINING), "pool_size": seen.pool_size,
        "members": [dataclasses.asdict(m) for m in seen.members],
    }


def status(registry: Registry) -> dict[str, t.Any] | None:
    """The last look and decision of whoever scales this cluster; None where nobody ever did."""
    (raw,) = registry.ask("read the last decision", ("GET", STATUS))
    return dict(json.loads(as_text(raw))) if raw else None


def history(registry: Registry, minutes: int = KEEP_HISTORY) -> list[dict[str, t.Any]]:
    """Demand of the last minutes and what was forecast then, oldest first."""
    (found,) = registry.ask("read the history of demand", ("LRANGE", HISTORY, 0, minutes - 1))
    return [json.loads(as_text(raw)) for raw in reversed(found)]
