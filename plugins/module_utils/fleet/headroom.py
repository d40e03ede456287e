# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much to keep free beyond what is expected: learned from how wrong the expectation was, so that no more than an agreed share of
the demand finds no place.

    margin = factor x scatter + memory

scatter: what the errors usually are, growing with the root of the demand as counts do. memory: how far demand went beyond that at this time of
earlier weeks, or in the last minutes. factor: the smallest that would have kept the overflow of the past within the goal.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import collections
import math
import typing as t

from .series import DAY, WEEK

BLOCK = 5  # minutes that share one entry of the memory
PAD = 7  # minutes around a time of the week that count as the same time
CYCLES = 4  # weeks that the memory reaches back
USUAL = 2.5  # errors up to so many times the scatter are noise, not a memory
RECENT = 0.7  # share of an error of the last minutes that may come again at once
RECORD = 3 * WEEK  # minutes of errors that the factor is learned from
TUNE_EVERY = 240  # minutes
FACTOR = 4.0  # before anything is known
LEAST_FACTOR, MOST_FACTOR = 1.5, 40.0
SPREAD = 0.11  # before anything is known: half of what independent counts scatter, with 20 to a node
LEAST_SPREAD = 0.03
ENOUGH = 500  # errors before scatter and factor are taken from them
SAFETY = 0.8  # share of the goal that the past may have used up


class Plan(t.NamedTuple):
    """What was expected of a minute, before it came."""

    expected: float
    root: float  # what scatter grows with
    memory: float
    informed: bool  # there was an earlier week to remember


class Headroom:
    """unit: demand that one node carries; goal: share of the demand that may find no place; floor: demand that always finds one."""

    def __init__(self, unit: float, goal: float, floor: float = 0.0, cycle: int = WEEK) -> None:
        self.unit, self.goal, self.floor, self.cycle = unit, goal, floor, cycle
        self.factor, self.spread = FACTOR, SPREAD
        self._memory: list[float] = []  # largest error of each block
        self._begin = self._row = -1  # the first and the last row whose error is known
        self._plans: dict[int, Plan] = {}
        self._record: collections.deque[tuple[float, float, Plan]] = collections.deque(maxlen=RECORD)  # (error, demand, plan)

    def plan(self, row: int, expected: float) -> float:
        """The margin for that row, which is still to come. Remembers the plan until observe() tells what became of it."""
        root = math.sqrt(self.unit * (max(0.0, expected) + self.unit))
        memory, informed = self._remember(row, root)
        self._plans[row] = Plan(expected, root, memory, informed)
        return self.factor * self.spread * root + memory

    def usual(self, expected: float, times: float = 1.0) -> float:
        """So many times the usual error at that demand."""
        return times * self.spread * math.sqrt(self.unit * (max(0.0, expected) + self.unit))

    def _remember(self, row: int, root: float) -> tuple[float, bool]:
        """(how far errors went beyond the usual at this time of earlier weeks or just now, whether there is an earlier week)."""
        if self._begin < 0:
            return 0.0, False
        squares, past = [], row - self.cycle
        while past >= self._begin and len(squares) < CYCLES:
            squares.append(self._largest(past - PAD, past + PAD) ** 2)
            past -= self.cycle
        found = max(math.sqrt(sum(squares) / len(squares)) if squares else 0.0, RECENT * self._largest(self._row - 2 * BLOCK, self._row))
        return max(0.0, found - USUAL * self.spread * root), bool(squares)

    def _largest(self, begin: int, end: int) -> float:
        return max(self._memory[max(0, begin) // BLOCK:max(0, end) // BLOCK + 1], default=0.0)

    def observe(self, row: int, value: float, known: bool = True) -> None:
        """The row has come. known: it was measured, not filled in."""
        plan = self._plans.pop(row, None)
        if plan is None:
            return
        error = value - plan.expected if known else 0.0
        while len(self._memory) <= row // BLOCK:
            self._memory.append(0.0)
        self._memory[row // BLOCK] = max(self._memory[row // BLOCK], error)
        self._begin, self._row = row if self._begin < 0 else self._begin, row
        if known:
            self._record.append((error, value, plan))
        if row % TUNE_EVERY == 0 and len(self._record) >= ENOUGH:
            self._tune()

    def _tune(self) -> None:
        errors = sorted(error / plan.root for error, _value, plan in list(self._record)[::4])
        self.spread = max(LEAST_SPREAD, errors[int(len(errors) * 0.977)] / 2)
        informed = sum(plan.informed for _error, _value, plan in self._record)
        # The first week knows no memory; once there is a day that does, only such days tell how well the two work together.
        rows = [row for row in self._record if row[2].informed] if informed >= DAY else list(self._record)
        allowed = SAFETY * self.goal * sum(value for _error, value, _plan in rows)
        late = [(error - plan.memory, self.spread * plan.root) for error, value, plan in rows
                if value > self.floor and error - plan.memory > LEAST_FACTOR * self.spread * plan.root]
        low, high = LEAST_FACTOR, MOST_FACTOR
        if self._overflow(late, low) <= allowed:
            high = low
        while high - low > 0.01:
            middle = (low + high) / 2
            low, high = (middle, high) if self._overflow(late, middle) > allowed else (low, middle)
        self.factor = high

    def _overflow(self, late: t.Sequence[tuple[float, float]], factor: float) -> float:
        """Demand that would have found no place. Nodes are whole, so on average half a node's worth is free beyond any margin."""
        total = 0.0
        for error, scatter in late:
            excess = error - factor * scatter
            if excess > 0:
                total += excess * excess / (2 * self.unit) if excess < self.unit else excess - self.unit / 2
        return total
