# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool `command`, with a real program over a file."""
from __future__ import annotations

import json
import os
import pathlib
import sys

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.pools import load
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.pools.command import Command
from pool_conformance import Conformance, code

PROGRAM = pathlib.Path(__file__).with_name("pool_program.py")


class World:
    room, stranger, away = 3, "vm-99", ("pool_refused",)

    def __init__(self, path):
        self.path = path
        rows = {f"vm-{n}": {"id": f"vm-{n}", "state": "running", "host": f"host-vm-{n}", "address": f"10.0.0.{n}", "since": 1.5} for n in (1, 2, 3)}
        path.write_text(json.dumps({"machines": rows, "orders": {}, "next": 4, "quota": 6}))
        self.pool = load({"kind": "command", "argv": [sys.executable, str(PROGRAM), str(path)]}, None, None)

    def change(self, **values):
        self.path.write_text(json.dumps({**json.loads(self.path.read_text()), **values}))

    def machines(self):
        return json.loads(self.path.read_text())["machines"]

    def who(self):
        return set(self.machines())

    def settle(self):
        self.change(machines={i: {**row, "state": "running"} for i, row in self.machines().items()})

    def hold(self):
        pass

    def lose(self, name):
        self.change(machines={i: row for i, row in self.machines().items() if i != name})

    def cut(self):
        self.change(down=True)

    def mend(self):
        self.change(down=False)

    def deaf(self):
        self.change(deaf=True)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "machines.json")


class TestCommand(Conformance):
    pass


@pytest.mark.parametrize("answer", [
    "", "[]", "{}", "no JSON", '{"machines": 3}', '{"machines": [3]}', '{"machines": [{"state": "running"}]}',
    '{"machines": [{"id": "a", "state": "fine"}]}', '{"machines": [{"id": "a", "state": "running", "since": "yesterday"}]}',
    '{"machines": [{"id": "a", "state": "running", "since": NaN}]}', '{"machines": [{"id": "a", "state": "running"}, {"id": "a", "state": "running"}]}',
])
def test_an_answer_that_is_none_is_an_error_and_no_empty_pool(tmp_path, answer):
    (tmp_path / "answer").write_text(answer)
    assert code(Command(["sh", "-c", f"cat {tmp_path}/answer"]).machines) == "pool_answer"


def test_the_last_line_of_its_errors_says_why(world):
    world.cut()
    with pytest.raises(FleetError, match="connection to the hypervisor refused"):
        world.pool.machines()


def test_a_program_that_hangs_or_is_missing_is_out_of_reach():
    assert code(Command(["sh", "-c", "exec sleep 9"], timeout=0.2).machines) == "pool_unreachable"
    assert code(Command(["/there/is/none"]).machines) == "pool_unreachable"


def test_secrets_reach_it_by_its_environment_and_nothing_else_does(tmp_path, monkeypatch):
    monkeypatch.setenv("SOMETHING_ELSE", "x")
    pool = load({"kind": "command", "argv": ["sh", "-c", f"env >{tmp_path}/env; echo '{{\"machines\": []}}'"], "environment": {"TOKEN": "hunter2"}}, None, None)
    assert pool.machines() == []
    found = (tmp_path / "env").read_text()
    assert "TOKEN=hunter2" in found and "SOMETHING_ELSE" not in found and os.environ["PATH"] in found


@pytest.mark.parametrize("settings", [
    {}, {"argv": []}, {"argv": "a b"}, {"argv": ["a"], "timeout": -1}, {"argv": ["a"], "environment": []}, {"argv": ["a"], "arg": 1},
])
def test_settings_that_cannot_work_are_refused(settings):
    assert code(load, {"kind": "command", **settings}, None, None) == "pool_settings"
