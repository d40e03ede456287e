# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster that rooms are placed on, second by second, and the ways of placing that are compared.

Nodes report their load every two seconds, each at its own moment, as LiveKit does; whoever places sees these reports and not the load itself.
"""
from __future__ import annotations

import abc
import pathlib
import random
import sys
import time
import typing as t

from placement_rooms import Room

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "plugins" / "module_utils"))

from fleet.placement.placer import Placer  # noqa: E402
from fleet.placement.policy import Policy, Wish  # noqa: E402
from fleet.placement.rebalance import Budget, relieve  # noqa: E402
from fleet.placement.targets import Loads, Target  # noqa: E402

STATS = 2.0  # seconds between two reports of a node: LiveKit's node_stats.stats_update_interval
JOIN, END, START = 0, 1, 2


class Event(t.NamedTuple):
    at: float
    kind: int
    room: int  # its number
    load: float  # that joins or leaves
    people: int


def events_of(rooms: t.Sequence[Room]) -> list[Event]:
    """All that happens, by time. Participants join evenly, and leave together when the room ends."""
    found = []
    for number, room in enumerate(rooms):
        end = room.t + room.duration
        found += [Event(room.t, START, number, 0.0, 0), Event(end, END, number, -load_of(room), -room.participants)]
        each = load_of(room) / max(1, room.participants)
        found += [Event(room.t + room.ramp * (n + 0.5) / room.participants, JOIN, number, each, 1) for n in range(room.participants)]
    # Of two events of one room at the same moment it starts first and ends last.
    return sorted(found, key=lambda e: (e.at, (1, 2, 0)[e.kind], e.room))


def load_of(room: Room) -> float:
    return Loads().room(room.participants, room.video)


def mean_load(rooms: t.Sequence[Room], events: t.Iterable[Event]) -> tuple[float, float]:
    """(mean, highest) load of the whole cluster, from the first room's start to the last one's."""
    begin, end = rooms[0].t, rooms[-1].t
    load = area = highest = 0.0
    last = begin
    for event in events:
        if event.at > end:
            break
        area += load * (event.at - last)
        last, load = event.at, load + event.load
        highest = max(highest, load)
    area += load * (end - last)
    return (area / (end - begin) if end > begin else load), highest


class World:
    """Nodes with what they carry. Indices are nodes' numbers."""

    def __init__(self, nodes: int, capacity: float, seed: int) -> None:
        pick = random.Random(seed)
        self.nodes, self.capacity, self.now = nodes, capacity, 0.0
        self.load, self.people, self.rooms = [0.0] * nodes, [0] * nodes, [0] * nodes
        self.phase = [pick.random() * STATS for _n in range(nodes)]
        self.reported: list[tuple[float, int, int]] = [(0.0, 0, 0)] * nodes  # load, people, rooms
        self._tick = [-1] * nodes
        self._since = [0.0] * nodes
        self.hot = self.total = 0.0  # participant-seconds
        self.worst = 0.0  # highest share of capacity
        self.used = 0.0  # node-seconds with a room
        self.homes: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.loads: dict[str, float] = {}

    def report(self, node: int) -> None:
        """Bring the node's latest report up to now. To be called before each of its changes."""
        tick = int((self.now - self.phase[node]) // STATS)
        if tick > self._tick[node]:
            self.reported[node], self._tick[node] = (self.load[node], self.people[node], self.rooms[node]), tick

    def reports(self) -> list[tuple[float, int, int]]:
        for node in range(self.nodes):
            self.report(node)
        return self.reported

    def change(self, node: int, load: float, people: int, rooms: int = 0) -> None:
        self.report(node)
        span = self.now - self._since[node]
        self.total += self.people[node] * span
        if self.load[node] > self.capacity + 1e-6:
            self.hot += self.people[node] * span
        if self.rooms[node]:
            self.used += span
        self._since[node] = self.now
        self.load[node] += load
        self.people[node] += people
        self.rooms[node] += rooms
        self.worst = max(self.worst, self.load[node] / self.capacity)

    def move(self, room: str, to: int) -> None:
        load, people = self.loads[room], self.sizes[room]
        self.change(self.homes[room], -load, -people, -1)
        self.homes[room] = to
        self.change(to, load, people, 1)


class Way(abc.ABC):
    """One way of placing."""

    name = ""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.pick = world, random.Random(seed)

    def look(self) -> None:
        """Called every STATS seconds."""

    @abc.abstractmethod
    def place(self, room: Room) -> int:
        """The number of the node that a new room goes to."""

    def extra(self) -> dict[str, t.Any]:
        return {}


class AnyNode(Way):
    """node_selector {kind: any, sort_by: random, algorithm: lowest}, LiveKit's default."""

    name = "any (LiveKit's default)"

    def place(self, room: Room) -> int:
        return self.pick.randrange(self.world.nodes)


class Lowest(Way):
    """node_selector {sort_by: cpuload, clients, ...; algorithm: lowest}."""

    name = "lowest"

    def place(self, room: Room) -> int:
        reports = self.world.reports()
        return min(range(self.world.nodes), key=lambda n: (reports[n][0], self.pick.random()))


class LowestRooms(Way):
    """node_selector {sort_by: rooms, algorithm: lowest}."""

    name = "lowest by rooms"

    def place(self, room: Room) -> int:
        reports = self.world.reports()
        return min(range(self.world.nodes), key=lambda n: (reports[n][2], self.pick.random()))


class TwoChoice(Way):
    """node_selector {sort_by: cpuload, algorithm: twochoice}, as the collection sets it."""

    name = "twochoice"

    def place(self, room: Room) -> int:
        reports = self.world.reports()
        return min(self.pick.sample(range(self.world.nodes), min(2, self.world.nodes)), key=lambda n: reports[n][0])


class Ours(Way):
    """The placer. told: requests say how many participants will come; else they are learnt from rooms that came before."""

    name = "placer, sizes told"
    told, moves_per_hour, strategy = True, 0.0, "spread"

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        self.placer = Placer(Policy(strategy=self.strategy))
        self.placing = self.looking = 0.0  # seconds spent in the placer
        self.looks = 0
        self.moves = self.moved = 0
        self._budget_at = 0.0

    def look(self) -> None:
        world, begin = self.world, time.perf_counter()
        targets = [Target(str(n), str(n), world.capacity, r[0]) for n, r in enumerate(world.reports())]
        homes = {room: str(node) for room, node in world.homes.items()}
        self.placer.observe(targets, homes, {room: world.sizes[room] for room in self.placer.young if room in homes}, world.now)
        self.looking += time.perf_counter() - begin
        self.looks += 1
        if self.moves_per_hour and world.now - self._budget_at >= 10:
            self._relieve()

    def _relieve(self) -> None:
        world = self.world
        budget = Budget(moves=max(0, int(self.moves_per_hour * (world.now / 3600 + 1) - self.moves)))
        self._budget_at = world.now
        rooms: dict[str, dict[str, int]] = {}
        if all(self.placer.share(x) <= 0.95 for x in self.placer.targets.values()):
            return
        for room, node in world.homes.items():
            rooms.setdefault(str(node), {})[room] = world.sizes[room]
        for room, to in relieve(self.placer.carriers(rooms), budget).items():
            self.moves += 1
            self.moved += world.sizes[room]
            world.move(room, int(to))

    def place(self, room: Room) -> int:
        begin = time.perf_counter()
        wish = Wish(room.name, float(room.participants), room.video) if self.told else Wish(room.name)
        choice = self.placer.choose(wish, self.world.now)
        self.placer.note(wish, choice.node_id, self.world.now)
        self.placing += time.perf_counter() - begin
        return int(choice.node_id)

    def extra(self) -> dict[str, t.Any]:
        return {"placing_seconds": self.placing, "looking_seconds": self.looking, "looks": self.looks, "moves": self.moves, "participants_moved": self.moved}


class Learnt(Ours):
    name = "placer, sizes learnt"
    told = False


class LearntMoves(Learnt):
    name = "placer, sizes learnt, live moves"
    moves_per_hour = 20.0


class Packed(Ours):
    name = "placer, told, pack"
    strategy = "pack"


def run(rooms: t.Sequence[Room], events: t.Sequence[Event], nodes: int, capacity: float, kind: type[Way], seed: int = 1) -> dict[str, t.Any]:
    """One day with one way of placing: {hot: percent, worst: share, placements, ...}."""
    world = World(nodes, capacity, seed)
    way = kind(world, seed)
    alive: dict[str, int] = {}  # room -> how many of its appearances overlap
    world.now = look_at = rooms[0].t
    placed = 0
    for event in events:
        world.now = event.at
        if event.at >= look_at:
            way.look()
            look_at = event.at + STATS
        room = rooms[event.room]
        name = room.name
        if event.kind == START:
            alive[name] = alive.get(name, 0) + 1
            if alive[name] == 1:
                world.homes[name], world.sizes[name], world.loads[name] = way.place(room), 0, 0.0
                world.change(world.homes[name], 0.0, 0, 1)
                placed += 1
            continue
        world.sizes[name] += event.people
        world.loads[name] += event.load
        last = event.kind == END and alive[name] == 1
        world.change(world.homes[name], event.load, event.people, -1 if last else 0)
        if event.kind == END:
            alive[name] -= 1
            if last:
                del world.homes[name], world.sizes[name], world.loads[name], alive[name]
    span = rooms[-1].t - rooms[0].t
    return {"way": kind.name, "hot_percent": 100 * world.hot / world.total if world.total else 0.0, "worst_share": world.worst, "placements": placed,
            "nodes_used": world.used / (events[-1].at - rooms[0].t) if span else nodes, **way.extra()}
