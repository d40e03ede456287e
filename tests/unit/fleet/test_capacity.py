# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nodes carry and rooms weigh."""
from __future__ import annotations

import dataclasses
import math

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.capacity import (
    DEFAULT, Profile, demand, expected_size, headroom, load, node_load, room_load, room_loads, save,
)
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry import Snapshot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry_messages import Node, Room

NOW = 1_800_000_000


def node(node_id="ND_a", **values):
    values = {"updated_at": NOW, "num_cpus": 4, **values}
    return Node(node_id, "192.0.2.1", "", values.pop("state", "SERVING"), **values)


def room(name="r", participants=4, publishers=2, age=3600):
    return Room(name, "RM_x", NOW - age, participants, publishers, 0, 300, 20, False, "")


def snapshot(nodes, homes):
    return Snapshot(NOW, 0.0, {n.id: n for n in nodes}, homes, frozenset(homes))


def test_the_fullest_resource_counts():
    profile = Profile(tracks_per_cpu=100, packets_per_cpu=1000, participants_per_cpu=50, bytes_per_second=1e6, cpu=0.8)
    assert node_load(node(num_tracks_in=40, num_tracks_out=160, num_clients=10), profile) == (0.5, "tracks")
    assert node_load(node(num_tracks_in=40, cpu_load=0.6), profile) == (pytest.approx(0.75), "cpu")
    assert node_load(node(packets_in_rate=1000, packets_out_rate=4000), profile) == (1.25, "packets")
    assert node_load(node(bytes_out_rate=9e5, num_clients=2), profile) == (pytest.approx(0.9), "bytes")
    assert headroom(node(num_clients=150), profile) == pytest.approx(0.25)


def test_rooms_are_only_counted_where_nothing_else_is_known():
    assert node_load(node(num_rooms=10), Profile(rooms_per_node=20)) == (0.5, "rooms")
    assert node_load(node(num_rooms=10, num_clients=6), Profile(participants_per_cpu=150)).by == "participants"
    assert node_load(node()).share == 0.0


@pytest.mark.parametrize("values", [{"cpu_load": math.nan}, {"num_clients": -1}, {"bytes_in_rate": math.inf}, {"num_rooms": -3}])
def test_impossible_statistics_are_refused(values):
    with pytest.raises(FleetError) as caught:
        node_load(node(**values))
    assert caught.value.failure["code"] == "stats_invalid" and caught.value.failure["node_id"] == "ND_a"


def test_young_rooms_are_expected_to_grow():
    profile = Profile(ramp=300, typical=20)
    assert [expected_size(2, age, profile) for age in (0, 150, 300, 9000)] == [20, 11, 2, 2]
    assert expected_size(40, 0, profile) == 40
    assert room_load(room(participants=2, age=10), 4, NOW, profile) > 3 * room_load(room(participants=2, age=900), 4, NOW, profile)


def test_tracks_grow_with_the_square_of_a_conference_but_not_of_a_lecture():
    profile = Profile(tracks_per_cpu=100, participants_per_cpu=0)
    small, large = (room_load(room(participants=n, publishers=n), 4, NOW, profile) for n in (5, 10))
    assert large == pytest.approx(4 * small)
    few, many = (room_load(room(participants=n, publishers=1), 4, NOW, profile) for n in (100, 200))
    assert many == pytest.approx(2 * few)


def test_what_a_node_measures_is_laid_on_its_rooms():
    rooms = [room("big", 20, 1), room("small", 5, 1)]
    loads = room_loads(node(num_clients=25, cpu_load=0.6), rooms, NOW)
    assert sum(loads.values()) == pytest.approx(0.8)
    assert loads["big"] > 3 * loads["small"]


def test_the_demand_of_a_cluster_in_nodes_of_the_pool():
    nodes = [node("ND_a", num_clients=300), node("ND_b", num_clients=300, num_cpus=8), node("ND_c", num_clients=600, updated_at=NOW - 60),
             node("ND_d", num_clients=150, state="SHUTTING_DOWN")]
    found = demand(snapshot(nodes, {}), {}, {DEFAULT: Profile()}, reference_cpus=4)
    assert found.units == pytest.approx(0.5 + 0.5 + 0.25)  # the stale node does not count, the draining one does
    young = {"r": room("r", 1, 1, age=0), "old": room("old", 50, 1)}
    growing = demand(snapshot(nodes[:1], {"r": "ND_a", "old": "ND_a"}), young, {DEFAULT: Profile()}, reference_cpus=4)
    assert growing.growth > 0 and growing.units == pytest.approx(51 / 600 + growing.growth)  # its rooms' participants, not its own count


def test_profiles_are_saved_and_read(tmp_path):
    path = tmp_path / "profiles.json"
    learned = dataclasses.replace(Profile(), name="c7i.xlarge", tracks_per_cpu=700.0, learned=True, source="load_test, 2026-11-21")
    path.write_text(save({"c7i.xlarge": learned}))
    found = load(str(path))
    assert found["c7i.xlarge"] == learned
    assert not found[DEFAULT].learned and "guess" in found[DEFAULT].source


@pytest.mark.parametrize("text", ["", "[]", '{"a": 3}', '{"a": {"cpus": 3}}', '{"a": {"cpu": -1}}', '{"a": {"cpu": 2}}', '{"a": {"rooms_per_node": 0}}',
                                  '{"a": {"ramp": NaN}}', '{"a": {"ramp": "5"}}'])
def test_a_bad_profile_is_refused(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(FleetError) as caught:
        load(str(tmp_path / "p.json"))
    assert caught.value.failure["code"] == "profile_invalid"
