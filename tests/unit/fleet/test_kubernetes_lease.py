# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock of a run that changes a cluster of Kubernetes: who gets it, who is told what, and what is left behind."""
from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.lease import NAME, RunLock
from ansible_collections.openrtc.livekit.plugins.plugin_utils.owner import has_ended, owner

NOW = 1_800_000_000.0


class Api:
    """Keeps one Lease as a cluster does: a change must name the version it saw."""

    def __init__(self, namespace=True, may=True):
        self.namespace, self.may, self.lease, self.version, self.before_write = namespace, may, None, 0, None

    def get(self, path):
        if not self.may:
            raise FleetError("GET", path, "403", "give it the right", code="no_rights")
        return self.lease if "leases" in path else {"metadata": {}} if self.namespace else None

    def ask(self, method, path, body=None):
        if self.before_write:
            self.before_write, call = None, self.before_write
            call()
        found = self.lease["metadata"]["resourceVersion"] if self.lease else None
        said = (body["preconditions"] if method == "DELETE" else body["metadata"]).get("resourceVersion")
        if found != said:
            raise FleetError(method, path, "409", "run again", code="conflict")
        self.version += 1
        self.lease = None if method == "DELETE" else {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return self.lease or {}


def lock(api, who="ann@desk pid 7", gone=()):
    return RunLock(api, "livekit", who, 900, lambda name: name in gone)


def test_the_second_run_is_told_who_is_at_it_and_for_how_long_and_what_to_do():
    api = Api()
    assert lock(api).hold(NOW)
    with pytest.raises(FleetError) as told:
        lock(api, "bob@laptop pid 8").hold(NOW + 60)
    failure = told.value.failure
    assert failure["code"] == "locked" and failure["owner"] == "ann@desk pid 7" and failure["expires_in"] == 840
    assert f"kubectl -n livekit delete lease {NAME}" in failure["fix"]


def test_the_same_run_holds_it_longer_and_gives_it_back():
    api = Api()
    lock(api).hold(NOW)
    lock(api).hold(NOW + 800)
    with pytest.raises(FleetError):
        lock(api, "bob@laptop pid 8").hold(NOW + 1600)
    assert lock(api).release() and api.lease is None
    assert lock(api, "bob@laptop pid 8").hold(NOW + 1601)


def test_an_expired_one_is_taken_over_and_a_late_release_leaves_it_alone():
    api = Api()
    lock(api).hold(NOW)
    assert lock(api, "bob@laptop pid 8").hold(NOW + 901)
    assert not lock(api).release()
    assert api.lease["spec"]["holderIdentity"] == "bob@laptop pid 8"


def test_a_run_that_is_known_to_have_ended_does_not_keep_the_next_one_waiting():
    api = Api()
    lock(api).hold(NOW)
    assert lock(api, "ann@desk pid 9", gone={"ann@desk pid 7"}).hold(NOW + 1)


@pytest.mark.parametrize("expired", [False, True])
def test_of_two_at_the_same_moment_one_gets_it(expired):
    api = Api()
    if expired:
        lock(api, "eve@old pid 1").hold(NOW - 1000)
    api.before_write = lambda: lock(api, "bob@laptop pid 8").hold(NOW)
    with pytest.raises(FleetError, match="bob@laptop pid 8"):
        lock(api).hold(NOW)


def test_check_mode_only_looks_and_is_told_the_same():
    api = Api()
    assert lock(api).hold(NOW, check=True) and api.lease is None
    lock(api).hold(NOW)
    with pytest.raises(FleetError):
        lock(api, "bob@laptop pid 8").hold(NOW, check=True)


def test_before_the_first_deployment_there_is_nothing_to_guard():
    api = Api(namespace=False)
    assert not lock(api).hold(NOW) and api.lease is None and not lock(api).release()


def test_an_account_without_rights_is_left_to_the_plan_which_names_them_all():
    api = Api(may=False)
    assert not lock(api).hold(NOW) and not lock(api).release()


def test_a_lease_that_somebody_wrote_by_hand_without_a_time_is_taken():
    api = Api()
    api.lease = {"metadata": {"resourceVersion": "x"}, "spec": {"holderIdentity": "bob", "renewTime": "soon"}}
    assert lock(api).hold(NOW)


def test_a_run_has_ended_when_its_process_on_this_machine_has():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    here = socket.gethostname()
    assert has_ended(f"ann@{here} pid {child.pid}")
    assert not has_ended(f"ann@{here} pid {os.getpid()}") and not has_ended(f"ann@elsewhere.{here} pid {child.pid}")
    assert not has_ended(owner()) and not has_ended("somebody else's text")
