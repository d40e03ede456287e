# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of calls: numbers, timeline and page from records; and what lab/callers.py makes of its processes."""
from __future__ import annotations

import importlib
import json
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

LAB = pathlib.Path(__file__).resolve().parents[3] / "lab"
T = 1_700_000_000.0


@pytest.fixture(name="lab", scope="module")
def fixture_lab():
    sys.path.insert(0, str(LAB))
    try:
        yield importlib.import_module("report"), importlib.import_module("callers")
    finally:
        sys.path.remove(str(LAB))


def call(number, start=0.0, end=100.0, gaps=(), dropped=None, **more):
    first, last = T + start + 0.4, T + end
    return {
        "room": f"r-{number}", "line": number, "client": 0, "started": T + start, "ended": T + end, "join_ms": 100 + 10 * number,
        "first_media_ms": 400, "first_media": first, "last_media": last, "gaps": [{"start": T + s, "seconds": d} for s, d in gaps], "events": [],
        "dropped": dropped is not None, "reason": dropped, "transport": "udp", "remote": "192.0.2.1:50001", "loss_percent": 0.0,
        "media_seconds": end - start, **more,
    }


PHASES = [
    {"name": "deploy", "started": T - 300, "ended": T - 100, "ok": True},
    {"name": "upgrade <1.13.5>", "started": T + 10, "ended": T + 60, "ok": True, "events": [{"t": T + 12, "kind": "start", "text": "sfu1 slot 2 starts"}]},
    {"name": "verify", "started": T + 60, "ended": T + 70, "ok": False},
]
CALLS = [call(0), call(1, gaps=[(30, 0.62), (65, 0.31)]), call(2, end=40, dropped="subscriber disconnected: SERVER_SHUTDOWN"), call(3, start=50)]


def test_summary_counts_calls_drops_gaps_and_joins(lab):
    summary = lab[1].summarise(CALLS)
    assert (summary["calls"], summary["dropped"], summary["gaps"], summary["calls_with_gaps"]) == (4, 1, 2, 1)
    assert summary["worst_gap"] == 0.62
    assert (summary["join_p50"], summary["join_p95"], summary["join_max"]) == (110, 130, 130)


def test_summary_of_nothing_claims_nothing(lab):
    summary = lab[1].summarise([])
    assert (summary["calls"], summary["dropped"], summary["gaps"], summary["worst_gap"], summary["join_p50"]) == (0, 0, 0, 0.0, None)


def test_a_call_that_never_joined_has_no_share_in_the_joins(lab):
    summary = lab[1].summarise([call(0), {**call(1), "join_ms": None, "first_media_ms": None, "dropped": True}])
    assert (summary["calls"], summary["joins"], summary["join_p50"], summary["dropped"]) == (2, 1, 100, 1)


@pytest.mark.parametrize(("share", "value"), [(50, 50), (95, 95), (99, 99), (100, 100), (0, 1)])
def test_percentiles_are_by_nearest_rank(lab, share, value):
    assert lab[1].percentile(list(range(1, 101)), share) == value
    assert lab[1].percentile([], share) is None


def test_phases_tell_what_happened_within_them(lab):
    report = lab[0].assemble([{"calls": CALLS}], PHASES)
    deploy, upgrade, verify = report["phases"]
    assert (deploy["calls"], deploy["gaps"], deploy["dropped"], deploy["seconds"]) == (0, 0, 0, 200.0)
    assert (upgrade["calls"], upgrade["gaps"], upgrade["worst_gap"], upgrade["dropped"], upgrade["joins"]) == (4, 1, 0.62, 1, 1)
    assert (verify["calls"], verify["gaps"], verify["dropped"]) == (3, 1, 0)
    assert report["events"] == [{"t": T + 12, "kind": "start", "text": "sfu1 slot 2 starts", "phase": "upgrade <1.13.5>"}]
    assert report["summary"]["dropped"] == 1


def test_phases_may_be_a_mapping_with_title_and_events(lab):
    report = lab[0].assemble([{"calls": CALLS}], {"title": "Run", "phases": PHASES, "events": [{"t": T + 5, "kind": "drain", "text": "a"}]})
    assert report["title"] == "Run"
    assert [e["kind"] for e in report["events"]] == ["drain", "start"]


def test_media_is_drawn_only_where_it_was_heard(lab):
    stretches = lab[0].sounds(CALLS[1])
    assert stretches == [(T + 0.4, T + 30), (pytest.approx(T + 30.62), T + 65), (pytest.approx(T + 65.31), T + 100)]
    assert lab[0].sounds(call(0, first_media=None)) == []


def test_calls_that_follow_each_other_share_a_row(lab):
    steady = [call(0, 0, 30), call(0, 31, 60), call(1, 5, 50), call(0, 62, 90)]
    assert [len(row) for row in lab[0].lanes(steady)] == [3, 1]
    loose = [{k: v for k, v in c.items() if k != "line"} for c in steady[:3]]
    assert [len(row) for row in lab[0].lanes(sorted(loose, key=lambda c: c["started"]))] == [2, 1]


def svg(page):
    return ET.fromstring(re.search(r"<svg.*?</svg>", page, re.S).group(0))


def shapes(root, kind):
    return [e for e in root.iter() if kind in e.get("class", "").split()]


def test_page_shows_numbers_gaps_in_red_drops_and_phases(lab):
    page = lab[0].page(lab[0].assemble([{"calls": CALLS}], PHASES))
    assert "1 of 4 calls were dropped." in page
    assert "0.62 s" in page
    assert "subscriber disconnected: SERVER_SHUTDOWN" in page
    root = svg(page)
    assert len(shapes(root, "gap")) == 2
    assert len(shapes(root, "lost")) == 1
    assert len(shapes(root, "call")) == 4
    assert [("bad" in e.get("class")) for e in shapes(root, "phase")] == [False, True]  # deploy was before the calls, verify failed
    assert len(shapes(root, "mark")) == 1
    assert re.search(r"\.gap\{fill:var\(--red\)\}", page)


def test_a_short_gap_on_a_long_timeline_can_still_be_seen(lab):
    page = lab[0].page(lab[0].assemble([{"calls": [call(0, end=36000, gaps=[(100, 0.3)])]}], []))
    assert float(shapes(svg(page), "gap")[0].get("width")) >= 2


def test_page_is_self_contained_and_escapes_what_it_shows(lab):
    page = lab[0].page(lab[0].assemble([{"calls": [{**CALLS[0], "room": "<script>alert(1)</script>"}]}], PHASES))
    assert "<script" not in page
    assert "upgrade &lt;1.13.5&gt;" in page
    assert not re.search(r"(src|href)=|url\(|@import|https?://", page)
    assert "prefers-color-scheme:dark" in page
    assert "viewport" in page


@pytest.mark.parametrize(("calls", "words"), [
    ([], "There were no calls."),
    ([CALLS[0]], "None of 1 calls was dropped, and none had a silence over 250 ms."),
    (CALLS[:2], "None of 2 calls was dropped; 1 had silences, the longest 0.62 s."),
])
def test_verdict_is_one_plain_sentence(lab, calls, words):
    report = lab[0].assemble([{"calls": calls}], [])
    assert lab[0].verdict(report) == words
    assert words in lab[0].page(report)


def test_many_calls_keep_the_worst_in_the_table_and_all_in_the_data(lab):
    calls = [call(i % 40, start=i, end=i + 30) for i in range(500)] + [call(41, dropped="silent for the last 9.0 s")]
    report = lab[0].assemble([{"calls": calls}], [])
    page = lab[0].page(report)
    assert len(report["calls"]) == 501
    assert "The 200 worst of 501" in page
    assert "silent for the last 9.0 s" in page


def test_the_program_writes_both_files(tmp_path):
    (tmp_path / "calls.json").write_text(json.dumps({"calls": CALLS, "load": [{"t": T, "load1": 0.5, "client_cpu": 0.4, "lag_ms": 3}]}))
    (tmp_path / "phases.json").write_text(json.dumps(PHASES))
    out = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, str(LAB / "report.py"), "--calls", str(tmp_path / "calls.json"), "--phases", str(tmp_path / "phases.json"), "--out", str(out)],
        check=True, capture_output=True, text=True)
    assert "1 of 4 calls were dropped" in done.stdout
    report = json.loads((out / "report.json").read_text())
    assert report["summary"]["calls"] == 4
    assert report["machine"]["load1_max"] == 0.5
    assert len(report["calls"][1]["gaps"]) == 2
    assert "<svg" in (out / "report.html").read_text()


# --- callers


def test_callers_spread_at_most_ten_calls_over_a_process(lab, capsys):
    args = lab[1].arguments(["--url", "http://a:1,wss://b", "--url", "ws://c", "--calls", "25", "--out", "x"])
    assert args.processes == 3
    assert args.url == ["ws://a:1", "wss://b", "ws://c"]
    with pytest.raises(SystemExit):
        lab[1].arguments(["--url", "ws://a", "--calls", "25", "--processes", "2", "--out", "x"])
    assert "measure the client" in capsys.readouterr().err


def test_callers_take_the_key_from_a_file_or_the_environment(lab, tmp_path, monkeypatch):
    (tmp_path / "endpoint.json").write_text(json.dumps({"url": "ws://x", "api_key": "k1", "api_secret": "s1"}))
    assert lab[1].credentials(str(tmp_path / "endpoint.json")) == ("k1", "s1")
    monkeypatch.setenv("LIVEKIT_API_KEY", "k2")
    monkeypatch.setenv("LIVEKIT_API_SECRET", "s2")
    assert lab[1].credentials(None) == ("k2", "s2")
    with pytest.raises(SystemExit, match="LIVEKIT_API_KEY"):
        lab[1].credentials(None)


def test_board_follows_the_client_processes(lab):
    board = lab[1].Board(2)
    board.take(0, "ready", -1, {})
    board.take(0, "start", 0, {"room": "r-0", "started": T, "line": 0})
    board.take(0, "start", 1, {"room": "r-1", "started": T, "line": 1})
    board.take(0, "pulse", -1, {"up": 2, "media": 1, "gaps": 3, "cpu": 1.5, "lag": 0.0})
    status = board.status()
    assert (status["calls"], status["with_media"], status["gaps"], status["dropped"], status["wanted"]) == (2, 1, 3, 0, 2)
    board.take(0, "end", 0, call(0))
    board.lost(0, -9)
    assert [c["dropped"] for c in board.calls] == [False, True]
    assert "ended by itself (-9)" in board.calls[1]["reason"]
    assert board.status()["calls"] == 0
    assert lab[1].summarise(board.calls)["dropped"] == 1
