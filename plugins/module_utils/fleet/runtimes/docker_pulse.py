# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the executor watches several times a second where nodes are containers, and how it ends a neighbour there.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from ..errors import FleetError
from .docker import state_of
from .docker_api import DockerApi
from .processes import told


class Pulse:
    """States of slots and neighbours by the names of their containers, one call of the API while nothing changes. For one thread only."""

    def __init__(self, api: DockerApi, prefix: str, neighbours: t.Sequence[str] = ()) -> None:
        self.api, self.prefix, self.neighbours = api, prefix, frozenset(neighbours)
        self.inits: dict[str, int] = {}  # container -> process id of its init

    def __call__(self) -> dict[str, str]:
        """{name of the container: state in systemd's words}; raises FleetError."""
        out = {}
        inits: dict[str, int] = {}
        for listed in self.api.get("/containers/json", all=1):
            name = listed["Names"][0].lstrip("/") if listed.get("Names") else ""
            if name in self.neighbours:
                out[name] = {"running": "active", "restarting": "activating"}.get(listed["State"], "inactive")
            elif name.startswith(self.prefix) and listed["State"] == "running":
                pid = self.inits.get(listed["Id"]) or self._pid(listed["Id"])
                inits[listed["Id"]] = pid
                out[name] = f"{'deactivating' if pid and told(pid) else 'active'} {pid}"
            elif name.startswith(self.prefix):
                out[name] = listed["State"]
        self.inits = {container: pid for container, pid in inits.items() if pid}
        return out

    def _pid(self, container: str) -> int:
        found = self.api.find(f"/containers/{container}/json")
        return int(found["State"]["Pid"]) if found else 0


def stop_container(api: DockerApi, name: str) -> bool:
    """One SIGTERM for a neighbour, which finishes its work; False when it does not run."""
    found = api.find(f"/containers/{name}/json")
    if not found or state_of(found) != "active":
        return False
    try:
        api.post(f"/containers/{name}/kill", signal="SIGTERM")
    except FleetError as exc:
        if exc.failure.get("status") != 409:  # it ended by itself
            raise
        return False
    return True
