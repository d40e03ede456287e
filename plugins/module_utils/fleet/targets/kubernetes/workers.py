# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Executor and controller in the cluster: the same programs as on hosts, from one image of ours.

The executor is a DaemonSet, one per media node: a node's executor reports the slots of its node and carries out orders for them. It reads
the pods of its node from the Kubernetes API; who it is, it learns from NODE_NAME and NODE_IP (in place of `host` and `address` of its settings).
It sees the processes of its node (hostPID) and runs as the user of the nodes: so it notices a crash at once, kills a node that has to go
without asking anybody, and needs no right to run commands in pods.
Controllers share the lease in Redis that native controllers use.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import typing as t

from ... import config
from ...slots import Layout
from .objects import Object, as_json, container_security, from_field, hashed, make, pod_security, secret, selector, without_empty
from .rights import CONTROLLER, EXECUTOR
from .server import shared
from .settings import Settings

PORT = 8405  # of the controller: page, metrics, webhooks
MEMORY = "/run/livekit-executor"
PAGE = "/usr/local/lib/livekit/page"


def identity_env() -> list[Object]:
    return [from_field("NODE_NAME", "spec.nodeName"), from_field("NODE_IP", "status.hostIP"), from_field("POD_NAME", "metadata.name"),
            from_field("POD_IP", "status.podIP")]


def executor_settings(model: config.Model, settings: Settings, layout: Layout) -> dict[str, t.Any]:
    """executor.json. keys: with which calls can be ended by name; a host's executor reads them from its slots."""
    return {"target": "kubernetes", "namespace": settings.namespace, "host": "", "address": "", "redis": shared(model, settings).redis,
            "keys": model.keys, "layout": dataclasses.asdict(layout), "balancer": "", "memory": f"{MEMORY}/nodes.json"}


def executor(model: config.Model, settings: Settings, layout: Layout) -> list[Object]:
    """[Secret, DaemonSet]."""
    if not settings.executor:
        return []
    kept = {"executor.json": as_json(executor_settings(model, settings, layout))}
    name, namespace = hashed(EXECUTOR, kept), settings.namespace
    container = program(settings, "executor", settings.resources.executor, env=identity_env(), memory=True)
    pod = without_empty({**_pod(settings, EXECUTOR, name, [container], memory=True), "hostNetwork": True, "hostPID": True,
                         "dnsPolicy": "ClusterFirstWithHostNet", "nodeSelector": dict(settings.node_selector), "tolerations": list(settings.tolerations)})
    if not settings.balanced:  # there it closes sockets of the nodes itself, for which the kernel wants root with this capability; KILL is for the nodes
        pod["securityContext"] = {"runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"}}
        container["securityContext"]["capabilities"]["add"] = ["KILL", "NET_ADMIN"]
    return [
        secret(name, namespace, "executor", kept),
        make("DaemonSet", EXECUTOR, namespace, "executor", spec={
            "selector": {"matchLabels": selector("executor")},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "30%"}},  # it may be replaced at any time; no node notices
            "template": {"metadata": {"labels": selector("executor")}, "spec": pod},
        }),
    ]


def controller_settings(model: config.Model, settings: Settings, own: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """controller.json. own: what the role controller sets of it (user, password_sha256, recover, dry_run ...)."""
    return {**own, "redis": shared(model, settings).redis, "keys": model.keys, "bind": ["0.0.0.0"], "port": PORT, "page": PAGE,
            "namespace": settings.namespace}


def controller(model: config.Model, settings: Settings, own: t.Mapping[str, t.Any] | None = None) -> list[Object]:
    """[Secret, Service, PodDisruptionBudget, Deployment]."""
    if not settings.controller.replicas:
        return []
    kept = {"controller.json": as_json(controller_settings(model, settings, own or {}))}
    name, namespace = hashed(CONTROLLER, kept), settings.namespace
    container = program(settings, "controller", settings.resources.controller, env=identity_env())
    probe = {"httpGet": {"path": "/healthz", "port": "http"}, "timeoutSeconds": 3}
    container["ports"] = [{"name": "http", "containerPort": PORT, "protocol": "TCP"}]
    container["readinessProbe"] = {**probe, "periodSeconds": 2, "failureThreshold": 2}
    container["livenessProbe"] = {**probe, "periodSeconds": 10, "failureThreshold": 6}
    pod = {**_pod(settings, CONTROLLER, name, [container]), **apart("controller")}
    if settings.controller.host_network:
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    return [
        secret(name, namespace, "controller", kept),
        make("Service", CONTROLLER, namespace, "controller", spec={
            "type": "ClusterIP", "selector": selector("controller"), "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]}),
        make("PodDisruptionBudget", CONTROLLER, namespace, "controller", spec={"selector": {"matchLabels": selector("controller")}, "maxUnavailable": 1}),
        make("Deployment", CONTROLLER, namespace, "controller", spec={
            "replicas": settings.controller.replicas,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "selector": {"matchLabels": selector("controller")},
            "template": {"metadata": {"labels": selector("controller")}, "spec": pod},
        }),
    ]


def apart(component: str) -> Object:
    """Replicas on different nodes, where there are that many."""
    term = {"labelSelector": {"matchLabels": selector(component)}, "topologyKey": "kubernetes.io/hostname"}
    return {"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}}}


def program(settings: Settings, name: str, resources: t.Mapping[str, t.Any], env: t.Sequence[Object] = (), memory: bool = False) -> Object:
    """A container that runs one of our programs with /etc/livekit/NAME.json."""
    mounts = [{"name": f"{name}-config", "mountPath": "/etc/livekit", "readOnly": True}, {"name": f"{name}-tmp", "mountPath": "/tmp"}]
    return {
        "name": name,
        "image": settings.images.fleet,
        "imagePullPolicy": settings.pull_policy,
        "command": ["python3", "-m", f"fleet.{name}", "--config", f"/etc/livekit/{name}.json"],
        "env": list(env),
        "resources": dict(resources),
        "securityContext": container_security(),
        "volumeMounts": mounts + ([{"name": f"{name}-memory", "mountPath": MEMORY}] if memory else []),
    }


def volumes(name: str, kept: str, memory: bool = False) -> list[Object]:
    """What program() mounts; kept: the Secret with its settings."""
    found: list[Object] = [{"name": f"{name}-config", "secret": {"secretName": kept, "defaultMode": 0o440}},
                           {"name": f"{name}-tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}]  # modules of playbooks run there
    return found + ([{"name": f"{name}-memory", "emptyDir": {"sizeLimit": "16Mi"}}] if memory else [])


def _pod(settings: Settings, account: str, kept: str, containers: list[Object], memory: bool = False) -> Object:
    return without_empty({
        "serviceAccountName": account,
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 15,
        "imagePullSecrets": [{"name": name} for name in settings.pull_secrets],
        "securityContext": pod_security(settings.user),
        "containers": containers,
        "volumes": volumes(containers[0]["name"], kept, memory),
    })
