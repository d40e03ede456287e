# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: token
short_description: Make a LiveKit access token
version_added: 0.1.0
author: openrtc.livekit contributors (@openrtc)
description:
  - Makes the token (JWT) with which a client joins a room, or with which a program uses LiveKit's server API. Nothing is contacted, and
    no Python library is needed.
  - With O(room) and no O(grants) the token lets its holder join that room, publish and subscribe.
  - A token is a secret for as long as it is valid. Keep it out of URLs and, with C(no_log), out of logs.
options:
  _terms:
    description: Identities, for one token each. O(identity) is used where there are none.
    type: list
    elements: str
  key:
    description: Key of LiveKit's C(keys).
    type: str
    required: true
    env:
      - name: LIVEKIT_API_KEY
  secret:
    description: Secret of that key.
    type: str
    required: true
    env:
      - name: LIVEKIT_API_SECRET
  identity:
    description: Who the holder is, unique in the room. Needed to join.
    type: str
    default: ""
  room:
    description: Room that the token is for. Needed to join and by the grant V(room_admin).
    type: str
    default: ""
  ttl:
    description: Seconds that the token is valid. Who has joined by then stays.
    type: int
    default: 21600
  grants:
    description:
      - What the holder may do, by the names that LiveKit's SDKs use.
      - On a room are V(room_join), V(can_publish), V(can_subscribe), V(can_publish_data), V(can_publish_sources) (a list of V(camera), V(microphone),
        V(screen_share) and V(screen_share_audio)), V(can_update_own_metadata), V(can_subscribe_metrics), V(hidden), V(recorder) and V(room_admin).
      - On the cluster are V(room_create), which ends rooms too, V(room_list), V(room_record), V(ingress_admin) and V(agent).
      - What a client may do in a room is allowed unless it is V(false).
    type: dict
    default: {}
  sip:
    description: What the holder may do with telephony, V(admin) and V(call).
    type: dict
    default: {}
  name:
    description: Name to show to others.
    type: str
    default: ""
  metadata:
    description: Metadata of the participant.
    type: str
    default: ""
  attributes:
    description: Attributes of the participant.
    type: dict
    default: {}
  kind:
    description: Kind of the participant.
    type: str
    choices: ["", standard, ingress, egress, sip, agent]
    default: ""
"""

EXAMPLES = r"""
- name: A token with which alice joins the room daily
  ansible.builtin.set_fact:
    token: "{{ lookup('openrtc.livekit.token', room='daily', identity='alice', key=livekit_key, secret=livekit_secret) }}"
  no_log: true

- name: One that may only watch, for ten minutes
  ansible.builtin.set_fact:
    token: >-
      {{ lookup('openrtc.livekit.token', room='daily', identity='guest', ttl=600, key=livekit_key, secret=livekit_secret,
                grants={'room_join': true, 'can_publish': false}) }}
  no_log: true

- name: Ask the server API by hand
  ansible.builtin.uri:
    url: https://livekit.example.com/twirp/livekit.RoomService/ListRooms
    method: POST
    body_format: json
    body: {}
    headers:
      Authorization: "Bearer {{ lookup('openrtc.livekit.token', grants={'room_list': true}, ttl=60, key=livekit_key, secret=livekit_secret) }}"
"""

RETURN = r"""
_raw:
  description: One token for each identity, or one if there is no term.
  type: list
  elements: str
"""

import typing as t

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import api
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError


class LookupModule(LookupBase):
    def run(self, terms: list[t.Any], variables: dict[str, t.Any] | None = None, **kwargs: t.Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        option = self.get_option
        try:
            return [
                api.token(
                    option("key"), option("secret"), identity=str(identity), room=option("room"), ttl=option("ttl"), grants=option("grants"),
                    sip=option("sip"), name=option("name"), metadata=option("metadata"), kind=option("kind"), attributes=option("attributes"),
                )
                for identity in terms or [option("identity")]
            ]
        except FleetError as exc:
            raise AnsibleError(str(exc)) from exc
