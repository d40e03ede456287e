# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shapes of demand: how many rooms are expected at each minute, before noise. Everything random comes from the one generator handed in.

A shape is a function (random, days, peak) -> one float per minute, from a Monday 00:00 on.
"""
from __future__ import annotations

import math
import random
import typing as t

DAY = 1440
WEEK = 7 * DAY


def _bump(minute: float, centre: float, width: float) -> float:
    """A smooth hill of height 1 around a minute of the day, as wide as given, that goes on past midnight."""
    distance = min(abs(minute - centre), DAY - abs(minute - centre))
    return math.exp(-0.5 * (distance / width) ** 2)


def _plateau(minute: float, start: float, end: float, ramp: float, fall: float = 4.0) -> float:
    """0 before the start, up to 1 within `ramp` minutes, down to 0 within `fall` minutes from the end on."""
    if minute < start or minute >= end + fall:
        return 0.0
    return min(1.0, (minute - start) / ramp, 1.0 - (minute - end) / fall if minute > end else 1.0)


def _daily(rand: random.Random, days: int, spread: float) -> list[float]:
    """A factor for each day, around 1."""
    return [math.exp(rand.gauss(0.0, spread)) for _day in range(days + 1)]


def _blend(factors: t.Sequence[float], minute: int) -> float:
    """The day's factor; it goes over into the next day's at night, between 02:00 and 04:00."""
    day, of_day = divmod(minute, DAY)
    before = factors[day - 1] if day else factors[0]
    share = min(1.0, max(0.0, (of_day - 120) / 120))
    return before + (factors[day] - before) * share


def smooth(rand: random.Random, days: int, peak: float) -> list[float]:
    """One long hill a day, weekends lower."""
    factors = _daily(rand, days, 0.04)
    found = []
    for m in range(days * DAY):
        day = m // DAY % 7
        found.append(peak * (0.12 + 0.88 * _bump(m % DAY, 14 * 60, 230)) * (0.65 if day >= 5 else 1.0) * _blend(factors, m))
    return found


def office(rand: random.Random, days: int, peak: float) -> list[float]:
    """Working hours with a dip at noon; a third of the rooms are meetings that begin on the hour or the half."""
    factors = _daily(rand, days, 0.05)
    found = []
    for m in range(days * DAY):
        of_day, day = m % DAY, m // DAY % 7
        hills = 0.9 * _bump(of_day, 10.5 * 60, 85) + 0.85 * _bump(of_day, 15 * 60, 95)
        meetings = 0.65 + 0.35 * max(_plateau(of_day % 60, 0, 50, 3), 0.5 * _plateau(of_day % 60, 30, 55, 3))
        found.append(peak * (0.05 + 0.95 * min(1.0, hills) * meetings) * (0.15 if day >= 5 else 1.0) * _blend(factors, m))
    return found


def events(rand: random.Random, days: int, peak: float) -> list[float]:
    """A calm evening service and webinars at set hours of the week, a few minutes early or late and of changing size."""
    slots = sorted((rand.randrange(5), rand.choice([10, 14, 18, 19, 20]) * 60, rand.choice([45, 60, 90]), rand.uniform(0.3, 0.6), rand.uniform(8, 15))
                   for _n in range(5))
    factors = _daily(rand, days, 0.04)
    found = [0.4 * peak * (0.2 + 0.8 * _bump(m % DAY, 19 * 60, 200)) * _blend(factors, m) for m in range(days * DAY)]
    for week in range(-(-days // 7)):
        for day, at, lasts, size, ramp in slots:
            begin = week * WEEK + day * DAY + at + rand.gauss(0, 1.5)
            height = peak * size * rand.uniform(0.85, 1.15)
            _add(found, begin, lasts, height, ramp)
    return found


def bursts(rand: random.Random, days: int, peak: float) -> list[float]:
    """Nearly nothing, and three times each working day a crowd that is there within minutes."""
    slots = [[(hour * 60, rand.choice([45, 60, 90]), rand.uniform(0.3, 0.9), rand.uniform(4, 9)) for hour in rand.sample([8, 10, 12, 14, 17, 20], 3)]
             for _day in range(5)]
    found = [0.07 * peak * (0.4 + 0.6 * _bump(m % DAY, 15 * 60, 240)) for m in range(days * DAY)]
    for day in range(days):
        for at, lasts, size, ramp in slots[day % 7] if day % 7 < 5 else []:
            _add(found, day * DAY + at + rand.gauss(0, 1), lasts, peak * size * rand.uniform(0.9, 1.1), ramp, 6)
    return found


def _add(found: list[float], begin: float, lasts: float, height: float, ramp: float, fall: float = 10.0) -> None:
    for m in range(max(0, int(begin)), min(len(found), int(begin + lasts + fall) + 1)):
        found[m] += height * _plateau(m, begin, begin + lasts, ramp, fall)


def school(rand: random.Random, days: int, peak: float) -> list[float]:
    """A timetable: five lessons a day, every classroom at once within a few minutes; a little use in between and on weekends."""
    lessons = [(8 * 60 + 15, 9 * 60 + 45), (10 * 60, 11 * 60 + 30), (12 * 60 + 15, 13 * 60 + 45), (14 * 60, 15 * 60 + 30), (16 * 60, 17 * 60 + 30)]
    fill = [[rand.uniform(0.45, 1.0) for _lesson in lessons] for _day in range(5)]
    factors = _daily(rand, days, 0.03)
    found = []
    for m in range(days * DAY):
        of_day, day = m % DAY, m // DAY % 7
        level = 0.04 + 0.06 * _bump(of_day, 15 * 60, 200)
        if day < 5:
            level += 0.9 * max(fill[day][n] * _plateau(of_day, begin - 6, end, 9, 6) for n, (begin, end) in enumerate(lessons))
        found.append(peak * level * _blend(factors, m))
    return found


def surprise(rand: random.Random, days: int, peak: float) -> list[float]:
    """Smooth days, and twice a week a rush that nobody announced and that never comes at the same time again."""
    found = [0.8 * value for value in smooth(rand, days, peak)]
    for _rush in range(2 * days // 7):
        _add(found, rand.uniform(0, days * DAY), rand.uniform(30, 120), peak * rand.uniform(0.1, 0.2), rand.uniform(12, 25), 20)
    return found


def growth(rand: random.Random, days: int, peak: float) -> list[float]:
    """A service that grows by an eighth each week; one working day of each month is a holiday."""
    factors = _daily(rand, days, 0.04)
    holidays = {28 * month + rand.choice([1, 2, 3, 8, 9, 10]) for month in range(days // 28 + 1)} | {days - 4}
    begin = peak / 1.125 ** (days / 7)
    factors = [f * (0.45 if day % 7 >= 5 or day in holidays else 1.0) for day, f in enumerate(factors)]
    found = []
    for m in range(days * DAY):
        of_day = m % DAY
        hills = max(_bump(of_day, 11 * 60, 120), 0.8 * _bump(of_day, 20 * 60, 110))
        found.append(begin * 1.125 ** (m / WEEK) * (0.1 + 0.9 * hills) * _blend(factors, m))
    return found


def stadium(rand: random.Random, days: int, peak: float) -> list[float]:
    """Little on most days; two evenings a week multiply it within half an hour."""
    evenings = [(2, 19.5 * 60, 130), (5, 15.5 * 60, 120)]
    found = [0.15 * peak * (0.4 + 0.6 * _bump(m % DAY, 17 * 60, 240)) for m in range(days * DAY)]
    for week in range(-(-days // 7)):
        for day, at, lasts in evenings:
            _add(found, week * WEEK + day * DAY + at + rand.gauss(0, 2), lasts, peak * rand.uniform(0.7, 0.85), rand.uniform(25, 35), 25)
    return found


SHAPES: dict[str, t.Callable[[random.Random, int, float], list[float]]] = {
    "smooth": smooth, "office": office, "events": events, "bursts": bursts, "school": school, "surprise": surprise, "growth": growth, "stadium": stadium,
}
# The constants of the scaler were chosen while looking at these shapes with other seeds; every seed from HELD_OUT_SEED on was kept back, and so were
# the other shapes.
LOOKED_AT = ("smooth", "office", "events", "bursts")
HELD_OUT_SEED = 200
