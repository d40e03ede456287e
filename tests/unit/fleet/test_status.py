# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table an operator reads."""
from __future__ import annotations

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import status
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.table import age, lines

NOW = 1_800_000_000.0
SLOT = {"slot": 1, "label": "serving", "version": "1.13.5", "rooms": 4, "participants": 9, "since": NOW - 190, "node_id": "ND_a", "generation": "0a"}


def test_slots_are_joined_with_the_registry_by_node():
    row, = status.rows({"sfu1": [SLOT, {**SLOT, "slot": 2, "label": "free", "node_id": None}]}, [{"id": "ND_a", "cpu_load": 0.114}], NOW)
    assert (row["host"], row["slot"], row["state"], row["cpu"], row["seconds"], row["registered"]) == ("sfu1", 1, "serving", 0.114, 190, True)


def test_a_node_that_no_slot_runs_is_shown_as_unknown():
    row, = status.rows({"sfu1": []}, [{"id": "ND_x", "ip": "192.0.2.9", "cpu_load": None, "num_rooms": 2, "num_clients": 5, "started_at": NOW - 60}], NOW)
    assert (row["host"], row["state"], row["rooms"], row["participants"]) == ("?", "unknown", 2, 5)


def test_serving_comes_before_draining_and_totals_close_the_table():
    old = {**SLOT, "label": "draining", "slot": 1, "version": "1.13.4", "node_id": "ND_b", "rooms": 1, "participants": 2}
    table = status.table(status.rows({"sfu1": [old, {**SLOT, "slot": 2}]}, [], NOW))
    assert [line.split()[:4] for line in table[2:4]] == [["sfu1", "2", "1.13.5", "serving"], ["sfu1", "1", "1.13.4", "draining"]]
    assert table[-1] == "1 serving, 1 draining, 5 rooms, 11 participants"


def test_columns_line_up_and_missing_figures_show_as_a_dash():
    table = lines(["NAME", "N"], [["a", 5], ["long name", None]])
    assert table == ["NAME       N", "---------  -", "a          5", "long name  -"]


@pytest.mark.parametrize("seconds, text", [(None, "-"), (0, "0s"), (59.9, "59s"), (190, "3m10s"), (7500, "2h05m"), (367200, "4d06h")])
def test_age(seconds, text):
    assert age(seconds) == text


def test_participants_are_those_of_the_rooms_a_node_hosts():
    row, = status.rows({"sfu1": [SLOT]}, [{"id": "ND_a", "cpu_load": 0.1, "num_clients": 9, "participants": 2}], NOW)
    assert row["participants"] == 2
