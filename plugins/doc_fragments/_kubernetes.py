# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules for Kubernetes. Note that this doc fragment is PRIVATE to the collection."""
from __future__ import annotations


class ModuleDocFragment:
    # Which cluster.
    DOCUMENTATION = r"""
options:
  kubeconfig:
    description: Path of the kubeconfig; E(KUBECONFIG) or C(~/.kube/config) by default.
    type: path
  context:
    description: Context of the kubeconfig; the current one by default.
    type: str
"""

    # Which deployment.
    DEPLOYMENT = r"""
options:
  settings:
    description: The variables C(livekit_kubernetes_*), with or without their prefix.
    type: dict
    default: {}
  layout:
    description: The port layout, with C(count) for the number of slots.
    type: dict
    default: {}
"""
