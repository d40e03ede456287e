# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recurring times against python-dateutil, an independent implementation."""
from __future__ import annotations

import datetime

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.policies.recurrence import Rule

rrule = pytest.importorskip("dateutil.rrule")
FIRST = datetime.date(2026, 1, 30)


@pytest.mark.parametrize("text", [
    "FREQ=DAILY", "FREQ=DAILY;INTERVAL=3", "FREQ=DAILY;COUNT=10", "FREQ=DAILY;BYDAY=MO,FR;UNTIL=20260401T000000Z", "FREQ=WEEKLY", "FREQ=WEEKLY;BYDAY=MO,WE,SU",
    "FREQ=WEEKLY;INTERVAL=2;BYDAY=TU,FR", "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO;COUNT=7", "FREQ=MONTHLY", "FREQ=MONTHLY;BYDAY=1MO,-1FR",
    "FREQ=MONTHLY;BYMONTHDAY=1,-1",
    "FREQ=MONTHLY;INTERVAL=2;BYDAY=2TU", "FREQ=MONTHLY;BYMONTHDAY=13;BYDAY=FR", "FREQ=YEARLY", "FREQ=YEARLY;BYMONTH=3,9;BYDAY=1MO",
    "FREQ=YEARLY;BYDAY=10WE,-1SU",
    "FREQ=YEARLY;BYMONTH=6;BYMONTHDAY=24", "FREQ=DAILY;BYMONTH=2", "RRULE:FREQ=WEEKLY;WKST=MO;BYDAY=SA",
])
def test_the_days_of_three_years(text):
    begin = datetime.datetime.combine(FIRST, datetime.time(8))
    end = begin + datetime.timedelta(days=3 * 366)
    bare = text.removeprefix("RRULE:").replace("T000000Z", "T235959")
    expected = {at.date() for at in rrule.rrulestr(bare, dtstart=begin).between(begin, end, inc=True)}
    rule = Rule.parse(text, FIRST)
    assert {day for day in (FIRST + datetime.timedelta(days=n) for n in range(3 * 366 + 1)) if rule.on(day)} == expected


@pytest.mark.parametrize("text", ["", "FREQ=HOURLY", "FREQ=WEEKLY;BYDAY=XX", "FREQ=WEEKLY;BYDAY=1MO", "FREQ=DAILY;INTERVAL=0", "FREQ=DAILY;COUNT=0",
                                  "FREQ=DAILY;COUNT=x", "FREQ=DAILY;COUNT=2;UNTIL=20270101", "FREQ=DAILY;UNTIL=soon", "FREQ=MONTHLY;BYSETPOS=1",
                                  "FREQ=DAILY;FREQ=DAILY", "DAILY", "FREQ=MONTHLY;BYDAY=0MO"])
def test_what_is_not_understood_is_refused(text):
    with pytest.raises(FleetError) as caught:
        Rule.parse(text, FIRST)
    assert caught.value.failure["code"] == "rrule_invalid"
