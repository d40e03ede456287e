# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One way to forecast demand: what was there at this time in earlier weeks (or days), put right by how much more or less there is now.

How far a surplus of the last minutes will last is not assumed but learned: a regression per horizon weighs the deviation of the last 2, 15 and
120 minutes. Their differences are the slope, so level and slope are corrected by one formula. With season 0 there is no profile, and the same
formula follows level and trend alone.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import bisect
import typing as t

from .series import Series

WINDOWS = (2, 15, 120)  # minutes over which the deviation is averaged
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
        self._sums = [0.0]  # of the deviations, relative to what is usual
        self._features: list[tuple[float, ...]] = []
        self._regressions = [Regression((0.5, 0.25, 0.25) if season else (1.0, 0.0, 0.0)) for _horizon in horizons]
        self._shares: list[float] = [0.0] * len(self.horizons)  # the deviation expected at each horizon, seen from the last row

    @property
    def taken(self) -> int:
        """Rows taken so far."""
        return len(self._features)

    @property
    def ready(self) -> bool:
        """Whether there is a whole cycle, and a little to learn from."""
        return len(self._features) > (self.season + 2 * WINDOWS[-1] if self.season else 0)

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

    def observe(self) -> None:
        """Take the row of the series that follows the last one taken."""
        row = len(self._features)
        usual = self.profile(row)
        deviation = (self.series.values[row] - usual) / (usual + self.unit) if row >= self.season else 0.0
        self._sums.append(self._sums[-1] + deviation)
        features = tuple((self._sums[-1] - self._sums[max(0, row + 1 - w)]) / min(w, row + 1) for w in WINDOWS)
        self._features.append(features)
        if self.season == 0 or row >= self.season:
            # The scatter of a count grows with its mean, so a relative deviation tells the more the larger the mean is.
            weight = (usual + self.unit) / self.unit if self.season else 1.0 / (1.0 + abs(features[-1]))
            for horizon, regression in zip(self.horizons, self._regressions):
                if row % TEACH_EVERY == 0 and row >= horizon and self.series.known[row] and self.series.known[row - horizon]:
                    regression.add(self._features[row - horizon], deviation, weight)
                if row % SOLVE_EVERY == 0:
                    regression.solve()
        self._shares = [sum(w * f for w, f in zip(r.weights, features)) for r in self._regressions]

    def ahead(self, minutes: int) -> float:
        """The forecast so many minutes after the last row taken."""
        index = bisect.bisect_left(self.horizons, minutes)
        if index == 0 or index == len(self.horizons):
            share = self._shares[min(index, len(self.horizons) - 1)]
        else:
            near, far = self.horizons[index - 1], self.horizons[index]
            share = self._shares[index - 1] + (self._shares[index] - self._shares[index - 1]) * (minutes - near) / (far - near)
        usual = self.profile(len(self._features) - 1 + minutes)
        return max(0.0, usual + (usual + self.unit) * share)
