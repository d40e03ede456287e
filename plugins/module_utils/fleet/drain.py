# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drains: a node that takes no new rooms, and what becomes of the calls on it when its deadline passes.

A request lies in the registry, so that it outlives the run that made it: the controller, or the next run, goes on with it.
next_action() decides (pure), Drainer does it.

Policies: wait (for ever), move (live move when the deadline passes), now (live move at once), end (ends the calls at the deadline;
only ever by name).

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import json
import re
import typing as t

from .errors import FleetError
from .move_plan import View, check_leaving, frozen, known
from .orders import Order
from .placement import receivers
from .redis_connection import as_text

if t.TYPE_CHECKING:
    from .move import Mover
    from .registry import Registry
    from .registry_messages import Participant

DRAINS = "openrtc:drains"  # hash: node id -> Request as JSON
POLICIES = ("move", "wait", "now", "end")
DEADLINE = 1800.0  # seconds, of policies move and end
ACTS = ("drain", "move", "end", "gone")  # kinds of actions that change something
HOST_GONE = 60.0  # seconds of silence after which a host's last report says nothing
HOLDERS = ("SIP", "INGRESS", "EGRESS", "AGENT")  # kinds of participants that an operator cannot see in a room
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclasses.dataclass(frozen=True)
class Request:
    """A drain that was asked for. Times are Unix seconds of Redis' clock."""

    node_id: str
    host: str
    slot: int
    policy: str = "move"
    deadline: float | None = None  # None: no deadline (wait), or at once (now)
    requested_at: float = 0.0
    by: str = ""


class Action(t.NamedTuple):
    """kind: freeze, wait, or one of ACTS."""

    kind: str
    reason: str


def seconds(text: str | float) -> float:
    """"90", "90s", "30m", "1h30m" in seconds. Raises FleetError bad_duration; also for anything below zero."""
    found = re.fullmatch(r"((?:\d+(?:\.\d+)?[smhd])+|\d+(?:\.\d+)?)", str(text).strip().lower())
    if not found:
        past = str(text).strip().startswith("-")
        raise FleetError("read the deadline", str(text), "it lies in the past" if past else "it is no duration", "Write it like 30m, 1h30m or 90s",
                         code="bad_duration")
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", found[1])
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)


def requests(registry: Registry) -> dict[str, Request]:
    (found,) = registry.ask("read the drains", ("HGETALL", DRAINS))
    return {as_text(key): Request(**known(Request, json.loads(as_text(raw)))) for key, raw in found.items()}


def put(registry: Registry, request: Request) -> None:
    registry.ask("ask for a drain", ("HSET", DRAINS, request.node_id, json.dumps(dataclasses.asdict(request))))


def remove(registry: Registry, node_id: str) -> None:
    registry.ask("end a drain", ("HDEL", DRAINS, node_id))


def next_action(request: Request, view: View) -> Action:
    """What to do about one drain now. Raises FleetError last_node or no_headroom before it has begun."""
    why = frozen(view.snapshot)
    if why:
        return Action("freeze", why)
    place, node = view.reports.place_of(request.node_id), view.snapshot.nodes.get(request.node_id)
    here = view.snapshot.rooms_of(request.node_id)
    if place is not None and view.now - place.report.at > HOST_GONE and node is None and not here and view.record is None:
        return Action("gone", f"its host {place.host} is silent, the registry knows nothing of it any more")
    if place is None or place.slot.free:
        if node is None and not here and view.record is None:
            return Action("gone", "the node is gone")
        if node is not None and node.fresh(view.now):
            return Action("freeze", "the registry knows the node, no host reports it")
        return Action("move", f"it is gone and left {len(here)} rooms behind")
    if not place.report.fresh(view.now):
        return Action("freeze", f"the report of {place.host} is {view.now - place.report.at:.0f} s old")
    if place.slot.running:
        among = receivers(view.snapshot, view.reports, leaving=(request.node_id,))
        moves = request.policy in ("move", "now")
        check_leaving(request.node_id, view if moves else dataclasses.replace(view, sizes={}), among, place)
        return Action("drain", "it takes new rooms still")
    if view.record is not None:
        return Action("move", "a move has begun")
    due = request.policy == "now" or request.deadline is not None and view.now >= request.deadline
    if due and here:
        return Action("end" if request.policy == "end" else "move", "at once" if request.policy == "now" else "the deadline has passed")
    return Action("wait", _waiting(request, view))


def _waiting(request: Request, view: View) -> str:
    people = sum(view.sizes.values())
    left = "" if request.deadline is None else f", {request.policy} in {max(0.0, request.deadline - view.now):.0f} s"
    return f"{len(view.sizes)} rooms, {people} participants{left}"


def blockers(participants: t.Mapping[str, t.Sequence[Participant]]) -> dict[str, list[str]]:
    """{room: ["SIP sip-caller", ...]}: participants that are no people at a screen and that can hold a drain without anybody noticing."""
    found = {room: [f"{p.kind} {p.identity}" for p in people if p.kind in HOLDERS] for room, people in participants.items()}
    return {room: who for room, who in found.items() if who}


class Drainer:
    """Goes on with drains. The mover's lock has to be held for step()."""

    def __init__(self, mover: Mover) -> None:
        self.mover, self.registry = mover, mover.registry

    def look(self, request: Request) -> Action:
        """What is to be done now; changes nothing."""
        return next_action(request, self.mover.look(request.node_id))

    def step(self, request: Request, kinds: t.Collection[str] = ACTS) -> Action:
        """One step: decide, do it if it is one of these kinds, and say what it was."""
        action = self.look(request)
        if action.kind not in kinds:
            return action
        inputs = {"node": request.node_id, "host": request.host, "slot": request.slot, "policy": request.policy}
        if action.kind == "drain":
            self.mover.drain(request.node_id, action.reason)
        elif action.kind == "move":
            self.mover.evacuate(request.node_id, action.reason)
            action = Action("gone", action.reason)
        elif action.kind == "end":
            self.end(request, action)
        if action.kind == "gone":
            remove(self.registry, request.node_id)
        self.mover.journal.note(f"drain {action.kind}", action.reason, **inputs)
        return action

    def end(self, request: Request, action: Action) -> None:
        """End the calls: every room is deleted, as its API call would do."""
        rooms = self.registry.snapshot().rooms_of(request.node_id)
        self.mover.orders.ask([Order(request.host, "end", {"slot": request.slot, "node_id": request.node_id, "rooms": rooms})], timeout=30.0)
