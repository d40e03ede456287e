# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scalers that tests/bench/autoscale.py compares with, each as its documentation describes it, and the figures of any of them.

A scaler has size(minute, rooms, have) -> nodes to have, asked once a minute; `have` counts the nodes that still start.
"""
from __future__ import annotations

import collections
import math
import typing as t


class Case(t.NamedTuple):
    """What is simulated. rooms: one value per minute, from row `begin` on it counts; boot and tail in minutes."""

    rooms: t.Sequence[float]
    begin: int
    per_node: int
    least: int
    most: int
    boot: int
    tail: int

    def clamp(self, nodes: float) -> int:
        return int(min(self.most, max(self.least, nodes)))

    def need(self, rooms: float) -> int:
        return self.clamp(math.ceil(rooms / self.per_node))


class Fixed:
    """Static: the peak of what is coming, known in advance and rented throughout."""

    def __init__(self, case: Case) -> None:
        self._size = case.need(max(case.rooms[case.begin:]))

    def size(self, _minute: int, _rooms: float, _have: int) -> int:
        return self._size


class Hpa:
    """Kubernetes' horizontal pod autoscaler with its defaults: 10 % tolerance, no stabilisation up, 5 min down, at most double or +4 at once.

    target: rooms per node it aims at; 80 % is what its documentation's examples use.
    """

    def __init__(self, case: Case, target: float = 0.8) -> None:
        self.case, self.target = case, target * case.per_node
        self._recent: collections.deque[int] = collections.deque(maxlen=5)

    def size(self, _minute: int, rooms: float, have: int) -> int:
        ratio = rooms / max(1, have) / self.target
        desired = have if abs(ratio - 1) <= 0.1 else math.ceil(have * ratio)
        self._recent.append(desired)
        return min(max(self._recent), max(2 * have, have + 4))


class Keda(Hpa):
    """KEDA with a scaler that reports rooms, `per_node` of them per replica: it feeds an HPA with its defaults, at the full target."""

    def __init__(self, case: Case) -> None:
        super().__init__(case, 1.0)


class Counter:
    """The counter of many tutorials: rooms // 20 + 1."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def size(self, _minute: int, rooms: float, _have: int) -> int:
        return int(rooms // self.case.per_node) + 1


class StepByStep:
    """Scaling by events, one node at a time: one more above 80 %, one less below 50 %."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def size(self, _minute: int, rooms: float, have: int) -> int:
        load = rooms / (max(1, have) * self.case.per_node)
        return have + (load > 0.8) - (load < 0.5)


class HourOfDay:
    """A regression on the hour of the day over all of the past, and a fifth on top."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._sums, self._counts = [0.0] * 24, [0] * 24
        for minute, rooms in enumerate(case.rooms[:case.begin]):
            self._learn(minute, rooms)

    def _learn(self, minute: int, rooms: float) -> None:
        self._sums[minute // 60 % 24] += rooms
        self._counts[minute // 60 % 24] += 1

    def size(self, minute: int, rooms: float, _have: int) -> int:
        self._learn(minute, rooms)
        hour = (minute + self.case.boot) // 60 % 24
        usual = self._sums[hour] / self._counts[hour] if self._counts[hour] else rooms
        return math.ceil(1.2 * usual / self.case.per_node)


RIVALS: dict[str, t.Callable[[Case], t.Any]] = {
    "static peak": Fixed, "HPA, 80 %": Hpa, "KEDA": Keda, "rooms//20+1": Counter, "step by step": StepByStep, "hour of day": HourOfDay,
}


def run(case: Case, scaler: t.Any) -> list[int]:
    """Serving nodes at each minute from `begin` on. An order serves `boot` minutes later; what is given back serves no longer at once."""
    serving = case.clamp(scaler.size(case.begin, case.rooms[case.begin], case.need(case.rooms[case.begin])))  # it did not start just now
    due: collections.deque[tuple[int, int]] = collections.deque()
    found = []
    for minute in range(case.begin, len(case.rooms)):
        while due and due[0][0] <= minute:
            serving += due.popleft()[1]
        starting = sum(count for _at, count in due)
        size = case.clamp(scaler.size(minute, case.rooms[minute], serving + starting))
        if size > serving + starting:
            due.append((minute + case.boot, size - serving - starting))
        elif size < serving and not due:
            serving = size
        found.append(serving)
    return found


def clairvoyant(case: Case) -> list[int]:
    """The cheapest nodes that never overflow: what is needed, and as a node costs until `tail` after its return, one that is needed again
    by then is not given back. It is paid for as it stands: this is serving and draining nodes together."""
    need = [case.need(rooms) for rooms in case.rooms[case.begin:]]
    return [max(need[max(0, row - case.tail):row + 1]) for row in range(len(need))]


def paid(case: Case, nodes: t.Sequence[int]) -> int:
    """Node-minutes: those that serve, and each that was given back for `tail` minutes more (it drains)."""
    total = sum(nodes)
    for row in range(1, len(nodes)):
        total += max(0, nodes[row - 1] - nodes[row]) * min(case.tail, len(nodes) - row)
    return total


def figures(case: Case, nodes: t.Sequence[int]) -> dict[str, float]:
    """overflow: percent of room-minutes beyond the capacity of the serving nodes. cost: paid() against the clairvoyant's. Two kinder ways to
    count beside it: cost_held (a node may come back out of its drain), cost_serving (a node that drains costs nothing, as with live moves)."""
    rooms = case.rooms[case.begin:]
    best = sum(clairvoyant(case))
    held = sum(max(nodes[max(0, row - case.tail):row + 1]) for row in range(len(nodes)))
    over = sum(max(0.0, r - n * case.per_node) for r, n in zip(rooms, nodes))
    beyond = sum(max(0.0, r - case.most * case.per_node) for r in rooms)  # even with all nodes there may be
    return {
        "overflow_percent": round(100 * over / max(1.0, sum(rooms)), 6), "unavoidable_percent": round(100 * beyond / max(1.0, sum(rooms)), 6),
        "cost": round(paid(case, nodes) / best, 4), "cost_held": round(held / best, 4),
        "cost_serving": round(sum(nodes) / best, 4), "nodes_mean": round(sum(nodes) / len(nodes), 2), "nodes_most": max(nodes),
        "returns": sum(max(0, a - b) for a, b in zip(nodes, nodes[1:])),
    }
