# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One deployment as Kubernetes objects, plain mappings: base() for all that stays, desired() for a generation in a slot.

Pure and always the same for the same input. The configuration that LiveKit gets is config.render's, as on hosts.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from ... import config
from ...slots import Layout
from . import autoscaling, edge, monitoring, network, redis, rights, tuning, workers
from .objects import Object
from .server import Material, desired, generation_name, name_of
from .settings import Settings, load

__all__ = ["Material", "Settings", "autoscaling", "base", "desired", "generation_name", "load", "name_of"]


def base(model: config.Model, settings: Settings, layout: Layout, haproxy: str = "", controller: t.Mapping[str, t.Any] | None = None) -> list[Object]:
    """Everything but the generations and the HPA, in the order in which it can be created.

    haproxy: the text of haproxy.cfg; controller: what the role controller sets of controller.json.
    """
    return [
        *rights.objects(settings),
        *network.objects(settings),
        *redis.objects(settings),
        *tuning.objects(settings, layout, turn=bool(model.turn.get("enabled"))),
        *workers.executor(model, settings, layout),
        *workers.controller(model, settings, controller),
        *edge.objects(model, settings, layout, haproxy),
        *autoscaling.objects(settings),
        *monitoring.objects(settings),
    ]
