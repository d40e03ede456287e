#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_plan
short_description: What a Kubernetes cluster runs, and what has to be done there
version_added: 0.1.0
description:
  - Reads a cluster through its API, judges whether the deployment can run there, and names the steps that lead to it. Everything that is
    wrong (ports that other pods have, more nodes than machines, missing kinds, rights, a StorageClass) is said here, before anything changes.
  - Changes nothing. Objects that stay are applied as a trial that the cluster does not keep, so that only those that differ need be
    applied.
  - This is an action plugin and runs on the control machine, which needs the Python library C(kubernetes).
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._kubernetes
  - openrtc.livekit._kubernetes.deployment
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: The slots as they are and as they will be.
  platform:
    platforms: posix
options:
  model:
    description: The shared model, C(livekit_model) of the role P(openrtc.livekit.model#role).
    type: dict
    required: true
  haproxy:
    description: The text of C(haproxy.cfg).
    type: str
    default: ""
  controller:
    description: What the role P(openrtc.livekit.controller#role) sets of C(controller.json).
    type: dict
    default: {}
  generation:
    description:
      - Name of a generation that was there before and runs again, with O(model) and O(settings) as they were then
        (RV(openrtc.livekit.kubernetes_info#module:previous)). Only its own steps are planned then.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Look at the cluster
  openrtc.livekit.kubernetes_plan:
    model: "{{ livekit_model }}"
    settings: {replicas: 3, node_selector: {media: "yes"}}
    layout: "{{ livekit_layout | combine({'count': livekit_slots}) }}"
  register: plan
"""

RETURN = r"""
generation:
  description: Name of the generation that is to run.
  returned: success
  type: str
  sample: 3f1c0a9be274
slot:
  description: The slot that it runs in, or will.
  returned: success
  type: int
name:
  description: Name of its Deployment and its Secret.
  returned: success
  type: str
  sample: livekit-s2-3f1c0a9be274
reason:
  description: Why a slot was chosen, or why nothing is to be done.
  returned: success
  type: str
steps:
  description:
    - The steps by their kind, in the order in which they are to be taken, of V(discard), V(create), V(gate), V(serve), V(point), V(scale),
      V(retire) and V(prune). Empty where nothing is to be done.
    - Each has C(name), C(slot), C(reason), C(replicas) and C(names).
  returned: success
  type: dict
differs:
  description: Of the objects that stay, those that applying would change, by the word of the cluster. All where the namespace is missing.
  returned: success
  type: list
  elements: str
  sample: [Service/livekit]
retire:
  description: Names of all Deployments that are to be deleted at the end; their pods drain.
  returned: success
  type: list
  elements: str
prune:
  description: What nothing uses any more, each with C(api_version), C(kind) and C(name).
  returned: success
  type: list
  elements: dict
slots:
  description: The slots of the cluster as they are, each with C(label).
  returned: success
  type: list
  elements: dict
nodes:
  description: The slots of each machine, by its name.
  returned: success
  type: dict
waiting:
  description: What the scheduler says of pods that have no machine, by their name.
  returned: success
  type: dict
namespace_exists:
  description: Whether the namespace is there already.
  returned: success
  type: bool
"""
