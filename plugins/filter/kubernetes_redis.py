# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the Redis of a deployment on Kubernetes is, as seen from within the cluster."""
from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import kubernetes
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes import redis


def kubernetes_redis(settings: t.Mapping[str, t.Any], given: t.Mapping[str, t.Any] | None = None) -> dict[str, t.Any]:
    """LiveKit's section redis: that of the Redis in the cluster, or the one that was given."""
    try:
        chosen = kubernetes.Settings.from_vars(settings)
    except FleetError as err:
        raise AnsibleFilterError(str(err)) from err
    return dict(config.plain(given or {})) if chosen.redis.mode == "external" else redis.section(chosen)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"kubernetes_redis": kubernetes_redis}
