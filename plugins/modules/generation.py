#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: generation
short_description: Ensure which generation of LiveKit a media host runs, without ending a call
version_added: 0.1.0
description:
  - A generation is a LiveKit version together with its configuration, keys and certificates. A change of any of them starts
    the new generation in a free slot beside the old one. When it has passed its gates, the balancer takes it and the old node drains,
    that is, it ends by itself when its last participant leaves.
  - A gate that fails ends the new node; the old one never noticed. A run that was killed is finished by the next one.
  - While it changes a host that has Redis, it holds the lock C(host:NAME) in it (M(openrtc.livekit.lock)). A second run with something to change
    there fails with the code V(locked) and tells who holds it.
  - This is an action plugin. Configuration is rendered, gates are judged and calls are made on the control machine;
    on the host the modules M(openrtc.livekit.slot_info), M(openrtc.livekit.release) or M(openrtc.livekit.image), and M(openrtc.livekit.slot)
    do the rest.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._slots
attributes:
  check_mode:
    support: full
    description: Reads the slots and tells what would be started, gated and drained; places no call.
  diff_mode:
    support: full
    description: Shows the slots and the configuration file before and after, secrets masked.
  platform:
    platforms: posix
options:
  model:
    description:
      - The variables of role P(openrtc.livekit.model#role) as one mapping. With O(target=compose) it has C(livekit_server_image) too, which takes
        the place of V(image) in O(compose), so that going back to a generation brings its image back.
    type: dict
    required: true
  source:
    description:
      - What the host is to run. V(model) is what O(model) says.
      - V(previous) is the generation that was in service before the present one, made again from the variables that its slot has kept. It starts
        beside and passes the same gates as any other, and then the present one drains. A host that the newest change did not reach, or that went back
        already, is left as it is.
      - V(last) is the generation in service, or where none is, the one that was last. LiveKit cannot take a drain back, so this starts a fresh
        node of the same generation beside the one that drains.
      - Fails with the code V(no_previous_generation) where the host has no such generation, and with V(rollback_unclear) where
        it cannot be told whether the newest change reached it.
    type: str
    choices: [model, previous, last]
    default: model
  fleet:
    description:
      - For O(source=previous), the slots of all hosts as M(openrtc.livekit.slot_info) returns them with C(model=digests), by host. From
        them follows which hosts the newest change has reached. Without it every host counts as reached.
    type: dict
    default: {}
  release_url:
    description: Where the release is downloaded from, if it is not on the host yet; see M(openrtc.livekit.release).
    type: str
    default: https://github.com/livekit/livekit/releases/download
  gates:
    description:
      - What a new node must pass. V(node) is always part of it (C(GET /) gives 200, the registry shows it serving).
      - V(call) is a real call, pinned to the node, whose media must arrive at this control machine.
      - V(balancer) waits until every balancer of O(balancer_pages) sends connections to it, before the old node is drained.
    type: list
    elements: str
    choices: [node, call, balancer]
    default: [node, call, balancer]
  balancer_hosts:
    description: Names of the HAProxies in front. When there are any, O(balancer_pages) must be given for the gate V(balancer).
    type: list
    elements: str
    default: []
  balancer_pages:
    description:
      - Statistics pages, as CSV, of the HAProxies in front. V(http://192.0.2.10:8404/;csv) is one.
    type: list
    elements: str
    default: []
  balancer_username:
    description: User of these pages.
    type: str
  balancer_password:
    description: Password of these pages.
    type: str
  peers:
    description: Node addresses of all media hosts, to which the embedded TURN may relay where they are private.
    type: list
    elements: str
    default: []
  probe_address:
    description: Address at which the control machine reaches the host; default is O(address).
    type: str
  ready_timeout:
    description: Seconds until a started node must answer and be in the registry.
    type: float
    default: 20
  call_timeout:
    description: Seconds until the media of the gate's call must have arrived.
    type: float
    default: 20
  balancer_timeout:
    description: Seconds until the balancers must take the node.
    type: float
    default: 15
seealso:
  - module: openrtc.livekit.slot
  - module: openrtc.livekit.slot_info
  - module: openrtc.livekit.call_probe
"""

EXAMPLES = r"""
- name: Run what the inventory says
  openrtc.livekit.generation:
    model: "{{ livekit_model }}"
    layout: "{{ livekit_layout }}"
    address: "{{ livekit_address }}"

- name: Go back to what this host ran before
  openrtc.livekit.generation:
    model: "{{ livekit_model }}"
    source: previous

- name: What would a run change?
  openrtc.livekit.generation:
    model: "{{ livekit_model }}"
  check_mode: true
  diff: true
"""

RETURN = r"""
generation:
  description: Name of the desired generation; none where nothing is to be done whatever it is.
  returned: success
  type: str
  sample: 0a1b2c3d4e5f
slot:
  description: Slot that runs it.
  returned: success
  type: int
drained:
  description: Slots that were told to drain.
  returned: success
  type: list
  elements: int
drained_nodes:
  description: The nodes of these slots, those that ran.
  returned: success
  type: list
  elements: dict
  sample: [{node_id: ND_abc, slot: 1}]
reason:
  description: Why there was something to do, or not.
  returned: success
  type: str
slots:
  description: The slots after the run, as M(openrtc.livekit.slot_info) returns them.
  returned: success
  type: list
  elements: dict
timeline:
  description: What was done, in seconds since the begin.
  returned: success
  type: list
  elements: dict
  sample: [{t: 0.9, step: started}, {t: 3.2, step: call passed}]
probe:
  description: Figures of the gate's call.
  returned: when a call was placed
  type: dict
"""
