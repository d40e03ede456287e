# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps two runs from changing the same cluster. Documented in modules/kubernetes_lock.py."""
from __future__ import annotations

import time
import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.lease import RunLock
from ansible_collections.openrtc.livekit.plugins.plugin_utils.kubernetes import CLUSTER, connect
from ansible_collections.openrtc.livekit.plugins.plugin_utils.owner import has_ended, owner

ARGUMENT_SPEC: dict[str, t.Any] = {
    "namespace": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["held", "released"], "default": "held"},
    "ttl": {"type": "float", "default": 900},
    **CLUSTER,
}


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        dummy, args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        check = bool(self._task.check_mode)
        try:
            api = connect(args)
            lock = RunLock(api, args["namespace"], owner(), args["ttl"], has_ended)
            if args["state"] == "held":
                result["held"] = lock.hold(time.time(), check)
            elif not check:
                lock.release()
        except FleetError as exc:
            result.update(failed=True, **exc.as_result())
        return {**result, "changed": False}
