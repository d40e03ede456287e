# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import itertools

import pytest

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import slots


def test_ports_of_the_first_and_third_slot() -> None:
    layout = slots.Layout()
    assert layout.ports(1).as_dict() == {
        "slot": 1, "signal": 7880, "ice_tcp": 7881, "metrics": 6789, "udp": [50000, 50099],
        "turn_udp": 3478, "turn_tls": 5349, "turn_relay": [30000, 30999],
    }
    assert layout.ports(3).as_dict() == {
        "slot": 3, "signal": 7900, "ice_tcp": 7901, "metrics": 6809, "udp": [50200, 50299],
        "turn_udp": 3498, "turn_tls": 5369, "turn_relay": [32000, 32999],
    }


def test_slots_count_from_one() -> None:
    assert list(slots.Layout(count=2).numbers) == [1, 2]
    with pytest.raises(ValueError, match="slots count from 1, not 0"):
        slots.Layout().ports(0)


def test_from_mapping_takes_strings_and_refuses_unknown_names() -> None:
    assert slots.Layout.from_mapping({"count": "5", "udp_width": 8}) == slots.Layout(count=5, udp_width=8)
    assert slots.Layout.from_mapping(None) == slots.Layout()
    with pytest.raises(TypeError, match="udp_with"):
        slots.Layout.from_mapping({"udp_with": 8})


@pytest.mark.parametrize("count", [1, 3, 9])
def test_the_default_layout_has_no_overlap(count: int) -> None:
    assert slots.overlaps(slots.Layout(count=count).claims(turn=True)) == []


def test_claims_name_turn_only_where_turn_is_on() -> None:
    uses = {use for proto, first, last, use in slots.Layout(count=1).claims()}
    assert uses == {"agent check", "slot 1 signalling", "slot 1 ICE/TCP", "slot 1 metrics", "slot 1 ICE/UDP"}
    assert {use for proto, first, last, use in slots.Layout(count=1).claims(turn=True)} - uses == {
        "slot 1 TURN/UDP", "slot 1 TURN/TLS", "slot 1 TURN relay"}


@pytest.mark.parametrize(("layout", "first"), [
    (slots.Layout(step=1), ("tcp", "slot 1 ICE/TCP", "slot 2 signalling", 7881)),
    (slots.Layout(step=0, count=2), ("tcp", "slot 1 ICE/TCP", "slot 2 ICE/TCP", 7881)),
    (slots.Layout(agent_check=7890), ("tcp", "agent check", "slot 2 signalling", 7890)),
    (slots.Layout(udp_start=30950, count=1), ("udp", "slot 1 TURN relay", "slot 1 ICE/UDP", 30950)),
    (slots.Layout(metrics=7900), ("tcp", "slot 1 metrics", "slot 3 signalling", 7900)),
])
def test_overlaps_are_found(layout: slots.Layout, first: tuple[str, str, str, int]) -> None:
    assert first in slots.overlaps(layout.claims(turn=True))


def test_overlaps_sees_through_a_wide_range_and_keeps_protocols_apart() -> None:
    claims = [("tcp", 100, 200, "wide"), ("tcp", 110, 110, "inner"), ("tcp", 150, 150, "late"), ("udp", 120, 120, "other")]
    assert slots.overlaps(claims) == [("tcp", "wide", "inner", 110), ("tcp", "wide", "late", 150)]


def test_no_port_of_two_slots_is_the_same() -> None:
    layout = slots.Layout(count=9)
    for one, other in itertools.combinations(layout.numbers, 2):
        a, b = layout.ports(one), layout.ports(other)
        assert {a.signal, a.ice_tcp, a.metrics, a.turn_tls}.isdisjoint({b.signal, b.ice_tcp, b.metrics, b.turn_tls})
        assert a.udp[1] < b.udp[0]
        assert a.turn_relay[1] < b.turn_relay[0]
