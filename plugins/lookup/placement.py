# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: placement
short_description: Which node of a LiveKit cluster a new room should go to
version_added: 0.1.0
author: openrtc.livekit contributors (@openrtc)
description:
  - Says for each room where it is or, for a new one, which node will carry least once all rooms have grown. Nothing is created or written; several
    rooms of one lookup count each other.
  - Runs on the controller, which must reach Redis. To create the rooms use the module P(openrtc.livekit.placement#module).
extends_documentation_fragment:
  - openrtc.livekit._registry.required
options:
  _terms:
    description: Names of rooms.
    type: list
    elements: str
    required: true
  participants:
    description: How many will come to each. Where it is not given, as many as came to such rooms before.
    type: float
  video:
    description: How many of these publish video, likewise.
    type: float
  labels:
    description: Labels of the rooms.
    type: list
    elements: str
    default: []
  region:
    description: Region that the node should be in.
    type: str
    default: ""
  policy:
    description: How rooms are placed, as C(livekit_placement).
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Open a webinar where there is space for it
  openrtc.livekit.room:
    url: "{{ livekit_public_url }}"
    api_key: "{{ livekit_keys.keys() | first }}"
    api_secret: "{{ livekit_keys.values() | first }}"
    name: webinar
    node_id: "{{ lookup('openrtc.livekit.placement', 'webinar', participants=500, redis=livekit_redis) }}"
"""

RETURN = r"""
_raw:
  description: A node for each room.
  type: list
  elements: str
"""

import typing as t

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.openrtc.livekit.plugins.module_utils._registry_module import redis_settings
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement.desk import Desk
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement.policy import Policy, Wish
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry import connect
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import Reports


class LookupModule(LookupBase):
    def run(self, terms: list[t.Any], variables: dict[str, t.Any] | None = None, **kwargs: t.Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        option = self.get_option
        asked = {name: option(name) for name in ("participants", "video") if option(name) is not None}
        if any(not 0 <= value < float("inf") for value in asked.values()):
            raise AnsibleError("participants and video must be 0 or more")
        try:
            with connect(redis_settings(option("redis"))) as registry:
                desk = Desk(registry, Policy.from_mapping(option("policy")), "lookup placement")
                desk.look(registry.snapshot(), Reports.read(registry))
                return [desk.preview(Wish(str(room), labels=tuple(option("labels")), region=option("region"), **asked)).node_id for room in terms]
        except FleetError as exc:
            raise AnsibleError(str(exc)) from exc
