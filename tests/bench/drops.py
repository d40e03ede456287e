# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nobody's call ends: upgrades and live moves of a three-node cluster under calls that come and go all the time.

    tests/bench/drops.py [--upgrades 50] [--moves 200] [--calls 12]     makes a lab of its own and removes it; raw JSON: build/bench/drops.json

Two parts. Upgrades: `upgrade` from one version to the other and back, every second one with live moves at once, the others
leave the calls where they are until they end. Moves: node after node is evacuated and started again, until so many rooms
with calls in them have moved. A call-upgrade is a call that was up during an upgrade. Goals: design section 7.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
import time
import typing as t

from cluster import Cluster, Watch, gaps_between
from common import BENCH, Lab, save, table
from callers import percentile

VERSIONS = ["1.13.4", "1.13.5"]


def upgrades(cluster: Cluster, count: int, calls: int) -> dict[str, t.Any]:
    """So many upgrades under steady calls."""
    out, runs = BENCH / "drops-upgrades", []
    watch, clients = Watch(cluster), cluster.calls(calls, BENCH / "drops-upgrades", "--steady", "--every", "60", "--seconds", str(count * 180))
    watch.start()
    try:
        for number in range(count):
            target, policy = VERSIONS[(number + 1) % 2], "now" if number % 2 else "wait"
            begin = time.time()
            seconds = cluster.lab.playbook("upgrade", f"livekit_version={target}", f"livekit_upgrade_policy={policy}")["seconds"]
            runs.append({"version": target, "policy": policy, "started": begin, "ended": time.time(), "seconds": round(seconds, 1)})
            cluster.wait_free()
    finally:
        clients.stop()
        watch.stop()
    found = json.loads(clients.out.read_text())["calls"]
    for run in runs:
        run["calls"] = sum(c["started"] < run["ended"] and c["ended"] > run["started"] for c in found)
        run["gaps"] = gaps_between(found, run["started"], run["ended"])
    return {"runs": runs, "calls": len(found), "dropped": [c for c in found if c["dropped"]], "fewest_serving": watch.fewest, "samples": watch.samples,
            "report": str(out)}


def moves(cluster: Cluster, count: int, calls: int) -> dict[str, t.Any]:
    """Evacuate node after node until so many rooms have moved; calls that do not end meanwhile."""
    watch, clients = Watch(cluster), cluster.calls(calls, BENCH / "drops-moves", "--every", "60")
    watch.start()
    try:
        runs = cluster.evacuate_in_turn(count)
    finally:
        clients.stop()
        watch.stop()
    found = json.loads(clients.out.read_text())["calls"]
    for run in runs:
        run["gaps"] = gaps_between(found, run["started"], run["until"])
    return {"runs": runs, "calls": len(found), "dropped": [c for c in found if c["dropped"]], "moved": sum(r["rooms"] for r in runs),
            "apart": sorted(watch.apart), "samples": watch.samples}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrades", type=int, default=50)
    parser.add_argument("--moves", type=int, default=200)
    parser.add_argument("--calls", type=int, default=12, help="during upgrades")
    parser.add_argument("--move-calls", type=int, default=6, help="during moves: clients, nodes and Ansible share two cores")
    args = parser.parse_args()
    rows, raw = [], {}
    with Lab("bench-drops", "172.30.86.0/24") as lab:
        lab.playbook("deploy", f"livekit_version={VERSIONS[0]}")
        cluster = Cluster(lab)
        if args.moves:
            raw["moves"] = m = moves(cluster, args.moves, args.move_calls)
            gaps = sorted(g for r in m["runs"] for g in r["gaps"])
            empty = max(r["seconds"] for r in m["runs"])
            rows += [
                (f"calls lost in {m['moved']} moves of a room", len(m["dropped"]), 0, not m["dropped"]),
                (f"silence of a move, p50 of {len(gaps)}", f"{percentile(gaps, 50)} s", "0.8 s", bool(gaps) and percentile(gaps, 50) <= 0.8),
                ("silence of a move, p99", f"{percentile(gaps, 99)} s", "1.5 s", bool(gaps) and percentile(gaps, 99) <= 1.5),
                ("host empty, slowest", f"{empty:.1f} s", "15 s", empty <= 15),
                (f"callers of a room apart, p99 of {len(m['apart'])}", f"{percentile(m['apart'], 99)} s", "1.5 s", (percentile(m["apart"], 99) or 9) <= 1.5),
            ]
            save("drops", {**raw, "load": os.getloadavg(), "rows": rows})
        if args.upgrades:
            raw["upgrades"] = u = upgrades(cluster, args.upgrades, args.calls)
            call_upgrades, slowest = sum(r["calls"] for r in u["runs"]), max(r["seconds"] for r in u["runs"])
            rows += [
                (f"calls dropped, of {call_upgrades} call-upgrades in {len(u['runs'])}", len(u["dropped"]), 0,
                 not u["dropped"] and call_upgrades >= 20 * args.upgrades),
                ("slowest upgrade of three nodes", f"{slowest:.1f} s", "90 s", slowest <= 90),
                (f"fewest hosts serving, of 3, in {u['samples']} looks", u["fewest_serving"], "2", (u["fewest_serving"] or 0) >= 2),
            ]
    good = table("drops", rows)
    save("drops", {**raw, "load": os.getloadavg(), "rows": rows})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
