# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Demand that was seen, what is made of it, and how much is kept free."""
from __future__ import annotations

import math
import random

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.demand_store import DemandStore, from_prometheus
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.forecast import Forecaster
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.headroom import Headroom
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.series import DAY, WEEK, Series, fill


def hill(minute, peak=200.0):
    return 30 + peak * math.exp(-((minute % DAY - 840) / 200) ** 2) * (0.5 if minute // DAY % 7 >= 5 else 1.0)


def learned(minutes, value, seed=1, noise=True, **options):
    rand = random.Random(seed)
    forecaster = Forecaster(120.0, 1800.0, 20.0, **options)
    for minute in range(minutes):
        mean = value(minute)
        forecaster.observe(60.0 * minute, max(0.0, rand.gauss(mean, math.sqrt(mean)) if noise else mean))
    return forecaster


@pytest.fixture(scope="module")
def weeks():
    """A forecaster that has seen two weeks and a half: it stands on a Thursday at noon."""
    return learned(2 * WEEK + 3 * DAY + 720, hill)


def test_holes_are_filled_and_marked_duplicates_and_rubbish_are_not_counted():
    series = Series()
    for at, value in ((0, 10), (10, 12), (59, 11), (180, 18), (120, 99), (240, math.nan), (240, -1), (math.inf, 1)):
        series.add(at, value)
    assert series.values == [12, 14, 16, 18]
    assert series.known == [True, False, False, True]
    assert series.refused == 4
    assert series.mean(0, 3) == 15 and series.mean(-5, 0) == 12 and series.mean(7, 9) == 0


def test_a_long_hole_has_what_was_there_a_week_before():
    series = fill([(60.0 * m, hill(m)) for m in range(WEEK + 100)] + [(60.0 * (WEEK + 400), 50.0)])
    assert series.values[WEEK + 200] == hill(200) and not series.known[WEEK + 200]


def test_after_a_silence_of_months_it_begins_anew():
    forecaster = learned(100, lambda m: 50.0)
    forecaster.observe(60.0 * 100 * DAY, 70.0)
    assert forecaster.series.values == [70.0] and forecaster.outlook().model == "level"


def test_a_stored_history_teaches_the_same_as_having_watched(tmp_path):
    watched, store, taught = learned(2 * DAY, hill, noise=False), DemandStore(str(tmp_path / "d.sqlite")), Forecaster(120.0, 1800.0, 20.0)
    store.add((60.0 * m, hill(m)) for m in reversed(range(2 * DAY)))
    taught.learn(reversed(store.rows()))
    assert taught.outlook() == watched.outlook()


def test_without_history_there_is_a_careful_outlook():
    assert Forecaster(120.0, 1800.0, 20.0).outlook().level == 0.0
    outlook = learned(1, lambda m: 100.0, noise=False).outlook()
    assert outlook.expected is None and outlook.level == pytest.approx(100.0, abs=1) and outlook.margin >= 20


def test_it_knows_the_time_of_the_week(weeks):
    outlook = weeks.outlook()
    assert outlook.model == "week", outlook.why
    assert "errs by" in outlook.why
    at = 2 * WEEK + 3 * DAY + 719
    for band in weeks.forecast([30, 60]):
        assert band.low < hill(at + band.minutes) < band.high
        assert abs(band.middle - hill(at + band.minutes)) < 25


def test_intervals_widen_with_their_probability(weeks):
    narrow, wide = (weeks.forecast([60], share)[0] for share in (0.5, 0.95))
    assert wide.low < narrow.low < narrow.middle < narrow.high < wide.high


def test_a_forecast_that_does_not_beat_last_week_refuses_itself():
    """Demand that wanders: what was there a week ago says nothing."""
    rand, levels = random.Random(4), [200.0]
    while len(levels) < 2 * WEEK:
        levels.append(min(400.0, max(20.0, levels[-1] + rand.gauss(0, 3))))
    outlook = learned(2 * WEEK, levels.__getitem__, noise=False).outlook()
    assert outlook.expected is None and outlook.model == "level"
    assert "the same time before by" in outlook.why


def test_nodes_are_kept_when_the_next_rush_is_near(weeks):
    outlook = weeks.outlook()
    assert outlook.keep > hill(2 * WEEK + 3 * DAY + 719 + 30)


def test_headroom_keeps_the_overflow_of_the_past_within_the_goal():
    rand, margins, over, total = random.Random(5), [], 0.0, 0.0
    headroom = Headroom(20.0, 1e-4)
    for row in range(6 * DAY):
        margin = headroom.plan(row, 200.0)
        value = rand.gauss(200, 14)
        headroom.observe(row, value)
        if row > 3 * DAY:
            margins.append(margin)
            capacity = math.ceil((200 + margin) / 20) * 20
            over, total = over + max(0.0, value - capacity), total + value
    assert over / total <= 1e-4
    assert 20 < sum(margins) / len(margins) < 60


def test_the_hour_of_a_weekly_rush_has_a_margin_of_its_own():
    rand, headroom = random.Random(6), Headroom(20.0, 1e-5)
    for row in range(2 * WEEK):
        headroom.plan(row, 100.0)
        headroom.observe(row, rand.gauss(100, 5) + (80 if row % WEEK in range(600, 610) else 0))
    assert headroom.plan(2 * WEEK + 605, 100.0) > headroom.plan(2 * WEEK + 800, 100.0) + 50


def test_the_store_keeps_the_largest_of_a_minute_and_survives(tmp_path):
    path = str(tmp_path / "demand.sqlite")
    store = DemandStore(path)
    assert store.add([(60.0, 5.0), (70.0, 9.0), (119.0, 7.0), (120.0, 1.0), (180.0, math.nan), (180.0, -2.0)]) == 2
    store.close()
    store = DemandStore(path)
    assert store.rows() == [(60.0, 9.0), (120.0, 1.0)] and store.rows(100.0) == [(60.0, 9.0), (120.0, 1.0)] and store.rows(120.0) == [(120.0, 1.0)]
    assert (tmp_path / "demand.sqlite").stat().st_mode & 0o007 == 0
    assert store.prune(60.0 + 86400 * 71) == 2 and store.rows() == []


def test_a_damaged_store_says_so(tmp_path):
    (tmp_path / "demand.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(FleetError) as caught:
        DemandStore(str(tmp_path / "demand.sqlite"))
    assert caught.value.failure["code"] == "demand_store"


def test_prometheus_answers_are_added_up():
    text = """{"status": "success", "data": {"resultType": "matrix", "result": [
        {"metric": {"node": "a"}, "values": [[60, "3"], [120, "4"], [180, "NaN"]]},
        {"metric": {"node": "b"}, "values": [[65.5, "2"], [70, "1"]]}]}}"""
    assert from_prometheus(text) == [(60.0, 5.0), (120.0, 4.0)]


@pytest.mark.parametrize("text", ["", "[]", '{"status": "error", "error": "bad query"}', '{"status": "success", "data": {"resultType": "vector"}}',
                                  '{"status": "success", "data": {"resultType": "matrix", "result": [{}]}}'])
def test_other_answers_are_refused(text):
    with pytest.raises(FleetError) as caught:
        from_prometheus(text)
    assert caught.value.failure["code"] == "prometheus_json"
