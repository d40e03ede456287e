# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a drain may take: what past rooms say about the rooms that are left. The estimate is pure.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import bisect
import typing as t

from .redis_connection import as_text

if t.TYPE_CHECKING:
    from .registry import Registry

DURATIONS = "openrtc:durations"  # a list, newest first: seconds that past rooms lasted, written by the controller's webhook receiver
KEEP = 500
ENOUGH = 5  # fewer rooms that lasted longer than one that is left say nothing about it


def eta(ages: t.Iterable[float], durations: t.Iterable[float]) -> float | None:
    """Seconds until the last of the rooms will have ended, as likely sooner as later; 0 without rooms, None where nobody can know.

    A room of age a has ended after another t seconds with the share of those past rooms longer than a that were not longer than
    a + t. Rooms end independently of each other, so the shares multiply; the answer is where they reach one half.
    """
    known = sorted(durations)
    begins = [(bisect.bisect_right(known, age), age) for age in ages]
    if not begins:
        return 0.0
    if any(len(known) - first < ENOUGH for first, _age in begins):
        return None

    def ended(after: float) -> float:
        share = 1.0
        for first, age in begins:
            share *= (bisect.bisect_right(known, age + after) - first) / (len(known) - first)
        return share

    low, high = 0.0, known[-1] - min(age for _first, age in begins)
    while high - low > 1.0:
        middle = (low + high) / 2
        low, high = (low, middle) if ended(middle) >= 0.5 else (middle, high)
    return high


def durations(registry: Registry) -> list[float]:
    """How long past rooms lasted, seconds."""
    (found,) = registry.ask("read how long rooms last", ("LRANGE", DURATIONS, 0, KEEP - 1))
    return [float(as_text(raw)) for raw in found]
