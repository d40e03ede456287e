# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus scrapes, for its operator: the nodes by PodMonitor, controllers and HAProxy by their own.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from .objects import GENERATION, SLOT, VERSION, Object, make, selector
from .settings import Settings


def objects(settings: Settings) -> list[Object]:
    if settings.monitoring.kind == "none":
        return []
    own = {key: str(value) for key, value in settings.monitoring.labels.items()}
    found = [make("PodMonitor", "livekit-server", settings.namespace, "monitoring", own, spec={
        "selector": {"matchLabels": selector("server")},
        # Which slot and generation a figure comes from; the node's random id (node_id) is a label of LiveKit's own.
        "podTargetLabels": [SLOT, GENERATION, VERSION],
        "podMetricsEndpoints": [_endpoint(settings, "metrics")],
    })]
    if settings.balanced:
        # Its password, if it has one, belongs into basicAuth; the plain counters are behind it too.
        found.append(make("PodMonitor", "livekit-haproxy", settings.namespace, "monitoring", own, spec={
            "selector": {"matchLabels": selector("haproxy")}, "podMetricsEndpoints": [_endpoint(settings, "stats")]}))
    if settings.controller.replicas:
        found.append(make("ServiceMonitor", "livekit-controller", settings.namespace, "monitoring", own, spec={
            "selector": {"matchLabels": selector("controller")}, "endpoints": [_endpoint(settings, "http")]}))
    return found


def _endpoint(settings: Settings, port: str) -> t.Dict[str, t.Any]:
    return {"port": port, "path": "/metrics", "interval": settings.monitoring.interval}
