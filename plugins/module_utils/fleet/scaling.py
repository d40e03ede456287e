# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many nodes, and which to give back: decide(view, policies, rules, state) -> decision with actions and reasons. Pure.

The largest wish counts. Then limits: min and max, cost, rate, cool-down, settling, young and protected nodes. Where the data cannot be
trusted nothing is done at all.

The controller, the module `scale` and the bench tests/bench/autoscale.py run this same code.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import math
import typing as t

from .policies.base import DRAINING, SERVING, STARTING, Member, Policy, View, Wish
from .scaling_rules import Rules, State

STATES = (STARTING, SERVING, DRAINING)
OLD_OUTLOOK = 300.0  # seconds; it is made anew each minute


@dataclasses.dataclass(frozen=True)
class Action:
    """kind: add (count), retire (nodes), replace (nodes that never started), freeze, hold."""

    kind: str
    reason: str
    count: int = 0
    nodes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Decision:
    """size: nodes to have, starting ones included. actions: what to do; with dry_run what would have been done."""

    size: int
    have: int
    actions: tuple[Action, ...]
    wishes: tuple[Wish, ...] = ()
    limits: tuple[str, ...] = ()  # what kept the size from the largest wish
    state: State = State()
    dry_run: bool = False

    def as_dict(self) -> dict[str, t.Any]:
        """For the journal: inputs, rule and outcome."""
        return {"size": self.size, "have": self.have, "dry_run": self.dry_run, "limits": list(self.limits),
                "actions": [dataclasses.asdict(a) for a in self.actions], "wishes": [w._asdict() for w in self.wishes]}


def decide(view: View, policies: t.Sequence[Policy], rules: Rules, state: State, now: float | None = None) -> Decision:
    """now: this machine's clock in the registry's time, Unix seconds (default: the view's own time)."""
    why = _untrusted(view, rules, state, view.at if now is None else now)
    serving, starting, failed = _split(view, rules)
    have = len(serving) + len(starting)
    if why:
        # The next look may be trusted again, so its time counts from this one: a clock that was put right does not freeze for ever.
        at = view.at if math.isfinite(view.at) else state.at
        return Decision(have, have, (Action("freeze", why),), state=dataclasses.replace(state, at=at, frozen=why), dry_run=rules.dry_run)
    wishes = tuple(w for w in (policy.wish(view) for policy in policies) if w is not None)
    state = _remember(view, rules, state, wishes, have + view.count(DRAINING))
    size, limits = _order(view, rules, state, wishes, have, len(failed))
    actions: list[Action] = []
    if failed:
        actions.append(Action("replace", f"not serving {rules.patience:.0f} s after the order", nodes=tuple(m.id for m in failed)))
    if size > have:
        actions.append(Action("add", _reason(wishes, size, limits), count=size - have))
    elif size == have and not limits:
        size, retire, limits = _give_back(view, rules, state, wishes, serving, starting)
        actions.extend(retire)
    if not actions:
        actions.append(Action("hold", "; ".join(limits) or _reason(wishes, size, limits)))
    if not rules.dry_run:
        state = _note(view, state, actions)
    return Decision(size, have, tuple(actions), wishes, tuple(limits), state, rules.dry_run)


def _untrusted(view: View, rules: Rules, state: State, now: float) -> str:
    """Why nothing may be decided from this view, or ""."""
    numbers = {"at": view.at, "demand": view.demand, "capacity": view.capacity, "waiting": view.waiting, "lead": view.lead,
               **({"heard": view.heard} if view.heard is not None else {}),
               **({f"outlook.{k}": v for k, v in (("level", view.outlook.level), ("margin", view.outlook.margin), ("keep", view.outlook.keep),
                                                  ("expected", view.outlook.expected or 0.0))} if view.outlook else {})}
    bad = [f"{name} is {value}" for name, value in numbers.items() if not math.isfinite(value) or value < 0]
    if bad:
        return "; ".join(bad)
    if view.frozen:
        return view.frozen
    if view.capacity == 0:
        return "the capacity of a node is 0"
    if any(m.state not in STATES or not math.isfinite(m.load) for m in view.members) or len({m.id for m in view.members}) != len(view.members):
        return "the list of nodes contradicts itself"
    if abs(now - view.at) > rules.stale:
        return f"the view is {now - view.at:.0f} s old"
    if view.outlook and abs(view.at - view.outlook.at) > OLD_OUTLOOK:
        return f"what was learned of demand ends {view.at - view.outlook.at:.0f} s ago"
    if state.at and view.at < state.at - 1.0:
        return f"the clock went back by {state.at - view.at:.0f} s"
    if state.at and view.at - state.at > rules.jump:
        return f"{view.at - state.at:.0f} s since the last look: the clock jumped, or this scaler slept"
    return view.pool_error and f"the pool does not answer: {view.pool_error}"


def _split(view: View, rules: Rules) -> tuple[list[Member], list[Member], list[Member]]:
    """(serving, starting, failed to start) nodes."""
    serving = [m for m in view.members if m.state == SERVING]
    starting = [m for m in view.members if m.state == STARTING]
    failed = [m for m in starting if view.at - m.since > rules.patience]
    return serving, [m for m in starting if m not in failed], failed


def _remember(view: View, rules: Rules, state: State, wishes: t.Sequence[Wish], paid: int) -> State:
    """The state with this look in it: what was wanted, what was ordered, what was spent."""
    wanted = max((max(w.size, w.keep) for w in wishes), default=0)
    day = int(view.at // 86400)
    passed = min(max(0.0, view.at - state.at), rules.jump) if state.at else 0.0
    spent = (state.spent if day == state.day else 0.0) + passed / 3600 * rules.node_hour * paid
    return dataclasses.replace(
        state, at=view.at, since=state.since if state.at and not state.frozen else view.at, frozen="", day=day, spent=spent,
        wanted=(*((at, size) for at, size in state.wanted if view.at - at < rules.settle), (view.at, wanted)),
        ordered=tuple((at, count) for at, count in state.ordered if view.at - at < rules.window),
    )


def _order(view: View, rules: Rules, state: State, wishes: t.Sequence[Wish], have: int, failed: int) -> tuple[int, list[str]]:
    """The size to have if more is needed, else `have`; and the limits that kept it from being more."""
    want = max((w.size for w in wishes), default=0)
    limits: list[str] = []

    def cap(size: int, at_most: int, why: str) -> int:
        if size > at_most:
            limits.append(why)
        return min(size, max(have, at_most))

    size = cap(max(want, rules.min), rules.max - failed, f"max is {rules.max}")
    if size <= have:
        return have, limits
    if failed >= max(1, rules.failed_at_most) and rules.failed_at_most:
        size = cap(size, have, f"{failed} nodes did not start: nothing more is ordered until that is looked at")
    if rules.cost_per_hour:
        size = cap(size, max(rules.min, int(rules.cost_per_hour / rules.node_hour)), f"{rules.cost_per_hour:g} an hour is the cost cap")
    if rules.cost_per_day and state.spent >= rules.cost_per_day:
        size = cap(size, rules.min, f"{state.spent:.2f} of {rules.cost_per_day:g} were spent today")
    # What the pool has beyond what is seen was ordered already, and did or will appear: orders whose answer was lost, or machines still booting.
    unseen = max(0, view.pool_size - len(view.members)) if view.pool_size is not None else 0
    if unseen:
        size = cap(size, size - unseen, f"the pool has {unseen} more than the registry shows: they count as ordered")
    if rules.cool_up and view.at - state.last_order < rules.cool_up:
        size = cap(size, have, f"{rules.cool_up:.0f} s pass between two orders")
    if rules.add_at_once:
        size = cap(size, have + rules.add_at_once, f"at most {rules.add_at_once} at once")
    if rules.add_per_window:
        left = max(0, rules.add_per_window - sum(count for _at, count in state.ordered))
        size = cap(size, have + left, f"at most {rules.add_per_window} in {rules.window:.0f} s")
    return size, limits


def _give_back(view: View, rules: Rules, state: State, wishes: t.Sequence[Wish], serving: t.Sequence[Member],
               starting: t.Sequence[Member]) -> tuple[int, list[Action], list[str]]:
    """(size, actions, limits): nodes that were not needed for `settle` seconds and will not be soon."""
    have = len(serving) + len(starting)
    target = max(rules.min, max(size for _at, size in state.wanted))
    if target >= have:
        return have, [], []
    if not wishes:
        return have, [], ["no policy says how much is needed"]
    if starting:
        return have, [], ["nodes are still starting"]
    if view.pool_size is not None and view.pool_size < len(view.members):
        return have, [], [f"the pool counts {view.pool_size} machines, the registry shows {len(view.members)}: nothing is given back before they agree"]
    if view.at - state.since < rules.settle:
        return have, [], [f"it has looked for less than {rules.settle:.0f} s"]
    if rules.cool_down and view.at - max(state.last_order, state.last_return) < rules.cool_down:
        return have, [], [f"{rules.cool_down:.0f} s pass before nodes are given back"]
    count, limits = have - target, []
    if rules.retire_at_once and count > rules.retire_at_once:
        count, limits = rules.retire_at_once, [f"at most {rules.retire_at_once} at once"]
    free = [m for m in serving if not m.protected and view.at - m.since >= rules.protect]
    if len(free) < count:
        count = len(free)
        limits.append("the other nodes are protected or too young")
    if not count:
        return have, [], limits
    # The emptiest goes first: its calls end, or move, soonest.
    chosen = sorted(free, key=lambda m: (m.load, m.since, m.id))[:count]
    size = have - count
    reason = f"{size} nodes are enough: {_largest(wishes, keep=True)}"
    return size, [Action("retire", reason, count, tuple(m.id for m in chosen))], limits


def _largest(wishes: t.Sequence[Wish], keep: bool = False) -> str:
    best = max(wishes, key=lambda w: (max(w.size, w.keep) if keep else w.size), default=None)
    return f"{best.policy}: {best.reason}" if best else "no policy wants anything"


def _reason(wishes: t.Sequence[Wish], size: int, limits: t.Sequence[str]) -> str:
    want = max((w.size for w in wishes), default=0)
    text = _largest(wishes) if want else "the least there may be"
    return text + (f" (wanted {want}, allowed {size}: {'; '.join(limits)})" if limits else "")


def _note(view: View, state: State, actions: t.Sequence[Action]) -> State:
    for action in actions:
        if action.kind == "add":
            state = dataclasses.replace(state, last_order=view.at, ordered=(*state.ordered, (view.at, action.count)))
        elif action.kind == "retire":
            state = dataclasses.replace(state, last_return=view.at)
    return state
