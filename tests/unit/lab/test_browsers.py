# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Browser calls without a browser: what the pages' news come to, the arguments, and which livekit-client is taken."""
from __future__ import annotations

import base64
import hashlib
import importlib
import io
import json
import pathlib
import re
import sys
import tarfile
import urllib.error
import urllib.request

import pytest

LAB = pathlib.Path(__file__).resolve().parents[3] / "lab"
T = 1_700_000_000.0
URL = "ws://192.0.2.10:7880"


@pytest.fixture(name="browsers", scope="module")
def fixture_browsers():
    sys.path[:0] = [str(LAB), str(LAB / "browser")]
    try:
        yield importlib.import_module("browsers")
    finally:
        for path in (LAB, LAB / "browser"):
            sys.path.remove(str(path))


@pytest.fixture(name="npm")
def fixture_npm(browsers):
    return browsers.npm


def frames(start, end, fps=15, late=0.0):
    """Frames as a page tells them: when shown, when they came."""
    return [(T + start + n / fps, T + start - late + n / fps) for n in range(int((end - start) * fps) + 1)]


@pytest.fixture(name="record")
def fixture_record(browsers):
    record = browsers.Record(2, "b-2", URL, "ND_a")
    record.started = T
    record.take("publisher", {"joinMs": 300})
    record.take("subscriber", {"joinMs": 400, "frames": frames(1, 5)})
    return record


def test_a_call_without_gaps_looks_like_one_of_the_other_callers(record):
    result = record.result(T + 5.1)
    assert (result["client"], result["line"], result["room"], result["node_id"], result["url"]) == ("browser", 2, "b-2", "ND_a", URL)
    assert (result["join_ms"], result["first_media_ms"], result["frames"], result["gaps"], result["dropped"]) == (400, 1000, 61, [], False)
    assert result["media_seconds"] == 4.0


def test_a_gap_is_found_across_two_looks_and_not_counted_as_media(record):
    record.take("subscriber", {"frames": frames(7.2, 9)})
    result = record.result(T + 9.1)
    assert result["gaps"] == [{"start": pytest.approx(T + 5), "seconds": pytest.approx(2.2)}]
    assert [(e["event"], e["who"]) for e in result["events"]] == [("gap", "subscriber")]
    assert result["media_seconds"] == pytest.approx(5.8, abs=0.1)


def test_a_page_that_was_held_up_itself_is_named_with_the_gap(record):
    record.take("subscriber", {"frames": frames(5.5, 6), "lagMs": 410})
    assert record.result(T + 6)["gaps"][0]["client_lag_ms"] == 410


def test_frames_that_came_in_time_and_were_shown_late_are_the_browsers_own_silence(record):
    record.take("subscriber", {"frames": frames(5.4, 6, late=0.35)})
    record.take("subscriber", {"frames": frames(8.2, 9)})
    own, real = record.result(T + 9)["gaps"]
    assert own["client_lag_ms"] == 350
    assert "client_lag_ms" not in real


def test_a_silence_that_lasts_at_the_end_is_open_and_drops_the_call_after_three_seconds(record):
    assert record.result(T + 7)["gaps"] == [{"start": T + 5, "seconds": 2.0, "open": True}]
    assert not record.result(T + 7)["dropped"]
    assert record.result(T + 9)["reason"] == "silent for the last 4.0 s"
    assert record.result(T + 9)["media_seconds"] == 4.0


def test_a_disconnect_nobody_asked_for_drops_the_call_a_reconnect_does_not(record):
    record.take("subscriber", {"events": [{"t": T + 4, "event": "reconnecting"}, {"t": T + 4.5, "event": "reconnected"}]})
    assert not record.over
    record.take("publisher", {"events": [{"t": T + 3.00004, "event": "disconnected", "reason": "SERVER_SHUTDOWN"}]})
    result = record.result(T + 5)
    assert record.over
    assert (result["dropped"], result["reason"]) == (True, "publisher disconnected: SERVER_SHUTDOWN")
    assert [e["t"] for e in result["events"]] == [T + 3, T + 4, T + 4.5]


def test_a_call_that_could_not_join_says_why_without_its_token(browsers):
    record = browsers.Record(0, "b-0", URL)
    record.started = T
    record.take("subscriber", {"failed": "could not join: 401 at wss://x/rtc?access_token=eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJrIn0.c2lnbmF0dXJl"})
    result = record.result(T + 1)
    assert result["reason"].startswith("subscriber could not join: 401") and "eyJpc3MiOiJrIn0" not in result["reason"]
    assert (result["join_ms"], result["first_media"], result["frames"], result["media_seconds"]) == (None, None, 0, 0.0)


def test_media_counts_while_it_is_fresh(record):
    assert record.has_media(T + 6.4) and not record.has_media(T + 6.6)
    record.fail("the page crashed")
    assert not record.has_media(T + 5)


def test_the_last_way_of_each_side_is_reported_with_its_loss(record):
    for at, who, remote in ((1, "subscriber", "192.0.2.3:50000"), (8, "subscriber", "192.0.2.4:50001"), (8, "publisher", "192.0.2.4:50000")):
        record.paths.append({"t": T + at, "who": who, "transport": "udp", "remote": remote, "rtt_ms": 1, "packets": 99, "lost_packets": 1})
    result = record.result(T + 5)
    assert (result["transport"], result["remote"], result["publisher_remote"], result["loss_percent"]) == ("udp", "192.0.2.4:50001", "192.0.2.4:50000", 1.0)


def test_the_report_takes_browsers_and_native_calls_together(browsers, record):
    report = importlib.import_module("report")
    record.take("subscriber", {"frames": frames(7.2, 9)})
    native = {**record.result(T + 9), "client": 0, "room": "r-2", "gaps": []}
    made = report.assemble([{"calls": [record.result(T + 9)]}, {"calls": [native]}], [])
    assert len(report.lanes(made["calls"])) == 2
    assert made["summary"]["worst_gap"] == pytest.approx(2.2)
    page = report.page(made)
    assert "browser 3" in page and "call 3" in page
    assert browsers.summarise(made["calls"])["dropped"] == 0


def parse(browsers, *more):
    return browsers.arguments(["--url", URL, "--out", "x.json", "--browser", sys.executable, *more])


def test_arguments_have_usable_defaults_and_urls_may_come_in_one_word(browsers):
    found = parse(browsers, "--url", "http://192.0.2.11:7880,wss://lk.example.com")
    assert found.url == [URL, "ws://192.0.2.11:7880", "wss://lk.example.com"]
    assert found.calls == 3 and re.fullmatch(r"browser-[0-9a-f]+", found.prefix)


@pytest.mark.parametrize(("more", "said"), [
    (("--calls", "0"), "--calls 0: from 1 to"),
    (("--calls", "9"), "would measure the client"),
    (("--browser", "/nowhere/chromium"), "lab/bootstrap --with chromium"),
])
def test_arguments_that_cannot_work_are_refused_with_a_way_out(browsers, capsys, more, said):
    with pytest.raises(SystemExit):
        parse(browsers, *more)
    assert said in capsys.readouterr().err


def test_the_pages_are_served_and_nothing_else(browsers):
    with browsers.pages(b"the sdk") as url:
        base = url.rpartition("/")[0]
        with urllib.request.urlopen(f"{base}/livekit-client.umd.js", timeout=5) as answer:
            assert answer.read() == b"the sdk"
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert b"/call.js" in answer.read()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{base}/../browsers.py", timeout=5)


def test_cpu_seconds_are_those_of_a_process_and_its_children(browsers):
    assert browsers.cpu_seconds(1) >= browsers.cpu_seconds(2**22 + 1) == 0


# ---------------------------------------------------------------- livekit-client


@pytest.mark.parametrize(("env", "npmrc", "wanted"), [
    ({}, "", "https://registry.npmjs.org"),
    ({}, "fund=false\nregistry = https://npm.example.com/\n", "https://npm.example.com"),
    ({"npm_config_registry": "https://one.example.com/"}, "registry=https://npm.example.com", "https://one.example.com"),
])
def test_the_registry_is_the_one_npm_would_take(npm, env, npmrc, wanted):
    assert npm.registry(env, npmrc) == wanted


def test_the_lock_pins_what_package_json_asks_for_and_names_no_other_registry(npm):
    lock = json.loads(npm.LOCK.read_text())
    version, sha512 = npm.pinned(lock)
    assert json.loads(npm.LOCK.with_name("package.json").read_text())["dependencies"] == {npm.PACKAGE: version}
    assert len(base64.b64decode(sha512)) == 64
    assert all(entry.get("resolved", npm.REGISTRY).startswith(npm.REGISTRY) for entry in lock["packages"].values())


def test_only_an_archive_that_matches_the_lock_is_used_and_kept(npm, monkeypatch, tmp_path):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        info = tarfile.TarInfo(npm.SCRIPT)
        info.size = 7
        tar.addfile(info, io.BytesIO(b"the sdk"))
    lock = tmp_path / "package-lock.json"
    sha512 = base64.b64encode(hashlib.sha512(raw.getvalue()).digest()).decode()
    lock.write_text(json.dumps({"packages": {f"node_modules/{npm.PACKAGE}": {"version": "2.0.0", "integrity": f"sha512-{sha512}"}}}))
    monkeypatch.setattr(npm, "LOCK", lock)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sent = [b"not the archive", raw.getvalue()]
    monkeypatch.setattr(npm, "_download", lambda version: sent.pop(0))
    with pytest.raises(npm.LabError, match="does not match"):
        npm.client()
    assert npm.client() == npm.client() == ("2.0.0", b"the sdk") and not sent
