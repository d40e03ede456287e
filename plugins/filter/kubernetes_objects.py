# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubernetes objects from the livekit_* variables, for kubernetes.core.k8s."""
from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import kubernetes
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes import survey

PARTS = ("namespace", "base", "generation", "autoscaler")


def kubernetes_objects(model: t.Mapping[str, t.Any], settings: t.Mapping[str, t.Any], layout: t.Mapping[str, t.Any] | None = None, part: str = "base",
                       secrets: bool = False, slot: int = 1, generation: str | None = None, replicas: int | None = None, haproxy: str = "",
                       controller: t.Mapping[str, t.Any] | None = None, only: t.Collection[str] | None = None,
                       rolled_back: bool = False) -> list[dict[str, t.Any]]:
    """Of a part either the Secrets, or everything else, so that a task that shows no secret can still be read. only: "Kind/name" of those to return."""
    if part not in PARTS:
        raise AnsibleFilterError(f"openrtc.livekit.kubernetes_objects: no part {part!r}; there are {', '.join(PARTS)}")
    try:
        found = _part(model, settings, layout, part, slot, generation, replicas, haproxy, controller, rolled_back)
    except FleetError as err:
        raise AnsibleFilterError(str(err)) from err
    return [obj for obj in found if (obj["kind"] == "Secret") == secrets and (only is None or f"{obj['kind']}/{obj['metadata']['name']}" in only)]


def _part(model: t.Mapping[str, t.Any], settings: t.Mapping[str, t.Any], layout: t.Mapping[str, t.Any] | None, part: str, slot: int, generation: str | None,
          replicas: int | None, haproxy: str, controller: t.Mapping[str, t.Any] | None, rolled_back: bool) -> list[dict[str, t.Any]]:
    variables = config.plain(model)
    ports, chosen, found = config.layout_of({"livekit_layout": layout}), kubernetes.Settings.from_vars(settings), config.Model.from_vars(variables)
    made = kubernetes.Material(found, chosen, ports, survey.kept(variables, chosen), rolled_back=rolled_back)
    if part == "generation":
        return kubernetes.desired(made, int(slot), generation, replicas=replicas)
    if part == "autoscaler":
        name = kubernetes.name_of(int(slot), generation or kubernetes.generation_name(made))
        return kubernetes.autoscaling.objects(chosen, name)[:1]
    objects = kubernetes.base(found, chosen, ports, haproxy, config.plain(controller or {}))
    return [obj for obj in objects if (obj["kind"] == "Namespace") == (part == "namespace")]


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"kubernetes_objects": kubernetes_objects}
