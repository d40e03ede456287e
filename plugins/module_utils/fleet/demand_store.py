# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The history of demand: a row per minute in an SQLite file that the controller keeps, and what Prometheus remembers.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import typing as t

from .errors import FleetError

KEEP_DAYS = 70
_TABLE = "CREATE TABLE IF NOT EXISTS demand (minute INTEGER PRIMARY KEY, value REAL NOT NULL)"


class DemandStore:
    """path: the file, made with its mode 0640; ":memory:" for tests. One writer, any number of readers. Raises FleetError demand_store."""

    def __init__(self, path: str) -> None:
        self.path = path
        with self._told("open"):
            if path != ":memory:":
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o640))
            self._db = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            with self._db:
                self._db.execute(_TABLE)

    @contextlib.contextmanager
    def _told(self, what: str) -> t.Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise FleetError(f"{what} the history of demand", self.path, exc, "If the file is damaged, move it away: a new one is begun, and the forecast "
                             "learns anew", code="demand_store") from exc

    def close(self) -> None:
        self._db.close()

    def add(self, rows: t.Iterable[tuple[float, float]]) -> int:
        """Store (Unix seconds, demand); of several in a minute the largest stays. Returns how many were refused: NaN, negative, before 1970."""
        good, bad = [], 0
        for at, value in rows:
            if math.isfinite(at) and math.isfinite(value) and at >= 0 and value >= 0:
                good.append((int(at // 60), float(value)))
            else:
                bad += 1
        with self._told("write"), self._db:
            self._db.executemany("INSERT INTO demand VALUES (?, ?) ON CONFLICT (minute) DO UPDATE SET value = max(value, excluded.value)", good)
        return bad

    def rows(self, since: float = 0.0) -> list[tuple[float, float]]:
        """[(Unix seconds, demand)], oldest first."""
        with self._told("read"):
            found = self._db.execute("SELECT minute, value FROM demand WHERE minute >= ? ORDER BY minute", (int(since // 60),)).fetchall()
        return [(60.0 * minute, value) for minute, value in found]

    def prune(self, now: float, days: int = KEEP_DAYS) -> int:
        """Forget what is older; returns the number of rows."""
        with self._told("clear"), self._db:
            return self._db.execute("DELETE FROM demand WHERE minute < ?", (int((now - 86400.0 * days) // 60),)).rowcount


def from_prometheus(text: str) -> list[tuple[float, float]]:
    """[(Unix seconds, demand)] from the JSON of Prometheus' /api/v1/query_range, e.g. of sum(livekit_room_total) with step=60.

    Several series are added up, each counted for a minute it has a value in. Raises FleetError prometheus_json.
    """
    try:
        content = json.loads(text)
        if content.get("status") != "success":
            raise ValueError(f"status {content.get('status')}: {content.get('error', 'no error text')}")
        data = content["data"]
        if data["resultType"] != "matrix":
            raise ValueError(f"the result is a {data['resultType']}: ask query_range, not query")
        sums: dict[int, float] = {}
        for series in data["result"]:
            own: dict[int, float] = {}
            for at, value in series["values"]:
                number = float(value)
                if math.isfinite(number) and number >= 0:
                    own[int(float(at) // 60)] = max(number, own.get(int(float(at) // 60), 0.0))
            for minute, number in own.items():
                sums[minute] = sums.get(minute, 0.0) + number
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise FleetError("import the history", "Prometheus' answer", exc if isinstance(exc, ValueError) else f"no range result in it ({exc!r})",
                         "Save the answer of /api/v1/query_range?query=sum(livekit_room_total)&start=...&end=...&step=60", code="prometheus_json") from exc
    return [(60.0 * minute, value) for minute, value in sorted(sums.items())]
