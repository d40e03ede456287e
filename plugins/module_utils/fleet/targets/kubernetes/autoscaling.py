# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many nodes there are: a HorizontalPodAutoscaler over the generation in service, and the rules by which prometheus-adapter feeds it.

There is one HPA; it points at the Deployment of the generation that serves and is pointed at the next one when that has passed its gate.
LiveKit exports gauges whose names end in _total and no gauge for load; metric names that circulate besides these do not exist.
Which pod goes first when there are to be fewer is the controller's business (objects.DELETION_COST).

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from .objects import Object, as_json, make
from .settings import Settings

NAME = "livekit-server"


class Metric(t.NamedTuple):
    """series: what LiveKit exports; name: what the HPA asks for; query: PromQL of prometheus-adapter."""

    field: str  # of settings.Autoscaling
    name: str
    series: str
    query: str


# Gauges are summed as they are: rate() over them would be nonsense, whatever their names say.
_SUM = "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)"
METRICS = (
    Metric("participants", "livekit_participants", "livekit_participant_total", _SUM),
    Metric("rooms", "livekit_rooms", "livekit_room_total", _SUM),
    Metric("tracks", "livekit_tracks", "livekit_track_subscribed_total", _SUM),
    Metric("bytes_per_second", "livekit_bytes_per_second", "livekit_packet_bytes", "sum(rate(<<.Series>>{<<.LabelMatchers>>}[1m])) by (<<.GroupBy>>)"),
)


def objects(settings: Settings, deployment: str = "") -> list[Object]:
    """deployment: the one that serves; none is known before the first generation, and then there is no HPA yet."""
    found = [hpa(settings, deployment)] if settings.autoscaled and deployment else []
    return [*found, *([adapter(settings)] if settings.autoscaled and settings.autoscaling.adapter else [])]


def hpa(settings: Settings, deployment: str) -> Object:
    wanted = settings.autoscaling
    metrics: list[Object] = []
    if wanted.cpu:
        metrics.append({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": wanted.cpu}}})
    for metric in METRICS:
        target = getattr(wanted, metric.field)
        if target:
            metrics.append({"type": "Pods", "pods": {"metric": {"name": metric.name}, "target": {"type": "AverageValue", "averageValue": str(target)}}})
    return make("HorizontalPodAutoscaler", NAME, settings.namespace, "autoscaling", spec={
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment},
        "minReplicas": wanted.min,
        "maxReplicas": wanted.max,
        "metrics": metrics,
        # Up at once, as callers do not wait; down one by one and late, as a node that leaves has calls to move.
        "behavior": {
            "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                {"type": "Pods", "value": 2, "periodSeconds": wanted.scale_up_seconds},
                {"type": "Percent", "value": 50, "periodSeconds": wanted.scale_up_seconds}]},
            "scaleDown": {"stabilizationWindowSeconds": wanted.scale_down_seconds, "policies": [
                {"type": "Pods", "value": 1, "periodSeconds": max(60, min(1800, wanted.scale_down_seconds // 2))}]},
        },
    })


def rules() -> list[Object]:
    """The rules of prometheus-adapter, for its own configuration (Helm: rules.custom)."""
    return [{
        "seriesQuery": f'{metric.series}{{namespace!="",pod!=""}}',
        "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
        "name": {"matches": f"^{metric.series}$", "as": metric.name},
        "metricsQuery": metric.query,
    } for metric in METRICS]


def adapter(settings: Settings) -> Object:
    """A ConfigMap whose config.yaml prometheus-adapter reads (JSON is YAML)."""
    return make("ConfigMap", "livekit-prometheus-adapter", settings.namespace, "autoscaling", data={"config.yaml": as_json({"rules": rules()})})
