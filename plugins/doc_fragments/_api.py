# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that use LiveKit's server API. Note that this doc fragment is PRIVATE to the collection."""
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
requirements:
  - livekit-api (Python library, 1.0 or later)
options:
  url:
    description: URL of the cluster, as clients get it or of any node. V(ws), V(wss), V(http) and V(https) will do.
    type: str
    required: true
  api_key:
    description: Key of LiveKit's C(keys).
    type: str
    required: true
  api_secret:
    description: Secret of that key.
    type: str
    required: true
  ca_file:
    description: Certificate of a private CA to trust besides the system's, a PEM file on the host that the task runs on.
    type: path
  timeout:
    description: Seconds to wait for an answer.
    type: float
    default: 10
"""
