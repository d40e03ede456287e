# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's loop: look, decide, and have the hands act, several times a second. Followers look, but never act.

Crash recovery has hands and a lock ("recover") of its own, so that it waits for nobody's move, be it ours or an operator's; everything
else is done one after the other under the lock of all movers.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import threading
import time
import traceback
import typing as t

from .. import cleanup
from ..drain import Drainer, Request
from ..errors import FleetError
from ..journal import Journal
from ..move import Mover
from ..recovery import Verdict, Watch
from ..splits import Split, Splits
from .hands import Hands, Tell
from .look import Look, Probes, take

if t.TYPE_CHECKING:
    from ..registry import Registry
    from .lease import Lease
    from .settings import Settings

TICK = 0.25
ROUND = 0.5  # seconds between two looks at drains and unfinished moves
PATIENCE = 2.0  # seconds a drain's step must have been due: a playbook that waits for the drain comes first
AGAIN = 3.0  # seconds until a recovery is tried again
CLEANUP = 30.0
LATE = 2.5  # seconds; what took longer to read may have been true before it and not after it
ODD = 1.0  # seconds a node must look odd to be told of: a busy host answers late now and then
ODD_AGAIN = 30.0  # seconds until the same oddity of a node is told again


class Loop:
    """connect() makes a connection of its own for each thread. make, drainer, watch: what acts and judges; tests put theirs in."""

    def __init__(self, settings: Settings, lease: Lease, connect: t.Callable[[], Registry], tell: Tell,
                 timed: t.Callable[[str, float], None] = lambda kind, seconds: None, make: t.Callable[..., t.Any] = Mover,
                 drainer: t.Callable[[t.Any], t.Any] = Drainer, watch: t.Any = None, probes: Probes | None = None) -> None:
        self.settings, self.lease, self._timed, self._drainer = settings, lease, timed, drainer
        self.registry = connect()
        self.journal = Journal(self.registry, settings.owner, tell)
        self.watch, self.probes, self.splits = watch or Watch(), probes or Probes(), Splits()
        self.rescuer = Hands(settings, connect(), "recover", tell, make)
        self.mover = Hands(settings, connect(), "move", tell, make)
        self.look = Look()
        self.answers: dict[str, str] = {}
        self.ticked = time.monotonic()
        self._frozen = ""
        self._told: dict[t.Any, float] = {}  # what was noted lately -> when
        self._telling = threading.Lock()
        self._odd: dict[str, float] = {}  # node id -> since when it looks odd
        self._tried: dict[str, float] = {}  # node id -> when its recovery was begun
        self._due: dict[str, tuple[str, float]] = {}  # node id of a drain -> (what is due, since when)
        self._ghosts: dict[tuple[str, str], float] = {}  # (node or room, home) -> since when it is one
        self._round_at = self._cleanup_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 3.0) -> None:
        """No new job; one that goes on is given some time. Cut off, the next leader finishes it."""
        self._stop.set()
        end = time.monotonic() + timeout
        self._thread.join(timeout)
        for hands in (self.rescuer, self.mover):
            hands.wait(max(0.0, end - time.monotonic()))
        self.probes.close()

    @property
    def alive(self) -> bool:
        return time.monotonic() - self.ticked < 10.0

    @property
    def leads(self) -> bool:
        return self.lease.held

    def _run(self) -> None:
        while not self._stop.is_set():
            begin = time.monotonic()
            try:
                self.tick()
            except Exception:  # pylint: disable=broad-except
                self.note("error", traceback.format_exc()[-2000:], outcome="failed")
            self._stop.wait(max(0.02, TICK - (time.monotonic() - begin)))

    def note(self, kind: str, reason: str, **fields: t.Any) -> None:
        self.journal.note(kind, reason, **fields)
        self.journal.entries.clear()  # that is a timeline, and this run has no end

    def tick(self) -> None:
        begin = time.monotonic()
        look = take(self.registry)
        if time.monotonic() - begin > LATE:
            look = Look(blind=f"Redis took {time.monotonic() - begin:.1f} s to answer")
        self.answers = {}
        if look.snapshot is not None and look.reports is not None and not look.frozen:
            self.probes.learn(look.reports)
            self.answers = self.probes.answers(look.snapshot.nodes, self.watch.suspects(look.snapshot, look.reports), look.reports)
        verdicts = self.watch.decide(look.snapshot, look.reports, self.answers)
        splits = self.splits.look(look.snapshot, look.records) if look.snapshot is not None and not look.frozen else {}
        self.look, self.ticked = look, time.monotonic()
        self._tell_frozen(look.frozen)
        if not self.leads or look.frozen:
            return
        # A node under evacuation is meant to end: whoever evacuates it, or resume() in a round, sees to its rooms.
        self._recover([v for v in verdicts if v.node_id not in look.records])
        if splits:
            self._rejoin(splits)
        if time.monotonic() - self._round_at >= ROUND and self.mover.give(lambda: self._round(look)):
            self._round_at = time.monotonic()

    def _tell_frozen(self, why: str) -> None:
        if bool(why) != bool(self._frozen):
            self.note("freeze" if why else "thaw", why or "the data can be trusted again", leader=self.leads)
        self._frozen = why

    def _once(self, what: t.Any, every: float) -> bool:
        """Whether this was not told within that time."""
        now = time.monotonic()
        with self._telling:
            self._told = {k: at for k, at in self._told.items() if now - at < 3600}
            if now - self._told.get(what, -every) < every:
                return False
            self._told[what] = now
            return True

    # -- crash recovery -----------------------------------------------------------------------------------------

    def _recover(self, verdicts: t.Sequence[Verdict]) -> None:
        now = time.monotonic()
        outcome = "dry_run" if self.settings.dry_run else "recover" if self.settings.recover else "off"
        self._odd = {v.node_id: self._odd.get(v.node_id, now) for v in verdicts}
        for v in verdicts:
            if (v.dead or now - self._odd[v.node_id] >= ODD) and self._once(("verdict", v.node_id, v.dead), ODD_AGAIN):
                self.note("dead" if v.dead else "odd", v.reason, node=v.node_id, signals=v.signals, outcome=outcome if v.dead else "wait")
        self._tried = {n: at for n, at in self._tried.items() if now - at < AGAIN}
        dead = [v for v in verdicts if v.dead and v.node_id not in self._tried]
        if dead and outcome == "recover" and self.rescuer.give(lambda: self._rescue(dead)):
            self._tried.update({v.node_id: now for v in dead})

    def _rejoin(self, splits: t.Mapping[str, Split]) -> None:
        if self.settings.dry_run or not self.settings.recover:
            self.note("rejoin", "LiveKit placed these rooms anew while callers were in them", rooms=sorted(splits), outcome="dry_run")
        elif not self.rescuer.give(lambda: self._mend(splits)):
            self.splits.open.update(splits)  # in the next tick

    def _mend(self, splits: t.Mapping[str, Split]) -> None:
        with self.rescuer.hold():
            self.rescuer.mover().rejoin(splits)

    def _rescue(self, dead: t.Sequence[Verdict]) -> None:
        mover = self.rescuer.mover()
        with self.rescuer.hold():
            for v in dead:
                begin = time.monotonic()
                try:
                    mover.lock.renew()
                    mover.recover(v.node_id, v.signals, v.reason)
                    self._timed("recover", time.monotonic() - begin)
                except FleetError as exc:
                    if exc.failure["code"] == "lock_lost":
                        raise
                    if self._once(("failed", v.node_id, exc.failure["code"]), ODD_AGAIN):
                        self.rescuer.failed(exc, node=v.node_id)

    # -- what is less urgent: moves that were left, drains, ghosts ----------------------------------------------

    def _round(self, look: Look) -> None:
        begin = time.monotonic()
        if look.records and not self.rescuer.busy and not self.settings.dry_run:
            with self.mover.hold():
                self.mover.mover().resume()
        if self.settings.drains:
            self._due = {n: due for n, due in self._due.items() if n in look.requests}
            for request in look.requests.values():
                self._drain(request)
        calm = look.snapshot is None or self.watch.calm_from is None or look.snapshot.taken_at >= self.watch.calm_from  # Redis was not away a moment ago
        now = time.monotonic()
        if self.settings.cleanup and calm and now - begin < LATE and now - self._cleanup_at >= CLEANUP:
            self._cleanup_at = now
            self._clean(look)

    def _drain(self, request: Request) -> None:
        mover = self.mover.mover()
        drainer = self._drainer(mover)
        try:
            action = drainer.look(request)
            kind, since = self._due.get(request.node_id, ("", 0.0))
            if action.kind in ("wait", "freeze"):
                self._due.pop(request.node_id, None)
                return
            if action.kind != kind:
                self._due[request.node_id] = (action.kind, time.monotonic())
                return
            if time.monotonic() - since < PATIENCE or not self.leads:
                return
            if self.settings.dry_run:
                if self._once(("drain", request.node_id, action.kind), 3600):
                    mover.journal.note(f"drain {action.kind}", action.reason, node=request.node_id, host=request.host, slot=request.slot, outcome="dry_run")
                return
            begin = time.monotonic()
            with self.mover.hold():
                drainer.step(request)
            self._timed(f"drain {action.kind}", time.monotonic() - begin)
        except FleetError as exc:
            if self._once(("failed", request.node_id, exc.failure["code"]), ODD_AGAIN):
                self.mover.failed(exc, node=request.node_id, host=request.host)

    def _clean(self, look: Look) -> None:
        snapshot, reports, registry = look.snapshot, look.reports, self.mover.registry
        if snapshot is None or reports is None:
            return
        ghosts = snapshot.ghosts()
        empty = [room for room, people in registry.sizes(snapshot.room_node_map).items() if not people]
        plan = cleanup.plan(snapshot, reports, self.answers, registry.room_details({*ghosts.rooms, *ghosts.unmapped, *empty}), empty=empty)
        plan = self._lasting(plan, time.monotonic())
        if not plan or not self.leads:
            return
        if self.settings.dry_run:
            if self._once(("ghosts", *sorted(plan.nodes), *sorted(plan.rooms)), 3600):
                self.mover.journal().note("cleanup", "ghosts", outcome="dry_run", **plan.as_dict())
            return
        with self.mover.hold():
            removed = cleanup.apply(registry, self.mover.lock, plan)
        if removed:
            self.mover.journal().note("cleanup", "ghosts", outcome="removed", **removed.as_dict())

    def _lasting(self, plan: cleanup.Cleanup, now: float) -> cleanup.Cleanup:
        """Only what was a ghost at every look for a minute, or for as long as the plan says."""
        seen = [(n, "") for n in plan.nodes] + [(r, f"on {plan.homes[r]}") for r in plan.rooms]
        self._ghosts = {ghost: self._ghosts.get(ghost, now) for ghost in seen}
        old = {name for (name, home), since in self._ghosts.items() if now - since >= plan.lasting.get(name, cleanup.GHOST_SECONDS)}
        rooms = {r: why for r, why in plan.rooms.items() if r in old}
        return cleanup.Cleanup({n: why for n, why in plan.nodes.items() if n in old}, rooms, {r: plan.homes[r] for r in rooms}, plan.lasting)
