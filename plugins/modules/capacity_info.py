#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: capacity_info
short_description: Tell how full the nodes of a LiveKit cluster are, and what its scaler decided last
version_added: 0.1.0
description:
  - The load of each node as a share of what it can carry, and which resource is fullest, by the capacity profiles of C(livekit_scaling).
  - Needs no pool and changes nothing.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ansible.builtin.action_common_attributes.facts
  - openrtc.livekit._registry.required
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  facts:
    support: none
  platform:
    platforms: posix
options:
  scaling:
    description: How the cluster scales, as C(livekit_scaling); of it C(profiles), C(measure), C(per_node) and C(cpus).
    type: dict
    default: {}
seealso:
  - module: openrtc.livekit.scale
  - module: openrtc.livekit.node_info
"""

EXAMPLES = r"""
- name: Fail where the cluster has less than a node's worth free
  openrtc.livekit.capacity_info:
    redis: "{{ livekit_redis }}"
  register: found
  failed_when: found.free < 1
"""

RETURN = r"""
nodes:
  description: Nodes that the registry knows as alive.
  returned: success
  type: list
  elements: dict
  contains:
    node_id:
      description: The node.
      type: str
    host:
      description: Its host, by its inventory name; its address where no executor tells.
      type: str
    serving:
      description: Whether it takes new rooms.
      type: bool
    load:
      description: Share of it that is used, 1 is full.
      type: float
    by:
      description: The fullest resource, such as V(tracks) or V(cpu).
      type: str
    expected:
      description: Share that its young rooms will take besides.
      type: float
    rooms:
      description: Rooms on it.
      type: int
    learned:
      description: Whether the profile was learned by a load test; else it is the shipped guess.
      type: bool
demand:
  description: Nodes that all load would fill, expected growth included.
  returned: success
  type: float
serving:
  description: Nodes that take new rooms.
  returned: success
  type: int
free:
  description: Nodes' worth that is free; below 0 when the cluster is overloaded.
  returned: success
  type: float
scaler:
  description: The last look and decision of whoever scales this cluster; none where nobody does.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils._registry_module import redis_settings, redis_spec
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import scaler
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry import connect
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import Reports
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.scaling_settings import ScalingSettings
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.scaling_view import Sight, loads


def main() -> None:
    module = AnsibleModule(
        argument_spec={**redis_spec(required=True), "scaling": {"type": "dict", "default": {}}},
        supports_check_mode=True,
    )
    try:
        measure = ScalingSettings.of(module.params["scaling"]).measure
        with connect(redis_settings(module.params["redis"])) as registry:
            sight = Sight(registry.snapshot(), Reports.read(registry), rooms=registry.room_details())
            last = scaler.status(registry)
        found, by = loads(sight, measure), sight.snapshot.rooms_by_node()
        nodes = []
        for node_id, load in found.by.items():
            place = sight.reports.place_of(node_id)
            nodes.append({
                "node_id": node_id, "host": place.host if place else sight.snapshot.nodes[node_id].ip, "serving": sight.serves(node_id),
                "load": round(load.share, 4), "by": load.by, "expected": round(found.grows[node_id], 4), "rooms": len(by.get(node_id, ())),
                "learned": measure.profile(place.host if place else "").learned,
            })
        serving = sum(n["serving"] for n in nodes)
        module.exit_json(changed=False, nodes=nodes, demand=round(found.units, 4), serving=serving, free=round(serving - found.units, 4), scaler=last)
    except FleetError as exc:
        module.fail_json(**exc.as_result())


if __name__ == "__main__":
    main()
