# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A generation in a slot: one immutable Secret and one Deployment, neither of them ever edited. A change is a new pair in a free slot.

Ports. Every port that a node binds at its start by number is listed, as hostPort: with hostNetwork the scheduler then never puts two
pods of a slot on one node, one that still drains included; the new one stays Pending until the old one has ended. Of the UDP ranges
only the first port is listed. It stands for all of them, as ranges follow from the slot too; a hundred entries more per pod would tell
the scheduler nothing new and be carried in every update of every pod. That foreign pods keep out of the whole range is checked by checks.py.

Probes. Whether a node may have callers is settled at its start (GET / gives 200: it is in the registry) and by its gate (the label
`serving`). From then on readiness only asks whether its port listens. GET / answers 406 on every node as soon as Redis is away, though all
calls go on; if that made pods unready, a Service would lose all its endpoints, and load balancers that cut connections to unready
backends would end calls. There is no liveness probe: the kubelet must never kill a node that holds calls. The controller takes out what
is really dead.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import typing as t

from ... import config, rollback
from ...generation import digest
from ...slots import Layout, Ports
from .. import init
from . import redis as own_redis
from .objects import (GATE, GENERATION, ROLLED_BACK, SERVING, SLOT, VERSION, Object, as_json, container_security, from_field, make, pod_security,
                      secret, selector, without_empty)
from .settings import Settings

COMPONENT = "server"
DIRECTORY = "/etc/livekit"
KEPT_APART = ("model.json", "generation.json")  # in the Secret, but not in the container: a node does not need them
PRIORITY_CLASS = "livekit-media"
ACCOUNT = "livekit-server"


@dataclasses.dataclass(frozen=True)
class Material:
    """What a generation is made from. variables: the livekit_* mapping to keep for a rollback."""

    model: config.Model
    settings: Settings
    layout: Layout
    variables: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict, repr=False)
    served_at: float | None = None
    rolled_back: bool = False

    @property
    def shared(self) -> config.Model:
        """The model as all nodes of the cluster share it: a pod learns its own address from Kubernetes."""
        return shared(self.model, self.settings)


def shared(model: config.Model, settings: Settings) -> config.Model:
    redis = model.redis if settings.redis.mode == "external" else own_redis.section(settings)
    return dataclasses.replace(model, address="", node_ip="", redis=redis, controllers=settings.controller.replicas > 0)


def configuration(made: Material, slot: int) -> dict[str, t.Any]:
    return config.render(made.shared, made.layout.ports(slot), f"{DIRECTORY}/keys.yaml", directory=DIRECTORY, peers=made.settings.node_cidrs)


def generation_name(made: Material) -> str:
    """As native, over everything a node reads at its start; and over its pod, as a Deployment is never edited. Slot 1 stands for all."""
    return digest({"version": made.model.version, "keys": made.model.keys, "files": config.extra_files(made.model), "config": configuration(made, 1),
                   "pod": pod_spec(made, 1, "")})


def files(made: Material, slot: int, generation: str) -> dict[str, str]:
    texts = {"config.yaml": config.to_yaml(configuration(made, slot)), "keys.yaml": config.to_yaml(made.model.keys), **config.extra_files(made.model)}
    meta = {"generation": generation, "version": made.model.version, "slot": slot}
    return {**texts, "generation.json": as_json(meta),
            "model.json": rollback.record(made.variables, made.served_at, made.rolled_back)}


def name_of(slot: int, generation: str) -> str:
    return f"livekit-s{slot}-{generation}"


def desired(made: Material, slot: int, generation: str | None = None, serving: bool = False, replicas: int | None = None) -> list[Object]:
    """[Secret, Deployment] of the generation in this slot.

    serving: whether its pods get callers without a gate of ours (GitOps: the startup probe is the gate there). replicas: as many as the
    generation before it has; else those of the settings.
    """
    name = generation or generation_name(made)
    own = {SLOT: str(slot), GENERATION: name, VERSION: made.model.version}
    namespace, kept = made.settings.namespace, files(made, slot, name)
    notes = {ROLLED_BACK: "true"} if made.rolled_back else None
    return [secret(name_of(slot, name), namespace, COMPONENT, kept, own, notes), _deployment(made, slot, name, own, serving, replicas)]


def _deployment(made: Material, slot: int, generation: str, own: dict[str, str], serving: bool, replicas: int | None) -> Object:
    found = {SLOT: str(slot), GENERATION: generation}
    pods = {**selector(COMPONENT), **own, **({SERVING: "true"} if serving else {})}
    wanted = replicas if replicas is not None else made.settings.autoscaling.min if made.settings.autoscaled else made.settings.replicas
    notes = {**({GATE: generation} if serving else {}), **({ROLLED_BACK: "true"} if made.rolled_back else {})}
    return make(
        "Deployment", name_of(slot, generation), made.settings.namespace, COMPONENT, {**own, "app.kubernetes.io/version": made.model.version}, notes,
        spec={
            "replicas": wanted,
            "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": made.settings.startup_seconds + 60,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {**selector(COMPONENT), **found}},
            "template": {"metadata": {"labels": pods, "annotations": KEEP}, "spec": pod_spec(made, slot, generation)},
        })


# Node autoscalers must not make room by ending a pod on terms of their own (ten minutes of grace, then a kill).
KEEP = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}


def pod_spec(made: Material, slot: int, generation: str) -> Object:
    settings = made.settings
    mounted = sorted(name for name in files(made, slot, generation) if name not in KEPT_APART)
    return without_empty({
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        # A Service called livekit would become LIVEKIT_PORT in the environment, which livekit-server takes for its setting `port`.
        "enableServiceLinks": False,
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "priorityClassName": PRIORITY_CLASS if settings.priority else None,
        "terminationGracePeriodSeconds": settings.grace,
        "nodeSelector": dict(settings.node_selector),
        "tolerations": list(settings.tolerations),
        "imagePullSecrets": [{"name": name} for name in settings.pull_secrets],
        # One pod per node follows from the host ports; this spreads them over zones.
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway",
                                       "labelSelector": {"matchLabels": selector(COMPONENT, **{GENERATION: generation})}}],
        "securityContext": pod_security(settings.user),
        "containers": [_container(made, slot)],
        # 0440: LiveKit refuses a key file that others can read.
        "volumes": [{"name": "config", "secret": {"secretName": name_of(slot, generation), "defaultMode": 0o440,
                                                  "items": [{"key": name, "path": name} for name in mounted]}}],
    })


def _container(made: Material, slot: int) -> Object:
    ports, settings = made.layout.ports(slot), made.settings
    return without_empty({
        "name": "livekit",
        "image": settings.images.server.replace("{version}", made.model.version),
        "imagePullPolicy": settings.pull_policy,
        "command": init.command("--config", f"{DIRECTORY}/config.yaml"),
        "env": [] if made.model.use_external_ip else [from_field("NODE_IP", "status.hostIP")],
        "ports": container_ports(made.model, ports),
        "startupProbe": {"httpGet": {"path": "/", "port": "signal"}, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": settings.startup_seconds},
        "readinessProbe": {"tcpSocket": {"port": "signal"}, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 3},
        "resources": dict(settings.resources.server),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "config", "mountPath": DIRECTORY, "readOnly": True}],
    })


def container_ports(model: config.Model, ports: Ports) -> list[Object]:
    """The list of the container, hostPort = containerPort. Their names are the same in every slot, so that Services find them."""
    listed = [("signal", ports.signal, "TCP"), ("ice-tcp", ports.ice_tcp, "TCP"), ("metrics", ports.metrics, "TCP"), ("ice-udp", ports.udp[0], "UDP")]
    if model.turn.get("enabled"):
        listed += [("turn-udp", ports.turn_udp, "UDP")] if model.turn.get("udp_port") != 0 else []
        listed += [("turn-tls", ports.turn_tls, "TCP")] if model.turn.get("tls_port") != 0 else []
        listed += [("turn-relay", ports.turn_relay[0], "UDP")]
    return [{"name": name, "containerPort": port, "hostPort": port, "protocol": protocol} for name, port, protocol in listed]
