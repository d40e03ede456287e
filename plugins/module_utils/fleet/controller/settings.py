# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's configuration file.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import json
import socket
import typing as t

from ..errors import FleetError


@dataclasses.dataclass(frozen=True)
class Settings:
    """What /etc/livekit/controller.json holds. redis: LiveKit's own section; keys: {API key: secret} that webhooks may be signed with and rooms asked for."""

    redis: t.Mapping[str, t.Any] = dataclasses.field(repr=False)
    name: str = ""  # of this controller: its inventory name
    bind: t.Sequence[str] = ("127.0.0.1",)
    port: int = 8405
    dry_run: bool = False  # decide and note, do nothing
    recover: bool = True
    drains: bool = True
    cleanup: bool = True
    webhook: bool = True
    placement: bool = False  # answer POST /v1/rooms
    placement_policy: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)  # placement.policy.Policy
    scaling: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict, repr=False)  # scaling_settings.ScalingSettings; {} for off
    demand_file: str = "/var/lib/livekit-controller/demand.sqlite"
    public_url: str = ""  # what clients are given
    keys: t.Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    cpu_limit: float = 0.9  # of receivers, as in placement.Limits
    participants_limit: int = 0
    user: str = "admin"
    password_sha256: str = dataclasses.field(default="", repr=False)  # see web.digest(); "" for no page
    namespace: str = ""  # of the nodes' pods, where they are pods
    page: str = "/usr/local/lib/livekit/page"  # directory of page.html, page.js, page.css

    @classmethod
    def load(cls, path: str) -> Settings:
        try:
            with open(path, encoding="utf-8") as handle:
                values = json.load(handle)
            return cls(**{"name": socket.gethostname(), **values})
        except (OSError, ValueError, TypeError) as exc:
            raise FleetError("read the controller's configuration", path, exc, "Run openrtc.livekit.deploy, which writes it", code="controller_config") from exc

    @property
    def owner(self) -> str:
        """How locks, journal and page call this controller."""
        return f"controller@{self.name}"
