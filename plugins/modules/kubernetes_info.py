#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_info
short_description: Tell what of a deployment there is in a Kubernetes cluster
version_added: 0.1.0
description:
  - Reads the machines of a cluster with the executors that stand there, the slots with their pods, and what is not up yet; it can wait for the latter.
  - Changes nothing. This is an action plugin and runs on the control machine, which needs the Python library C(kubernetes).
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._kubernetes
  - openrtc.livekit._kubernetes.deployment
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  keys:
    description: API keys with their secrets, to tell which of them each slot accepts. They are compared with the cluster's Secrets and never returned.
    type: dict
  previous:
    description:
      - Return the generation that was in service before the present one, with the variables that it was made from. These hold secrets, so set
        C(no_log) on the task.
    type: bool
    default: false
  wait_for:
    description: Wait until V(base), everything but the LiveKit nodes, or the nodes of the V(generation) O(name) are ready.
    type: str
    choices: [base, generation]
  name:
    description: Name of the Deployment of a generation, for O(wait_for=generation).
    type: str
    default: ""
  timeout:
    description: Seconds to wait at most.
    type: float
    default: 180
seealso:
  - module: openrtc.livekit.kubernetes_plan
  - module: openrtc.livekit.slot_info
"""

EXAMPLES = r"""
- name: Which machines are there?
  openrtc.livekit.kubernetes_info:
    settings: {namespace: livekit, node_selector: {media: "yes"}}
  register: cluster
"""

RETURN = r"""
machines:
  description: Machines for media, and others with a pod of ours, by name.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Name of the machine., type: str}
    address: {description: Its internal address., type: str}
    executor: {description: The executor's pod that is ready there. Empty without one., type: str}
    cordoned: {description: Whether it takes no new pods., type: bool}
    drained: {description: Whether that is because the playbook openrtc.livekit.drain drained it., type: bool}
    ready: {description: Whether the cluster hears of it., type: bool}
    nodes: {description: "How many LiveKit nodes run there, those that drain included.", type: int}
  sample:
    - {name: node1, address: 10.0.0.11, executor: livekit-executor-x7k2p, cordoned: false, drained: false, ready: true, nodes: 1}
balancers:
  description: HAProxy pods that are ready, each with C(name) and C(address).
  returned: success
  type: list
  elements: dict
slots:
  description:
    - The slots of the cluster as M(openrtc.livekit.kubernetes_plan) tells them, each with C(name) of its Deployment, C(replicas), C(ready), C(ports) and
      C(pods), which have C(name), C(machine), C(state) and C(serving).
    - With O(keys) each has C(api_keys) and C(other_secrets) as in M(openrtc.livekit.slot_info).
  returned: success
  type: list
  elements: dict
rolling:
  description: What is not up yet of everything but the LiveKit nodes, in words.
  returned: success
  type: list
  elements: str
  sample: ["DaemonSet/livekit-executor: 2 of 3"]
trouble:
  description: Why pods of LiveKit nodes cannot come up, by their names; only what waiting does not mend.
  returned: success
  type: dict
waiting:
  description: What the scheduler says of pods that have no machine, by their names.
  returned: success
  type: dict
previous:
  description: The generation to go back to, with C(generation), C(reason), C(model) and C(settings). C(generation) is empty where nothing is to be done.
  returned: O(previous=true)
  type: dict
failure:
  description: What went wrong, with C(code); besides those of the API V(not_up), V(gate_pods), V(pod_failed) and V(no_previous_generation).
  returned: failure
  type: dict
"""
