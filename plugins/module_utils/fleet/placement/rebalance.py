# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which live rooms to move, within a budget: to make nodes even, to relieve full ones, to empty whole nodes. Pure.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import typing as t

if t.TYPE_CHECKING:
    from .receivers import Receiver

HIGH = 0.95  # share of its capacity, expected, from which a node is relieved
LOW = 0.85  # share up to which it is relieved, and up to which others are filled by that


@dataclasses.dataclass
class Budget:
    """What moves may cost: every caller who moves hears nothing for a moment. Spent as it is used; None is any number."""

    moves: int | None = None
    participants: int | None = None

    def allows(self, moves: int, participants: int) -> bool:
        return (self.moves is None or moves <= self.moves) and (self.participants is None or participants <= self.participants)

    def spend(self, moves: int, participants: int) -> None:
        self.moves = None if self.moves is None else self.moves - moves
        self.participants = None if self.participants is None else self.participants - participants


@dataclasses.dataclass
class Carrier:
    """A node with its rooms. load: expected, all rooms grown; rooms: {room: (load, participants)} of those that may move; whole: these are all."""

    node_id: str
    capacity: float
    load: float
    rooms: dict[str, tuple[float, int]]
    whole: bool = True

    def share(self, more: float = 0.0) -> float:
        return (self.load + more) / self.capacity if self.capacity > 0 else float("inf")


def rebalance(rooms: t.Mapping[str, t.Mapping[str, int]], among: t.Sequence[Receiver], at_most: int = 0) -> dict[str, str]:
    """{room: node id} of the rooms to move so that participants per CPU are even; none where no move makes it better.

    rooms: {node id: {room: participants}}. at_most: moves, 0 for as many as it takes. The biggest room that still helps goes first, so that few move.
    """
    cpus = {r.node_id: r.cpus for r in among}
    left = {n: dict(rooms.get(n, {})) for n in cpus}
    load = {n: sum(sizes.values()) for n, sizes in left.items()}
    moves: dict[str, str] = {}
    while len(cpus) > 1 and (not at_most or len(moves) < at_most):
        full = max(cpus, key=lambda n: (load[n] / cpus[n], n))
        empty = min(cpus, key=lambda n: (load[n] / cpus[n], n))
        # It helps when the receiver ends below where the giver was.
        helps = [(size, room) for room, size in left[full].items()
                 if size and room not in moves and (load[empty] + size) / cpus[empty] < load[full] / cpus[full]]
        if not helps:
            return moves
        size, room = max(helps, key=lambda item: (min(item[0], (load[full] - load[empty]) / 2), -item[0], item[1]))
        moves[room] = empty
        left[empty][room] = left[full].pop(room)
        load[full] -= size
        load[empty] += size
    return moves


def relieve(among: t.Sequence[Carrier], budget: Budget, high: float = HIGH, low: float = LOW) -> dict[str, str]:
    """{room: node id} of the rooms to move so that no node will be over `high`: as few callers as possible, and nobody onto a node that gets full by it."""
    moves: dict[str, str] = {}
    carriers = [dataclasses.replace(c, rooms=dict(c.rooms)) for c in among]
    for full in sorted(carriers, key=lambda c: (-c.share(), c.node_id)):
        while full.share() > high:
            excess = full.load - low * full.capacity
            found = None
            # The smallest room that is enough by itself, or else the largest there is.
            for room, (load, people) in sorted(full.rooms.items(), key=lambda item: (item[1][0] < excess, abs(item[1][0] - excess), item[0])):
                to = min((c for c in carriers if c is not full), key=lambda c: (c.share(), c.node_id), default=None)  # pylint: disable=cell-var-from-loop
                if to is not None and load > 0 and to.share(load) <= low and budget.allows(1, people):
                    found = (room, to)
                    break
            if found is None:
                break
            _give(full, found[1], found[0], moves, budget)
    return moves


def vacate(among: t.Sequence[Carrier], budget: Budget, fill: float = 0.7) -> dict[str, str]:
    """{room: node id} of the rooms to move so that whole nodes become empty and can be given back: the emptiest first, each whole or not at all.

    Nodes whose rooms may not all move stay. No other node gets over `fill`.
    """
    moves: dict[str, str] = {}
    carriers = [dataclasses.replace(c, rooms=dict(c.rooms)) for c in among]
    for giver in sorted(carriers, key=lambda c: (c.load, c.node_id)):
        if not giver.whole or not giver.rooms or any(room in moves for room in giver.rooms):
            continue  # it cannot become empty, is so already, or has taken rooms just now
        takers = [dataclasses.replace(c, rooms=dict(c.rooms)) for c in carriers if c is not giver and c.rooms]
        if not budget.allows(len(giver.rooms), sum(people for _load, people in giver.rooms.values())):
            continue
        planned: dict[str, str] = {}
        for room, (load, _people) in sorted(giver.rooms.items(), key=lambda item: (-item[1][0], item[0])):
            fits = [c for c in takers if c.share(load) <= fill]
            if not fits:
                break
            to = max(fits, key=lambda c: (c.share(), c.node_id))
            to.load += load
            planned[room] = to.node_id
        if len(planned) == len(giver.rooms):
            by_id = {c.node_id: c for c in carriers}
            for room, node_id in planned.items():
                _give(giver, by_id[node_id], room, moves, budget)
    return moves


def _give(frm: Carrier, to: Carrier, room: str, moves: dict[str, str], budget: Budget) -> None:
    load, people = frm.rooms.pop(room)
    frm.load -= load
    to.load += load
    to.rooms[room] = (load, people)
    moves[room] = to.node_id
    budget.spend(1, people)
