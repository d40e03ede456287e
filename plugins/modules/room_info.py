#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: room_info
short_description: List the rooms of a LiveKit cluster
version_added: 0.1.0
description:
  - Lists rooms and, if wanted, who is in them, through LiveKit's server API. Any node answers for the whole cluster.
  - With O(redis) it also tells which node hosts each room, which the API does not know.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._api
  - openrtc.livekit._registry
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  names:
    description: Only these rooms. All rooms if not given.
    type: list
    elements: str
  participants:
    description: Return the participants of each room too.
    type: bool
    default: false
seealso:
  - module: openrtc.livekit.room
  - module: openrtc.livekit.node_info
"""

EXAMPLES = r"""
- name: Who is in which room, and where?
  openrtc.livekit.room_info:
    url: wss://livekit.example.com
    api_key: "{{ livekit_keys.keys() | first }}"
    api_secret: "{{ livekit_keys.values() | first }}"
    participants: true
    redis: "{{ livekit_redis }}"
  delegate_to: localhost
  register: cluster

- name: Rooms with a phone line in them
  ansible.builtin.debug:
    msg: "{{ cluster.rooms | selectattr('kinds.SIP', 'defined') | map(attribute='name') }}"
"""

RETURN = r"""
rooms:
  description: One entry per room, by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name.
      type: str
    sid:
      description: LiveKit's identifier of this opening of the room.
      type: str
    num_participants:
      description: Number of participants, a few seconds behind.
      type: int
    num_publishers:
      description: Number of those who publish.
      type: int
    max_participants:
      description: How many may be in; V(0) for any number.
      type: int
    empty_timeout:
      description: Seconds that the room waits for its first participant.
      type: int
    departure_timeout:
      description: Seconds that the room stays after its last participant.
      type: int
    metadata:
      description: Metadata.
      type: str
    created_at:
      description: When it was opened, in Unix seconds.
      type: int
    active_recording:
      description: Whether it is recorded.
      type: bool
    node_id:
      description: Node that hosts it, or an empty string.
      type: str
      returned: when O(redis) is given
    node_ip:
      description: Address of that node, or an empty string if the node is gone.
      type: str
      returned: when O(redis) is given
    participants:
      description: Who is in, by identity.
      type: list
      elements: dict
      returned: O(participants=true)
    kinds:
      description: Number of participants by kind, such as V(STANDARD), V(SIP), V(INGRESS), V(EGRESS) or V(AGENT).
      type: dict
      returned: O(participants=true)
  sample:
    - {name: daily, sid: RM_abc, num_participants: 2, metadata: "", kinds: {STANDARD: 2}, node_id: ND_abc, node_ip: 192.0.2.11}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils import _registry_module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import registry
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry_messages import count_kinds


def collect(params: dict[str, t.Any]) -> list[dict[str, t.Any]]:
    api = _registry_module.api_client(params)
    rows = [room.as_dict() for room in api.list_rooms(params["names"])]
    if params["participants"]:
        found = api.participants_of([row["name"] for row in rows])
        for row in rows:
            people = found[row["name"]]
            row.update(participants=[p.as_dict() for p in people], kinds=count_kinds(people))
    redis = _registry_module.redis_settings(params["redis"])
    if redis:
        with registry.connect(redis) as store:
            snapshot = store.snapshot()
        for row in rows:
            node = snapshot.node_of(row["name"])
            row.update(node_id=snapshot.room_node_map.get(row["name"], ""), node_ip=node.ip if node else "")
    return rows


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_registry_module.api_spec(),
            **_registry_module.redis_spec(),
            "names": {"type": "list", "elements": "str"},
            "participants": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        rows = collect(module.params)
    except FleetError as exc:
        module.fail_json(**exc.as_result())
    module.exit_json(changed=False, rooms=rows)


if __name__ == "__main__":
    main()
