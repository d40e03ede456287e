# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The executor's configuration file.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import json
import os
import typing as t

from .errors import FleetError


@dataclasses.dataclass(frozen=True)
class Settings:
    """The file executor.json. Where it names no host, this is a pod, and its environment tells: a machine is called by its own name, as it has one
    executor, a balancer by that of its pod."""

    host: str
    address: str
    redis: t.Mapping[str, t.Any] = dataclasses.field(repr=False)
    layout: t.Mapping[str, t.Any] | None = None  # None: no media host
    config_dir: str = "/etc/livekit/slots"
    state_dir: str = "/var/lib/livekit/slots"
    opt_dir: str = "/opt/livekit"
    target: str = "native"  # or compose, kubernetes
    compose: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)  # as targets.compose.Settings
    namespace: str = ""  # of the nodes' pods
    keys: t.Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)  # {API key: secret} where slots do not tell them
    states: str = ""  # file for an agent check that cannot ask by itself
    balancer: str = ""  # haproxy-http, haproxy-tcp, nginx or ""
    socket: str = "/run/haproxy/admin.sock"
    master: str = "/run/haproxy-master.sock"
    pool: t.Mapping[str, t.Any] | None = None  # layout of the nodes, where HAProxy's servers come and go and this keeps them
    synced: str = ""  # file that is there once they are known
    neighbours: t.Sequence[t.Mapping[str, str]] = ()
    memory: str = "/run/livekit-executor/nodes.json"

    @classmethod
    def read(cls, path: str) -> Settings:
        try:
            with open(path, encoding="utf-8") as handle:
                found = cls(**json.load(handle))
            return found if found.host else found.in_pod(os.environ)
        except (KeyError, OSError, TypeError, ValueError) as exc:
            raise FleetError("read the settings", path, exc, "Run openrtc.livekit.deploy", code="executor_settings") from exc

    @property
    def passing(self) -> bool:
        """Whether nobody of this name comes back once it ends, so that nobody is to wait for its reports."""
        return self.target == "kubernetes" and self.layout is None and bool(self.redis)

    def in_pod(self, env: t.Mapping[str, str]) -> Settings:
        """KeyError without the variables that workers.identity_env names."""
        host, address = ("NODE_NAME", "NODE_IP") if self.layout is not None else ("POD_NAME", "POD_IP")
        return dataclasses.replace(self, host=env[host], address=env[address])
