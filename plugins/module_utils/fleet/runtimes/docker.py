# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes as containers of Docker, one Compose project per slot: the target `compose`.

Docker has no word for "told to end, and not there yet". But the init of every container tells it (processes.py): so a drain is seen
whoever started it, and however Docker or this code was interrupted meanwhile.
A container that drains has no restart policy any more, so neither its end nor a reboot brings it back.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import contextlib
import datetime
import pwd
import re
import signal
import typing as t

from .. import config
from ..errors import FleetError
from ..slots import Layout
from ..targets import compose
from . import Running, processes
from .docker_api import DockerApi
from .systemd import Run

Container = t.Dict[str, t.Any]  # as GET /containers/ID/json tells it
ENABLED, DISABLED = "unless-stopped", "no"
STATES = {"running": "active", "paused": "active", "restarting": "activating", "removing": "deactivating"}


def state_of(container: Container) -> str:
    """What systemd would call it. A node that was fenced, or told to end before it could listen, has not failed."""
    now = container["State"]
    if now["Status"] == "running" and processes.told(int(now["Pid"])):
        return "deactivating"
    if now["Status"] == "exited" and now["ExitCode"] not in (0, 128 + signal.SIGKILL, 128 + signal.SIGTERM):
        return "failed"
    return STATES.get(now["Status"], "inactive")


def moment(stamp: str) -> float | None:
    """Docker's 2026-01-02T03:04:05.678901234Z as Unix seconds; None for its zero."""
    found = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?", stamp)
    if not found or stamp.startswith("0001-"):
        return None
    return datetime.datetime.fromisoformat(found[1] + "+00:00").timestamp() + float(found[2] or 0)


class Docker:
    """`run` executes a command (docker compose, and the check before a start); everything else goes through the API.

    strict: somebody else's containers under the name of a slot are an error; who only watches goes on without them.
    """

    def __init__(self, run: Run, layout: Layout, settings: compose.Settings, config_dir: str, address: str, api: DockerApi | None = None,
                 strict: bool = True) -> None:
        self.strict = strict
        self.run, self.layout, self.settings, self.config_dir, self.address = run, layout, settings, config_dir, address
        self.api = api or DockerApi(settings.socket)

    # -- reading

    def look(self, numbers: t.Sequence[int]) -> dict[int, Running]:
        found = {}
        for listed in self.api.get("/containers/json", all=1):
            n = self._slot(listed)
            container = self.api.find(f"/containers/{listed['Id']}/json") if n else None  # it may have gone since
            if n and container and (n in numbers or state_of(container) not in ("inactive", "failed")):
                found[n] = self._running(container)
        return found

    def _slot(self, listed: t.Mapping[str, t.Any]) -> int | None:
        """The number of the slot that a container is, None for others. FleetError when somebody else's has the name of a slot."""
        labels = listed.get("Labels") or {}
        names = [labels.get("com.docker.compose.project", ""), *(name.lstrip("/") for name in listed.get("Names") or ())]
        found = next((m for m in (re.fullmatch(re.escape(self.settings.project) + r"(\d+)", name) for name in names) if m), None)
        if found and labels.get(compose.LABEL + "slot") != found[1]:
            if not self.strict:
                return None
            raise FleetError("use the slots of this host", f"project {found[0]}", f"its container {names[-1]} is not one of this collection",
                             "Remove that project, or set livekit_compose_project to another prefix", code="project_foreign", container=names[-1])
        return int(found[1]) if found else None

    def _running(self, container: Container) -> Running:
        now = container["State"]
        return Running(
            state=state_of(container), pid=int(now["Pid"]) or None, enabled=container["HostConfig"]["RestartPolicy"]["Name"] == ENABLED,
            since=moment(now["StartedAt"]), version=container["Config"]["Labels"].get(compose.LABEL + "version"))

    def _container(self, n: int) -> Container | None:
        return t.cast("Container | None", self.api.find(f"/containers/{compose.name(self.settings, n)}/json"))

    def state(self, n: int) -> str:
        container = self._container(n)
        return state_of(container) if container else "inactive"

    def pid(self, n: int) -> int | None:
        container = self._container(n)
        return int(container["State"]["Pid"]) or None if container else None

    def log(self, n: int, lines: int) -> list[str]:
        return self.api.logs(compose.name(self.settings, n), lines)

    def about(self) -> dict[str, t.Any]:
        """{docker, compose, live_restore, restart}: versions, and what a restart of the Docker daemon would do to calls, in words."""
        info = self.api.get("/info")
        rc, out, err = self.run(["docker", "compose", "version", "--short"])
        version = out.strip().lstrip("v")
        if rc != 0 or not version.startswith(("2.", "3.", "4.", "5.")):
            raise FleetError("use Docker Compose", "docker compose", _last(err or out),
                             "Install the plugin docker compose, 2.18 or newer; the old docker-compose 1 will not do", code="compose_missing")
        kept = bool(info.get("LiveRestoreEnabled"))
        return {"docker": info.get("ServerVersion", ""), "compose": version, "live_restore": kept, "restart": (
            "live-restore is on: a restart of Docker leaves every call alone" if kept else
            "live-restore is off: a restart of Docker stops every container of this host, and cuts off or ends the calls on it; "
            'set {"live-restore": true} in /etc/docker/daemon.json, then systemctl reload docker')}

    # -- doing

    def require(self, n: int, version: str) -> None:
        if self._image() is None:
            raise FleetError("write a generation", f"slot {n}", f"this host has no image {self.settings.image}",
                             "Fetch it first (module openrtc.livekit.image)", code="release_absent", version=version)

    def _image(self) -> dict[str, t.Any] | None:
        return t.cast("dict[str, t.Any] | None", self.api.find(f"/images/{self.settings.image}/json"))

    def _server(self) -> list[str]:
        """How the image starts livekit-server."""
        return list(((self._image() or {}).get("Config") or {}).get("Entrypoint") or ["/livekit-server"])

    def _user(self) -> str:
        try:
            entry = pwd.getpwnam(self.settings.user)
        except KeyError as exc:
            raise FleetError("write a generation", f"user {self.settings.user}", "this host has no such user", "Run openrtc.livekit.deploy",
                             code="user_missing") from exc
        return f"{entry.pw_uid}:{entry.pw_gid}"

    def lay(self, n: int, generation: str, version: str) -> dict[str, str]:
        wanted = compose.files(self.settings, self.layout.ports(n), generation=generation, version=version, directory=f"{self.config_dir}/{n}",
                               address=self.address, user=self._user(), server=self._server())
        return {"compose.yaml": config.to_yaml(wanted), compose.INIT: compose.init_text()}

    def link(self, folder: str, version: str) -> None:
        pass

    def check(self, n: int) -> tuple[int, str, str]:
        """In a container without network that is gone afterwards."""
        base = f"{self.config_dir}/{n}"
        entry, *more = self._server()
        alone = ["--rm", "--pull", "never", "--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        return self.run(["docker", *self._host(), "run", *alone, "--user", self._user(), "--volume", f"{base}:{base}:ro", "--entrypoint", entry,
                         self.settings.image, *more, "--config", f"{base}/config.yaml", "ports"])

    def start(self, n: int) -> None:
        """A container that ended there before is replaced; the caller knows that none runs."""
        base = f"{self.config_dir}/{n}"
        rc, out, err = self.run(["docker", *self._host(), "compose", "--project-directory", base, "--file", f"{base}/compose.yaml",
                                 "up", "--detach", "--force-recreate", "--quiet-pull"])
        if rc != 0:
            raise FleetError("start a node", compose.name(self.settings, n), _last(err or out), "See journalctl -u docker on this host",
                             code="docker_start", slot=n)

    def _host(self) -> list[str]:
        return [] if self.settings.socket == "/var/run/docker.sock" else ["--host", f"unix://{self.settings.socket}"]

    def stop(self, n: int) -> None:
        with _unless_ended():
            self.api.post(f"/containers/{compose.name(self.settings, n)}/kill", signal="SIGTERM")

    def enable(self, n: int) -> None:
        self._policy(n, ENABLED)

    def disable(self, n: int) -> None:
        container = self._container(n)
        if container and container["HostConfig"]["RestartPolicy"]["Name"] != DISABLED:
            self._policy(n, DISABLED)

    def _policy(self, n: int, name: str) -> None:
        self.api.post(f"/containers/{compose.name(self.settings, n)}/update", {"RestartPolicy": {"Name": name}})

    def kill(self, n: int, pid: int | None = None) -> tuple[bool, str]:
        """To the init itself, past Docker, which would take it for a wish that the node stays away: one that crashed is to come back."""
        want = pid or self.pid(n)
        if want is None:
            return True, ""
        return processes.kill(want, lambda: self.pid(n) == want)

    def clear(self, n: int) -> None:
        container = self._container(n)
        if container and not container["State"]["Running"]:
            with _unless_ended():
                self.api.delete(f"/containers/{container['Id']}")


@contextlib.contextmanager
def _unless_ended() -> t.Iterator[None]:
    """A container that ended or went in between is as good as one that was told to."""
    try:
        yield
    except FleetError as exc:
        if exc.failure.get("status") not in (404, 409):
            raise


def _last(text: str) -> str:
    """What a command of Docker said at its end: the error stands after the progress."""
    return " ".join(text.strip().splitlines()[-1:])[:800] or "no answer"
