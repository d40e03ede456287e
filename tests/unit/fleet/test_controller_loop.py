# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's loop over a real Redis, with hands that only write down what they were told to do."""
from __future__ import annotations

import dataclasses
import json
import threading
import time
import typing as t

import pytest
from controller_sample import cluster, registry, report, settings, slot

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import drain, journal, splits
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller import loop as module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.look import Probes, probe
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.controller.loop import Loop
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.drain import Action
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.lock import Lock
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.move_plan import Record
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.move_store import MOVES
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.recovery import Verdict
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.redis_connection import as_text


class FakeMover:
    """Notes what it is asked, and under which lock."""

    done: t.ClassVar[list[tuple[t.Any, ...]]] = []
    fails: t.ClassVar[FleetError | None] = None
    slow: t.ClassVar[threading.Event | None] = None

    def __init__(self, registry: t.Any, lock: Lock, journal: t.Any, limits: t.Any) -> None:
        self.registry, self.lock, self.journal, self.limits = registry, lock, journal, limits

    def recover(self, node_id: str, signals: t.Sequence[str], reason: str) -> None:
        self.note("recover", node_id)

    def resume(self) -> None:
        self.note("resume")

    def rejoin(self, splits: t.Mapping[str, t.Any]) -> None:
        self.note("rejoin", *splits)

    def note(self, *what: t.Any) -> None:
        self.lock.renew()  # it is held
        self.done.append((*what, self.lock.name))
        if self.fails is not None:
            raise self.fails  # pylint: disable=raising-bad-type
        if self.slow:
            self.slow.wait(10)


class FakeDrainer:
    action: t.ClassVar[Action] = Action("wait", "")

    def __init__(self, mover: FakeMover) -> None:
        self.mover = mover

    def look(self, request: drain.Request) -> Action:
        return self.action

    def step(self, request: drain.Request) -> Action:
        self.mover.note("drain", request.node_id)
        return self.action


class FakeWatch:
    """Judges as it is told."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.calm_from: float | None = None

    def suspects(self, snapshot: t.Any, reports: t.Any) -> list[str]:
        return []

    def decide(self, snapshot: t.Any, reports: t.Any, probes: t.Any) -> list[Verdict]:
        return self.verdicts if snapshot else []


@dataclasses.dataclass
class FakeLease:
    held: bool = True


@pytest.fixture
def server(redis_server: t.Callable[..., t.Any]) -> t.Any:
    found = redis_server()
    cluster(found)
    found.client.delete(journal.KEY)
    return found


@pytest.fixture
def make(server: t.Any, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[t.Callable[..., Loop]]:
    monkeypatch.setattr(FakeMover, "done", [])
    monkeypatch.setattr(FakeMover, "fails", None)
    monkeypatch.setattr(FakeMover, "slow", None)
    monkeypatch.setattr(FakeDrainer, "action", Action("wait", ""))
    monkeypatch.setattr(module, "ROUND", 0.0)
    made: list[Loop] = []

    def build(leads: bool = True, **more: t.Any) -> Loop:
        loop = Loop(settings(server, **more), FakeLease(leads), lambda: registry(server, 1.0), lambda entry: None, make=FakeMover,  # type: ignore[arg-type]
                    drainer=FakeDrainer, watch=FakeWatch(), probes=Probes(lambda url: "200"))
        loop._cleanup_at = time.monotonic()  # not in the first round
        made.append(loop)
        return loop

    yield build
    for loop in made:
        loop.probes.close()


def turn(loop: Loop, times: int = 1) -> None:
    """Ticks, each with all it starts."""
    for dummy in range(times):
        loop.tick()
        assert loop.rescuer.wait(5) and loop.mover.wait(5)


def noted(server: t.Any) -> list[dict[str, t.Any]]:
    return [json.loads(raw) for raw in reversed(server.client.lrange(journal.KEY, 0, -1))]


def kinds(server: t.Any) -> list[str]:
    return [entry["kind"] for entry in noted(server)]


DEAD = Verdict("ND_two", True, ["sfu2 no longer runs it", "its port: refused"], "dead")


def test_a_dead_node_is_recovered_once(server: t.Any, make: t.Callable[..., Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ODD", 0.1)
    loop = make()
    loop.watch.verdicts = [DEAD, Verdict("ND_three", False, ["its entry is 4.0 s old"], "odd")]
    turn(loop)
    time.sleep(0.15)
    turn(loop, 2)
    assert FakeMover.done == [("recover", "ND_two", "recover")]
    assert [(e["kind"], e["node"], e["outcome"]) for e in noted(server)] == [("dead", "ND_two", "recover"), ("odd", "ND_three", "wait")]
    assert noted(server)[0]["signals"] == DEAD.signals and noted(server)[0]["by"] == "controller@edge1"
    assert not server.client.exists("openrtc:lock:recover")


def test_a_recovery_waits_for_nobodys_move(server: t.Any, make: t.Callable[..., Loop]) -> None:
    loop = make()
    server.client.hset(MOVES, "ND_x", Record("ND_x", "evacuate", "ops", 0.0).as_json())
    FakeMover.slow = threading.Event()
    loop.tick()
    assert loop.mover.busy
    loop.watch.verdicts = [DEAD]
    with registry(server) as other, Lock(other, "elsewhere", "ops"):
        loop.tick()
        for dummy in range(100):
            if ("recover", "ND_two", "recover") in FakeMover.done:
                break
            time.sleep(0.02)
    assert ("recover", "ND_two", "recover") in FakeMover.done and loop.mover.busy
    FakeMover.slow.set()


def test_a_failed_recovery_is_tried_again_and_told_once(server: t.Any, make: t.Callable[..., Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.0)
    FakeMover.fails = FleetError("find a node", "2 rooms", "no other node serves", "Start one", code="no_receiver")
    loop = make()
    loop.watch.verdicts = [DEAD]
    turn(loop, 3)
    assert len(FakeMover.done) == 3
    assert kinds(server) == ["dead", "failed"]
    assert noted(server)[1]["outcome"] == "no_receiver"


@pytest.mark.parametrize(("more", "outcome"), [({"dry_run": True}, "dry_run"), ({"recover": False}, "off")])
def test_what_is_not_to_be_done_is_only_noted(server: t.Any, make: t.Callable[..., Loop], monkeypatch: pytest.MonkeyPatch, more: t.Any, outcome: str) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    FakeDrainer.action = Action("move", "the deadline has passed")
    loop = make(drains=outcome == "dry_run", **more)
    loop.watch.verdicts = [DEAD]
    turn(loop, 4)
    assert not FakeMover.done
    wanted = [("dead", outcome), ("drain move", outcome)] if outcome == "dry_run" else [("dead", outcome)]
    assert sorted((e["kind"], e["outcome"]) for e in noted(server)) == wanted


def test_a_follower_never_acts(server: t.Any, make: t.Callable[..., Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    FakeDrainer.action = Action("move", "the deadline has passed")
    loop = make(leads=False)
    loop.watch.verdicts = [DEAD]
    turn(loop, 3)
    assert not FakeMover.done and not noted(server)
    assert loop.look.snapshot is not None


def test_a_due_drain_is_gone_on_with_after_a_moment(server: t.Any, make: t.Callable[..., Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    """A playbook that waits for the drain looks more often: the move is left to it as long as it is there."""
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    loop = make()
    turn(loop)
    FakeDrainer.action = Action("move", "the deadline has passed")
    turn(loop, 2)
    assert not FakeMover.done
    time.sleep(0.35)
    turn(loop)
    assert FakeMover.done == [("drain", "ND_old1", "move")]


def test_unfinished_moves_are_resumed_but_not_under_somebodys_lock(server: t.Any, make: t.Callable[..., Loop]) -> None:
    loop = make()
    turn(loop)
    assert not FakeMover.done
    server.client.hset(MOVES, "ND_x", Record("ND_x", "evacuate", "ops", 0.0).as_json())
    with registry(server) as other, Lock(other, "move", "ops pid 1"):
        turn(loop)
        assert not FakeMover.done
    turn(loop)
    assert FakeMover.done == [("resume", "move")]
    assert not noted(server)


def test_the_lock_of_a_controller_that_died_at_work_is_taken_over(server: t.Any, make: t.Callable[..., Loop]) -> None:
    server.client.hset(MOVES, "ND_x", Record("ND_x", "evacuate", "controller@edge2", 0.0).as_json())
    with registry(server) as other:
        lost = Lock(other, "move", "controller@edge2").acquire()
        turn(make())
        assert FakeMover.done == [("resume", "move")]
        with pytest.raises(FleetError) as raised:
            lost.renew()
        assert raised.value.failure["code"] == "lock_lost"


def test_freeze_is_told_once_and_ends(server: t.Any, make: t.Callable[..., Loop]) -> None:
    said: list[dict[str, t.Any]] = []
    loop = make()
    loop.journal.echo = said.append
    loop.watch.verdicts = [DEAD]
    server.client.execute_command("CLIENT", "PAUSE", 4500, "ALL")
    turn(loop, 2)
    assert [e["kind"] for e in said] == ["freeze"] and "Redis cannot be asked" in said[0]["reason"]
    assert "Redis cannot be asked" in loop.look.frozen and not FakeMover.done
    time.sleep(2.5)
    turn(loop)
    assert [e["kind"] for e in said][:2] == ["freeze", "thaw"]
    assert FakeMover.done == [("recover", "ND_two", "recover")]


def test_callers_of_a_room_that_was_split_connect_anew(server: t.Any, make: t.Callable[..., Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "SETTLE", 0.0)
    loop, watching, dry = make(), make(leads=False), make(dry_run=True)
    for one in (loop, watching, dry):
        turn(one)
    room, home = next((as_text(r), as_text(n)) for r, n in server.client.hgetall("room_node_map").items() if n == b"ND_two")
    server.client.hset("room_node_map", room, "ND_three")
    for one in (loop, watching, dry):
        turn(one, 3)
    assert home == "ND_two" and FakeMover.done == [("rejoin", room, "recover")]
    assert [(e["kind"], e["rooms"], e["outcome"]) for e in noted(server)] == [("rejoin", [room], "dry_run")]


def test_what_redis_answers_late_decides_nothing(server: t.Any, make: t.Callable[..., Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LATE", 0.2)
    real = module.take
    monkeypatch.setattr(module, "take", lambda registry: (time.sleep(0.3), real(registry))[1])
    loop = make()
    loop.watch.verdicts = [DEAD]
    turn(loop, 2)
    assert not FakeMover.done and "s to answer" in loop.look.frozen
    monkeypatch.setattr(module, "take", real)
    turn(loop)
    assert FakeMover.done == [("recover", "ND_two", "recover")] and kinds(server)[:2] == ["freeze", "thaw"]


def test_nothing_is_done_while_every_node_looks_stale(server: t.Any, make: t.Callable[..., Loop]) -> None:
    for node in ("ND_new1", "ND_old1", "ND_two", "ND_three"):
        server.add_node(node, age=30)
    loop = make()
    loop.watch.verdicts = [DEAD]
    turn(loop, 2)
    assert not FakeMover.done
    assert kinds(server) == ["freeze"]


def test_only_lasting_ghosts_are_removed(server: t.Any, make: t.Callable[..., Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLEANUP", 0.0)
    monkeypatch.setattr(module.cleanup, "GHOST_SECONDS", 0.5)
    server.add_node("ND_ghost", age=300)
    server.add_room("ghost-room", "ND_ghost", creation_time=int(time.time() - 900))
    loop = make()
    turn(loop)
    assert server.client.hexists("nodes", "ND_ghost")
    time.sleep(0.6)
    loop.watch.calm_from = time.time() + 60  # Redis was away a moment ago
    turn(loop)
    assert server.client.hexists("nodes", "ND_ghost")
    loop.watch.calm_from = time.time() - 1
    turn(loop)
    assert not server.client.hexists("nodes", "ND_ghost")
    assert not server.client.hexists("room_node_map", "ghost-room")
    assert server.client.hlen("room_node_map") == 25
    (entry,) = noted(server)
    assert (entry["kind"], entry["outcome"], list(entry["nodes"]), list(entry["rooms"])) == ("cleanup", "removed", ["ND_ghost"], ["ghost-room"])


def test_the_loop_outlives_what_it_did_not_expect(server: t.Any, make: t.Callable[..., Loop]) -> None:
    loop = make()
    loop.watch.decide = lambda *args: 1 / 0
    loop.start()
    time.sleep(0.4)
    assert loop.alive
    loop.stop()
    assert "ZeroDivisionError" in noted(server)[0]["reason"]


def test_probes_tell_apart_what_a_port_answers(serve: t.Callable[..., str]) -> None:
    import socket

    from aiohttp import web

    async def not_ready(_request: web.Request) -> web.Response:
        return web.Response(status=406)

    app = web.Application()
    app.router.add_get("/", not_ready)
    assert probe(serve(app)) == "406"
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        assert probe(f"http://127.0.0.1:{port}") == "refused"
        silent.listen()
        assert probe(f"http://127.0.0.1:{port}", 0.2) == "timeout"


def test_a_closed_port_of_an_ended_process_stays_closed(server: t.Any) -> None:
    """systemd starts another node in the slot a second later, which answers at the same address."""
    answers = ["refused", "200", "200"]
    asked: list[str] = []

    def ask(url: str) -> str:
        asked.append(url)
        return answers.pop(0)

    with registry(server) as one:
        probes = Probes(ask)
        probes.learn(module.take(one).reports)  # type: ignore[arg-type]
        report(server, "sfu2", [slot(1, "", "activating"), slot(2), slot(3)])
        reports = module.take(one).reports
        assert reports is not None
        assert probes.answers(["ND_two"], ["ND_two"], reports) == {"ND_two": "refused"}
        time.sleep(0.5)
        assert probes.answers(["ND_two"], ["ND_two"], reports) == {"ND_two": "refused"}
        assert asked == ["http://10.0.0.22:7880"]
        probes.close()
