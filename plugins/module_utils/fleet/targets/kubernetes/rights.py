# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may do what: namespace, accounts with the least rights they can work with, priority, disruption budget.

The nodes themselves get an account without any right. Only the executor and the controller talk to the API; beyond the namespace they may
read nodes, and nothing else.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from .objects import SERVING, Object, make, selector
from .server import ACCOUNT, COMPONENT, PRIORITY_CLASS
from .settings import Settings

EXECUTOR, CONTROLLER = "livekit-executor", "livekit-controller"


def _rule(group: str, resources: list[str], *verbs: str) -> Object:
    return {"apiGroups": [group], "resources": resources, "verbs": list(verbs)}


# Draining is deleting a pod, fencing is killing the node in it. A drain of a node that must not come back scales its Deployment; one that has
# left for good is deleted. Labels and deletion costs of pods are patched.
EXECUTOR_RULES = (
    _rule("", ["pods"], "get", "list", "watch", "patch", "delete"),
    _rule("", ["pods/log"], "get"),
    _rule("apps", ["deployments"], "get", "list", "watch"),
)
CONTROLLER_RULES = (
    _rule("", ["pods"], "get", "list", "watch", "patch"),
    _rule("apps", ["deployments"], "get", "list", "watch"),
)
NODE_RULES = (_rule("", ["nodes"], "get", "list"),)


def objects(settings: Settings) -> list[Object]:
    """Namespace, PriorityClass, accounts and roles, the nodes' PodDisruptionBudget."""
    found = [*namespace(settings), *_priority(settings), make("ServiceAccount", ACCOUNT, settings.namespace, COMPONENT, automountServiceAccountToken=False)]
    if settings.executor:
        found += _account(settings, EXECUTOR, "executor", EXECUTOR_RULES)
    if settings.controller.replicas:
        found += _account(settings, CONTROLLER, "controller", CONTROLLER_RULES)
    # One node at a time leaves by eviction, counted until its successor is ready. An unready pod holds no calls that eviction could harm.
    budget = {"selector": {"matchLabels": selector(COMPONENT, **{SERVING: "true"})}, "maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow"}
    return [*found, make("PodDisruptionBudget", "livekit-server", settings.namespace, COMPONENT, spec=budget)]


def namespace(settings: Settings) -> list[Object]:
    """hostNetwork is beyond what the level `baseline` allows, so it is `privileged` that is enforced; our pods meet all the rest of `restricted`."""
    if not settings.create_namespace:
        return []
    level = "pod-security.kubernetes.io"
    return [make("Namespace", settings.namespace, "", "namespace", {f"{level}/enforce": "privileged", f"{level}/audit": "privileged",
                                                                    f"{level}/warn": "privileged"})]


def _priority(settings: Settings) -> list[Object]:
    if not settings.priority:
        return []
    return [make("PriorityClass", PRIORITY_CLASS, "", "namespace", value=settings.priority, globalDefault=False, preemptionPolicy="PreemptLowerPriority",
                 description="LiveKit nodes: calls end when such a pod has to make room")]


def _account(settings: Settings, name: str, component: str, rules: t.Sequence[Object]) -> list[Object]:
    here, wide = settings.namespace, f"{settings.namespace}-{component}-nodes"
    subject = [{"kind": "ServiceAccount", "name": name, "namespace": here}]

    def bound(kind: str, to: str) -> Object:
        return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": to}

    return [
        make("ServiceAccount", name, here, component, automountServiceAccountToken=False),
        make("Role", name, here, component, rules=list(rules)),
        make("RoleBinding", name, here, component, roleRef=bound("Role", name), subjects=subject),
        make("ClusterRole", wide, "", component, rules=list(NODE_RULES)),
        make("ClusterRoleBinding", wide, "", component, roleRef=bound("ClusterRole", wide), subjects=subject),
    ]


def needed(objects_: t.Iterable[t.Mapping[str, t.Any]]) -> list[Object]:
    """SelfSubjectAccessReviews: what the account that deploys these objects needs to be allowed, each once."""
    asked: dict[tuple[str, str, str, str], None] = {}
    for obj in objects_:
        group = obj["apiVersion"].rpartition("/")[0]
        for verb in ("get", "create", "patch"):
            asked[(verb, group, plural(obj["kind"]), obj["metadata"].get("namespace", ""))] = None
    here = next((place for *dummy, place in asked if place), "")
    asked.update({("list", "", "nodes", ""): None, ("list", "", "pods", ""): None, ("patch", "", "pods", here): None})
    asked.update({("delete", group, plural, here): None for group, plural in (("apps", "deployments"), ("", "secrets"), ("", "configmaps"))})
    asked[("create", "", "pods/exec", here)] = None  # playbooks work in the pods of the executors
    asked.update({(verb, "coordination.k8s.io", "leases", here): None for verb in ("get", "create", "update", "delete")})  # lease.py
    return [review(verb, group, resource, place) for verb, group, resource, place in asked]


def review(verb: str, group: str, resource: str, place: str = "") -> Object:
    """The question whether one may do this. resource: in the plural, with a subresource behind a slash; place: a namespace, "" for the whole cluster."""
    name, dummy, part = resource.partition("/")
    asked = {"verb": verb, "group": group, "resource": name, **({"subresource": part} if part else {}), **({"namespace": place} if place else {})}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": asked}}


def plural(kind: str) -> str:
    word = kind.lower()
    return {"networkpolicy": "networkpolicies", "ingress": "ingresses", "priorityclass": "priorityclasses"}.get(word, f"{word}s")
