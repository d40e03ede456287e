# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""iCal calendars (RFC 5545) as windows of a schedule: a timetable exported from wherever lessons are planned.

How much an event needs: its property X-LIVEKIT-NODES or X-LIVEKIT-UNITS, else what the caller gives for all. Times need a UTC mark, a TZID with an
IANA name, or are taken in the caller's zone.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import datetime
import re
import typing as t

from ..errors import FleetError
from .recurrence import Rule
from .schedule import Window, time_zone

_LINE = re.compile(r"([A-Za-z0-9-]+)((?:;[A-Za-z0-9-]+=(?:\"[^\"]*\"|[^\";:]*))*):(.*)")
_DURATION = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")
MOST_EVENTS = 5000


@dataclasses.dataclass
class _Event:
    line: int
    values: dict[str, tuple[dict[str, str], str]] = dataclasses.field(default_factory=dict)  # {property: (parameters, value)}
    without: list[tuple[dict[str, str], str]] = dataclasses.field(default_factory=list)


def _bad(line: int, got: str, fix: str = "Export the calendar anew, or correct that event") -> FleetError:
    return FleetError("read the calendar", f"line {line}", got, fix, code="ical_invalid", line=line)


def windows(text: str, nodes: int = 0, units: float = 0.0, zone: str = "UTC", early: float = 300.0) -> list[Window]:
    """The events of a calendar. nodes, units: for events that say nothing themselves. Raises FleetError ical_invalid with the line."""
    events = _events(text)
    if len(events) > MOST_EVENTS:
        raise _bad(events[MOST_EVENTS].line, f"it has {len(events)} events", f"Give at most {MOST_EVENTS}")
    moved: dict[str, set[float]] = {}
    for event in events:
        if "RECURRENCE-ID" in event.values:
            moved.setdefault(event.values.get("UID", ({}, ""))[1], set()).add(_moment(event, *event.values["RECURRENCE-ID"], zone)[0].timestamp())
    found = []
    for event in events:
        if event.values.get("STATUS", ({}, ""))[1].upper() == "CANCELLED":
            continue
        found.append(_window(event, nodes, units, zone, early, moved))
    return found


def _events(text: str) -> list[_Event]:
    found: list[_Event] = []
    inside: list[str] = []
    for number, line in _unfold(text):
        match = _LINE.fullmatch(line)
        if match is None:
            raise _bad(number, f"{line[:60]!r} is no NAME:VALUE")
        name, value = match[1].upper(), match[3]
        parameters = dict(part.split("=", 1) for part in re.findall(r";([^;=]+=(?:\"[^\"]*\"|[^\";:]*))", match[2]))
        parameters = {key.upper(): text.strip('"') for key, text in parameters.items()}
        if name == "BEGIN":
            inside.append(value.upper())
            if inside == ["VCALENDAR", "VEVENT"]:
                found.append(_Event(number))
        elif name == "END":
            if not inside or inside.pop() != value.upper():
                raise _bad(number, f"END:{value} without its BEGIN")
        elif inside == ["VCALENDAR", "VEVENT"]:
            if name == "EXDATE":
                found[-1].without += [(parameters, part) for part in value.split(",")]
            elif name == "RDATE":
                raise _bad(number, "RDATE is not supported", "Make an event of its own for each such date")
            else:
                found[-1].values[name] = (parameters, value)
    if inside or "BEGIN:VCALENDAR" not in text.upper():
        raise _bad(text.count("\n") + 1, f"it ends within {inside[-1]}" if inside else "there is no VCALENDAR")
    return found


def _unfold(text: str) -> list[tuple[int, str]]:
    """[(number of its first line, line)]; a line that begins with a blank continues the one before."""
    found: list[tuple[int, str]] = []
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        if line[:1] in (" ", "\t") and found:
            found[-1] = (found[-1][0], found[-1][1] + line[1:])
        elif line.strip():
            found.append((number, line))
    return found


def _moment(event: _Event, parameters: t.Mapping[str, str], value: str, zone: str) -> tuple[datetime.datetime, bool]:
    """(the time, whether it is a whole day)."""
    try:
        if len(value) == 8:
            return datetime.datetime.strptime(value, "%Y%m%d").replace(tzinfo=time_zone(zone)), True
        kind = time_zone("UTC" if value.endswith("Z") else parameters.get("TZID", zone))
        return datetime.datetime.strptime(value.rstrip("Z"), "%Y%m%dT%H%M%S").replace(tzinfo=kind), False
    except ValueError as exc:
        raise _bad(event.line, f"the event that begins there has the time {value!r}") from exc


def _window(event: _Event, nodes: int, units: float, zone: str, early: float, moved: t.Mapping[str, set[float]]) -> Window:
    if "DTSTART" not in event.values:
        raise _bad(event.line, "the event that begins there has no DTSTART")
    start, whole_day = _moment(event, *event.values["DTSTART"], zone)
    if "DTEND" in event.values:
        lasts = (_moment(event, *event.values["DTEND"], zone)[0] - start).total_seconds()
    elif "DURATION" in event.values:
        match = _DURATION.fullmatch(event.values["DURATION"][1])
        if match is None:
            raise _bad(event.line, f"the event that begins there has the duration {event.values['DURATION'][1]!r}")
        lasts = sum(int(part or 0) * unit for part, unit in zip(match.groups(), (604800, 86400, 3600, 60, 1)))
    else:
        lasts = 86400.0 if whole_day else 0.0
    text = event.values["RRULE"][1] if "RRULE" in event.values and "RECURRENCE-ID" not in event.values else "FREQ=DAILY;COUNT=1"
    without = {_moment(event, *item, zone)[0].timestamp() for item in event.without}
    if "RECURRENCE-ID" not in event.values:
        without |= moved.get(event.values.get("UID", ({}, ""))[1], set())
    own = {name: event.values[f"X-LIVEKIT-{name.upper()}"][1] for name in ("nodes", "units") if f"X-LIVEKIT-{name.upper()}" in event.values}
    try:
        return Window(event.values.get("SUMMARY", ({}, "event"))[1], Rule.parse(text, start.date()), (start.time().replace(tzinfo=None),), lasts,
                      start.tzinfo or datetime.timezone.utc, int(own.get("nodes", 0 if own else nodes)), float(own.get("units", 0.0 if own else units)),
                      early, frozenset(without))
    except (ValueError, FleetError) as exc:
        raise _bad(event.line, f"the event that begins there: {exc.failure['got'] if isinstance(exc, FleetError) else exc}") from exc
