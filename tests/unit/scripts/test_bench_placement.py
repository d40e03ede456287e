# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The placement bench: its rooms files, what it calls hot, and that it runs with plain Python."""
from __future__ import annotations

import importlib
import json
import pathlib
import subprocess
import sys
import typing as t

import pytest

BENCH = pathlib.Path(__file__).resolve().parents[3] / "tests" / "bench"
HEAD = "t,room,participants,duration_s,ramp_s,video\n"


@pytest.fixture(name="bench", scope="module")
def fixture_bench() -> t.Iterator[t.Any]:
    before, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(BENCH))
    try:
        yield importlib.import_module
    finally:
        sys.path[:] = before
        for name in set(sys.modules) - known:
            if name.split(".")[0] == "fleet" or name.startswith("placement"):
                del sys.modules[name]


def read(bench: t.Any, path: pathlib.Path, text: str) -> t.Any:
    path.write_text(text)
    return bench("placement_rooms").read(path)


def test_rooms_files(bench: t.Any, tmp_path: pathlib.Path) -> None:
    rooms = read(bench, tmp_path / "r.csv", HEAD + "60,b,10,600,60,0.5\n0,a,4,300,900,true\n\n")
    assert [(r.t, r.name, r.participants, r.duration, r.ramp, r.video) for r in rooms] == [(0, "a", 4, 300, 300, 4), (60, "b", 10, 600, 60, 5)]
    assert [r.video for r in read(bench, tmp_path / "n.csv", HEAD + "0,a,4,300,30,1\n1,b,9,300,30,3\n")] == [1, 3], "numbers of participants"
    made = bench("placement_rooms").make("office", 7, 0.5)
    bench("placement_rooms").write(tmp_path / "w.csv", made)
    again = bench("placement_rooms").read(tmp_path / "w.csv")
    assert [(r.name, r.participants) for r in again] == [(r.name, r.participants) for r in made] and made == bench("placement_rooms").make("office", 7, 0.5)


@pytest.mark.parametrize(("text", "words"), [
    ("t,room\n1,a\n", "columns participants"), (HEAD, "no room"), (HEAD + "x,a,4,300,30,1\n", "line 2"), (HEAD + "0,a,4,0,30,1\n", "line 2"),
    (HEAD + "0,a,-4,5,30,1\n", "line 2"), (HEAD + "0,a,nan,5,30,1\n", "line 2"), (HEAD + "0,,4,5,30,1\n", "line 2"), (HEAD + "0,a,4\n", "line 2"),
])
def test_bad_rooms_files(bench: t.Any, tmp_path: pathlib.Path, text: str, words: str) -> None:
    with pytest.raises(SystemExit, match=words):
        read(bench, tmp_path / "r.csv", text)


def test_hot_is_a_participant_on_a_node_above_its_capacity(bench: t.Any) -> None:
    sim, rooms = bench("placement_sim"), bench("placement_rooms")

    class First(sim.Way):
        name = "first"

        def place(self, room: t.Any) -> int:
            return 0

    day = [rooms.Room(0.0, "a", 10, 100.0, 0.0, 0.0), rooms.Room(50.0, "b", 10, 100.0, 0.0, 0.0)]
    events = sim.events_of(day)
    # 10 until 50, 20 until 100, 10 until 150: half of 2,000 participant-seconds are above 15.
    assert sim.run(day, events, 2, 15.0, First)["hot_percent"] == pytest.approx(50)
    assert sim.run(day, events, 2, 20.0, First)["hot_percent"] == 0
    assert sim.run(day, events, 2, 20.0, First)["worst_share"] == pytest.approx(1)
    assert bench("placement").unavoidable(events, 15.0) == pytest.approx(50) and bench("placement").unavoidable(events, 30.0) == 0
    assert sim.run(day, events, 2, 15.0, sim.Ours)["hot_percent"] == 0


def test_those_who_place_see_reports_not_the_load(bench: t.Any) -> None:
    sim = bench("placement_sim")
    world = sim.World(1, 100.0, 1)
    world.phase = [0.0]
    world.now = 1.0
    world.change(0, 30.0, 30, 1)
    assert world.reports()[0] == (0.0, 0, 0)
    world.now = 1.9
    assert world.reports()[0] == (0.0, 0, 0)
    world.now = 2.1
    assert world.reports()[0] == (30.0, 30, 1)


def test_a_room_that_is_asked_for_again_while_it_lives_is_one_room(bench: t.Any) -> None:
    sim, rooms = bench("placement_sim"), bench("placement_rooms")
    day = [rooms.Room(0.0, "a", 10, 100.0, 10.0, 0.0), rooms.Room(50.0, "a", 10, 100.0, 10.0, 0.0)]
    found = sim.run(day, sim.events_of(day), 3, 100.0, sim.AnyNode)
    assert found["placements"] == 1 and found["worst_share"] == pytest.approx(0.2)


def test_it_runs_with_plain_python(tmp_path: pathlib.Path) -> None:
    rooms = tmp_path / "r.csv"
    rooms.write_text(HEAD + "".join(f"{60 * (n // 20)},r{n},{2 + n % 9},900,60,0.5\n" for n in range(200)))
    done = subprocess.run([sys.executable, "-S", str(BENCH / "placement.py"), "--rooms", str(rooms), "--nodes", "5", "--json", str(tmp_path / "o.json")],
                          capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, check=False)
    assert "hot participant-minutes" in done.stdout, done.stderr
    found = json.loads((tmp_path / "o.json").read_text())["days"]["r.csv"][0]
    assert found["utilisation"] == pytest.approx(0.55) and len(found["ways"]) == 8
    bad = subprocess.run([sys.executable, str(BENCH / "placement.py"), "--nodes", "0"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
