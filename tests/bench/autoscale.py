#!/usr/bin/env python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scaler replayed on recorded demand: the same decide() that the controller runs, fed minute by minute, beside the usual scalers.

FILE has the columns t_seconds,rooms with a row per minute; what lies before --from is history to learn from. OUT gets `nodes` (serving at each
minute from --from on, boot delay applied), `actions` and the figures of all. Runs with plain python3.

Time: the rooms of a minute are seen when it begins; a node ordered then serves BOOT later, rounded up to a minute.
Cost: a node costs while it serves, and after its return until DRAIN-TAIL is over, as its last calls may last that long. The clairvoyant knows
all demand: it has the nodes that each minute needs, and gives none back that is needed again within the tail.
"""
from __future__ import annotations

import argparse
import csv
import json
import math
import pathlib
import sys
import time
import typing as t

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "plugins" / "module_utils"), str(pathlib.Path(__file__).resolve().parent)]

from autoscale_rivals import RIVALS, Case, clairvoyant, figures, run  # noqa: E402  pylint: disable=wrong-import-position
from fleet.forecast import Forecaster  # noqa: E402  pylint: disable=wrong-import-position
from fleet.policies.base import DRAINING, SERVING, STARTING, Member, View  # noqa: E402  pylint: disable=wrong-import-position
from fleet.policies.forecast import Forecast  # noqa: E402  pylint: disable=wrong-import-position
from fleet.policies.headroom import Headroom  # noqa: E402  pylint: disable=wrong-import-position
from fleet.scaling import decide  # noqa: E402  pylint: disable=wrong-import-position
from fleet.scaling_rules import Rules, State  # noqa: E402  pylint: disable=wrong-import-position

WARM = 1440  # minutes before --from in which the scaler already runs, so that it is not just starting there
EPOCH = 1_700_000_000 // 604800 * 604800 + 345600  # a Monday; only so that replayed times look like times


class Pool:
    """Machines in a simulation: what is ordered serves `boot` minutes later, what is given back drains for `tail` minutes."""

    def __init__(self, size: int, boot: int, tail: int, at: float) -> None:
        self.boot, self.tail, self._number = boot, tail, 0
        self.members: dict[str, Member] = {}
        self._due: dict[str, float] = {}
        self.add(size, at - 3600.0 * 24)
        self.tick(at)

    def add(self, count: int, at: float) -> None:
        for _n in range(count):
            self._number += 1
            self._set(Member(f"n{self._number}", STARTING, at), at + 60 * self.boot)

    def retire(self, names: t.Iterable[str], at: float) -> None:
        for name in names:
            self._set(Member(name, DRAINING, self.members[name].since), at + 60 * self.tail)

    def _set(self, member: Member, due: float) -> None:
        self.members[member.id], self._due[member.id] = member, due

    def tick(self, at: float) -> None:
        for name in [n for n, due in self._due.items() if due <= at]:
            del self._due[name]
            member = self.members.pop(name)
            if member.state == STARTING:
                self.members[name] = Member(name, SERVING, member.since)

    @property
    def serving(self) -> int:
        return sum(m.state == SERVING for m in self.members.values())


def replay(case: Case, boot: float, tail: float, goal: float) -> dict[str, t.Any]:
    """Run the scaler over the case: nodes, actions, and how long it took to decide."""
    rules = Rules(min=case.least, max=case.most, boot=boot, retire=tail)
    forecaster = Forecaster(boot, tail, case.per_node, goal, floor=case.least * case.per_node)
    policies = (Headroom(), Forecast())
    warm = max(0, case.begin - WARM)
    pool: Pool | None = None
    state, nodes, actions, taken = State(), [], [], 0.0
    for minute, rooms in enumerate(case.rooms):
        at = float(EPOCH + 60 * minute)
        forecaster.observe(at, rooms)
        if minute < warm:
            continue
        pool = pool or Pool(case.need(rooms), case.boot, case.tail, at)
        pool.tick(at)
        before = time.perf_counter()
        view = View(at, rooms, case.per_node, tuple(pool.members.values()), forecaster.outlook(), lead=boot)
        decision = decide(view, policies, rules, state)
        taken += time.perf_counter() - before
        state = decision.state
        for action in decision.actions:
            if action.kind == "add":
                pool.add(action.count, at)
            elif action.kind == "retire":
                pool.retire(action.nodes, at)
            if minute >= case.begin and action.kind != "hold":
                actions.append({"minute": minute - case.begin, "kind": action.kind, "count": action.count, "size": decision.size, "reason": action.reason})
        if minute >= case.begin:
            nodes.append(pool.serving)
    return {"nodes": nodes, "actions": actions, "ms_per_decision": round(1000 * taken / max(1, len(case.rooms) - warm), 3)}


def read(path: pathlib.Path, begin: float | None) -> tuple[list[float], int]:
    """(rooms per minute, the row at which --from begins). Rows may come in any order; a missing minute has what the one before it had."""
    rows: dict[int, float] = {}
    with path.open(encoding="utf-8", newline="") as handle:
        for number, row in enumerate(csv.DictReader(handle), 2):
            try:
                at, rooms = float(row["t_seconds"]), float(row["rooms"])
            except (KeyError, TypeError, ValueError):
                raise SystemExit(f"{path}, line {number}: expected the columns t_seconds,rooms with numbers") from None
            if not (math.isfinite(at) and math.isfinite(rooms)) or rooms < 0:
                raise SystemExit(f"{path}, line {number}: {rooms} rooms at {at} cannot be")
            minute = math.floor(at / 60)
            rows[minute] = max(rooms, rows.get(minute, 0.0))
    if not rows:
        raise SystemExit(f"{path}: no rows")
    first, last = min(rows), max(rows)
    if last - first > 5_256_000:
        raise SystemExit(f"{path}: it spans more than ten years; t_seconds are seconds")
    values: list[float] = []
    for minute in range(first, last + 1):
        values.append(rows.get(minute, values[-1] if values else 0.0))
    row = 0 if begin is None else max(0, math.floor(begin / 60) - first)
    if row >= len(values):
        raise SystemExit(f"{path}: it ends before --from {begin:g}")
    return values, row


def compare(case: Case, boot: float, tail: float, goal: float, rivals: bool = True) -> dict[str, t.Any]:
    ours = replay(case, boot, tail, goal)
    rows = {"openrtc": figures(case, ours["nodes"])}
    if rivals:
        rows.update({name: figures(case, run(case, make(case))) for name, make in RIVALS.items()})
    best = clairvoyant(case)
    return {**ours, "figures": rows, "clairvoyant": {"node_minutes": sum(best), "nodes_mean": round(sum(best) / len(best), 2)}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demand", type=pathlib.Path, required=True)
    parser.add_argument("--from", dest="begin", type=float, default=None, help="seconds, as in the file; default: its begin, so nothing is known before")
    parser.add_argument("--per-node", type=int, default=20)
    parser.add_argument("--min", type=int, default=3)
    parser.add_argument("--max", type=int, default=60)
    parser.add_argument("--boot", type=float, default=120.0, help="seconds from an order until the node serves")
    parser.add_argument("--drain-tail", type=float, default=1800.0, help="seconds a node costs after its return")
    parser.add_argument("--goal", type=float, default=1e-5, help="share of room-minutes that may overflow")
    parser.add_argument("--json", type=pathlib.Path, default=None)
    args = parser.parse_args()
    if min(args.per_node, args.min, args.boot) < 1 or args.min > args.max or args.drain_tail < 0 or not 0 < args.goal < 1:
        parser.error("--per-node, --min and --boot are at least 1, --max is at least --min, --drain-tail at least 0, --goal between 0 and 1")
    rooms, begin = read(args.demand, args.begin)
    case = Case(rooms, begin, args.per_node, args.min, args.max, math.ceil(args.boot / 60), math.ceil(args.drain_tail / 60))
    result = compare(case, args.boot, args.drain_tail, args.goal)
    print(f"{'':14} {'OVERFLOW':>10} {'COST':>7} {'HELD':>7} {'SERVING':>8} {'NODES':>7} {'MOST':>5}")
    for name, row in result["figures"].items():
        print(f"{name:14} {row['overflow_percent']:>9.5f}% {row['cost']:>7.3f} {row['cost_held']:>7.3f} {row['cost_serving']:>8.3f} {row['nodes_mean']:>7.1f} "
              f"{row['nodes_most']:>5}")
    print(f"clairvoyant: {result['clairvoyant']['nodes_mean']} nodes on average; {result['ms_per_decision']} ms per decision")
    if args.json:
        settings = {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in vars(args).items() if k != "json"}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**result, "settings": settings}) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
