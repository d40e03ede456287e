# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python3 -m fleet.controller --config FILE: the resident process of role controller.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import threading
import typing as t

from ..errors import FleetError, require
from ..registry import Registry
from .lease import Lease
from .loop import Loop
from .metrics import Metrics
from .placing import Placing
from .pods import Keeper
from .scaling import Scaling
from .settings import Settings
from .web import Web

try:
    from aiohttp import web
except ImportError:
    web = None  # type: ignore[assignment]

REDIS_TIMEOUT = 1.5  # seconds; a Redis slower than that is none to decide by
_writing = threading.Lock()


def say(entry: t.Mapping[str, t.Any]) -> None:
    """One line on standard output, for the journal of systemd."""
    with _writing:
        sys.stdout.write(json.dumps(entry, separators=(",", ":"), default=str) + "\n")
        sys.stdout.flush()


async def run(settings: Settings) -> None:
    require(web, "aiohttp", "python3-aiohttp")
    metrics = Metrics()

    def tell(entry: t.Mapping[str, t.Any]) -> None:
        metrics.decision(entry)
        say(entry)

    def connect() -> Registry:
        return Registry(settings.redis, REDIS_TIMEOUT)

    lease = Lease(connect(), settings.name, settings.dry_run, tell)
    loop = Loop(settings, lease, connect, tell, metrics.timed)
    scaling = Scaling(settings, loop, connect, tell) if settings.scaling else None
    pages = Web(settings, loop, connect(), metrics, Placing(settings, loop, connect(), tell) if settings.placement else None, scaling)
    runner = web.AppRunner(pages.app(), access_log=None)
    await runner.setup()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    for address in settings.bind:
        await web.TCPSite(runner, address, settings.port).start()
    lease.start()
    loop.start()
    keeper = Keeper(settings.namespace, loop, connect(), tell) if settings.namespace else None
    more = [part for part in (scaling, keeper) if part]
    for part in more:
        part.start()
    await stop.wait()
    # What is being done gets a moment; then the lease goes back, so that the next leader need not wait for its expiry.
    for part in more:
        await asyncio.to_thread(part.stop)
    await asyncio.to_thread(loop.stop)
    await asyncio.to_thread(lease.stop)
    pages.close()
    await runner.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(prog="fleet.controller", description="Watches a LiveKit cluster and acts: crashes, drains, ghosts.")
    parser.add_argument("--config", default="/etc/livekit/controller.json")
    try:
        asyncio.run(run(Settings.load(parser.parse_args().config)))
    except (FleetError, OSError) as exc:
        say({"kind": "error", "reason": str(exc), "outcome": "ended"})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
