# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubernetes objects as plain mappings: names, labels, and what all pods of ours have in common. Always the same text for the same input.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import base64
import json
import typing as t

from ...generation import digest

Object = t.Dict[str, t.Any]

MANAGER = "openrtc.livekit"  # field manager, and prefix of our own labels
COMPONENT = "app.kubernetes.io/component"
SLOT, GENERATION, VERSION = f"{MANAGER}/slot", f"{MANAGER}/generation", f"{MANAGER}/version"
# "true" on pods that callers may be sent to. Services select it, so a node gets callers only after its gate.
SERVING = f"{MANAGER}/serving"
GATE, SERVED_AT, ROLLED_BACK = f"{MANAGER}/gate", f"{MANAGER}/served-at", f"{MANAGER}/rolled-back"  # annotations of a generation
DRAINED = f"{MANAGER}/drained"  # "true" on a machine that the playbook drain has cordoned
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"  # kept by the controller: which pod goes first when there are to be fewer

APIS = {
    "Namespace": "v1", "Secret": "v1", "ConfigMap": "v1", "Service": "v1", "ServiceAccount": "v1", "PriorityClass": "scheduling.k8s.io/v1",
    "Deployment": "apps/v1", "DaemonSet": "apps/v1", "StatefulSet": "apps/v1", "PodDisruptionBudget": "policy/v1",
    "Role": "rbac.authorization.k8s.io/v1", "RoleBinding": "rbac.authorization.k8s.io/v1",
    "ClusterRole": "rbac.authorization.k8s.io/v1", "ClusterRoleBinding": "rbac.authorization.k8s.io/v1",
    "NetworkPolicy": "networking.k8s.io/v1", "Ingress": "networking.k8s.io/v1", "HTTPRoute": "gateway.networking.k8s.io/v1",
    "Certificate": "cert-manager.io/v1", "HorizontalPodAutoscaler": "autoscaling/v2",
    "PodMonitor": "monitoring.coreos.com/v1", "ServiceMonitor": "monitoring.coreos.com/v1",
}
CLUSTER_WIDE = ("Namespace", "PriorityClass", "ClusterRole", "ClusterRoleBinding")


def selector(component: str, **own: str) -> dict[str, str]:
    """Labels that pods of a component are found by."""
    return {"app.kubernetes.io/name": "livekit", COMPONENT: component, **own}


def labels(component: str, **own: str) -> dict[str, str]:
    return {**selector(component), "app.kubernetes.io/part-of": "livekit", "app.kubernetes.io/managed-by": MANAGER, **own}


def make(kind: str, name: str, namespace: str, component: str, own: t.Mapping[str, str] | None = None,
         annotations: t.Mapping[str, str] | None = None, **body: t.Any) -> Object:
    """One object; own: more labels; body: what it has beside metadata (spec, data, rules ...)."""
    metadata: Object = {"name": name}
    if kind not in CLUSTER_WIDE:
        metadata["namespace"] = namespace
    metadata["labels"] = {**labels(component), **(own or {})}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": APIS[kind], "kind": kind, "metadata": metadata, **body}


def secret(name: str, namespace: str, component: str, files: t.Mapping[str, str], own: t.Mapping[str, str] | None = None,
           annotations: t.Mapping[str, str] | None = None) -> Object:
    """An immutable Secret of {file name: text}."""
    data = {key: base64.b64encode(text.encode()).decode() for key, text in files.items()}
    return make("Secret", name, namespace, component, own, annotations, type="Opaque", immutable=True, data=data)


def hashed(name: str, files: t.Mapping[str, str]) -> str:
    """A name that changes with the content, so that pods which mount it are replaced when it does."""
    return f"{name}-{digest(files)}"


def as_json(value: t.Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def pod_security(user: int) -> Object:
    return {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user, "seccompProfile": {"type": "RuntimeDefault"}}


def container_security() -> Object:
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def from_field(name: str, path: str) -> Object:
    """An environment variable taken from the pod itself."""
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def identity(obj: t.Mapping[str, t.Any]) -> tuple[str, str, str]:
    """(kind, namespace or "", name)."""
    return obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def without_empty(values: t.Mapping[str, t.Any]) -> Object:
    """Without what is None, "", [] or {}: an API server would not give those back."""
    return {key: value for key, value in values.items() if value not in (None, "", [], {}, ())}
