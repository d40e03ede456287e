# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Up, down, and what is left of a lab."""
from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import time
import typing as t
import urllib.request

import containers
from common import LabError, locked, run, say

from . import addons, control, layout, limits, network, nodes, pki, processes, programs, seed
from .api import Api
from .layout import Lab, Member

NODES = "/api/v1/nodes"
ROOT = pathlib.Path(__file__).resolve().parents[3]


def output(lab: Lab) -> pathlib.Path:
    return ROOT / "build" / "lab" / lab.name


def archives() -> list[pathlib.Path]:
    """What every node has in its store; made where it is missing."""
    return [*containers.archive_all(containers.chosen([])), programs.directory() / "pause.tar"]


def load(name: str) -> Lab | None:
    """The lab of this name, also one that came up only in part."""
    try:
        return Lab(**json.loads((layout.STATE / "labs" / name / "lab.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as exc:
        raise LabError(f"{layout.STATE}/labs/{name}/lab.json cannot be read ({exc}); remove that directory") from exc


def up(wanted: Lab) -> None:
    """Bring a lab up, or add nodes to one that runs; a lab that came up only in part, or lost a program, is made anew."""
    nodes.check_tools()
    kept = archives()
    with locked(layout.STATE):
        images = seed.ensure(kept)
        there = load(wanted.name)
        if there and healthy(there):
            if there.subnet != wanted.subnet or there.nodes > wanted.nodes:
                raise LabError(f"lab {there.name} runs with {there.nodes} nodes in {there.subnet}; take it down first (lab/kubernetes/down {there.name})")
        elif there:
            say(f"{wanted.name}: what an earlier run left is removed first")
            remove(there)
            there = None
        started = time.monotonic()
        if there and there.nodes == wanted.nodes:
            say(f"{wanted.name}: {wanted.nodes} nodes are up")
        elif there:
            grow(there, wanted, images, started)
        else:
            network.check(wanted)
            limits.borrow()
            create(wanted, images, started)
        publish(wanted)


def elapsed(started: float) -> str:
    return f"after {time.monotonic() - started:.1f} s"


def note(lab: Lab) -> None:
    """Written before anything else is made, so that whatever is there can be found and removed."""
    for directory in (lab.log, lab.control.directory):
        directory.mkdir(parents=True, exist_ok=True)
    lab.directory.chmod(0o711)  # pods of any user go through it to their volumes
    lab.parameters.write_text(json.dumps(dataclasses.asdict(lab)), encoding="utf-8")


def create(lab: Lab, images: pathlib.Path, started: float) -> None:
    note(lab)
    network.create(lab)
    holders = {member.name: prepare(member) for member in [lab.control, *lab.members]}
    network.connect(lab, holders, lab.members)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        laid = [pool.submit(disk, member, images) for member in lab.members]
        pki.create(lab)
        api = control.start(lab, holders["control"])
        say(f"{lab.name}: control plane {elapsed(started)}")
        addons.start(lab, holders["control"])
        for job in laid:
            job.result()
    join(lab, api, holders, lab.members)
    addons.apply(api, addons.metrics_objects(lab))
    say(f"{lab.name}: {lab.nodes} nodes Ready {elapsed(started)}")
    processes.wait(lab, "the name server", lambda: dns_ready(lab), "control/coredns")
    processes.wait(lab, "metrics-server", lambda: bool(api.condition(f"{addons.APIS}/v1beta1.metrics.k8s.io", "Available")), "control/metrics-server")
    lab.complete.touch()
    say(f"{lab.name}: up {elapsed(started)}")


def grow(there: Lab, wanted: Lab, images: pathlib.Path, started: float) -> None:
    new = wanted.members[there.nodes:]
    note(wanted)
    holders = {**holders_of(there), **{member.name: prepare(member) for member in new}}
    network.connect(wanted, holders, new)
    for member in new:
        disk(member, images)
    join(wanted, Api(wanted), holders, new)
    say(f"{wanted.name}: {', '.join(member.name for member in new)} Ready {elapsed(started)}")


def prepare(member: Member) -> int:
    for name in network.OWN:
        (member.directory / name).mkdir(parents=True, exist_ok=True)
    return network.attach(member)


def clear_run(member: Member) -> None:
    """What a machine loses with its power."""
    shutil.rmtree(member.directory / "run", ignore_errors=True)


def disk(member: Member, images: pathlib.Path) -> None:
    nodes.make_cgroups(member)
    nodes.lay_out(member, images)
    addons.make_volumes(member)


def join(lab: Lab, api: Api, holders: t.Mapping[str, int], new: t.Sequence[Member]) -> None:
    """Start nodes and wait until they take pods."""
    # What a node that comes back said before does not count.
    before = {member.name: api.condition(f"{NODES}/{member.name}", "Ready") for member in new}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for job in [pool.submit(nodes.start, member, holders[member.name]) for member in new]:
            job.result()
    addons.apply(api, addons.storage_objects(new))
    for member in new:
        names = [f"{member.name}/{name}" for name in ("kubelet", "containerd", "kube-proxy")]
        processes.wait(lab, member.name, functools.partial(ready_again, api, member, before[member.name]), *names)


def ready_again(api: Api, member: Member, before: str) -> bool:
    return api.condition(f"{NODES}/{member.name}", "Ready") not in ("", before)


def holders_of(lab: Lab) -> dict[str, int]:
    """The processes that hold the members' namespaces, of those that are there, by the members' names."""
    found = {member.name: processes.find(lab, network.holder(member)) for member in [lab.control, *lab.members]}
    return {name: pid for name, pid in found.items() if pid is not None}


def dns_ready(lab: Lab) -> bool:
    try:
        urllib.request.urlopen(f"http://{lab.control.address}:8181/ready", timeout=2).close()
    except OSError:
        return False
    return True


def expected(lab: Lab) -> list[str]:
    """Every program of a complete lab."""
    return [
        *(f"control/{name}" for name in ["holder", *control.commands(lab), *addons.commands(lab)]),
        *(f"{member.name}/{name}" for member in lab.members for name in ["holder", *nodes.commands(member)]),
    ]


def healthy(lab: Lab) -> bool:
    running = set(processes.marked(lab).values())
    return lab.complete.exists() and set(expected(lab)) <= running and Api(lab).call("GET", "/readyz") is not None


def publish(lab: Lab) -> None:
    """build/lab/<name>/: kubeconfig, cluster.json and a link to kubectl, for whoever called (sudo included)."""
    target = output(lab)
    target.mkdir(parents=True, exist_ok=True)
    pki.write(target / "kubeconfig", (lab.pki / "admin.kubeconfig").read_text(encoding="utf-8"))
    facts = lab.facts(pathlib.Path(programs.program("kubectl")), target / "kubeconfig")
    facts["images"] = [one["reference"] for one in containers.listing(containers.chosen([]))]
    (target / "cluster.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    link = target / "kubectl"
    link.unlink(missing_ok=True)
    link.symlink_to(facts["kubectl"])
    owner = os.environ.get("SUDO_UID")
    if owner:
        for path in (target, *target.iterdir()):
            os.chown(path, int(owner), int(os.environ.get("SUDO_GID", owner)), follow_symlinks=False)
    say(f"{lab.name}: export KUBECONFIG={target}/kubeconfig; kubectl is {facts['kubectl']}")


def down(name: str) -> None:
    with locked(layout.STATE):
        lab = load(name)
        if lab is None:
            # Whatever else is in its directory was made before anything was started.
            shutil.rmtree(Lab(name, "192.0.2.0/24", 1).directory, ignore_errors=True)
            say(f"{name}: is not up")
            return
        started = time.monotonic()
        remove(lab)
        say(f"{name}: down {elapsed(started)}")


def remove(lab: Lab) -> None:
    """End its processes, give back what the machine lent, and delete its files; lab.json last, so that a killed run can be continued."""
    processes.kill_all(lab)
    network.remove(lab)
    remove_cgroups(lab)
    for path in output(lab).glob("*"):
        if path.name in ("kubeconfig", "cluster.json", "kubectl"):
            path.unlink()
    with contextlib.suppress(OSError):
        output(lab).rmdir()
    lab.complete.unlink(missing_ok=True)
    for path in lab.directory.iterdir():
        if path != lab.parameters:
            run("rm", "-rf", "--one-file-system", str(path))
    shutil.rmtree(lab.directory)
    if not any(lab.directory.parent.iterdir()):
        limits.give_back()


def remove_cgroups(lab: Lab, member: Member | None = None) -> None:
    for group in processes.cgroups(lab, member):
        deadline = time.monotonic() + 10
        while group.exists():
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            if time.monotonic() > deadline:
                raise LabError(f"lab {lab.name}: the control group {group} cannot be removed")
            time.sleep(0.05)


def leftovers(name: str) -> list[str]:
    """What is still there of a lab, in words; nothing after down."""
    lab = load(name) or Lab(name, "192.0.2.0/24", 1)
    mounts = [line.split()[1] for line in processes.read("/proc/self/mounts").decode().splitlines()]
    return [
        *(f"process {pid} {mark}" for pid, mark in processes.marked(lab).items()),
        *(f"process {pid} of a pod" for pid in processes.contained(lab)),
        *(f"control group {group}" for group in processes.cgroups(lab)),
        *(f"mount {place}" for place in mounts if pathlib.Path(place).is_relative_to(lab.directory)),
        *(f"interface {link}" for link in network.links(lab)),
        *([f"iptables rule for {lab.bridge}"] if network.rule_exists(lab) else []),
        *([f"directory {lab.directory}"] if lab.directory.exists() else []),
    ]
