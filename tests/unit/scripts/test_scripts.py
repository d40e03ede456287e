# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of `make test`: a gate that cannot fail is none."""
from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).resolve().parents[3] / "scripts"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rules = load("rules")
stages = load("stages")


@pytest.mark.parametrize("text, passed, failed, skipped", [
    ("....\n12 passed in 0.10s\n", 12, 0, 0),
    ("FAILED x\n\x1b[31m3 failed\x1b[0m, 10 passed, 2 skipped, 1 error in 1.20s\n", 10, 4, 2),
    ("5 passed, 1 failed\nlint: 8 passed, 0 failed\nmake: ***", 8, 0, 0),
    ("nothing to see\n2 skipped\n", 0, 0, 0),
])
def test_counts(text: str, passed: int, failed: int, skipped: int) -> None:
    assert stages.counts(text) == {"passed": passed, "failed": failed, "skipped": skipped}


@pytest.mark.parametrize("recipe, code, verdict, row", [
    ("echo 2 passed", 0, "t: passed", "test: 2 passed, 0 failed"),
    ("echo 2 passed, 1 failed; exit 1", 1, "FAILED (exit 2)", "test: 2 passed, 1 failed"),
    ("echo 2 passed, 1 failed", 1, "t: FAILED,", "test: 2 passed, 1 failed"),
    ("echo 2 passed; exit 7", 1, "FAILED (exit 2)", "test: 2 passed, 1 failed"),
    ("true", 1, "FAILED (ran no test)", "test: 0 passed, 1 failed"),
    ("(sleep 30 &) ; echo 1 passed", 0, "t: passed", "test: 1 passed, 0 failed"),  # a daemon left behind holds nothing up
])
def test_stages(tmp_path: pathlib.Path, recipe: str, code: int, verdict: str, row: str) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "stages.py").write_text((SCRIPTS / "stages.py").read_text())
    (tmp_path / "Makefile").write_text(f"t:\n\t@{recipe}\nafter:\n\t@echo 1 passed\n")
    done = subprocess.run(
        [sys.executable, "scripts/stages.py", "t", "after"], cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20, check=False)
    passed, failed = int(row.split()[1]) + 1, int(row.split()[3])  # the stage after runs whatever comes of this one
    assert done.stdout.splitlines()[-1] == f"test: {passed} passed, {failed} failed" == (tmp_path / "build/test/summary").read_text().strip()
    assert verdict in done.stdout and done.returncode == code


VERB = "re" + "start"  # so that this file does not break the rule it tests


@pytest.mark.parametrize("name, text, found", [
    ("roles/a/tasks/main.yml", f"cmd: systemctl {VERB} livekit-server@1", True),
    ("plugins/a.py", f"run(['systemctl {VERB} --no-block livekit-server@1.service'])", True),
    ("roles/a/tasks/main.yml", f"name: livekit-server@1.service\nstate: {VERB}ed", True),
    ("roles/a/tasks/main.yml", f"name: haproxy\nstate: {VERB}ed", False),
    ("roles/a/tasks/main.yml", f"# never systemctl {VERB} livekit-server", False),
    ("docs/a.md", f"Never `systemctl {VERB} livekit-server@1`", False),
    ("plugins/a.py", "cp /" + "work/main/x", True),
    ("plugins/a.py", "see https://example.org/" + "work/x", False),
    ("plugins/a.py", "# TO" + "DO later", True),
])
def test_words(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, found: bool) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rules, "tracked", lambda: [name])
    assert bool(list(rules.words())) is found


@pytest.mark.parametrize("option, value, found", [
    ({"type": "int", "default": 3}, 3, False),
    ({"type": "int", "default": 4}, 3, True),
    ({"type": "int", "default": True}, 1, True),
    ({"type": "int"}, None, False),
    ({"type": "str", "default": 3}, 3, True),
    ({"type": "int", "default": "{{ x }}"}, "{{ x }}", False),
    ({"type": "int", "required": True}, 3, True),
    ({"type": "list", "choices": ["a", "b"], "default": ["a", "c"]}, ["a", "c"], True),
    ({"type": "list", "choices": ["a", "b"], "default": ["b"]}, ["b"], False),
])
def test_defaults(option: dict, value: object, found: bool) -> None:
    assert bool(list(rules.default_problems("role", "x", option, value))) is found
