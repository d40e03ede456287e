# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of one host, from what its slots run."""
from __future__ import annotations

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.generation import Plan, Slot, digest, plan

OLD, NEW = "0" * 12, "1" * 12


def serving(slot: int, generation: str = OLD, version: str = "1.13.4", **more) -> Slot:
    return Slot(slot, **{"state": "active", "generation": generation, "version": version, "gate": generation, "enabled": True, **more})


def draining(slot: int, **more) -> Slot:
    return Slot(slot, **{"state": "deactivating", "generation": OLD, "version": "1.13.4", "gate": OLD, **more})


def test_first_install_takes_slot_1_and_gates_it():
    assert plan(NEW, "1.13.5", [Slot(1), Slot(2)]) == Plan(1, start=True, gate=True, reason="no node runs on this host")


def test_same_generation_is_no_change():
    assert not plan(OLD, "1.13.4", [serving(1), Slot(2), Slot(3)]).changed


def test_new_version_starts_beside_and_drains_the_old():
    found = plan(NEW, "1.13.5", [serving(1), Slot(2), Slot(3)])
    assert (found.slot, found.start, found.gate, found.drain, found.stop) == (2, True, True, (1,), ())
    assert found.reason == "version 1.13.4 -> 1.13.5"


def test_new_configuration_of_the_same_version_is_a_generation_too():
    assert plan(NEW, "1.13.4", [serving(2), Slot(1)]).reason == f"generation {OLD} -> {NEW}"


def test_files_changed_by_hand_start_a_clean_slot_beside():
    found = plan(OLD, "1.13.4", [serving(1, intact=False), Slot(2)])
    assert found.start and found.slot == 2 and found.drain == (1,)


def test_a_draining_slot_is_not_free_and_never_told_to_drain_again():
    found = plan(NEW, "1.13.5", [draining(1), serving(2), Slot(3)])
    assert found.slot == 3 and found.drain == (2,)


@pytest.mark.parametrize("gate, enabled", [(None, False), (NEW, False), (None, True)])
def test_run_killed_before_service_goes_on_with_the_slot_it_started(gate, enabled):
    found = plan(NEW, "1.13.5", [serving(1), serving(2, NEW, "1.13.5", gate=gate, enabled=enabled), Slot(3)])
    assert (found.slot, found.start, found.gate, found.drain) == (2, False, True, (1,))


def test_run_killed_before_the_drain_only_drains():
    found = plan(NEW, "1.13.5", [serving(1), serving(2, NEW, "1.13.5"), Slot(3)])
    assert (found.start, found.gate, found.drain) == (False, False, (1,))


def test_two_starts_of_one_generation_keep_the_gated_one():
    found = plan(NEW, "1.13.5", [serving(1, NEW, "1.13.5", gate=None, enabled=False), serving(2, NEW, "1.13.5")])
    assert (found.slot, found.drain) == (2, (1,))


def test_failed_slot_is_free_again():
    assert plan(NEW, "1.13.5", [serving(1), Slot(2, state="failed", generation=NEW, version="1.13.5")]).slot == 2


def test_a_node_that_runs_another_binary_than_its_files_say_is_another_generation():
    assert plan(NEW, "1.13.5", [serving(1, NEW, "1.13.4"), Slot(2)]).start


def test_no_free_slot_names_slots_with_their_calls():
    with pytest.raises(FleetError) as caught:
        plan(NEW, "1.13.5", [draining(1, rooms=2, participants=5), serving(2, rooms=1, participants=2)])
    assert caught.value.failure["code"] == "no_free_slot"
    assert "slot 1 draining (2 rooms, 5 participants)" in str(caught.value) and "slot 2 serving (1 rooms, 2 participants)" in str(caught.value)


def test_world_readable_secrets_stop_every_change():
    with pytest.raises(FleetError, match="chmod 0640") as caught:
        plan(OLD, "1.13.4", [serving(1, exposed=("/etc/livekit/slots/1/keys.yaml",)), Slot(2)])
    assert caught.value.failure["code"] == "key_file_mode"


def test_without_redis_a_busy_node_is_not_replaced():
    with pytest.raises(FleetError, match="second cluster") as caught:
        plan(NEW, "1.13.5", [serving(1, participants=3), Slot(2)], redis=False)
    assert caught.value.failure["code"] == "node_busy"


def test_without_redis_a_node_whose_participants_are_unknown_is_not_replaced():
    with pytest.raises(FleetError):
        plan(NEW, "1.13.5", [serving(1, participants=None), Slot(2)], redis=False)


def test_without_redis_an_empty_node_is_stopped_before_the_new_one_starts():
    found = plan(NEW, "1.13.5", [serving(1, participants=0), Slot(2)], redis=False)
    assert found.stop == (1,) and found.start and not found.drain


def test_digest_depends_on_content_not_on_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})
    assert len(digest({})) == 12


@pytest.mark.parametrize("slot, label", [
    (serving(1), "serving"), (serving(1, gate=None), "gating"), (serving(1, state="activating"), "gating"), (draining(1), "draining"),
    (Slot(1, state="failed"), "failed"), (Slot(1), "free"),
])
def test_labels(slot, label):
    assert slot.label == label


def test_a_node_that_crashes_again_and_again_is_gated_anew_not_taken_for_running():
    assert plan(OLD, "1.13.4", [serving(1, state="activating"), Slot(2)]).gate


def test_a_retired_generation_that_would_come_back_at_boot_is_drained_too():
    left = serving(1, state="inactive")  # somebody stopped it by hand, so it is still enabled
    assert plan(NEW, "1.13.5", [left, serving(2, NEW, "1.13.5")]).drain == (1,)


def test_a_slot_beyond_the_layout_is_replaced_though_it_runs_the_generation():
    found = plan(OLD, "1.13.4", [Slot(1), Slot(2), serving(3)], count=2)
    assert (found.slot, found.start, found.drain) == (1, True, (3,))


def test_without_redis_a_draining_node_with_callers_is_a_cluster_of_its_own():
    with pytest.raises(FleetError, match="second cluster"):
        plan(NEW, "1.13.5", [draining(1, participants=2), Slot(2)], redis=False)


def test_without_redis_the_new_node_takes_another_slot_if_there_is_one():
    assert plan(NEW, "1.13.5", [serving(1, participants=0), Slot(2)], redis=False).slot == 2
