# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long rooms last, learnt from those that ended, and so how much of a node's load will soon be gone. Pure.

Just before the full hour every node is full of rooms that are about to end. Who looks only at the load of the moment gives most new rooms
to the nodes whose old ones happened to end first, and those are too full a quarter of an hour later.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from .habits import ALL, pattern

AHEAD = 10  # minutes
LONGEST = 360  # minutes; a room that lasts longer ends when it ends
ENOUGH = 30.0  # rooms of a kind that must have ended before anything is concluded
FADE = 0.999  # what an older room counts with every one that ends
EVERY = 10.0  # seconds between two estimates: they change by the minute


class Lasted:
    """Rooms of one kind that ended, by minute of age."""

    def __init__(self) -> None:
        self.minutes = [0.0] * (LONGEST + 1)
        self.rooms = 0.0
        self._left: list[float] | None = None  # minute -> how many lasted at least so long

    def add(self, seconds: float) -> None:
        if self.rooms > 1000:
            self.minutes = [m * FADE for m in self.minutes]
            self.rooms *= FADE
        self.minutes[min(LONGEST, int(seconds // 60))] += 1
        self.rooms += 1
        self._left = None

    def soon(self, age: float) -> float:
        """Probability, 0 to 1, that a room of that age (seconds) ends within AHEAD minutes."""
        if self._left is None:
            self._left, left = [0.0] * (LONGEST + 1), 0.0
            for minute in range(LONGEST, -1, -1):
                left += self.minutes[minute]
                self._left[minute] = left
        minute = int(age // 60)
        if minute + AHEAD > LONGEST or self._left[minute] < 1:
            return 0.0
        return 1 - self._left[minute + AHEAD] / self._left[minute]


class Lifetimes:
    """Rooms that live: since when, and their load."""

    def __init__(self) -> None:
        self.alive: dict[str, tuple[float, float]] = {}
        self.kinds: dict[str, Lasted] = {ALL: Lasted()}
        self._leaving: dict[str, float] = {}
        self._at: float | None = None

    def born(self, room: str, now: float) -> None:
        self.alive.setdefault(room, (now, 0.0))

    def weigh(self, room: str, load: float) -> None:
        if room in self.alive:
            self.alive[room] = (self.alive[room][0], load)

    def ended(self, room: str, now: float) -> None:
        since, dummy = self.alive.pop(room, (None, 0.0))
        if since is not None:
            self.learn(now - since, room)

    def learn(self, seconds: float, room: str = "") -> None:
        self.kinds[ALL].add(seconds)
        shape = pattern(room)
        if shape in self.kinds or shape != room and len(self.kinds) < 500:
            self.kinds.setdefault(shape, Lasted()).add(seconds)

    def leaving(self, homes: t.Mapping[str, str], now: float) -> t.Mapping[str, float]:
        """{node: load that is expected to have ended in AHEAD minutes}."""
        if self._at is not None and 0 <= now - self._at < EVERY:
            return self._leaving
        self._at, self._leaving = now, {}
        for room, (since, load) in self.alive.items():
            node, lasted = homes.get(room), self.kinds.get(pattern(room))
            lasted = lasted if lasted and lasted.rooms >= ENOUGH else self.kinds[ALL]
            if node is not None and lasted.rooms >= ENOUGH:
                self._leaving[node] = self._leaving.get(node, 0.0) + load * lasted.soon(now - since)
        return self._leaving
