# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every pool has to do, as tests. A pool's own test module has a fixture `world` and a class that inherits Conformance.

A world has: pool; room, how many machines more it can give at most; settle(), which lets time pass until what was ordered runs; hold(), after
which orders stay orders; lose(id), a machine vanishes behind our back; cut() and mend(), the pool cannot be reached; deaf(), the next order is
carried out, but its answer is lost; who(), the ids of the machines there are, known from elsewhere; stranger, an id that never was; away, the
errors of a pool that cannot be reached.
"""
from __future__ import annotations

import pytest

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.pools import FAILED, ORDERED, RUNNING


def code(call, *args):
    with pytest.raises(FleetError) as caught:
        call(*args)
    return caught.value.failure["code"]


def ids(world):
    return {m.id for m in world.pool.machines()}


class Conformance:
    def test_it_tells_its_machines(self, world):
        found = world.pool.machines()
        assert {m.id for m in found} == world.who() and found
        assert all(m.state == RUNNING for m in found)
        assert world.pool.size() == len(found)

    def test_each_machine_can_be_found_in_the_cluster(self, world):
        assert all(m.host or m.address for m in world.pool.machines())

    def test_what_is_added_counts_at_once_and_runs_soon(self, world):
        before, size = ids(world), world.pool.size()
        said = world.pool.add(2, "one")
        assert world.pool.size() == size + 2
        world.settle()
        new = ids(world) - before
        assert len(new) == 2 and set(said) <= new
        assert [m.id for m in world.pool.wait_ready(sorted(new), 10)] == sorted(new)
        assert all(m.state == RUNNING for m in world.pool.machines())

    def test_an_order_that_is_repeated_adds_once(self, world):
        size = world.pool.size()
        world.pool.add(1, "one")
        world.pool.add(1, "one")
        assert world.pool.size() == size + 1
        world.settle()
        world.pool.add(1, "one")
        assert world.pool.size() == size + 1
        world.pool.add(1, "two")
        assert world.pool.size() == size + 2

    def test_an_order_whose_answer_was_lost_shows(self, world):
        """What it did is seen in machines(), so the scaler does not order again."""
        size = world.pool.size()
        world.deaf()
        try:
            world.pool.add(1, "one")
        except FleetError:
            pass
        world.settle()
        assert world.pool.size() == size + 1 and len(ids(world)) == size + 1

    def test_exactly_those_go_that_were_named(self, world):
        world.pool.add(2, "one")
        world.settle()
        before, size = ids(world), world.pool.size()
        leaving = sorted(before)[1]
        assert world.pool.retire([leaving]) == [leaving]
        assert world.pool.size() == size - 1
        world.settle()
        assert ids(world) == before - {leaving}

    def test_what_is_gone_already_is_no_error(self, world):
        before = ids(world)
        leaving = sorted(before)[0]
        world.pool.retire([leaving])
        world.settle()
        assert world.pool.retire([leaving]) == [] and world.pool.retire([]) == []
        assert world.pool.retire([world.stranger]) == []
        assert ids(world) == before - {leaving}

    def test_a_machine_that_went_behind_our_back_is_not_told(self, world):
        before = ids(world)
        lost = sorted(before)[0]
        world.lose(lost)
        assert all(m.state not in (RUNNING, ORDERED) for m in world.pool.machines() if m.id == lost)
        assert world.pool.retire([lost]) == []

    def test_numbers_that_are_none_change_nothing(self, world):
        before = ids(world)
        assert code(world.pool.add, 0) == code(world.pool.add, -3) == "pool_count"
        assert ids(world) == before

    def test_more_than_there_can_be_is_said(self, world):
        size = world.pool.size()
        said = ""
        for number in range(world.room + 1):
            try:
                world.pool.add(1, f"order {number}")
            except FleetError as exc:
                said = exc.failure["code"]
                break
        assert said in ("pool_full", "pool_refused")
        assert world.pool.size() == size + world.room

    def test_a_pool_that_does_not_answer_is_an_error_and_never_an_empty_pool(self, world):
        before = ids(world)
        world.cut()
        for call in (world.pool.machines, world.pool.size):
            assert code(call) in world.away
        assert code(world.pool.add, 1) in world.away
        assert code(world.pool.retire, sorted(before)) in world.away
        world.mend()
        assert ids(world) == before

    def test_waiting_ends(self, world):
        world.hold()
        before = ids(world)
        world.pool.add(1, "one")
        new = sorted(ids(world) - before) or ["what-never-comes"]
        assert all(m.state in (ORDERED, FAILED) for m in world.pool.machines() if m.id in new)
        assert code(world.pool.wait_ready, new, 0.3) in ("pool_timeout", "pool_failed")
