#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_mark
short_description: Mark what has passed its gates in a Kubernetes cluster
version_added: 0.1.0
description:
  - Lets callers come to pods, or notes that a generation passed its gates as a whole; from then on executors let callers come to its later pods.
  - This is an action plugin and runs on the control machine, which needs the Python library C(kubernetes). Of Secrets it reads no contents.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._kubernetes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  namespace:
    description: Namespace of the deployment.
    type: str
    required: true
  pods:
    description: Names of pods that callers may come to.
    type: list
    elements: str
    default: []
  name:
    description: Name of the Deployment and Secret of a generation that passed.
    type: str
  generation:
    description: Name of the generation. Required with O(name).
    type: str
seealso:
  - module: openrtc.livekit.kubernetes_gate
"""

EXAMPLES = r"""
- name: Let callers in
  openrtc.livekit.kubernetes_mark:
    namespace: livekit
    pods: [livekit-s2-3f1c0a9be274-7d9c-x2x7q]
"""

RETURN = r"""
marked:
  description: Names of the objects that got a mark.
  returned: success
  type: list
  elements: str
failure:
  description: What went wrong, with C(code).
  returned: failure
  type: dict
"""
