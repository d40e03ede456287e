# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Upgrades of a three-node cluster, one after the other, under calls that go on. Goals: 0 dropped, 90 s each.

    tests/bench/upgrade.py [--upgrades 4] [--calls 8]     makes a lab of its own and removes it; raw JSON: build/bench/upgrade.json

Every upgrade has calls of its own, which begin before it and end after it, so that old nodes become empty and give their slot back.
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import sys

from common import BENCH, Lab, save, table

VERSIONS = ["1.13.4", "1.13.5"]
SECONDS = 90.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrades", type=int, default=4)
    parser.add_argument("--calls", type=int, default=8)
    args = parser.parse_args()
    runs = []
    with Lab("bench-upgrade", "172.30.85.0/24") as lab:
        lab.playbook("deploy", f"livekit_version={VERSIONS[0]}")
        for number in range(args.upgrades):
            target = VERSIONS[(number + 1) % 2]
            out = BENCH / f"upgrade-{number + 1}"
            lab.under_calls(args.calls, out, lab.command("upgrade", f"livekit_version={target}"))
            report = json.loads((out / "report.json").read_text())
            change = next(p for p in report["phases"] if p["name"].startswith("ansible-playbook"))
            summary = {k: report["summary"][k] for k in ("calls", "dropped", "gaps", "worst_gap", "join_p95")}
            runs.append({"version": target, "seconds": change["seconds"], **summary})
            print(f"upgrade {number + 1} to {target}: {runs[-1]}", flush=True)
    dropped, calls = sum(r["dropped"] for r in runs), sum(r["calls"] for r in runs)
    slowest = max(r["seconds"] for r in runs)
    rows = [
        (f"dropped, of {calls} calls over {len(runs)} upgrades", dropped, 0, dropped == 0),
        ("slowest upgrade of three nodes", f"{slowest:.1f} s", f"{SECONDS:g} s", slowest <= SECONDS),
        ("median upgrade", f"{statistics.median(r['seconds'] for r in runs):.1f} s", "", True),
        ("calls with a silence over 0.25 s, worst", f"{sum(r['gaps'] for r in runs)}, {max(r['worst_gap'] for r in runs):.2f} s", "", True),
    ]
    good = table("upgrade", rows)
    save("upgrade", {"runs": runs, "load": os.getloadavg(), "rows": rows})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
