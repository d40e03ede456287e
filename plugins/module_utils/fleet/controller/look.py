# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller sees: the registry and the reports of one moment, and what the nodes' own ports answer.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import concurrent.futures
import http.client
import json
import time
import typing as t
import urllib.parse

from .. import drain, eta, journal, scaler
from ..errors import FleetError
from ..move_plan import Record, frozen
from ..move_store import MOVES
from ..redis_connection import as_text
from ..reports import Reports
from . import lease, webhook
from .view import Sources, leaving

if t.TYPE_CHECKING:
    from ..drain import Request
    from ..registry import Registry, Snapshot

PROBE_TIMEOUT = 0.5  # seconds, for the connection and again for the answer
PROBE_ALL = 1.0  # seconds until a node is asked again: one that hangs shows nowhere else for several seconds
PROBE_ODD = 0.4  # seconds until an odd one is
PROBE_WAIT = 0.1  # seconds a look waits for answers: a closed port says so at once
DECISIONS = 60  # shown on the page
PLOTTED = 360  # minutes of demand that the page draws


class Look(t.NamedTuple):
    """One moment. Where Redis could not be asked, `blind` says why and there is no snapshot."""

    snapshot: Snapshot | None = None
    reports: Reports | None = None
    requests: t.Mapping[str, Request] = {}
    records: t.Mapping[str, Record] = {}
    blind: str = ""

    @property
    def frozen(self) -> str:
        """Why nothing may be decided now, or ""."""
        return self.blind or (frozen(self.snapshot) if self.snapshot else "nothing was read yet")


def take(registry: Registry) -> Look:
    try:
        (raw,) = registry.ask("read the moves in progress", ("HGETALL", MOVES))
        records = {as_text(key): Record.parse(as_text(value)) for key, value in raw.items()}
        return Look(registry.snapshot(), Reports.read(registry), drain.requests(registry), records)
    except FleetError as exc:
        return Look(blind=f"Redis cannot be asked: {exc.failure['got']}")


def sources(registry: Registry, look: Look) -> Sources | None:
    """The rest of what the page shows; None where there is no snapshot."""
    if look.snapshot is None or look.reports is None:
        return None
    names = [room for node_id in leaving(look.snapshot, look.reports, look.requests) for room in look.snapshot.rooms_of(node_id)]
    (events,) = registry.ask("read the latest events", ("LRANGE", webhook.EVENTS, 0, 19))
    return Sources(look.snapshot, look.reports, look.requests, look.records, registry.room_details(names), registry.participants_of(names),
                   eta.durations(registry) if names else (), journal.recent(registry, DECISIONS), [json.loads(as_text(raw)) for raw in events],
                   lease.controllers(registry), scaler.status(registry), scaler.history(registry, PLOTTED))


def probe(url: str, timeout: float = PROBE_TIMEOUT) -> str:
    """What a node's own port answers to GET /: an HTTP status, refused, timeout or unreachable."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request("GET", "/")
        return str(connection.getresponse().status)
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "timeout"
    except OSError:  # no route, reset, closed while it was asked
        return "unreachable"
    except http.client.HTTPException:
        return "0"  # something answers, if not in HTTP
    finally:
        connection.close()


class Probes:
    """Asks the ports of all nodes in threads, so that one that hangs holds up nobody."""

    def __init__(self, ask: t.Callable[[str], str] = probe) -> None:
        self._ask = ask
        self._pool = concurrent.futures.ThreadPoolExecutor(8, thread_name_prefix="probe")
        self._urls: dict[str, str] = {}  # node id -> its own address, kept when its host no longer reports it
        self._asked: dict[str, concurrent.futures.Future[str]] = {}
        self._answers: dict[str, tuple[str, float]] = {}  # node id -> (answer, when)

    def learn(self, reports: Reports) -> None:
        for report in reports.hosts.values():
            for slot in report.slots:
                if slot.node_id and slot.slot in report.ports:
                    self._urls[slot.node_id] = f"http://{report.address}:{report.ports[slot.slot]}"

    def answers(self, nodes: t.Collection[str], suspects: t.Collection[str], reports: Reports) -> dict[str, str]:
        """{node id: answer}, as far as it is known by now; suspects are asked more often."""
        now = time.monotonic()
        known = {n: a for n, a in self._answers.items() if n in nodes}
        # A process whose port was closed after its host had seen it end does not come back: who answers there later is another node.
        over = {n for n, (answer, _at) in known.items() if answer == "refused" and reports.place_of(n) is None}
        for node_id in nodes:
            every = PROBE_ODD if node_id in suspects else PROBE_ALL
            if node_id in self._urls and node_id not in over and node_id not in self._asked and now - known.get(node_id, ("", 0.0))[1] > every:
                self._asked[node_id] = self._pool.submit(self._ask, self._urls[node_id])
        done, _waiting = concurrent.futures.wait(self._asked.values(), timeout=PROBE_WAIT)
        for node_id in [n for n, future in self._asked.items() if future in done]:
            known[node_id] = (self._asked.pop(node_id).result(), time.monotonic())
        self._answers = {n: a for n, a in known.items() if n in nodes}
        self._urls = {n: u for n, u in self._urls.items() if n in nodes or reports.place_of(n)}
        return {n: answer for n, (answer, _at) in self._answers.items()}

    def close(self) -> None:
        self._pool.shutdown(wait=False)
