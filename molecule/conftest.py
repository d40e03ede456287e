# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts of a scenario's lab for testinfra: `host` is each of them, a test marked `group("livekit_server")` gets those of that group."""
from __future__ import annotations

import os
import typing as t

import pytest
import testinfra
import yaml


def inventory() -> dict[str, t.Any]:
    with open(os.environ["LAB_INVENTORY"], encoding="utf-8") as handle:
        return yaml.safe_load(handle)["all"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "group(name): run on the hosts of this inventory group")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "host" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("group")
        lab = inventory()
        names = sorted(lab["children"][marker.args[0]]["hosts"]) if marker else sorted(lab["hosts"])
        metafunc.parametrize("host", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest) -> testinfra.host.Host:
    """One host of the lab, reached through Docker."""
    return testinfra.get_host(f"docker://{inventory()['hosts'][request.param]['ansible_host']}")


@pytest.fixture(scope="session")
def lab() -> dict[str, t.Any]:
    """The lab's inventory: hosts with their addresses, and groups."""
    return inventory()
