# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which node a new room goes to: the one that will carry least when young rooms have grown and old ones have ended. No I/O.

Nodes report their load every two seconds, and a room is empty when it is placed. So within a burst the reports say nothing; what counts is
what was placed meanwhile and how large these rooms become. A Placer keeps that: observe() with every look at the cluster, then
choose() and note() for every room.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import fnmatch
import typing as t
import zlib

from ..errors import FleetError
from .habits import Habits, Size
from .lifetimes import Lifetimes
from .policy import Policy, Reservation, Wish
from .rebalance import Carrier
from .targets import Loads, RoomLoad, Target

CLAIM_SECONDS = 15.0  # a room that was placed and is in no registry by then was never made
YOUNG_SECONDS = 120.0  # at least so long a room is watched growing
SAFE = 0.8  # share of capacity up to which rooms that are about to end count as gone; beyond it a node has to carry them first


class Choice(t.NamedTuple):
    """Where a room goes and why. share: of the node's capacity, once all its rooms have grown; over 1 it is more than it should carry."""

    node_id: str
    host: str
    reason: str
    size: Size
    load: float
    share: float


@dataclasses.dataclass
class Young:
    """A room that grows. seconds: its age when it last became notably larger."""

    node_id: str
    since: float
    wish: Wish
    size: Size  # what it is expected to become
    load: float  # of that
    here: int = 0  # participants by now
    peak: int = 0
    seconds: float = 0.0
    made: bool = False  # the registry knows it

    @property
    def patience(self) -> float:
        """Seconds until it has grown, whatever it was thought to become."""
        return max(YOUNG_SECONDS, 2 * self.size.seconds)

    @property
    def video(self) -> float:
        """Share of its participants who publish video."""
        return self.size.video / self.size.participants if self.size.participants else 0.0


class Placer:
    """Times are in one clock of the caller's, seconds. Not for use by several threads at once."""

    def __init__(self, policy: Policy = Policy(), habits: Habits | None = None, load: RoomLoad = Loads().room) -> None:
        self.policy, self.habits, self.load = policy, habits or Habits(), load
        self.lifetimes = Lifetimes()
        self.targets: dict[str, Target] = {}
        self.young: dict[str, Young] = {}
        self._known: set[str] | None = None  # rooms of the registry
        self._growth: dict[str, float] = {}  # node -> load that its young rooms will yet bring
        self._leaving: t.Mapping[str, float] = {}  # node -> load of its rooms that will soon have ended
        self._kept: dict[tuple[str, int], str] = {}  # (reservation, number) -> node it is kept on
        self._taken: dict[tuple[str, int], str] = {}  # likewise -> room that came
        self._free: dict[str, float] = {}  # node -> load that is kept free on it

    # -- seeing

    def start(self, births: t.Mapping[str, float], sizes: t.Mapping[str, int], homes: t.Mapping[str, str], now: float) -> None:
        """Rooms that are there before the first look, as far as it is known since when and how large they are."""
        self._known = set(homes)
        for room, since in births.items():
            if room in homes:
                self.lifetimes.born(room, since)
                self.lifetimes.weigh(room, self.load(sizes.get(room, 0), 0.0))
                young = self._newborn(Wish(room), homes[room], since)
                if now - since < young.patience:
                    self.young[room] = young

    def observe(self, targets: t.Iterable[Target], homes: t.Mapping[str, str], sizes: t.Mapping[str, int], now: float) -> list[str]:
        """One look: nodes, {room: its node}, {young room: participants}. Returns the keys of the habits that were learnt by it."""
        self.targets = {target.node_id: target for target in targets}
        known, self._known = self._known, set(homes)
        if known is not None:  # at a first look without start() every room is taken to have grown
            for room in homes.keys() - known:
                self.lifetimes.born(room, now)
                if room not in self.young:
                    self.young[room] = self._newborn(Wish(room), homes[room], now)
            for room in known - homes.keys():
                self.lifetimes.ended(room, now)
        learnt: list[str] = []
        for room, young in list(self.young.items()):
            if room in homes:
                young.node_id, young.made = homes[room], True
                self._see(room, young, sizes.get(room, young.here), now)
            grown = now - young.since >= young.patience
            if grown or room not in homes and (young.made or now - young.since > CLAIM_SECONDS):
                del self.young[room]
                if young.peak and grown:
                    learnt += self.habits.learn(room, Size(young.peak, young.video * young.peak, young.seconds), young.wish.labels)
        self._leaving = self.lifetimes.leaving(homes, now)
        self._sum(now)
        return learnt

    def knows(self, room: str) -> bool:
        return room in self.young or room in (self._known or ())

    def _newborn(self, wish: Wish, node_id: str, now: float) -> Young:
        wish = self.policy.apply(wish)
        size = self.size(wish)
        return Young(node_id, now, wish, size, self.load(size.participants, size.video))

    def _see(self, room: str, young: Young, here: int, now: float) -> None:
        if here != young.here:
            young.here, young.size = here, self.size(young.wish, here)
            young.load = self.load(young.size.participants, young.size.video)
            self.lifetimes.weigh(room, self.load(here, young.video * here))
        if here > 1.1 * young.peak:
            young.seconds = now - young.since
        young.peak = max(young.peak, here)

    def size(self, wish: Wish, here: float = 0.0) -> Size:
        """What the room becomes: as it was said, else as such rooms do."""
        usual = self.habits.expect(wish.room, wish.labels, here)
        people = usual.participants if wish.participants is None else max(here, wish.participants)
        video = usual.video / usual.participants * people if wish.video is None else min(wish.video, people)
        return Size(people, video, usual.seconds)

    def _growth_of(self, young: Young, now: float) -> float:
        """Load that the room will yet bring. Less and less is believed of what does not come."""
        left = 1 - (now - young.since) / young.patience
        return max(0.0, left * (young.load - self.load(young.here, young.video * young.here)))

    def _sum(self, now: float) -> None:
        self._growth = dict.fromkeys(self.targets, 0.0)
        for young in self.young.values():
            if young.node_id in self._growth:
                self._growth[young.node_id] += self._growth_of(young, now)
        self._keep_free(now)

    # -- what is reserved

    def _keep_free(self, now: float) -> None:
        """Reservations are rooms that are not there yet; each stays on its node as long as that serves."""
        held = [(r, n) for r in self.policy.reservations if r.holds(now) for n in range(r.rooms)]
        names = {(r.name, n) for r, n in held}
        present = (self._known or set()) | self.young.keys()
        self._taken = {k: room for k, room in self._taken.items() if k in names and room in present}
        self._kept = {k: node for k, node in self._kept.items() if k in names and node in self.targets}
        self._free = dict.fromkeys(self.targets, 0.0)
        for r, n in held:
            key = (r.name, n)
            if key in self._taken:
                continue
            wish, load = r.wish(n), self._kept_load(r, n)
            if key not in self._kept:
                among = self._candidates(wish)
                if not among:
                    continue
                self._kept[key] = min(among, key=lambda x: (self.share(x, load), x.node_id)).node_id
            self._free[self._kept[key]] += load

    def _kept_load(self, reservation: Reservation, number: int) -> float:
        size = self.size(reservation.wish(number))
        return self.load(size.participants, size.video)

    def _reserved(self, room: str, now: float) -> tuple[Reservation, tuple[str, int], Target] | None:
        """What is kept for a room of this name, on a node that serves."""
        for r in self.policy.reservations:
            if r.holds(now) and fnmatch.fnmatchcase(room, r.match):
                for n in range(r.rooms):
                    key = (r.name, n)
                    if key not in self._taken and self._kept.get(key) in self.targets:
                        return r, key, self.targets[self._kept[key]]
        return None

    # -- choosing

    def share(self, target: Target, more: float = 0.0) -> float:
        """Of the node's capacity: what it carries, what its rooms will yet bring, what is kept free there, and `more`."""
        load = target.load + self._growth.get(target.node_id, 0.0) + self._free.get(target.node_id, 0.0) + more
        return load / target.capacity if target.capacity > 0 else float("inf")

    def choose(self, wish: Wish, now: float, refused: t.Collection[str] = ()) -> Choice:
        """The node for a room, none of `refused`. Changes nothing; note() does. Raises FleetError no_receiver."""
        kept = self._reserved(wish.room, now)
        kept = None if kept and kept[2].node_id in refused else kept
        if kept:
            wish = dataclasses.replace(wish, participants=kept[0].participants if wish.participants is None else wish.participants,
                                       video=kept[0].video if wish.video is None else wish.video)
        wish = self.policy.apply(wish)
        size = self.size(wish)
        load = self.load(size.participants, size.video)
        if kept:
            return self._chosen(kept[2], f"kept free for {kept[0].name}", size, load, already=self._kept_load(kept[0], kept[1][1]))
        among = self._candidates(wish, refused)
        if not among:
            raise FleetError("find a node for a room", wish.room, self._why_none(wish), "Start such a node, or ask for less: see livekit_placement",
                             code="no_receiver", room=wish.room)
        if (wish.strategy or self.policy.strategy) == "pack":
            fits = [x for x in among if self.share(x, load) <= self.policy.fill]
            if fits:
                fullest = max(fits, key=lambda x: (self.share(x), -zlib.crc32(x.node_id.encode())))
                return self._chosen(fullest, f"the fullest of {len(fits)} that stay within {self.policy.fill:.0%}", size, load)
        fits = [x for x in among if self.share(x, load) <= SAFE]
        best = min(fits or among, key=lambda x: (self.share(x, load - (self._leaving.get(x.node_id, 0.0) if fits else 0.0)),
                                                 zlib.crc32((wish.room + x.node_id).encode())))
        return self._chosen(best, f"the emptiest of {len(among)}" if len(among) > 1 else "the only one", size, load)

    def _chosen(self, target: Target, reason: str, size: Size, load: float, already: float = 0.0) -> Choice:
        share = self.share(target, load - already)
        if share > 1:
            reason += ", over its capacity"
        return Choice(target.node_id, target.host, reason, size, load, share)

    def _candidates(self, wish: Wish, refused: t.Collection[str] = ()) -> list[Target]:
        """Nodes that have what is asked for, or if that is only preferred, as much of it as there is."""
        closed = frozenset(self.policy.exclusive) - {wish.node_label}
        among = [x for x in self.targets.values() if not x.labels & closed and x.node_id not in refused]
        for has in _tests(wish):  # the most important first
            found = [x for x in among if has(x)]
            if found or wish.required:
                among = found
        return [x for x in among if not self.policy.cpu_limit or x.cpu < self.policy.cpu_limit] or among

    def _why_none(self, wish: Wish) -> str:
        if not self.targets:
            return "no node serves"
        asked = ", ".join(f"{name} {value}" for name, value in (("label", wish.node_label), ("region", wish.region), ("version", wish.version)) if value)
        return f"none of the {len(self.targets)} nodes that serve has {asked}" if asked else f"all {len(self.targets)} nodes that serve are exclusive"

    def carriers(self, rooms: t.Mapping[str, t.Mapping[str, int]], fixed: t.Collection[str] = ()) -> list[Carrier]:
        """The nodes as relieve() and vacate() want them. rooms: {node id: {room: participants}}; fixed: rooms that may not move."""
        return [Carrier(x.node_id, x.capacity, self.share(x) * x.capacity,
                        {room: (self._expected(room, n), n) for room, n in rooms.get(x.node_id, {}).items() if n and room not in fixed},
                        not any(room in fixed or not n for room, n in rooms.get(x.node_id, {}).items()))
                for x in self.targets.values()]

    def _expected(self, room: str, here: int) -> float:
        size = self.size(self.young[room].wish if room in self.young else Wish(room, here), here)
        return self.load(size.participants, size.video)

    def note(self, wish: Wish, node_id: str, now: float) -> None:
        """The room goes to that node; from now on it counts there. One that is noted already stays as it is."""
        if wish.room in self.young:
            return
        kept = self._reserved(wish.room, now)
        if kept and kept[2].node_id == node_id:
            r, key, target = kept
            self._taken[key] = wish.room
            self._free[target.node_id] -= self._kept_load(r, key[1])
            wish = dataclasses.replace(wish, participants=r.participants if wish.participants is None else wish.participants)
        young = self.young[wish.room] = self._newborn(wish, node_id, now)
        if node_id in self._growth:
            self._growth[node_id] += self._growth_of(young, now)

    def forget(self, room: str) -> None:
        """The room did not come after all. What it was expected to bring goes at the next look."""
        self.young.pop(room, None)


def _tests(wish: Wish) -> list[t.Callable[[Target], bool]]:
    """What a node should have."""
    tests: list[t.Callable[[Target], bool]] = []
    if wish.node_label:
        tests.append(lambda x: wish.node_label in x.labels)
    if wish.region:
        tests.append(lambda x: x.region == wish.region)
    if wish.version:
        tests.append(lambda x: x.version == wish.version)
    return tests
