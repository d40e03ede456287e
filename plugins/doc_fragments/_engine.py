# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that drain and move. Note that this doc fragment is PRIVATE to the collection."""
from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  cpu_limit:
    description:
      - Share of a host's CPU, 0 to 1, beyond which no rooms are moved to it; V(0) for no such limit. Nodes on the same host as the one that
        gives rooms away are not bound by it.
    type: float
    default: 0.9
  participants_limit:
    description: Participants a node may have after rooms were moved to it; V(0) for no such limit.
    type: int
    default: 0
  lock_wait:
    description: Seconds to wait for another run that moves rooms in this cluster.
    type: float
    default: 60
  owner:
    description: Who acts, as it stands in the lock and in the journal. Default is the host and process that the module runs in.
    type: str
"""
