# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A slot as a project of Docker Compose: its settings, and its compose.yaml.

Pure: settings and numbers in, a mapping out. What LiveKit itself is told comes from config.render, as for every other target.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import re
import typing as t

from ..errors import FleetError, Problem
from ..slots import Ports
from . import init

LABEL = "openrtc.livekit."  # + slot, generation, version
INIT = "init"  # file in the slot's directory
# Longer than any call: whoever stops the container (docker stop, docker compose down) must wait until the node is empty. Seconds, ten years.
GRACE = 10 * 365 * 86400
_IMAGE = re.compile(r"[a-z0-9]+([._/:-][A-Za-z0-9._-]+)*(@sha256:[0-9a-f]{64})?")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The option `compose` of the modules: role variables livekit_compose_* that a slot's container follows from."""

    image: str = ""  # tag or digest; only what is to be started needs one
    project: str = "livekit-slot-"  # + number of the slot: project and container
    socket: str = "/var/run/docker.sock"
    archive_dir: str = ""  # directory on the host with archives of images, instead of a registry
    user: str = "livekit"  # of the host, whose numbers the container runs under
    nofile: int = 500000
    pids: int = 4096
    oom_score_adj: int = -500
    log_size: str = "20m"
    log_files: int = 5
    privileged_ports: bool = False

    @classmethod
    def from_mapping(cls, values: t.Mapping[str, t.Any]) -> Settings:
        """FleetError for names it does not know and values of the wrong kind. None keeps the default."""
        fields: dict[str, t.Any] = {}
        known = {f.name: f for f in dataclasses.fields(cls)}
        for name, value in values.items():
            default: t.Any = known[name].default if name in known else None
            kind = type(default) if name in known else None
            try:
                if kind is None:
                    raise ValueError(f"unknown; there are {', '.join(sorted(known))}")
                if value is not None:
                    fields[name] = str(value).lower() in ("true", "yes", "1") if kind is bool else kind(value)
            except (TypeError, ValueError) as exc:
                raise FleetError("read the settings of Compose", f"option compose, {name}", exc, "Correct livekit_compose_*", code="compose_settings") from exc
        return cls(**fields)

    def identity(self) -> dict[str, t.Any]:
        """What makes another generation of it when it changes. Nothing else of a container matters to calls."""
        return {"image": self.image, "nofile": self.nofile, "privileged_ports": self.privileged_ports}

    def problems(self) -> list[Problem]:
        """What can be said against the settings beforehand."""
        found = []
        if not _IMAGE.fullmatch(self.image):
            found.append(Problem("image_name", "livekit_compose_images.server", f"{self.image!r} is no name of an image",
                                 "Write it like livekit/livekit-server:v1.13.5 or name@sha256:digest"))
        elif not re.search(r"[:@][^/]+$", self.image) or self.image.endswith(":latest"):
            found.append(Problem("image_floating", "livekit_compose_images.server", f"{self.image} means another image tomorrow",
                                 "Give a tag of one version, or a digest, so that a generation can be started again"))
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*[_-]", self.project):
            found.append(Problem("project_name", "livekit_compose_project", f"{self.project!r} cannot be followed by a number",
                                 "Use a-z, 0-9, - and _, with - or _ at the end"))
        return found


def name(settings: Settings, slot: int) -> str:
    """Of the project and of its one container."""
    return f"{settings.project}{slot}"


def files(settings: Settings, ports: Ports, *, generation: str, version: str, directory: str, address: str, user: str,
          server: t.Sequence[str]) -> dict[str, t.Any]:
    """compose.yaml of a slot, as a mapping.

    directory: the slot's own, mounted under the same path; user: "uid:gid"; server: how the image starts livekit-server, such as ["/livekit-server"].
    """
    container = name(settings, ports.slot)
    return {
        "name": container,
        "services": {"livekit": {
            "image": settings.image,
            "container_name": container,
            "pull_policy": "never",  # what a generation runs is fetched before, and once
            "entrypoint": ["sh", f"{directory}/{INIT}"],
            "command": [*server, "--config", f"{directory}/config.yaml"],
            "network_mode": "host",
            "user": user,
            "read_only": True,
            "cap_drop": ["ALL"],
            **({"cap_add": ["NET_BIND_SERVICE"]} if settings.privileged_ports else {}),
            "security_opt": ["no-new-privileges:true"],
            "pids_limit": settings.pids,
            "ulimits": {"nofile": {"soft": settings.nofile, "hard": settings.nofile}},
            "oom_score_adj": settings.oom_score_adj,
            # Back after a crash, and after a reboot; not after it was told to drain.
            "restart": "unless-stopped",
            "stop_signal": "SIGTERM",
            "stop_grace_period": f"{GRACE}s",
            "volumes": [{"type": "bind", "source": directory, "target": directory, "read_only": True, "bind": {"create_host_path": False}}],
            "healthcheck": health(address, ports.signal),
            "logging": {"driver": "json-file", "options": {"max-size": settings.log_size, "max-file": str(settings.log_files)}},
            "labels": {LABEL + "slot": str(ports.slot), LABEL + "generation": generation, LABEL + "version": version},
        }},
    }


def health(address: str, port: int) -> dict[str, t.Any]:
    """406 counts as alive: without Redis every node says that, and its calls go on. Only Docker shows it; nothing is ever restarted for it."""
    host = f"[{address}]" if ":" in address else address
    ask = f"busybox wget -S -q -T 3 -O /dev/null http://{host}:{port}/ 2>&1 | busybox grep -qE 'HTTP/1.[01] (200|406)'"
    return {"test": ["CMD-SHELL", ask], "interval": "30s", "timeout": "5s", "retries": 3, "start_period": "20s"}


def init_text() -> str:
    return "#!/bin/sh\n" + init.INIT
