# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module kernel on a tree of its own in place of /proc/sys."""
from __future__ import annotations

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import sysctl
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slots import Layout
from ansible_collections.openrtc.livekit.plugins.modules import kernel


@pytest.fixture
def tree(tmp_path):
    """A /proc/sys with two settings; returns run(**options) and the root."""
    root = tmp_path / "sys"
    (root / "net/core").mkdir(parents=True)
    (root / "net/core/rmem_max").write_text("212992\n")
    (root / "net/core/somaxconn").write_text("4096\n")
    return root


@pytest.fixture
def run(tree, tmp_path, run_module):
    def call(check=False, **options):
        options = {"reserve_ports": False, "path": str(tmp_path / "60-livekit.conf"), "root": str(tree), **options}
        return run_module(kernel.main, options, check=check)
    return call


def test_sets_and_keeps(run, tree, tmp_path):
    first = run(minimum={"net.core.rmem_max": 16777216})
    assert first["changed"] and first["applied"] == {"net.core.rmem_max": "16777216"} and first["refused"] == {}
    assert (tree / "net/core/rmem_max").read_text() == "16777216"
    assert "-net.core.rmem_max = 16777216" in (tmp_path / "60-livekit.conf").read_text()
    assert not run(minimum={"net.core.rmem_max": 16777216})["changed"]


def test_check_mode_tells_and_touches_nothing(run, tree, tmp_path):
    seen = run(check=True, minimum={"net.core.rmem_max": 16777216})
    assert seen["changed"] and seen["diff"][1]["after"] == {"net.core.rmem_max": "16777216"}
    assert (tree / "net/core/rmem_max").read_text() == "212992\n" and not (tmp_path / "60-livekit.conf").exists()


def test_a_larger_value_is_left_alone_but_an_exact_one_is_not(run):
    assert run(minimum={"net.core.somaxconn": 128})["applied"] == {"net.core.somaxconn": "4096"}
    assert run(settings={"net.core.somaxconn": 128})["applied"] == {"net.core.somaxconn": "128"}


def test_what_the_host_refuses_is_told_and_is_no_change_forever(run):
    first = run(minimum={"net.core.nothing_like_it": 1})
    assert first["refused"] == {"net.core.nothing_like_it": "not in this kernel or container"} and "nothing_like_it" in first["msg"]
    assert not run(minimum={"net.core.nothing_like_it": 1})["changed"]


def test_a_value_the_kernel_changes_on_the_way_is_refused(tree, monkeypatch):
    monkeypatch.setattr(sysctl, "read", lambda key, root: "4194304")
    assert sysctl.write("net.core.rmem_max", "16777216", str(tree)) == "reads back as 4194304"


def test_reserved_ports_follow_the_slots():
    assert sysctl.reserved_ports(Layout(count=2), False) == "6789,6799,7870,7880-7881,7890-7891,50000-50199"


@pytest.mark.parametrize("want, have, minimum, fine", [
    ("10 20", "10\t20", False, True), ("10", "20", True, True), ("10", "20", False, False), ("20", "10", True, False), ("1 2", "3", True, False),
])
def test_satisfied(want, have, minimum, fine):
    assert sysctl.satisfied(want, have, minimum) is fine
