# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks the inventory before any host is touched. Documented in modules/preflight.py."""
from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.openrtc.livekit.plugins.filter.addresses import addresses
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config, config_checks
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError, raise_for
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import compose
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement.policy import Policy
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.scaling_settings import ScalingSettings

ARGUMENT_SPEC: dict[str, t.Any] = {
    "target": {"type": "str", "choices": ["native", "compose", "kubernetes"], "default": "native"},
    "model": {"type": "dict", "required": True},
    "layout": {"type": "dict", "default": {}},
    "placement": {"type": "dict", "default": {}},
    "scaling": {"type": "dict", "default": {}},
    "hosts": {"type": "list", "elements": "str", "default": []},
    "balancers": {"type": "list", "elements": "str", "default": []},
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
        hosts = hosts_of(args["hosts"], args["balancers"], (task_vars or {}).get("hostvars", {}))
        try:
            if args["target"] == "kubernetes":
                raise FleetError("prepare hosts", ", ".join(args["hosts"]), "livekit_target is kubernetes, and a cluster makes its nodes by itself",
                                 "Put the control machine into the group livekit_kubernetes, and no hosts into the other groups", code="target")
            model = config.Model.from_vars(args["model"])
            layout = config.layout_of({"livekit_layout": args["layout"]})
            found = config_checks.problems(model, layout, hosts=hosts, claims=claims)
            image = args["model"].get("livekit_server_image")
            found += compose.Settings(image=str(image)).problems() if image else []
            found += Policy.problems(config.plain(args["placement"]))
            raise_for(found)
            if args["scaling"]:
                ScalingSettings.of(config.plain(args["scaling"])).check()
        except FleetError as exc:
            result.update(failed=True, **exc.as_result())
        return {**result, "changed": False, "hosts": hosts}


def hosts_of(names: t.Sequence[str], balancers: t.Collection[str], hostvars: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """[{name, address, node_ip, balancer}] of the named inventory hosts; an unset address falls back as in the roles' defaults."""
    return [{"name": name, "address": address, "node_ip": str(hostvars[name].get("livekit_node_ip") or address), "balancer": name in balancers}
            for name, address in addresses(names, hostvars).items()]
