# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release of the official Helm chart: its values, and the objects that it made.

Pure. The live objects go before the values, as somebody may have changed them since: the ConfigMap holds LiveKit's configuration, a Secret
the keys, the Deployment image and scheduling, the HorizontalPodAutoscaler the size. Values alone do as well.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import base64
import binascii
import dataclasses
import gzip
import json
import re
import typing as t

from ..config import merge, plain
from ..errors import FleetError
from ..schema import VERSION
from . import livekit_config, paths, ports, process
from .found import Found

Mapping = t.Dict[str, t.Any]
# What the chart's own values say of LiveKit where a release says nothing.
CHART_LIVEKIT: Mapping = {"port": 7880, "log_level": "info",
                          "rtc": {"tcp_port": 7881, "port_range_start": 50000, "port_range_end": 60000, "use_external_ip": True}}
CHART_GRACE = 18000
HELM_ONLY = ("turn.secretName", "turn.serviceType", "turn.loadBalancerAnnotations")
CLOUDS = {"aws": "aws", "alb": "aws", "gke": "gcp", "gke-managed-cert": "gcp", "gke-vpc-native": "gcp", "gclb": "gcp", "do": "digitalocean"}
# Values that the collection settles itself -> why.
SETTLED = {
    "terminationGracePeriodSeconds": "it follows from livekit_kubernetes_drain_deadline; what is left then moves, nobody is cut off",
    "deploymentStrategy": "every generation is a Deployment of its own, started beside the one before",
    "podHostNetwork": "a slot always has the network of its machine",
    "gcp": "the role's Service for cloud gcp has its own timeouts; set livekit_kubernetes_signalling.annotations for a BackendConfig of yours",
    "podAnnotations": "service meshes are kept out already; others have no place",
    "deploymentAnnotations": "the role's objects have their own annotations",
    "podSecurityContext": "the role sets the strictest one that works; the user is livekit_kubernetes_user",
    "securityContext": "the role sets the strictest one that works; the user is livekit_kubernetes_user",
    "serviceAccount": "the role makes one with the least rights",
    "affinity": "nodes are spread over machines by themselves; choose machines with livekit_kubernetes_node_selector and _tolerations",
    "nameOverride": "objects are named by the role; the former release keeps its names",
    "fullnameOverride": "objects are named by the role; the former release keeps its names",
}


@dataclasses.dataclass
class Release:
    """values: as given, without the chart's own; objects: of the release's namespace, as the API tells them."""

    name: str
    namespace: str = "default"
    values: Mapping = dataclasses.field(default_factory=dict)
    objects: list[Mapping] = dataclasses.field(default_factory=list)
    app_version: str = ""  # of the chart
    load: t.Callable[[str], t.Any] = json.loads  # YAML's, on the control machine

    def __post_init__(self) -> None:
        stored = stored_release(self.objects, self.name)
        if stored:
            self.values = self.values or plain(stored.get("config") or {})
            self.app_version = self.app_version or str(((stored.get("chart") or {}).get("metadata") or {}).get("appVersion") or "")

    def find(self, kind: str, suffix: str = "") -> Mapping | None:
        """The release's object of a kind; suffix: how its name ends, beyond the release's own."""
        found = [o for o in self.objects if o.get("kind") == kind and _labels(o).get("app.kubernetes.io/instance", self.name) == self.name
                 and not str(o.get("type", "")).startswith("helm.sh/")]
        return next((o for o in found if str(_meta(o).get("name", "")).endswith(suffix)), None)


def _meta(item: Mapping) -> Mapping:
    return t.cast(Mapping, item.get("metadata") or {})


def _labels(item: Mapping) -> Mapping:
    return t.cast(Mapping, _meta(item).get("labels") or {})


def stored_release(objects: t.Iterable[Mapping], name: str) -> Mapping | None:
    """What Helm keeps of the newest revision of a release, from its Secrets; None where none is there. FleetError where it cannot be read."""
    kept = [o for o in objects if o.get("kind") == "Secret" and _labels(o).get("owner") == "helm" and _labels(o).get("name") == name]
    if not kept:
        return None
    newest = max(kept, key=lambda o: int(_labels(o).get("version", 0)))
    try:
        packed = base64.b64decode(base64.b64decode((newest.get("data") or {})["release"]))
        return t.cast(Mapping, json.loads(gzip.decompress(packed)))
    except (KeyError, ValueError, OSError, binascii.Error) as exc:
        raise FleetError("read what Helm keeps of the release", str(_meta(newest).get("name")), exc,
                         "Give the values instead: helm get values RELEASE -o yaml > values.yaml, and livekit_adopt_values", code="adopt_release") from exc


def configuration(release: Release) -> tuple[Mapping, str]:
    """(what its pods run with, where that stands)."""
    held = release.find("ConfigMap")
    text = ((held or {}).get("data") or {}).get("config.yaml")
    if text is None:
        config, where = merge(CHART_LIVEKIT, plain(release.values.get("livekit") or {})), "values: livekit"
    else:
        config, where = plain(release.load(text)), f"ConfigMap {_meta(t.cast(Mapping, held)).get('name')}"
    if not isinstance(config, dict):
        raise FleetError("read the configuration of LiveKit", where, "it is no mapping", "Correct the values of the release", code="adopt_config")
    env = [e for e in _container(release).get("env") or [] if "value" in e]
    skip = ("LIVEKIT_TURN_CERT", "LIVEKIT_TURN_KEY")  # paths of mounts that the chart made
    return process.effective(config, _container(release).get("args") or [], {e["name"]: str(e["value"]) for e in env if e["name"] not in skip}), where


def _container(release: Release) -> Mapping:
    pod = paths.get(release.find("Deployment") or {}, "spec.template.spec", {})
    return t.cast(Mapping, next((c for c in pod.get("containers") or [] if "livekit-server" in f"{c.get('name')} {c.get('image')}"), {}))


def _version(release: Release) -> tuple[str, str]:
    """(version, image)."""
    given = release.values.get("image") or {}
    image = str(_container(release).get("image") or f"{given.get('repository', 'livekit/livekit-server')}:{given.get('tag') or release.app_version}")
    version = image.rpartition("@")[0] or image
    version = version.rpartition(":")[2].removeprefix("v")
    if not VERSION.fullmatch(version):
        raise FleetError("tell the version of LiveKit", image, "its tag names none", "Set livekit_adopt_version", code="adopt_version")
    return version, image


def adopt(release: Release, version: str = "") -> Found:
    """The inventory variables of the release; version: what runs, where the image does not tell it."""
    if not release.values and not release.objects:
        raise FleetError("read the release", release.name, "it has neither values nor objects",
                         "Correct livekit_adopt_release and livekit_adopt_namespace, or give livekit_adopt_values", code="adopt_release")
    told, image = (version, "") if version else _version(release)
    config, where = configuration(release)
    found = Found({"livekit_target": "kubernetes", "livekit_kubernetes_namespace": release.namespace})
    helm = {path: value for path in HELM_ONLY if (value := paths.pop(config, path)) is not None}
    texts = _key_texts(release, config)
    found.add(livekit_config.adopt(config, told, where, texts))
    if image:
        _image(image, told, found)
    _turn(config, helm, release, where, found)
    livekit_config.tell_ports(config, ports.beside(ports.claims_of(config), 1), where, found)
    _size(release, found)
    _scheduling(release, found)
    _way_in(release, found)
    _redis(found)
    for name, note in SETTLED.items():
        if release.values.get(name) not in (None, {}, [], ""):
            found.dropped(f"values: {name}", release.values[name], note)
    return found


def _key_texts(release: Release, config: Mapping) -> dict[str, str]:
    """The key file, from the Secret of the chart, from the values, or from the Secret that the values name."""
    name = str(config.get("key_file") or "")
    stored = plain(release.values.get("storeKeysInSecret") or {})
    if not name:
        return {}
    for item in release.objects:
        data = item.get("data") or {}
        if item.get("kind") == "Secret" and name in data and _labels(item).get("owner") != "helm":
            return {name: base64.b64decode(data[name]).decode("utf-8", "replace")}
    keys = stored.get("keys") or {}
    return {name: "".join(f"{key}: {secret}\n" for key, secret in keys.items())} if keys else {}


def _image(image: str, version: str, found: Found) -> None:
    pattern = "{version}".join(image.rsplit(version, 1)) if version in image and "@" not in image else image
    found.mapped("image", image, "livekit_version")
    if pattern not in ("livekit/livekit-server:v{version}", "docker.io/livekit/livekit-server:v{version}"):
        found.variables["livekit_kubernetes_images"] = {"server": pattern}
        found.mapped("image", pattern, "livekit_kubernetes_images.server")


def _turn(config: Mapping, helm: Mapping, release: Release, where: str, found: Found) -> None:
    turn = found.variables.get("livekit_turn")
    if not turn:
        return
    secret = helm.get("turn.secretName")
    found.rows = [row for row in found.rows if not row.source.endswith((": turn.cert_file", ": turn.key_file"))]
    if turn.get("tls_port") == 0 or turn.get("external_tls"):
        pass
    elif pem := _tls(release, str(secret or "")):
        turn["certificate"], turn["private_key"] = pem
        found.mapped(f"{where}: turn.secretName", secret, "livekit_turn.certificate", "and private_key: the content of that Secret, in the file of secrets")
    else:
        found.todo(f"{where}: turn.secretName", secret, "the Secret was not given: set livekit_turn.certificate and private_key to its tls.crt and tls.key")
    kind, notes = str(helm.get("turn.serviceType") or "LoadBalancer"), helm.get("turn.loadBalancerAnnotations") or {}
    wants = turn.get("tls_port") != 0 and (release.values.get("turnLoadbalancer") or {}).get("enable", True)
    if wants:
        found.chosen(f"{where}: turn.serviceType", kind, "", "HAProxy of the new deployment leads TURN/TLS to the nodes, on the same 443 as signalling: point "
                     f"the name {turn.get('domain', '')} at it" + ("; for a Service of its own set livekit_kubernetes_turn" if notes else ""))
    if notes:
        found.dropped(f"{where}: turn.loadBalancerAnnotations", notes, "for a Service of TURN/TLS of its own: livekit_kubernetes_turn.annotations")


def _tls(release: Release, name: str) -> tuple[str, str] | None:
    secret = next((o for o in release.objects if o.get("kind") == "Secret" and _meta(o).get("name") == name), None)
    data = (secret or {}).get("data") or {}
    if "tls.crt" not in data or "tls.key" not in data:
        return None
    return t.cast("tuple[str, str]", tuple(base64.b64decode(data[part]).decode() for part in ("tls.crt", "tls.key")))


def _size(release: Release, found: Found) -> None:
    scaler, auto = release.find("HorizontalPodAutoscaler"), release.values.get("autoscaling") or {}
    if scaler or auto.get("enabled"):
        spec = (scaler or {}).get("spec") or {"minReplicas": auto.get("minReplicas", 1), "maxReplicas": auto.get("maxReplicas", 5)}
        wanted: Mapping = {"min": spec.get("minReplicas", 1), "max": spec["maxReplicas"]}
        for metric in spec.get("metrics") or []:
            resource = metric.get("resource") or {}
            target = (resource.get("target") or {}).get("averageUtilization", resource.get("targetAverageUtilization"))
            if resource.get("name") == "cpu" and target:
                wanted["cpu"] = target
            else:
                found.dropped("HorizontalPodAutoscaler: metric", resource.get("name") or metric.get("type"), "nodes are counted by CPU, participants, rooms, "
                              "tracks or bytes per second; memory says little of a media server")
        if not scaler:
            wanted["cpu"] = auto.get("targetCPUUtilizationPercentage", 60)
        found.variables["livekit_kubernetes_autoscaling"] = wanted
        found.mapped("autoscaling", wanted, "livekit_kubernetes_autoscaling")
        return
    replicas = paths.get(release.find("Deployment") or {}, "spec.replicas", release.values.get("replicaCount", 1))
    found.variables["livekit_kubernetes_replicas"] = replicas
    found.mapped("replicaCount", replicas, "livekit_kubernetes_replicas", "" if replicas > 1 else "one node: there is nowhere to move its calls to")


def _scheduling(release: Release, found: Found) -> None:
    pod = paths.get(release.find("Deployment") or {}, "spec.template.spec", {})
    for name, to in (("nodeSelector", "node_selector"), ("tolerations", "tolerations"), ("imagePullSecrets", "pull_secrets")):
        value = pod.get(name) or release.values.get(name)
        if value:
            value = [item["name"] for item in value] if name == "imagePullSecrets" else value
            found.variables[f"livekit_kubernetes_{to}"] = value
            found.mapped(name, value, f"livekit_kubernetes_{to}")
    resources = _container(release).get("resources") or release.values.get("resources")
    if resources:
        kept = {**resources, **({"limits": {k: v for k, v in resources["limits"].items() if k != "cpu"}} if "limits" in resources else {})}
        found.variables["livekit_kubernetes_resources"] = {"server": {name: value for name, value in kept.items() if value}}
        found.mapped("resources", resources, "livekit_kubernetes_resources.server")
        if kept != resources:
            found.dropped("resources.limits.cpu", resources["limits"]["cpu"], "throttled media is lost media; requests keep the CPUs free")
    if (release.values.get("serviceMonitor") or {}).get("create"):
        monitor = release.values["serviceMonitor"]
        found.variables["livekit_kubernetes_monitoring"] = {"kind": "pod", "interval": monitor.get("interval", "30s")}
        found.mapped("serviceMonitor", monitor, "livekit_kubernetes_monitoring", "as a PodMonitor")


def _way_in(release: Release, found: Found) -> None:
    balancer = release.values.get("loadBalancer") or {}
    kind, annotations = str(balancer.get("type") or "disable"), balancer.get("annotations") or {}
    hosts = [str(host) for entry in balancer.get("tls") or [] for host in entry.get("hosts") or []]
    secrets = [str(entry["secretName"]) for entry in balancer.get("tls") or [] if entry.get("secretName")]
    wanted: Mapping = {"type": "LoadBalancer"} if kind != "disable" else {"type": "ClusterIP"}
    if kind in CLOUDS:
        wanted["cloud"] = CLOUDS[kind]
    found.variables["livekit_kubernetes_signalling"] = wanted
    found.chosen("loadBalancer.type", kind, "livekit_kubernetes_signalling", "a Service of its own beside the former one: point the public name at it during "
                 "the take-over" + ("; what you put before the former Service has to lead there" if kind == "disable" else ""))
    if annotations:
        found.dropped("loadBalancer.annotations", annotations, "they are an Ingress's; for the Service write livekit_kubernetes_signalling.annotations")
    if hosts:
        found.variables["livekit_public_url"] = f"wss://{hosts[0]}"
        found.mapped("loadBalancer.tls", hosts, "livekit_public_url")
    else:
        found.todo("loadBalancer.tls", "", "the release names no host: set livekit_public_url to what your callers are given")
    if secrets or balancer.get("clusterIssuer"):
        tls = {"secret": secrets[0] if secrets else "livekit-tls"}
        if balancer.get("clusterIssuer"):
            tls.update(issuer=str(balancer["clusterIssuer"]), issuer_kind="ClusterIssuer")
        found.variables["livekit_kubernetes_tls"] = tls
        found.mapped("loadBalancer.tls", ", ".join(secrets), "livekit_kubernetes_tls")
    elif kind != "disable":
        found.todo("loadBalancer", kind, "its certificate belongs to the cloud: HAProxy ends TLS from now on and wants livekit_kubernetes_tls")


def _redis(found: Found) -> None:
    """The new nodes share the registry with the former ones, so Redis stays."""
    if "livekit_redis" in found.variables:
        found.variables["livekit_kubernetes_redis"] = {"mode": "external"}
        address = str(found.variables["livekit_redis"].get("address", ""))
        if re.match(r"(localhost|127\.)", address):
            found.todo("redis.address", address, "it is the machine's own, so each of your nodes is a cluster by itself: give them one Redis first")
