# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benches' own judgement: what counts as broken after a fault, and what the page makes of raw figures."""
from __future__ import annotations

import importlib
import importlib.util
import json
import pathlib
import re
import sys
import typing as t
import xml.etree.ElementTree as ET

import pytest

BENCH = pathlib.Path(__file__).resolve().parents[3] / "tests" / "bench"


@pytest.fixture(name="bench", scope="module")
def fixture_bench() -> t.Iterator[t.Callable[[str], t.Any]]:
    for name in ("common", "callers", "report"):  # lab/ has modules of these names too, and other tests use them
        sys.modules.pop(name, None)
    before, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(BENCH))

    def load(name: str) -> t.Any:
        spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")  # lab/ has a report.py too
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    try:
        yield lambda name: load(name) if name == "report" else importlib.import_module(name)
    finally:
        sys.path[:] = before
        for name in set(sys.modules) - known:
            if name.split(".")[0] in ("fleet", "cluster", "common", "callers", "under_calls") or name.startswith("faults"):
                del sys.modules[name]


def a_round(scene: t.Any, **values: t.Any) -> t.Any:
    nodes = {"ND_a": "sfu1", "ND_b": "sfu2"}
    return scene.Round(**{"fault": "f", "number": 1, "at": 100.0, "nodes": nodes, "fewest": 2, "after": nodes, **values})


def note(kind: str, at: float, **fields: t.Any) -> dict[str, t.Any]:
    return {"kind": kind, "at": at, "by": "controller@edge1", "reason": "", **fields}


def test_a_quiet_round_holds(bench: t.Callable[[str], t.Any]) -> None:
    scene = bench("faults_scene")
    assert scene.broken(a_round(scene, split=[0.4, 1.0], given_up=3, dropped=3, same_nodes=True)) == []


@pytest.mark.parametrize(("values", "words"), [
    ({"dropped": 2, "given_up": 1}, "1 calls were lost"),
    ({"silent": 1}, "no media"),
    ({"fewest": 1}, "only 1 hosts"),
    ({"split": [0.2, 1.3]}, "two nodes for 1.3 s"),
    ({"calm": [(100, 105)], "log": [note("fence", 103.0, node="ND_a")]}, "stale data: fence of ND_a by controller@edge1 at +3.0 s"),
    ({"same_nodes": True, "after": {"ND_a": "sfu1"}}, "gone though nothing was wrong with them: ND_b"),
    ({"left": ["evacuate ND_a"]}, "not finished: evacuate ND_a"),
    ({"astray": {"r": "it is nowhere"}}, "room r: it is nowhere"),
    ({"log": [note("error", 101.0, reason="Traceback")]}, "Traceback"),
    ({"problems": ["the fault's own"]}, "the fault's own"),
])
def test_each_invariant_is_told(bench: t.Callable[[str], t.Any], values: dict[str, t.Any], words: str) -> None:
    scene = bench("faults_scene")
    (told,) = scene.broken(a_round(scene, **values))
    assert words in told


def test_what_the_fault_takes_and_when_it_was_calm_again_is_no_problem(bench: t.Callable[[str], t.Any]) -> None:
    scene = bench("faults_scene")
    assert scene.broken(a_round(scene, out=2, fewest=1, calm=[(100, 105)], log=[note("move", 106.0), note("freeze", 101.0)])) == []


def test_every_fault_says_what_a_caller_may_notice(bench: t.Callable[[str], t.Any]) -> None:
    faults = bench("faults").FAULTS
    assert len(faults) >= 20
    assert all(len(one.about) > 40 and re.fullmatch(r"[a-z0-9-]+", one.name) for one in faults.values())


RAW = {
    "drops": {"moves": {"runs": [{"gaps": [0.5, 0.7]}, {"gaps": [0.6]}], "dropped": [], "moved": 4}, "load": [1.25, 1, 1],
              "rows": [["calls lost", 0, 0, True], ["p99", "0.7 s", "1.5 s", True]]},
    "crash": {"runs": [{"kind": "sigkill", "mode": "ours", "silences": [0.8, 0.9], "lost": []},
                       {"kind": "sigkill", "mode": "stock", "silences": [9.0], "lost": [{}]}],
              "stalls": [{"gaps": [], "lost": []}], "rows": [["p50", "0.8 s", "2 s", True], ["beside", 1, "", True]]},
    "faults": {"faults": {"redis-hangs": "Redis <hangs>."}, "rounds": [
        {"fault": "redis-hangs", "number": 1, "seed": 7, "gaps": [4.4], "dropped": 1, "given_up": 0, "problems": ["1 calls were lost"], "facts": {}}]},
}


def test_the_page_is_made_of_whatever_there_is(bench: t.Callable[[str], t.Any], tmp_path: pathlib.Path) -> None:
    report = bench("report")
    assert "No figures yet" in report.page(report.assemble(tmp_path))
    for name, content in RAW.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    found = report.assemble(tmp_path)
    assert [(s.group, s.mode, s.values, s.lost) for s in found["series"]] == [
        ("Live move", "ours", (0.5, 0.6, 0.7), 0), ("Crash of a node", "ours", (0.8, 0.9), 0), ("Crash of a node", "stock", (9.0,), 1),
        ("Crash of a node", "ours", (), 0), ("Faults", "ours", (4.4,), 1)]
    assert [g["what"] for g in found["goals"]] == ["calls lost", "p99", "p50"]  # what has no goal stands in the numbers
    page = report.page(found)
    assert "1 of 4 goals and faults" in page and "round 1, seed 7: 1 calls were lost" in page
    assert "Redis &lt;hangs&gt;." in page and "<hangs>" not in page
    assert not re.search(r"(src|href)=|<script|@import|url\(", page)
    for drawing in re.findall(r"<svg.*?</svg>", page, re.S):
        ET.fromstring(drawing)
