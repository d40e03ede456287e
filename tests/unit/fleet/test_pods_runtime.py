# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes as pods: what SlotHost sees and does, against an API on a real socket and processes under the real init."""
from __future__ import annotations

import subprocess
import threading
import time

import pytest
from kubernetes_sample import NEW, OLD
from pods_sample import Cluster, Inits, until

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.host import SlotHost
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.runtimes import pods as pods_module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.runtimes import processes
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.runtimes.pods import Pods, Pulse
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slots import Layout

# A node that holds a call: it goes on after its first SIGTERM, and a second one would be seen.
HOLDS = ("sh", "-c", "trap 'echo told >>\"$0\"' TERM; while :; do sleep 0.05; done")


@pytest.fixture(name="cluster")
def fixture_cluster():
    made = Cluster()
    yield made
    made.close()


@pytest.fixture(name="pods")
def fixture_pods(cluster):
    return Pods("livekit", "node1", {"key": "secret"}, cluster.connect, Inits(cluster))


@pytest.fixture(name="host")
def fixture_host(pods):
    return SlotHost(lambda command: (127, "", ""), Layout(count=2), runtime=pods, shelf=pods)


def states(host):
    return [(s.slot, s.state, s.gate) for s in host.observe(measure=False)]


def test_machine_without_pods_has_only_free_slots(host, cluster):
    cluster.add(1, OLD, "node2")
    assert states(host) == [(1, "inactive", None), (2, "inactive", None)]


def test_running_pod_is_told_with_its_process_generation_and_gate(host, cluster):
    cluster.deploy(1, OLD, served_at="1000.5")
    pid = cluster.add(1, OLD)
    slot = host.observe(measure=False)[0]
    assert (slot.state, slot.pid, slot.version, slot.generation, slot.gate, slot.enabled) == ("active", pid, "1.13.5", OLD, OLD, True)
    assert (slot.label, slot.since, slot.served_at) == ("serving", 1767225600.0, 1000.5)


@pytest.mark.parametrize("more, state, label", [
    (dict(ready=False, phase="Pending"), "activating", "gating"),
    (dict(waiting={"reason": "ImagePullBackOff"}), "failed", "failed"),
    (dict(phase="Succeeded"), "inactive", "free"),
    (dict(leaving=True), "inactive", "free"),  # it has ended, and the API does not know yet
])
def test_pod_without_a_process(host, cluster, more, state, label):
    cluster.add(1, OLD, runs=False, **more)
    slot = host.observe(measure=False)[0]
    assert (slot.state, slot.label, slot.pid) == (state, label, None)


def test_crash_shows_before_the_api_knows(host, cluster):
    cluster.add(1, OLD)
    host.observe(measure=False)
    process = next(iter(cluster.processes.values()))
    process.kill()
    process.wait()
    assert states(host)[0][:2] == (1, "activating")


def test_drain_deletes_the_pod_once_and_is_seen_at_once(host, cluster, tmp_path):
    cluster.add(1, OLD, program=(*HOLDS, str(tmp_path / "log")))
    assert host.drain(1) and not host.drain(1)
    (done,) = cluster.done
    assert done[:2] == ("DELETE", f"livekit-s1-{OLD}-node1") and done[2]["preconditions"]["uid"] == cluster.pod(1, OLD)["metadata"]["uid"]
    slot = host.observe(measure=False)[0]
    assert slot.label == "draining" and not slot.enabled and abs((slot.state_since or 0) - time.time()) < 5
    assert until((tmp_path / "log").exists) and (tmp_path / "log").read_text() == "told\n"


def test_drain_by_hand_is_seen(host, cluster, tmp_path):
    """Whoever sends SIGTERM to the container's first process."""
    cluster.add(1, OLD, program=(*HOLDS, str(tmp_path / "log")))
    next(iter(cluster.processes.values())).terminate()
    assert until(lambda: states(host)[0][1] == "deactivating")


def test_pod_that_was_replaced_meanwhile_is_not_deleted(pods, cluster):
    cluster.add(1, OLD)
    pods.pods.rows()
    pods.pods.kept = True  # what it knows is old
    cluster.pod(1, OLD)["metadata"]["uid"] = "another"
    pods.stop(1)
    assert cluster.done == []


def test_fence_kills_exactly_that_process(host, cluster):
    pid = cluster.add(1, OLD)
    process = next(iter(cluster.processes.values()))
    assert not host.fence(1, "ND_a", pid + 1) and process.poll() is None
    threading.Thread(target=process.wait, daemon=True).start()  # the kubelet's part
    assert host.fence(1, "ND_a", pid) and until(lambda: process.returncode == -9) and cluster.done == []


def away(cluster):
    cluster.refuse = 503
    cluster.end_watches()


def test_fence_needs_no_api(follow, host, cluster):
    pid = cluster.add(1, OLD)
    assert until(lambda: states(host)[0][1] == "active")
    away(cluster)
    threading.Thread(target=next(iter(cluster.processes.values())).wait, daemon=True).start()
    assert host.fence(1, "ND_a", pid)


def test_api_that_is_away_hides_nothing_that_runs(follow, host, cluster):
    cluster.add(1, OLD)
    assert until(lambda: states(host)[0][1] == "active")
    away(cluster)
    assert until(lambda: not follow.pods.in_step)
    assert states(host)[0] == (1, "active", OLD)
    next(iter(cluster.processes.values())).terminate()
    assert until(lambda: states(host)[0][1] != "active")
    cluster.refuse = 0
    assert until(lambda: follow.pods.in_step)


def test_api_that_never_answered_is_an_error_and_no_free_slot(host, cluster):
    cluster.refuse = 503
    with pytest.raises(FleetError):
        host.observe()


def test_missing_right_is_an_error_and_no_free_slot(host, cluster):
    host.observe(measure=False)
    cluster.refuse = 403
    with pytest.raises(FleetError) as caught:
        host.observe()
    assert caught.value.failure["code"] == "no_rights"


def test_label_serving_is_set_and_taken_away(host, cluster):
    cluster.deploy(1, NEW)
    cluster.add(1, NEW, serving=False)
    slot = host.observe(measure=False)[0]
    assert slot.enabled and slot.gate is None
    host.serve(1, NEW)
    assert cluster.pod(1, NEW)["metadata"]["labels"]["openrtc.livekit/serving"] == "true" and states(host)[0][2] == NEW
    host.shelf.set_gate(1, None)
    assert "openrtc.livekit/serving" not in cluster.pod(1, NEW)["metadata"]["labels"]


def test_generation_that_has_not_passed_its_gates_approves_no_pod(host, cluster):
    cluster.deploy(1, NEW, gated=False)
    cluster.add(1, NEW, serving=False)
    assert not host.observe(measure=False)[0].enabled


def test_of_two_pods_in_a_slot_the_one_that_runs_counts(host, cluster):
    pid = cluster.add(1, OLD, leaving=True)
    cluster.add(1, NEW, runs=False, ready=False, phase="Pending")
    slot = host.observe(measure=False)[0]
    assert (slot.pid, slot.generation, slot.label) == (pid, OLD, "draining")


def test_nothing_is_started_or_written_here(host):
    for step in (lambda: host.write(1, NEW, "1.13.5", {}), lambda: host.static_check(1)):
        with pytest.raises(FleetError) as caught:
            step()
        assert caught.value.failure["code"] == "not_here"


def test_last_lines_of_a_node_come_with_secrets_masked(host, cluster):
    cluster.add(1, OLD)
    assert host.journal(1) == ["one", "password: ********"]


def test_executor_that_sees_no_processes_says_so(monkeypatch):
    monkeypatch.setattr(pods_module.os, "getpid", lambda: 1)
    with pytest.raises(FleetError, match="hostPID"):
        pods_module.own_inits()


# --- in step ----------------------------------------------------------------------------------------------------------

@pytest.fixture(name="follow")
def fixture_follow(pods):
    stop = threading.Event()
    threads = [threading.Thread(target=mirror.keep, args=(stop, lambda got: None), daemon=True) for mirror in (pods.pods, pods.deployments)]
    for thread in threads:
        thread.start()
    assert until(lambda: pods.pods.in_step and pods.deployments.in_step)
    yield pods
    stop.set()


def test_changes_come_without_asking(follow, cluster):
    pulse, asked = Pulse(follow), len(cluster.asked)
    seen = [pulse()]
    cluster.add(1, OLD)
    assert until(lambda: pulse() != seen[-1])
    seen.append(pulse())
    next(iter(cluster.processes.values())).terminate()
    assert until(lambda: pulse() != seen[-1]), "the end of a process is a change too"
    seen.append(pulse())
    cluster.remove("pods", f"livekit-s1-{OLD}-node1")
    assert until(lambda: pulse() == {}) and len({str(s) for s in seen}) == 3
    assert len(cluster.asked) == asked


def test_gate_mark_of_a_deployment_is_a_change(follow, cluster):
    before = follow.marks([1])
    cluster.deploy(1, NEW)
    assert until(lambda: follow.marks([1]) != before)


def test_watch_that_ends_is_begun_anew(follow, cluster):
    cluster.end_watches()
    cluster.add(1, OLD, runs=False)
    assert until(lambda: Pulse(follow)() != {} and follow.pods.in_step)


def test_what_keeps_it_from_following_is_told_once(cluster, pods):
    stop, told = threading.Event(), []
    cluster.refuse = 403
    threading.Thread(target=pods.pods.keep, args=(stop, told.append), daemon=True).start()
    assert until(lambda: len(cluster.asked) > 3) and told == ["refused for the test"]
    cluster.refuse = 0
    assert until(lambda: pods.pods.in_step) and until(lambda: told == ["refused for the test", ""])
    stop.set()
    cluster.end_watches()


# --- processes --------------------------------------------------------------------------------------------------------

def test_init_of_a_pod_is_found_by_its_control_group(tmp_path, monkeypatch):
    uid = "0f1e2d3c-aaaa-bbbb-cccc-0123456789ab"
    made = {"10": ("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f1e2d3c_aaaa_bbbb_cccc_0123456789ab.slice/cri-containerd-ab.scope\n",
                   "sh\0-c\0script\0init\0/livekit-server\0", "Name:\tsh\nNSpid:\t10\t1\n"),
            "11": (f"1:name=systemd:/kubepods/burstable/pod{uid}/ab\n", "/livekit-server\0--config\0", "NSpid:\t11\t7\n"),
            "12": (f"1:name=systemd:/kubepods/burstable/pod{uid}/pause\n", "/pause\0", "NSpid:\t12\t1\n"),
            "13": ("1:name=systemd:/kubepods/burstable/podother/ab\n", "sh\0-c\0script\0init\0/livekit-server\0", "NSpid:\t13\t1\n")}
    for pid, (cgroup, cmdline, status) in made.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cgroup").write_text(cgroup)
        (tmp_path / pid / "cmdline").write_text(cmdline)
        (tmp_path / pid / "status").write_text(status)
    monkeypatch.setattr(processes, "PROC", str(tmp_path))
    assert processes.Inits()._search({uid}) == {uid: 10}


def test_kill_spares_a_process_that_is_another_one():
    with subprocess.Popen(["sleep", "60"]) as process:
        assert not processes.kill(process.pid, lambda: False)[0] and process.poll() is None
        assert processes.kill(process.pid, lambda: True) == (True, "")
    assert processes.kill(process.pid, lambda: True) == (True, "")
