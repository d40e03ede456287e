# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NetworkPolicies: nothing in, except what is needed.

What they cannot do: they say nothing about pods with hostNetwork, so nothing about the LiveKit nodes and their executors. Those are guarded
by the firewall of the machines or the security groups of the cloud (ports: slots.Layout.claims). And what such pods send comes from
the machines' addresses, so policies that let them in name networks (livekit_kubernetes_node_cidrs), or any source where none is given.
Without a network plugin that enforces policies they have no effect at all.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from . import edge, redis, workers
from .objects import Object, make, selector
from .settings import Settings


def objects(settings: Settings) -> list[Object]:
    if not settings.network_policies:
        return []
    found = [make("NetworkPolicy", "livekit-deny", settings.namespace, "network", spec={"podSelector": {}, "policyTypes": ["Ingress"]})]
    if settings.redis.mode != "external":
        ports = [redis.PORT] + ([redis.SENTINEL_PORT] if settings.redis.mode == "sentinel" else [])
        pods = [selector("redis"), selector("controller"), selector("haproxy")]
        found.append(_allow(settings, "redis", ports, [*_pods(pods), *_nodes(settings)] if settings.node_cidrs else None))
    if settings.controller.replicas and not settings.controller.host_network:
        # Webhooks come from the nodes; each is signed. Page and metrics ask for a password, or tell no secret.
        found.append(_allow(settings, "controller", [workers.PORT], None))
    if settings.balanced and not settings.balancer.host_network:
        ports = [edge.HTTP, edge.STATS] + ([edge.HTTPS] if settings.tls.secret else [])
        found.append(_allow(settings, "haproxy", ports, None))
    return found


def _pods(found: t.Iterable[dict[str, str]]) -> list[Object]:
    return [{"podSelector": {"matchLabels": labels}} for labels in found]


def _nodes(settings: Settings) -> list[Object]:
    return [{"ipBlock": {"cidr": str(network)}} for network in settings.node_cidrs]


def _allow(settings: Settings, component: str, ports: list[int], sources: list[Object] | None) -> Object:
    rule: Object = {"ports": [{"protocol": "TCP", "port": port} for port in ports]}
    if sources:
        rule["from"] = sources
    return make("NetworkPolicy", f"livekit-{component}", settings.namespace, "network", spec={
        "podSelector": {"matchLabels": selector(component)}, "policyTypes": ["Ingress"], "ingress": [rule]})
