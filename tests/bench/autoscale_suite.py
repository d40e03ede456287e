#!/usr/bin/env python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""tests/bench/autoscale.py over generated demand: shapes, noises and seeds, four weeks of history and one that counts.

The constants of the scaler were chosen with the shapes and seeds that demand/shapes.py calls looked at; by default this runs seeds that were held
out, so does every shape not named there. Writes build/bench/autoscale.json after each run, and prints the worst and the median of each row.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import time
import typing as t

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent / "demand")]

from autoscale import Case, compare  # noqa: E402  pylint: disable=wrong-import-position
from generate import NOISES, demand  # noqa: E402  pylint: disable=wrong-import-position
from shapes import DAY, HELD_OUT_SEED, LOOKED_AT, SHAPES  # noqa: E402  pylint: disable=wrong-import-position

GOALS = {("smooth", 2): (0.001, 1.07), ("smooth", 5): (0.005, 1.10), ("events", 2): (0.001, 1.135), ("events", 5): (0.005, 1.20)}  # percent, cost


def one(shape: str, noise: str, seed: int, boot: int, weeks: int, peak: float, rivals: bool) -> dict[str, t.Any]:
    begin = time.monotonic()
    rooms = [float(rooms) for _at, rooms in demand(shape, seed, noise, weeks, peak)]
    result = compare(Case(rooms, (weeks - 1) * 7 * DAY, 20, 3, 60, boot, 30), 60.0 * boot, 1800.0, 1e-5, rivals)
    return {"shape": shape, "noise": noise, "seed": seed, "boot": boot, "held_out": shape not in LOOKED_AT or seed >= HELD_OUT_SEED,
            "figures": result["figures"], "clairvoyant_nodes": result["clairvoyant"]["nodes_mean"], "ms_per_decision": result["ms_per_decision"],
            "seconds": round(time.monotonic() - begin, 1)}


def table(rows: t.Sequence[t.Mapping[str, t.Any]]) -> bool:
    """Print a line per shape, noise and boot time; whether all goals are met by every seed."""
    print(f"{'SHAPE':10} {'NOISE':7} {'BOOT':>4} {'SEEDS':>5}  {'OVERFLOW % median, worst':>26}  {'COST median, worst':>19} {'HELD':>7} {'SERVING':>8}  GOAL")
    met = True
    for key in sorted({(r["shape"], r["noise"], r["boot"]) for r in rows}):
        found = [r["figures"]["openrtc"] for r in rows if (r["shape"], r["noise"], r["boot"]) == key]
        over, cost, held, serving = ([f[name] for f in found] for name in ("overflow_percent", "cost", "cost_held", "cost_serving"))
        goal = GOALS.get((key[0], key[2]))
        ok = goal is None or max(over) <= goal[0] and max(cost) <= goal[1]
        met = met and ok
        text = "-" if goal is None else f"{goal[0]} %, {goal[1]}: {'met' if ok else 'NOT MET'}"
        print(f"{key[0]:10} {key[1]:7} {key[2]:>4} {len(found):>5}  {statistics.median(over):>13.5f} {max(over):>12.5f}  {statistics.median(cost):>10.3f} "
              f"{max(cost):>8.3f} {max(held):>7.3f} {max(serving):>8.3f}  {text}")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="smooth,events", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--noises", default="calls", help=f"of {', '.join(NOISES)}")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=HELD_OUT_SEED)
    parser.add_argument("--boots", default="2,5", help="minutes")
    parser.add_argument("--weeks", type=int, default=5, help="of demand; the last one counts")
    parser.add_argument("--peak", type=float, default=800.0)
    parser.add_argument("--rivals", action="store_true", help="run the other scalers too")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "build" / "bench" / "autoscale.json")
    args = parser.parse_args()
    rows: list[dict[str, t.Any]] = []
    for shape in args.shapes.split(","):
        for noise in args.noises.split(","):
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                for boot in map(int, args.boots.split(",")):
                    rows.append(one(shape, noise, seed, boot, args.weeks, args.peak, args.rivals))
                    args.output.parent.mkdir(parents=True, exist_ok=True)
                    args.output.write_text(json.dumps(rows) + "\n", encoding="utf-8")
                    ours = rows[-1]["figures"]["openrtc"]
                    print(f"{shape} {noise} seed {seed}, boot {boot} min: overflow {ours['overflow_percent']:.5f} %, cost {ours['cost']:.3f} (held "
                          f"{ours['cost_held']:.3f}, serving {ours['cost_serving']:.3f}), {rows[-1]['seconds']:.0f} s", flush=True)
    return 0 if table(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
