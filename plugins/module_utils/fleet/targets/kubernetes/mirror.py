# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of one kind as the API tells them at once: a list, and then every change as it happens.

What runs on a machine does not depend on the API. So while nobody reaches it, what was known last stands, and whoever asks is not kept
from looking at processes and ports.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import http.client
import json
import threading
import time
import typing as t
import urllib.parse

from ...errors import FleetError
from .api import Api

WATCH_SECONDS = 30  # after which the API ends a watch by itself, and it is begun anew
READ_TIMEOUT = WATCH_SECONDS + 5.0  # a connection that died without a word shows by then
PAUSE = 0.1  # seconds until the next attempt after a watch that did not last; doubles up to 8
LASTED = 1.0
Row = t.Dict[str, t.Any]


class Mirror:
    """`path` is that of a list in the API. connect: makes a connection; each thread gets one of its own, so any thread may ask."""

    def __init__(self, connect: t.Callable[[float], Api], path: str, labels: str = "", fields: str = "") -> None:
        self.connect, self.path, self.labels, self.fields = connect, path, labels, fields
        self.kept = False  # a thread keeps it in step
        self.in_step = False  # with the API, right now
        self.changes = 0  # grows with every change
        self._rows: dict[str, Row] | None = None  # by uid; None: nothing was ever read
        self._own = threading.local()

    def api(self) -> Api:
        """This thread's connection."""
        if not hasattr(self._own, "api"):
            self._own.api = self.connect(2.0)
        return t.cast(Api, self._own.api)

    def rows(self) -> list[Row]:
        """The objects as they are known; asked for now where nobody keeps this in step. Raises FleetError where that fails."""
        if self._rows is None or not self.kept:
            self._take(self.api().items(self.path, self.labels, self.fields))
        return list((self._rows or {}).values())

    def put(self, row: t.Mapping[str, t.Any]) -> None:
        """What the API answered to a change of ours, before its watch tells it."""
        uid = str(row.get("metadata", {}).get("uid", ""))
        if self._rows is not None and uid in self._rows:
            self._rows[uid] = dict(row)
            self.changes += 1

    def _take(self, rows: t.Iterable[Row]) -> None:
        found = {str(row["metadata"]["uid"]): row for row in rows}
        if found != self._rows:
            self._rows = found
            self.changes += 1

    def keep(self, stop: threading.Event, tell: t.Callable[[str], None]) -> None:
        """Be in step until `stop` is set. tell: gets what is wrong, "" when all is well again, each once."""
        pause, said, self.kept = PAUSE, "", True
        while not stop.is_set():
            begun = time.monotonic()
            try:
                self._watch(stop, lambda: tell("") if said else None)
                got = ""
            except Exception as exc:  # pylint: disable=broad-except  # nothing may end this: the API comes back
                got = str(exc.failure["got"] if isinstance(exc, FleetError) else f"{type(exc).__name__}: {exc}")
            self.in_step = False
            if got and got != said:
                tell(got)
            said = got
            pause = PAUSE if time.monotonic() - begun > LASTED and not got else min(8.0, pause * 2)
            stop.wait(pause)

    def _watch(self, stop: threading.Event, well: t.Callable[[], None]) -> None:
        """One list and the changes after it, until the API ends that."""
        api = self.connect(READ_TIMEOUT)
        try:
            query = {key: value for key, value in (("labelSelector", self.labels), ("fieldSelector", self.fields)) if value}
            listed = api.ask("GET", f"{self.path}?{urllib.parse.urlencode(query)}")
            self._take(listed.get("items") or [])
            more = {**query, "watch": "1", "resourceVersion": listed["metadata"]["resourceVersion"], "timeoutSeconds": str(WATCH_SECONDS)}
            with api.stream(f"{self.path}?{urllib.parse.urlencode(more)}") as answer:
                self.in_step = True
                well()
                self.changes += 1
                while not stop.is_set() and self._event(answer):
                    pass
        finally:
            api.connection.close()

    def _event(self, answer: http.client.HTTPResponse) -> bool:
        """Take one change; False at the end of the watch, or where it has to begin anew."""
        line = answer.readline()
        event = json.loads(line) if line.strip() else {}
        kind, row = event.get("type"), event.get("object") or {}
        if kind not in ("ADDED", "MODIFIED", "DELETED") or self._rows is None:
            return False
        uid = str(row["metadata"]["uid"])
        self._rows = {**{u: r for u, r in self._rows.items() if u != uid}, **({} if kind == "DELETED" else {uid: row})}
        self.changes += 1
        return True
