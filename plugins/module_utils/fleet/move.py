# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live moves: rooms go from one node to another while people are in them. Executes what move_plan.py decides.

Each client does one full reconnect (well under a second of silence with native SDKs); nobody is dropped, and room name, sid and
metadata stay. A Mover works under a lock that its caller holds and is re-entrant: killed at any step, the next one goes on.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import time
import typing as t
import uuid

from .balancers.haproxy import server_name
from .errors import FleetError
from .journal import Journal
from .move_plan import FENCE_AFTER, GUARD_SECONDS, Moved, Record, Step, View, frozen, next_step, slow
from .move_store import MoveStore
from .orders import Order, Orders
from .placement import Limits, receivers, spread
from .reports import Place, Reports
from .splits import Split, Splits

if t.TYPE_CHECKING:
    from .lock import Lock
    from .registry import Registry, Snapshot

POLL = 0.1  # seconds between two looks
AGENT_CACHE = 0.25  # seconds for which an agent check may tell what was before: CACHE of agent_check.py, and a little
PASSING = 0.3  # seconds for clients whose signalling passes through a node to resume elsewhere, before it is killed
FREEZE_SECONDS = 30.0  # how long a run waits for data it can trust, and for a step to have an effect
AWAY = ("redis_unreachable", "redis_replica", "sentinel_no_master", "order_unheard", "order_timeout")  # errors that may pass: Redis or an executor comes back
UNWATCHED = 5.0  # seconds without a mover after which anything may have happened to the rooms of a record
BALANCER_GONE = 60.0  # a balancer host silent for longer is taken to be out of service


@dataclasses.dataclass
class Outcome:
    """What a move did. timeline: the journal's entries; moved: {room: its node now}."""

    kind: str
    node_id: str
    moved: dict[str, str]
    timeline: list[dict[str, t.Any]]
    seconds: float

    def as_dict(self) -> dict[str, t.Any]:
        return dataclasses.asdict(self)


class Mover:
    """Moves rooms under `lock`, which has to be held. Not for use by several threads at once."""

    def __init__(self, registry: Registry, lock: Lock, journal: Journal, limits: Limits = Limits()) -> None:
        self.registry, self.lock, self.journal, self.limits = registry, lock, journal, limits
        self.orders, self.store = Orders(registry, lock), MoveStore(registry, lock)

    # -- what callers ask for -----------------------------------------------------------------------------------

    def evacuate(self, node_id: str, reason: str = "") -> Outcome:
        """Drain the node, move all of its rooms, fence it, remove its traces. Returns when it is gone."""
        begin, first, calm = time.monotonic(), len(self.journal.entries), time.monotonic()
        moved: dict[str, str] = {}
        last, tried, splits = "", {"freeze", "wait"}, Splits()
        while True:
            try:
                view, step = self._one_step(node_id, reason, last, splits)
            except FleetError as exc:
                if exc.failure["code"] not in AWAY or time.monotonic() - calm > FREEZE_SECONDS:
                    raise
                time.sleep(POLL)
                continue
            if step.kind == "gone":
                break
            if step.kind not in tried:
                calm = time.monotonic()
            elif time.monotonic() - calm > FREEZE_SECONDS:
                raise FleetError("move the rooms of a node", node_id, f"{step.kind}: {step.reason}",
                                 "Nothing is done on data that cannot be trusted; mend that, then run again" if step.kind == "freeze" else
                                 "It has no effect: see journalctl -u livekit-executor on the node's host, then run again",
                                 code="frozen" if step.kind == "freeze" else "stuck", node_id=node_id)
            tried = {"freeze", "wait"} if step.kind == "move" else tried | {step.kind}  # a wave is progress, the same step again is none
            last = step.kind
            moved.update({room: m.to for room, m in (view.record.rooms if view.record else {}).items()})
            time.sleep(POLL)
        return Outcome("evacuate", node_id, moved, self.journal.entries[first:], round(time.monotonic() - begin, 2))

    def _one_step(self, node_id: str, reason: str, last: str, splits: Splits) -> tuple[View, Step]:
        self.lock.renew()
        view = self._adopt(node_id, self.look(node_id), splits, reason)
        step = next_step(node_id, view)
        if view.record:
            self._restore(view.record, view.record.rooms)
        if step.kind not in ("gone", "settle", "wait", "freeze") or step.kind not in ("gone", last):
            self._do(node_id, view, step, reason)
        return view, step

    def _adopt(self, node_id: str, view: View, splits: Splits, reason: str) -> View:
        """Rooms of the node that LiveKit has placed anew (Redis was away, say) are part of the move from then on: their callers connect anew, and the node
        is fenced before it erases them. Left alone it would end 22 s after its last caller and do that."""
        records = {node_id: view.record} if view.record else {}
        strays = {room: (s.new, s.new) for room, s in splits.look(view.snapshot, records).items() if s.old == node_id}
        place = view.reports.place_of(node_id)
        if not strays or place is None or place.slot.running:
            return view
        self._remap(view.record or self._record(node_id, "evacuate", view.reports, reason), strays)
        self.journal.note("adopt", "LiveKit placed these rooms anew", node=node_id, rooms={room: to for room, (to, dummy) in strays.items()})
        return self.look(node_id)

    def drain(self, node_id: str, reason: str = "") -> None:
        """Only the first step: the node takes no new rooms and ends by itself once it is empty. The last serving node stays."""
        view = self.look(node_id)
        step = next_step(node_id, dataclasses.replace(view, sizes={}))
        if step.kind == "drain":
            self._do(node_id, view, step._replace(reason=reason or step.reason), reason)

    def recover(self, node_id: str, signals: t.Sequence[str] = (), reason: str = "") -> Outcome:
        """A node is dead: its rooms go to living ones at once, then all signalling of these rooms is cut, retries included.

        The cut comes last: clients retry within milliseconds of a crash, before anybody can have moved their room, and hang there.
        """
        begin, first = time.monotonic(), len(self.journal.entries)
        snapshot, reports = self.registry.snapshot(), Reports.read(self.registry)
        if frozen(snapshot):
            raise FleetError("recover the rooms of a node", node_id, frozen(snapshot), "Nothing is done on data that cannot be trusted", code="frozen",
                             node_id=node_id)
        fenced = self._fence_dead(node_id, reports, snapshot.taken_at)
        rooms = snapshot.rooms_of(node_id)
        unfinished = self.store.records().get(node_id)
        if unfinished:
            self._restore(unfinished, unfinished.rooms)
        record = dataclasses.replace(unfinished or self._record(node_id, "recover", reports, reason), kind="recover", fenced=fenced)
        if rooms:
            # No limits: crowded is better than nowhere.
            targets = spread(self.registry.sizes(rooms), receivers(snapshot, reports, leaving=(node_id,)), Limits(0, 0))
            record = self._remap(record, {room: (node_id, to) for room, to in targets.items()})
        self.store.purge(node_id, None if fenced else {"at": round(self.registry.now(), 1), "by": self.lock.owner})
        if unfinished and not rooms:
            self.store.save(record)  # no evacuation any more, which would wait for its host
        if record.host:  # it may have vanished without a word: a retry sent there hangs until HAProxy gives up connecting
            self._tell_balancers(reports, "avoid", {"servers": [server_name(record.host, record.slot)]})
        self._cut(record, reports)
        self.journal.note("recover", reason, node=node_id, rooms={room: m.to for room, m in record.rooms.items()}, signals=list(signals), fenced=fenced,
                          seconds=round(time.monotonic() - begin, 3))
        return Outcome("recover", node_id, {room: m.to for room, m in record.rooms.items()}, self.journal.entries[first:], round(time.monotonic() - begin, 3))

    def move_rooms(self, rooms: t.Mapping[str, str | None], reason: str = "", guard: bool = True) -> Outcome:
        """Move single rooms away from nodes that live on. rooms: {room: node id, or None for the emptiest}. With `guard` it stays until the
        old copies have closed and can no longer erase the rooms; without, somebody has to call resume() during that time."""
        begin, first = time.monotonic(), len(self.journal.entries)
        snapshot, reports, dummy, latency = self._read()
        targets = self.targets(rooms, snapshot, reports)
        why = slow(latency)
        if why:
            raise FleetError("move rooms", ", ".join(rooms), why, "See why Redis is slow (redis-cli --latency), then run again", code="redis_slow")
        self._check_balancers(reports, snapshot.taken_at)
        record = self._record(f"rooms-{uuid.uuid4().hex[:8]}", "rooms", reports, reason)
        record = self._remap(record, {room: (snapshot.room_node_map[room], to) for room, to in targets.items()})
        record = self._cut_or_undo(record, reports)
        self.journal.note("move", reason, rooms={room: m.to for room, m in record.rooms.items()})
        self._settle(record)
        if guard:
            self.guard(record)
        return Outcome("rooms", "", {room: m.to for room, m in record.rooms.items()}, self.journal.entries[first:], round(time.monotonic() - begin, 2))

    def rejoin(self, splits: t.Mapping[str, Split]) -> None:
        """Everybody in these rooms connects anew: who is on the old node gets to the new one, for the others it is nothing (no media is lost). The old
        copies may still erase the rooms when they close: somebody has to call resume() during that time."""
        reports = Reports.read(self.registry)
        record = self._record(f"rooms-{uuid.uuid4().hex[:8]}", "rooms", reports, "placed anew by LiveKit")
        self._cut(self._remap(record, {room: (s.new, s.new) for room, s in splits.items()}), reports)
        self.journal.note("rejoin", "LiveKit placed these rooms anew while callers were in them", rooms={room: [s.old, s.new] for room, s in splits.items()})

    def resume(self) -> list[Outcome]:
        """Finish what killed runs have left: one pass, returns what it did. Call it again until records() is empty.

        One that cannot be finished now does not stop the others; its error is raised at the end.
        """
        done: list[Outcome] = []
        failed: FleetError | None = None
        for record in self.store.records().values():
            try:
                done += self._go_on(record)
            except FleetError as exc:
                if exc.failure["code"] == "lock_lost":
                    raise
                failed = failed or exc
        if failed:
            raise failed
        return done

    def _go_on(self, record: Record) -> list[Outcome]:
        if record.kind == "evacuate":
            return [self.evacuate(record.node_id, f"goes on: {record.reason}")]
        if record.kind == "recover":
            snapshot = self.registry.snapshot()
            if record.node_id in snapshot.nodes and not snapshot.fresh(record.node_id):  # not purged yet
                return [self.recover(record.node_id, reason=f"goes on: {record.reason}")]
        if record.uncut:
            self._cut_or_undo(record, Reports.read(self.registry))
        self._guard_once(record.id)
        return []

    def guard(self, record: Record) -> None:
        """Until no old copy of the rooms can erase them any more."""
        while self._guard_once(record.id):
            self.lock.renew()
            time.sleep(POLL)

    # -- looking ------------------------------------------------------------------------------------------------

    def look(self, node_id: str) -> View:
        snapshot, reports, records, latency = self._read()
        record = records.get(node_id)
        view = View(snapshot, reports, None, self.registry.sizes(snapshot.rooms_of(node_id)), limits=self.limits, latency=latency)
        if record is None:
            return view
        record, back = self._returned(record)
        return dataclasses.replace(view, record=record, back=back)

    def _read(self) -> tuple[Snapshot, Reports, dict[str, Record], float]:
        """Registry, reports, moves in progress, and the seconds Redis took to answer, the best of the three: once may be this machine."""
        begin = time.monotonic()
        snapshot, first = self.registry.snapshot(), time.monotonic()
        reports, second = Reports.read(self.registry), time.monotonic()
        records, third = self.store.records(), time.monotonic()
        return snapshot, reports, records, min(first - begin, second - first, third - second)

    def _returned(self, record: Record) -> tuple[Record, frozenset[str]]:
        """Rooms whose people all have a new session or are gone. The record keeps in which of them somebody was: only those live on.

        Where nobody looked on for some seconds, people may have come back and their entries been erased by the old copy since.
        """
        people, now = self.registry.participants_of(record.rooms), self.registry.now()
        old = {room: sum(record.rooms[room].sids.get(p.identity) == p.sid for p in who) for room, who in people.items()}
        missed = now - max(record.looked_at, record.last_at) > UNWATCHED
        seen = {room: dataclasses.replace(m, seen=True) for room, m in record.rooms.items()
                if not m.seen and (len(people[room]) > old[room] or missed and not old[room])}
        if seen or now - record.looked_at > 1.0:
            record = dataclasses.replace(record.with_rooms(seen), looked_at=now)
            self.store.save(record)
        return record, frozenset(room for room, count in old.items() if not count)

    def targets(self, rooms: t.Mapping[str, str | None], snapshot: Snapshot, reports: Reports) -> dict[str, str]:
        """Where each room goes; every reason against it comes up here, before anything changes."""
        why = frozen(snapshot)
        if why:
            raise FleetError("move rooms", ", ".join(rooms), why, "Nothing is done on data that cannot be trusted; mend that, then run again", code="frozen")
        among = receivers(snapshot, reports)
        sizes = self.registry.sizes(rooms)
        out = {}
        for room, to in rooms.items():
            frm = snapshot.room_node_map.get(room)
            if frm is None:
                raise FleetError("move a room", room, "no node hosts a room of that name", "Check the name: openrtc.livekit.room_info lists them",
                                 code="room_unknown", room=room)
            if not snapshot.fresh(frm):
                raise FleetError("move a room", room, f"its node {frm} is dead or stale", "Use openrtc.livekit.recover for the rooms of a dead node",
                                 code="node_dead", room=room)
            if to == frm:
                raise FleetError("move a room", room, f"it is on {to} already", "Name another node, or none to let the emptiest take it", code="same_node",
                                 room=room)
            if not sizes[room]:  # its copy on the old node would close minutes from now, and erase the room wherever it is by then
                raise FleetError("move a room", room, "nobody is in it", "Move it when somebody is: only sessions move; or drain its node", code="room_empty",
                                 room=room)
            takers = [r for r in among if r.node_id != frm and to in (None, r.node_id)]
            if to is not None and not takers:
                raise FleetError("move a room", room, f"node {to} does not serve", f"Nodes that do: {', '.join(r.node_id for r in among) or 'none'}",
                                 code="node_unknown", room=room, node_id=to)
            place, node = reports.place_of(frm), snapshot.nodes[frm]
            cost = node.cpu_load * max(1, node.num_cpus) / node.num_clients if node.num_clients else 0.0
            out.update(spread({room: sizes[room]}, takers, self.limits, place.host if place and to else None, cost))
            among = [dataclasses.replace(r, participants=r.participants + sizes[room]) if r.node_id == out[room] else r for r in among]
        return out

    def _check_balancers(self, reports: Reports, now: float) -> None:
        """A balancer whose executor is silent cannot be told to cut; its callers would hang on the old node."""
        silent = [h.host for h in reports.hosts.values() if h.balancer and not h.fresh(now) and now - h.at < BALANCER_GONE]
        if silent:
            raise FleetError("reach the balancers", ", ".join(silent), "the executor there has been silent for some seconds",
                             "See systemctl status livekit-executor on these hosts, then run again", code="balancer_silent", hosts=silent)

    # -- doing --------------------------------------------------------------------------------------------------

    def _do(self, node_id: str, view: View, step: Step, reason: str) -> None:
        record, place = view.record, view.reports.place_of(node_id)
        self.journal.note(step.kind, step.reason, node=node_id, **({"host": place.host, "slot": place.slot.slot} if place else {}),
                          **({"rooms": dict(step.rooms)} if step.rooms else {}))
        if step.kind == "drain" and place:
            self._check_balancers(view.reports, view.now)
            self._order(place, "drain", node_id)
            # Its agent check says so too, but only at its next turn: until then callers would be sent back to where they were cut. And it may still say
            # what it saw before the SIGTERM, which would take this back.
            time.sleep(AGENT_CACHE)
            self._tell_balancers(view.reports, "avoid", {"servers": [server_name(place.host, place.slot.slot)]})
        elif step.kind == "move":
            record = record or self._record(node_id, "evacuate", view.reports, reason)
            homes = {room: view.snapshot.room_node_map.get(room, node_id) for room in step.rooms}
            self._cut(self._remap(record, {room: (homes[room], to) for room, to in step.rooms.items()}), view.reports)
        elif step.kind == "cut" and record:
            self._cut(record, view.reports)
        elif step.kind == "fence" and place:
            # Signalling of rooms elsewhere that only passes through it: cut while it can say goodbye, such a client resumes at once, else after 3 s.
            cut = self._tell_balancers(view.reports, "cut", {"rooms": None, "servers": [server_name(place.host, place.slot.slot)]})
            if any(isinstance(a, dict) and a.get("cut") for a in cut):
                time.sleep(PASSING)
            self._order(place, "fence", node_id)
        elif step.kind == "tidy":
            self._tidy(node_id, record)

    def _tell_balancers(self, reports: Reports, what: str, args: dict[str, t.Any]) -> list[dict[str, t.Any] | FleetError]:
        """Have every HAProxy do something. A failure is left to the checks: the fence works without them, only less gently."""
        proxies = [h for h in reports.balancers(self.registry.now()) if h.balancer.startswith("haproxy")]
        return self.orders.try_all([Order(h.host, what, args) for h in proxies], timeout=3.0)

    def _order(self, place: Place, what: str, node_id: str) -> None:
        """Drain or fence, and wait until the host's report shows it."""
        self.orders.ask([Order(place.host, what, {"slot": place.slot.slot, "node_id": node_id})])
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            now = Reports.read(self.registry).place_of(node_id)
            if now is None or now.slot.state != place.slot.state:
                return
            time.sleep(POLL / 2)

    def _restore(self, record: Record, rooms: t.Iterable[str]) -> None:
        restored = self.store.restore(record, rooms)
        if restored:
            self.journal.note("restore", "erased by the copy on the old node", rooms=restored)

    def _tidy(self, node_id: str, record: Record | None) -> None:
        self.store.purge(node_id)
        if record is None:
            return
        self._restore(record, record.rooms)
        absent = self.store.forget_absent(record)
        if absent:
            self.journal.note("forget", "never came back", node=node_id, participants=absent)
        self.store.close(record)

    def _record(self, number: str, kind: str, reports: Reports, reason: str) -> Record:
        place = reports.place_of(number)
        return Record(number, kind, self.lock.owner, self.registry.now(), node_id="" if kind == "rooms" else number, reason=reason,
                      host=place.host if place else "", slot=place.slot.slot if place else 0)

    def _remap(self, record: Record, rooms: t.Mapping[str, tuple[str, str]]) -> Record:
        """rooms: {room: (from, to)}."""
        people, details, now = self.registry.participants_of(rooms), self.registry.room_details(rooms), self.registry.now()
        return self.store.remap(record, {room: Moved.of(frm, to, now, people[room], details.get(room)) for room, (frm, to) in rooms.items()})

    def _cut(self, record: Record, reports: Reports) -> Record:
        """Cut the signalling of the record's uncut rooms. What a balancer says to it is noted, and does not stop the move: the fence follows."""
        rooms = record.uncut
        if not rooms:
            return record
        answers = self._cut_signalling(rooms, reports)
        self.journal.note("cut", "", rooms=rooms, answers=_told(answers))
        now = self.registry.now()
        record = dataclasses.replace(record, blind=record.blind or all(isinstance(a, FleetError) for a in answers.values()),
                                     rooms={room: m if m.cut else dataclasses.replace(m, cut=True, at=now) for room, m in record.rooms.items()})
        self.store.save(record)
        return record

    def _cut_signalling(self, rooms: t.Sequence[str], reports: Reports) -> dict[str, dict[str, t.Any] | FleetError]:
        """{host: answer}. Without HAProxy the sockets are cut where they end, on every media host: any of them may carry a room's signalling."""
        proxies = [h for h in reports.balancers(self.registry.now()) if h.balancer.startswith("haproxy")]
        orders = [Order(h.host, "cut", {"rooms": list(rooms)}) for h in proxies]
        orders = orders or [Order(h.host, "cut_sockets", {}) for h in reports.hosts.values() if h.slots]
        return dict(zip((order.host for order in orders), self.orders.try_all(orders, timeout=3.0)))

    def _cut_or_undo(self, record: Record, reports: Reports) -> Record:
        """Single rooms have no fence to follow: where nothing could be cut everybody is still on the old node, so the rooms go back to it."""
        record = self._cut(record, reports)
        if record.kind == "rooms" and record.blind:
            self._remap(record, {room: (m.to, m.frm) for room, m in record.rooms.items()})
            self.store.close(record)
            raise FleetError("cut the signalling of rooms", ", ".join(record.rooms),
                             "no balancer and no media host could do it, so the rooms stay where they are",
                             "See journalctl -u livekit-executor on these hosts, then run again", code="cut_failed")
        return record

    def _settle(self, record: Record) -> None:
        end, back = time.monotonic() + FENCE_AFTER, frozenset[str]()
        while time.monotonic() < end and len(back) < len(record.rooms):
            self.lock.renew()
            record, back = self._returned(record)
            time.sleep(POLL)

    def _guard_once(self, number: str) -> bool:
        """One look at the rooms of a record whose old node lives on, or died; False once nothing can happen to them any more."""
        record = self.store.records().get(number)
        if record is None:
            return False
        record, dummy = self._returned(record)
        if not record.fenced:
            gone = record.kind == "recover" and self._gone(record.node_id, Reports.read(self.registry), self.registry.now())
            self._restore(record, record.rooms)
            if gone:
                self.store.save(dataclasses.replace(record, fenced=True))
        if self.registry.now() < max((m.at + m.departure for m in record.rooms.values()), default=0.0) + GUARD_SECONDS:
            return True
        self.store.forget_absent(record)
        self.store.close(record)
        return False

    def _fence_dead(self, node_id: str, reports: Reports, now: float) -> bool:
        """See to it that a node taken for dead is. False where its host cannot be reached: then a tombstone waits for it."""
        place = reports.place_of(node_id)
        if place is None:
            return self._gone(node_id, reports, now)
        (answer,) = self.orders.try_all([Order(place.host, "fence", {"slot": place.slot.slot, "node_id": node_id})], timeout=0.5)
        return not isinstance(answer, FleetError)

    @staticmethod
    def _gone(node_id: str, reports: Reports, now: float) -> bool:
        """Whether no process is that node any more: every host can say what it runs, and none runs it."""
        unsure = (not h.fresh(now) or any(s.pid and s.node_id is None for s in h.slots) for h in reports.hosts.values() if h.slots)
        return reports.place_of(node_id) is None and not any(unsure)


def _told(answers: t.Mapping[str, dict[str, t.Any] | FleetError]) -> dict[str, t.Any]:
    """What hosts answered, for the journal."""
    return {host: a.failure["got"] if isinstance(a, FleetError) else a for host, a in answers.items()}
