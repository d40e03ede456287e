# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Participants for placement_real.py: they join, send and hear nothing, and stay until they are told to go. One process holds hundreds."""
from __future__ import annotations

import asyncio
import contextlib
import pathlib
import queue
import sys
import typing as t

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "plugins" / "module_utils"))

from fleet import sdk  # noqa: E402

AT_ONCE = 6  # joins in progress: each costs two DTLS handshakes
TRIES = 3


def run(url: str, jobs: t.Any, joined: t.Any, failed: t.Any, stop: t.Any) -> None:
    """jobs: tokens; joined, failed: counters of all processes; stop: an event."""
    sdk.isolate()
    asyncio.run(_run(url, jobs, joined, failed, stop))


async def _run(url: str, jobs: t.Any, joined: t.Any, failed: t.Any, stop: t.Any) -> None:
    rtc, _api = sdk.load()
    rooms: list[t.Any] = []
    gate, tasks = asyncio.Semaphore(AT_ONCE), set()

    async def join(token: str) -> None:
        async with gate:
            for _try in range(TRIES):
                room = rtc.Room()
                try:
                    await asyncio.wait_for(room.connect(url, token, rtc.RoomOptions(auto_subscribe=False)), 15)
                except (rtc.ConnectError, asyncio.TimeoutError, OSError):
                    continue
                rooms.append(room)
                with joined.get_lock():
                    joined.value += 1
                return
        with failed.get_lock():
            failed.value += 1

    while not stop.is_set():
        with contextlib.suppress(queue.Empty):
            while True:
                task = asyncio.ensure_future(join(jobs.get_nowait()))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.05)
    for task in list(tasks):
        task.cancel()
    for room in rooms:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(room.disconnect(), 2)
