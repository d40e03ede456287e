# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Schedule: sizes by the calendar. Plain windows, cron, and RRULE or whole iCal calendars.

A window holds a number of nodes, or of demand in units, from `early` seconds (and the time a node takes to start) before it begins until it ends.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import datetime
import math
import typing as t
import zoneinfo

from ..errors import FleetError
from .base import View, Wish
from .recurrence import Cron, Rule, begins

DAY_NAMES = {name: index for index, name in enumerate(("mon", "tue", "wed", "thu", "fri", "sat", "sun"))}
LONGEST = 31 * 86400.0  # seconds a window may last


@dataclasses.dataclass(frozen=True)
class Window:
    """A recurring time. pattern says on which local days, times at which hours; lasts and early are seconds; nodes or units what it holds."""

    name: str
    pattern: Rule | Cron
    times: tuple[datetime.time, ...]
    lasts: float
    zone: datetime.tzinfo = datetime.timezone.utc
    nodes: int = 0
    units: float = 0.0
    early: float = 300.0
    without: frozenset[float] = frozenset()  # begins that do not take place

    def __post_init__(self) -> None:
        if not (self.nodes or self.units) or not (math.isfinite(self.units) and self.units >= 0 and self.nodes >= 0):
            raise _bad(self.name, f"it holds {self.nodes} nodes and {self.units:g} units", "Give nodes or units, above 0")
        if not 0 < self.lasts <= LONGEST or not 0 <= self.early <= 86400:
            raise _bad(self.name, f"it lasts {self.lasts:g} s, and is ready {self.early:g} s early", "It may last up to 31 days and be ready up to a day early")

    def active(self, at: float, lead: float) -> bool:
        """Whether its nodes are to be there at that time, or when a node ordered now serves."""
        found = begins(self.pattern, self.times, self.zone, at - self.lasts, at + self.early + lead)
        return any(begin + self.lasts > at and begin not in self.without for begin in found)


def window(values: t.Mapping[str, t.Any], zone: str = "UTC") -> Window:
    """From a mapping: {name, nodes | units, early} and one of
    {days: mon-fri or [mon, wed], from: "08:00", to: "18:00"}, {cron: "0 8 * * 1-5", lasts: 3600}, {rrule: "FREQ=WEEKLY;BYDAY=MO", start:
    "2026-09-07T08:15", lasts: 5400}. A window whose `to` is not after its `from` ends on the next day. Raises FleetError schedule_invalid."""
    name = str(values.get("name") or "window")
    known = {"name", "nodes", "units", "early", "zone", "days", "from", "to", "cron", "lasts", "rrule", "start"}
    if set(values) - known:
        raise _bad(name, f"unknown keys {', '.join(sorted(set(values) - known))}", f"Known are {', '.join(sorted(known))}")
    if sum(key in values for key in ("from", "cron", "rrule")) != 1:
        raise _bad(name, "it has none, or more than one, of from, cron, rrule", "Give exactly one")
    try:
        shared: dict[str, t.Any] = {
            "zone": time_zone(str(values.get("zone", zone))), "nodes": int(values.get("nodes", 0)), "units": float(values.get("units", 0.0)),
            "early": float(values.get("early", 300.0)),
        }
        if "cron" in values:
            cron = Cron.parse(str(values["cron"]))
            return Window(name, cron, tuple(cron.times), float(values["lasts"]), **shared)
        if "rrule" in values:
            start = datetime.datetime.fromisoformat(str(values["start"]))
            return Window(name, Rule.parse(str(values["rrule"]), start.date()), (start.time(),), float(values["lasts"]), **shared)
        begin, end = (datetime.time.fromisoformat(str(values[key])) for key in ("from", "to"))
    except (KeyError, ValueError, TypeError) as exc:
        raise _bad(name, f"{exc} is missing" if isinstance(exc, KeyError) else str(exc), "Times are \"08:00\" in quotes, numbers are plain numbers") from exc
    lasts = (end.hour - begin.hour) * 3600.0 + (end.minute - begin.minute) * 60.0
    every = Rule(datetime.date(1970, 1, 5), "WEEKLY", by_day=tuple((0, day) for day in _days(name, values.get("days", "mon-sun"))))
    return Window(name, every, (begin,), lasts if lasts > 0 else lasts + 86400.0, **shared)


def _days(name: str, value: t.Any) -> list[int]:
    found: list[int] = []
    for part in value if isinstance(value, (list, tuple)) else str(value).split(","):
        first, dash, last = str(part).strip().lower()[:7].partition("-")
        try:
            begin, end = DAY_NAMES[first[:3]], DAY_NAMES[(last if dash else first)[:3]]
        except KeyError:
            raise _bad(name, f"days: {part!r}", f"Use {', '.join(DAY_NAMES)}, or a range as mon-fri") from None
        found += [day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)]
    return sorted(set(found))


def time_zone(name: str) -> datetime.tzinfo:
    """By its IANA name. Raises FleetError zone_unknown."""
    try:
        return datetime.timezone.utc if name.upper() in ("UTC", "Z") else zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise FleetError("find the time zone", name, exc, "Use an IANA name as Europe/Berlin; on Debian the package tzdata knows them",
                         code="zone_unknown") from exc


def _bad(name: str, got: str, fix: str) -> FleetError:
    return FleetError("read the schedule", f"window {name!r}", got, fix, code="schedule_invalid")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The largest of the windows that are active, not their sum: use reservations for what comes on top of each other."""

    windows: t.Sequence[Window] = ()
    name: str = "schedule"

    def wish(self, view: View) -> Wish | None:
        active = [w for w in self.windows if w.active(view.at, view.lead)]
        if not active:
            return None
        sizes = {w.name: max(w.nodes, view.nodes(w.units)) for w in active}
        best = max(sizes, key=lambda name: sizes[name])
        return Wish(self.name, sizes[best], f"{best} holds {sizes[best]}")
