# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Kubernetes lab without a cluster: addresses and names, what its programs are told, how its processes are found and ended."""
from __future__ import annotations

import importlib
import ipaddress
import itertools
import json
import pathlib
import re
import sys
import time
import types

import pytest

LAB = pathlib.Path(__file__).resolve().parents[3] / "lab"
MODULES = ("addons", "cluster", "control", "layout", "limits", "network", "nodes", "processes", "programs", "seed")


@pytest.fixture(name="kubelab", scope="module")
def fixture_kubelab():
    sys.path[:0] = [str(LAB), str(LAB / "kubernetes")]
    try:
        yield types.SimpleNamespace(**{name: importlib.import_module(f"kubelab.{name}") for name in MODULES})
    finally:
        del sys.path[:2]


@pytest.fixture(name="lab")
def fixture_lab(kubelab, tmp_path, monkeypatch):
    monkeypatch.setattr(kubelab.layout, "STATE", tmp_path)
    lab = kubelab.layout.Lab("unit-test", "172.30.240.0/24", 3)
    lab.log.mkdir(parents=True)
    yield lab
    kubelab.processes.kill_all(lab)


def test_addresses(lab):
    assert (lab.machine, lab.control.address, lab.server) == ("172.30.240.1", "172.30.240.10", "https://172.30.240.10:6443")
    assert [(node.name, node.address, str(node.pods)) for node in lab.members] == [
        ("node1", "172.30.240.11", "198.18.240.0/27"), ("node2", "172.30.240.12", "198.18.240.32/27"), ("node3", "172.30.240.13", "198.18.240.64/27"),
    ]
    assert str(lab.services) == "198.19.240.0/24"
    assert all(network.subnet_of(ipaddress.IPv4Network("198.18.0.0/15")) for network in (lab.pods, lab.services))


def test_labs_side_by_side_share_no_name(kubelab):
    labs = [kubelab.layout.Lab(name, f"172.30.{number}.0/24", 8) for number, name in enumerate(("a", "b", "kubernetes", "x" * 31))]
    names = [name for lab in labs for name in (lab.bridge, str(lab.pods), str(lab.directory), *(node.link for node in lab.members))]
    assert len(names) == len(set(names))
    assert all(len(name) <= 15 for lab in labs for name in (lab.bridge, lab.control.link, *(node.link for node in lab.members)))
    assert not [1 for one, other in itertools.permutations(labs, 2) if other.members[0].cgroup.startswith(one.cgroup_prefix)]


@pytest.mark.parametrize("values, told", [
    (("Lab", "172.30.1.0/24", 3), "no name for a lab"), (("a/b", "172.30.1.0/24", 3), "no name"), (("a", "172.30.1.0/25", 3), "must end in .0/24"),
    (("a", "172.30.1.0/24", 0), "1 to 8"), (("a", "172.30.1.0/24", 9), "1 to 8"),
])
def test_bad_parameters(kubelab, values, told):
    with pytest.raises(Exception, match=told):
        kubelab.layout.Lab(*values)


def test_a_kubelet_is_shown_the_settings_it_wants_and_changes_none(kubelab, lab):
    lines = "\n".join(kubelab.network.setup(lab.members[0]))
    for name in kubelab.network.WANTED:
        assert re.search(rf"mount --bind \S+/node1/sysctl-\d /proc/sys/{name}$", lines, re.MULTILINE)
    assert "/proc/sys" not in "\n".join(kubelab.network.setup(lab.control))


def test_every_member_has_its_own_places(kubelab, lab):
    for member in (lab.control, *lab.members):
        lines = kubelab.network.setup(member)
        assert [line for line in lines if line.startswith("mount --bind") and line.endswith((" /run", " /var/lib", " /var/log"))] == [
            f"mount --bind {member.directory}/{name} {place}" for name, place in kubelab.network.OWN.items()
        ]


def test_programs_talk_to_their_own_lab_only(kubelab, lab):
    words = [word for command in kubelab.control.commands(lab).values() for word in command]
    addresses = {address for word in words for address in re.findall(r"\d+\.\d+\.\d+\.\d+", word)}
    assert addresses == {"127.0.0.1", lab.control.address, "198.19.240.0"}
    node = lab.members[2]
    kubelet = kubelab.nodes.kubelet_config(node)
    assert kubelet["cgroupRoot"] == f"/{node.cgroup}" and kubelet["address"] == node.address and kubelet["clusterDNS"] == [lab.control.address]
    assert kubelet["maxPods"] < node.pods.num_addresses - 3
    assert kubelab.nodes.cni_config(node)["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "198.18.240.64/27"}]]


def test_no_secret_is_on_a_command_line(kubelab, lab):
    words = " ".join(word for commands in (kubelab.control.commands(lab), kubelab.addons.commands(lab)) for command in commands.values() for word in command)
    assert "token=" not in words and "password" not in words


def test_every_node_offers_volumes(kubelab, lab):
    objects = kubelab.addons.storage_objects(lab.members)
    assert sum(item["kind"] == "PersistentVolume" for _path, item in objects) == 3 * kubelab.addons.VOLUMES
    kubelab.addons.make_volumes(lab.members[0])
    first = next(item for _path, item in objects if item["metadata"]["name"] == "node1-1")
    place = pathlib.Path(first["spec"]["local"]["path"])
    assert place.is_dir() and place.stat().st_mode & 0o777 == 0o777


def test_the_key_of_the_programs_follows_their_sources(kubelab, tmp_path, monkeypatch):
    before = kubelab.programs.key()
    assert re.fullmatch("[0-9a-f]{12}", before) and before == kubelab.programs.key()
    monkeypatch.setattr(kubelab.programs, "SOURCES", tmp_path)
    assert kubelab.programs.key() != before


def test_the_go_modules_are_of_the_version_that_is_told(kubelab):
    text = (LAB / "kubernetes/go/control/go.mod").read_text(encoding="utf-8")
    assert f"k8s.io/kubernetes v{kubelab.programs.KUBERNETES}\n" in text
    assert set(re.findall(r"^\tk8s.io/\S+ => k8s.io/\S+ (\S+)$", text, re.MULTILINE)) == {f"v0.{kubelab.programs.KUBERNETES.partition('.')[2]}"}


def until(ready):
    """A program that is just being loaded has no environment yet."""
    deadline = time.monotonic() + 10
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_processes_are_found_by_their_mark_and_ended(kubelab, lab):
    other = kubelab.layout.Lab("unit-test-2", lab.subnet, 1)
    other.log.mkdir(parents=True)
    processes = kubelab.processes
    pids = [processes.start(lab, f"node1/{name}", "sleep", "1000") for name in ("sleep", "twin")]
    stranger = processes.start(other, "node1/sleep", "sleep", "1000")
    try:
        until(lambda: len(processes.marked(lab)) == 2 and processes.mark_of(stranger))
        assert processes.marked(lab) == {pids[0]: "node1/sleep", pids[1]: "node1/twin"}
        until(lambda: processes.find(lab, "node1/sleep") == pids[0])
        assert processes.find(lab, "node2/sleep") is None
        processes.stop(lab, "node1/sleep")
        assert set(processes.marked(lab)) == {pids[1]}
        processes.kill_all(lab)
        assert not processes.marked(lab) and processes.mark_of(stranger)
    finally:
        processes.kill_all(other)


def test_a_program_that_ends_is_told_with_its_last_words(kubelab, lab):
    kubelab.processes.start(lab, "control/sh", "sh", "-c", "echo address already in use >&2; exit 1")
    began = time.monotonic()
    with pytest.raises(Exception, match="(?s)the API server did not come up: control/sh has ended.*address already in use"):
        kubelab.processes.wait(lab, "the API server", lambda: False, "control/sh", timeout=30)
    assert time.monotonic() - began < 10


def test_the_limit_of_inotify_is_borrowed_and_given_back(kubelab, tmp_path, monkeypatch):
    monkeypatch.setattr(kubelab.layout, "STATE", tmp_path)
    limit = tmp_path / "limit"
    monkeypatch.setattr(kubelab.limits, "LIMIT", limit)
    for before, during, after in (("128", "2048", "128"), ("8192", "8192", "8192")):
        limit.write_text(before, encoding="ascii")
        kubelab.limits.borrow()
        kubelab.limits.borrow()
        assert limit.read_text(encoding="ascii") == during
        kubelab.limits.give_back()
        assert limit.read_text(encoding="ascii") == after and not kubelab.limits.noted().exists()
    limit.write_text("128", encoding="ascii")
    kubelab.limits.borrow()
    limit.write_text("4096", encoding="ascii")
    kubelab.limits.give_back()
    assert limit.read_text(encoding="ascii") == "4096"


def test_leftovers_of_a_lab_that_never_was(kubelab, lab):
    kubelab.cluster.shutil.rmtree(lab.directory)
    assert kubelab.cluster.leftovers(lab.name) == []


def test_a_killed_run_is_remembered(kubelab, lab):
    kubelab.cluster.note(lab)
    assert kubelab.cluster.load(lab.name) == lab
    assert json.loads(lab.parameters.read_text(encoding="utf-8")) == {"name": "unit-test", "subnet": "172.30.240.0/24", "nodes": 3}
    assert any("directory" in line for line in kubelab.cluster.leftovers(lab.name))
    lab.parameters.write_text("{", encoding="utf-8")
    with pytest.raises(Exception, match="cannot be read"):
        kubelab.cluster.load(lab.name)
