# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that work on the slots of a host. Note that this doc fragment is PRIVATE to the collection."""
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  layout:
    description:
      - How the ports of a slot follow from its number. Names as in the role variable C(livekit_layout), among them
        V(count), V(step), V(signal), V(ice_tcp), V(metrics), V(udp_start) and V(udp_width).
    type: dict
    default: {}
  address:
    description: Address of this host at which its own nodes answer.
    type: str
    default: 127.0.0.1
  config_dir:
    description: Directory that holds one directory per slot.
    type: path
    default: /etc/livekit/slots
  state_dir:
    description: Directory that holds the gate mark of each slot.
    type: path
    default: /var/lib/livekit/slots
  opt_dir:
    description: Directory that holds one directory per installed LiveKit version.
    type: path
    default: /opt/livekit
"""
