# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which node takes which room."""
from __future__ import annotations

import random

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement import Limits, Receiver, rebalance, spread

OFF = Limits(0, 0)


def receiver(node_id, host="h", cpus=2, cpu=0.1, participants=0):
    return Receiver(node_id, host, cpus, cpu, participants)


def code(*args, **kwargs):
    with pytest.raises(FleetError) as caught:
        spread(*args, **kwargs)
    return caught.value.failure["code"]


def test_big_rooms_first_each_to_the_emptiest():
    rooms = {"s1": 1, "s2": 1, "big": 6, "mid": 4}
    assert spread(rooms, [receiver("a"), receiver("b")]) == {"big": "a", "mid": "b", "s1": "b", "s2": "b"}


def test_load_counts_per_cpu():
    assert spread({"r": 3}, [receiver("a", cpus=2, participants=4), receiver("b", cpus=8, participants=8)]) == {"r": "b"}


def test_cpu_decides_between_equals_then_the_name():
    assert spread({"r": 1}, [receiver("a", cpu=0.5), receiver("b", cpu=0.2)]) == {"r": "b"}
    assert spread({"r": 1}, [receiver("b"), receiver("a")]) == {"r": "a"}


def test_the_same_host_comes_first_and_its_cpu_does_not_bind():
    among = [receiver("a", host="other"), receiver("b", host="here", cpu=0.99, participants=50)]
    assert spread({"r": 5}, among, host="here") == {"r": "b"}
    assert spread({"r": 5}, among, Limits(0.9, 50), host="here") == {"r": "a"}


def test_limits():
    full = [receiver("a", cpu=0.95), receiver("b", participants=10)]
    assert spread({"r": 5}, full, Limits(0.9, 0)) == {"r": "b"}
    assert spread({"r": 5}, full, Limits(0, 12)) == {"r": "a"}
    assert code({"r": 5}, full, Limits(0.9, 12)) == "no_headroom"
    assert spread({"r": 5}, full, OFF) == {"r": "a"}


def test_headroom_counts_what_was_placed_before():
    assert code({"r1": 5, "r2": 5}, [receiver("a")], Limits(0, 9)) == "no_headroom"
    # each participant costs 0.1 of a CPU, two CPUs: 16 participants fill 80 %
    assert spread({"r1": 8, "r2": 8}, [receiver("a", cpu=0.1)], Limits(0.9, 0), cpu_per_participant=0.1)
    assert code({"r1": 8, "r2": 9}, [receiver("a", cpu=0.1)], Limits(0.9, 0), cpu_per_participant=0.1) == "no_headroom"


def test_why_there_is_no_headroom():
    with pytest.raises(FleetError) as caught:
        spread({"r": 5}, [receiver("a", host="sfu2", cpu=0.95)])
    assert caught.value.failure["room"] == "r" and caught.value.failure["receivers"][0]["node_id"] == "a"
    assert "sfu2 a: 0 participants, CPU 95%" in str(caught.value)


def test_nobody_to_receive():
    assert code({"r": 1}, []) == code({}, []) == "no_receiver"


def test_rebalance_moves_few_rooms():
    rooms = {"a": {"big": 6, "mid": 3, "s": 1}, "b": {}}
    assert rebalance(rooms, [receiver("a"), receiver("b")]) in ({"mid": "b", "s": "b"}, {"mid": "b"}, {"big": "b"})
    assert rebalance({"a": {"only": 9}, "b": {}}, [receiver("a"), receiver("b")]) == {}
    assert rebalance({"a": {"x": 2}, "b": {"y": 2}}, [receiver("a"), receiver("b")]) == {}
    assert rebalance({"a": {"x": 2}}, [receiver("a")]) == {} == rebalance({}, [])
    assert rebalance({"a": {"empty": 0, "x": 3}, "b": {}}, [receiver("a"), receiver("b")]) == {}


def test_rebalance_stops_when_told():
    rooms = {"a": {f"r{n}": 1 for n in range(10)}, "b": {}}
    assert len(rebalance(rooms, [receiver("a"), receiver("b")], at_most=2)) == 2
    assert len(rebalance(rooms, [receiver("a"), receiver("b")])) == 5


@pytest.mark.parametrize("seed", range(200))
def test_rebalance_never_makes_it_worse(seed):
    pick = random.Random(seed)
    among = [receiver(f"n{i}", cpus=pick.choice((1, 2, 4, 8))) for i in range(pick.randint(2, 6))]
    rooms = {r.node_id: {f"{r.node_id}-{i}": pick.choice((0, 1, 1, 2, 2, 3, 5, 8, 30)) for i in range(pick.randint(0, 12))} for r in among}
    cpus = {r.node_id: r.cpus for r in among}

    def loads(where):
        found = dict.fromkeys(cpus, 0)
        for node, sizes in rooms.items():
            for room, size in sizes.items():
                found[where.get(room, node)] += size
        return sorted((found[n] / cpus[n] for n in found), reverse=True)

    moves = rebalance(rooms, among)
    before, after = loads({}), loads(moves)
    assert after <= before, "the fullest node gets no fuller"
    assert not moves or after < before
    homes = {room: node for node, sizes in rooms.items() for room in sizes}
    assert all(homes[room] != to for room, to in moves.items())
    assert len(moves) <= sum(1 for sizes in rooms.values() for size in sizes.values() if size)
    one_more = rebalance({n: {r: s for node, sizes in rooms.items() for r, s in sizes.items() if moves.get(r, node) == n} for n in cpus}, among)
    assert loads({**moves, **one_more}) <= after
    biggest = max((size for sizes in rooms.values() for size in sizes.values()), default=0)
    if all(c == among[0].cpus for c in cpus.values()):
        assert (after[0] - after[-1]) * among[0].cpus <= max(biggest, (before[0] - before[-1]) * among[0].cpus)


@pytest.mark.parametrize("seed", range(50))
def test_spread_is_even(seed):
    pick = random.Random(seed)
    among = [receiver(f"n{i}", participants=pick.randint(0, 5)) for i in range(pick.randint(2, 5))]
    rooms = {f"r{i}": pick.randint(0, 6) for i in range(30)}
    placed = spread(rooms, among, OFF)
    assert set(placed) == set(rooms)
    load = {r.node_id: r.participants + sum(size for room, size in rooms.items() if placed[room] == r.node_id) for r in among}
    assert max(load.values()) - min(load.values()) <= 6
