# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies from configuration.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import datetime
import difflib
import typing as t

from ..errors import FleetError
from .base import Policy
from .events import Events
from .forecast import Forecast
from .headroom import Headroom
from .ical import windows
from .queue import Queue
from .reservations import Reservation, Reservations
from .schedule import Schedule, Window, time_zone, window

KNOWN = {
    "headroom": {"share", "nodes"}, "forecast": {"ahead"}, "queue": {"per_refusal"}, "events": set(),
    "schedule": {"windows", "ical", "nodes", "units", "zone", "early"}, "reservations": {"booked", "settle", "zone", "per_unit"},
}
DEFAULTS: dict[str, dict[str, t.Any]] = {"headroom": {}, "forecast": {}, "events": {}, "queue": {}}


def load(config: t.Mapping[str, t.Any] | None = None) -> list[Policy]:
    """Policies of {name: settings}; None or nothing gives the default ones, `name: false` leaves one out. headroom is always there.

    schedule: {windows: [see schedule.window], ical: text of a calendar, nodes or units for its events, zone, early};
    reservations: {booked: [{name, people or units, start, end, early}], per_unit: people per unit, zone}. Raises FleetError.
    """
    found: list[Policy] = []
    for name, settings in {**DEFAULTS, **(config or {})}.items():
        if name not in KNOWN:
            raise _bad(name, "there is no such policy", KNOWN)
        if settings is False and name != "headroom":
            continue
        settings = {} if settings is None or settings is True or settings is False else settings
        if not isinstance(settings, t.Mapping):
            raise _bad(name, f"its settings are {settings!r}", KNOWN[name])
        for key in settings:
            if key not in KNOWN[name]:
                raise _bad(f"{name}.{key}", "there is no such setting", KNOWN[name])
        try:
            found.append(_BUILD[name](settings))
        except (TypeError, ValueError, KeyError) as exc:
            raise _bad(name, f"{exc.args[0]} is missing" if isinstance(exc, KeyError) else str(exc), KNOWN[name]) from exc
    return found


def _bad(on: str, got: str, known: t.Iterable[str]) -> FleetError:
    near = difflib.get_close_matches(on.rpartition(".")[2], list(known), 1)
    return FleetError("read the scaling policies", on, got, f"Did you mean {near[0]}?" if near else f"Known are {', '.join(sorted(known)) or 'none'}",
                      code="policy_invalid")


def _number(settings: t.Mapping[str, t.Any], key: str, default: float) -> float:
    value = float(settings.get(key, default))
    if not 0 <= value < float("inf"):
        raise ValueError(f"{key} is {value}; it has to be 0 or more")
    return value


def _headroom(settings: t.Mapping[str, t.Any]) -> Policy:
    return Headroom(_number(settings, "share", Headroom.share), _number(settings, "nodes", Headroom.nodes))


def _schedule(settings: t.Mapping[str, t.Any]) -> Policy:
    zone = str(settings.get("zone", "UTC"))
    found: list[Window] = [window(values, zone) for values in settings.get("windows", ())]
    if settings.get("ical"):
        found += windows(str(settings["ical"]), int(_number(settings, "nodes", 0)), _number(settings, "units", 0), zone, _number(settings, "early", 300.0))
    return Schedule(tuple(found))


def _reservations(settings: t.Mapping[str, t.Any]) -> Policy:
    zone, booked = time_zone(str(settings.get("zone", "UTC"))), []
    for row in settings.get("booked", ()):
        start, end = (_moment(row[key], zone) for key in ("start", "end"))
        early, name = float(row.get("early", Reservation.early)), str(row["name"])
        if "people" in row:
            booked.append(Reservation.of_people(name, int(row["people"]), start, end, _number(settings, "per_unit", 0.0), early))
        else:
            booked.append(Reservation(name, float(row["units"]), start, end, early))
    return Reservations(tuple(booked), _number(settings, "settle", Reservations.settle))


def _moment(value: t.Any, zone: datetime.tzinfo) -> float:
    """Unix seconds of a number or of an ISO time, which is local where it has no offset."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    at = datetime.datetime.fromisoformat(str(value))
    return (at if at.tzinfo else at.replace(tzinfo=zone)).timestamp()


_BUILD: dict[str, t.Callable[[t.Mapping[str, t.Any]], Policy]] = {
    "headroom": _headroom, "forecast": lambda s: Forecast(bool(s.get("ahead", True))), "queue": lambda s: Queue(_number(s, "per_refusal", 1.0)),
    "events": lambda s: Events(), "schedule": _schedule, "reservations": _reservations,
}
