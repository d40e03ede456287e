# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cluster says about itself, as plain mappings of its API: nodes, pods, Deployments, and questions about them. Pure.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import datetime
import typing as t

from .objects import COMPONENT, GENERATION, SLOT, Object
from .settings import Settings

Row = t.Mapping[str, t.Any]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """nodes and pods: of the whole cluster; deployments, replicasets, secrets, config_maps: ours. Secrets need no data. None: not asked.

    apis: {"apps/v1": ["Deployment", ...]}; version: "1.34"; storage_classes: {name: whether it is the default}.
    """

    nodes: t.Sequence[Row] = ()
    pods: t.Sequence[Row] = ()
    deployments: t.Sequence[Row] = ()
    replicasets: t.Sequence[Row] = ()
    secrets: t.Sequence[Row] = ()
    config_maps: t.Sequence[Row] = ()
    apis: t.Mapping[str, t.Collection[str]] | None = None
    version: str = ""
    storage_classes: t.Mapping[str, bool] | None = None

    def media_nodes(self, settings: Settings) -> list[Row]:
        """Nodes that the pods' nodeSelector and tolerations let in, cordoned ones and those that are not ready included, by name."""
        wanted = {key: str(value) for key, value in settings.node_selector.items()}
        fits = [n for n in self.nodes if wanted.items() <= labels(n).items() and all(tolerated(taint, settings.tolerations) for taint in hard_taints(n))]
        return sorted(fits, key=name)

    def servers(self, namespace: str) -> list[Row]:
        """Pods of nodes of ours, by name."""
        ours = (p for p in self.pods if p["metadata"].get("namespace", namespace) == namespace and labels(p).get(COMPONENT) == "server" and slot_of(p))
        return sorted(ours, key=name)

    def generations(self, namespace: str) -> list[Row]:
        """Deployments of nodes of ours, by slot and name. One that is being deleted is as good as gone; its pods count for themselves."""
        ours = (d for d in self.deployments if d["metadata"].get("namespace", namespace) == namespace and labels(d).get(COMPONENT) == "server" and slot_of(d)
                and not d["metadata"].get("deletionTimestamp"))
        return sorted(ours, key=lambda d: (slot_of(d), name(d)))


def name(row: Row) -> str:
    return str(row["metadata"]["name"])


def labels(row: Row) -> dict[str, str]:
    return dict(row["metadata"].get("labels") or {})


def notes(row: Row) -> dict[str, str]:
    return dict(row["metadata"].get("annotations") or {})


def slot_of(row: Row) -> int:
    """0 where it is in none."""
    number = labels(row).get(SLOT, "")
    return int(number) if number.isdigit() else 0


def generation_of(row: Row) -> str:
    return labels(row).get(GENERATION, "")


def owner(row: Row, kind: str) -> str:
    """Name of the object of this kind that made it, "" for none."""
    return next((o["name"] for o in row["metadata"].get("ownerReferences") or () if o.get("kind") == kind), "")


def moment(stamp: str | None) -> float | None:
    """Unix seconds of "2026-01-02T03:04:05Z"."""
    return datetime.datetime.fromisoformat(str(stamp).replace("Z", "+00:00")).timestamp() if stamp else None


def condition(row: Row, kind: str) -> bool:
    return any(c.get("type") == kind and c.get("status") == "True" for c in (row.get("status") or {}).get("conditions") or ())


def ready(row: Row) -> bool:
    return condition(row, "Ready")


def schedulable(node: Row) -> bool:
    return ready(node) and not (node.get("spec") or {}).get("unschedulable")


def address(node: Row, kind: str = "InternalIP") -> str:
    return next((str(a["address"]) for a in (node.get("status") or {}).get("addresses") or () if a.get("type") == kind), "")


def hard_taints(node: Row) -> list[Object]:
    """Those of the operator that keep pods away. What Kubernetes adds by itself to a node in trouble passes, and says nothing of where pods belong."""
    found = (node.get("spec") or {}).get("taints") or ()
    return [taint for taint in found if taint.get("effect") in ("NoSchedule", "NoExecute") and not str(taint.get("key")).startswith("node.kubernetes.io/")]


def tolerated(taint: Row, tolerations: t.Sequence[Row]) -> bool:
    def covers(one: Row) -> bool:
        if one.get("effect") not in (None, "", taint.get("effect")):
            return False
        if not one.get("key"):
            return one.get("operator") == "Exists"
        return one["key"] == taint.get("key") and (one.get("operator") == "Exists" or str(one.get("value", "")) == str(taint.get("value", "")))
    return any(covers(one) for one in tolerations)


def host_ports(pod: Row) -> list[tuple[str, int]]:
    """(tcp or udp, port) that the pod takes on its node."""
    spec = pod.get("spec") or {}
    found = []
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        for port in container.get("ports") or ():
            number = port.get("hostPort") or (port.get("containerPort") if spec.get("hostNetwork") else None)
            if number:
                found.append((str(port.get("protocol") or "TCP").lower(), int(number)))
    return found


def over(pod: Row) -> bool:
    """Whether its containers have ended for good: it holds no ports."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
