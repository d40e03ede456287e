# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each policy wants, and when."""
from __future__ import annotations

import datetime
import pathlib
import random
import re

import pytest
import yaml
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.forecast import Outlook
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.policies.base import View
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.policies.events import FINISHED, STARTED, Events, Ledger
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.policies.headroom import Headroom
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.policies.ical import windows
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.policies.load import load
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.policies.queue import Queue
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.policies.reservations import Reservation, Reservations
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.policies.schedule import Schedule, window
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.scaling_settings import ScalingSettings

BERLIN = "Europe/Berlin"


def view(at=1e9, demand=100.0, **values):
    return View(at, demand, 20.0, **values)


def moment(text):
    return datetime.datetime.fromisoformat(text).timestamp()


def code(call, *args, **kwargs):
    with pytest.raises(FleetError) as caught:
        call(*args, **kwargs)
    return caught.value.failure["code"]


def active(scheduled, *times, lead=0.0):
    return [scheduled.active(moment(text), lead) for text in times]


def test_headroom_keeps_a_share_free_until_it_has_learned():
    assert Headroom(share=0.25).wish(view()).size == 7
    assert Headroom(share=0.25, nodes=3).wish(view()).size == 8
    learned = view(outlook=Outlook(1e9, 2, 98.0, 31.0))
    assert Headroom().wish(learned).size == 7 and "31 free" in Headroom().wish(learned).reason
    assert Headroom(nodes=3).wish(learned).size == 8
    assert Headroom().wish(view(demand=300.0, outlook=Outlook(1e9, 2, 98.0, 31.0))).size == 15


def test_the_queue_asks_for_those_who_wait_and_those_turned_away():
    assert Queue().wish(view()) is None
    wish = Queue(per_refusal=2.0).wish(view(waiting=15.0, refused=4))
    assert wish.size == 7 and "15 wait and 4 were refused" in wish.reason


def test_a_reservation_is_ready_before_and_adds_to_what_is_there():
    booked = Reservations((Reservation.of_people("webinar", 5000, 10_000.0, 17_200.0, per_unit=25),))
    at = [booked.wish(view(t, lead=120.0)) for t in (9_579.0, 9_580.0, 10_899.0, 10_900.0, 17_200.0)]
    assert at[0] is None and at[4] is None
    assert at[1].size == 15 and at[2].size == 15  # 100 rooms and the 200 that 5,000 people come to
    assert at[3].size == 10  # a quarter of an hour later its people are in the demand, or will not come
    assert "webinar (200)" in at[1].reason


@pytest.mark.parametrize("values", [("a", 0.0, 1, 2), ("a", float("nan"), 1, 2), ("a", 5.0, 2, 2), ("a", 5.0, 1, 2, -1.0)])
def test_impossible_reservations_are_refused(values):
    assert code(Reservations, (Reservation(*values),)).startswith("reservation_")


def test_lost_doubled_and_shuffled_webhooks_cannot_drift():
    rand = random.Random(3)
    truth, events, ledger = set(), [], Ledger()
    for second in range(3000):
        name = f"r{rand.randrange(60)}"
        kind, truth = (FINISHED, truth - {name}) if name in truth else (STARTED, truth | {name})
        born = float(second) if kind == STARTED else next(e[2] for e in reversed(events) if e[1] == name and e[0] == STARTED)
        events.append((kind, name, born, float(second)))
        batch = [e for e in events[-5:] if rand.random() > 0.1] + [e for e in events[-5:] if rand.random() < 0.1]
        rand.shuffle(batch)
        for event in batch:
            ledger.hear(*event)
        if second % 10 == 9:
            ledger.look(truth, second + 0.5)
            if second % 100 == 99:
                for old in rand.sample(events[:-10], min(20, len(events) - 10)):
                    ledger.hear(*old)
        assert len(ledger.live() ^ truth) <= 5, second
    ledger.look(truth, 3100.0)
    assert ledger.live() == truth


def test_an_event_counts_once_whatever_the_order():
    ledger = Ledger()
    assert ledger.hear(STARTED, "a", 5.0, 5.0) and not ledger.hear(STARTED, "a", 5.0, 5.0)
    assert ledger.hear(FINISHED, "a", 5.0, 9.0) and not ledger.hear(STARTED, "a", 5.0, 5.0)
    assert ledger.live() == set()
    assert ledger.hear(STARTED, "a", 20.0, 20.0) and ledger.live() == {"a"}  # the name is used again
    assert not ledger.hear(FINISHED, "a", 5.0, 9.0) and ledger.live() == {"a"}
    assert not ledger.hear("participant_joined", "b", 1.0, 30.0) and not ledger.hear(STARTED, "", 1.0, 30.0)


def test_a_room_that_no_look_confirms_is_forgotten():
    ledger = Ledger()
    ledger.hear(STARTED, "a", 5.0, 5.0)
    ledger.look((), 6.0)
    assert ledger.live() == {"a"}  # it may have begun just after
    ledger.look((), 8.0)
    assert ledger.live() == set()
    assert not ledger.hear(STARTED, "late", 1.0, 1.0)


def test_events_order_for_what_the_registry_does_not_show_yet():
    assert Events().wish(view()) is None and Events().wish(view(heard=90.0)) is None
    assert Events().wish(view(heard=130.0)).size == 7


def test_plain_windows_follow_the_wall_clock():
    lessons = window({"name": "lessons", "days": "mon-fri", "from": "08:00", "to": "16:00", "nodes": 8, "early": 600, "zone": BERLIN})
    assert active(lessons, "2026-09-07T07:49:59+02:00", "2026-09-07T07:50:00+02:00", "2026-09-07T15:59+02:00", "2026-09-07T16:00+02:00",
                  "2026-09-06T10:00+02:00") == [False, True, True, False, False]
    assert active(lessons, "2026-12-07T07:55+01:00", "2026-12-07T06:55+01:00") == [True, False]  # winter
    assert active(lessons, "2026-09-07T07:45+02:00", lead=300) == [True]
    night = window({"from": "22:00", "to": "02:00", "days": ["fri"], "nodes": 1, "early": 0})
    assert active(night, "2026-09-11T23:00+00:00", "2026-09-12T01:00+00:00", "2026-09-12T02:00+00:00", "2026-09-12T23:00+00:00") == [True, True, False, False]
    around = window({"from": "10:00", "to": "11:00", "days": "sat-mon", "nodes": 1})
    assert [around.active(moment(f"2026-09-{day:02d}T10:30+00:00"), 0) for day in range(10, 16)] == [False, False, True, True, True, False]


def test_cron_windows():
    begin = window({"cron": "*/30 8-9 1,15 * mon".replace("mon", "1"), "lasts": 600, "nodes": 2, "early": 0})
    assert active(begin, "2026-09-07T08:35+00:00", "2026-09-07T08:45+00:00", "2026-09-15T09:31+00:00", "2026-09-16T09:31+00:00") == [True, False, True, False]
    sunday = window({"cron": "0 12 * * 7", "lasts": 60, "nodes": 1, "early": 0})
    assert active(sunday, "2026-09-06T12:00+00:00", "2026-09-07T12:00+00:00") == [True, False]


@pytest.mark.parametrize("values", [
    {"from": "08:00", "to": "16:00"}, {"from": "8", "to": "25:00", "nodes": 1}, {"nodes": 1}, {"from": "08:00", "to": "09:00", "cron": "* * * * *", "nodes": 1},
    {"from": "08:00", "nodes": 1}, {"from": "08:00", "to": "09:00", "nodes": 1, "day": "mon"}, {"from": "08:00", "to": "09:00", "nodes": 1, "days": "mox"},
    {"from": "08:00", "to": "09:00", "nodes": -1}, {"cron": "0 8 * * *", "lasts": 0, "nodes": 1}, {"cron": "0 8 * * *", "lasts": 1e9, "nodes": 1},
])
def test_bad_windows_are_refused(values):
    assert code(window, values) == "schedule_invalid"


@pytest.mark.parametrize("values, expected", [
    ({"cron": "0 8 * *", "lasts": 60}, "cron_invalid"), ({"cron": "0 24 * * *", "lasts": 60}, "cron_invalid"),
    ({"cron": "*/0 * * * *", "lasts": 60}, "cron_invalid"),
    ({"rrule": "FREQ=HOURLY", "start": "2026-09-07T08:00", "lasts": 60}, "rrule_invalid"),
    ({"from": "08:00", "to": "09:00", "zone": "Mars/Base"}, "zone_unknown"),
])
def test_bad_recurrences_name_the_fault(values, expected):
    assert code(window, {"nodes": 1, **values}) == expected


CALENDAR = """BEGIN:VCALENDAR
VERSION:2.0
BEGIN:VEVENT
UID:maths
SUMMARY:Maths\\, first
  year
DTSTART;TZID=Europe/Berlin:20260907T081500
DTEND;TZID=Europe/Berlin:20260907T094500
RRULE:FREQ=WEEKLY;BYDAY=MO,WE;UNTIL=20261218T000000Z
EXDATE;TZID=Europe/Berlin:20260914T081500
X-LIVEKIT-NODES:6
END:VEVENT
BEGIN:VEVENT
UID:maths
RECURRENCE-ID;TZID=Europe/Berlin:20260916T081500
DTSTART;TZID=Europe/Berlin:20260917T100000
DURATION:PT1H30M
END:VEVENT
BEGIN:VEVENT
UID:off
STATUS:CANCELLED
DTSTART:20260907T200000Z
DURATION:PT1H
END:VEVENT
END:VCALENDAR
"""


def test_a_timetable_from_a_calendar():
    plan = Schedule(tuple(windows(CALENDAR, nodes=2, early=0)))

    def size(text):
        wish = plan.wish(view(moment(text)))
        return wish.size if wish else 0

    assert [size(f"2026-09-{day}:30+02:00") for day in ("07T08", "09T08", "14T08", "16T08", "17T10", "21T08", "22T08")] == [6, 6, 0, 0, 2, 6, 0]
    assert size("2026-11-02T08:30+01:00") == 6  # winter: still 08:15 by the clock on the wall
    assert size("2026-12-21T08:30+01:00") == 0 and size("2026-09-07T20:30+00:00") == 0
    assert "Maths" in plan.wish(view(moment("2026-09-07T08:30+02:00"))).reason


@pytest.mark.parametrize("old, new, line", [
    ("DTSTART;TZID=Europe/Berlin:20260907T081500\n", "", 3), ("20260907T081500", "2026-09-07", 3), ("FREQ=WEEKLY", "FREQ=SOMETIMES", 3),
    ("END:VEVENT\nEND:VCALENDAR", "END:VCALENDAR", 24), ("VERSION:2.0", "no property", 2), ("PT1H30M", "90 minutes", 13), ("NODES:6", "NODES:many", 3),
    ("RRULE:", "RDATE:", 9),
])
def test_a_broken_calendar_is_refused_with_its_line(old, new, line):
    with pytest.raises(FleetError) as caught:
        windows(CALENDAR.replace(old, new, 1), nodes=2)
    assert caught.value.failure["code"] == "ical_invalid"
    assert abs(caught.value.failure["line"] - line) <= 1
    assert code(windows, "hello") == "ical_invalid" and code(windows, "") == "ical_invalid"


def test_policies_from_configuration():
    assert [p.name for p in load()] == ["headroom", "forecast", "events", "queue"]
    booked = {"name": "w", "people": 5000, "start": "2026-09-07T19:00", "end": "2026-09-07T21:00"}
    found = load({"queue": False, "headroom": {"nodes": 2}, "schedule": {"zone": BERLIN, "windows": [{"from": "08:00", "to": "16:00", "nodes": 4}]},
                  "reservations": {"per_unit": 25, "zone": BERLIN, "booked": [booked]}})
    assert [p.name for p in found] == ["headroom", "forecast", "events", "schedule", "reservations"]
    assert found[4].booked[0].start == moment("2026-09-07T19:00+02:00") and found[4].booked[0].units == 200


@pytest.mark.parametrize("config", [
    {"headrom": {}}, {"headroom": {"spare": 1}}, {"headroom": {"share": -1}}, {"headroom": {"share": "much"}}, {"queue": 3}, {"reservations": {"booked": [{}]}},
    {"reservations": {"booked": [{"name": "w", "units": 5, "start": "soon", "end": 2}]}},
])
def test_bad_configuration_is_refused(config):
    assert code(load, config) == "policy_invalid"


def test_a_typing_error_is_recognised():
    with pytest.raises(FleetError) as caught:
        load({"headrom": {}})
    assert "Did you mean headroom?" in str(caught.value)


def test_the_guides_examples_are_accepted():
    guide = next(p for p in pathlib.Path(__file__).resolve().parents if (p / "docs" / "scaling.md").exists()) / "docs" / "scaling.md"
    whole, policies = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", guide.read_text(encoding="utf-8"), re.S))
    ScalingSettings.of(whole["livekit_scaling"]).check()
    config = policies["livekit_scaling"]["policies"]
    config["schedule"]["ical"] = CALENDAR
    found = load(config)
    assert [p.name for p in found] == ["headroom", "forecast", "events", "queue", "schedule", "reservations"]
    monday = Schedule(found[4].windows).wish(view(moment("2026-09-07T08:30+02:00")))
    assert monday.size == 20 and "exams" in monday.reason
