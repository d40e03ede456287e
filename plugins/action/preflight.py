# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks the inventory before any host is touched. Documented in modules/preflight.py."""
from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slots import Layout

ARGUMENT_SPEC: dict[str, t.Any] = {
    "model": {"type": "dict", "required": True},
    "layout": {"type": "dict", "default": {}},
    "hosts": {"type": "list", "elements": "str", "default": []},
    "claims": {"type": "list", "elements": "dict", "default": [], "options": {
        "port": {"type": "int", "required": True}, "use": {"type": "str", "required": True},
        "protocol": {"type": "str", "default": "tcp", "choices": ["tcp", "udp"]}}},
}


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        dummy, args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        claims = [(c["protocol"], c["port"], c["port"], c["use"]) for c in args["claims"]]
        hosts = hosts_of(args["hosts"], (task_vars or {}).get("hostvars", {}))
        try:
            model = config.Model.from_vars(args["model"])
            found = config.problems(model, Layout.from_mapping(args["layout"]), hosts=hosts, claims=claims)
            config.raise_for(found)
        except FleetError as exc:
            result.update(failed=True, **exc.as_result())
        except TypeError as exc:
            result.update(failed=True, msg=f"livekit_layout: {exc}")
        return {**result, "changed": False, "hosts": hosts}


def hosts_of(names: t.Sequence[str], hostvars: t.Mapping[str, t.Any]) -> list[dict[str, str]]:
    """[{name, address, node_ip}] of the named inventory hosts; an unset address falls back as in the roles' defaults."""
    found = []
    for name in names:
        values = hostvars.get(name, {})
        address = str(values.get("livekit_address") or values.get("ansible_host") or name)
        found.append({"name": name, "address": address, "node_ip": str(values.get("livekit_node_ip") or address)})
    return found
