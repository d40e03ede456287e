# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the timeline and the statistics of a call mean: silences, drops, the way of media, missed limits, advice. Pure.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import re
import typing as t

LOUD = 1000  # a sample beyond this is the tone, not comfort noise
SILENCE = 0.25  # shorter pauses are not written down
SILENT_END = 3.0  # a call that heard nothing for so long at its end was lost


# ---------------------------------------------------------------- what was heard


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


# ---------------------------------------------------------------- which way it went


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


def loss_percent(received: int, lost: int) -> float | None:
    """Share of packets that never came, in percent; None when none was due."""
    return round(100.0 * lost / (received + lost), 3) if received + lost else None


# ---------------------------------------------------------------- what is not as it should be, and what to do about it


def signal_url(url: str) -> str:
    """The URL as clients write it: ws for http, wss for https."""
    return re.sub(r"^http", "ws", url)


def without_tokens(text: str) -> str:
    """LiveKit repeats a token it refuses in its answer; nobody else needs to read it."""
    return re.sub(r"eyJ[\w-]+\.[\w-]+\.[\w-]*", "(token)", text)


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
