# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench of the scaler as a program: plain python, no Ansible, and figures that can be checked by hand."""
from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

BENCH = next(p for p in pathlib.Path(__file__).resolve().parents if (p / "tests" / "bench").is_dir()) / "tests" / "bench"


def bench(*arguments, **options):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "ANSIBLE_COLLECTIONS_PATH")}
    return subprocess.run([sys.executable, "-I", str(BENCH / "autoscale.py"), *map(str, arguments)], env=environment, capture_output=True, text=True,
                          check=False, **options)


@pytest.fixture
def demand(tmp_path):
    """An hour of calm, then a step that nobody announced."""
    path = tmp_path / "demand.csv"
    path.write_text("t_seconds,rooms\n" + "".join(f"{60 * m},{100 if m < 120 else 300}\n" for m in range(240)))
    return path


def test_nodes_and_actions_are_written_and_boot_delay_holds(demand, tmp_path):
    out = tmp_path / "out.json"
    done = bench("--demand", demand, "--from", 3600, "--per-node", 20, "--min", 3, "--max", 60, "--boot", 120, "--drain-tail", 1800, "--json", out)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert len(found["nodes"]) == 180 and all(3 <= n <= 60 for n in found["nodes"])
    step = 120 - 60
    assert found["nodes"][step + 1] < 15 <= found["nodes"][step + 2]  # seen at the step, serving two minutes later
    first = next(a for a in found["actions"] if a["minute"] == step)
    assert first["kind"] == "add" and first["size"] >= 15 and first["reason"]
    assert found["figures"]["static peak"]["overflow_percent"] == 0 and found["figures"]["static peak"]["nodes_mean"] == 15
    assert set(found["figures"]) >= {"openrtc", "HPA, 80 %", "KEDA", "rooms//20+1", "step by step", "hour of day"}


def test_costs_are_what_a_hand_would_count():
    code = (f"import sys; sys.path.insert(0, {str(BENCH)!r}); import autoscale_rivals as r; "
            "case = r.Case([100.0] * 10 + [40.0] * 50 + [100.0] * 10, 0, 20, 1, 60, 2, 30); best = r.clairvoyant(case); "
            "print(best[9], best[39], best[40], best[59], best[60], sum(best)); print(r.paid(case, [5] * 10 + [2] * 50 + [5] * 10))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Five nodes, for 30 minutes more than needed (they drain), two, and five again.
    assert done.stdout.split() == ["5", "5", "2", "2", "5", str(5 * 40 + 2 * 20 + 5 * 10), str(5 * 10 + 2 * 50 + 5 * 10 + 3 * 30)]


@pytest.mark.parametrize("text, arguments, words", [
    ("t_seconds,rooms\n0,5\n60,x\n", (), "line 3"), ("t_seconds,rooms\n0,-5\n", (), "cannot be"), ("t_seconds,rooms\n", (), "no rows"),
    ("a,b\n1,2\n", (), "columns"),
    ("t_seconds,rooms\n0,nan\n", (), "cannot be"), ("t_seconds,rooms\n0,5\n", ("--from", 9999), "ends before"),
    ("t_seconds,rooms\n0,5\n", ("--min", 5, "--max", 2), "at least"), ("t_seconds,rooms\n0,5\n", ("--per-node", 0), "at least 1"),
])
def test_bad_input_is_refused(tmp_path, text, arguments, words):
    (tmp_path / "demand.csv").write_text(text)
    done = bench("--demand", tmp_path / "demand.csv", *arguments)
    assert done.returncode != 0 and words in done.stderr and "Traceback" not in done.stderr


def test_holes_and_duplicates_in_a_file_do_no_harm(tmp_path):
    rows = [f"{60 * m},{50 + m % 7}" for m in range(300) if not 100 < m < 130]
    (tmp_path / "demand.csv").write_text("t_seconds,rooms\n" + "\n".join([*reversed(rows), *rows[:20]]) + "\n")
    out = tmp_path / "out.json"
    assert bench("--demand", tmp_path / "demand.csv", "--from", 6000, "--json", out).returncode == 0
    assert len(json.loads(out.read_text())["nodes"]) == 200
