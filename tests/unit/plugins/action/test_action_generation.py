# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action generation against a scripted host: which modules it calls, in which order, and what it leaves alone."""
from __future__ import annotations

import json
import os
import signal
import types

import pytest
from ansible_collections.openrtc.livekit.plugins.action import generation as action
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import probe
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.balancers import haproxy
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slots import Layout

SECRET = "s" * 40
MODEL = {"livekit_version": "1.13.5", "livekit_keys": {"APIk": SECRET}, "livekit_redis": {"address": "192.0.2.5:6379"}, "livekit_address": "192.0.2.1"}
MUTATING = ("started", "serving", "draining", "discarded")


class Host:
    """A host with two slots. It answers the two modules and keeps the steps as (state, slot)."""

    def __init__(self, vcpus=2, redis=None, fail_at=None):
        self.slots = {n: {"slot": n, "state": "inactive", "label": "free", "version": None, "generation": None, "gate": None, "enabled": False,
                          "intact": True, "exposed": [], "config": ""} for n in (1, 2)}
        self.vcpus, self.redis, self.fail_at, self.steps, self.files = vcpus, redis or {"clock_offset": 0.01}, fail_at, [], {}
        self.locks, self.held_by, self.clock, self.models, self.when_locked = [], None, 1000.0, {}, lambda: None
        self.runtime: dict = {}

    def lock(self, state="held", owner="", name="", **options):
        if self.held_by:
            failure = {"code": "locked", "tried": "take the lock", "on": name, "got": f"{self.held_by} holds it", "fix": "wait"}
            return {"failed": True, "msg": "no", "failure": failure}
        self.locks.append(f"{state} {name}")
        self.when_locked()
        return {"changed": True, "token": 7}

    def execute(self, module_name, module_args, task_vars):
        if module_name.endswith("slot_info"):
            full = module_args.get("model") == "full"
            rows = [{**row, "ports": Layout().ports(n).as_dict(), "node_id": f"ND_{n}", **({"model": self.models.get(n, {})} if full else {})}
                    for n, row in self.slots.items()]
            return {"slots": rows, "vcpus": self.vcpus, "redis": self.redis, **({"runtime": self.runtime} if self.runtime else {})}
        if module_name.endswith("lock"):
            return self.lock(**module_args)
        if module_name.endswith("image"):
            self.steps.append(("image", module_args["names"][0]))
            return {"changed": True} if self.fail_at != "image" else {"failed": True, "msg": "absent"}
        if module_name.endswith("release"):
            self.steps.append(("release", module_args["version"]))
            return {"changed": False} if self.fail_at != "release" else {"failed": True, "msg": "404"}
        state = module_args["state"]
        if state == "ready":
            self.steps.append(("ready", module_args["slots"][0]))
            return {"changed": False} if self.fail_at != "ready" else {"failed": True, "msg": "no answer"}
        for n in module_args["slots"]:
            self.steps.append((state, n))
            if state == self.fail_at:
                return {"failed": True, "msg": "no", "failure": {"code": "gate_http", "tried": "bring up", "on": f"slot {n}", "got": "406", "fix": "look"}}
            if state == "started":
                self.files = module_args["files"]
                made = json.loads(self.files["model.json"])
                self.models[n] = made["model"]
                self.slots[n].update(state="active", label="gating", version=module_args["version"], generation=module_args["generation"], gate=None,
                                     served_at=made["served_at"], rolled_back=made["rolled_back"])
            elif state == "serving":
                self.clock += 1000
                self.slots[n].update(label="serving", gate=module_args["generation"], enabled=True, served_at=self.clock)
            else:
                self.slots[n].update(state="deactivating" if state == "draining" else "inactive", label="draining", enabled=False)
        return {"changed": True}


@pytest.fixture
def run(monkeypatch):
    """run(host, check=…, **options) -> (result or FleetError); the gates' call and balancer say yes unless told otherwise."""
    monkeypatch.setattr(probe, "run_in_child", lambda requests, timeout: [{"ok": True, "join_ms": 9}])
    monkeypatch.setattr(haproxy, "read", lambda page: {})
    monkeypatch.setattr(haproxy, "wait_taken", lambda pages, server, timeout: 0.1)
    monkeypatch.setattr(action, "Display", lambda: types.SimpleNamespace(display=lambda line: None))

    def call(host, check=False, **options):
        args = {k: v.get("default") for k, v in action.ARGUMENT_SPEC.items()}
        args.update(model=MODEL, balancer_pages=["http://192.0.2.9:8404/;csv"])
        args.update(options)
        plugin = types.SimpleNamespace(_task=types.SimpleNamespace(check_mode=check), _execute_module=host.execute,
                                       _play_context=types.SimpleNamespace(no_log=False))
        return action.Change(plugin, args, {"inventory_hostname": "sfu1"}).run()
    return call


def failed_call(requests, timeout):
    return [{"ok": False, "failure": {"code": "probe_media", "tried": "place a call", "on": "x", "got": "silence", "fix": "open UDP"}}]


def upgraded(host, run):
    run(host)
    host.steps.clear()
    return {**MODEL, "livekit_version": "1.13.4"}


def test_first_run_starts_gates_and_serves(run):
    host = Host()
    result = run(host)
    assert host.steps == [("release", "1.13.5"), ("started", 1), ("serving", 1)] and result["changed"] and result["slot"] == 1
    assert set(host.files) == {"config.yaml", "keys.yaml", "model.json"} and SECRET in host.files["keys.yaml"] and SECRET not in host.files["config.yaml"]
    assert [step["step"] for step in result["timeline"]] == ["started", "call passed", "serving", "balancer takes it"]


def test_second_run_changes_nothing(run):
    host = Host()
    run(host)
    host.steps.clear()
    assert not run(host)["changed"] and host.steps == []


def test_a_change_drains_the_old_node_last(run):
    host = Host()
    result = run(host, model=upgraded(host, run))
    assert host.steps == [("release", "1.13.4"), ("started", 2), ("serving", 2), ("draining", 1)] and result["drained"] == [1]


def test_check_mode_plans_and_sends_nothing(run):
    host = Host()
    result = run(host, check=True, model=upgraded(host, run))
    assert result["changed"] and host.steps == []
    assert "slot 1: draining" in result["diff"][0]["after"] and "slot 2: serving 1.13.4" in result["diff"][0]["after"]
    assert SECRET not in str(result)


def test_a_call_without_sound_discards_the_new_node_and_spares_the_old(run, monkeypatch):
    host = Host()
    model = upgraded(host, run)
    monkeypatch.setattr(probe, "run_in_child", failed_call)
    with pytest.raises(FleetError, match="silence") as caught:
        run(host, model=model)
    assert caught.value.failure["code"] == "probe_media"
    assert host.steps == [("release", "1.13.4"), ("started", 2), ("discarded", 2)] and host.slots[1]["label"] == "serving"


def test_a_node_the_balancer_never_takes_drains_and_the_old_one_stays(run, monkeypatch):
    host = Host()
    model = upgraded(host, run)

    def never(pages, server, timeout):
        raise FleetError("see the balancer take a slot", server, "DOWN", "check", code="gate_balancer")

    monkeypatch.setattr(haproxy, "wait_taken", never)
    with pytest.raises(FleetError):
        run(host, model=model)
    assert host.steps == [("release", "1.13.4"), ("started", 2), ("serving", 2), ("draining", 2)] and host.slots[1]["label"] == "serving"


def test_a_node_that_does_not_come_up_touches_nothing_else(run):
    host = Host(fail_at=None)
    model = upgraded(host, run)
    host.fail_at = "started"
    with pytest.raises(FleetError) as caught:
        run(host, model=model)
    assert caught.value.failure["code"] == "gate_http" and host.steps == [("release", "1.13.4"), ("started", 2)]


def test_a_release_that_cannot_be_had_touches_no_slot(run):
    host = Host()
    model = upgraded(host, run)
    host.fail_at = "release"
    with pytest.raises(FleetError, match="404"):
        run(host, model=model)
    assert host.steps == [("release", "1.13.4")]


def test_the_diff_of_the_configuration_shows_only_what_differs(run):
    host = Host()
    run(host)
    host.slots[1]["config"] = host.files["config.yaml"].strip()
    shown = run(host, check=True, model={**MODEL, "livekit_log_level": "debug"})["diff"][1]
    differing = set(shown["before"].splitlines()) ^ set(shown["after"].splitlines())
    assert differing == {"  level: info", "  level: debug"}


@pytest.mark.parametrize("offset", [1.2, -7.0])
def test_clocks_that_differ_are_refused_before_anything_changes(run, offset):
    host = Host(redis={"clock_offset": offset})
    with pytest.raises(FleetError, match="chrony") as caught:
        run(host)
    assert caught.value.failure["code"] == "clock_skew" and host.steps == []


def test_redis_trouble_is_refused_before_anything_changes_and_shown_in_check_mode(run):
    trouble = {"failure": {"code": "redis_auth", "tried": "connect to Redis", "on": "192.0.2.5:6379", "got": "WRONGPASS", "fix": "correct it"}}
    host = Host(redis=trouble)
    with pytest.raises(FleetError) as caught:
        run(host)
    assert caught.value.failure["code"] == "redis_auth" and host.steps == []
    assert run(host, check=True)["changed"]


def test_fewer_udp_ports_than_cpus_are_refused_before_anything_changes(run):
    host = Host(vcpus=8)
    with pytest.raises(FleetError) as caught:
        run(host, layout={"udp_width": 4})
    assert caught.value.failure["code"] == "udp_range_small" and host.steps == []


def test_a_step_that_would_break_turn_is_refused_before_anything_changes(run):
    host = Host()
    turn = {"enabled": True, "domain": "turn.example.org", "external_tls": True}
    run(host, model={**MODEL, "livekit_version": "1.11.0", "livekit_turn": turn})
    host.steps.clear()
    with pytest.raises(FleetError, match="1.12.0") as caught:
        run(host, model={**MODEL, "livekit_turn": turn})
    assert caught.value.failure["code"] == "turn_step" and host.steps == []


def test_a_misspelt_port_is_refused(run):
    with pytest.raises(FleetError, match="udp_width"):
        run(Host(), layout={"udp_with": 4})


def test_no_free_slot_is_refused(run):
    host = Host()
    model = upgraded(host, run)
    host.slots[2].update(state="deactivating", label="draining", version="1.13.3", generation="x", rooms=1, participants=2)
    with pytest.raises(FleetError, match="no free slot"):
        run(host, model=model)
    assert host.steps == []


def test_the_generation_is_the_same_whatever_the_slot_and_another_for_another_key(run):
    args = {**{k: v.get("default") for k, v in action.ARGUMENT_SPEC.items()}, "model": MODEL}
    one = action.Desired(args, Layout())
    assert one.name == action.Desired(args, Layout()).name
    assert one.files(1) != one.files(2)
    other = action.Desired({**args, "model": {**MODEL, "livekit_keys": {"APIk": "t" * 40}}}, Layout())
    assert other.name != one.name


def half_done(host, run, gate):
    """A host on which a run was killed after the new node was started, and gated or not."""
    model = upgraded(host, run)
    name = run(host, check=True, model=model)["generation"]
    host.slots[2].update(state="active", label="serving", version="1.13.4", generation=name, gate=name if gate else None, enabled=gate)
    return model


def test_a_killed_run_is_finished_but_only_after_the_new_node_is_seen_to_work(run):
    host = Host()
    run(host, model=half_done(host, run, gate=False))
    assert host.steps == [("ready", 2), ("serving", 2), ("draining", 1)]


def test_the_old_node_stays_when_the_new_one_of_an_earlier_run_does_not_answer(run):
    host = Host()
    model = half_done(host, run, gate=True)
    host.fail_at = "ready"
    with pytest.raises(FleetError):
        run(host, model=model)
    assert host.steps == [("ready", 2)] and host.slots[1]["label"] == "serving"


def test_the_old_node_stays_when_no_balancer_takes_the_one_of_an_earlier_run(run, monkeypatch):
    host = Host()
    model = half_done(host, run, gate=True)

    def never(pages, server, timeout):
        raise FleetError("see the balancer take a slot", server, "DOWN", "check", code="gate_balancer")

    monkeypatch.setattr(haproxy, "wait_taken", never)
    with pytest.raises(FleetError):
        run(host, model=model)
    assert host.steps == [("ready", 2)]


def test_a_balancer_that_cannot_be_asked_is_refused_before_anything_changes(run):
    host = Host()
    with pytest.raises(FleetError, match="livekit_haproxy_stats_password"):
        run(host, balancer_hosts=["edge1"], balancer_pages=[])
    assert host.steps == []


def test_a_balancer_that_does_not_answer_is_refused_before_anything_changes(run, monkeypatch):
    def nobody(page):
        raise FleetError("read the balancer's statistics", page["url"], "refused", "start it", code="balancer_stats")

    monkeypatch.setattr(haproxy, "read", nobody)
    host = Host()
    with pytest.raises(FleetError, match="192.0.2.9"):
        run(host)
    assert host.steps == []


def test_other_ports_under_running_nodes_are_refused_before_anything_changes(run):
    host = Host()
    run(host)
    host.slots[1]["config"] = host.files["config.yaml"]
    host.steps.clear()
    with pytest.raises(FleetError, match="livekit_layout") as caught:
        run(host, layout={"signal": 8880})
    assert caught.value.failure["code"] == "layout_changed" and host.steps == []


# --- one operator at a time

def test_the_host_is_locked_while_it_changes_and_not_otherwise(run):
    host = Host()
    run(host)
    assert host.locks == ["held host:sfu1", "released host:sfu1"]
    run(host)
    run(host, check=True, model={**MODEL, "livekit_log_level": "debug"})
    assert len(host.locks) == 2


def test_a_second_operator_is_told_who_works_here_and_changes_nothing(run):
    host = Host()
    host.held_by = "anna@desk pid 1"
    with pytest.raises(FleetError, match="anna@desk pid 1 holds it") as caught:
        run(host)
    assert caught.value.failure["code"] == "locked" and host.steps == []


def test_the_lock_is_given_back_when_a_gate_fails(run, monkeypatch):
    host = Host()
    monkeypatch.setattr(probe, "run_in_child", failed_call)
    with pytest.raises(FleetError):
        run(host)
    assert host.locks[-1] == "released host:sfu1"


def test_what_somebody_else_changed_before_the_lock_was_ours_is_not_changed_again(run):
    host = Host()
    name = run(host, check=True)["generation"]
    host.when_locked = lambda: host.slots[1].update(state="active", label="serving", version="1.13.5", generation=name, gate=name, enabled=True)
    assert not run(host)["changed"] and host.steps == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_lock_is_given_back_when_the_run_is_interrupted(run, monkeypatch, number):
    host = Host()
    monkeypatch.setattr(probe, "run_in_child", lambda requests, timeout: os.kill(os.getpid(), number))
    with pytest.raises(KeyboardInterrupt):
        run(host)
    assert host.locks[-1] == "released host:sfu1" and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_without_redis_there_is_no_lock(run):
    host = Host()
    run(host, model={**MODEL, "livekit_redis": {}})
    assert host.steps and not host.locks


# --- going back

def test_the_nodes_that_drain_are_named(run):
    host = Host()
    assert run(host, model=upgraded(host, run))["drained_nodes"] == [{"node_id": "ND_1", "slot": 1}]


def test_rollback_starts_the_previous_generation_beside_and_gates_it(run):
    host = Host()
    first = run(host)["generation"]
    run(host, model=upgraded(host, run))
    host.slots[1].update(state="inactive", label="free")
    host.steps.clear()
    result = run(host, model={**MODEL, "livekit_version": "1.13.4"}, source="previous")
    assert host.steps == [("release", "1.13.5"), ("started", 1), ("serving", 1), ("draining", 2)] and result["generation"] == first
    assert host.slots[1]["rolled_back"] and "back from" in result["reason"] and SECRET not in str(result)
    host.slots[2].update(state="inactive", label="free")
    host.steps.clear()
    assert not run(host, source="previous")["changed"] and host.steps == []
    assert not run(host)["changed"], "what was rolled back to is what the old variables say"


def three_slots(host):
    host.slots[3] = {**Host().slots[1], "slot": 3}


def test_rollback_while_the_previous_node_still_drains_starts_a_fresh_one(run):
    host = Host()
    three_slots(host)
    run(host, model=upgraded(host, run))
    result = run(host, source="previous")
    assert host.steps[-3:] == [("started", 3), ("serving", 3), ("draining", 2)] and "cannot be called back" in result["reason"]
    assert host.slots[1]["state"] == "deactivating"


@pytest.mark.parametrize("at", ["started", "serving", "draining"])
def test_a_rollback_that_failed_is_finished_by_the_next(run, at):
    host = Host()
    model = upgraded(host, run)
    run(host, model=model)
    host.slots[1].update(state="inactive", label="free")
    host.fail_at = at
    with pytest.raises(FleetError):
        run(host, model=model, source="previous")
    host.fail_at = None
    if at == "started":
        host.slots[1].update(gate=None)
    run(host, model=model, source="previous")
    assert (host.slots[1]["label"], host.slots[1]["version"], host.slots[2]["state"]) == ("serving", "1.13.5", "deactivating")


@pytest.mark.parametrize("source", ["previous", "last"])
def test_an_earlier_generation_that_is_not_there_is_refused(run, source):
    host = Host()
    if source == "previous":
        run(host)
    host.steps.clear()
    with pytest.raises(FleetError) as caught:
        run(host, source=source)
    assert caught.value.failure["code"] == "no_previous_generation" and host.steps == []


def test_a_host_that_the_change_did_not_reach_stays(run):
    host = Host()
    model = upgraded(host, run)

    def digests(version):
        return action.rollback.digests({**MODEL, "livekit_version": version})
    fleet = {"sfu1": [{**host.slots[1], "model": digests("1.13.5")}],
             "sfu0": [{**host.slots[1], "model": digests("1.13.5"), "generation": "x", "state": "inactive", "served_at": 1.0},
                      {**host.slots[1], "slot": 2, "model": digests("1.13.4"), "generation": "y", "served_at": 9999.0}]}
    result = run(host, source="previous", fleet=fleet, model=model)
    assert not result["changed"] and host.steps == [] and "did not reach" in result["reason"]


def test_a_previous_generation_whose_variables_were_not_kept_is_refused(run):
    host = Host()
    model = upgraded(host, run)
    run(host, model=model)
    host.models[1] = {}
    host.steps.clear()
    with pytest.raises(FleetError, match="kept the variables") as caught:
        run(host, model=model, source="previous")
    assert caught.value.failure["code"] == "no_previous_generation" and host.steps == []


@pytest.mark.parametrize("state, word", [("deactivating", "drains and cannot be called back"), ("inactive", "has ended")])
def test_a_drained_host_gets_a_fresh_node_of_the_same_generation(run, state, word):
    host = Host()
    three_slots(host)
    run(host, model=upgraded(host, run))
    host.slots[2].update(state=state, enabled=False)
    host.steps.clear()
    result = run(host, source="last")
    assert result["generation"] == host.slots[2]["generation"] and word in result["reason"]
    assert [s for s, n in host.steps] == ["release", "started", "serving"]


def test_a_host_that_serves_needs_no_fresh_node(run):
    host = Host()
    run(host)
    host.steps.clear()
    assert not run(host, source="last", model={**MODEL, "livekit_version": "1.13.4"})["changed"] and host.steps == []


IMAGE = "livekit/livekit-server:v1.13.5"


def containers(run, host, image=IMAGE, check=False, **compose):
    return run(host, check, model={**MODEL, "livekit_server_image": image}, target="compose", compose=compose)


def test_containers_have_an_image_instead_of_a_release(run):
    host = Host()
    result = containers(run, host)
    assert host.steps == [("image", IMAGE), ("started", 1), ("serving", 1)] and json.loads(host.files["model.json"])["model"]["livekit_server_image"] == IMAGE
    assert [step["step"] for step in result["timeline"]][0] == f"has image {IMAGE}"
    host.steps.clear()
    assert not containers(run, host, log_files=9)["changed"] and host.steps == []


def test_another_image_of_the_same_version_is_another_generation(run):
    host = Host()
    first = containers(run, host)["generation"]
    assert containers(run, host, image=IMAGE + "-patched")["generation"] != first and ("draining", 1) in host.steps


def test_a_container_and_a_unit_are_given_the_same_configuration(run):
    native, contained = Host(), Host()
    run(native)
    containers(run, contained)
    assert {k: v for k, v in native.files.items() if k != "model.json"} == {k: v for k, v in contained.files.items() if k != "model.json"}


def test_a_docker_that_cannot_start_anything_is_found_before_anything_changes(run):
    host = Host()
    host.runtime = {"failure": {"code": "compose_missing", "tried": "use Docker Compose", "on": "docker compose", "got": "1.29", "fix": "install it"}}
    with pytest.raises(FleetError) as caught:
        containers(run, host)
    assert caught.value.failure["code"] == "compose_missing" and host.steps == []


@pytest.mark.parametrize("image, code", [("livekit/livekit-server:latest", "image_floating"), ("no image", "image_name")])
def test_an_image_that_is_no_generation_is_refused(run, image, code):
    host = Host()
    with pytest.raises(FleetError) as caught:
        containers(run, host, image=image)
    assert caught.value.failure["code"] == code and host.steps == []


def test_an_image_that_cannot_be_had_touches_no_slot(run):
    host = Host(fail_at="image")
    with pytest.raises(FleetError, match="absent"):
        containers(run, host)
    assert host.steps == [("image", IMAGE)]
