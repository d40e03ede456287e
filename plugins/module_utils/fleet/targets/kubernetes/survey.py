# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of a deployment in a cluster: machines with their executors, slots with their pods, what is not up yet, and what there is to go back to.

Pure: a look at the cluster in, plain mappings out.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import collections
import dataclasses
import typing as t

from ... import rollback
from ...errors import FleetError
from ...generation import Slot
from . import cluster as c
from . import plan
from .cluster import Cluster, Row
from .objects import COMPONENT, DRAINED, ROLLED_BACK, SERVED_AT, SERVING, VERSION, Object
from .server import name_of
from .settings import PREFIX, Settings

# What waiting longer does not mend.
HOPELESS = ("ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError")
# Of a generation that is run again these stay as they are now: where it runs and how often.
PRESENT = ("namespace", "create_namespace", "replicas", "autoscaling")


def machines(found: Cluster, settings: Settings) -> list[Object]:
    """[{name, address, executor, cordoned, drained, ready, nodes}], by name: every machine for media, and others that have a pod of ours.

    executor: the pod that stands there, "" for none; drained: it is cordoned because of us; nodes: how many LiveKit nodes run there, those included that drain.
    """
    executors = {c.name(p): p["spec"].get("nodeName") for p in _component(found, settings, "executor") if c.ready(p)}
    running = collections.Counter(p["spec"].get("nodeName") for p in found.servers(settings.namespace) if not c.over(p))
    names = {c.name(n) for n in found.media_nodes(settings)} | {n for n in running if n}
    return [{"name": c.name(n), "address": c.address(n), "executor": next((pod for pod, on in executors.items() if on == c.name(n)), ""),
             "cordoned": bool((n.get("spec") or {}).get("unschedulable")), "drained": c.notes(n).get(DRAINED) == "true",
             "ready": c.ready(n), "nodes": running[c.name(n)]}
            for n in sorted(found.nodes, key=c.name) if c.name(n) in names]


def balancers(found: Cluster, settings: Settings) -> list[Object]:
    """[{name, address}] of the HAProxy pods that take connections."""
    return [{"name": c.name(p), "address": str(p["status"].get("podIP") or "")} for p in _component(found, settings, "haproxy") if c.ready(p)]


def _component(found: Cluster, settings: Settings, component: str) -> list[Row]:
    """Pods that stay, by name."""
    return sorted((p for p in found.pods if c.labels(p).get(COMPONENT) == component and p["metadata"].get("namespace") == settings.namespace
                   and not p["metadata"].get("deletionTimestamp") and not c.over(p)), key=c.name)


def slots(found: Cluster, settings: Settings, count: int) -> list[Object]:
    """The slots of the cluster: the fields of Slot, and label, name (of Deployment and Secret), replicas, ready, pods [{name, machine, state, serving}]."""
    deployments = {c.name(d): d for d in found.generations(settings.namespace)}
    pods = collections.defaultdict(list)
    for pod in found.servers(settings.namespace):
        if not c.over(pod):
            pods[c.slot_of(pod)].append(pod)
    return [_slot(slot, deployments.get(name_of(slot.slot, slot.generation or "")), pods[slot.slot]) for slot in plan.slots(found, settings, count)]


def _slot(slot: Slot, deployment: Row | None, pods: t.Sequence[Row]) -> Object:
    of_it = [p for p in pods if c.generation_of(p) == slot.generation]
    staying = [p for p in of_it if not p["metadata"].get("deletionTimestamp")]
    return {**dataclasses.asdict(slot), "label": slot.label, "name": name_of(slot.slot, slot.generation) if slot.generation else "",
            "replicas": int((deployment.get("spec") or {}).get("replicas", 1)) if deployment else 0, "ready": sum(c.ready(p) for p in staying),
            "pods": [{"name": c.name(p), "machine": (p.get("spec") or {}).get("nodeName") or "", "state": plan.pod_state(p),
                      "serving": c.labels(p).get(SERVING) == "true"} for p in of_it]}


def trouble(found: Cluster, settings: Settings) -> dict[str, str]:
    """{pod: why it cannot come up} of those that waiting does not help."""
    told = {c.name(p): plan.trouble(p) for p in found.servers(settings.namespace) if not p["metadata"].get("deletionTimestamp")}
    return {name: why for name, why in told.items() if why.startswith(HOPELESS)}


def rolling(workloads: t.Iterable[tuple[str, Row]], ready_machines: int) -> list[str]:
    """What is not up yet of everything but the generations, in words. workloads: (kind, object); a machine that is down is not waited for."""
    out = []
    for kind, row in workloads:
        if c.slot_of(row) or row["metadata"].get("deletionTimestamp"):
            continue
        wanted, updated, ready = _counts(kind, row, ready_machines)
        seen = (row.get("status") or {}).get("observedGeneration", 0) >= row["metadata"].get("generation", 0)
        if not seen or min(updated, ready) < wanted:
            out.append(f"{kind}/{c.name(row)}: {min(updated, ready) if seen else 0} of {wanted}")
    return sorted(out)


def _counts(kind: str, row: Row, ready_machines: int) -> tuple[int, int, int]:
    """(wanted, updated, ready)."""
    status, spec = row.get("status") or {}, row.get("spec") or {}
    if kind == "DaemonSet":
        return (min(status.get("desiredNumberScheduled", 0), ready_machines), status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0))
    wanted, ready = int(spec.get("replicas", 1)), int(status.get("readyReplicas") or 0)
    if kind == "StatefulSet":  # its pods are replaced one by one, the data stays
        return wanted, wanted, ready
    return wanted, int(status.get("updatedReplicas") or 0), ready


# --- going back -------------------------------------------------------------------------------------------------------

def generations(found: Cluster, settings: Settings, count: int) -> list[Slot]:
    """Every generation of which the Secret is there, running or not, each in the slot that it was made for."""
    running = {(s.slot, s.generation): s for s in plan.slots(found, settings, count)}
    out = []
    for row in (s for s in found.secrets if c.slot_of(s)):
        now = running.get((c.slot_of(row), c.generation_of(row)))
        stamp = c.notes(row).get(SERVED_AT)
        out.append(Slot(c.slot_of(row), state=now.state if now else "inactive", generation=c.generation_of(row), version=c.labels(row).get(VERSION),
                        served_at=float(stamp) if stamp else None, rolled_back=c.notes(row).get(ROLLED_BACK) == "true"))
    return out


def previous(found: Cluster, settings: Settings, count: int) -> tuple[Slot | None, str]:
    """(the generation to go back to, None where nothing is to be done; why). Raises FleetError no_previous_generation."""
    known = generations(found, settings, count)
    now = rollback.latest(known)
    if now and now.rolled_back and now.running:
        return None, rollback.reason("previous", now, now)
    taken = rollback.previous(known)
    if not now or not taken:
        raise FleetError("go back to an earlier generation", f"namespace {settings.namespace}", "no other passed its gates here",
                         "Set the inventory to what is to run and run openrtc.livekit.upgrade", code="no_previous_generation")
    return taken, rollback.reason("previous", now, taken)


def split(variables: t.Mapping[str, t.Any], present: t.Mapping[str, t.Any]) -> tuple[dict[str, t.Any], dict[str, t.Any]]:
    """(model, settings) from the variables that a generation was made from; present: the settings of today, of which those in PRESENT count."""
    model = {name: value for name, value in variables.items() if not name.startswith(PREFIX)}
    kept = {name.removeprefix(PREFIX): value for name, value in variables.items() if name.startswith(PREFIX)}
    today = {str(name).removeprefix(PREFIX): value for name, value in present.items()}
    return model, {**today, **{name: value for name, value in kept.items() if name not in PRESENT}}


def kept(model: t.Mapping[str, t.Any], settings: Settings) -> dict[str, t.Any]:
    """The variables of a generation as they are kept with it: what split() takes apart again."""
    return {**model, **{PREFIX + name: value for name, value in dataclasses.asdict(settings).items()}}
