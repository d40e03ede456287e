#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: status
short_description: Print what every slot of the cluster runs
version_added: 0.1.0
description:
  - Joins what M(openrtc.livekit.slot_info) found on the hosts with what M(openrtc.livekit.node_info) found in the registry
    and prints it as a table. This is an action plugin and contacts no host.
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
  hosts:
    description: RV(openrtc.livekit.slot_info#module:slots) of each host, by its name.
    type: dict
    required: true
  nodes:
    description: RV(openrtc.livekit.node_info#module:nodes).
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Show the cluster
  openrtc.livekit.status:
    hosts:
      sfu1: "{{ slots.slots }}"
    nodes: "{{ registry.nodes }}"
"""

RETURN = r"""
rows:
  description: One entry per slot that is not free, and one per node of the registry that no slot runs.
  returned: success
  type: list
  elements: dict
  sample:
    - {host: sfu1, slot: 2, version: 1.13.5, state: serving, rooms: 4, participants: 9, cpu: 0.11, seconds: 310, node_id: ND_abc}
table:
  description: The printed lines.
  returned: success
  type: list
  elements: str
"""
