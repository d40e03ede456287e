# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much to keep free beyond what is expected: learned from how wrong the expectation was, so that no more than an agreed share of
the demand finds no place.

    margin = factor x scatter + what the time brings (trust x memory, at most what may come a few minutes early or stay a few late)

scatter: what the errors usually are, growing with the root of the demand as counts do. memory: how far errors went beyond that at this time of
earlier weeks (or in the last minutes), so that the hour of a weekly rush has a margin of its own and the rest of the week need not pay for it.
factor and trust: the smallest that would have kept the overflow of the past within the goal, one learned where there was no memory, the other
where there was. The factor is learned for each size of demand (1, 2-3, 4-7 ... nodes) and once for rushes, as a busy hour is uncertain in other
ways than a calm night, and the begin of a lesson in other ways than its middle.

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
TUNE_EVERY = 720  # minutes
FACTOR = 4.0  # before anything is known
LEAST_FACTOR, MOST_FACTOR = 1.5, 40.0
LEAST_TRUST, MOST_TRUST = 0.8, 3.0
SMALL = 2.0  # times the scatter that a memory must reach to count as a rush
SPREAD = 0.11  # before anything is known: half of what independent counts scatter, with 20 to a node
LEAST_SPREAD = 0.03
RUSH = 7  # the class of rushes; those below it are sizes
ENOUGH = 500  # errors before scatter and factor are taken from them
SOME = 120  # errors of a kind before it has a factor of its own
CAREFUL = 3.0  # the least factor of a kind with less than a day of errors
# How often the goal may be used up by errors beyond the margins. Most of them meet nodes that are there anyway, ordered for an earlier peak and not
# given back yet: replayed, the overflow is several times smaller than these errors.
USE = 1.4


class Plan(t.NamedTuple):
    """What was expected of a minute, before it came."""

    expected: float
    root: float  # what scatter grows with
    memory: float
    room: float  # most that the memory may add
    kind: int  # which factor counts
    informed: bool  # there was an earlier week to remember


class Headroom:
    """unit: demand that one node carries; goal: share of the demand that may find no place; floor: demand that always finds one."""

    def __init__(self, unit: float, goal: float, floor: float = 0.0, cycle: int = WEEK) -> None:
        self.unit, self.goal, self.floor, self.cycle = unit, goal, floor, cycle
        self.factors, self.spread, self.trust = [FACTOR] * (RUSH + 1), SPREAD, 1.0
        self._memory: list[float] = []  # largest error of each block
        self._begin = self._row = -1  # the first and the last row whose error is known
        self._plans: dict[int, Plan] = {}
        self._record: collections.deque[tuple[float, float, Plan]] = collections.deque(maxlen=RECORD)  # (error, demand, plan)

    def plan(self, row: int, expected: float, most: float = math.inf, rush: bool = False) -> float:
        """The margin for that row, which is still to come. most: what is expected of the minutes around it, at most; a rush at another minute
        is not larger than that. rush: demand is about to change by much. Remembers the plan until observe() tells what became of it."""
        root = math.sqrt(self.unit * (max(0.0, expected) + self.unit))
        memory, informed = self._remember(row, root)
        room = max(0.0, most - expected)
        kind = RUSH if rush else self._size(expected)
        self._plans[row] = Plan(expected, root, memory, room, kind, informed)
        return self.factors[kind] * self.spread * root + min(room, self.trust * memory)

    def _size(self, expected: float) -> int:
        return min(RUSH - 1, int(expected / self.unit).bit_length())

    def known(self, expected: float) -> float:
        """The margin at that demand, without what a certain time may remember."""
        return self.usual(expected, self.factors[self._size(expected)])

    def usual(self, expected: float, times: float = 1.0) -> float:
        """So many times the usual error at that demand."""
        return times * self.spread * math.sqrt(self.unit * (max(0.0, expected) + self.unit))

    def _remember(self, row: int, root: float) -> tuple[float, bool]:
        """(how far errors went beyond the usual at this time of earlier weeks or just now, whether there is an earlier week)."""
        if self._begin < 0:
            return 0.0, False
        squares: list[float] = []
        past = row - self.cycle
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
        # A rush that came too late today may come too early next week, so the sign does not matter.
        self._memory[row // BLOCK] = max(self._memory[row // BLOCK], abs(error))
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
        allowed = USE * self.goal / 2  # per unit of demand; one half for either kind
        late = [(error, self.spread * plan.root, plan) for error, value, plan in rows
                if value > self.floor and error > LEAST_FACTOR * self.spread * plan.root]
        counts, sums = [0] * len(self.factors), [0.0] * len(self.factors)
        for _error, value, plan in rows:
            counts[plan.kind] += 1
            sums[plan.kind] += value
        calm = [(error, min(plan.memory, plan.room), scatter, math.inf, plan.kind) for error, scatter, plan in late
                if min(plan.memory, plan.room) < SMALL * scatter]
        together = _least([row[:4] for row in calm if row[4] != RUSH], allowed * sum(sums[:RUSH]), LEAST_FACTOR, MOST_FACTOR, self.unit)
        self.factors = [
            _least([row[:4] for row in calm if row[4] == which], allowed * sums[which], LEAST_FACTOR if counts[which] >= DAY else CAREFUL, MOST_FACTOR,
                   self.unit) if counts[which] >= SOME else together for which in range(len(self.factors))
        ]
        rushes = [(error, self.factors[plan.kind] * scatter, plan.memory, plan.room) for error, scatter, plan in late
                  if min(plan.memory, plan.room) >= SMALL * scatter]
        self.trust = _least(rushes, allowed * sum(sums), LEAST_TRUST, MOST_TRUST, self.unit)


def _least(late: t.Sequence[tuple[float, float, float, float]], allowed: float, low: float, high: float, unit: float) -> float:
    """The least multiple, between low and high, with which no more than `allowed` would have overflown. late: [(error, fixed margin, margin to
    multiply, most that this may become)]. Nodes are whole, so beyond any margin there is half a node's worth free on average."""
    def overflow(multiple: float) -> float:
        total = 0.0
        for error, fixed, margin, most in late:
            excess = error - fixed - min(most, multiple * margin)
            if excess > 0:
                total += excess * excess / (2 * unit) if excess < unit else excess - unit / 2
        return total

    if overflow(low) <= allowed:
        return low
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if overflow(middle) > allowed else (low, middle)
    return high
