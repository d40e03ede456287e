#!/usr/bin/env python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forecast against recorded demand, one hour ahead: WAPE beside three naive forecasts, coverage of its intervals, time per forecast.

FILE has the columns t_seconds,rooms with a row per minute. What lies before --from (default: the last week) is only learned from; from there on each
minute's forecast is kept and judged when its hour is over. Without a file, every shape of demand/ is generated and judged. Runs with plain
python3. Ends with 1 where a goal is missed.
"""
from __future__ import annotations

import argparse
import json
import math
import pathlib
import statistics
import sys
import time
import typing as t

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / "plugins" / "module_utils"), str(HERE), str(HERE / "demand")]

from autoscale import read  # noqa: E402  pylint: disable=wrong-import-position
from fleet.forecast import AHEAD, Band, Forecaster  # noqa: E402  pylint: disable=wrong-import-position
from fleet.series import DAY, WEEK  # noqa: E402  pylint: disable=wrong-import-position
from generate import demand  # noqa: E402  pylint: disable=wrong-import-position
from shapes import HELD_OUT_SEED, SHAPES  # noqa: E402  pylint: disable=wrong-import-position

SHARES = (0.5, 0.8, 0.95)  # probabilities of the intervals that are judged
MOST_MS, POINTS = 50.0, 3.0


def judge(rooms: t.Sequence[float], begin: int) -> dict[str, t.Any]:
    """Figures of the forecast from row `begin` on."""
    forecaster = Forecaster(120.0, 1800.0, 20.0, floor=60.0)
    made: dict[int, list[Band]] = {}
    errors = {"forecast": 0.0, "naive": 0.0, "same hour yesterday": 0.0, "same hour last week": 0.0}
    inside, total, count, believed = [0] * len(SHARES), 0.0, 0, 0
    learning: list[float] = []
    taken: list[float] = []
    for row, value in enumerate(rooms):
        before = time.perf_counter()
        forecaster.observe(60.0 * row, value)
        middle = time.perf_counter()
        if row < begin - AHEAD:
            continue
        made[row + AHEAD] = [forecaster.forecast([AHEAD], share)[0] for share in SHARES]
        learning.append(1000 * (middle - before))
        taken.append(1000 * (time.perf_counter() - middle) / len(SHARES))
        bands = made.pop(row, None)
        if bands is None or row < begin:
            continue
        count, total, believed = count + 1, total + value, believed + (forecaster.chosen.name != "level")
        past = {"forecast": bands[0].middle, "naive": rooms[row - AHEAD], "same hour yesterday": rooms[row - DAY] if row >= DAY else math.nan,
                "same hour last week": rooms[row - WEEK] if row >= WEEK else math.nan}
        for name, guess in past.items():
            errors[name] += abs(value - guess)
        inside = [n + (band.low <= value <= band.high) for n, band in zip(inside, bands)]
    return {
        "minutes": count, "wape_percent": {name: round(100 * error / max(1.0, total), 3) for name, error in errors.items()},
        "coverage_percent": {f"{share:.0%}": round(100 * n / max(1, count), 2) for share, n in zip(SHARES, inside)},
        "ms": {"p50": round(statistics.median(taken), 3), "p99": round(statistics.quantiles(taken, n=100)[98], 3), "max": round(max(taken), 3),
               "learning_p50": round(statistics.median(learning), 3), "learning_max": round(max(learning), 3), "limit": MOST_MS},
        "believed_percent": round(100 * believed / max(1, count), 1), "model": forecaster.chosen.name, "why": forecaster.why,
    }


def met(result: t.Mapping[str, t.Any]) -> dict[str, bool]:
    wape = result["wape_percent"]
    return {
        "better than each naive one": all(not wape["forecast"] > other for name, other in wape.items() if name != "forecast"),
        f"coverage within {POINTS:g} points": all(abs(float(share.rstrip("%")) - got) <= POINTS for share, got in result["coverage_percent"].items()),
        f"at most {MOST_MS:g} ms (99 %)": result["ms"]["p99"] <= MOST_MS,
    }


def show(result: t.Mapping[str, t.Any]) -> bool:
    """Print the figures; whether the goals are met."""
    print("WAPE " + ", ".join(f"{name} {wape:.2f} %" for name, wape in result["wape_percent"].items()))
    print("coverage " + ", ".join(f"{share}: {got:.1f} %" for share, got in result["coverage_percent"].items()) + f"; believed {result['believed_percent']} % "
          f"of the time, at the end: {result['model']} ({result['why']})")
    ms = result["ms"]
    print(f"a forecast takes {ms['p50']:.3f} ms (99 %: {ms['p99']:.3f}, most {ms['max']:.1f}), learning a minute {ms['learning_p50']:.2f} ms (most "
          f"{ms['learning_max']:.0f})")
    goals = met(result)
    for name, ok in goals.items():
        print(f"  {name:34} {'met' if ok else 'NOT MET'}")
    return all(goals.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demand", type=pathlib.Path, default=None)
    parser.add_argument("--from", dest="begin", type=float, default=None, help="seconds, as in the file")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="of generated demand")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "build" / "bench" / "forecast.json")
    args = parser.parse_args()
    results, ok = {}, True
    for name in [str(args.demand)] if args.demand else sorted(SHAPES):
        if args.demand:
            rooms, begin = read(args.demand, args.begin)
        else:
            rooms, begin = [float(count) for _at, count in demand(name, args.seed)], 0
        if args.begin is None:
            begin = max(0, len(rooms) - WEEK)
        print(name, flush=True)
        results[name] = judge(rooms, begin)
        ok = show(results[name]) and ok
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({name: {**result, "goals": met(result)} for name, result in results.items()}) + "\n", encoding="utf-8")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
