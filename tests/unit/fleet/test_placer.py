# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where new rooms go: bursts, sizes that are told or learnt, rules, reservations, packing."""
from __future__ import annotations

import collections
import typing as t

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement.habits import Habits, Size, pattern
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement.lifetimes import Lifetimes
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement.placer import Placer
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement.policy import Policy, Wish
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement.targets import Target


def people_only(participants: float, _video: float) -> float:
    return participants


def node(name: str, load: float = 0.0, capacity: float = 100.0, **more: t.Any) -> Target:
    return Target(name, more.pop("host", f"host-{name}"), capacity, load, **more)


def placer(*nodes: Target, policy: t.Mapping[str, t.Any] | None = None, now: float = 0.0) -> Placer:
    made = Placer(Policy.from_mapping(dict(policy or {})), load=people_only)
    made.observe(nodes, {}, {}, now)
    return made


def put(desk: Placer, room: str, participants: float | None = None, now: float = 0.0, **more: t.Any) -> str:
    wish = Wish(room, participants, **more)
    choice = desk.choose(wish, now)
    desk.note(wish, choice.node_id, now)
    return choice.node_id


# -- expected load

def test_a_burst_counts_before_any_node_reports_it() -> None:
    desk = placer(node("a"), node("b", load=10), node("c"))
    sizes: collections.Counter[str] = collections.Counter(b=10)
    for n in range(60):
        sizes[put(desk, f"r{n}", 1 + n % 5)] += 1 + n % 5
    assert max(sizes.values()) - min(sizes.values()) <= 5


def test_what_has_come_is_not_counted_twice() -> None:
    desk = placer(node("a"), node("b"))
    assert put(desk, "big", 40) in "ab"
    (home,) = [y.node_id for y in desk.young.values()]
    desk.observe([node("a", 40 if home == "a" else 0), node("b", 40 if home == "b" else 0)], {"big": home}, {"big": 40}, 60.0)
    assert desk.share(desk.targets[home]) == pytest.approx(0.4)


def test_a_room_that_does_not_fill_is_believed_less_and_less() -> None:
    desk = placer(node("a"))
    put(desk, "late", 50)
    shares = []
    for now in (0.0, 100.0, 200.0, 400.0, 700.0):
        desk.observe([node("a", 2)], {"late": "a"}, {"late": 2}, now)
        shares.append(desk.share(desk.targets["a"]))
    assert shares == sorted(shares, reverse=True) and shares[-1] == pytest.approx(0.02)


def test_a_room_that_never_came_is_forgotten() -> None:
    desk = placer(node("a"))
    put(desk, "never", 50)
    desk.observe([node("a")], {}, {}, 10.0)
    assert desk.share(desk.targets["a"]) > 0.4
    desk.observe([node("a")], {}, {}, 20.0)
    assert desk.share(desk.targets["a"]) == 0 and not desk.habits.kinds
    put(desk, "refused", 50)
    desk.forget("refused")
    desk.observe([node("a")], {}, {}, 21.0)
    assert desk.share(desk.targets["a"]) == 0


def test_rooms_that_clients_opened_themselves_count_too() -> None:
    desk = placer(node("a"), node("b"))
    desk.observe([node("a"), node("b")], {f"r{n}": "a" for n in range(5)}, {}, 2.0)
    assert {put(desk, f"s{n}", 3, now=2.0) for n in range(5)} == {"b"}


def test_a_moved_room_counts_where_it_is() -> None:
    desk = placer(node("a"), node("b"))
    put(desk, "r", 20)
    for home in "ab":
        desk.observe([node("a"), node("b")], {"r": home}, {"r": 0}, 1.0)
        assert desk.share(desk.targets[home]) > 0.1 > desk.share(desk.targets["b" if home == "a" else "a"])


def test_larger_nodes_take_more() -> None:
    desk = placer(node("small"), node("large", capacity=300.0))
    sizes = collections.Counter(put(desk, f"r{n}", 2) for n in range(100))
    assert sizes == {"large": 75, "small": 25}


def test_a_full_cluster_still_takes_rooms_and_says_so() -> None:
    desk = placer(node("a", 120), node("b", 101))
    choice = desk.choose(Wish("r", 10), 0.0)
    assert choice.node_id == "b" and choice.share > 1 and "over its capacity" in choice.reason
    with pytest.raises(FleetError, match="no node serves"):
        placer().choose(Wish("r"), 0.0)


def test_a_node_with_a_busy_cpu_takes_rooms_only_when_all_are_busy() -> None:
    assert placer(node("a", cpu=0.95), node("b", load=50, cpu=0.5)).choose(Wish("r"), 0.0).node_id == "b"
    assert placer(node("a", cpu=0.95), node("b", load=50, cpu=0.92)).choose(Wish("r"), 0.0).node_id == "a"
    assert placer(node("a", cpu=0.95), node("b", load=50), policy={"cpu_limit": 0}).choose(Wish("r"), 0.0).node_id == "a"


def test_rooms_about_to_end_make_a_node_emptier() -> None:
    desk = placer(node("old", 40), node("fresh", 35))
    for _n in range(40):
        desk.lifetimes.learn(1800)
    for room, since in (("o", 100.0), ("f", 1700.0)):
        desk.lifetimes.born(room, since)
        desk.lifetimes.weigh(room, 35.0)
    desk.observe([node("old", 40), node("fresh", 35)], {"o": "old", "f": "fresh"}, {}, 1750.0)
    assert desk.choose(Wish("r", 5), 1750.0).node_id == "old"
    desk.observe([node("old", 90), node("fresh", 85)], {"o": "old", "f": "fresh"}, {}, 1770.0)
    assert desk.choose(Wish("r", 5), 1770.0).node_id == "fresh", "a node that is full has to carry them first"


# -- what is learnt

def test_patterns() -> None:
    assert pattern("call-17") == pattern("call-18") == "call-#"
    assert pattern("team-0a1b2c3d4e") == "team-#" and pattern("x-123e4567-e89b-12d3-a456-426614174000") == "x-#"
    assert pattern("standup") == "standup" and pattern("decade-facade") == "decade-facade"


def test_habits_go_from_the_general_to_the_special() -> None:
    habits = Habits()
    for n in range(50):
        habits.learn(f"call-{n}", Size(2, 2, 30))
        habits.learn(f"class-{n}", Size(25, 5, 200), ["school"])
    assert habits.expect("call-99").participants == pytest.approx(2, abs=0.6)
    assert habits.expect("class-99").participants == pytest.approx(25, abs=1)
    assert habits.expect("other", ["school"]).participants == pytest.approx(25, abs=2)
    assert 10 < habits.expect("never-seen").participants < 18
    assert habits.expect("call-99").seconds < 60 < habits.expect("class-99").seconds
    habits.learn("all-hands", Size(80, 8, 100))
    habits.learn("all-hands", Size(82, 8, 100))
    assert habits.expect("all-hands").participants > 60


def test_what_is_there_already_says_more_than_habit() -> None:
    habits = Habits()
    for size in (2, 2, 2, 2, 2, 2, 40, 44):
        habits.learn("room-1", Size(size, 0, 60))
    assert habits.expect("room-2").participants < 15 < 35 < habits.expect("room-2", now=10).participants
    assert habits.expect("room-2", now=90).participants >= 90


def test_a_grown_room_teaches() -> None:
    desk = placer(node("a"))
    for n in range(20):
        put(desk, f"gym-{n}", now=0.0)
    homes = {f"gym-{n}": "a" for n in range(20)}
    learnt = []
    for now in range(0, 700, 10):
        learnt += desk.observe([node("a")], homes, dict.fromkeys(homes, min(12, now // 10)), float(now))
    assert "pattern:gym-#" in learnt and not desk.young
    size = desk.habits.expect("gym-99")
    assert size.participants == pytest.approx(12, abs=1) and 90 <= size.seconds <= 170


def test_habits_survive_as_text_and_bad_text_is_left_out() -> None:
    habits, other = Habits(), Habits()
    for n in range(5):
        habits.learn(f"r-{n}", Size(9, 3, 60))
    other.load({**habits.dump(habits.kinds), "pattern:bad": "{", "pattern:nan": '{"rooms": NaN}', "pattern:odd": "[]"})
    assert other.expect("r-9") == habits.expect("r-9") and set(other.kinds) == set(habits.kinds)


def test_lifetimes_need_enough_rooms_to_say_anything() -> None:
    lives = Lifetimes()
    lives.born("r", 0.0)
    lives.weigh("r", 10.0)
    assert lives.leaving({"r": "a"}, 1700.0) == {}
    for _n in range(50):
        lives.learn(1800)
    assert lives.leaving({"r": "a"}, 1720.0) == {"a": pytest.approx(10.0)}
    lives.ended("r", 1800.0)
    assert lives.leaving({}, 1900.0) == {}


# -- rules

RULES = {
    "labels": {"vip": ["big*"], "canary": ["new1"]}, "exclusive": ["vip"],
    "rules": [{"match": "board-*", "node_label": "vip", "required": True}, {"label": "eu", "region": "eu"}, {"match": "test-*", "share": 10, "version": "2"}],
}


def world(policy: t.Mapping[str, t.Any] | None = None) -> Placer:
    policy = RULES if policy is None else policy
    made = Policy.from_mapping(dict(policy))
    hosts = {"a": ("host-a", "eu", "1"), "b": ("host-b", "us", "1"), "c": ("big1", "us", "1"), "d": ("new1", "us", "2")}
    return placer(*[node(n, host=h, region=r, version=v, labels=made.labels_of(h)) for n, (h, r, v) in hosts.items()], policy=policy)


def test_rules_place_by_label_region_and_version() -> None:
    desk = world()
    assert {put(desk, f"board-{n}", 20) for n in range(4)} == {"c"}
    assert {put(desk, f"x{n}", 20, labels=("eu",)) for n in range(4)} == {"a"}
    assert "c" not in {put(desk, f"y{n}", 1) for n in range(40)}, "exclusive nodes take only who asks for them"
    assert desk.choose(Wish("z", region="asia"), 0.0).node_id in "abd", "a preference is no condition"
    with pytest.raises(FleetError, match="region asia"):
        desk.choose(Wish("z", region="asia", required=True), 0.0)


def test_a_canary_takes_always_the_same_rooms() -> None:
    desk = world()
    on = {f"test-{n}" for n in range(300) if desk.policy.apply(Wish(f"test-{n}")).version == "2"}
    assert 15 <= len(on) <= 50 and on == {f"test-{n}" for n in range(300) if world().policy.apply(Wish(f"test-{n}")).version == "2"}
    assert {desk.choose(Wish(room), 0.0).node_id for room in on} == {"d"}


def test_what_is_asked_for_goes_before_a_rule() -> None:
    policy = Policy.from_mapping({"rules": [{"participants": 50}, {"match": "a*", "participants": 80, "strategy": "pack"}]})
    assert policy.apply(Wish("a")).participants == 80 and policy.apply(Wish("b")).participants == 50
    assert policy.apply(Wish("a", 3)).participants == 3 and policy.apply(Wish("a")).strategy == "pack"


@pytest.mark.parametrize(("values", "words"), [
    ({"strategy": "tetris"}, "strategy: is tetris"), ({"fill": 0}, "fill"), ({"fill": True}, "must be a number"), ({"rules": {}}, "must be a list"),
    ({"rules": [{"fly": 1}]}, "fly: is not known"), ({"rules": ["x"]}, "is no mapping"), ({"rules": [{"node_label": "x"}]}, "which no host has"),
    ({"rules": [{"share": 120}]}, "percent"), ({"exclusive": ["x"]}, "no host has"), ({"reservations": [{"name": "w"}]}, "lacks match, participants"),
    ({"reservations": [{"name": "w", "match": "w", "participants": 5, "start": 9, "end": 9}]}, "not after its start"), ({"colour": 1}, "colour: is not known"),
])
def test_a_bad_policy_is_told(values: dict[str, t.Any], words: str) -> None:
    with pytest.raises(FleetError) as caught:
        Policy.from_mapping(values)
    assert words in str(caught.value)


# -- packing and reserving

def test_pack_leaves_whole_nodes_empty() -> None:
    desk = placer(*[node(n) for n in "abcde"], policy={"strategy": "pack", "fill": 0.7})
    sizes: collections.Counter[str] = collections.Counter()
    for n in range(30):
        sizes[put(desk, f"r{n}", 4)] += 4
    assert sorted(sizes.values()) == [52, 68]
    assert put(desk, "spread-me", 4, strategy="spread") not in sizes
    for n in range(100):
        sizes[put(desk, f"more{n}", 4)] += 4
    assert max(sizes.values()) <= 112, "beyond that, evenly"


WEBINAR = {"name": "webinar", "match": "webinar-*", "participants": 60, "start": 1000, "end": 5000}


def test_a_reservation_keeps_room_free_until_its_room_comes() -> None:
    policy = {"reservations": [WEBINAR]}
    desk = placer(node("a"), node("b"), policy=policy)
    assert [desk.share(x) for x in desk.targets.values()] == [0, 0], "not yet"
    desk.observe(desk.targets.values(), {}, {}, 500.0)
    kept = max(desk.targets.values(), key=desk.share)
    assert desk.share(kept) == pytest.approx(0.6)
    assert {put(desk, f"r{n}", 5, now=500.0) for n in range(10)} == {"b" if kept.node_id == "a" else "a"}
    choice = desk.choose(Wish("webinar-7"), 600.0)
    assert choice.node_id == kept.node_id and choice.reason == "kept free for webinar" and choice.size.participants == 60
    desk.note(Wish("webinar-7"), choice.node_id, 600.0)
    assert desk.share(kept) == pytest.approx(0.6), "what was kept is now the room"
    assert desk.choose(Wish("webinar-8"), 600.0).reason != "kept free for webinar", "it was for one room"
    desk.observe([node("a"), node("b")], {}, {}, 5000.0)
    assert [desk.share(x) for x in desk.targets.values()] == [0, 0], "over"


def test_a_reservation_moves_when_its_node_goes() -> None:
    desk = placer(node("a"), node("b", 10), policy={"reservations": [WEBINAR]}, now=900.0)
    assert desk.share(desk.targets["a"]) == pytest.approx(0.6)
    desk.observe([node("b", 10)], {}, {}, 910.0)
    assert desk.share(desk.targets["b"]) == pytest.approx(0.7) and desk.choose(Wish("webinar-1"), 910.0).node_id == "b"
