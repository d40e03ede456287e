# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Live rooms that move within a budget: to relieve full nodes, to empty whole ones."""
from __future__ import annotations

import random

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement.rebalance import Budget, Carrier, relieve, vacate


def carrier(name, *sizes, capacity=100.0, more=0.0, whole=True):
    return Carrier(name, capacity, sum(sizes) + more, {f"{name}{n}": (float(size), size) for n, size in enumerate(sizes)}, whole)


def test_relief_takes_the_smallest_room_that_is_enough():
    moves = relieve([carrier("a", 60, 20, 14, 3), carrier("b", 40), carrier("c", 10)], Budget())
    assert moves == {"a2": "c"}


def test_relief_takes_several_where_none_is_enough_and_nobody_gets_full_by_it():
    moves = relieve([carrier("a", *[10] * 12), carrier("b", 70), carrier("c", 60)], Budget())
    assert 4 >= len(moves) >= 3 and sum(to == "b" for to in moves.values()) <= 1 and sum(to == "c" for to in moves.values()) <= 2
    assert relieve([carrier("a", 98), carrier("b", 90)], Budget()) == {} == relieve([carrier("a", 99)], Budget())
    assert relieve([carrier("a", 90), carrier("b", 0)], Budget()) == {}, "full is over 95 %"


def test_the_budget_is_kept():
    full = [carrier("a", *[10] * 14), carrier("b"), carrier("c")]
    budget = Budget(moves=2)
    assert len(relieve(full, budget)) == 2 and budget.moves == 0
    assert relieve(full, Budget(moves=0)) == {} == relieve(full, Budget(participants=9))
    assert len(relieve(full, Budget(participants=39))) == 3


def test_the_emptiest_nodes_are_vacated_whole():
    moves = vacate([carrier("a", 30, 10), carrier("b", 5, 5), carrier("c", 2), carrier("d")], Budget())
    assert moves == {"c0": "a", "b0": "a", "b1": "a"} or set(moves) == {"c0", "b0", "b1"} and set(moves.values()) <= {"a", "b"}
    assert "d" not in moves.values(), "an empty node stays empty"


def test_a_node_is_vacated_whole_or_not_at_all():
    assert vacate([carrier("a", 65), carrier("b", 3, 4)], Budget()) == {}, "only one of its rooms would fit within 70 %"
    assert vacate([carrier("a", 15, 15), carrier("b", 3, 4)], Budget(moves=1)) == {}
    assert vacate([carrier("a", 30), carrier("b", 3, 4, whole=False)], Budget()) == {"a0": "b"}
    assert vacate([carrier("a", 30)], Budget()) == {}


@pytest.mark.parametrize("seed", range(100))
def test_no_move_makes_it_worse(seed):
    pick = random.Random(seed)
    cluster = [carrier(f"n{i}-", *[pick.choice((1, 2, 3, 5, 8, 20)) for _n in range(pick.randint(0, 14))]) for i in range(pick.randint(1, 6))]
    for plan, limit in ((relieve, 0.85), (vacate, 0.7)):
        before = {c.node_id: c.load for c in cluster}
        moves = plan(cluster, Budget(moves=10))
        after = dict(before)
        for c in cluster:
            for room, (load, _people) in c.rooms.items():
                if room in moves:
                    after[c.node_id] -= load
                    after[moves[room]] += load
        assert {c.node_id: c.load for c in cluster} == before, "nothing given is changed"
        assert len(moves) <= 10
        assert all(after[n] <= max(before[n], limit * 100) + 1e-6 for n in after)
        if plan is vacate:
            assert sum(load > 0 for load in after.values()) <= sum(load > 0 for load in before.values())
