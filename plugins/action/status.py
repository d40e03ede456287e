# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints the cluster as a table. Documented in modules/status.py."""
from __future__ import annotations

import time
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import status

ARGUMENT_SPEC: dict[str, t.Any] = {
    "hosts": {"type": "dict", "required": True},
    "nodes": {"type": "list", "elements": "dict", "default": []},
}


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        dummy, args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        found = status.rows(args["hosts"], args["nodes"], time.time())
        table = status.table(found)
        for line in table:
            Display().display(line)
        return {**result, "changed": False, "rows": found, "table": table}
