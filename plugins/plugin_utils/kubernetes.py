# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action plugins for Kubernetes have in common; documented in doc_fragments/_kubernetes.py."""
from __future__ import annotations

import typing as t

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.api import Api

CLUSTER: dict[str, t.Any] = {"kubeconfig": {"type": "path"}, "context": {"type": "str"}}
DEPLOYMENT: dict[str, t.Any] = {"settings": {"type": "dict", "default": {}}, "layout": {"type": "dict", "default": {}}}


def connect(args: t.Mapping[str, t.Any]) -> Api:
    """The cluster that these arguments name. Raises FleetError no_kubeconfig."""
    return Api.from_kubeconfig(args["kubeconfig"] or "", args["context"] or "")
