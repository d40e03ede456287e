# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a drain may take."""
from __future__ import annotations

import random

import pytest
from controller_sample import registry

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import eta as module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.eta import durations, eta


@pytest.mark.parametrize(
    ("ages", "past", "expected"),
    [
        ([], [], 0.0),
        ([], [100.0], 0.0),
        ([10.0], [], None),
        ([10.0], [100.0] * 4, None),
        ([0.0], [60.0, 120.0, 600.0, 1200.0, 3600.0], 600.0),
        ([300.0], [60.0, 120.0, 600.0, 600.0, 900.0, 1200.0, 3600.0], 600.0),
        ([5000.0], [600.0] * 50, None),
    ],
)
def test_eta(ages: list[float], past: list[float], expected: float | None) -> None:
    found = eta(ages, past)
    assert found == (expected if expected is None else pytest.approx(expected, abs=1.1))


def test_many_rooms_take_longer_than_one() -> None:
    dice = random.Random(4)
    past = [dice.expovariate(1 / 600) for dummy in range(400)]
    one, ten, hundred = (eta([0.0] * n, past) for n in (1, 10, 100))
    assert one is not None and ten is not None and hundred is not None
    assert 300 < one < 550  # the median of an exponential distribution is 0.69 of its mean
    assert 2 * one < ten < hundred


def test_it_is_as_likely_too_long_as_too_short() -> None:
    dice = random.Random(5)
    past = [dice.lognormvariate(6, 1) for dummy in range(500)]
    ages = [120.0, 600.0, 30.0]
    guess = eta(ages, past)
    assert guess is not None

    def ends(age: float) -> float:
        while True:
            life = dice.lognormvariate(6, 1)
            if life > age:
                return life - age

    early = sum(max(ends(age) for age in ages) < guess for dummy in range(2000))
    assert 850 < early < 1150


def test_durations_come_from_the_registry(redis_server: object) -> None:
    server = redis_server()  # type: ignore[operator]
    server.client.lpush(module.DURATIONS, 12.5, 60)
    assert durations(registry(server)) == [60.0, 12.5]
