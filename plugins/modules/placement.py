#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: placement
short_description: Choose nodes for new rooms of a LiveKit cluster, and create them there
version_added: 0.1.0
description:
  - Says which node each room goes to, by the load that is expected of it and of all rooms that are still growing, so that a burst of rooms is spread
    although nodes report their load only every two seconds.
  - With O(create) the rooms are created there through LiveKit's server API. A room that exists stays where it is. Several runs and controllers at once
    place a room only once.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._registry.required
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  rooms:
    description: The rooms, in the order in which they are placed.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name.
        type: str
        required: true
      participants:
        description: How many will come. Where it is not given, as many as came to such rooms before.
        type: float
      video:
        description: How many of these publish video, likewise.
        type: float
      labels:
        description: Labels of the room, for rules and for what is learnt of such rooms.
        type: list
        elements: str
        default: []
      node_label:
        description: Label that the node should have, one of O(policy)'s C(labels).
        type: str
      region:
        description: Region that the node should be in.
        type: str
      version:
        description: LiveKit version that the node should run.
        type: str
      required:
        description: Rather fail than use a node without that label, region or version.
        type: bool
        default: false
  policy:
    description: How rooms are placed, as C(livekit_placement).
    type: dict
    default: {}
  create:
    description: Create the rooms. Needs O(url), O(api_key) and O(api_secret).
    type: bool
    default: false
  url:
    description: URL of the cluster, as clients get it or of any node.
    type: str
  api_key:
    description: Key of LiveKit's C(keys).
    type: str
  api_secret:
    description: Secret of that key.
    type: str
  ca_file:
    description: Certificate of a private CA to trust besides the system's, a PEM file on the host that the task runs on.
    type: path
  timeout:
    description: Seconds to wait for an answer of the API.
    type: float
    default: 10
  owner:
    description: Who places, as it stands in the registry. Default is the host and process that the module runs in.
    type: str
requirements:
  - livekit-api (Python library, 1.0 or later), with O(create)
seealso:
  - module: openrtc.livekit.room
  - module: openrtc.livekit.room_move
"""

EXAMPLES = r"""
- name: Where would tomorrow's all-hands go?
  openrtc.livekit.placement:
    redis: "{{ livekit_redis }}"
    policy: "{{ livekit_placement }}"
    rooms:
      - {name: all-hands, participants: 250, video: 4}
  register: placed

- name: Open a course's rooms ahead
  openrtc.livekit.placement:
    redis: "{{ livekit_redis }}"
    rooms:
      - {name: exam-1, participants: 30, labels: [exam]}
      - {name: exam-2, participants: 30, labels: [exam]}
    create: true
    url: "{{ livekit_public_url }}"
    api_key: "{{ livekit_keys.keys() | first }}"
    api_secret: "{{ livekit_keys.values() | first }}"
  delegate_to: localhost
"""

RETURN = r"""
placements:
  description: One entry per room, in the order given.
  returned: success
  type: list
  elements: dict
  contains:
    room:
      description: Name of the room.
      type: str
    node_id:
      description: Its node.
      type: str
    host:
      description: The host that the node runs on, by its inventory name; its address where no executor tells.
      type: str
    exists:
      description: Whether the room was there already.
      type: bool
    reason:
      description: Why that node.
      type: str
    participants:
      description: How many are expected, of a new room.
      type: float
    node_share:
      description: Share of the node's capacity that is used once all its rooms have grown, of a new room.
      type: float
"""

import os
import socket
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils import _registry_module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.api import Api
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement.desk import Desk, Settled
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement.policy import Policy, Wish
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry import connect
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import Reports

ROOM: dict[str, t.Any] = {
    "name": {"type": "str", "required": True}, "participants": {"type": "float"}, "video": {"type": "float"},
    "labels": {"type": "list", "elements": "str", "default": []}, "node_label": {"type": "str"}, "region": {"type": "str"},
    "version": {"type": "str"}, "required": {"type": "bool", "default": False},
}


def main() -> None:
    api = _registry_module.api_spec()
    for name in ("url", "api_key", "api_secret"):
        del api[name]["required"]
    module = AnsibleModule(
        argument_spec={
            **_registry_module.redis_spec(required=True),
            **api,
            "rooms": {"type": "list", "elements": "dict", "required": True, "options": ROOM},
            "policy": {"type": "dict", "default": {}},
            "create": {"type": "bool", "default": False},
            "owner": {"type": "str"},
        },
        required_if=[("create", True, ("url", "api_key", "api_secret"))],
        supports_check_mode=True,
    )
    p = module.params
    done: list[dict[str, t.Any]] = []
    try:
        policy, wishes = Policy.from_mapping(p["policy"]), [wish_of(room) for room in p["rooms"]]
        client = _registry_module.api_client(p) if p["create"] else None
        with connect(_registry_module.redis_settings(p["redis"])) as registry:
            reports = Reports.read(registry)
            desk = Desk(registry, policy, p["owner"] or f"{socket.gethostname()} pid {os.getpid()}")
            desk.look(registry.snapshot(), reports)
            for wish in wishes:
                settled = create(desk, client, wish) if client and not module.check_mode else desk.preview(wish)
                done.append(row(wish, settled, desk))
    except FleetError as exc:
        module.fail_json(changed=p["create"] and any(not d["exists"] for d in done), placements=done, **exc.as_result())
    new = {d["room"]: d["node_id"] for d in done if not d["exists"]} if p["create"] else {}
    old = {d["room"]: d["node_id"] for d in done if d["room"] not in new} if p["create"] else {}
    module.exit_json(changed=bool(new), placements=done, diff={"before": old, "after": {**old, **new}})


def wish_of(room: t.Mapping[str, t.Any]) -> Wish:
    given = {k: v for k, v in room.items() if v is not None and k not in ("name", "labels")}
    for name in ("participants", "video"):
        if not 0 <= given.get(name, 0) < float("inf"):
            raise FleetError("place a room", room["name"], f"{name} is {given[name]:g}", "Give 0 or more", code="bad_request")
    if not room["name"].strip():
        raise FleetError("place a room", "rooms", "a name is empty", "Name every room", code="bad_request")
    return Wish(room["name"], labels=tuple(room["labels"]), **given)


def create(desk: Desk, client: Api, wish: Wish) -> Settled:
    """Create the room on its node, unless it is there already."""
    settled = desk.settle(wish)
    if settled.kind == "found":
        return settled
    try:
        client.create_room(wish.room, node_id=settled.node_id)
    except FleetError as exc:
        if exc.failure["code"] in ("api_error", "api_unauthorized", "api_not_found"):  # else it may yet be created: the claim stays
            desk.release(wish, settled.node_id)
        raise
    home = desk.home(wish.room) or settled.node_id
    return settled if home == settled.node_id else Settled("found", home)


def row(wish: Wish, settled: Settled, desk: Desk) -> dict[str, t.Any]:
    choice, target = settled.choice, desk.placer.targets.get(settled.node_id)
    result = {"room": wish.room, "node_id": settled.node_id, "host": target.host if target else "", "exists": settled.kind != "new",
              "reason": choice.reason if choice else "it is there already"}
    if choice:
        result.update(participants=round(choice.size.participants, 1), node_share=round(choice.share, 3))
    return result


if __name__ == "__main__":
    main()
