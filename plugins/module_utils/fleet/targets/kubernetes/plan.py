# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs in the cluster, and what has to be done. Pure: plain mappings of the API in, slots and steps out.

A slot is a place in the whole cluster here: it is free when no Deployment is in it and no pod, one that still drains included. Choosing the
slot and judging what runs is generation.plan's, as on hosts. A run killed between two steps leaves a cluster from which the next one
plans the rest.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import collections
import dataclasses
import re
import typing as t

from ...errors import FleetError
from ...generation import Plan, Slot, plan as plan_slots
from . import cluster as c
from .cluster import Cluster, Row
from .objects import GATE, MANAGER, ROLLED_BACK, SERVED_AT, SERVING, VERSION
from .server import name_of
from .settings import Settings

TROUBLE = ("CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError",
           "CreateContainerError", "RunContainerError")


class Step(t.NamedTuple):
    """One step, to be taken in the order of the list.

    kind: discard (what is left of a generation that never served, or an old Secret of the same name), create, gate (wait for the pods, probe
    them), serve (gate mark and `serving` label), point (HPA), scale, retire (delete the Deployment: its pods drain), prune (delete
    objects that nothing uses). name: of the Deployment, HPA or Secret.
    """

    kind: str
    name: str
    slot: int
    reason: str
    replicas: int = 0
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Change:
    """plan: of the slots; steps: in order; slots: the cluster's, as seen before."""

    plan: Plan
    steps: tuple[Step, ...]
    slots: tuple[Slot, ...]

    @property
    def changed(self) -> bool:
        return bool(self.steps)


# --- what there is ----------------------------------------------------------------------------------------------------

def node_slots(found: Cluster, settings: Settings, count: int) -> dict[str, list[Slot]]:
    """{node: its slots}, of every media node and every other one that has a pod of ours: what status and executors tell of hosts."""
    pods: dict[str, dict[int, Row]] = collections.defaultdict(dict)
    for pod in found.servers(settings.namespace):
        node = (pod.get("spec") or {}).get("nodeName")
        if node and not c.over(pod):
            pods[node][c.slot_of(pod)] = pod
    marks = {c.name(d): c.notes(d) for d in found.generations(settings.namespace)}
    out = {}
    for node in sorted({c.name(n) for n in found.media_nodes(settings)} | set(pods)):
        numbers = sorted(set(range(1, count + 1)) | set(pods[node]))
        out[node] = [pod_slot(n, pods[node].get(n), marks) for n in numbers]
    return out


def pod_slot(number: int, pod: Row | None, marks: t.Mapping[str, t.Mapping[str, str]]) -> Slot:
    """marks: {Deployment: its annotations}. `enabled`: the generation passed its gates as a whole; a pod of it that comes later has only its own to pass."""
    if pod is None:
        return Slot(number)
    generation, status = c.generation_of(pod), pod.get("status") or {}
    notes = marks.get(name_of(number, generation))
    ends, grace = c.moment(pod["metadata"].get("deletionTimestamp")), pod["metadata"].get("deletionGracePeriodSeconds") or 0
    # A deletion timestamp is when the grace ends, not when it began.
    since = ends - grace if ends else None
    return Slot(number, state=pod_state(pod), generation=generation, version=c.labels(pod).get(VERSION),
                gate=generation if c.labels(pod).get(SERVING) == "true" else None, enabled=(notes or {}).get(GATE) == generation,
                served_at=_number((notes or {}).get(SERVED_AT)), rolled_back=(notes or {}).get(ROLLED_BACK) == "true",
                since=c.moment(status.get("startTime")), state_since=since)


def pod_state(pod: Row) -> str:
    """As systemd would call it."""
    if pod["metadata"].get("deletionTimestamp"):
        return "deactivating"
    if c.over(pod) or trouble(pod):
        return "failed"
    return "active" if c.ready(pod) else "activating"


def trouble(pod: Row) -> str:
    """Why a pod does not come up, "" where nothing speaks against it: a waiting container's reason and message."""
    for state in (pod.get("status") or {}).get("containerStatuses") or ():
        waiting = (state.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in TROUBLE:
            return ": ".join(filter(None, (waiting["reason"], waiting.get("message"))))
    return ""


def unscheduled(found: Cluster, settings: Settings) -> dict[str, str]:
    """{pod: what the scheduler says} of those that wait for a machine."""
    out = {}
    for pod in found.servers(settings.namespace):
        for note in (pod.get("status") or {}).get("conditions") or ():
            if note.get("type") == "PodScheduled" and note.get("status") == "False" and not pod["metadata"].get("deletionTimestamp"):
                out[c.name(pod)] = str(note.get("message") or note.get("reason") or "")
    return out


def slots(found: Cluster, settings: Settings, count: int) -> list[Slot]:
    """The cluster's slots, each as one row: rooms and participants are for others to fill in."""
    deployments = {c.slot_of(d): d for d in found.generations(settings.namespace)}
    pods: dict[int, list[Row]] = collections.defaultdict(list)
    for pod in found.servers(settings.namespace):
        if not c.over(pod):
            pods[c.slot_of(pod)].append(pod)
    numbers = sorted(set(range(1, count + 1)) | set(deployments) | set(pods))
    return [_cluster_slot(n, deployments.get(n), pods[n], found) for n in numbers]


def _cluster_slot(number: int, deployment: Row | None, pods: list[Row], found: Cluster) -> Slot:
    if deployment is None:
        if not pods:
            return Slot(number)
        row, state = pods[0], "deactivating"  # whatever they do, their Deployment is gone
    else:
        row, state = deployment, "active" if all_ready(deployment) else "activating"
    marks = c.notes(row) if deployment else {}
    times = [when for when in (c.moment((p.get("status") or {}).get("startTime")) for p in pods) if when]
    intact = deployment is None or untouched(deployment, found)
    return Slot(number, state=state, generation=c.generation_of(row), version=c.labels(row).get(VERSION), intact=intact,
                gate=marks.get(GATE) or None, enabled=deployment is not None, served_at=_number(marks.get(SERVED_AT)),
                rolled_back=marks.get(ROLLED_BACK) == "true", since=min(times, default=None))


def all_ready(deployment: Row) -> bool:
    """Every replica that there is to be stands. One that a machine is missing for, later, does not make a generation unfit: see serving()."""
    status, wanted = deployment.get("status") or {}, int((deployment.get("spec") or {}).get("replicas", 1))
    return int(status.get("readyReplicas") or 0) >= wanted or bool(c.notes(deployment).get(GATE) and status.get("readyReplicas"))


def untouched(deployment: Row, found: Cluster) -> bool:
    """Whether the pods are those it was created with: any edit of its pod template makes a second revision. Replicas may be changed."""
    revision = c.notes(deployment).get("deployment.kubernetes.io/revision", "1")
    sets = [r for r in found.replicasets if c.owner(r, "Deployment") == c.name(deployment)]
    return revision == "1" and len(sets) < 2


def serving(found: Cluster, settings: Settings, count: int) -> Slot | None:
    """The slot of the generation in service, the newest if several passed their gates."""
    passed = [s for s in slots(found, settings, count) if s.running and s.gate and s.gate == s.generation]
    return max(passed, key=lambda s: (s.served_at or 0.0, s.slot), default=None)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


# --- what to do -------------------------------------------------------------------------------------------------------

def change(generation: str, version: str, found: Cluster, settings: Settings, count: int, now: float | None = None,
           pointed_at: str | None = None, kept: t.Collection[str] = (), obsolete: t.Sequence[str] = ()) -> Change:
    """The steps that bring the cluster to the desired generation; none where it runs already.

    pointed_at: the Deployment that the HPA scales now; kept: names of Secrets and ConfigMaps that the base objects use; obsolete: "Kind/name"
    of other objects to remove. Raises what generation.plan raises (no_free_slot), and slot_twice.
    """
    rows = slots(found, settings, count)
    _one_each(found, settings)
    plan = plan_slots(generation, version, rows, now=now, count=count)
    name, replicas = name_of(plan.slot, generation), _replicas(found, settings)
    steps: list[Step] = []
    if plan.start:
        steps += [Step("discard", c.name(s), plan.slot, "an earlier generation of this slot left it") for s in found.secrets if c.name(s) == name]
        steps.append(Step("create", name, plan.slot, plan.reason, replicas=replicas))
    if plan.gate:
        steps += [Step("gate", name, plan.slot, plan.reason), Step("serve", name, plan.slot, "callers may come once the gate is passed")]
    elif not plan.start and not settings.executor and _left_out(found, settings, name):
        steps.append(Step("serve", name, plan.slot, "pods came since then that nobody let callers to"))
    if settings.autoscaled and pointed_at != name:
        steps.append(Step("point", name, plan.slot, f"it scales {pointed_at or 'nothing'} now"))
    if not settings.autoscaled and not plan.start:
        steps += _scale(found, settings, name, plan.slot)
    for slot in plan.drain:
        leaving = next(s for s in rows if s.slot == slot)
        steps.append(Step("retire", name_of(slot, leaving.generation or ""), slot, f"slot {plan.slot} serves; calls here go on until they end"))
    stale = sorted({*leftovers(found, settings, {name, *kept}), *obsolete})
    if stale:
        steps.append(Step("prune", "", 0, "nothing uses them", names=tuple(stale)))
    return Change(plan, tuple(steps), tuple(rows))


def _replicas(found: Cluster, settings: Settings) -> int:
    """As many as the generation in service has, where the number is the autoscaler's business; so it takes over at the size of its predecessor."""
    if not settings.autoscaled:
        return settings.replicas
    gated = [d for d in found.generations(settings.namespace) if c.notes(d).get(GATE)]
    now = max((int((d.get("spec") or {}).get("replicas", 1)) for d in gated), default=settings.autoscaling.min)
    return max(settings.autoscaling.min, min(settings.autoscaling.max, now))


def _scale(found: Cluster, settings: Settings, name: str, slot: int) -> list[Step]:
    for deployment in found.generations(settings.namespace):
        now = int((deployment.get("spec") or {}).get("replicas", 1))
        if c.name(deployment) == name and now != settings.replicas:
            return [Step("scale", name, slot, f"{now} -> {settings.replicas} nodes", replicas=settings.replicas)]
    return []


def _left_out(found: Cluster, settings: Settings, name: str) -> bool:
    """Whether a ready pod of this generation is not marked as serving. Executors do that; without them it is the next run's business."""
    pods = [p for p in found.servers(settings.namespace) if name_of(c.slot_of(p), c.generation_of(p)) == name]
    return any(pod_state(p) == "active" and c.labels(p).get(SERVING) != "true" for p in pods)


def _one_each(found: Cluster, settings: Settings) -> None:
    """Two Deployments in one slot are not of our making; which one is right cannot be told."""
    seen: dict[int, str] = {}
    for deployment in found.generations(settings.namespace):
        number = c.slot_of(deployment)
        if number in seen:
            raise FleetError("read the slots", f"namespace {settings.namespace}", f"{seen[number]} and {c.name(deployment)} are both in slot {number}",
                             "Delete the one that is not wanted: kubectl delete deployment (its pods drain)", code="slot_twice", slot=number)
        seen[number] = c.name(deployment)


def leftovers(found: Cluster, settings: Settings, kept: t.Collection[str]) -> tuple[str, ...]:
    """"Kind/name" of Secrets and ConfigMaps of ours that no pod mounts and no Deployment may mount again, sorted.

    Of generations the newest that served before the one in service stays: a rollback is made from it.
    """
    used = {*kept, *(c.name(d) for d in found.generations(settings.namespace))}
    for pod in found.pods:
        for volume in (pod.get("spec") or {}).get("volumes") or ():
            used |= {(volume.get("secret") or {}).get("secretName", ""), (volume.get("configMap") or {}).get("name", "")}
    idle = [s for s in found.secrets if c.slot_of(s) and c.name(s) not in used and _number(c.notes(s).get(SERVED_AT))]
    used |= {c.name(s) for s in sorted(idle, key=lambda s: _number(c.notes(s)[SERVED_AT]) or 0.0)[-1:]}
    rows = [("Secret", s) for s in found.secrets] + [("ConfigMap", m) for m in found.config_maps]
    return tuple(sorted(f"{kind}/{c.name(row)}" for kind, row in rows if _ours(row) and c.name(row) not in used))


# Kinds of which an object of ours may go when the settings do not ask for it any more. Not what holds data (StatefulSet) or rights.
REMOVABLE = ("Deployment", "DaemonSet", "Service", "PodDisruptionBudget", "NetworkPolicy", "Ingress", "HTTPRoute", "Certificate", "HorizontalPodAutoscaler",
             "PodMonitor", "ServiceMonitor")


def obsolete(existing: t.Iterable[tuple[str, Row]], objects: t.Iterable[Row]) -> tuple[str, ...]:
    """"Kind/name" of what is there and not wanted. existing: (kind, object) of those that carry our label; generations are not judged here."""
    wanted = {(o["kind"], c.name(o)) for o in objects}
    return tuple(sorted(f"{kind}/{c.name(row)}" for kind, row in existing if (kind, c.name(row)) not in wanted and not c.slot_of(row)))


def _ours(row: Row) -> bool:
    """Only what has its content or its generation in its name; others may have put their own Secrets beside ours."""
    return bool(re.search("-[0-9a-f]{12}$", c.name(row))) and c.labels(row).get("app.kubernetes.io/managed-by") == MANAGER
