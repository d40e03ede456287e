# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that evacuates a node and is killed half-way, or whose clock steps: what faults_moves.py runs as a child.

It kills itself with SIGKILL `--delay` seconds after the step `--at`, which is one of the journal's kinds, or `remap`: rooms moved, nothing
cut yet. With `--step` the process' time.time() jumps by so many seconds there instead. That stands in for a step of the machine's clock: containers
share theirs, and nothing else of the engine reads the time of day.
"""
from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import sys
import threading
import time
import typing as t

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "plugins" / "module_utils"))

from fleet.journal import Journal  # noqa: E402
from fleet.lock import Lock  # noqa: E402
from fleet.move import Mover  # noqa: E402
from fleet.placement import Limits  # noqa: E402
from fleet.registry import connect  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", type=pathlib.Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--at", required=True)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--step", type=float)
    parser.add_argument("--ttl", type=float, default=15.0, help="of the lock, seconds")
    args = parser.parse_args()
    real = time.time

    def strike() -> None:
        if args.step is None:
            os.kill(os.getpid(), signal.SIGKILL)
        time.time = lambda: real() + args.step  # type: ignore[assignment]

    def heard(entry: dict[str, t.Any]) -> None:
        if entry["kind"] != args.at:
            return
        if args.delay:
            threading.Timer(args.delay, strike).start()
        else:
            strike()

    with connect(json.loads(args.endpoint.read_text())["redis"]) as registry, Lock(registry, "move", "bench child", ttl=args.ttl, wait=30) as lock:
        mover = Mover(registry, lock, Journal(registry, "bench child", heard), Limits(0, 0))
        if args.at == "remap":
            remap = mover.store.remap

            def remapped(*values: t.Any) -> t.Any:
                found = remap(*values)
                strike()
                return found

            mover.store.remap = remapped  # type: ignore[method-assign]
        mover.evacuate(args.node, "bench child")
    return 0


if __name__ == "__main__":
    sys.exit(main())
