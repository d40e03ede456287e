# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How large rooms become, learnt from rooms that have grown: by name, by the pattern of the name, by label, and of all. Pure.

A room is known by what others like it did. The more often its own name was seen the more that counts, and what nothing is known of is
taken for an average room. A young room is expected to become as large as those that were at least as large as it is by now.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import typing as t

ALL = "all"
PARTICIPANTS = 6.0  # of a room while nothing is known yet
VIDEO = 0.7  # share of participants who publish video, likewise
GROWTH = 300.0  # seconds until a room has its size, likewise
TRUST = 1.5  # rooms of a kind that weigh as much as what the more general kind says
KEEP = 200.0  # rooms after which older ones count less
KINDS = 5000  # names and patterns that are remembered
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.I)
_HEX = re.compile(r"(?<![0-9a-z])(?=[a-f]*[0-9])[0-9a-f]{6,}(?![0-9a-z])", re.I)
_DIGITS = re.compile(r"[0-9]+")


@functools.lru_cache(8192)
def pattern(room: str) -> str:
    """The name without what numbers it: call-17 and call-18 are call-#."""
    return _DIGITS.sub("#", _HEX.sub("#", _UUID.sub("#", room)))


class Size(t.NamedTuple):
    """How large a room becomes, and how soon. video: of the participants, those who publish video."""

    participants: float
    video: float
    seconds: float


@dataclasses.dataclass
class Habit:
    """Rooms of one kind. steps: {size in steps of a quarter: [rooms, their participants]}; old rooms fade."""

    rooms: float = 0.0
    participants: float = 0.0
    video: float = 0.0
    seconds: float = 0.0
    steps: dict[int, list[float]] = dataclasses.field(default_factory=dict)

    def add(self, size: Size) -> None:
        if self.rooms >= KEEP:
            fade = 1 - 1 / KEEP
            self.rooms, self.participants, self.video, self.seconds = (v * fade for v in (self.rooms, self.participants, self.video, self.seconds))
            self.steps = {k: [v * fade for v in step] for k, step in self.steps.items() if step[0] > 0.01}
        self.rooms += 1
        self.participants += size.participants
        self.video += size.video
        self.seconds += size.seconds
        step = self.steps.setdefault(_step(size.participants), [0.0, 0.0])
        step[0] += 1
        step[1] += size.participants

    def grown(self, at_least: float) -> tuple[float, float]:
        """(mean size of the rooms that became at least so large, how many these are)."""
        first = _step(at_least)
        rooms = sum(step[0] for k, step in self.steps.items() if k >= first)
        people = sum(step[1] for k, step in self.steps.items() if k >= first)
        return (max(at_least, people / rooms), rooms) if rooms else (at_least, 0.0)


def _step(participants: float) -> int:
    return round(math.log(max(1.0, participants), 1.25))


class Habits:
    """All kinds. Names seen longest ago are forgotten first."""

    def __init__(self) -> None:
        self.kinds: dict[str, Habit] = {}

    def learn(self, room: str, size: Size, labels: t.Iterable[str] = ()) -> list[str]:
        """A room has grown; the keys of the kinds that changed."""
        keys = [ALL, *_keys(room, labels)]
        for key in keys:
            habit = self.kinds.pop(key, None) or Habit()  # to the end: seen last
            habit.add(size)
            self.kinds[key] = habit
        for key in list(self.kinds)[:max(0, len(self.kinds) - KINDS)]:
            if key != ALL:
                del self.kinds[key]
        return keys

    def expect(self, room: str, labels: t.Iterable[str] = (), now: float = 0.0) -> Size:
        """How large the room becomes that has `now` participants already."""
        everyone = self.kinds.get(ALL)
        people, video, seconds = max(PARTICIPANTS, now), VIDEO, GROWTH
        for habit in [everyone, *[self.kinds.get(key) for key in _keys(room, labels)]]:
            if habit is None:
                continue
            grown, rooms = habit.grown(now)
            weight = rooms / (rooms + TRUST)
            people += weight * (grown - people)
            weight = habit.rooms / (habit.rooms + TRUST)
            seconds += weight * (habit.seconds / habit.rooms - seconds)
            if habit.participants:
                video += weight * (habit.video / habit.participants - video)
        return Size(people, people * video, seconds)

    # -- as text, for the registry

    def dump(self, keys: t.Iterable[str]) -> dict[str, str]:
        return {key: json.dumps(dataclasses.asdict(self.kinds[key]), separators=(",", ":")) for key in keys if key in self.kinds}

    def load(self, texts: t.Mapping[str, str]) -> None:
        """What dump() gave, of any version; what cannot be read is left out."""
        for key, text in texts.items():
            try:
                values = json.loads(text)
                steps = {int(k): [float(rooms), float(people)] for k, (rooms, people) in values["steps"].items()}
                habit = Habit(float(values["rooms"]), float(values["participants"]), float(values["video"]), float(values["seconds"]), steps)
            except (AttributeError, KeyError, TypeError, ValueError):
                continue
            if habit.rooms > 0 and all(map(math.isfinite, (habit.rooms, habit.participants, habit.video, habit.seconds))):
                self.kinds[key] = habit


def _keys(room: str, labels: t.Iterable[str]) -> list[str]:
    """From the general to the special."""
    shape = pattern(room)
    return [f"pattern:{shape}", *(f"label:{label}" for label in sorted(labels)), *([f"room:{room}"] if shape != room or not _DIGITS.search(room) else [])]
