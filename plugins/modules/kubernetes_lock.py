#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_lock
short_description: Keep two runs from changing the same Kubernetes deployment
version_added: 0.1.0
description:
  - Holds the Lease C(livekit-change) in the namespace of the deployment. It expires by itself, and a run on the same machine takes over at once from one
    that was killed.
  - The Lease is no part of the deployment, so a task never counts as changed.
  - This is an action plugin and runs on the control machine, which needs the Python library C(kubernetes).
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._kubernetes
attributes:
  check_mode:
    support: full
    description: Fails as a run would where another run holds it.
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  namespace:
    description: Namespace of the deployment.
    type: str
    required: true
  state:
    description:
      - V(held) takes it, or holds it longer, or fails with who holds it. Where there is no such namespace yet it does nothing.
      - V(released) gives it back; what another run holds by then is left alone.
    type: str
    choices: [held, released]
    default: held
  ttl:
    description: Seconds until it expires by itself.
    type: float
    default: 900
seealso:
  - module: openrtc.livekit.lock
"""

EXAMPLES = r"""
- name: Keep other runs away
  openrtc.livekit.kubernetes_lock:
    namespace: livekit

- name: Let them again
  openrtc.livekit.kubernetes_lock:
    namespace: livekit
    state: released
"""

RETURN = r"""
held:
  description: Whether it is held, or could be in check mode; V(false) where there is no namespace yet.
  returned: O(state=held)
  type: bool
failure:
  description: What went wrong, with C(code). With the code V(locked) there are C(owner) and C(expires_in), in seconds.
  returned: failure
  type: dict
"""
