# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How callers get in: Services, Ingress, HTTPRoute, certificate, and the HAProxy that knows rooms.

With HAProxy (the default) a Service leads to it, it ends TLS, keeps a room's signalling on one node, and a live move cuts exactly the sessions
of its rooms. An executor beside it shares its runtime socket: it adds and removes the nodes as they come and go, so that no reload is needed.
Without it Services select pods with the label `serving`; ports are found by name, as every slot has its own numbers.

Never in front of media: only signalling and TURN/TLS may be balanced.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import urllib.parse

from ... import config
from ...slots import Layout
from . import workers
from .objects import SERVING, Object, as_json, container_security, hashed, make, pod_security, secret, selector, without_empty
from .server import COMPONENT, shared
from .settings import Entry, Settings

HAPROXY = "livekit-haproxy"
INSIDE = "livekit-internal"  # what HTTP proxies of the cluster talk to
SYNCED = f"{workers.MEMORY}/synced"  # there once the executor has told HAProxy its servers
RUN, ETC, STATE = "/run/haproxy", "/etc/haproxy", "/var/lib/haproxy"
HTTPS, HTTP, STATS = 8443, 8080, 8404  # inside the pod: below 1024 it would need root
SOFT_STOP = 6 * 3600  # seconds: an old HAProxy keeps its sessions until they end by themselves
TUNNEL = 3600  # seconds without a byte, in front of which clients ping every few seconds; half of the proxies here default to 60

# A load balancer that is told of a leaving backend must not cut its connections, and idle ones last longer than the clients' pings.
CLOUDS: dict[str, dict[str, str]] = {
    "aws": {
        "service.beta.kubernetes.io/aws-load-balancer-type": "external",
        "service.beta.kubernetes.io/aws-load-balancer-scheme": "internet-facing",
        "service.beta.kubernetes.io/aws-load-balancer-nlb-target-type": "instance",
        "service.beta.kubernetes.io/aws-load-balancer-target-group-attributes":
            "preserve_client_ip.enabled=true,deregistration_delay.timeout_seconds=3600,deregistration_delay.connection_termination.enabled=false,"
            "target_health_state.unhealthy.connection_termination.enabled=false",
    },
    "gcp": {"cloud.google.com/l4-rbs": "enabled"},
    "azure": {"service.beta.kubernetes.io/azure-load-balancer-tcp-idle-timeout": "30"},
    "digitalocean": {
        "service.beta.kubernetes.io/do-loadbalancer-protocol": "tcp",
        "service.beta.kubernetes.io/do-loadbalancer-tls-passthrough": "true",
    },
    "hetzner": {"load-balancer.hetzner.cloud/protocol": "tcp", "load-balancer.hetzner.cloud/health-check-protocol": "tcp"},
}


def objects(model: config.Model, settings: Settings, layout: Layout, haproxy: str = "") -> list[Object]:
    """haproxy: the text of haproxy.cfg, as the role haproxy's template gives it."""
    found = _balancer(model, settings, layout, haproxy) if settings.balanced else []
    return [*found, *services(model, settings), *_certificate(model, settings), *_ingress(settings), *_route(settings)]


# --- Services ---------------------------------------------------------------------------------------------------------

def services(model: config.Model, settings: Settings) -> list[Object]:
    """livekit: signalling, from outside; livekit-internal: the same without TLS, for backends in the cluster; livekit-turn: TURN/TLS."""
    nodes, proxies = selector(COMPONENT, **{SERVING: "true"}), selector("haproxy")
    behind = proxies if settings.balanced else nodes
    found = [make("Service", INSIDE, settings.namespace, "edge", spec={
        "type": "ClusterIP", "selector": behind, "ports": [{"name": "http", "port": 80, "targetPort": "http" if settings.balanced else "signal"}]})]
    if settings.signalling.type != "none":
        to = "signal" if not settings.balanced else "https" if settings.tls.secret else "http"
        found.append(_service("livekit", settings, settings.signalling, behind, "signalling", to))
    if settings.turn.type != "none" and model.turn.get("enabled") and model.turn.get("tls_port") != 0:
        found.append(_service("livekit-turn", settings, settings.turn, nodes, "turn-tls", "turn-tls"))
    return found


def _service(name: str, settings: Settings, entry: Entry, behind: dict[str, str], port: str, to: str) -> Object:
    outside = entry.type in ("LoadBalancer", "NodePort")
    body = without_empty({
        "type": entry.type,
        "selector": behind,
        # Callers keep their address, and no second hop: a node that is drained of pods leaves the load balancer at once.
        "externalTrafficPolicy": "Local" if outside else None,
        "loadBalancerClass": entry.load_balancer_class if entry.type == "LoadBalancer" else None,
        "loadBalancerSourceRanges": list(entry.source_ranges) if entry.type == "LoadBalancer" else None,
        "ports": [without_empty({"name": port, "port": entry.port, "targetPort": to, "protocol": "TCP",
                                 "nodePort": (entry.node_port or None) if outside else None})],
    })
    notes = {**(CLOUDS.get(entry.cloud, {}) if entry.type == "LoadBalancer" else {}), **{key: str(value) for key, value in entry.annotations.items()}}
    return make("Service", name, settings.namespace, "edge", annotations=notes, spec=body)


def _ingress(settings: Settings) -> list[Object]:
    wanted = settings.ingress
    if not wanted.host:
        return []
    notes = {"nginx.ingress.kubernetes.io/proxy-read-timeout": str(TUNNEL), "nginx.ingress.kubernetes.io/proxy-send-timeout": str(TUNNEL),
             "haproxy.org/timeout-tunnel": f"{TUNNEL}s", **{key: str(value) for key, value in wanted.annotations.items()}}
    path = {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": INSIDE, "port": {"number": 80}}}}
    return [make("Ingress", "livekit", settings.namespace, "edge", annotations=notes, spec=without_empty({
        "ingressClassName": wanted.class_name,
        "tls": [{"hosts": [wanted.host], "secretName": settings.tls.secret}] if settings.tls.secret else None,
        "rules": [{"host": wanted.host, "http": {"paths": [path]}}],
    }))]


def _route(settings: Settings) -> list[Object]:
    wanted = settings.gateway
    if not wanted.name:
        return []
    parent = without_empty({"name": wanted.name, "namespace": wanted.namespace, "sectionName": wanted.section})
    # 0s: no end. A WebSocket is one request, and would be cut at the implementation's default.
    rule = {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "timeouts": {"request": "0s", "backendRequest": "0s"},
            "backendRefs": [{"name": INSIDE, "port": 80}]}
    return [make("HTTPRoute", "livekit", settings.namespace, "edge", spec=without_empty({
        "parentRefs": [parent], "hostnames": [wanted.host] if wanted.host else None, "rules": [rule]}))]


def _certificate(model: config.Model, settings: Settings) -> list[Object]:
    """For cert-manager, where an issuer is named. Its names: those given, else the public one and TURN's."""
    if not settings.tls.issuer:
        return []
    public = urllib.parse.urlsplit(model.public_url).hostname or ""
    turn = str(model.turn.get("domain") or "").rstrip(".") if model.turn.get("enabled") else ""
    names = list(settings.tls.names) or sorted({name for name in (public, settings.ingress.host, settings.gateway.host, turn) if name})
    return [make("Certificate", "livekit", settings.namespace, "edge", spec={
        "secretName": settings.tls.secret, "dnsNames": names, "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        "issuerRef": {"group": "cert-manager.io", "kind": settings.tls.issuer_kind, "name": settings.tls.issuer}})]


# --- HAProxy ----------------------------------------------------------------------------------------------------------

def _balancer(model: config.Model, settings: Settings, layout: Layout, text: str) -> list[Object]:
    namespace, proxy = settings.namespace, {"haproxy.cfg": text}
    redis = shared(model, settings).redis
    kept = {"executor.json": as_json({"target": "kubernetes", "namespace": namespace, "host": "", "address": "", "redis": redis, "layout": None,
                                      "balancer": "haproxy-http", "socket": f"{RUN}/admin.sock", "master": f"{RUN}/master.sock",
                                      "pool": dataclasses.asdict(layout), "synced": SYNCED, "memory": f"{workers.MEMORY}/nodes.json"})}
    names = hashed(HAPROXY, proxy), hashed(f"{HAPROXY}-executor", kept)
    spread = {"selector": {"matchLabels": selector("haproxy")}, "maxUnavailable": 1}
    return [
        make("ServiceAccount", HAPROXY, namespace, "haproxy", automountServiceAccountToken=False),  # it needs no API
        make("ConfigMap", names[0], namespace, "haproxy", immutable=True, data=proxy),
        secret(names[1], namespace, "haproxy", kept),
        make("PodDisruptionBudget", HAPROXY, namespace, "haproxy", spec=spread),
        make("Deployment", HAPROXY, namespace, "haproxy", spec={
            "replicas": settings.balancer.replicas,
            # On the nodes' own ports two of them cannot stand side by side.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1} if settings.balancer.host_network
                         else {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": selector("haproxy")},
            "template": {"metadata": {"labels": selector("haproxy")}, "spec": _proxy_pod(settings, *names)},
        }),
    ]


def _proxy_pod(settings: Settings, config_map: str, kept: str) -> Object:
    network = {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"} if settings.balancer.host_network else {}
    executor = workers.program(settings, "executor", settings.resources.executor, env=workers.identity_env(), memory=True)
    executor["volumeMounts"].append({"name": "run", "mountPath": RUN})
    # A sidecar, so that it outlives HAProxy: as long as old sessions last there, a move has to be able to cut them.
    executor["restartPolicy"] = "Always"
    # A HAProxy without servers refuses everybody. Later nothing takes this readiness away, not even a Redis that is gone.
    executor["readinessProbe"] = {"exec": {"command": ["test", "-f", SYNCED]}, "initialDelaySeconds": 2, "periodSeconds": 5}
    shared_with = [{"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "state", "emptyDir": {"sizeLimit": "16Mi"}},
                   {"name": "config", "configMap": {"name": config_map, "defaultMode": 0o444}}]
    if settings.tls.secret:
        # HAProxy finds the key of NAME.pem in NAME.pem.key.
        pems = [{"key": "tls.crt", "path": "tls.pem"}, {"key": "tls.key", "path": "tls.pem.key"}]
        shared_with.append({"name": "tls", "secret": {"secretName": settings.tls.secret, "defaultMode": 0o440, "items": pems}})
    return without_empty({
        **network,
        "serviceAccountName": HAPROXY,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # As long as a node at most: who is still connected then resumes through another one.
        "terminationGracePeriodSeconds": min(SOFT_STOP, settings.grace),
        "nodeSelector": dict(settings.balancer.node_selector),
        "imagePullSecrets": [{"name": name} for name in settings.pull_secrets],
        **workers.apart("haproxy"),
        "securityContext": pod_security(settings.user),
        "initContainers": [executor],
        "containers": [_proxy(settings)],
        "volumes": [*shared_with, *workers.volumes("executor", kept, memory=True)],
    })


def _proxy(settings: Settings) -> Object:
    ports = [("http", HTTP), ("stats", STATS)] + ([("https", HTTPS)] if settings.tls.secret else [])
    mounts = [{"name": "config", "mountPath": f"{ETC}/haproxy.cfg", "subPath": "haproxy.cfg", "readOnly": True}, {"name": "run", "mountPath": RUN},
              {"name": "state", "mountPath": STATE}]
    if settings.tls.secret:
        mounts.append({"name": "tls", "mountPath": f"{ETC}/livekit", "readOnly": True})
    listed = [without_empty({"name": name, "containerPort": port, "hostPort": port if settings.balancer.host_network else None, "protocol": "TCP"})
              for name, port in ports]
    return without_empty({
        "name": "haproxy",
        "image": settings.images.haproxy,
        "imagePullPolicy": settings.pull_policy,
        "command": ["haproxy", "-W", "-db", "-S", f"{RUN}/master.sock,mode,660", "-f", f"{ETC}/haproxy.cfg"],
        "ports": listed,
        # Load balancers and Services learn that it leaves before it stops to listen. SIGUSR1, the image's stop signal, lets sessions end by themselves.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
        "readinessProbe": {"tcpSocket": {"port": "https" if settings.tls.secret else "http"}, "periodSeconds": 1, "failureThreshold": 2},
        "resources": dict(settings.resources.haproxy),
        "securityContext": container_security(),
        "volumeMounts": mounts,
    })
