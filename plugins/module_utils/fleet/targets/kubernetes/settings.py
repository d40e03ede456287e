# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The livekit_kubernetes_* variables, checked: what the shared livekit_* model does not say because only Kubernetes needs it.

Every group is a dataclass whose defaults are the role's; unknown names and wrong types are refused with advice.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import difflib
import re
import typing as t

from ... import drain
from ...config import TYPE_NAMES, kind_of, plain
from ...errors import FleetError, Problem, raise_for

PREFIX = "livekit_kubernetes_"
MOVE_MARGIN = 120  # seconds between the drain deadline and the kubelet's kill: what is left is moved in them, twice if need be
FOREVER = 7 * 86400  # seconds, where a drain has no deadline; a pod's grace has to be a number


def _group(**values: t.Any) -> t.Any:
    return dataclasses.field(default_factory=lambda: dict(values))  # pylint: disable=invalid-field-call


def _list() -> t.Any:
    return dataclasses.field(default_factory=list)  # pylint: disable=invalid-field-call


@dataclasses.dataclass(frozen=True)
class Images:
    """{version} stands for livekit_version. A digest (name@sha256:...) does as well."""

    server: str = "livekit/livekit-server:v{version}"
    fleet: str = "openrtc/livekit-fleet:0.1.0"
    haproxy: str = "haproxy:3.0"
    redis: str = "redis:7.4"


@dataclasses.dataclass(frozen=True)
class Resources:
    """requests and limits of each container. No CPU limits: throttled media is lost media."""

    server: dict[str, t.Any] = _group(requests={"cpu": "1", "memory": "1Gi"})
    executor: dict[str, t.Any] = _group(requests={"cpu": "50m", "memory": "64Mi"}, limits={"memory": "512Mi"})  # modules of playbooks run beside it
    controller: dict[str, t.Any] = _group(requests={"cpu": "50m", "memory": "96Mi"}, limits={"memory": "512Mi"})
    haproxy: dict[str, t.Any] = _group(requests={"cpu": "250m", "memory": "256Mi"})
    redis: dict[str, t.Any] = _group(requests={"cpu": "100m", "memory": "128Mi"})


@dataclasses.dataclass(frozen=True)
class Entry:
    """How callers get in from outside. type: LoadBalancer, NodePort, ClusterIP or none; cloud: aws, gcp, azure, digitalocean, hetzner or ""."""

    type: str = "LoadBalancer"
    port: int = 443
    node_port: int = 0
    cloud: str = ""
    annotations: dict[str, t.Any] = _group()
    source_ranges: list[t.Any] = _list()
    load_balancer_class: str = ""


@dataclasses.dataclass(frozen=True)
class Turn(Entry):
    """A Service for TURN/TLS of its own. With HAProxy it is not needed: TURN/TLS shares 443 with signalling there."""

    type: str = "none"


@dataclasses.dataclass(frozen=True)
class Ingress:
    """An Ingress for signalling; enabled by its class and host."""

    class_name: str = ""
    host: str = ""
    annotations: dict[str, t.Any] = _group()


@dataclasses.dataclass(frozen=True)
class Gateway:
    """An HTTPRoute for signalling; enabled by the name of the Gateway it hangs on."""

    name: str = ""
    namespace: str = ""
    section: str = ""
    host: str = ""


@dataclasses.dataclass(frozen=True)
class Tls:
    """The certificate of the public name: a Secret of type kubernetes.io/tls, made by cert-manager where an issuer is named."""

    secret: str = ""
    issuer: str = ""
    issuer_kind: str = "ClusterIssuer"
    names: list[t.Any] = _list()


@dataclasses.dataclass(frozen=True)
class Balancer:
    """kind: haproxy, or none where Services send callers straight to the nodes."""

    kind: str = "haproxy"
    replicas: int = 2
    host_network: bool = False
    node_selector: dict[str, t.Any] = _group()


@dataclasses.dataclass(frozen=True)
class Controller:
    """replicas: 0 for none."""

    replicas: int = 2
    host_network: bool = False


@dataclasses.dataclass(frozen=True)
class Redis:
    """mode: external (livekit_redis says where), standalone (one pod) or sentinel (three, with failover)."""

    mode: str = "external"
    password: str = dataclasses.field(default="", repr=False)
    storage_class: str = ""  # "": the cluster's default
    size: str = "2Gi"
    maxmemory: str = "0"


@dataclasses.dataclass(frozen=True)
class Autoscaling:
    """max: 0 switches it off. Targets per node, 0 for none: cpu in percent of the request, the others as LiveKit counts them."""

    min: int = 2
    max: int = 0
    cpu: int = 60
    participants: int = 0
    rooms: int = 0
    tracks: int = 0
    bytes_per_second: int = 0
    scale_up_seconds: int = 30
    scale_down_seconds: int = 600
    adapter: bool = False  # write the rules of prometheus-adapter as a ConfigMap


@dataclasses.dataclass(frozen=True)
class Monitoring:
    """kind: pod (PodMonitor of the nodes, ServiceMonitor of the controllers) or none; labels: what your Prometheus selects."""

    kind: str = "none"
    labels: dict[str, t.Any] = _group()
    interval: str = "15s"


@dataclasses.dataclass(frozen=True)
class Settings:
    namespace: str = "livekit"
    create_namespace: bool = True
    replicas: int = 2
    node_selector: dict[str, t.Any] = _group()
    tolerations: list[t.Any] = _list()
    node_cidrs: list[t.Any] = _list()
    images: Images = Images()
    pull_policy: str = "IfNotPresent"
    pull_secrets: list[t.Any] = _list()
    resources: Resources = Resources()
    user: int = 65532
    priority: int = 1000000
    drain_deadline: str = "1h"
    startup_seconds: int = 60
    signalling: Entry = Entry()
    turn: Turn = Turn()
    ingress: Ingress = Ingress()
    gateway: Gateway = Gateway()
    tls: Tls = Tls()
    balancer: Balancer = Balancer()
    controller: Controller = Controller()
    executor: bool = True
    redis: Redis = Redis()
    autoscaling: Autoscaling = Autoscaling()
    network_policies: bool = True
    tuning: bool = False
    monitoring: Monitoring = Monitoring()

    @classmethod
    def from_vars(cls, values: t.Mapping[str, t.Any]) -> Settings:
        """From {livekit_kubernetes_namespace: ..., ...}, or the same names without the prefix; FleetError lists everything that is wrong."""
        given = {str(name).removeprefix(PREFIX): value for name, value in plain(values).items()}
        wrong: list[Problem] = []
        found = t.cast(Settings, load(cls, given, PREFIX.rstrip("_"), wrong, joint="_"))
        raise_for(wrong or _values(found), "the livekit_kubernetes_* variables")
        return found

    @property
    def grace(self) -> int:
        """terminationGracePeriodSeconds of a node: its drain deadline and the time a live move of the rest may take."""
        return int(drain.seconds(self.drain_deadline)) + MOVE_MARGIN if self.drain_deadline else FOREVER

    @property
    def balanced(self) -> bool:
        return self.balancer.kind == "haproxy"

    @property
    def autoscaled(self) -> bool:
        return self.autoscaling.max > 0


def load(kind: t.Any, values: t.Mapping[str, t.Any], where: str, wrong: list[Problem], joint: str = ".") -> t.Any:
    """A dataclass from a mapping; what does not fit is added to `wrong`, and the default stands in for it."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    taken: dict[str, t.Any] = {}
    for name, value in values.items():
        here = f"{where}{joint}{name}"
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            wrong.append(Problem("unknown_key", here, "there is no such setting", f"Did you mean {near[0]}?" if near else f"Known: {', '.join(fields)}"))
            continue
        default = _default(fields[name])
        if value is None:
            continue
        if dataclasses.is_dataclass(default):
            if isinstance(value, dict):
                taken[name] = load(type(default), value, here, wrong)
                continue
        else:
            fits, value = _as(type(default), value)
            if fits:
                taken[name] = value
                continue
        expected = "a mapping" if dataclasses.is_dataclass(default) else TYPE_NAMES.get(type(default), "a number")
        wrong.append(Problem("wrong_type", here, f"is {kind_of(value)}, and must be {expected}", "See the role kubernetes' README"))
    return kind(**taken)


def _default(field: t.Any) -> t.Any:
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


def _as(kind: type, value: t.Any) -> tuple[bool, t.Any]:
    """(whether it fits, the value as that type). From the command line everything comes as a string."""
    if kind is bool and str(value).lower() in ("true", "yes", "false", "no"):
        return True, str(value).lower() in ("true", "yes")
    if kind is int and not isinstance(value, bool) and re.fullmatch(r"-?\d+", str(value)):
        return True, int(value)
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return True, str(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool)), value


_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
CLOUDS = ("aws", "gcp", "azure", "digitalocean", "hetzner")
ENTRY_TYPES = ("LoadBalancer", "NodePort", "ClusterIP", "none")


def _values(found: Settings) -> list[Problem]:
    """Values that no cluster would take."""
    wrong = []

    def choice(where: str, value: str, known: t.Sequence[str]) -> None:
        if value not in known:
            near = difflib.get_close_matches(value, known, 1)
            listed = ", ".join(word or '""' for word in known)
            advice = (f"Did you mean {near[0]}? " if near else "") + f"Possible: {listed}"
            wrong.append(Problem("bad_value", f"{PREFIX}{where}", f'cannot be "{value}"', advice))

    def least(where: str, value: int, minimum: int) -> None:
        if value < minimum:
            wrong.append(Problem("bad_value", f"{PREFIX}{where}", f"is {value}, and must be {minimum} or more", "Raise it"))

    for where, entry in (("signalling", found.signalling), ("turn", found.turn)):
        choice(f"{where}.type", entry.type, ENTRY_TYPES)
        choice(f"{where}.cloud", entry.cloud, ("", *CLOUDS))
    choice("balancer.kind", found.balancer.kind, ("haproxy", "none"))
    choice("redis.mode", found.redis.mode, ("external", "standalone", "sentinel"))
    choice("monitoring.kind", found.monitoring.kind, ("pod", "none"))
    choice("pull_policy", found.pull_policy, ("IfNotPresent", "Always", "Never"))
    choice("tls.issuer_kind", found.tls.issuer_kind, ("ClusterIssuer", "Issuer"))
    least("replicas", found.replicas, 1)
    least("balancer.replicas", found.balancer.replicas, 1)
    least("controller.replicas", found.controller.replicas, 0)
    least("user", found.user, 1)
    least("startup_seconds", found.startup_seconds, 5)
    if not _NAME.fullmatch(found.namespace):
        wrong.append(Problem("bad_value", f"{PREFIX}namespace", f'"{found.namespace}" is no name of a namespace', "Lower case, digits and '-', 63 at most"))
    if found.autoscaled:
        least("autoscaling.min", found.autoscaling.min, 1)
        least("autoscaling.max", found.autoscaling.max, found.autoscaling.min)
    try:
        dummy = found.grace
    except FleetError as exc:
        wrong.append(Problem("bad_value", f"{PREFIX}drain_deadline", exc.failure["got"], "Write it like 30m or 4h; empty for no deadline"))
    return wrong
