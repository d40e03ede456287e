# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller as scaler: a thread that looks, learns and, where this controller leads, acts. Followers learn too, so that they can take over.

A look at registry and pool comes every few seconds. A webhook in between is decided on at once, from the last look and what was heard since.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
import traceback
import typing as t

from .. import pools
from ..demand_store import DemandStore
from ..errors import FleetError
from ..forecast import Forecaster
from ..journal import Journal
from ..orders import Orders
from ..policies.events import Ledger
from ..scaler import HISTORY, KEEP_HISTORY, Scaler
from ..scaling_settings import ScalingSettings
from .hands import Hands, Tell

if t.TYPE_CHECKING:
    from ..registry import Registry
    from ..scaling import Decision
    from ..scaling_view import Demand, Sight
    from .loop import Loop
    from .settings import Settings

EVERY = 5.0  # seconds between two looks
WEEKS = 5.0  # of history that are learned from at the start
BAND, AHEAD = 0.8, 30  # share and minutes of the forecast that is shown
AGAIN = 60.0  # seconds until the same failure, or the same freeze, is told again
PRUNE = 3600.0


class Scaling:
    """make: what makes the pool; tests put theirs in."""

    def __init__(self, settings: Settings, loop: Loop, connect: t.Callable[[], Registry], tell: Tell,
                 make: t.Callable[..., pools.Pool] = pools.load) -> None:
        self.settings, self.loop = settings, loop
        config = ScalingSettings.of(settings.scaling)
        self.dry_run = settings.dry_run or config.rules.dry_run
        self.config = dataclasses.replace(config, rules=dataclasses.replace(config.rules, dry_run=self.dry_run))
        self.hands = Hands(settings, connect(), "scale", tell)
        self.registry = self.hands.registry
        self.journal = Journal(self.registry, settings.owner, tell)
        pool = make(self.config.pool, self.registry, Orders(self.registry, self.hands.lock))
        self.scaler = Scaler(self.registry, pool, self.config, self.journal, settings.owner)
        self.store = DemandStore(settings.demand_file)
        rules = self.config.rules
        unit = self.config.measure.capacity
        self.forecaster = Forecaster(rules.boot, rules.retire, unit, self.config.goal, rules.min * unit)
        self.ledger = Ledger()
        self.sight: Sight | None = None  # the last look, as long as nothing was done since
        self._found: Demand | None = None
        self._looked = self._pruned = 0.0
        self._minute, self._most = 0, 0.0
        self._refused = 0
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()  # of what webhooks and requests leave here
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="scaling", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 3.0) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout)

    # -- what others tell

    def hear(self, event: t.Mapping[str, t.Any]) -> None:
        """A webhook whose signature was right."""
        room = event.get("room")
        if not isinstance(room, dict):
            return
        try:
            created, at = float(room.get("creationTime") or 0), float(event.get("createdAt") or 0)
        except (TypeError, ValueError):
            return
        with self._lock:
            new = self.ledger.hear(str(event.get("event")), str(room.get("name") or ""), created, at)
        if new:
            self._wake.set()

    def refused(self) -> None:
        """Somebody asked for a room and no node had a place for it."""
        with self._lock:
            self._refused += 1
        self._wake.set()

    # -- the thread

    def _run(self) -> None:
        try:
            self.learn()
        except FleetError as exc:
            self._failed(exc)
        while not self._stop.is_set():
            begin = time.monotonic()
            self._wake.clear()
            try:
                self.step()
            except FleetError as exc:
                self.sight = None
                self._failed(exc)
            except Exception:  # pylint: disable=broad-except
                self.sight = None
                if self._due("error"):
                    self.journal.note("error", traceback.format_exc()[-2000:], outcome="failed")
            self.journal.entries.clear()
            self._wake.wait(max(0.02, EVERY - (time.monotonic() - begin)))

    def _failed(self, exc: FleetError) -> None:
        """Note it, but for the usual: an operator's run is at work, or Redis is away, which freezes us anyway."""
        code = str(exc.failure["code"])
        if code not in ("locked", "redis_unreachable") and self._due(f"failed {code}"):
            self.journal.note("failed", str(exc), outcome=code)

    def learn(self) -> int:
        """Take in the history that is on disk: how many minutes."""
        rows = self.store.rows(time.time() - WEEKS * 7 * 86400)
        for at, value in rows:
            if self._stop.is_set():
                break
            self.forecaster.observe(at, value)
        return len(rows)

    def step(self) -> Decision | None:
        """One look, or one thought about what was heard since; None where nothing is decided here or now."""
        if self.loop.look.frozen:
            self.sight = None
            return None  # the loop tells of it
        leads = self.loop.leads
        with self.hands.hold() if leads and not self.dry_run else contextlib.nullcontext():
            if self.sight is None or time.monotonic() - self._looked >= EVERY or leads and self.scaler.state(self.sight.at).at > self.sight.at:
                self._look(leads)
            return self._decide() if leads else None

    def _decide(self) -> Decision | None:
        sight, found = self.sight, self._found
        if sight is None or found is None:
            return None
        with self._lock:
            fresh = len(self.ledger.live() - sight.snapshot.rooms - set(sight.snapshot.room_node_map))
        heard = found.units + fresh * self.config.measure.room if fresh else None
        seen = self.scaler.view(sight, found, self.forecaster.outlook() if len(self.forecaster.series) else None, heard)
        if self.scaler.finish(sight):
            self.sight = None  # it is not true any more
        decision = self.scaler.decide(seen, now=self.registry.now())
        self._act(decision, sight)
        self.scaler.tell(decision, seen)
        return decision

    def _look(self, leads: bool) -> None:
        with self._lock:
            refused, self._refused = self._refused, 0
        self.sight = sight = self.scaler.look(refused, remember=leads)
        self._found, self._looked = self.scaler.measure(sight), time.monotonic()
        with self._lock:
            self.ledger.look({*sight.snapshot.rooms, *sight.snapshot.room_node_map}, sight.at)
        self._remember(sight.at, self._found.units)

    def _remember(self, at: float, demand: float) -> None:
        """The largest demand of each minute, once the minute is over."""
        minute = int(at // 60)
        if minute > self._minute:
            if self._minute:
                self.store.add([(60.0 * self._minute, self._most)])
                self.forecaster.observe(60.0 * self._minute, self._most)
                if self.loop.leads:
                    self._draw()
            self._minute, self._most = minute, 0.0
            if time.monotonic() - self._pruned > PRUNE:
                self._pruned = time.monotonic()
                self.store.prune(at)
        if minute == self._minute:
            self._most = max(self._most, demand)

    def _draw(self) -> None:
        """One point of the plot."""
        sight = self.sight
        if sight is None:
            return
        band = self.forecaster.forecast([AHEAD], BAND)[0]
        serving = sum(sight.serves(n.id) for n in sight.snapshot.serving())
        point = {"at": 60.0 * self._minute, "demand": round(self._most, 3), "serving": serving, "capacity": self.config.measure.capacity, "ahead": AHEAD,
                 "low": round(band.low, 3), "middle": round(band.middle, 3), "high": round(band.high, 3)}
        self.registry.ask("remember demand", ("LPUSH", HISTORY, json.dumps(point)), ("LTRIM", HISTORY, 0, KEEP_HISTORY - 1))

    def _act(self, decision: Decision, sight: Sight) -> None:
        """Do it, and note it: each action, and a freeze or a dry run once in a while."""
        kinds = {a.kind for a in decision.actions}
        outcome = "dry_run" if self.dry_run else "done"
        try:
            if not self.dry_run and kinds - {"hold", "freeze"}:
                self.sight = None  # whatever comes of it, the next decision needs a new look
            self.scaler.act(decision, sight)
        except FleetError as exc:
            outcome = str(exc.failure["code"])
            raise
        finally:
            for action in decision.actions:
                done = outcome == "done" and action.kind != "freeze"
                if action.kind != "hold" and (done or self._due(f"{action.kind} {action.count} {outcome}")):
                    self.journal.note("scale", action.reason, action=action.kind, count=action.count, nodes=list(action.nodes), have=decision.have,
                                      size=decision.size, limits=list(decision.limits), wishes=[w._asdict() for w in decision.wishes], outcome=outcome)

    def _due(self, key: str) -> bool:
        now = time.monotonic()
        if now - self._told.get(key, -AGAIN) < AGAIN:
            return False
        self._told = {**{k: at for k, at in self._told.items() if now - at < AGAIN}, key: now}
        return True
