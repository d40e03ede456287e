# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two steps of replacing an API key, judged by what nodes accept; the module around them."""
from __future__ import annotations

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import key_rotation
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.modules import key_rotation as module

OLD, NEW = "o" * 40, "n" * 40
BOTH = {"old": OLD, "new": NEW}


def node(slot, *keys, state="active", other=()):
    return {"slot": slot, "state": state, "api_keys": list(keys), "other_secrets": list(other)}


def codes(function, *args, **kwargs):
    with pytest.raises(FleetError) as caught:
        function(*args, **kwargs)
    assert OLD not in str(caught.value) and NEW not in str(caught.value)
    return [p["code"] for p in caught.value.failure["problems"]]


def test_adding_puts_the_new_pair_last_so_that_the_old_one_goes_on_signing():
    found = key_rotation.add("new", {"new": NEW, "old": OLD}, {"sfu1": [node(1, "old")]})
    assert found == key_rotation.Rotation("add", "new", True, ("old", "new"))


def test_adding_again_changes_nothing_though_older_nodes_still_drain():
    hosts = {"sfu1": [node(1, "old", state="deactivating"), node(2, "old", "new")], "sfu2": [node(1, "old", "new"), node(2, state="inactive")]}
    assert not key_rotation.add("new", BOTH, hosts).changed


def test_adding_is_not_done_before_every_host_has_it():
    assert key_rotation.add("new", BOTH, {"sfu1": [node(1, "old", "new")], "sfu2": [node(1, "old")]}).changed


@pytest.mark.parametrize("keys, rows, code", [
    ({"old": OLD}, [node(1, "old")], "key_unknown"),
    ({"old": OLD, "new": "short"}, [node(1, "old")], "short_secret"),
    (BOTH, [node(1, "old", "new", other=["new"])], "other_secret"),
    (BOTH, [node(1, "old", "third")], "key_missing"),
])
def test_what_cannot_be_added(keys, rows, code):
    assert codes(key_rotation.add, "new", keys, {"sfu1": rows}) == [code]


def test_the_old_pair_must_stay_while_the_new_one_is_added():
    assert codes(key_rotation.add, "new", {"new": NEW}, {"sfu1": [node(1, "old")]}) == ["only_key", "key_missing"]


@pytest.mark.parametrize("keys", [BOTH, {"new": NEW}])
def test_removing_leaves_the_rest_and_has_tokens_of_the_old_key_sent_where_they_are_accepted(keys):
    found = key_rotation.remove("old", keys, {"sfu1": [node(1, "old", "new")]})
    assert found == key_rotation.Rotation("remove", "old", True, ("new",), ("old",))


def test_removing_again_changes_nothing_and_goes_on_sending_tokens_while_an_older_node_drains():
    hosts = {"sfu1": [node(1, "old", "new", state="deactivating"), node(2, "new")]}
    assert key_rotation.remove("old", BOTH, hosts) == key_rotation.Rotation("remove", "old", False, ("new",), ("old",))
    assert key_rotation.remove("old", BOTH, {"sfu1": [node(2, "new")]}).retiring == ()


@pytest.mark.parametrize("name, keys, rows, more, expected", [
    ("odl", BOTH, [node(1, "old", "new")], {}, ["key_unknown"]),
    ("old", {"old": OLD}, [node(1, "old")], {}, ["last_key"]),
    ("old", BOTH, [node(1, "old")], {}, ["key_not_everywhere"]),
    ("old", BOTH, [node(1, "old", state="deactivating"), node(2, "old", "new")], {}, ["key_not_everywhere"]),
    ("old", BOTH, [node(1, "old", "new")], {"webhook_key": "old"}, ["webhook_key"]),
    ("old", BOTH, [node(1, "old", "new")], {"seen": ["old"]}, ["key_in_use"]),
    ("old", BOTH, [node(1, "old", "new")], {"policy": "move"}, ["policy"]),
    ("old", BOTH, [node(1, "old", "new")], {"policy": "now", "seen": ["old"]}, ["key_in_use", "policy"]),
    ("old", BOTH, [node(1, "old", "new", "third")], {}, ["key_missing"]),
    ("old", BOTH, [node(1, "old", "new", other=["new"])], {}, ["other_secret"]),
])
def test_what_cannot_be_removed(name, keys, rows, more, expected):
    assert codes(key_rotation.remove, name, keys, {"sfu1": rows}, **more) == expected


def test_a_balancer_that_sees_no_tokens_lets_a_key_go_with_the_nodes_that_accept_it():
    found = key_rotation.remove("old", BOTH, {"sfu1": [node(1, "old", "new")]}, sees_tokens=False)
    assert found.changed and found.retiring == ()


def test_the_module_returns_names_only(run_module):
    got = run_module(module.main, {"keys": BOTH, "add": "new", "hosts": {"sfu1": [node(1, "old")]}})
    assert got["changed"] and got["deploy"] == ["old", "new"] and got["diff"] == {"before": {"keys": ["old"]}, "after": {"keys": ["new", "old"]}}
    assert OLD not in str(got["deploy"])
    got = run_module(module.main, {"keys": BOTH, "remove": "old", "hosts": {"sfu1": [node(1, "old", "new")]}})
    assert (got["step"], got["deploy"], got["retiring"], got["diff"]["before"]) == ("remove", ["new"], ["old"], {"keys": ["new", "old"]})


def test_the_module_fails_with_problems(run_module):
    got = run_module(module.main, {"keys": {"old": OLD}, "remove": "old", "hosts": {"sfu1": [node(1, "old")]}})
    assert got["failed"] and got["failure"]["code"] == "last_key"
    assert run_module(module.main, {"keys": BOTH, "hosts": {}})["failed"]
    assert run_module(module.main, {"keys": BOTH, "add": "new", "remove": "old", "hosts": {}})["failed"]
