# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that can be said against a deployment on Kubernetes before anything is applied: problems(). Pure.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import ipaddress
import typing as t

from ... import config, config_checks
from ...errors import Problem
from ...slots import Layout
from . import cluster as c
from .objects import COMPONENT
from .server import shared
from .settings import PREFIX, Settings

OLDEST = "1.29"  # sidecars that end last, and pods that see their node's address
SOURCES = {  # group -> where its kinds come from
    "monitoring.coreos.com": "Install the Prometheus operator, or set livekit_kubernetes_monitoring.kind: none",
    "gateway.networking.k8s.io": "Install the Gateway API's CRDs, or clear livekit_kubernetes_gateway",
    "cert-manager.io": "Install cert-manager, or clear livekit_kubernetes_tls.issuer and give a Secret",
}
SECRET_LENGTH = 32


@dataclasses.dataclass(frozen=True)
class _Case:
    model: config.Model
    settings: Settings
    layout: Layout
    objects: t.Sequence[t.Mapping[str, t.Any]]
    cluster: c.Cluster | None


def problems(model: config.Model, settings: Settings, layout: Layout, objects: t.Iterable[t.Mapping[str, t.Any]] = (),
             cluster: c.Cluster | None = None) -> list[Problem]:
    """objects: what is to be applied; cluster: None where none is in reach (output to files)."""
    case = _Case(model, settings, layout, list(objects), cluster)
    found = [problem for check in _ALWAYS for problem in check(case)]
    return found + ([problem for check in _OF_CLUSTER for problem in check(case)] if cluster else [])


def _model(case: _Case) -> t.Iterator[Problem]:
    """What is wrong on any target. The address stands for those that pods fill in themselves."""
    model = dataclasses.replace(shared(case.model, case.settings), node_ip="192.0.2.1")
    yield from config_checks.problems(model, case.layout, server_count=max(2, case.settings.replicas))
    for key in ("cert_file", "key_file"):
        if case.model.turn.get("enabled") and case.model.turn.get(key):
            yield Problem("turn_certificate", f"livekit_turn.{key}", "is a path on a host, and pods see no files of their host",
                          "Give certificate and private_key as PEM text, or external_tls: true")


def _redis(case: _Case) -> t.Iterator[Problem]:
    mode, where = case.settings.redis.mode, f"{PREFIX}redis"
    if mode == "external":
        return
    if case.model.redis:
        yield Problem("redis_twice", where, f"mode {mode} makes a Redis of its own, and livekit_redis names another one", "Keep one of the two")
    if len(case.settings.redis.password) < SECRET_LENGTH:
        yield Problem("short_secret", f"{where}.password", f"has {len(case.settings.redis.password)} characters, at least {SECRET_LENGTH} are needed",
                      "Make one with: openssl rand -hex 32")


def _ports(case: _Case) -> t.Iterator[Problem]:
    low = [use for dummy, first, dummy2, use in case.layout.claims(bool(case.model.turn.get("enabled"))) if first < 1024]
    if low:
        yield Problem("privileged_port", "livekit_layout", f"{low[0]} is below 1024, and pods do not run as root",
                      "Take ports from 1024 up; Services have their own")


def _edge(case: _Case) -> t.Iterator[Problem]:
    settings = case.settings
    if settings.tls.issuer and not settings.tls.secret:
        yield Problem("no_secret", f"{PREFIX}tls.secret", "an issuer is named, but not the Secret for its certificate", "Name it, such as livekit-tls")
    for where, entry in (("signalling", settings.signalling), ("turn", settings.turn)):
        if entry.cloud == "hetzner" and entry.type == "LoadBalancer" and not any("location" in key or "network-zone" in key for key in entry.annotations):
            yield Problem("no_location", f"{PREFIX}{where}.annotations", "Hetzner's load balancers need a location",
                          "Add load-balancer.hetzner.cloud/location, such as fsn1")
        if entry.node_port and not 1 <= entry.node_port <= 65535:
            yield Problem("bad_value", f"{PREFIX}{where}.node_port", f"is {entry.node_port}, which is no port", "Clusters give out 30000 to 32767")
    if settings.balanced and not settings.executor:
        yield Problem("no_executor", f"{PREFIX}executor", "HAProxy learns its servers from the executors, and there are none",
                      "Leave it true, or set livekit_kubernetes_balancer: {kind: none}")
    public = case.model.public_url.startswith(("wss:", "https:"))
    if settings.balanced and public and settings.signalling.port == 443 and settings.signalling.type != "none" and not settings.tls.secret:
        yield Problem("no_certificate", f"{PREFIX}tls.secret", "callers come with TLS on 443, and HAProxy has no certificate",
                      "Name a Secret of type kubernetes.io/tls, or let an Ingress or Gateway end TLS (signalling.type: none)")


def _networks(case: _Case) -> t.Iterator[Problem]:
    for network in case.settings.node_cidrs:
        try:
            ipaddress.ip_network(str(network), strict=False)
        except ValueError:
            yield Problem("bad_value", f"{PREFIX}node_cidrs", f'"{network}" is no network', "Write for example 10.0.0.0/16")


def _version(case: _Case) -> t.Iterator[Problem]:
    version = _cluster(case).version
    if version and _tuple(version) < _tuple(OLDEST):
        yield Problem("cluster_too_old", "the cluster", f"it runs Kubernetes {version}, at least {OLDEST} is needed", "Upgrade the cluster")


def _apis(case: _Case) -> t.Iterator[Problem]:
    apis = _cluster(case).apis
    if apis is None:
        return
    for version, kind in sorted({(o["apiVersion"], o["kind"]) for o in case.objects}):
        if kind not in apis.get(version, ()):
            group = version.rpartition("/")[0]
            yield Problem("api_missing", "the cluster", f"it does not serve {version} {kind}",
                          SOURCES.get(group, f"Upgrade the cluster ({_cluster(case).version})"))


def _nodes(case: _Case) -> t.Iterator[Problem]:
    media = _cluster(case).media_nodes(case.settings)
    fit = [n for n in media if c.schedulable(n)]
    wanted = case.settings.autoscaling.min if case.settings.autoscaled else case.settings.replicas
    where = f"{PREFIX}{'autoscaling.min' if case.settings.autoscaled else 'replicas'}"
    if not media:
        yield Problem("no_media_nodes", f"{PREFIX}node_selector",
                      f"none of the {len(_cluster(case).nodes)} nodes of the cluster has the labels or is tolerated",
                      "Label the nodes for media (kubectl label node ...), or add tolerations")
    elif wanted > len(fit):
        out = [f"{c.name(n)} ({'cordoned' if c.ready(n) else 'not ready'})" for n in media if n not in fit]
        yield Problem("too_few_nodes", where, f"{wanted} nodes of LiveKit need as many machines, and {len(fit)} can take one"
                      + (f"; not {', '.join(out)}" if out else ""), "Add machines, lower it, or uncordon some")


def _host_ports(case: _Case) -> t.Iterator[Problem]:
    media = {c.name(n) for n in _cluster(case).media_nodes(case.settings)}
    claims = [claim for claim in case.layout.claims(bool(case.model.turn.get("enabled"))) if claim[3] != "agent check"]
    for pod in sorted(_cluster(case).pods, key=c.name):
        node = (pod.get("spec") or {}).get("nodeName")
        ours = pod["metadata"].get("namespace") == case.settings.namespace and c.labels(pod).get(COMPONENT) == "server"
        if node not in media or ours or c.over(pod):
            continue
        for protocol, port in c.host_ports(pod):
            use = next((use for proto, first, last, use in claims if proto == protocol and first <= port <= last), "")
            if use:
                yield Problem("hostport_taken", f"node {node}", f"pod {pod['metadata'].get('namespace')}/{c.name(pod)} has {protocol} port {port}, "
                              f"which is {use}", "Change livekit_layout, or keep that pod off the media nodes")


def _storage(case: _Case) -> t.Iterator[Problem]:
    classes, wanted = _cluster(case).storage_classes, case.settings.redis.storage_class
    if case.settings.redis.mode == "external" or classes is None:
        return
    known = ", ".join(sorted(classes)) or "none"
    if wanted and wanted not in classes:
        yield Problem("no_storage_class", f"{PREFIX}redis.storage_class", f'the cluster has no StorageClass "{wanted}"', f"There are: {known}")
    elif not wanted and not any(classes.values()):
        yield Problem("no_storage_class", f"{PREFIX}redis.storage_class", "the cluster has no default StorageClass", f"Name one. There are: {known}")


def _turn_peers(case: _Case) -> t.Iterator[Problem]:
    if not case.model.turn.get("enabled") or case.model.use_external_ip:
        return
    networks = [ipaddress.ip_network(str(n), strict=False) for n in case.settings.node_cidrs if _network(n)]
    for node in _cluster(case).media_nodes(case.settings):
        for route in config.restricted_routes([c.address(node)]):
            network = ipaddress.ip_network(route)
            if not any(network.version == n.version and network.subnet_of(n) for n in networks):  # type: ignore[arg-type]
                yield Problem("turn_peers", f"{PREFIX}node_cidrs", f"TURN would refuse to relay to {c.name(node)}, whose address {c.address(node)} is private",
                              "Name the network of the nodes")
                return


def _network(text: t.Any) -> bool:
    try:
        return bool(ipaddress.ip_network(str(text), strict=False))
    except ValueError:
        return False


def _cluster(case: _Case) -> c.Cluster:
    return t.cast(c.Cluster, case.cluster)


def _tuple(version: str) -> tuple[int, ...]:
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.lstrip("v").split(".")[:2])


_ALWAYS = (_model, _redis, _ports, _edge, _networks)
_OF_CLUSTER = (_version, _apis, _nodes, _host_ports, _storage, _turn_peers)


def missing_rights(reviews: t.Iterable[t.Mapping[str, t.Any]]) -> list[Problem]:
    """Answered SelfSubjectAccessReviews (rights.needed) that say no."""
    found = []
    for review in reviews:
        if not (review.get("status") or {}).get("allowed"):
            asked = review["spec"]["resourceAttributes"]
            what = ".".join(filter(None, ("/".join(filter(None, (asked["resource"], asked.get("subresource")))), asked.get("group"))))
            where = f"namespace {asked['namespace']}" if asked.get("namespace") else "the whole cluster"
            found.append(Problem("no_rights", "the account of the kubeconfig", f"it may not {asked['verb']} {what} in {where}",
                                 "Give it that right, or use another context"))
    return found
