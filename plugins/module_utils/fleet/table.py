# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows as a table that a person can read.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t


def age(seconds: float | None) -> str:
    """How long ago, in one or two units: 42s, 3m10s, 2h05m, 4d06h; "-" when not known."""
    if seconds is None:
        return "-"
    n = max(0, int(seconds))
    if n < 60:
        return f"{n}s"
    if n < 3600:
        return f"{n // 60}m{n % 60:02d}s"
    if n < 86400:
        return f"{n // 3600}h{n % 3600 // 60:02d}m"
    return f"{n // 86400}d{n % 86400 // 3600:02d}h"


def lines(headings: t.Sequence[str], rows: t.Iterable[t.Sequence[t.Any]]) -> list[str]:
    """Columns as wide as needed; numbers to the right, None as "-"."""
    body = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    kinds = [all(_number(row[i]) for row in body) and bool(body) for i in range(len(headings))]
    widths = [max([len(headings[i]), *(len(row[i]) for row in body)]) for i in range(len(headings))]

    def line(cells: t.Sequence[str]) -> str:
        return "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in zip(cells, widths, kinds)).rstrip()

    return [line(list(headings)), line(["-" * w for w in widths]), *(line(row) for row in body)]


def _number(text: str) -> bool:
    return text == "-" or text.rstrip("%").replace(".", "", 1).isdigit()
