# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action drain with scripted turns of its module: what it prints, when it ends, what it hands back."""
from __future__ import annotations

import types

import pytest
from ansible_collections.openrtc.livekit.plugins.action import drain as action
from ansible_collections.openrtc.livekit.plugins.plugin_utils import owner


def row(node="ND_a", state="wait", **fields):
    return {"node_id": node, "host": "sfu1", "slot": 1, "policy": "move", "state": state, "reason": "", "rooms": 2, "participants": 3, "oldest": 90.0,
            "blockers": {}, "eta": None, "deadline": 100.0, **fields}


def turn(*rows, changed=False, done=False, **fields):
    return {"drains": list(rows), "changed": changed, "done": done, "timeline": [{"kind": "step"}], **fields}


def failed(code, **fields):
    return {"failed": True, "msg": code, "changed": False, "timeline": [], "failure": {"code": code, **fields}}


@pytest.fixture
def run(monkeypatch):
    """run([turns], check=, async_val=, **options) -> (result, calls as (arguments, async), printed lines)."""
    monkeypatch.setattr(action.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(action.ActionBase, "run", lambda self, tmp=None, task_vars=None: {})

    def run(turns, check=False, async_val=0, **options):
        printed, calls, script = [], [], list(turns)
        monkeypatch.setattr(action, "Display", lambda: types.SimpleNamespace(display=printed.append))
        plugin = object.__new__(action.ActionModule)
        plugin._task = types.SimpleNamespace(args={"redis": {}, **options}, async_val=async_val, check_mode=check)

        def execute(module_name, module_args, task_vars, wrap_async=False):
            assert module_name == "openrtc.livekit.drain"
            calls.append((dict(module_args), wrap_async))
            return script.pop(0)

        plugin._execute_module = execute
        result = plugin.run(task_vars={})
        assert not script
        return result, calls, printed

    return run


def test_turns_until_the_nodes_are_gone(run):
    result, calls, printed = run([turn(row(state="drain"), changed=True), turn(row(eta=600.0, blockers={"r": ["SIP line"]})),
                                  turn(row(state="gone"), done=True)],
                                 hosts=["sfu1"])
    assert result["changed"] and result["done"] and len(result["timeline"]) == 3 and [d["state"] for d in result["drains"]] == ["gone"]
    assert all(args["poll"] == action.TURN and args["hosts"] == ["sfu1"] and not wrapped for args, wrapped in calls)
    assert len({args["owner"] for args, _wrapped in calls}) == 1
    assert len(printed) == 3
    assert "sfu1: slot 1 wait: 2 rooms, 3 participants, oldest room" in printed[1] and "held by SIP line" in printed[1] and "move in" in printed[1]
    assert "unknown" in printed[0] and "is empty and gone" in printed[2]


def test_without_waiting(run):
    result, calls, _printed = run([turn(row(state="freeze", reason="old report")), turn(row())], hosts=["sfu1"], wait="no")
    assert len(calls) == 2 and not result["done"]


def test_check_mode_takes_one_turn(run):
    result, calls, _printed = run([turn(row(state="drain"), changed=True)], check=True, hosts=["sfu1"])
    assert result["changed"] and len(calls) == 1


def test_in_the_background_it_is_one_call(run):
    result, calls, printed = run([{"ansible_job_id": "1", "changed": True}], async_val=600, hosts=["sfu1"])
    assert result["ansible_job_id"] == "1" and calls[0][1] and "poll" not in calls[0][0] and not printed


def test_an_own_poll_is_left_alone(run):
    _result, calls, _printed = run([turn(row())], hosts=["sfu1"], poll=3)
    assert calls[0][0]["poll"] == 3 and len(calls) == 1


def test_a_failure_keeps_what_was_done(run):
    result, _calls, _printed = run([turn(row(state="drain"), changed=True), failed("no_headroom")], hosts=["sfu1"])
    assert result["failed"] and result["changed"] and result["failure"]["code"] == "no_headroom" and len(result["timeline"]) == 1
    result, calls, _printed = run([{"failed": True, "msg": "MODULE FAILURE"}], hosts=["sfu1"])
    assert result["failed"] and not result["changed"]
    result, calls, _printed = run([failed("redis_unreachable")], hosts=["sfu1"])
    assert result["failed"] and len(calls) == 1, "nothing has begun, so nothing is waited for"


def test_redis_is_away_between_two_turns(run, monkeypatch):
    result, _calls, printed = run([turn(row()), failed("redis_unreachable"), failed("frozen"), turn(row(state="gone"), done=True)], hosts=["sfu1"])
    assert not result.get("failed") and result["done"] and "  redis_unreachable" in printed
    clock = iter(range(0, 10000, 40))
    monkeypatch.setattr(action.time, "monotonic", lambda: next(clock))
    result, _calls, _printed = run([turn(row()), failed("redis_unreachable"), failed("redis_unreachable")][:2], hosts=["sfu1"])
    assert result["failed"]


def test_a_node_that_the_controller_saw_end(run):
    """Its request is gone by the next turn; by host it is listed no more, by id it is unknown."""
    result, _calls, printed = run([turn(row()), turn(done=True)], hosts=["sfu1"])
    assert [d["state"] for d in result["drains"]] == ["gone"] and result["done"] and "is empty and gone" in printed[-1]
    result, _calls, _printed = run([turn(row()), failed("node_unknown", node_id="ND_a")], node_ids=["ND_a"])
    assert not result.get("failed") and result["done"] and [(d["state"], d["rooms"]) for d in result["drains"]] == [("gone", 0)]
    result, calls, _printed = run([turn(row(), row("ND_b")), failed("node_unknown", node_id="ND_a"), turn(row("ND_b", "gone"), done=True)],
                                  node_ids=["ND_a", "ND_b"])
    assert calls[-1][0]["node_ids"] == ["ND_b"] and result["done"] and [d["state"] for d in result["drains"]] == ["gone", "gone"]
    result, _calls, _printed = run([failed("node_unknown", node_id="ND_a")], node_ids=["ND_a"])
    assert result["failed"], "one that was never there is an error"


def test_owner_without_a_user(monkeypatch):
    def nobody():
        raise KeyError("uid")

    monkeypatch.setattr(owner.getpass, "getuser", nobody)
    assert " pid " in owner.owner() and owner.owner() == owner.owner()
