# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rooms that LiveKit placed anew while callers were in them."""
from __future__ import annotations

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.splits import Splits
from engine_sample import NOW, node, record, snapshot


def look(splits, rooms, at=0.0, ages=None, records=None, names="ab"):
    nodes = [node(n, age=(ages or {}).get(n, 1.0) - at) for n in names]
    return splits.look(snapshot(nodes, rooms, now=NOW + at), records or {})


def settled(**rooms):
    splits = Splits()
    assert look(splits, rooms) == look(splits, rooms, 0.25) == {}
    return splits


def test_a_room_placed_anew_is_told_once():
    splits = settled(r="a", s="b")
    assert look(splits, {"r": "b", "s": "b"}, 1) == {}, "its record may just have been missed"
    assert look(splits, {"r": "b", "s": "b"}, 3.5) == {}, "who joined may still be publishing"
    found = look(splits, {"r": "b", "s": "b"}, 4)
    assert list(found) == ["r"] and (found["r"].old, found["r"].new) == ("ND_a", "ND_b")
    assert look(splits, {"r": "b", "s": "b"}, 4.25) == {}


def test_not_before_the_old_node_is_known_to_live():
    splits = settled(r="a")
    for at in (1, 4, 7):
        assert look(splits, {"r": "b"}, at, ages={"a": 30}) == {}
    assert list(look(splits, {"r": "b"}, 8)) == ["r"]
    splits = settled(r="a")
    assert look(splits, {"r": "b"}, 1, ages={"a": 30}) == {}
    assert look(splits, {"r": "b"}, 90) == {}


def test_moves_deaths_and_new_rooms_are_none():
    moved = {"ND_a": record({"r": ("b", 1, True)})}
    splits = settled(r="a")
    assert look(splits, {"r": "b"}, 1, records=moved) == look(splits, {"r": "b"}, 9) == {}
    splits = settled(r="a")
    assert look(splits, {"r": "b"}, 1) == look(splits, {"r": "b"}, 1.25, records=moved) == look(splits, {"r": "b"}, 9) == {}
    splits = settled(r="a")
    assert look(splits, {"r": "b"}, 1, names="b") == look(splits, {"r": "b"}, 9, names="b") == {}
    splits = settled(r="a")
    assert look(splits, {}, 1) == look(splits, {"r": "b"}, 1.25) == look(splits, {"r": "b"}, 9) == {}


def test_one_that_went_on_is_told_with_its_last_node():
    splits = settled(r="a")
    look(splits, {"r": "b"}, 1, ages={"a": 30}, names="abc")
    assert look(splits, {"r": "c"}, 2, names="abc") == {}
    assert look(splits, {"r": "c"}, 5, names="abc")["r"].new == "ND_c"
