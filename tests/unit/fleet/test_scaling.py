# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scaler decides, and when it does not."""
from __future__ import annotations

import dataclasses
import math
import random

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.forecast import Outlook
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.policies.base import DRAINING, SERVING, STARTING, Member, View, Wish
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.policies.forecast import Forecast
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.policies.headroom import Headroom
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.scaling import decide
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.scaling_rules import Rules, State

NOW = 1_800_000_000.0
RULES = Rules(min=2, max=20, settle=180)


@dataclasses.dataclass(frozen=True)
class Want:
    size: int
    keep: int = 0
    name: str = "test"

    def wish(self, _view):
        return Wish(self.name, self.size, f"{self.size} wanted", self.keep)


def members(serving=3, starting=0, draining=0, age=3600.0, at=NOW):
    return tuple(Member(f"{state[:2]}{n}", state, at - (age if state != STARTING else 30), load=n)
                 for state, count in ((SERVING, serving), (STARTING, starting), (DRAINING, draining)) for n in range(count))


def view(at=NOW, demand=30.0, **values):
    values.setdefault("members", members(at=at))
    return View(at, demand, 20.0, **values)


def only(decision, kind):
    assert [a.kind for a in decision.actions] == [kind], decision.actions
    return decision.actions[0]


def after(policy, minutes=10, rules=RULES, **values):
    """The decision after so many looks at the same cluster."""
    state = State()
    for minute in range(minutes):
        at = NOW + 60 * minute
        decision = decide(view(at, **values), [policy], rules, state)
        state = decision.state
    return decision


def test_the_largest_wish_counts_and_its_reason_is_told():
    decision = decide(view(), [Want(4), Want(6, name="big"), Want(5)], RULES, State())
    action = only(decision, "add")
    assert (action.count, decision.size, decision.have) == (3, 6, 3)
    assert "big: 6 wanted" in action.reason


def test_starting_nodes_count_as_ordered():
    assert only(decide(view(members=members(3, 3)), [Want(6)], RULES, State()), "hold")


def test_min_and_max_hold():
    assert only(decide(view(members=members(1)), [Want(0)], RULES, State()), "add").count == 1
    decision = decide(view(), [Want(500)], RULES, State())
    assert decision.size == 20 and "max is 20" in decision.limits
    full = decide(view(members=members(20)), [Want(500)], RULES, State())
    assert only(full, "hold").reason == "max is 20"


def test_a_smaller_size_has_to_be_enough_for_a_while():
    assert only(after(Want(2), minutes=3), "hold")
    action = only(after(Want(2), minutes=5), "retire")
    assert action.nodes == ("se0",)  # the emptiest
    assert action.count == 1


def test_what_is_to_be_kept_is_not_ordered_and_not_given_back():
    assert only(after(Want(2, keep=3)), "hold")
    assert only(after(Want(2, keep=9)), "hold")


def test_nothing_is_given_back_while_nodes_start():
    decision = after(Want(2), members=tuple(dataclasses.replace(m, since=NOW + 500) if m.state == STARTING else m for m in members(4, 1)))
    assert only(decision, "hold").reason == "nodes are still starting"


def test_young_and_protected_nodes_stay():
    held = tuple(dataclasses.replace(m, protected=True) for m in members(4))
    assert "protected" in only(after(Want(2), members=held), "hold").reason
    young = tuple(dataclasses.replace(m, since=NOW + 400) for m in members(4))
    assert "young" in only(after(Want(2), members=young), "hold").reason
    mixed = (dataclasses.replace(members(4)[0], protected=True), *members(4)[1:])
    assert only(after(Want(2), members=mixed), "retire").nodes == ("se1", "se2")


def test_rates_and_cool_downs():
    assert only(decide(view(), [Want(9)], dataclasses.replace(RULES, add_at_once=2), State()), "add").count == 2
    state = State(at=NOW - 60, since=NOW - 900, ordered=((NOW - 100, 3),), last_order=NOW - 100)
    assert only(decide(view(), [Want(9)], dataclasses.replace(RULES, add_per_window=4), state), "add").count == 1
    assert only(decide(view(), [Want(9)], dataclasses.replace(RULES, cool_up=120), state), "hold")
    assert only(after(Want(2), rules=dataclasses.replace(RULES, cool_down=3600), minutes=4), "retire")  # nothing was ordered lately
    many = after(Want(2), rules=dataclasses.replace(RULES, retire_at_once=1), minutes=4, members=members(6))
    assert only(many, "retire").count == 1


def test_cost_caps_stop_orders_but_end_no_call():
    rules = dataclasses.replace(RULES, node_hour=0.5, cost_per_hour=2.0)
    assert only(decide(view(), [Want(9)], rules, State()), "add").count == 1
    day = dataclasses.replace(RULES, node_hour=0.5, cost_per_day=10.0)
    spent = State(at=NOW - 60, since=NOW - 900, day=int(NOW // 86400), spent=10.0)
    assert "were spent today" in only(decide(view(members=members(8)), [Want(9)], day, spent), "hold").reason


def test_dry_run_remembers_no_order():
    decision = decide(view(), [Want(9)], dataclasses.replace(RULES, dry_run=True, cool_up=600), State())
    assert decision.dry_run and only(decision, "add").count == 6
    assert decision.state.last_order == 0 and not decision.state.ordered


@pytest.mark.parametrize("values, words", [
    ({"demand": math.nan}, "demand is nan"), ({"demand": -1.0}, "demand is -1"), ({"waiting": math.inf}, "waiting is inf"),
    ({"frozen": "every node of the registry looks stale"}, "looks stale"), ({"pool_error": "timed out after 10 s"}, "timed out"),
    ({"members": (Member("a", "odd"),)}, "contradicts"), ({"members": (Member("a", SERVING), Member("a", SERVING))}, "contradicts"),
    ({"members": (Member("a", SERVING, load=math.nan),)}, "contradicts"),
    ({"outlook": Outlook(NOW, 2, math.nan, 1.0)}, "outlook.level"), ({"outlook": Outlook(NOW - 900, 2, 30.0, 1.0)}, "ends 900 s ago"),
])
def test_bad_data_freezes(values, words):
    decision = decide(view(**values), [Want(9)], RULES, State())
    assert words in only(decision, "freeze").reason
    assert decision.size == decision.have


def test_an_old_view_and_clock_jumps_freeze_for_one_look():
    assert "30 s old" in only(decide(view(), [Want(9)], RULES, State(), now=NOW + 30), "freeze").reason
    for jump in (-3600.0, 86400.0):
        first = decide(view(), [Want(3)], RULES, State())
        second = decide(view(NOW + jump), [Want(9)], RULES, first.state)
        assert "clock" in only(second, "freeze").reason
        assert only(decide(view(NOW + jump + 60), [Want(9)], RULES, second.state), "add")


def test_a_freeze_begins_the_settling_anew():
    state = after(Want(3), minutes=10).state
    frozen = decide(view(NOW + 600, frozen="Redis hangs"), [Want(2)], RULES, state)
    assert only(decide(view(NOW + 660), [Want(2)], RULES, frozen.state), "hold")


def test_machines_the_registry_does_not_show_yet_are_not_ordered_twice():
    """A create that succeeded but was not reported."""
    decision = decide(view(pool_size=8), [Want(9)], RULES, State())
    assert only(decision, "add").count == 1
    assert only(decide(view(pool_size=40), [Want(9)], RULES, State()), "hold").reason.startswith("the pool has 37 more")


def test_nothing_is_given_back_when_the_pool_counts_fewer_machines_than_serve():
    assert "before they agree" in only(after(Want(2), pool_size=1), "hold").reason


def test_nodes_that_never_start_are_replaced_and_soon_no_more_are_ordered():
    def stuck(count):
        return (*members(3), *(Member(f"x{n}", STARTING, NOW - 3600) for n in range(count)))
    decision = decide(view(members=stuck(1)), [Want(4)], RULES, State())
    assert [(a.kind, a.nodes, a.count) for a in decision.actions] == [("replace", ("x0",), 0), ("add", (), 1)]
    decision = decide(view(members=stuck(3)), [Want(9)], RULES, State())
    assert [a.kind for a in decision.actions] == ["replace"] and decision.size == 3
    assert any("did not start" in limit for limit in decision.limits)


def test_a_forecast_raises_the_floor_and_never_lowers_it():
    low = Outlook(NOW, 2, 30.0, 10.0, expected=0.0, keep=0.0, model="week")
    high = dataclasses.replace(low, expected=150.0, keep=150.0)
    policies = [Headroom(), Forecast()]
    without = decide(view(outlook=dataclasses.replace(low, expected=None)), policies, RULES, State()).size
    assert decide(view(outlook=low), policies, RULES, State()).size == without
    assert decide(view(outlook=high), policies, RULES, State()).size == 8
    assert decide(view(demand=200.0, outlook=low), policies, RULES, State()).size >= 10  # what is there now always counts


def test_all_nodes_gone_orders_new_ones():
    assert only(decide(view(members=()), [Headroom()], RULES, State()), "add").count == 2


@pytest.mark.parametrize("values, code", [
    ({"min": 5, "max": 3}, "scaling_min_max"), ({"min": -1}, "scaling_negative"), ({"max": 0, "min": 0}, "scaling_max"),
    ({"boot": math.nan}, "scaling_negative"),
    ({"min": "3"}, "scaling_type"), ({"dry_run": 1}, "scaling_type"), ({"min": 1.5}, "scaling_type"), ({"cost_per_day": 5}, "scaling_cost"),
    ({"minimum": 3}, "scaling_unknown"),
])
def test_bad_rules_are_refused(values, code):
    with pytest.raises(FleetError) as caught:
        Rules.of(values)
    assert caught.value.failure["code"] == code


def test_the_state_survives_a_restart_and_rubbish_is_refused():
    state = after(Want(9)).state
    assert State.parse(state.as_json()) == state
    for text in ("", "[]", '{"wanted": [1]}', "nonsense"):
        with pytest.raises(FleetError) as caught:
            State.parse(text)
        assert caught.value.failure["code"] == "scaling_state"


def test_a_decision_tells_its_inputs_rule_and_outcome():
    told = decide(view(), [Want(500)], RULES, State()).as_dict()
    assert told["size"] == 20 and told["have"] == 3 and told["limits"] == ["max is 20"]
    assert told["wishes"][0]["reason"] == "500 wanted" and told["actions"][0]["count"] == 17


def test_whatever_comes_the_size_stays_within_its_limits():
    """A storm of odd views: never beyond max, never below min by our own hand, no protected or young node given back, no order while frozen."""
    rand, state, pool, at = random.Random(7), State(), list(members(3)), NOW
    rules = Rules(min=2, max=12, settle=120, add_per_window=6, window=300)
    for _look in range(3000):
        at += rand.choice([60.0] * 30 + [0.0, -30.0, 4000.0])
        odd = rand.random() < 0.1
        seen = View(at, rand.choice([math.nan, -1.0, math.inf]) if odd else rand.uniform(0, 400), 20.0, tuple(pool), None,
                    pool_size=rand.choice([None, len(pool), len(pool) + rand.randrange(4)]), refused=rand.choice([0, 0, 5]))
        decision = decide(seen, [Headroom(), Want(rand.choice([0, 3, 9, 500]))], rules, state)
        state = decision.state
        live = [m for m in pool if m.state != DRAINING]
        for action in decision.actions:
            assert not odd or action.kind == "freeze"
            if action.kind == "add":
                pool += [Member(f"{at}-{n}", rand.choice([SERVING, STARTING]), at, protected=rand.random() < 0.1) for n in range(action.count)]
            elif action.kind in ("retire", "replace"):
                gone = [m for m in pool if m.id in action.nodes]
                assert action.kind == "replace" or not any(m.protected or at - m.since < rules.protect for m in gone)
                assert action.kind == "replace" or len(live) - len(gone) >= rules.min
                pool = [m for m in pool if m.id not in action.nodes]
        pool = [dataclasses.replace(m, state=SERVING) if m.state == STARTING and rand.random() < 0.4 else m for m in pool]
        assert sum(m.state != DRAINING for m in pool) <= rules.max
