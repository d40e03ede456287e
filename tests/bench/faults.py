# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that may go wrong, several times each, under calls; judged from outside by what must always hold.

    tests/bench/faults.py [--seed 1] [--rounds 3] [--only NAME ...] [--list]     makes a lab of its own and removes it; raw JSON: build/bench/faults.json

Invariants after each fault: no call is lost but those whose client was killed, and calls of a killed node come back; never fewer hosts serve
than all but one and those the fault itself takes; callers of one room are never on two nodes for more than 1 s; nothing is decided on
stale data; moves that were left are finished, no room is left on a dead node, every call is where the registry says. The seed picks hosts and moments.
"""
from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
import typing as t

import faults_changes
import faults_moves
import faults_redis
from cluster import Cluster
from common import Lab, save, table
from faults_scene import FAULTS, Scene, heal

MODULES = (faults_changes, faults_moves, faults_redis)  # their functions are the faults


def play(cluster: Cluster, name: str, seed: int, rounds: int) -> list[dict[str, t.Any]]:
    """All rounds of one fault."""
    scene = Scene(cluster, FAULTS[name], seed)
    count = min(rounds, FAULTS[name].most)
    try:
        for number in range(1, count + 1):
            begin = time.monotonic()
            r = scene.go(number)
            facts = "; ".join(f"{k}: {v}" for k, v in r.facts.items())
            print(f"{name} {number}/{count}: {'ok' if not r.problems else 'BROKEN'} ({time.monotonic() - begin:.0f} s, load {os.getloadavg()[0]:.1f}) {facts}",
                  flush=True)
            for problem in r.problems:
                print(f"    {name}, round {number}, seed {seed}: {problem}", flush=True)
    except SystemExit as exc:  # the cluster did not come back
        scene.r.problems.append(f"the rounds ended: {exc}")
        print(f"    {name}, round {scene.r.number}, seed {seed}: {scene.r.problems[-1]}", flush=True)
        heal(cluster)
    finally:
        scene.end()
    return [{**dataclasses.asdict(r), "killed": sorted(r.killed), "seed": seed, "seconds": round(r.until - r.at, 1)} for r in scene.rounds]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(FAULTS), choices=list(FAULTS), metavar="NAME")
    parser.add_argument("--list", action="store_true", help="name the faults and what a caller may notice")
    args = parser.parse_args()
    if args.list:
        for one in FAULTS.values():
            print(f"{one.name}\n    {one.about}")
        return 0
    rounds: list[dict[str, t.Any]] = []
    rows: list[tuple[str, t.Any, t.Any, bool]] = []
    with Lab("bench-faults", "172.30.88.0/24") as lab:
        lab.playbook("deploy")
        cluster = Cluster(lab)
        for name in args.only:
            played = play(cluster, name, args.seed, args.rounds)
            rounds += played
            good = sum(not r["problems"] for r in played)
            rows.append((name, f"{good} of {len(played)}", len(played), bool(played) and good == len(played)))
            save("faults", {"seed": args.seed, "faults": {f.name: f.about for f in FAULTS.values()}, "rounds": rounds, "rows": rows})
    good = table("faults: rounds in which every invariant held", rows)
    save("faults", {"seed": args.seed, "faults": {f.name: f.about for f in FAULTS.values()}, "rounds": rounds, "rows": rows, "load": os.getloadavg()})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
