# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One way to forecast demand: what was there at this time in earlier weeks (or days), put right by how much more or less there is now.

How far a surplus of the last minutes will last is not assumed but learned: a regression per horizon weighs the surplus of the last 2 and 15
minutes, as it is, and that of the last two hours, in proportion to what is usual then. (In proportion for all three, a rush that comes a minute
early would look like twice the demand for hours.) The differences between them are the slope, so level and slope are corrected by one formula.
With season 0 there is no profile, and the same formula follows level and trend alone.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import bisect
import typing as t

from .series import Series

SHORT, MEDIUM, LONG = 2, 15, 120  # minutes over which the surplus is averaged
CYCLES = 4  # earlier weeks (or days) in the profile
FADE = 0.7  # weight of a week against the one after it
SMOOTH = 2  # minutes to either side that go into one point of the profile
HALF_LIFE = 3 * 1440.0  # minutes after which what was learned counts half
RIDGE = 2.0  # how much has to be seen before the prior is left
SOLVE_EVERY = 30  # minutes
TEACH_EVERY = 2  # minutes; neighbours tell nearly the same


class Regression:
    """Weighted least squares that forgets; starts from, and is drawn to, a prior."""

    def __init__(self, prior: t.Sequence[float]) -> None:
        size = len(prior)
        self.prior, self.weights = list(prior), list(prior)
        self._square = [[0.0] * size for _row in prior]  # the upper triangle
        self._right = [0.0] * size
        self._growth = 1.0  # later rows weigh more, instead of earlier ones less
        self._step = 2.0 ** (1.0 / HALF_LIFE)

    def add(self, features: t.Sequence[float], value: float, weight: float) -> None:
        self._growth *= self._step
        weight *= self._growth
        for i, feature in enumerate(features):
            share, row = feature * weight, self._square[i]
            for j in range(i, len(features)):
                row[j] += share * features[j]
            self._right[i] += share * value
        if self._growth > 1e6:
            self._square = [[v / self._growth for v in row] for row in self._square]
            self._right = [v / self._growth for v in self._right]
            self._growth = 1.0

    def solve(self) -> None:
        """Bring the weights up to date (elimination without pivoting: the ridge keeps the matrix positive definite)."""
        size, ridge = len(self.prior), RIDGE * self._growth
        rows = [[self._square[min(i, j)][max(i, j)] + (ridge if i == j else 0.0) for j in range(size)] + [self._right[i] + ridge * self.prior[i]]
                for i in range(size)]
        for i in range(size):
            for below in rows[i + 1:]:
                factor = below[i] / rows[i][i]
                for j in range(i, size + 1):
                    below[j] -= factor * rows[i][j]
        for i in reversed(range(size)):
            self.weights[i] = (rows[i][size] - sum(rows[i][j] * self.weights[j] for j in range(i + 1, size))) / rows[i][i]


class Model:
    """Forecasts a series. season: minutes, 0 for none; horizons: minutes ahead at which it learns, rising; unit: a small demand, e.g. one node's."""

    def __init__(self, series: Series, season: int, horizons: t.Sequence[int], unit: float) -> None:
        self.series, self.season, self.horizons, self.unit = series, season, tuple(horizons), unit
        self._surplus = [0.0]  # running sums of the surplus, and of what was usual
        self._usual = [0.0]
        self._features: list[tuple[float, float, float]] = []  # surplus over SHORT and MEDIUM, and over LONG as a share of what was usual
        self._regressions = [Regression((0.5, 0.25, 0.25) if season else (1.0, 0.0, 0.0)) for _horizon in horizons]

    @property
    def taken(self) -> int:
        """Rows taken so far."""
        return len(self._features)

    @property
    def ready(self) -> bool:
        """Whether there is a whole cycle, and a little to learn from."""
        return len(self._features) > (self.season + 2 * LONG if self.season else 0)

    def profile(self, row: int) -> float:
        """What earlier cycles had at this time; the row may lie ahead, by less than a cycle."""
        total = weights = 0.0
        weight, past = 1.0, row - self.season
        for _cycle in range(CYCLES if self.season else 0):
            if past < 0:
                break
            total += weight * self.series.mean(past - SMOOTH, past + SMOOTH)
            weights += weight
            weight, past = weight * FADE, past - self.season
        return total / weights if weights else 0.0

    def largest(self, minutes: int) -> float:
        """The most that one of the earlier cycles had so many minutes after the last row taken."""
        past = len(self._features) - 1 + minutes - self.season
        rows = [past - cycle * self.season for cycle in range(CYCLES)]
        return max((self.series.mean(row - SMOOTH, row + SMOOTH) for row in rows if row >= 0), default=0.0)

    def observe(self) -> None:
        """Take the row of the series that follows the last one taken."""
        row, known = len(self._features), self.series.known
        usual = self.profile(row)
        surplus = self.series.values[row] - usual if row >= self.season else 0.0
        self._surplus.append(self._surplus[-1] + surplus)
        self._usual.append(self._usual[-1] + usual)
        self._features.append((self._recent(self._surplus, SHORT), self._recent(self._surplus, MEDIUM), self._share()))
        if row < self.season:
            return
        # The scatter of a count grows with the root of its mean.
        weight = self.unit / ((usual if self.season else self._features[-1][1]) + self.unit)
        for horizon, regression in zip(self.horizons, self._regressions):
            if row % TEACH_EVERY == 0 and row >= horizon and known[row] and known[row - horizon]:
                regression.add(self._scaled(self._features[row - horizon], usual), surplus, weight)
            if row % SOLVE_EVERY == 0:
                regression.solve()

    def _recent(self, sums: t.Sequence[float], minutes: int) -> float:
        minutes = min(minutes, len(sums) - 1)
        return (sums[-1] - sums[-1 - minutes]) / minutes

    def _share(self) -> float:
        return self._recent(self._surplus, LONG) / ((self._recent(self._usual, LONG) + self.unit) if self.season else 1.0)

    def _scaled(self, features: tuple[float, float, float], usual: float) -> tuple[float, float, float]:
        return (features[0], features[1], features[2] * (usual + self.unit)) if self.season else features

    def ahead(self, minutes: int) -> float:
        """The forecast so many minutes after the last row taken."""
        usual = self.profile(len(self._features) - 1 + minutes)
        features = self._scaled(self._features[-1], usual)
        index = bisect.bisect_left(self.horizons, minutes)
        if index == 0 or index == len(self.horizons):
            return max(0.0, usual + self._at(min(index, len(self.horizons) - 1), features))
        near, far = self._at(index - 1, features), self._at(index, features)
        share = (minutes - self.horizons[index - 1]) / (self.horizons[index] - self.horizons[index - 1])
        return max(0.0, usual + near + (far - near) * share)

    def _at(self, index: int, features: t.Sequence[float]) -> float:
        """The surplus expected at one of the horizons."""
        a, b, c = self._regressions[index].weights
        return a * features[0] + b * features[1] + c * features[2]
