# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease: which of several controllers acts. Losing its holder costs no more than its expiry.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import json
import threading
import time
import typing as t

from ..errors import FleetError
from ..journal import Journal
from ..lock import Lock
from ..redis_connection import as_text

if t.TYPE_CHECKING:
    from ..registry import Registry

KEY = "openrtc:lease:controller"
TTL = 3.0
RENEW = 1.0
CONTROLLERS = "openrtc:controllers"  # hash: name -> JSON {at, leader, dry_run}: who is there, for the page
YOUNG = 5.0  # seconds in which a controller that has just started leaves the lease to others: it does not know yet what ran where
FORGET = 3600.0  # seconds after which a silent controller is no longer listed


class Lease:
    """Kept by a thread of its own, so that nothing the controller does can delay it. Controllers in dry run have a lease of their own:
    one of them may look on beside the real ones."""

    def __init__(self, registry: Registry, name: str, dry_run: bool = False, tell: t.Callable[[dict[str, t.Any]], None] | None = None) -> None:
        self.registry, self.name, self.dry_run = registry, name, dry_run
        self.journal = Journal(registry, f"controller@{name}", tell)
        self.lock = Lock(registry, "controller", f"controller@{name}", ttl=TTL)
        self.lock.key = KEY + (":dry-run" if dry_run else "")
        self.begun = time.monotonic()
        self.until = 0.0  # of our clock that never steps; ours ends before that of Redis does
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    @property
    def held(self) -> bool:
        return time.monotonic() < self.until

    @property
    def age(self) -> float:
        """Seconds since it was last renewed; 0 where it is not ours."""
        return time.monotonic() - (self.until - TTL) if self.held else 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Give it up, so that another controller need not wait for its expiry."""
        self._stop.set()
        self._thread.join(2 * TTL)

    def _keep(self) -> None:
        led, pause = False, 0.0
        while not self._stop.wait(pause):
            pause = self.step()
            if self.held != led:
                led = self.held
                self.journal.note("lead" if led else "follow", "the lease is ours" if led else "the lease ended or is another's")
                self.journal.entries.clear()
        try:
            self.until = 0.0
            self.lock.release()
            self._note(False, stopped=True)
        except FleetError:
            pass  # it ends by itself

    def step(self) -> float:
        """Renew it, or take it if it is free. Returns how many seconds to wait until the next step."""
        begin = time.monotonic()
        try:
            if self.lock.token:
                self.lock.renew()
            elif begin - self.begun < YOUNG and self._others():
                self._note(False)
                return 0.25
            else:
                self.lock.acquire()
            self.until = begin + TTL
            self._note(True)
        except FleetError as exc:
            if exc.failure["code"] == "locked":
                self._quietly_note()
                return min(RENEW, max(0.05, exc.failure["expires_in"] + 0.01))
            if exc.failure["code"] == "lock_lost":
                self.until = 0.0
                return 0.05
        return max(0.05, RENEW - (time.monotonic() - begin))

    def _others(self) -> bool:
        """Whether another controller is there that could lead."""
        now = self.registry.now()
        there = {name: c for name, c in controllers(self.registry).items() if now - c["at"] < TTL and not c.get("stopped")}
        return any(name != self.name and c["dry_run"] == self.dry_run for name, c in there.items())

    def _quietly_note(self) -> None:
        try:
            self._note(False)
        except FleetError:
            pass

    def _note(self, leader: bool, **more: t.Any) -> None:
        state = {"at": round(self.registry.now(), 1), "leader": leader, "dry_run": self.dry_run, **more}
        self.registry.ask("note that this controller is there", ("HSET", CONTROLLERS, self.name, json.dumps(state)))


def controllers(registry: Registry) -> dict[str, dict[str, t.Any]]:
    """{name: {at, leader, dry_run}} of those that were there within the hour."""
    (found,) = registry.ask("read the controllers", ("HGETALL", CONTROLLERS))
    listed = {as_text(name): json.loads(as_text(raw)) for name, raw in found.items()}
    newest = max((c["at"] for c in listed.values()), default=0.0)
    return {name: c for name, c in sorted(listed.items()) if c["at"] > newest - FORGET}
