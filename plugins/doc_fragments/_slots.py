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
  target:
    description:
      - What runs the nodes of the host, V(native) units of systemd, V(compose) containers of Docker, one Compose project per slot.
      - V(kubernetes) are the pods of a machine, seen from the pod of its executor. A generation is started there by the role
        P(openrtc.livekit.kubernetes#role) alone.
    type: str
    choices: [native, compose, kubernetes]
    default: native
  compose:
    description:
      - How the container of a slot is made, for O(target=compose). Names as in the role variables C(livekit_compose_*), among them V(image),
        V(project) (prefix of the projects' names), V(socket), V(archive_dir), V(nofile), V(pids), V(oom_score_adj), V(log_size), V(log_files)
        and V(privileged_ports).
    type: dict
    default: {}
  opt_dir:
    description: Directory that holds one directory per installed LiveKit version.
    type: path
    default: /opt/livekit
"""
