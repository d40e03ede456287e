# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A TCP relay that hands on every byte late, both ways alike, in order: faults_delay.py LISTEN_PORT TARGET_PORT SECONDS. Ends with its standard input.

faults_redis.py runs it beside Redis, as the machines this is made for have no netem.
"""
from __future__ import annotations

import asyncio
import contextlib
import sys


async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Hand on what comes, `seconds` later each."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def send() -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    sending = asyncio.ensure_future(send())
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            waiting.put_nowait((loop.time() + seconds, data))
    waiting.put_nowait((loop.time() + seconds, b""))
    with contextlib.suppress(OSError):
        await sending


async def main(listen: int, target: int, seconds: float) -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            far, near = await asyncio.open_connection("127.0.0.1", target)
            await asyncio.gather(late(reader, near, seconds / 2), late(far, writer, seconds / 2))

    async with await asyncio.start_server(relay, "0.0.0.0", listen):
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
