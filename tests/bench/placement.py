#!/usr/bin/env python3
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many callers sit on a node that carries more than it can, by the way rooms are placed.

    tests/bench/placement.py [--rooms FILE.csv] [--nodes 20] [--utilisation 0.55] [--capacity LOAD] [--write DIR] [--real lab|local]

Hot is a participant-minute on a node whose load is above its capacity at that moment; the figure is their share of all participant-minutes.
Load is participants, one with video counting as three (fleet/placement/targets.py). All nodes have the same capacity: by default the one at which
the cluster is used to --utilisation on average, from the first room's start to the last one's. No choice of nodes can help while the
cluster as a whole is above its capacity; that share is printed too. The ways compared see the load of nodes as LiveKit's nodes report it,
every two seconds, and room sizes as the registry has them.

FILE has the columns t,room,participants,duration_s,ramp_s,video (placement_rooms.py says what they mean). Without it days are made up, four shapes
with seeds 101 to 110 that nothing was tuned with, and the first shape with seeds 1 to 10 too. --write keeps them as files.

"sizes told": requests to place a room say how many participants and how much video is expected, as a calendar knows. "sizes learnt": they give
nothing but the name. Prints a table, writes build/bench/placement.json, ends with 1 if a goal is missed. --real is placement_real.py, and goes to
build/bench/placement_real.json.
"""
from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import sys
import time
import typing as t

import placement_rooms
from placement_sim import AnyNode, Event, Learnt, LearntMoves, Lowest, LowestRooms, Ours, Packed, TwoChoice, Way, events_of, load_of, mean_load, run

OUT = pathlib.Path(__file__).resolve().parents[2] / "build" / "bench"
WAYS: tuple[type[Way], ...] = (AnyNode, Lowest, LowestRooms, TwoChoice, Ours, Learnt, LearntMoves, Packed)
JUDGED = (Ours.name, LearntMoves.name)
HOT = 0.01  # percent
RATE = 1000.0  # placements per second
SEEDS = {"seen": range(1, 11), "held out": range(101, 111)}


def day(rooms: t.Sequence[placement_rooms.Room], args: argparse.Namespace, ways: t.Sequence[type[Way]]) -> dict[str, t.Any]:
    """All ways on one day."""
    events = events_of(rooms)
    mean, highest = mean_load(rooms, events)
    capacity = args.capacity or mean / (args.utilisation * args.nodes)
    results = [run(rooms, events, args.nodes, capacity, way) for way in ways]
    return {"rooms": len(rooms), "capacity": capacity, "utilisation": mean / (capacity * args.nodes), "highest": highest / (capacity * args.nodes),
            "unavoidable_percent": unavoidable(events, capacity * args.nodes), "largest_room": max(load_of(r) for r in rooms) / capacity,
            "ways": {r["way"]: r for r in results}}


def unavoidable(events: t.Iterable[Event], capacity: float) -> float:
    """Percent of the participant-minutes while the whole cluster is above its capacity."""
    load = people = last = hot = total = 0.0
    for event in events:
        total += people * (event.at - last)
        hot += people * (event.at - last) if load > capacity else 0.0
        last, load, people = event.at, load + event.load, people + event.people
    return 100 * hot / total if total else 0.0


def show(title: str, days: t.Sequence[dict[str, t.Any]]) -> None:
    """Mean and worst day of each way."""
    print(f"\n{title}: {len(days)} day{'s' if len(days) > 1 else ''}, {days[0]['rooms']} rooms, utilisation {days[0]['utilisation']:.0%} on average, "
          f"{max(d['highest'] for d in days):.0%} at most; unavoidable {max(d['unavoidable_percent'] for d in days):.3f} %")
    print(f"  {'hot participant-minutes':34} {'mean':>9} {'worst day':>10} {'fullest':>8} {'nodes':>6} {'moves':>6}")
    for way in days[0]["ways"]:
        found = [d["ways"][way] for d in days]
        hot = [f["hot_percent"] for f in found]
        print(f"  {way:34} {sum(hot) / len(hot):8.4f}% {max(hot):9.4f}% {max(f['worst_share'] for f in found):8.0%} "
              f"{sum(f['nodes_used'] for f in found) / len(found):6.1f} {sum(f.get('moves', 0) for f in found):6}", flush=True)


def verdict(days: t.Mapping[str, t.Sequence[dict[str, t.Any]]]) -> bool:
    """Print the goals; whether all are met."""
    print(f"\n{'goal':60} {'figure':>12}")
    met = True
    for title, found in days.items():
        for way in JUDGED:
            hot = [d["ways"][way]["hot_percent"] for d in found]
            good = sum(hot) / len(hot) <= HOT
            met &= good
            print(f"{title + ', ' + way:60} {sum(hot) / len(hot):11.4f}%  goal <= {HOT} %  {'met' if good else 'NOT MET'}")
    mine = [d["ways"][Learnt.name] for found in days.values() for d in found]
    rate = sum(m["placements"] for m in mine) / sum(m["placing_seconds"] for m in mine)
    look = sum(m["looking_seconds"] for m in mine) / sum(m["looks"] for m in mine)
    print(f"{'placements per second of one core':60} {rate:12,.0f}  goal >= {RATE:,.0f}  {'met' if rate >= RATE else 'NOT MET'}")
    print(f"{'one look at the cluster, ms':60} {1000 * look:12.2f}", flush=True)
    return met and rate >= RATE


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--rooms", type=pathlib.Path, help="a CSV file; without it days are made up")
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--utilisation", type=float, default=0.55)
    parser.add_argument("--capacity", type=float, default=0.0, help="load that each node carries, in place of --utilisation")
    parser.add_argument("--seeds", type=int, default=10, help="days of each shape, seen and held out each")
    parser.add_argument("--hours", type=float, default=3.0, help="of a made-up day")
    parser.add_argument("--write", type=pathlib.Path, help="write the made-up days to this directory, and end")
    parser.add_argument("--json", type=pathlib.Path, default=OUT / "placement.json")
    parser.add_argument("--real", choices=("lab", "local"), help="instead: 300 real rooms on six real nodes, of a lab or as processes on this machine")
    args = parser.parse_args()
    if args.nodes < 1 or not 0 < args.utilisation <= 1 or args.capacity < 0 or args.seeds < 1 or args.hours <= 0:
        parser.error("nodes, seeds and hours must be positive, utilisation between 0 and 1, capacity not negative")
    return args


def made_up(args: argparse.Namespace) -> dict[str, list[tuple[int, list[placement_rooms.Room]]]]:
    """{"shape, which seeds": [(seed, rooms)]}; seen seeds of the first shape only, to be compared with those held out."""
    first = next(iter(placement_rooms.SHAPES))
    return {f"{shape}, {which}": [(seed, placement_rooms.make(shape, seed, args.hours)) for seed in list(seeds)[:args.seeds]]
            for shape in placement_rooms.SHAPES for which, seeds in SEEDS.items() if which == "held out" or shape == first}


def main() -> int:
    args = arguments()
    if args.write:
        for title, found in made_up(args).items():
            for seed, rooms in found:
                placement_rooms.write(args.write / f"{title.split(',', maxsplit=1)[0]}-{seed}.csv", rooms)
        return 0
    if args.real:
        import placement_real  # pylint: disable=import-outside-toplevel
        from common import save  # pylint: disable=import-outside-toplevel
        real = placement_real.measure(args.real)
        save("placement_real", real)
        return 0 if real["met"] else 1
    begin = time.time()
    days: dict[str, list[dict[str, t.Any]]] = {}
    if args.rooms:
        days[args.rooms.name] = [day(placement_rooms.read(args.rooms), args, WAYS)]
        show(args.rooms.name, days[args.rooms.name])
    else:
        for title, found in made_up(args).items():
            days[title] = [{"seed": seed, **day(rooms, args, WAYS)} for seed, rooms in found]
            show(title, days[title])
    met = verdict(days)
    result = {"days": days, "nodes": args.nodes, "seconds": time.time() - begin, "load": os.getloadavg()[0], "python": platform.python_version()}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"raw figures: {args.json}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
