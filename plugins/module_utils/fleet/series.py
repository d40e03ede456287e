# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Demand, one value a minute without holes. What is missing is filled in and marked, so that nobody learns from it.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import math
import typing as t

MINUTE = 60.0
DAY = 1440  # minutes
WEEK = 7 * DAY
LONGEST_GAP = 5 * WEEK  # minutes; what came before a longer silence says nothing about now


class Series:
    """Values by minute since the Unix epoch (or any other start, the same for all); the first row is minute `first`."""

    def __init__(self) -> None:
        self.first = 0
        self.values: list[float] = []
        self.known: list[bool] = []
        self.refused = 0  # values that were no demand, or older than what was there
        self._sums = [0.0]

    def __len__(self) -> int:
        return len(self.values)

    def add(self, at: float, value: float) -> list[int]:
        """Take a value at `at` (seconds). Returns the rows that are new, filled-in ones included.

        Of several values in one minute the largest counts. NaN, infinite, negative and late values are refused.
        """
        if not (math.isfinite(at) and math.isfinite(value)) or value < 0:
            self.refused += 1
            return []
        minute = math.floor(at / MINUTE)
        if not self.values:
            self.first = minute
        row = minute - self.first
        if row < len(self.values) - 1:
            self.refused += 1
            return []
        if row == len(self.values) - 1:
            if value > self.values[row] or not self.known[row]:
                self._sums[row + 1] += value - self.values[row]
                self.values[row], self.known[row] = value, True
            return []
        begin = len(self.values)
        for gap in range(begin, row):
            self._append(self._guess(gap, row, value), False)
        self._append(value, True)
        return list(range(begin, row + 1))

    def silence(self, at: float) -> float:
        """Minutes between the last value and `at`."""
        return at / MINUTE - self.first - len(self.values) if self.values else 0.0

    def _guess(self, row: int, end: int, value: float) -> float:
        """What may have been in a hole: a line for a short one, the week before for a long one."""
        if end - row > 15 and row >= WEEK:
            return self.values[row - WEEK]
        last = self.values[row - 1]
        return last + (value - last) / (end - row + 1)

    def _append(self, value: float, known: bool) -> None:
        self.values.append(value)
        self.known.append(known)
        self._sums.append(self._sums[-1] + value)

    def mean(self, begin: int, end: int) -> float:
        """The mean of the rows from begin to end, both included, as far as they exist; 0 where none does."""
        begin, end = max(0, begin), min(len(self.values) - 1, end)
        return (self._sums[end + 1] - self._sums[begin]) / (end + 1 - begin) if end >= begin else 0.0


def fill(rows: t.Iterable[tuple[float, float]]) -> Series:
    """A series of (seconds, value) in any order, duplicates and rubbish included."""
    series = Series()
    for at, value in sorted(row for row in rows if math.isfinite(row[0])):
        series.add(at, value)
    return series
