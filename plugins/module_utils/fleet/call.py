# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real call: two participants in one room, one sends a tone, the other one listens and writes down every silence.

A call counts as alive by what is heard, never by a connection state. The same C(Call) serves the gate of a new node
(fleet/probe.py) and the long calls of demo, tests and benches (lab/callers.py).

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import array
import asyncio
import contextlib
import functools
import importlib
import math
import time
import typing as t

from . import sdk
from .call_figures import SILENCE, Heard, drop_reason, loud_span, path_of, signal_url, without_tokens
from .errors import FleetError

RATE = 48000  # what Opus uses inside: no resampling in the native library
BLOCK_MS = 100  # what the listener takes at a time; silences are still measured to the sample
TONE_HZ = 400
TONE_PEAK = 8000
TRANSPORTS = ("any", "relay", "tcp")


def warm() -> None:
    """Load and compute now what no call should wait for."""
    sdk.start()
    tone()


@functools.lru_cache(maxsize=1)
def tone() -> tuple[bytes, int]:
    """200 ms of the tone as 16-bit samples: whole periods, so that copies join without a click."""
    count = RATE // 5
    wave = (int(TONE_PEAK * math.sin(2 * math.pi * TONE_HZ * i / RATE)) for i in range(count))
    return array.array("h", wave).tobytes(), count


def _narrow(stream: t.Any, rtc: t.Any) -> None:
    """Let an audio stream be woken by its own frames only; as it comes it wakes for those of every stream in the process."""
    with contextlib.suppress(AttributeError, TypeError):
        queue = importlib.import_module("livekit.rtc._ffi_client").FfiClient.instance.queue
        own, handle = stream._ffi_queue, stream._ffi_handle.handle

        def mine(event: t.Any) -> bool:
            return event.WhichOneof("message") == "audio_stream_event" and event.audio_stream_event.stream_handle == handle

        with queue._lock:
            queue._subscribers = [(q, loop, mine if q is own else keep) for q, loop, keep in queue._subscribers]


class Call:
    """One call of two: a publisher that sends a tone and a subscriber that listens.

    All times are unix seconds. Use C(run), or C(open), C(close) and C(result). It never raises for a call that fails:
    the result tells.
    """

    def __init__(
        self, url: str, key: str, secret: str, room: str, *, threshold: float = SILENCE, transport: str = "any",
        one_peer_connection: bool = False, on_event: t.Callable[[Call, dict[str, t.Any]], None] | None = None,
    ) -> None:
        if transport not in TRANSPORTS:
            raise FleetError("place a call", room, f"transport {transport}", f"Use one of {', '.join(TRANSPORTS)}.", code="probe_argument")
        self.url, self.room, self.transport = signal_url(url), room, transport
        self._key, self._secret = key, secret
        # The SDK's own default is one peer connection for both ways; on a busy machine about one in five of its publishers
        # then stays silent from the start (1.2.0; the server says "publish time out"), which no cluster can help.
        self._one = one_peer_connection
        self.heard = Heard(threshold)
        self.started = self.ended = 0.0
        self.joins: dict[str, int] = {}
        self.events: list[dict[str, t.Any]] = []
        self.paths: list[dict[str, t.Any]] = []
        self.lost: list[tuple[str, str]] = []
        self.failed: str | None = None
        self.over = asyncio.Event()  # set when the call cannot go on
        self.audible = asyncio.Event()  # set with the first media
        self._asked = False
        self._on_event = on_event
        self._rooms: dict[str, t.Any] = {}
        self._source: t.Any = None
        self._streams: list[t.Any] = []
        self._tasks: set[asyncio.Task[t.Any]] = set()

    # -- what happens

    def _event(self, who: str, what: str, **more: t.Any) -> None:
        entry = {"t": round(time.time(), 3), "who": who, "event": what, **more}
        self.events.append(entry)
        if self._on_event:
            self._on_event(self, entry)

    def _spawn(self, work: t.Coroutine[t.Any, t.Any, t.Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[t.Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() and not self._asked:
            self._event("client", "error", reason=repr(task.exception())[:200])

    def _watch(self, who: str, room: t.Any, rtc: t.Any) -> None:
        def gone(reason: int) -> None:
            if self._asked:
                return
            name = rtc.DisconnectReason.Name(reason)
            self.lost.append((who, name))
            self._event(who, "disconnected", reason=name)
            self.over.set()

        def back() -> None:
            self._event(who, "reconnected")
            if not self._asked:
                self._spawn(self._look(who, 1.0))

        room.on("reconnecting", lambda: self._event(who, "reconnecting"))
        room.on("reconnected", back)
        room.on("disconnected", gone)

    # -- the two sides

    async def open(self) -> bool:
        """Join both, publish, listen. False when one could not join."""
        rtc, _api = sdk.load()
        self.started = time.time()
        options = rtc.RoomOptions(single_peer_connection=self._one)
        if self.transport == "relay":
            options.rtc_config = rtc.RtcConfiguration(ice_transport_type=rtc.IceTransportType.TRANSPORT_RELAY)

        async def join(who: str) -> None:
            room = rtc.Room()
            self._watch(who, room, rtc)
            if who == "subscriber":
                room.on("track_subscribed", lambda track, _publication, _participant: self._spawn(self._listen(track, rtc)))
            begun = time.time()
            await room.connect(self.url, sdk.token(self._key, self._secret, self.room, who), options)
            self.joins[who] = round(1000 * (time.time() - begun))
            self._rooms[who] = room
            if self.transport == "tcp":
                await self._to_tcp(room, rtc)

        async def send() -> None:
            await join("publisher")
            await self._publish(rtc)

        done = await asyncio.gather(send(), join("subscriber"), return_exceptions=True)
        for who, error in zip(("publisher", "subscriber"), done):
            if isinstance(error, asyncio.CancelledError):
                raise error
            if isinstance(error, Exception) and not self.failed:
                step = "publish" if who in self.joins else "join"
                self.failed = without_tokens(f"{who} could not {step}: {getattr(error, 'message', None) or repr(error)}")[:400]
                self._event(who, f"{step} failed", reason=self.failed)
        if self.failed:
            self.over.set()
        return not self.failed

    @staticmethod
    async def _to_tcp(room: t.Any, rtc: t.Any) -> None:
        """Let the server offer nothing but ICE/TCP: the client reconnects, and must be back before it publishes."""
        back = asyncio.Event()
        room.on("reconnected", back.set)
        await room.simulate_scenario(rtc.SimulateScenarioKind.SIMULATE_FORCE_TCP)
        await asyncio.wait_for(back.wait(), 10)

    async def _publish(self, rtc: t.Any) -> None:
        self._source = rtc.AudioSource(RATE, 1, queue_size_ms=800)
        track = rtc.LocalAudioTrack.create_audio_track("tone", self._source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE, dtx=False, red=False)
        options.audio_encoding.max_bitrate = 64000  # Opus needs less CPU here than at speech rates
        await self._rooms["publisher"].local_participant.publish_track(track, options)
        self._spawn(self._play(rtc))

    async def _play(self, rtc: t.Any) -> None:
        wave, count = tone()
        frame = rtc.AudioFrame(wave, RATE, 1, count)
        while not self._asked:
            await self._source.capture_frame(frame)

    async def _listen(self, track: t.Any, rtc: t.Any) -> None:
        if track.kind != rtc.TrackKind.KIND_AUDIO:
            return
        stream = rtc.AudioStream(track, sample_rate=RATE, num_channels=1, frame_size_ms=BLOCK_MS)
        _narrow(stream, rtc)
        self._streams.append(stream)
        async for event in stream:
            samples = event.frame.data
            span = loud_span(samples)
            if span is None or self._asked:
                continue
            now = time.time()
            size = len(samples)
            gap = self.heard.add(now - (size - span[0]) / RATE, now - (size - 1 - span[1]) / RATE)
            if gap:
                self._event("subscriber", "gap", seconds=gap["seconds"])
            if not self.audible.is_set():
                self.audible.set()
                self._event("subscriber", "first media")

    async def _look(self, who: str, wait: float = 0.0) -> None:
        """Note which way media goes now."""
        await asyncio.sleep(wait)
        path = await self._path(who)
        if path:
            self.paths.append({"t": round(time.time(), 3), "who": who, **path})

    async def _path(self, who: str) -> dict[str, t.Any]:
        room = self._rooms.get(who)
        if room is None or not room.isconnected():
            return {}
        try:
            stats = await asyncio.wait_for(room.get_rtc_stats(), 3)
        except (RuntimeError, asyncio.TimeoutError, OSError) as error:
            self._event(who, "no statistics", reason=repr(error)[:100])
            return {}
        to_dict = importlib.import_module("google.protobuf.json_format").MessageToDict
        found: list[dict[str, t.Any]] = []
        for side in (stats.subscriber_stats, stats.publisher_stats):
            found.append(path_of(_plain(to_dict(s, preserving_proto_field_name=True)) for s in side))
        # one peer connection for both ways reports under "publisher"; with two, each role has its own
        if who == "publisher":
            found.reverse()
        return next((p for p in found if p.get("transport")), {})

    async def wait(self, seconds: float | None = None, until: asyncio.Event | None = None) -> None:
        """Hold the call for so long, or until the event, or until it is over by itself."""
        waits = [asyncio.ensure_future(self.over.wait())]
        if until is not None:
            waits.append(asyncio.ensure_future(until.wait()))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    async def close(self) -> None:
        """End the call properly: what was heard is settled first."""
        if self._asked:
            return
        self.ended = time.time()
        self._asked = True
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(self._look("subscriber"), self._look("publisher")), 4)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=2)
        for room in self._rooms.values():
            with contextlib.suppress(Exception):
                await asyncio.wait_for(room.disconnect(), 4)
        for stream in self._streams:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(stream.aclose(), 1)
        if self._source is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._source.aclose(), 1)

    async def run(self, seconds: float | None = None, until: asyncio.Event | None = None) -> dict[str, t.Any]:
        """The whole call, from joining to the result."""
        try:
            if await self.open():
                await self.wait(seconds, until)
        finally:
            await self.close()
        return self.result()

    # -- what came of it

    @property
    def has_media(self) -> bool:
        """Whether the listener hears the tone right now."""
        age = self.heard.age(time.time())
        return age is not None and age < 1.0 and not self._asked

    def result(self) -> dict[str, t.Any]:
        """The record of the call; also while it runs."""
        end = self.ended or time.time()
        heard = self.heard
        reason = drop_reason(self.started, end, heard.first, heard.last, self.lost, self.failed)
        path = next((p for p in reversed(self.paths) if p["who"] == "subscriber"), {})
        sender = next((p for p in reversed(self.paths) if p["who"] == "publisher"), {})
        age = heard.age(end)
        return {
            "room": self.room, "url": self.url, "started": round(self.started, 3), "ended": round(end, 3),
            "join_ms": max(self.joins.values()) if len(self.joins) == 2 else None, "joins": dict(self.joins),
            "first_media_ms": None if heard.first is None else round(1000 * (heard.first - self.started)),
            "first_media": None if heard.first is None else round(heard.first, 3),
            "last_media": None if heard.last is None else round(heard.last, 3),
            "last_media_age": None if age is None else round(age, 3),
            "frames": heard.frames, "media_seconds": round(heard.seconds, 2),
            "events": list(self.events), "gaps": heard.until(end), "dropped": reason is not None, "reason": reason,
            "transport": path.get("transport"), "remote": path.get("remote"), "relay": path.get("relay"),
            "publisher_transport": sender.get("transport"), "publisher_remote": sender.get("remote"),
            "loss_percent": path.get("loss_percent"), "packets": path.get("packets"), "lost_packets": path.get("lost"),
            "jitter_ms": path.get("jitter_ms"), "rtt_ms": path.get("rtt_ms"), "paths": list(self.paths),
        }


def _plain(entry: dict[str, t.Any]) -> dict[str, t.Any]:
    """One statistics entry as {kind: {...}}: the message has the kind as its only field."""
    return {k: v for k, v in entry.items() if isinstance(v, dict)}
