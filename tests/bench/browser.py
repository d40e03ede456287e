# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""livekit-client in Chromium stays in its calls through live moves, an upgrade and a crash; silences of the picture are counted.

    tests/bench/browser.py [--moves 30] [--calls 3]     makes a lab of its own and removes it; raw JSON and screenshots: build/bench/browser*

The SDK waits 2.0 s before it reconnects, so that is the floor of every move. Goals: design section 7.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

from cluster import Cluster, gaps_between
from common import BENCH, ROOT, Lab, save, table
from callers import percentile

SCRIPT = "lab/browser/browsers.py"
SIGKILL = "systemctl kill --signal=SIGKILL --kill-who=main livekit-server@{0}.service"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=30)
    parser.add_argument("--calls", type=int, default=3)
    args = parser.parse_args()
    subprocess.run([ROOT / "lab/bootstrap", "--with", "chromium"], check=True, stdin=subprocess.DEVNULL)
    marks: dict[str, tuple[float, float]] = {}
    with Lab("bench-browser", "172.30.84.0/24") as lab:
        lab.playbook("deploy", "livekit_version=1.13.4")
        cluster = Cluster(lab)
        cluster.wait_serving()
        clients = cluster.calls(args.calls, BENCH / "browser", "--every", "60", script=SCRIPT)
        try:
            runs = cluster.evacuate_in_turn(args.moves, pause=5.0)
            cluster.wait_serving()
            begin = time.time()
            lab.playbook("upgrade", "livekit_version=1.13.5", "livekit_upgrade_policy=now")
            marks["upgrade"] = (begin, time.time() + 3)
            time.sleep(5)
            busiest = max(cluster.wait_serving().values(), key=lambda p: p.slot.participants or 0)
            begin = time.time()
            cluster.run(busiest.host, "sh", "-c", SIGKILL.format(busiest.slot.slot))
            time.sleep(15)
            marks["crash"] = (begin, time.time())
        finally:
            clients.stop()
    calls = json.loads(clients.out.read_text())["calls"]
    moves = sorted(g for r in runs for g in gaps_between(calls, r["started"], r["until"]) if g >= 1.0)  # below: the machine
    dropped, moved = sum(c["dropped"] for c in calls), sum(r["rooms"] for r in runs)
    found = {name: gaps_between(calls, *span) for name, span in marks.items()}
    p50, p99 = percentile(moves, 50), percentile(moves, 99)
    rows = [
        (f"calls lost in {moved} moves, an upgrade with moves and a crash", dropped, 0, not dropped),
        (f"no picture during a move, p50 of {len(moves)}", f"{p50} s", "2.3 s", bool(moves) and p50 <= 2.3),
        ("no picture during a move, p99", f"{p99} s", "3 s", bool(moves) and p99 <= 3),
        ("no picture during the upgrade, longest", f"{max(found['upgrade'], default=0)} s", "", True),
        ("no picture after the crash, longest", f"{max(found['crash'], default=0)} s", "", True),
    ]
    good = table("browser", rows)
    save("browser", {"runs": runs, "calls": calls, "marks": marks, "gaps": {**found, "moves": moves}, "rows": rows, "load": os.getloadavg()})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
