#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: room
short_description: Open or end a room of a LiveKit cluster
version_added: 0.1.0
description:
  - Opens a room through LiveKit's server API, on a chosen node if wanted, sets its metadata, or ends it.
  - Of an open room LiveKit changes nothing but its metadata. Where any other option differs from what the room has, this fails
    rather than end a call; end the room first if you mean it.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._api
  - openrtc.livekit._registry
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  name:
    description: Name of the room.
    type: str
    required: true
  state:
    description: V(present) opens the room, V(absent) ends it, for everybody in it.
    type: str
    choices: [present, absent]
    default: present
  metadata:
    description: Metadata of the room.
    type: str
  empty_timeout:
    description: Seconds that the room waits for its first participant.
    type: int
  departure_timeout:
    description: Seconds that the room stays after its last participant.
    type: int
  max_participants:
    description: How many may be in; V(0) for any number.
    type: int
  node_id:
    description:
      - Node to open the room on. LiveKit takes whatever is written here, a node that drains or is gone included, so give O(redis)
        too and the node is checked first.
      - Of a room that is open already the node is compared when O(redis) is given, and cannot be seen otherwise.
    type: str
seealso:
  - module: openrtc.livekit.room_info
  - module: openrtc.livekit.node_info
"""

EXAMPLES = r"""
- name: Open a room for a test call on one node
  openrtc.livekit.room:
    url: http://10.0.0.11:7880
    api_key: "{{ livekit_keys.keys() | first }}"
    api_secret: "{{ livekit_keys.values() | first }}"
    name: check-{{ 1000000 | random }}
    node_id: "{{ cluster.serving | first }}"
    empty_timeout: 30
    redis: "{{ livekit_redis }}"
  delegate_to: localhost

- name: End it
  openrtc.livekit.room:
    url: wss://livekit.example.com
    api_key: "{{ livekit_keys.keys() | first }}"
    api_secret: "{{ livekit_keys.values() | first }}"
    name: "{{ test_room }}"
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
room:
  description: The room as it is now, as in M(openrtc.livekit.room_info); in check mode as it would be. Empty when it is absent.
  returned: success
  type: dict
  sample: {name: daily, sid: RM_abc, metadata: "", empty_timeout: 300, departure_timeout: 20, max_participants: 0, num_participants: 0}
node_id:
  description: Node that the room is on, or would be opened on.
  returned: when O(redis) or O(node_id) is given and the room is present
  type: str
"""

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils import _registry_module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import registry
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.api import Api
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry_messages import Room

SETTINGS = ("metadata", "empty_timeout", "departure_timeout", "max_participants")


def settings(room: Room | None) -> dict[str, t.Any]:
    """What this module manages of a room; the diff and `changed` both come from here."""
    return {"name": room.name, **{key: getattr(room, key) for key in SETTINGS}} if room else {}


def refuse(tried: str, name: str, got: str, fix: str, code: str, **fields: t.Any) -> FleetError:
    return FleetError(tried, f"room {name}", got, fix, code=code, **fields)


def check_node(snapshot: registry.Snapshot, name: str, node_id: str, exists: bool) -> None:
    """A new room may go to a serving node only; an open one must be on the node already."""
    if exists:
        at = snapshot.room_node_map.get(name, "")
        if at != node_id:
            raise refuse("pin a room", name, f"it is open on {at or 'no node'}, not on {node_id}", "Use another name, or end the room first",
                         "room_elsewhere", node_id=at)
        return
    if node_id not in {n.id for n in snapshot.serving()}:
        node = snapshot.nodes.get(node_id)
        if node is None:
            got = "the registry does not know that node"
        elif not node.fresh(snapshot.taken_at):
            got = f"that node has not reported for {node.age(snapshot.taken_at):.0f} s"
        else:
            got = f"that node is {node.state}"
        raise refuse("pin a room", name, f"{node_id}: {got}", f"Serving now: {', '.join(n.id for n in snapshot.serving()) or 'no node'}",
                     "node_not_serving", node_id=node_id)


def present(params: dict[str, t.Any], api: Api, before: Room | None, check_mode: bool) -> tuple[Room, dict[str, t.Any]]:
    """(the room afterwards, extra results)."""
    name, node_id = params["name"], params["node_id"]
    wanted = {key: params[key] for key in SETTINGS if params[key] is not None}
    redis, extra = _registry_module.redis_settings(params["redis"]), {}
    store = registry.connect(redis) if redis else None
    try:
        if store and node_id:
            check_node(store.snapshot(), name, node_id, before is not None)
        if before is None:
            if check_mode:
                after = Room(
                    name=name, sid="", created_at=0, num_participants=0, num_publishers=0, max_participants=wanted.get("max_participants", 0),
                    empty_timeout=wanted.get("empty_timeout", 0), departure_timeout=wanted.get("departure_timeout", 0), active_recording=False,
                    metadata=wanted.get("metadata", ""),
                )
            else:
                after = api.create_room(name, node_id=node_id, **wanted)
        else:
            fixed = {key: (getattr(before, key), value) for key, value in wanted.items() if key != "metadata" and getattr(before, key) != value}
            if fixed:
                got = ", ".join(f"{key} is {have}, not {want}" for key, (have, want) in fixed.items())
                raise refuse("change an open room", name, got, "LiveKit cannot change that of an open room: leave the option out, or end the room first",
                             "room_differs", differs=sorted(fixed))
            after = before
            if "metadata" in wanted and wanted["metadata"] != before.metadata:
                after = dataclasses.replace(before, metadata=wanted["metadata"]) if check_mode else api.update_room_metadata(name, wanted["metadata"])
        if store and (before is not None or not check_mode):
            extra["node_id"] = store.snapshot().room_node_map.get(name, "")
        elif node_id:
            extra["node_id"] = node_id
    finally:
        if store:
            store.close()
    return after, extra


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_registry_module.api_spec(),
            **_registry_module.redis_spec(),
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "metadata": {"type": "str"},
            "empty_timeout": {"type": "int"},
            "departure_timeout": {"type": "int"},
            "max_participants": {"type": "int"},
            "node_id": {"type": "str"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        api = _registry_module.api_client(params)
        before = next(iter(api.list_rooms([params["name"]])), None)
        after: Room | None = None
        extra: dict[str, t.Any] = {}
        if params["state"] == "present":
            after, extra = present(params, api, before, module.check_mode)
        elif before and not module.check_mode:
            api.delete_room(params["name"])
    except FleetError as exc:
        module.fail_json(**exc.as_result())
    diff = {"before": settings(before), "after": settings(after)}
    module.exit_json(changed=diff["before"] != diff["after"], diff=diff, room=after.as_dict() if after else {}, **extra)


if __name__ == "__main__":
    main()
