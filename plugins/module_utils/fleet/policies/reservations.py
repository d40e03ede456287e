# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reservations: `webinar, 5,000 people, 19:00`: capacity is ready before, beside everything else that is going on.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import math
import typing as t

from ..errors import Problem, raise_for
from .base import View, Wish


@dataclasses.dataclass(frozen=True)
class Reservation:
    """units: demand it brings. Times are Unix seconds. early: seconds before the start that it is ready, beyond the time nodes take to start."""

    name: str
    units: float
    start: float
    end: float
    early: float = 300.0

    @classmethod
    def of_people(cls, name: str, people: int, start: float, end: float, per_unit: float, early: float = 300.0) -> Reservation:
        """per_unit: participants that one unit of demand stands for (people of a room, or people that fill a node)."""
        return cls(name, people / per_unit if per_unit > 0 else -1.0, start, end, early)

    def problems(self) -> list[Problem]:
        where = f"reservation {self.name!r}"
        found = []
        if self.units <= 0 or not math.isfinite(self.units):
            found.append(Problem("reservation_size", where, f"its size is {self.units:g}", "Give a number above 0"))
        if self.end <= self.start or not math.isfinite(self.end - self.start):
            found.append(Problem("reservation_times", where, "it does not end after its start", "Correct start and end"))
        if self.early < 0 or not math.isfinite(self.early):
            found.append(Problem("reservation_early", where, f"early is {self.early:g}", "Give seconds, 0 or more"))
        return found


@dataclasses.dataclass(frozen=True)
class Reservations:
    """Adds what is reserved to what is there, until the event has run for `settle` seconds. By then its people are in the demand themselves,
    and no more is added; but never is less ready than all running events have reserved."""

    booked: t.Sequence[Reservation] = ()
    settle: float = 900.0
    name: str = "reservations"

    def __post_init__(self) -> None:
        raise_for([p for r in self.booked for p in r.problems()], "the reservations")

    def wish(self, view: View) -> Wish | None:
        due = [r for r in self.booked if r.start - r.early - view.lead <= view.at < r.end]
        if not due:
            return None
        coming = sum(r.units for r in due if view.at < r.start + self.settle)
        settled = sum(r.units for r in due if view.at >= r.start + self.settle)
        return Wish(self.name, view.nodes(max(view.demand, settled) + coming),
                    ", ".join(f"{r.name} ({r.units:.4g})" for r in due) + f", beside {view.demand:.4g} in rooms")
