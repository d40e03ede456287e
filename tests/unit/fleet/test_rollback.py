# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which generation a host goes back to, and which hosts have to."""
from __future__ import annotations

import json

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import rollback
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.generation import Slot

A, B, C = "1.12.0", "1.13.4", "1.13.5"


def slot(number, version, served_at, state="inactive", **more):
    return {"slot": number, "version": version, "generation": f"g{version}", "served_at": served_at, "state": state, **more}


def row(number, version, served_at, state="inactive", log="info", ip="192.0.2.1", **more):
    model = {"livekit_version": version, "livekit_log_level": log, "livekit_address": ip}
    return {**slot(number, version, served_at, state, **more), "model": rollback.digests(model)}


def host(ip, *versions, **more):
    """Slots of a host that ran these versions, one after another; the last serves."""
    return [row(n, version, n * 100.0 + int(ip), "active" if n == len(versions) else "inactive", ip=ip, **(more if n == len(versions) else {}))
            for n, version in enumerate(versions, 1)]


def pick(function, *rows):
    found = function([Slot.from_mapping(r) for r in rows])
    return found and found.slot


def test_the_previous_generation_is_the_one_that_served_before():
    rows = slot(1, A, 1.0), slot(2, C, 3.0, "active"), slot(3, B, 2.0, "deactivating")
    assert pick(rollback.latest, *rows) == 2 and pick(rollback.previous, *rows) == 3


def test_a_node_that_runs_goes_before_one_that_passed_later_and_ended():
    assert pick(rollback.latest, slot(1, A, 1.0, "active"), slot(2, B, 2.0)) == 1


def test_what_never_passed_its_gates_is_nothing_to_go_back_to():
    rows = slot(1, A, None), slot(2, B, 2.0, "active"), slot(3, C, None, "active")
    assert pick(rollback.latest, *rows) == 2 and pick(rollback.previous, *rows) is None
    assert pick(rollback.latest, slot(1, A, None)) is None


def test_the_same_generation_in_another_slot_is_not_previous():
    assert pick(rollback.previous, slot(1, A, 1.0), slot(2, B, 2.0), slot(3, B, 3.0, "active")) == 1


def test_after_a_complete_change_every_host_goes_back():
    fleet = {"sfu1": host("1", A, B, C), "sfu2": host("2", A, B, C)}
    assert rollback.reached("sfu1", fleet) and rollback.reached("sfu2", fleet)


def test_after_a_change_that_stopped_at_the_canary_only_the_canary_goes_back():
    fleet = {"sfu1": host("1", A, B, C), "sfu2": host("2", A, B), "sfu3": host("3", A, B)}
    assert [rollback.reached(h, fleet) for h in fleet] == [True, False, False]


def test_after_a_rollback_there_is_nothing_to_do_and_one_that_stopped_half_way_is_finished():
    back = [*host("1", A, B, C)[:2], {**host("1", A, B, C)[2], "state": "deactivating"}, row(4, B, 400.0, "active", ip="1", rolled_back=True)]
    assert not rollback.reached("sfu1", {"sfu1": back})
    fleet = {"sfu1": back, "sfu2": host("2", A, B, C), "sfu3": host("3", A, B)}
    assert [rollback.reached(h, fleet) for h in fleet] == [False, True, False]


def test_after_going_back_from_the_canary_of_the_first_change_the_others_have_nothing_to_go_back_from():
    back = [row(1, B, 100.0, "inactive"), row(2, C, 200.0, "deactivating"), row(3, B, 300.0, "active", rolled_back=True)]
    fleet = {"sfu1": back, "sfu2": host("2", B)}
    assert not rollback.reached("sfu1", fleet) and not rollback.reached("sfu2", fleet)


def test_a_host_that_joined_later_runs_the_change_but_has_nothing_to_go_back_to():
    fleet = {"sfu1": host("1", B, C), "new": [row(1, C, 999.0, "active", ip="9")]}
    assert rollback.reached("sfu1", fleet) and rollback.reached("new", fleet)


def test_a_first_installation_has_nothing_to_go_back_to():
    assert rollback.reached("sfu1", {"sfu1": host("1", A)})  # the caller then finds no previous generation


def test_hosts_that_cannot_be_compared_are_not_guessed_at():
    fleet = {"sfu1": host("1", B, C), "sfu2": host("2", A, "1.13.1")}
    with pytest.raises(FleetError, match="--limit") as caught:
        rollback.reached("sfu2", fleet)
    assert caught.value.failure["code"] == "rollback_unclear" and caught.value.failure["variables"] == ["livekit_version"]


def test_a_host_that_never_served_is_left_alone():
    assert not rollback.reached("sfu1", {"sfu1": [row(1, A, None)]}) and not rollback.reached("sfu1", {})


def test_the_record_keeps_what_is_needed_and_the_digests_hide_it():
    kept = json.loads(rollback.record({"livekit_keys": {"k": "secret"}}, 5.0, True))
    assert kept == {"model": {"livekit_keys": {"k": "secret"}}, "served_at": 5.0, "rolled_back": True}
    assert "secret" not in str(rollback.digests(kept["model"]))


@pytest.mark.parametrize("source, now, taken, word", [
    ("previous", slot(2, C, 2.0, "active"), slot(1, B, 1.0), "back from generation g1.13.5 (1.13.5) to g1.13.4"),
    ("previous", slot(2, C, 2.0, "active"), slot(1, B, 1.0, "deactivating"), "cannot be called back"),
    ("last", slot(2, C, 2.0, "active"), None, "slot 2 serves"), ("last", slot(2, C, 2.0), None, "has ended"),
    ("last", slot(2, C, 2.0, "deactivating"), None, "cannot be called back"),
    ("previous", slot(2, C, 2.0, "active"), None, "did not reach"), ("previous", slot(2, C, 2.0, "active", rolled_back=True), None, "rolled back already"),
])
def test_reasons(source, now, taken, word):
    now = Slot.from_mapping(now)
    assert word in rollback.reason(source, now, Slot.from_mapping(taken) if taken else now)
