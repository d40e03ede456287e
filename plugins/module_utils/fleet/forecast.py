# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forecast of demand, with honest intervals, and what the scaler makes of it: an Outlook.

Three models run side by side: without a season, with a daily and with a weekly one. A seasonal model is believed only while its errors one
hour ahead have been smaller than those of "the same time last week" (or day) and than the plain model's, and only if it would not have cost more.
A forecast may raise what is kept ready; it never lowers it below what is needed now.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import collections
import dataclasses
import math
import typing as t

from .forecast_model import Model
from .headroom import PAD, Headroom
from .series import DAY, LONGEST_GAP, WEEK, Series

AHEAD = 60  # minutes; the horizon at which a forecast has to prove itself
EARLY = 4  # minutes that a rush may come earlier than it should
SURE = 2.0  # times the usual error that the last minutes are trusted less than they say
HOLD = 0.4  # share of what demand wanders in half an hour by which a node has to be unneeded before it goes
RUSH = 6.0  # times the usual error that demand must be about to rise or fall to be a rush
HALF_LIFE = 3 * DAY  # of the backtest
PROOF = DAY // 2  # minutes of backtest before a forecast is believed
BAND_EVERY, BAND_KEEP = 5, 14 * DAY // 5  # minutes between two errors that intervals are made from, and how many
BAND_FADE = BAND_EVERY / (2 * DAY)  # weight of the newest one in their usual size
BAND_RATE = 0.01  # how fast an interval that holds demand too rarely gets wider, and one that holds it too often narrower
LEAST_ERROR = 0.01  # in roots of the demand; demand that never changes must not make it 0
DEARER = 0.25  # nodes that a seasonal model may keep ready more than the plain one
SEASONS = {"level": 0, "day": DAY, "week": WEEK}


class Band(t.NamedTuple):
    """A forecast: the middle, and the limits between which demand stays with the given probability."""

    minutes: int
    low: float
    middle: float
    high: float


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What is expected, in units of demand. Everything a policy needs to know of past and future."""

    at: float  # seconds, of the minute last seen
    lead: int  # minutes until a node that is ordered now serves
    level: float  # what is surely there by then, by the last minutes alone
    margin: float  # to keep free beyond it
    expected: float | None = None  # most that is forecast for the minutes when such a node starts to serve; None: refused
    keep: float = 0.0  # most that will be needed until a node that is given back now has gone, margin included
    model: str = "level"
    why: str = "there is no history yet"


class Backtest:
    """Running sums of absolute errors, newer ones weighing more: of a model, of its rivals (naive and plain), and of the demand."""

    def __init__(self) -> None:
        self.model = self.naive = self.plain = self.demand = 0.0
        self.count = 0

    def add(self, value: float, model: float, naive: float, plain: float) -> None:
        """What came, and what each of them had forecast."""
        fade = 0.5 ** (1 / HALF_LIFE)
        self.model, self.naive = fade * self.model + abs(value - model), fade * self.naive + abs(value - naive)
        self.plain, self.demand = fade * self.plain + abs(value - plain), fade * self.demand + value
        self.count += 1

    @property
    def beaten(self) -> bool:
        """Whether the model did better than both, over long enough."""
        return self.count >= PROOF and self.model < min(self.naive, self.plain)

    def __str__(self) -> str:
        total = max(self.demand, 1e-9)
        return f"errs by {self.model / total:.1%} an hour ahead, the same time before by {self.naive / total:.1%}, no season by {self.plain / total:.1%}"


class _Runner:
    """A model with its backtest, its headroom and the errors that intervals are made from."""

    def __init__(self, name: str, series: Series, lead: int, unit: float, goal: float, floor: float) -> None:
        self.name, self.series, self.lead = name, series, lead
        self.model = Model(series, SEASONS[name], sorted({lead, 5, 15, 30, AHEAD}), unit)
        self.headroom = Headroom(unit, goal, floor)
        self.backtest = Backtest()
        self.base = self.margin = 0.0  # of the last plan
        self.saved = 0.0  # demand that its plans would have kept ready less than the plain ones, a mean in which newer ones weigh more
        self.unit, self.wander = unit, 0.0
        self._hourly: dict[int, float] = {}
        self._bands: dict[int, collections.deque[float]] = {h: collections.deque(maxlen=BAND_KEEP) for h in self.model.horizons}
        self._sorted: dict[int, list[float]] = {}
        self._levels: dict[tuple[int, float], float] = {}  # (horizon, share that was asked for) -> share of earlier errors that holds it
        self._usual = dict.fromkeys(self.model.horizons, 1.0)  # size of an error in roots of the demand, a mean in which newer ones weigh more
        self._pending: collections.deque[tuple[int, dict[int, float]]] = collections.deque()

    def observe(self, row: int, plain: float | None = None) -> float | None:
        """Take a row; plain: what the plain model had forecast for it. Returns what this one had."""
        value, known = self.series.values[row], self.series.known[row]
        self.model.observe()
        self.headroom.observe(row, value, known)
        season = self.model.season or WEEK
        forecast = self._hourly.pop(row, None)
        if forecast is not None and plain is not None and known and row >= season:
            self.backtest.add(value, forecast, self.series.values[row - season], plain)
        self._judge(row)
        if self.model.ready:
            self._hourly[row + AHEAD] = self.model.ahead(AHEAD)
        return forecast

    def plan(self, row: int, level: float) -> None:
        """Decide on base and margin for the minute from which a node ordered now serves."""
        if not self.model.season:
            self.base, most, rush = level, math.inf, False
        else:
            ahead = [self.model.ahead(self.lead + early) for early in range(PAD + 1)]
            # The plain model follows a trend, and would shoot over the top of a rush that the seasonal one knows: so the last minutes as they are.
            here = self.series.mean(row - 1, row)
            most = max(ahead)
            rush = max(most - here, here - min(ahead)) > self.headroom.usual(here, RUSH)
            self.base = max(ahead[0], here - self.headroom.usual(here, SURE), 0.0)
            if rush:
                # It may come some minutes early, and as large as it ever was. Where demand is still behind, it is more likely late than smaller.
                self.base = max(self.base, *ahead[:EARLY + 1], *(self.model.largest(self.lead + early) for early in range(EARLY + 1)))
                most = max(most, self.base)
        self.margin = self.headroom.plan(row + self.lead, self.base, most, rush)

    def _judge(self, row: int) -> None:
        """Note the errors of the forecasts made some time ago; make new ones."""
        if row % BAND_EVERY or not self.model.ready:
            return
        made = {h: self.model.ahead(h) for h in self.model.horizons}
        self._pending.append((row, made))
        while self._pending and self._pending[0][0] <= row - self.model.horizons[-1]:
            origin, forecasts = self._pending.popleft()
            for h, forecast in forecasts.items():
                if self.series.known[origin + h]:
                    error = (self.series.values[origin + h] - forecast) / math.sqrt(forecast + self.unit)
                    # Errors shrink while the model learns and grow with the service, so those of two weeks are kept in sizes of their own day.
                    self._learn(h, error / self._usual[h])
                    self._usual[h] += (max(abs(error), LEAST_ERROR) - self._usual[h]) * BAND_FADE
        if row % AHEAD == 0:
            self._sorted = {}
        if row % (12 * AHEAD) == 0:
            near, far = (self._scatter(h) for h in (self.lead, max(self.lead, 30)))
            self.wander = math.sqrt(max(0.0, far * far - near * near))

    def _scatter(self, horizon: int) -> float:
        """Half the width of the middle two thirds of the errors at that horizon, relative to the root of the demand."""
        errors = self._errors(horizon)
        return (errors[int(0.84 * len(errors))] - errors[int(0.16 * len(errors))]) / 2

    def _errors(self, horizon: int) -> list[float]:
        if horizon not in self._sorted:
            self._sorted[horizon] = sorted(self._bands[horizon]) or [-2.0, 2.0]
        return self._sorted[horizon]

    def hold(self, demand: float) -> float:
        """What has to be free for a node to be given back: its tail is paid for, needed again or not, and until then demand wanders."""
        return self.headroom.known(demand) + HOLD * self.wander * math.sqrt(demand + self.unit)

    def _learn(self, horizon: int, error: float) -> None:
        for (of, share), level in list(self._levels.items()):
            if of == horizon:
                low, high = self._limits(horizon, level)
                self._levels[of, share] = min(0.999, max(0.01, level + BAND_RATE * (share - (low <= error <= high))))
        self._bands[horizon].append(error)

    def _limits(self, horizon: int, share: float) -> tuple[float, float]:
        """What lies between the errors that are as rare on either side."""
        errors = self._errors(horizon)
        low, high = (errors[min(len(errors) - 1, int(p * len(errors)))] for p in ((1 - share) / 2, (1 + share) / 2))
        return low, high

    def band(self, minutes: int, share: float) -> Band:
        middle = self.model.ahead(minutes)
        horizon = min(self.model.horizons, key=lambda h: (h < minutes, abs(h - minutes)))
        root = math.sqrt(middle + self.unit) * self._usual[horizon]
        low, high = self._limits(horizon, self._levels.setdefault((horizon, share), share))
        return Band(minutes, max(0.0, middle + root * low), middle, max(0.0, middle + root * high))


class Forecaster:
    """Learns from one value of demand a minute. boot: seconds until an ordered node serves; retire: seconds until one given back is gone;
    unit: demand that one node carries; goal: share of the demand that may find no place; floor: demand that the smallest size carries.

    It keeps all it was told: make a new one from the last weeks when `old`.
    """

    def __init__(self, boot: float, retire: float, unit: float, goal: float = 1e-5, floor: float = 0.0) -> None:
        self.unit, self._options = unit, (unit, goal, floor)
        self.lead = max(1, math.ceil(boot / 60))
        self.retire = max(0, math.ceil(retire / 60))
        self._begin()

    def _begin(self) -> None:
        self.series = Series()
        self._plain = _Runner("level", self.series, self.lead, *self._options)
        self._seasonal = {name: _Runner(name, self.series, self.lead, *self._options) for name in ("week", "day")}
        self.chosen, self.why = self._plain, Outlook.why

    @property
    def old(self) -> bool:
        return len(self.series) > 10 * WEEK

    def observe(self, at: float, value: float) -> None:
        """Take the demand of a minute: the largest seen in it, once it is over. Late and impossible values are ignored."""
        if self.series.silence(at) > LONGEST_GAP:
            self._begin()
        rows = self.series.add(at, value)
        for row in rows:
            plain = self._plain.observe(row)
            for runner in self._seasonal.values():
                runner.observe(row, plain)
        if rows:
            self._plan(rows[-1])

    def learn(self, rows: t.Iterable[tuple[float, float]]) -> None:
        """Take a history of (seconds, demand) in any order, as from demand_store.py. Five weeks take some ten seconds: not for a loop that must not wait."""
        for at, value in sorted(rows):
            self.observe(at, value)

    def _plan(self, row: int) -> None:
        level = self._plain.model.ahead(self.lead)
        self._plain.plan(row, level)
        for runner in self._seasonal.values():
            if runner.model.ready:
                runner.plan(row, level)
                runner.saved += (self._plain.base + self._plain.margin - runner.base - runner.margin - runner.saved) / DAY
        if row % 60 == 0:
            self._choose()

    def _choose(self) -> None:
        """The first seasonal model that has proven itself, or the plain one."""
        refused = []
        for runner in self._seasonal.values():
            if not runner.model.ready:
                refused.append(f"{runner.name}: not enough history")
            elif not runner.backtest.beaten:
                refused.append(f"{runner.name}: {runner.backtest}")
            elif runner.saved < -DEARER * self.unit:
                refused.append(f"{runner.name}: would keep {-runner.saved:.1f} more ready than the plain model, for the same goal")
            else:
                self.chosen, self.why = runner, f"{runner.name}: {runner.backtest}"
                if runner.name == "week":
                    self._seasonal.pop("day", None)
                return
        self.chosen, self.why = self._plain, "; ".join(refused)

    def outlook(self) -> Outlook:
        """What is expected from the last minute taken on."""
        if not len(self.series):
            return Outlook(0.0, self.lead, 0.0, 0.0)
        plain, chosen = self._plain, self.chosen
        top = max(chosen.model.ahead(h) for h in range(self.lead, self.lead + self.retire + 1, 2))
        keep = top + chosen.hold(top)
        at = (self.series.first + len(self.series) - 1) * 60.0
        if chosen is plain:
            return Outlook(at, self.lead, plain.base, plain.margin, None, keep, "level", self.why)
        here = self.series.mean(len(self.series) - 2, len(self.series) - 1)
        sure = max(0.0, here - chosen.headroom.usual(here, SURE))
        return Outlook(at, self.lead, sure, chosen.margin, chosen.base, keep, chosen.name, self.why)

    def forecast(self, minutes: t.Iterable[int], share: float = 0.8) -> list[Band]:
        """Bands for so many minutes ahead (at most a day), by the model in use; demand is within with probability `share`."""
        return [self.chosen.band(m, share) for m in minutes]
