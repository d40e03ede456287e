# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Marks what has passed its gates. Documented in modules/kubernetes_mark.py."""
from __future__ import annotations

import time
import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.api import MERGE, Api
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.objects import GATE, SERVED_AT, SERVING
from ansible_collections.openrtc.livekit.plugins.plugin_utils.kubernetes import CLUSTER, connect

ARGUMENT_SPEC: dict[str, t.Any] = {
    "namespace": {"type": "str", "required": True},
    "pods": {"type": "list", "elements": "str", "default": []},
    "name": {"type": "str"},
    "generation": {"type": "str"},
    **CLUSTER,
}
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"  # of a Secret nothing else is to be read


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        dummy, args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC, required_together=[("name", "generation")])
        marks = Marks(args, connect, time.time(), bool(self._task.check_mode))
        try:
            marks.run()
        except FleetError as exc:
            result.update(failed=True, **exc.as_result())
        return {**result, "changed": bool(marks.changed), "marked": marks.changed}


class Marks:
    """changed: names of the objects that got a mark."""

    def __init__(self, args: t.Mapping[str, t.Any], to: t.Callable[[t.Mapping[str, t.Any]], Api], now: float, check: bool = False) -> None:
        self.args, self.to, self.now, self.check = args, to, now, check
        self.changed: list[str] = []

    def run(self) -> None:
        api = self.to(self.args)
        space = f"namespaces/{self.args['namespace']}"
        for pod in self.args["pods"]:
            self.mark(api, f"/api/v1/{space}/pods/{pod}", "labels", {SERVING: "true"})
        if self.args["name"]:
            passed = {GATE: self.args["generation"], SERVED_AT: str(int(self.now))}
            # The Deployment last: a run that was killed before it does all of this again.
            self.mark(api, f"/api/v1/{space}/secrets/{self.args['name']}", "annotations", passed)
            self.mark(api, f"/apis/apps/v1/{space}/deployments/{self.args['name']}", "annotations", passed)

    def mark(self, api: Api, path: str, kind: str, wanted: t.Mapping[str, str]) -> None:
        """Raises FleetError; a generation that is marked already keeps the time at which it passed."""
        now = api.ask("GET", path, accept=METADATA)["metadata"].get(kind) or {}
        if all(now.get(key) == value for key, value in wanted.items() if key != SERVED_AT):
            return
        if not self.check:
            api.ask("PATCH", path, {"metadata": {kind: dict(wanted)}}, accept=METADATA, kind=MERGE)
        self.changed.append(path.rpartition("/")[2])
