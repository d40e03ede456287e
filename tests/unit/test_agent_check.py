# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent check as a balancer sees it: over TCP, with the states of the units given by the test."""
from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import pathlib
import time

import pytest

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "roles/server/files/agent_check.py"
spec = importlib.util.spec_from_file_location("agent_check", SOURCE)
agent_check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(agent_check)

GENERATION = "0123456789ab"


class Host:
    def __init__(self, root):
        self.config, self.state = root / "etc", root / "var"
        self.units = {}
        self.looks = 0
        self.busy = 0.2
        self.down = False

    def look(self):
        self.looks += 1
        if self.down:
            raise agent_check.Unknown("the bus does not answer")
        return self.units

    def slot(self, number, state=None, generation=GENERATION, gate=GENERATION):
        for folder in (self.config / str(number), self.state / str(number)):
            folder.mkdir(parents=True, exist_ok=True)
        (self.config / str(number) / "generation.json").write_text(json.dumps({"generation": generation}))
        if gate is not None:
            (self.state / str(number) / "gate").write_text(gate + "\n")
        if state:
            self.units[f"livekit-server@{number}.service"] = state

    def ask(self, *questions, fresh=False):
        """The answers of one process to questions asked at the same time."""
        async def one(port, text):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(text)
            if text == b"":
                writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return answer.decode()

        async def all_of_them():
            check = agent_check.AgentCheck(self.look, lambda: self.busy, str(self.config), str(self.state))
            server = await asyncio.start_server(check.serve, "127.0.0.1", 0)
            async with server:
                port = server.sockets[0].getsockname()[1]
                return await asyncio.gather(*(one(port, q if isinstance(q, bytes) else f"{q}\n".encode()) for q in questions))

        return asyncio.run(all_of_them())


@pytest.fixture(name="host")
def fixture_host(tmp_path):
    return Host(tmp_path)


def test_serving_draining_starting_and_empty_slots(host):
    host.slot(1, "active")
    host.slot(2, "deactivating")
    host.slot(3, "activating")
    assert host.ask(1, 2, 3, 4) == ["up ready 80%\n", "drain\n", "down\n", "down\n"]


@pytest.mark.parametrize(("gate", "answer"), [(None, "down\n"), ("ffffffffffff", "down\n"), ("", "down\n"), (GENERATION, "up ready 80%\n")])
def test_only_the_generation_that_passed_its_gates_takes_connections(host, gate, answer):
    host.slot(1, "active", gate=gate)
    assert host.ask(1) == [answer]


def test_a_drain_is_told_even_without_a_gate(host):
    host.slot(1, "deactivating", gate=None)
    assert host.ask(1) == ["drain\n"]


@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_a_slot_that_ended_is_down(host, state):
    host.slot(1, state)
    assert host.ask(1) == ["down\n"]


def test_no_answer_rather_than_a_wrong_one(host):
    host.slot(1, "active")
    host.down = True
    assert host.ask(1, 1) == ["", ""]
    host.down = False
    (host.config / "1/generation.json").write_text("{")
    assert host.ask(1) == [""]


@pytest.mark.parametrize("text", [b"", b"\n", b"x\n", b"0\n", b"-1\n", b"1 2\n", b"\xff\xfe\n", b"9" * 5000 + b"\n", b"../1\n"])
def test_nonsense_gets_no_answer_and_does_no_harm(host, text):
    host.slot(1, "active")
    assert host.ask(text, 1) == ["", "up ready 80%\n"]


def test_many_questions_cost_one_look(host):
    for n in (1, 2, 3):
        host.slot(n, "active")
    assert set(host.ask(*[1, 2, 3] * 20)) == {"up ready 80%\n"}
    assert host.looks == 1


@pytest.mark.parametrize(("busy", "weight"), [(0, 100), (0.04, 100), (0.2, 80), (0.5, 50), (0.93, 10), (1, 10)])
def test_weight_follows_the_idle_cpu(busy, weight):
    assert agent_check.weight_of(busy) == weight


def test_cpu_share_from_proc_stat(tmp_path):
    path = tmp_path / "stat"
    cpu = agent_check.Cpu(str(path), keep=0)
    path.write_text("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1\n")
    cpu.sample()
    path.write_text("cpu  125 0 125 840 10 0 0 0 0 0\ncpu0 1\n")
    cpu.sample()
    assert cpu.busy == pytest.approx(0.5)
    path.write_text("")
    cpu.sample()
    assert cpu.busy == pytest.approx(0.5)


def test_states_from_the_file_of_the_executor(tmp_path):
    path = tmp_path / "states.json"
    path.write_text('{"1": "active", "2": "deactivating"}')
    look = agent_check.States(str(path))
    assert look() == {"livekit-server@1.service": "active", "livekit-server@2.service": "deactivating"}


@pytest.mark.parametrize("text, age", [('{"1": "active"}', 10), ("{", 0), ("[]", 0), (None, 0)])
def test_states_that_are_no_news_are_not_told(tmp_path, text, age):
    path = tmp_path / "states.json"
    if text is not None:
        path.write_text(text)
        os.utime(path, (time.time() - age, time.time() - age))
    with pytest.raises(agent_check.Unknown):
        agent_check.States(str(path))()
