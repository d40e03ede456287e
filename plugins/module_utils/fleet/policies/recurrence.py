# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recurring times: RRULE (RFC 5545) and cron, as far as timetables need them. Pure.

Both are reduced to one question: does a begin fall on this local day, and at which times of day? So daylight saving is no special case: 08:00 is
08:00 by the wall clock, and times that a day does not have move on with the clock.

python3-dateutil would know more of RRULE, but it would have to be on every controller for parts that no timetable uses (BYSETPOS, BYWEEKNO ...);
those are refused by name instead.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import datetime
import functools
import re
import typing as t

from ..errors import FleetError

WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
FREQUENCIES = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_BYDAY = re.compile(r"([+-]?\d{1,2})?(MO|TU|WE|TH|FR|SA|SU)")


def _bad(kind: str, text: str, got: str, fix: str) -> FleetError:
    return FleetError("read a recurrence", f"{kind} {text!r}", got, fix, code=f"{kind}_invalid")


@dataclasses.dataclass(frozen=True)
class Rule:
    """A parsed RRULE. `first` is the day of DTSTART."""

    first: datetime.date
    frequency: str
    interval: int = 1
    count: int = 0
    until: datetime.date | None = None
    by_day: tuple[tuple[int, int], ...] = ()  # (ordinal or 0, weekday with Monday 0)
    by_month_day: tuple[int, ...] = ()
    by_month: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str, first: datetime.date) -> Rule:
        """Raises FleetError rrule_invalid that names the part."""
        parts = {}
        for part in filter(None, text.strip().upper().removeprefix("RRULE:").split(";")):
            name, equals, value = part.partition("=")
            if not equals or name in parts:
                raise _bad("rrule", text, f"{part!r} is no NAME=VALUE, or comes twice", "Write it as FREQ=WEEKLY;BYDAY=MO,WE")
            parts[name] = value
        if parts.get("INTERVAL", "1") == "1" or parts.get("WKST") == "MO":
            parts.pop("WKST", None)  # it only matters where weeks are left out
        known = {"FREQ", "INTERVAL", "COUNT", "UNTIL", "BYDAY", "BYMONTHDAY", "BYMONTH"}
        if set(parts) - known:
            raise _bad("rrule", text, f"{', '.join(sorted(set(parts) - known))} is not supported", f"Use {', '.join(sorted(known))}")
        if parts.get("FREQ") not in FREQUENCIES:
            raise _bad("rrule", text, f"FREQ is {parts.get('FREQ')}", f"Use one of {', '.join(FREQUENCIES)}")
        if "COUNT" in parts and "UNTIL" in parts:
            raise _bad("rrule", text, "it has both COUNT and UNTIL", "Keep one")
        try:
            rule = cls(
                first, parts["FREQ"], int(parts.get("INTERVAL", 1)), int(parts.get("COUNT", 0)),
                datetime.datetime.strptime(parts["UNTIL"][:8], "%Y%m%d").date() if "UNTIL" in parts else None,
                tuple(_weekday(day) for day in parts["BYDAY"].split(",")) if "BYDAY" in parts else (),
                tuple(map(int, parts["BYMONTHDAY"].split(","))) if "BYMONTHDAY" in parts else (),
                tuple(map(int, parts["BYMONTH"].split(","))) if "BYMONTH" in parts else (),
            )
        except ValueError as exc:
            raise _bad("rrule", text, str(exc), "Correct that part") from exc
        if rule.interval < 1 or rule.count < 0 or "COUNT" in parts and rule.count < 1:
            raise _bad("rrule", text, "INTERVAL and COUNT are at least 1", "Correct them")
        if any(ordinal for ordinal, _day in rule.by_day) and rule.frequency not in ("MONTHLY", "YEARLY"):
            raise _bad("rrule", text, "BYDAY with a number needs FREQ=MONTHLY or YEARLY", "Drop the number or change FREQ")
        return rule

    def on(self, day: datetime.date) -> bool:
        """Whether an occurrence begins on that day."""
        if day < self.first or self.until is not None and day > self.until or not self._matches(day):
            return False
        return not self.count or _counted(self, day) <= self.count

    def _matches(self, day: datetime.date) -> bool:
        if self.by_month and day.month not in self.by_month:
            return False
        days_left = (day.replace(day=28) + datetime.timedelta(days=4)).replace(day=1) - day
        if self.by_month_day and day.day not in self.by_month_day and -days_left.days not in self.by_month_day:
            return False
        if self.by_day and not any(day.weekday() == wanted and self._ordinal(day, days_left.days, ordinal) for ordinal, wanted in self.by_day):
            return False
        if self.frequency == "DAILY":
            return (day - self.first).days % self.interval == 0
        if self.frequency == "WEEKLY":
            weeks = (day - self.first + datetime.timedelta(days=self.first.weekday())).days // 7
            return weeks % self.interval == 0 and (bool(self.by_day) or day.weekday() == self.first.weekday())
        free = bool(self.by_day or self.by_month_day)
        if self.frequency == "MONTHLY":
            months = (day.year - self.first.year) * 12 + day.month - self.first.month
            return months % self.interval == 0 and (free or day.day == self.first.day)
        same_month = bool(self.by_month) or day.month == self.first.month or free and not self.by_month_day
        return (day.year - self.first.year) % self.interval == 0 and same_month and (free or day.day == self.first.day)

    def _ordinal(self, day: datetime.date, days_left: int, ordinal: int) -> bool:
        """Whether the day is its month's (its year's, for YEARLY without BYMONTH) ordinal-th of its weekday."""
        if not ordinal:
            return True
        if self.frequency == "YEARLY" and not self.by_month:
            number = day.timetuple().tm_yday
            length = datetime.date(day.year, 12, 31).timetuple().tm_yday
            return ordinal == (number - 1) // 7 + 1 or ordinal == -((length - number) // 7 + 1)
        return ordinal == (day.day - 1) // 7 + 1 or ordinal == -((days_left - 1) // 7 + 1)


def _weekday(text: str) -> tuple[int, int]:
    match = _BYDAY.fullmatch(text)
    if match is None or match[1] is not None and int(match[1]) == 0:
        raise ValueError(f"{text!r} is no weekday")
    return int(match[1] or 0), WEEKDAYS.index(match[2])


@functools.lru_cache(maxsize=1024)
def _counted(rule: Rule, day: datetime.date) -> int:
    """How many occurrences there were up to that day."""
    count, one = 0, datetime.timedelta(days=1)
    while day >= rule.first and count <= rule.count:
        count += rule._matches(day)  # pylint: disable=protected-access
        day -= one
    return count


@dataclasses.dataclass(frozen=True)
class Cron:
    """Five fields: minute hour day month weekday (0 and 7 are Sunday). As in cron, day and weekday are alternatives where both are given."""

    fields: tuple[frozenset[int], ...]
    either: bool

    @classmethod
    def parse(cls, text: str) -> Cron:
        """Raises FleetError cron_invalid that names the field."""
        words = text.split()
        if len(words) != 5:
            raise _bad("cron", text, f"it has {len(words)} fields", "Give five: minute hour day month weekday")
        found = tuple(_cron_field(text, word, *field) for word, field in zip(words, FIELDS))
        weekdays = frozenset(day % 7 for day in found[4])
        return cls((*found[:4], weekdays), words[2] != "*" and words[4] != "*")

    def on(self, day: datetime.date) -> bool:
        by_day, by_weekday = day.day in self.fields[2], (day.weekday() + 1) % 7 in self.fields[4]
        return day.month in self.fields[3] and (by_day or by_weekday if self.either else by_day and by_weekday)

    @property
    def times(self) -> list[datetime.time]:
        return [datetime.time(hour, minute) for hour in sorted(self.fields[1]) for minute in sorted(self.fields[0])]


def _cron_field(text: str, word: str, name: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for part in word.split(","):
        match = re.fullmatch(r"(?:\*|(\d+)(?:-(\d+))?)(?:/(\d+))?", part)
        if match is None or match[3] == "0":
            raise _bad("cron", text, f"{name}: {part!r}", "Use numbers, a-b, */n and commas")
        begin, end = (int(match[1]), int(match[2] or (high if match[3] else match[1]))) if match[1] else (low, high)
        if not low <= begin <= end <= high:
            raise _bad("cron", text, f"{name}: {part!r} is not within {low}-{high}", "Correct it")
        found |= set(range(begin, end + 1, int(match[3] or 1)))
    return frozenset(found)


def begins(pattern: Rule | Cron, times: t.Sequence[datetime.time], zone: datetime.tzinfo, since: float, until: float) -> t.Iterator[float]:
    """Unix seconds of the occurrences in [since, until]."""
    day = datetime.datetime.fromtimestamp(since, zone).date() - datetime.timedelta(days=1)
    last = datetime.datetime.fromtimestamp(until, zone).date()
    while day <= last:
        if pattern.on(day):
            for time in times:
                at = datetime.datetime.combine(day, time, zone).timestamp()
                if since <= at <= until:
                    yield at
        day += datetime.timedelta(days=1)
