#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Check a deployment's variables before any host is touched
version_added: 0.1.0
description:
  - Finds what would make LiveKit refuse its configuration or callers fail later, from the inventory alone, such as unknown keys,
    keys that came with or went away in another version, overlapping ports, short secrets, two hosts with one node address, or
    a public URL that passes the balancer by.
  - All problems are told at once, each with its fix. This is an action plugin and contacts no host.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  target:
    description: What everything runs as, C(livekit_target). V(kubernetes) is refused, as a cluster makes its nodes by itself and needs no hosts.
    type: str
    choices: [native, compose, kubernetes]
    default: native
  model:
    description: The variables of role P(openrtc.livekit.model#role) as one mapping.
    type: dict
    required: true
  layout:
    description: How the ports of a slot follow from its number.
    type: dict
    default: {}
  placement:
    description: How new rooms are placed, as C(livekit_placement).
    type: dict
    default: {}
  scaling:
    description: How the cluster grows and shrinks, as C(livekit_scaling).
    type: dict
    default: {}
  hosts:
    description: Inventory names of the media hosts. Their C(livekit_address) and C(livekit_node_ip) are compared.
    type: list
    elements: str
    default: []
  balancers:
    description: Inventory names of the balancers; a public URL may name one that is a media host too.
    type: list
    elements: str
    default: []
  claims:
    description: Ports that something else on the media hosts uses.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: The port.
        type: int
        required: true
      use:
        description: What it is for, as shown in the message.
        type: str
        required: true
      protocol:
        description: Its protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
"""

EXAMPLES = r"""
- name: Check the inventory
  openrtc.livekit.preflight:
    model: "{{ livekit_model }}"
    hosts: "{{ groups['livekit_server'] }}"
"""

RETURN = r"""
hosts:
  description: The media hosts as C(name), C(address) and C(node_ip).
  returned: success
  type: list
  elements: dict
failure:
  description: What is wrong.
  returned: failure
  type: dict
  contains:
    problems:
      description: One entry per problem with its code, the variable, a text and the fix.
      type: list
      elements: dict
"""
