# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long `deploy` takes on six fresh hosts, and when there is nothing to change. Goals: 120 s; 15 s, 10 tasks a host, changed=0.

    tests/bench/converge.py [--runs 3]      makes a lab of its own and removes it; raw JSON: build/bench/converge.json
"""
from __future__ import annotations

import argparse
import os
import statistics
import sys

from common import Lab, save, table

FIRST, AGAIN, TASKS = 120.0, 15.0, 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs without a change")
    args = parser.parse_args()
    with Lab("bench-converge", "172.30.84.0/24") as lab:
        first = lab.playbook("deploy")
        again = [lab.playbook("deploy") for dummy in range(args.runs)]
    seconds = statistics.median(run["seconds"] for run in again)
    tasks = max(host["tasks"] for run in again for host in run["hosts"].values())
    changed = sum(host["changed"] for run in again for host in run["hosts"].values())
    rows = [
        ("first deploy of six hosts", f"{first['seconds']:.1f} s", f"{FIRST:g} s", first["seconds"] <= FIRST),
        (f"deploy without a change (median of {args.runs})", f"{seconds:.1f} s", f"{AGAIN:g} s", seconds <= AGAIN),
        ("tasks per host", tasks, TASKS, tasks <= TASKS),
        ("changed", changed, 0, changed == 0),
    ]
    good = table("converge", rows)
    save("converge", {"first": first, "again": again, "load": os.getloadavg(), "rows": rows})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
