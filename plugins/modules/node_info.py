#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: node_info
short_description: Tell which nodes a LiveKit cluster has and what they carry
version_added: 0.1.0
description:
  - Reads the registry that LiveKit's nodes keep in Redis, in one round trip. Nothing is written.
  - The registry knows neither the version of a node nor the slot that it runs in; M(openrtc.livekit.slot_info) tells both.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._registry.required
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  rooms:
    description: Return the names of each node's rooms too.
    type: bool
    default: false
  check_access:
    description:
      - Prove that the user of O(redis) may do all that LiveKit does, keys, channels and writes, and fail if not. The commands go into
        a transaction that is thrown away, so nothing changes.
    type: bool
    default: false
seealso:
  - module: openrtc.livekit.slot_info
  - module: openrtc.livekit.room_info
"""

EXAMPLES = r"""
- name: Which nodes are there?
  openrtc.livekit.node_info:
    redis:
      address: 10.0.0.5:6379
      password: "{{ redis_password }}"
  register: cluster

- name: Two nodes must be able to take rooms
  ansible.builtin.assert:
    that: cluster.serving | length >= 2

- name: See that a new Redis user is good enough for LiveKit
  openrtc.livekit.node_info:
    redis: "{{ livekit_redis }}"
    check_access: true
"""

RETURN = r"""
nodes:
  description: Every node of the registry, dead ones included, by address and start.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Identifier of the node, new at each start.
      type: str
    ip:
      description: Address that it gives to clients.
      type: str
    region:
      description: Its region.
      type: str
    state:
      description: V(SERVING), or V(SHUTTING_DOWN) while it drains. A dead node keeps its last state, see RV(nodes[].fresh).
      type: str
    fresh:
      description: Whether it reported within the last 5 seconds. LiveKit gives no room to a node that did not.
      type: bool
    age:
      description: Seconds since it last reported.
      type: float
    started_at:
      description: When it started, in Unix seconds.
      type: int
    updated_at:
      description: When it last reported, in Unix seconds.
      type: int
    num_rooms:
      description: Rooms it hosts.
      type: int
    num_clients:
      description:
        - Participants as the node counts them. Besides those it hosts, these are some whose signalling only passes through it.
      type: int
    mapped_rooms:
      description: Rooms that the registry sends to it.
      type: int
    rooms:
      description: Their names.
      type: list
      elements: str
      returned: O(rooms=true)
    participants:
      description: Participants in the rooms it hosts.
      type: int
      returned: O(rooms=true)
    num_tracks_in:
      description: Published tracks.
      type: int
    num_tracks_out:
      description: Subscribed tracks.
      type: int
    bytes_in_rate:
      description: Bytes received per second. There are C(bytes_out_rate), C(packets_in_rate) and C(packets_out_rate) too.
      type: float
    cpu_load:
      description: Load of the CPUs, V(0) to V(1).
      type: float
    num_cpus:
      description: Number of CPUs.
      type: int
    memory_used:
      description: Memory in use, in bytes.
      type: int
    memory_total:
      description: Memory there is, in bytes.
      type: int
  sample:
    - {id: ND_abc, ip: 192.0.2.11, region: eu-west, state: SERVING, fresh: true, age: 1.2, num_rooms: 4, num_clients: 9, mapped_rooms: 4, cpu_load: 0.11}
serving:
  description: Identifiers of the nodes that rooms can be placed on.
  returned: success
  type: list
  elements: str
rooms:
  description: Number of rooms of the cluster.
  returned: success
  type: int
all_stale:
  description: Whether there are nodes and not one is fresh. That points at Redis or at clocks, not at the nodes.
  returned: success
  type: bool
ghosts:
  description: What dead nodes left behind.
  returned: success
  type: dict
  contains:
    nodes:
      description: Nodes that nobody refreshes.
      type: list
      elements: str
    missing:
      description: Nodes that rooms are sent to though the registry does not know them.
      type: list
      elements: str
    rooms:
      description: Rooms that are sent to such a node, with its identifier.
      type: dict
    unmapped:
      description: Rooms that are sent to no node.
      type: list
      elements: str
clock_offset:
  description: Seconds by which the clock of the host that ran this is ahead of Redis' clock.
  returned: success
  type: float
taken_at:
  description: Time of the answer by Redis' clock, in Unix seconds.
  returned: success
  type: float
highest_version:
  description: The highest LiveKit version that ever ran in this cluster.
  returned: success
  type: str
redis_address:
  description: The Redis server that answered.
  returned: success
  type: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils import _registry_module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import registry
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry_messages import Room


def describe(snapshot: registry.Snapshot, details: t.Mapping[str, Room] | None) -> dict[str, t.Any]:
    """The result of the module; details: the rooms by name, None when they were not asked for."""
    by_node = snapshot.rooms_by_node()
    nodes = []
    for node in sorted(snapshot.nodes.values(), key=lambda n: (n.ip, n.started_at, n.id)):
        mapped = by_node.get(node.id, [])
        row = {**node.as_dict(), "age": round(node.age(snapshot.taken_at), 3), "fresh": node.fresh(snapshot.taken_at), "mapped_rooms": len(mapped)}
        if details is not None:
            row.update(rooms=mapped, participants=sum(details[name].num_participants for name in mapped if name in details))
        nodes.append(row)
    return {
        "nodes": nodes, "serving": [n.id for n in snapshot.serving()], "rooms": len(snapshot.rooms), "all_stale": snapshot.all_stale,
        "ghosts": snapshot.ghosts().as_dict(), "clock_offset": round(snapshot.clock_offset, 4), "taken_at": snapshot.taken_at,
        "highest_version": snapshot.highest_version,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_registry_module.redis_spec(required=True),
            "rooms": {"type": "bool", "default": False},
            "check_access": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        with registry.connect(_registry_module.redis_settings(module.params["redis"])) as store:
            if module.params["check_access"]:
                store.check_access()
            result = describe(store.snapshot(), store.room_details() if module.params["rooms"] else None)
            result["redis_address"] = store.address
    except FleetError as exc:
        module.fail_json(**exc.as_result())
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
