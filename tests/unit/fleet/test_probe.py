# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a call's timeline means: silences, drops, the way of media, advice; and the child process with a server that is not there."""
from __future__ import annotations

import array
import asyncio
import math
import os
import socket
import time

import pytest

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import call, call_figures, probe, sdk
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError

T = 1_700_000_000.0


def tone(count, peak=8000):
    return [int(peak * math.sin(2 * math.pi * 400 * i / 48000)) for i in range(count)]


# --- silences


@pytest.mark.parametrize(("samples", "first", "last"), [
    (tone(4800), 8, 4792), ([0] * 2400 + tone(2400), 2408, 4792), (tone(2400) + [0] * 2400, 8, 2392),
    ([0] * 2000 + tone(480) + [0] * 2320, 2008, 2472),
])
def test_sound_is_found_to_the_sample_within_a_block(samples, first, last):
    span = call_figures.loud_span(memoryview(array.array("h", samples)))
    assert span is not None
    assert abs(span[0] - first) <= 16
    assert abs(span[1] - last) <= 16


@pytest.mark.parametrize("samples", [[0] * 4800, tone(4800, peak=300), []])
def test_comfort_noise_and_silence_are_not_sound(samples):
    assert call_figures.loud_span(samples) is None


def test_loudest_negative_sample_counts():
    assert call_figures.loud_span([-32768] * 16) == (0, 8)


def feed(heard, *stretches):
    for start, end in stretches:
        at = start
        while at < end - 1e-9:
            heard.add(at, min(at + 0.1, end))
            at += 0.1


def test_a_silence_over_the_threshold_is_a_gap_with_its_begin_and_length():
    heard = call_figures.Heard(0.25)
    feed(heard, (T, T + 2), (T + 2.8, T + 4))
    assert heard.gaps == [{"start": T + 2, "seconds": 0.8}]
    assert heard.first == T
    assert heard.last == pytest.approx(T + 4)
    assert heard.seconds == pytest.approx(3.2)


def test_a_short_pause_is_no_gap_and_the_threshold_is_a_parameter():
    for threshold, gaps in ((0.25, 0), (0.1, 1)):
        heard = call_figures.Heard(threshold)
        feed(heard, (T, T + 1), (T + 1.2, T + 2))
        assert len(heard.gaps) == gaps


def test_two_streams_that_overlap_during_a_reconnect_are_heard_once():
    heard = call_figures.Heard()
    heard.add(T, T + 1)
    heard.add(T + 0.5, T + 1.5)
    heard.add(T + 0.6, T + 0.9)
    assert heard.seconds == pytest.approx(1.5)
    assert heard.last == T + 1.5
    assert heard.gaps == []


def test_a_silence_that_lasts_at_the_end_is_an_open_gap():
    heard = call_figures.Heard()
    feed(heard, (T, T + 1))
    assert heard.until(T + 1.1) == []
    assert heard.until(T + 3) == [{"start": pytest.approx(T + 1), "seconds": pytest.approx(2), "open": True}]
    assert heard.gaps == []


def test_nothing_heard_has_no_gap_and_no_age():
    heard = call_figures.Heard()
    assert heard.until(T) == []
    assert heard.age(T) is None


# --- dropped


@pytest.mark.parametrize(("call", "reason"), [
    ({"ended": T + 60, "first": T + 1, "last": T + 59.9}, None),
    ({"ended": T + 60, "first": T + 1, "last": T + 57.1}, None),
    ({"ended": T + 60, "first": T + 1, "last": T + 50}, "silent for the last 10.0 s"),
    ({"ended": T + 60, "first": None, "last": None}, "never had media"),
    ({"ended": T + 2, "first": None, "last": None}, None),
    ({"ended": T + 30, "first": T + 1, "last": T + 30, "lost": [("subscriber", "SERVER_SHUTDOWN")]}, "subscriber disconnected: SERVER_SHUTDOWN"),
    ({"ended": T + 1, "first": None, "last": None, "failed": "publisher could not join: x"}, "publisher could not join: x"),
])
def test_what_counts_as_dropped(call, reason):
    assert call_figures.drop_reason(T, **call) == reason


# --- the way of media


def stats(local, selected=True, nominated=True, lost=0):
    pair = {"local_candidate_id": "L", "remote_candidate_id": "R", "nominated": nominated, "current_round_trip_time": 0.0123}
    other = {"local_candidate_id": "L2", "remote_candidate_id": "R", "nominated": False}
    return [
        {"candidate_pair": {"rtc": {"id": "other"}, "candidate_pair": other}},
        {"candidate_pair": {"rtc": {"id": "P"}, "candidate_pair": pair}},
        {"local_candidate": {"rtc": {"id": "L"}, "candidate": {"address": "10.0.0.1", "port": 40000, "candidate_type": "HOST", **local}}},
        {"local_candidate": {"rtc": {"id": "L2"}, "candidate": {"address": "10.0.0.9", "port": 1, "candidate_type": "HOST", "protocol": "tcp"}}},
        {"remote_candidate": {"rtc": {"id": "R"}, "candidate": {"address": "10.0.0.2", "port": 50003, "candidate_type": "HOST", "protocol": "udp"}}},
        {"transport": {"rtc": {"id": "T"}, "transport": {"selected_candidate_pair_id": "P" if selected else ""}}},
        {"inbound_rtp": {"stream": {"kind": "audio"}, "received": {"packets_received": "990", "packets_lost": str(lost), "jitter": 0.004}}},
        {"inbound_rtp": {"stream": {"kind": "video"}, "received": {"packets_received": "7", "packets_lost": "7", "jitter": 1}}},
    ]


@pytest.mark.parametrize(("local", "way"), [
    ({"protocol": "udp"}, "udp"),
    ({"protocol": "tcp", "tcp_type": "CANDIDATE_ACTIVE"}, "tcp"),
    ({"protocol": "udp", "candidate_type": "PRFLX"}, "udp"),
    ({"protocol": "udp", "candidate_type": "RELAY", "relay_protocol": "RELAY_UDP"}, "turn/udp"),
    ({"protocol": "udp", "candidate_type": "RELAY", "relay_protocol": "tls"}, "turn/tls"),
    ({"protocol": "udp", "candidate_type": "RELAY", "relay_protocol": "tcp"}, "turn/tcp"),
    ({"protocol": "udp", "candidate_type": "RELAY", "url": "turns:turn.example.com:443?transport=tcp"}, "turn/tls"),
    ({"protocol": "udp", "candidate_type": "RELAY", "url": "turn:10.0.0.2:3478?transport=tcp"}, "turn/tcp"),
    ({"protocol": "udp", "candidate_type": "RELAY", "url": "turn:10.0.0.2:3478?transport=udp"}, "turn/udp"),
])
def test_the_selected_pair_tells_the_transport(local, way):
    path = call_figures.path_of(stats(local))
    assert path["transport"] == way
    assert path["remote"] == "10.0.0.2:50003"
    assert path["rtt_ms"] == 12.3


def test_loss_and_jitter_are_of_the_audio_that_came_in():
    path = call_figures.path_of(stats({"protocol": "udp"}, lost=10))
    assert (path["packets"], path["lost"], path["loss_percent"], path["jitter_ms"]) == (990, 10, 1.0, 4.0)


def test_without_a_selected_pair_the_nominated_one_counts_and_without_any_nothing_is_claimed():
    assert call_figures.path_of(stats({"protocol": "udp"}, selected=False))["transport"] == "udp"
    assert "transport" not in call_figures.path_of(stats({"protocol": "udp"}, selected=False, nominated=False))
    assert call_figures.path_of([]) == {}


def test_an_ipv6_endpoint_is_readable():
    assert call_figures.path_of(stats({"protocol": "udp", "address": "fd00::1"}))["local"] == "[fd00::1]:40000"


def test_loss_is_unknown_without_packets():
    assert call_figures.loss_percent(0, 0) is None


# --- failures and limits


@pytest.mark.parametrize(("text", "code"), [
    ("engine: signal failure: transport connection error: IO error: invalid peer certificate: UnknownIssuer", "probe_tls"),
    ("engine: signal failure: transport connection error: IO error: Connection refused (os error 111)", "probe_signal"),
    ("engine: signal failure: server returned 401 Unauthorized: invalid API key", "probe_auth"),
    ("engine: connection error: wait_pc_connection timed out", "probe_media"),
    ("engine: signal failure: server returned 503", "probe_signal"),
])
def test_connect_errors_are_told_apart(text, code):
    assert call_figures.connect_code(text) == code


def test_advice_names_the_ports_of_the_slot():
    assert "UDP 50100-50199 and TCP 7891" in call_figures.fix_for("probe_media", ports={"udp": [50100, 50199], "ice_tcp": 7891})
    assert "node_ip" in call_figures.fix_for("probe_media")
    assert "wss://x" in call_figures.fix_for("probe_signal", "wss://x")


GOOD = {"join_ms": 120, "first_media_ms": 350, "gaps": [], "loss_percent": 0.0, "transport": "udp"}


def test_a_call_within_all_limits_has_nothing_unmet():
    assert call_figures.unmet(GOOD, 200, 500, 0, 1.0, ["udp", "tcp"]) == []
    assert call_figures.unmet({**GOOD, "loss_percent": None, "transport": None}) == []


@pytest.mark.parametrize(("call", "limit", "words"), [
    ({"join_ms": 300}, {"max_join_ms": 200}, "joining took 300 ms, more than 200 ms"),
    ({"first_media_ms": 900}, {"max_first_media_ms": 500}, "the first sound took 900 ms"),
    ({"gaps": [{"start": T, "seconds": 0.4}, {"start": T, "seconds": 0.6}]}, {"max_gap_ms": 500}, "the longest silence was 600 ms"),
    ({"loss_percent": 2.5}, {"max_loss_percent": 1.0}, "packet loss was 2.5 %"),
    ({"loss_percent": None}, {"max_loss_percent": 1.0}, "packet loss was: not known"),
    ({"transport": "tcp"}, {"transports": ["udp"]}, "media came over tcp, not udp"),
])
def test_each_limit_is_held(call, limit, words):
    found = call_figures.unmet({**GOOD, **call}, **limit)
    assert len(found) == 1
    assert words in found[0]["got"]
    assert found[0]["fix"]


def test_urls_are_taken_in_either_form():
    assert [call_figures.signal_url(u) for u in ("http://a:1", "https://a", "ws://a", "wss://a")] == ["ws://a:1", "wss://a", "ws://a", "wss://a"]


def test_trust_keeps_the_systems_list():
    env = {}
    sdk.trust("ca.pem", env)
    assert env["SSL_CERT_FILE"] == os.path.abspath("ca.pem")
    assert env["SSL_CERT_DIR"]
    sdk.trust(None, untouched := {})
    assert untouched == {}


def test_the_tone_has_whole_periods_and_is_loud():
    wave, count = call.tone()
    samples = array.array("h", wave)
    assert len(samples) == count == 9600
    assert count % (call.RATE // call.TONE_HZ) == 0
    assert max(samples) > 7 * call_figures.LOUD


def test_a_call_refuses_a_transport_it_does_not_know():
    async def make():
        call.Call("ws://x", "k", "s", "r", transport="carrier pigeon")

    with pytest.raises(FleetError, match="carrier pigeon"):
        asyncio.run(make())


# --- the child process, with the real SDK


def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


SECRET = "s3cr3t-s3cr3t-s3cr3t-s3cr3t-s3cr3t"


def test_a_probe_of_nothing_fails_with_the_fix_and_without_the_secret():
    url = f"http://127.0.0.1:{closed_port()}"
    answers = probe.run_in_child([{"url": url, "key": "k", "secret": SECRET}, {"url": url, "key": "k", "secret": SECRET, "bogus": 1}], timeout=60)
    assert [a["ok"] for a in answers] == [False, False]
    assert [a["failure"]["code"] for a in answers] == ["probe_signal", "probe_argument"]
    assert url in answers[0]["msg"]
    assert "balancer" in answers[0]["failure"]["fix"]
    assert "bogus" in answers[1]["msg"]
    assert SECRET not in repr(answers)


def test_a_child_that_hangs_is_killed_and_told_as_timeout():
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes the connection, never answers
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        begin = time.monotonic()
        answer = probe.run_in_child([{"url": url, "key": "k", "secret": SECRET, "timeout": 50}], timeout=4)[0]
    assert time.monotonic() - begin < 8
    assert answer["failure"]["code"] == "probe_timeout"


def test_a_server_that_does_not_answer_is_told_by_the_probe_itself():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        answer = probe.run_in_child([{"url": url, "key": "k", "secret": SECRET, "timeout": 1}], timeout=40)[0]
    assert answer["failure"]["code"] == "probe_timeout"
    assert answer["room"].startswith("probe-")


def test_no_child_for_no_request_and_no_secret_in_its_arguments(monkeypatch):
    seen = {}
    real = probe.subprocess.Popen

    def spy(argv, **more):
        seen.update(argv=argv, env=more["env"])
        return real(argv, **more)

    monkeypatch.setattr(probe.subprocess, "Popen", spy)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert probe.run_in_child([]) == []
    assert not seen
    probe.run_in_child([{"url": "nonsense://", "key": "k", "secret": SECRET, "bogus": 1}], timeout=40)
    assert SECRET not in repr(seen)
    assert "HTTPS_PROXY" not in seen["env"]


def test_a_ca_file_that_is_not_there_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(FleetError, match="no such file"):
        probe.run_in_child([{"url": "wss://x", "key": "k", "secret": SECRET}], ca_file=str(tmp_path / "none.pem"))


def test_calls_use_a_peer_connection_for_each_way(monkeypatch):
    """With one for both, the SDK 1.2.0 loses publishers by itself, at joins and at full reconnects."""
    from livekit import rtc

    seen = []

    class Refused:
        def __init__(self):
            self.on = lambda *_: None

        async def connect(self, _url, _token, options):
            seen.append(options.single_peer_connection)
            raise rtc.ConnectError("engine: no such thing")

    monkeypatch.setattr(rtc, "Room", Refused)

    async def place():
        return await call.Call("ws://127.0.0.1:1", "key", SECRET, "room").run(5)

    record = asyncio.run(place())
    assert seen == [False, False]
    assert record["dropped"]
    assert record["reason"] == "publisher could not join: engine: no such thing"
    assert record["join_ms"] is None
    assert [e["event"] for e in record["events"]] == ["join failed"]


def test_a_refused_token_is_not_repeated() -> None:
    assert call_figures.without_tokens("401 - invalid token: eyJhbGci.eyJ2aWRl-_.sig, error") == "401 - invalid token: (token), error"
