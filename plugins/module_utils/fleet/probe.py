# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real calls: two participants in one room, one sends a tone, the other one listens and writes down every silence.

A call counts as alive by what is heard, never by a connection state. The same C(Call) serves the gate of a new node
(C(probe), one short call in a room pinned to that node) and the long calls of demo, tests and benches (lab/callers.py).

The native library of the SDK is loaded on first use only and belongs into a process of its own: C(run_in_child) starts
one, hands it the requests (and with them the secret) on stdin and reads the results from its stdout. The child is this
module, run as a program with the directory above the package on PYTHONPATH, which works from a checkout, from an
installed collection and from the archive that Ansible sends to a host::

    PYTHONPATH=.../plugins/module_utils python -m fleet.probe < request.json
    PYTHONPATH=<collections path> python -m ansible_collections.openrtc.livekit.plugins.module_utils.fleet.probe

One request (a JSON object) gives one JSON object; a JSON list gives one line C({"index": n, "result": {...}}) for each
request as it ends. The exit code is 0 for a failed probe too: C(ok) is false then and C(failure) tells why.

Trust: both the native library and the API client read SSL_CERT_FILE and SSL_CERT_DIR from the environment, the latter
once, at import. C(trust) therefore names C(ca_file) there before either is loaded, beside the system's directory.
TURN/TLS is beyond that: the native library checks its certificate against a list of public CAs of its own.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import array
import asyncio
import contextlib
import dataclasses
import functools
import importlib
import json
import math
import os
import pathlib
import re
import ssl
import subprocess
import sys
import time
import typing as t
import uuid

from .errors import FleetError, require

RATE = 48000  # what Opus uses inside: no resampling in the native library
BLOCK_MS = 100  # what the listener takes at a time; silences are still measured to the sample
TONE_HZ = 400
TONE_PEAK = 8000
LOUD = 1000  # a sample beyond this is the tone, not comfort noise
SILENCE = 0.25  # shorter pauses are not written down
JOIN_TIME = 15.0  # a probe does not wait longer for its two participants; the SDK alone would try three times as long
SILENT_END = 3.0  # a call that heard nothing for so long at its end was lost
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
TRANSPORTS = ("any", "relay", "tcp")


# ---------------------------------------------------------------- pure parts: what was heard, what that means


def loud_span(samples: t.Sequence[int], level: int = LOUD, step: int = 8) -> tuple[int, int] | None:
    """First and last sample louder than level, looking at every step-th from both ends; None for silence."""
    size = len(samples)
    first = next((i for i in range(0, size, step) if abs(samples[i]) > level), None)
    if first is None:
        return None
    last = next(i for i in range(first + (size - 1 - first) // step * step, first - 1, -step) if abs(samples[i]) > level)
    return first, last


@dataclasses.dataclass
class Heard:
    """What a listener heard, as times: the first and last sound, and every silence longer than the threshold."""

    threshold: float = SILENCE
    first: float | None = None
    last: float | None = None
    frames: int = 0
    seconds: float = 0.0
    gaps: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)

    def add(self, start: float, end: float) -> dict[str, t.Any] | None:
        """Sound from start to end; the silence before it, if it was long enough to count."""
        gap = None
        if self.last is None:
            self.first = start
        elif start - self.last > self.threshold:
            gap = {"start": round(self.last, 3), "seconds": round(start - self.last, 3)}
            self.gaps.append(gap)
        self.frames += 1
        self.seconds += max(0.0, end - (start if self.last is None else max(start, self.last)))
        self.last = end if self.last is None else max(end, self.last)
        return gap

    def age(self, now: float) -> float | None:
        """Seconds since the last sound; None when there never was one."""
        return None if self.last is None else max(0.0, now - self.last)

    def until(self, now: float) -> list[dict[str, t.Any]]:
        """All silences up to now, one that still lasts included (it has C(open))."""
        age = self.age(now)
        if self.last is None or age is None or age <= self.threshold:
            return list(self.gaps)
        return [*self.gaps, {"start": round(self.last, 3), "seconds": round(age, 3), "open": True}]


def drop_reason(
    started: float, ended: float, first: float | None, last: float | None,
    lost: t.Sequence[tuple[str, str]] = (), failed: str | None = None,
) -> str | None:
    """Why a call counts as dropped, or None.

    lost: (participant, reason) of every disconnect nobody asked for; failed: why joining failed. A call that ended by
    itself before media was due (within SILENT_END of its start) is not held against anyone.
    """
    if failed:
        return failed
    if lost:
        who, why = lost[0]
        return f"{who} disconnected: {why}"
    if first is None or last is None:
        return "never had media" if ended - started > SILENT_END else None
    if ended - last > SILENT_END:
        return f"silent for the last {ended - last:.1f} s"
    return None


def _by_id(entries: t.Iterable[t.Mapping[str, t.Any]]) -> dict[str, t.Mapping[str, t.Any]]:
    return {e["rtc"]["id"]: e for e in entries}


def carried_by(local: t.Mapping[str, t.Any]) -> str:
    """udp, tcp, turn/udp, turn/tcp or turn/tls from the local side of the candidate pair in use."""
    if local.get("candidate_type") != "RELAY":
        return str(local.get("protocol") or "unknown").lower()
    relay = str(local.get("relay_protocol") or "").lower().replace("relay_", "")
    if relay not in ("udp", "tcp", "tls"):
        url = str(local.get("url") or "")
        relay = "tls" if url.startswith("turns:") else "tcp" if "transport=tcp" in url else "udp"
    return f"turn/{relay}"


def _endpoint(candidate: t.Mapping[str, t.Any]) -> str | None:
    address = str(candidate.get("address") or "")
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{candidate.get('port')}" if candidate else None


def path_of(stats: t.Iterable[t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """Which way media goes, from the statistics of one peer connection (a list of {kind: {...}}).

    {transport, local, remote, relay, rtt_ms} of the selected candidate pair, and {packets, lost, loss_percent,
    jitter_ms} of the audio that came in, where there is any. Empty when nothing is connected.
    """
    kinds: dict[str, list[t.Mapping[str, t.Any]]] = {}
    for entry in stats:
        for kind, value in entry.items():
            kinds.setdefault(kind, []).append(value)
    pairs = _by_id(kinds.get("candidate_pair", ()))
    wanted = [x["transport"].get("selected_candidate_pair_id") for x in kinds.get("transport", ())]
    chosen = [pairs[i] for i in wanted if i in pairs]
    chosen = chosen or [p for p in pairs.values() if p["candidate_pair"].get("nominated")]
    out: dict[str, t.Any] = {}
    if chosen:
        pair = chosen[0]["candidate_pair"]
        local = _by_id(kinds.get("local_candidate", ())).get(pair.get("local_candidate_id"), {}).get("candidate", {})
        remote = _by_id(kinds.get("remote_candidate", ())).get(pair.get("remote_candidate_id"), {}).get("candidate", {})
        out = {
            "transport": carried_by(local),
            "local": _endpoint(local),
            "remote": _endpoint(remote),
            "relay": local.get("url") or None if local.get("candidate_type") == "RELAY" else None,
            "rtt_ms": round(1000 * float(pair.get("current_round_trip_time") or 0), 1),
        }
    audio = [x for x in kinds.get("inbound_rtp", ()) if x.get("stream", {}).get("kind") == "audio"]
    if audio:
        received = sum(int(x["received"].get("packets_received") or 0) for x in audio)
        lost = sum(max(0, int(x["received"].get("packets_lost") or 0)) for x in audio)
        out.update(
            packets=received, lost=lost, loss_percent=loss_percent(received, lost),
            jitter_ms=round(1000 * max(float(x["received"].get("jitter") or 0) for x in audio), 1),
        )
    return out


def signal_url(url: str) -> str:
    """The URL as clients write it: ws for http, wss for https."""
    return re.sub(r"^http", "ws", url)


def without_tokens(text: str) -> str:
    """LiveKit repeats a token it refuses in its answer; nobody else needs to read it."""
    return re.sub(r"eyJ[\w-]+\.[\w-]+\.[\w-]*", "(token)", text)


def loss_percent(received: int, lost: int) -> float | None:
    """Share of packets that never came, in percent; None when none was due."""
    return round(100.0 * lost / (received + lost), 3) if received + lost else None


def unmet(
    result: t.Mapping[str, t.Any], max_join_ms: int | None = None, max_first_media_ms: int | None = None, max_gap_ms: int | None = None,
    max_loss_percent: float | None = None, transports: t.Collection[str] = (),
) -> list[dict[str, str]]:
    """Figures of a call that are not what was asked for: [{got, fix}]."""
    longest = round(1000 * max((g["seconds"] for g in result["gaps"]), default=0.0))
    slow = "Look at the load of node and balancer and at the way there (openrtc.livekit.node_info, ping), or allow more."
    out = []
    for got, limit, what, unit, fix in (
        (result["join_ms"], max_join_ms, "joining took", " ms", slow),
        (result["first_media_ms"], max_first_media_ms, "the first sound took", " ms", slow),
        (longest, max_gap_ms, "the longest silence was", " ms", slow),
        (result["loss_percent"], max_loss_percent, "packet loss was", " %",
         "Look for a full link, a small UDP buffer (net.core.rmem_max, role kernel) or a busy CPU on the node."),
    ):
        if limit is not None and (got is None or got > limit):
            out.append({"got": f"{what} {got}{unit}, more than {limit}{unit}" if got is not None else f"{what}: not known", "fix": fix})
    if transports and result["transport"] not in transports:
        out.append({
            "got": f"media came over {result['transport']}, not {' or '.join(sorted(transports))}",
            "fix": "tcp instead of udp: the slot's UDP range is closed on the way or rtc.node_ip is wrong. turn: neither UDP nor ICE/TCP "
                   "came through. udp instead of turn: nothing forces the relay, set transport to relay.",
        })
    return out


def connect_code(text: str) -> str:
    """Which kind of failure the SDK's connect error is: probe_tls, probe_auth, probe_media or probe_signal."""
    text = text.lower()
    if "certificate" in text or "tls" in text and "handshake" in text:
        return "probe_tls"
    if re.search(r"\b40[13]\b|unauthori|permission|invalid token|api key|token is expired", text):
        return "probe_auth"
    if re.search(r"pc_?connection|peer ?connection|ice |dtls|wait_pc|connectivity", text):
        return "probe_media"
    return "probe_signal"


def fix_for(code: str, url: str = "", node_id: str | None = None, ports: t.Mapping[str, t.Any] | None = None) -> str:
    """What to do about a failed probe."""
    at = f" (node {node_id})" if node_id else ""
    if ports and ports.get("udp"):
        first, last = ports["udp"]
        way = f"UDP {first}-{last} and TCP {ports.get('ice_tcp', 'of ICE')}"
    else:
        way = "the slot's UDP range and its ICE/TCP port (slot 1: UDP 50000-50099 and TCP 7881)"
    return {
        "probe_signal": f"Check that {url or 'the URL'} is the address of the balancer or node, that its port is open from here, "
                        "that the service runs (systemctl status 'livekit-server@*') and that the balancer has a live server.",
        "probe_tls": "The certificate is not trusted from here: give ca_file with the CA that signed it, or use a certificate "
                     "of a public CA; its names must contain the host of the URL.",
        "probe_auth": "The key or the secret is not one of this node's keys, or the clocks differ: compare livekit_keys with the "
                      "keys file of the slot and check the time of both hosts.",
        "probe_node": "No live node of that ID: read the IDs of running nodes with openrtc.livekit.node_info; an ID is new at "
                      "each start of a node.",
        "probe_room": "The server refused to make a room: its own message tells why; see the log of the node "
                      "(journalctl -u 'livekit-server@*').",
        "probe_media": f"Signalling works, media does not{at}: open {way} from clients to the host, and check that "
                       "rtc.node_ip (livekit_node_ip) is an address clients reach, not a private one behind NAT.",
        "probe_relay": f"No way through TURN{at}: check livekit_turn (enabled, domain, certificate, 443/TCP or the TURN/UDP port "
                       "open, relay range open between nodes) and that a public CA signed its certificate, for the native "
                       "client trusts no other for TURN/TLS.",
        "probe_drop": f"The call was cut while it ran{at}: see the log of that node (journalctl -u 'livekit-server@*') and "
                      "whether somebody stopped it or closed the room.",
        "probe_timeout": "Nothing answered in time: check the load of the node and of this machine, and raise timeout.",
        "probe_crash": "The child process of the probe ended early; its last words are in the message. "
                       "Check that pip install livekit==1.2.0 suits this Python.",
    }.get(code, "See the message.")


# ---------------------------------------------------------------- the SDK


def trust(ca_file: str | None, env: t.MutableMapping[str, str]) -> None:
    """Let a process with this environment trust ca_file besides the system's CAs."""
    if ca_file:
        env["SSL_CERT_FILE"] = os.path.abspath(ca_file)
        env.setdefault("SSL_CERT_DIR", ssl.get_default_verify_paths().openssl_capath)


def isolate(ca_file: str | None = None) -> None:
    """Prepare this process for calls: once, before the SDK is loaded.

    Sets the CA file, drops HTTP proxies (the native client would send even ws://127.0.0.1 through them, while media
    never takes that way) and keeps the library's debug log out of Python (it costs half of the CPU of a call).
    """
    trust(ca_file, os.environ)
    for name in PROXIES:
        os.environ.pop(name, None)
    with contextlib.suppress(ImportError, AttributeError):
        ffi = importlib.import_module("livekit.rtc._ffi_client")
        load = ffi.get_ffi_lib

        def quiet() -> t.Any:
            lib = load()
            native = lib.livekit_ffi_initialize

            def initialize(callback: t.Any, capture_logs: bool, sdk: bytes, version: bytes) -> t.Any:
                return native(callback, False, sdk, version)

            lib.livekit_ffi_initialize = initialize
            return lib

        if not getattr(ffi, "_openrtc_quiet", False):
            ffi.get_ffi_lib = quiet
            ffi._openrtc_quiet = True


def _sdk() -> tuple[t.Any, t.Any]:
    """(livekit.rtc, livekit.api), loaded on first use."""
    found = []
    for name, package in (("livekit.rtc", "livekit==1.2.0 (pip only)"), ("livekit.api", "livekit-api (pip only)")):
        try:
            found.append(importlib.import_module(name))
        except ImportError:
            require(None, package.split(" ", maxsplit=1)[0], package)
    return found[0], found[1]


def warm() -> None:
    """Load the library now, so that no call waits for it."""
    _sdk()
    with contextlib.suppress(AttributeError):
        importlib.import_module("livekit.rtc._ffi_client").FfiClient.instance.queue
    _tone()


def token(key: str, secret: str, room: str, identity: str) -> str:
    """A token to join the room."""
    _rtc, api = _sdk()
    return api.AccessToken(key, secret).with_identity(identity).with_grants(api.VideoGrants(room_join=True, room=room)).to_jwt()


@functools.lru_cache(maxsize=1)
def _tone() -> tuple[bytes, int]:
    """200 ms of the tone as 16-bit samples: whole periods, so that copies join without a click."""
    count = RATE // 5
    wave = (int(TONE_PEAK * math.sin(2 * math.pi * TONE_HZ * i / RATE)) for i in range(count))
    return array.array("h", wave).tobytes(), count


def _narrow(stream: t.Any, rtc: t.Any) -> None:
    """Let an audio stream be woken by its own frames only; as it comes it wakes for those of every stream in the process."""
    with contextlib.suppress(AttributeError, TypeError):
        queue, own, handle = importlib.import_module("livekit.rtc._ffi_client").FfiClient.instance.queue, stream._ffi_queue, stream._ffi_handle.handle

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
        connect_timeout: float | None = None, one_peer_connection: bool = False, on_event: t.Callable[[Call, dict[str, t.Any]], None] | None = None,
    ) -> None:
        if transport not in TRANSPORTS:
            raise FleetError("place a call", room, f"transport {transport}", f"Use one of {', '.join(TRANSPORTS)}.", code="probe_argument")
        self.url, self.room, self.transport = signal_url(url), room, transport
        self._key, self._secret, self._connect_timeout = key, secret, connect_timeout
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
        rtc, _api = _sdk()
        self.started = time.time()
        options = rtc.RoomOptions(connect_timeout=self._connect_timeout, single_peer_connection=self._one)
        if self.transport == "relay":
            options.rtc_config = rtc.RtcConfiguration(ice_transport_type=rtc.IceTransportType.TRANSPORT_RELAY)

        async def join(who: str) -> None:
            room = rtc.Room()
            self._watch(who, room, rtc)
            if who == "subscriber":
                room.on("track_subscribed", lambda track, _publication, _participant: self._spawn(self._listen(track, rtc)))
            begun = time.time()
            await room.connect(self.url, token(self._key, self._secret, self.room, who), options)
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
        wave, count = _tone()
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


# ---------------------------------------------------------------- the probe


async def probe(
    url: str, key: str, secret: str, node_id: str | None = None, seconds: float = 2.0, room: str | None = None,
    transport: str = "any", timeout: float = 30.0, threshold: float = SILENCE, ports: t.Mapping[str, t.Any] | None = None,
) -> dict[str, t.Any]:
    """One real call through url, in a fresh room, pinned to node_id when given. The room is deleted whatever happens.

    seconds count from the first sound. transport: any; relay = only through TURN; tcp = ask the server for ICE/TCP.
    ports ({udp: [first, last], ice_tcp: n}) only make the advice of a failure more exact.
    Raises FleetError with code probe_signal, probe_tls, probe_auth, probe_node, probe_room, probe_media, probe_relay,
    probe_drop or probe_timeout; its failure mapping has C(call), the record so far.
    """
    _rtc, api = _sdk()
    name = room or f"probe-{uuid.uuid4().hex[:16]}"
    on = f"{url}, node {node_id}" if node_id else url
    call: Call | None = None

    def failure(code: str, got: t.Any, tried: str = "place a test call") -> FleetError:
        more = {"call": call.result()} if call else {}
        return FleetError(tried, on, got, fix_for(code, url, node_id, ports), code=code, room=name, node_id=node_id, **more)

    try:
        lk = api.LiveKitAPI(url, key, secret, failover=False)
    except ValueError as error:
        raise failure("probe_auth", error) from error
    deadline = time.monotonic() + timeout
    try:
        await _create_room(lk, api, name, node_id, min(10.0, timeout), failure)
        call = Call(url, key, secret, name, threshold=threshold, transport=transport)
        try:
            async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                async with asyncio.timeout(JOIN_TIME):
                    joined = await call.open()
                if joined:
                    audible = asyncio.ensure_future(call.audible.wait())
                    over = asyncio.ensure_future(call.over.wait())
                    await asyncio.wait([audible, over], timeout=10, return_when=asyncio.FIRST_COMPLETED)
                    audible.cancel()
                    over.cancel()
                    if call.audible.is_set():
                        await call.wait(seconds)
        except TimeoutError as error:
            seen = await _seen_by_server(lk, api, name)
            await call.close()
            if not call.audible.is_set() and (seen or call.joins):
                code = "probe_relay" if transport == "relay" else "probe_media"
                raise failure(code, f"signalling works ({seen or len(call.joins)} of 2 known to the server), but no media connection came up") from error
            raise failure("probe_timeout", f"not done after {timeout:g} s ({_stage(call)})") from error
        finally:
            await call.close()
        return _judge(call, transport, node_id, failure)
    finally:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(lk.room.delete_room(api.DeleteRoomRequest(room=name)), 5)
        await lk.aclose()


async def _create_room(
    lk: t.Any, api: t.Any, name: str, node_id: str | None, timeout: float, failure: t.Callable[..., FleetError],
) -> None:
    aiohttp = importlib.import_module("aiohttp")
    # a short departure timeout: a node that drains next shall not wait for the room of its own gate
    request = api.CreateRoomRequest(name=name, empty_timeout=60, departure_timeout=1, max_participants=4)
    if node_id:
        request.node_id = node_id
    step = "create the room of a test call"
    try:
        await asyncio.wait_for(lk.room.create_room(request), timeout)
    except api.TwirpError as error:
        text = f"{error.code}: {error.message} (HTTP {error.status})"
        if error.status in (401, 403) or error.code in ("unauthenticated", "permission_denied"):
            raise failure("probe_auth", text, step) from error
        if node_id and re.search("node|could not find object", error.message.lower()):  # the latter is what 1.13 says of an unknown ID
            raise failure("probe_node", text, step) from error
        if error.status in (404, 502, 503, 504):
            raise failure("probe_signal", text, step) from error
        raise failure("probe_room", text, step) from error
    except aiohttp.ClientSSLError as error:
        raise failure("probe_tls", error, step) from error
    except asyncio.TimeoutError as error:
        raise failure("probe_timeout", f"no answer within {timeout:g} s", step) from error
    except (aiohttp.ClientError, OSError) as error:
        raise failure("probe_signal", error or repr(error), step) from error


async def _seen_by_server(lk: t.Any, api: t.Any, room: str) -> int:
    """How many participants the server knows in the room: those reached it, whatever became of their media."""
    try:
        found = await asyncio.wait_for(lk.room.list_participants(api.ListParticipantsRequest(room=room)), 3)
    except Exception:  # pylint: disable=broad-except
        return 0
    return len(found.participants)


def _stage(call: Call) -> str:
    if len(call.joins) < 2:
        return f"joined: {', '.join(call.joins) or 'nobody'}"
    return "media flowed" if call.audible.is_set() else "joined, no media"


def _judge(call: Call, transport: str, node_id: str | None, failure: t.Callable[..., FleetError]) -> dict[str, t.Any]:
    """The result of a probe, or the FleetError its call deserves."""
    out = call.result()
    if call.failed:
        code = connect_code(call.failed)
        raise failure("probe_relay" if code == "probe_media" and transport == "relay" else code, call.failed)
    if call.lost:
        raise failure("probe_drop", out["reason"])
    if call.heard.first is None:
        raise failure("probe_relay" if transport == "relay" else "probe_media", "joined, but no sound came through")
    if out["dropped"]:
        raise failure("probe_drop", out["reason"])
    return {"ok": True, "node_id": node_id, **out}


# ---------------------------------------------------------------- as a program, in a process of its own

REQUEST_KEYS = {"url", "key", "secret", "node_id", "seconds", "room", "transport", "timeout", "threshold", "ports"}


async def _answer(request: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    base = {"ok": False, "room": request.get("room"), "node_id": request.get("node_id"), "url": request.get("url")}
    unknown = set(request) - REQUEST_KEYS
    try:
        if unknown or not {"url", "key", "secret"} <= set(request):
            raise FleetError(
                "read a probe request", str(request.get("url")), f"unknown: {sorted(unknown)}" if unknown else "url, key or secret is missing",
                f"Use the keys {', '.join(sorted(REQUEST_KEYS))}.", code="probe_argument",
            )
        return await probe(**request)
    except FleetError as error:
        record = error.failure.pop("call", None) or {}
        return {**record, **base, "room": error.failure.get("room", base["room"]), "reason": error.failure["got"], **error.as_result()}
    except Exception as error:  # pylint: disable=broad-except
        failed = FleetError("place a test call", str(request.get("url")), repr(error), fix_for("probe_crash"), code="probe_crash")
        return {**base, "reason": repr(error), **failed.as_result()}


def main() -> None:
    """One request or a list of them on stdin, results on stdout; nothing else gets there."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asked = json.load(sys.stdin)
    many = isinstance(asked, list)
    requests: list[dict[str, t.Any]] = [dict(r) for r in (asked if many else [asked])]
    files = {r.pop("ca_file", None) for r in requests} - {None}
    parallel = max([int(r.pop("parallel", 4)) for r in requests] or [4])
    isolate(next(iter(files)) if files else None)

    with contextlib.suppress(FleetError, ImportError):  # each request tells it properly
        warm()

    async def work() -> None:
        gate = asyncio.Semaphore(parallel)

        async def one(index: int, request: dict[str, t.Any]) -> None:
            async with gate:
                result = await _answer(request)
            out.write(json.dumps({"index": index, "result": result} if many else result) + "\n")
            out.flush()

        await asyncio.gather(*(one(i, r) for i, r in enumerate(requests)))

    asyncio.run(work())
    out.flush()
    os._exit(0)  # the native library may abort the process while Python takes itself down


def run_in_child(
    requests: t.Sequence[t.Mapping[str, t.Any]], timeout: float = 60.0, ca_file: str | None = None, parallel: int = 4,
    python: str | None = None,
) -> list[dict[str, t.Any]]:
    """All requests (arguments of C(probe)) in one child process, several at a time; one result for each, in order.

    The child is killed by its pid after timeout; requests without an answer then get the failure probe_timeout.
    """
    if not requests:
        return []
    env = {k: v for k, v in os.environ.items() if k not in PROXIES}
    env.update(PYTHONPATH=str(pathlib.Path(__file__).parent.parent), PYTHONSAFEPATH="1", PYTHONDONTWRITEBYTECODE="1")
    if ca_file:
        if not os.path.isfile(ca_file):
            raise FleetError(
                "read the CA file", ca_file, "no such file", "Give the path of a PEM file on the machine that places the call.",
                code="probe_argument",
            )
        trust(ca_file, env)
    package = pathlib.Path(__file__).parent.name
    with subprocess.Popen(
        [python or sys.executable, "-m", f"{package}.probe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=env, start_new_session=True,
    ) as child:
        ask = json.dumps([{**r, "parallel": parallel} for r in requests]).encode()
        try:
            out, err = child.communicate(ask, timeout=timeout)
            late = False
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            late = True
    answers: dict[int, dict[str, t.Any]] = {}
    for line in out.decode(errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            answers[entry["index"]] = entry["result"]
    words = err.decode(errors="replace").strip()[-400:]
    results = []
    for index, request in enumerate(requests):
        if index not in answers:
            code = "probe_timeout" if late else "probe_crash"
            got = f"no answer within {timeout:g} s" if late else f"the child ended with {child.returncode}: {words or 'no message'}"
            failed = FleetError("place a test call", str(request.get("url")), got, fix_for(code), code=code)
            answers[index] = {
                "ok": False, "room": request.get("room"), "node_id": request.get("node_id"), "url": request.get("url"),
                "reason": got, **failed.as_result(),
            }
        results.append(answers[index])
    return results


if __name__ == "__main__":
    main()
