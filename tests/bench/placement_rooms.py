# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rooms for the placement bench: read from a file, or made up.

A file is CSV with the columns t, room, participants, duration_s, ramp_s, video: at `t` seconds the room is created, its participants join
evenly during ramp_s, and it ends after duration_s. video is the share of participants who publish video, 0 to 1 (or false/true); where any
value of the column is greater than 1, they are numbers of participants instead.
"""
from __future__ import annotations

import csv
import math
import pathlib
import random
import typing as t

COLUMNS = ("t", "room", "participants", "duration_s", "ramp_s", "video")
WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0, "": 0.0}
HALF_HOUR = 1800.0
# shape -> (rooms per burst, rooms in between, share of rooms with 40 to 100 participants, names tell something, seconds the burst is spread over (sigma))
SHAPES = {
    "office": (250, 150, 0.01, True, 25.0),  # half-hour bursts over steady calls; teams meet under the same names again
    "anonymous": (250, 150, 0.01, False, 25.0),  # the same, and names say nothing
    "webinars": (230, 120, 0.02, True, 25.0),  # more rooms that take a third of a node each
    "steep": (300, 60, 0.005, True, 10.0),  # nearly everything begins within half a minute
}


class Room(t.NamedTuple):
    t: float
    name: str
    participants: int
    duration: float
    ramp: float
    video: float  # of the participants, how many publish video


def read(path: pathlib.Path) -> list[Room]:
    """Sorted by time. Ends the program with what is wrong and in which line."""
    with path.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle, skipinitialspace=True)
        missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise SystemExit(f"{path}: the columns {', '.join(missing)} are missing; needed are {', '.join(COLUMNS)}")
        rows = [_row(path, number, row) for number, row in enumerate(reader, 2)]
    if not rows:
        raise SystemExit(f"{path}: there is no room in it")
    counts = any(room.video > 1 for room in rows)
    return sorted(room._replace(video=min(room.participants, room.video if counts else room.video * room.participants)) for room in rows)


def _row(path: pathlib.Path, number: int, row: t.Mapping[str, str]) -> Room:
    try:
        video = str(row["video"] or "").strip().lower()
        values = [float(row[c]) for c in ("t", "participants", "duration_s", "ramp_s")] + [WORDS[video] if video in WORDS else float(video)]
    except (TypeError, ValueError) as exc:
        raise SystemExit(f"{path}, line {number}: {exc}") from exc
    if not all(map(math.isfinite, values)) or min(values[1:]) < 0 or not values[2] or not row["room"]:
        raise SystemExit(f"{path}, line {number}: a room needs a name, a duration over 0, and no negative number: {dict(row)}")
    start, people, duration, ramp, video_value = values
    return Room(start, row["room"].strip(), round(people), duration, min(ramp, duration), video_value)


def write(path: pathlib.Path, rooms: t.Iterable[Room]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        for r in rooms:
            writer.writerow((round(r.t, 2), r.name, r.participants, round(r.duration, 1), round(r.ramp, 1), round(r.video / max(1, r.participants), 3)))


def make(shape: str, seed: int, hours: float = 4.0) -> list[Room]:
    """Rooms of a made-up day, the same for the same shape and seed."""
    burst, between, big, named, sigma = SHAPES[shape]
    pick = random.Random(f"{shape} {seed}")
    rooms = []
    for half in range(int(hours * 2)):
        starts = [half * HALF_HOUR + 60 + pick.gauss(0, sigma) for _n in range(max(1, round(pick.gauss(burst, burst / 10))))]
        starts += [half * HALF_HOUR + pick.random() * HALF_HOUR for _n in range(between)]
        for number, start in enumerate(starts):
            rooms.append(_one(pick, round(max(0.0, start), 2), f"{half}-{number}", big, named))
    return sorted(rooms)


def _one(pick: random.Random, start: float, number: str, big: float, named: bool) -> Room:
    draw = pick.random()
    if draw < 0.35:
        kind, people = "call", 2
    elif draw < 0.85:
        kind, people = "meeting", pick.randint(3, 10)
    elif draw < 1 - big:
        kind, people = "class", pick.randint(11, 30)
    else:
        kind, people = "webinar", pick.randint(40, 100)
    name = f"{kind}-{number}" if named else f"room-{number}"
    if named and kind == "meeting" and pick.random() < 0.6:  # a team that meets again and again, nearly all of them each time
        team = pick.randrange(400)
        name, people = f"team-{_word(team)}-{number}", max(2, 3 + team % 8 + pick.choice((-1, 0, 0, 1)))
    duration = round(pick.choice((25, 30, 45, 55, 60)) * 60 * pick.uniform(0.9, 1.1), 1)
    share = {"call": 0.9, "meeting": 0.7, "class": 0.5, "webinar": 0.05}[kind] * pick.uniform(0.6, 1.1)
    return Room(start, name, people, duration, float(pick.choice((60, 120, 240, 300))), round(min(1.0, share) * people))


def _word(number: int) -> str:
    """A name without digits."""
    letters = "abcdefghij"
    return "".join(letters[int(digit)] for digit in f"{number:03d}")
