# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Projects of Docker Compose, where a component runs in containers: what units.py is to units of systemd, by the same comparison.

A project that does not run what its files say is named in `behind`; the control machine brings it up (community.docker) and asks again.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import shlex
import time
import typing as t

from ..errors import FleetError
from ..images import Images
from ..runtimes.docker import moment
from ..runtimes.docker_api import DockerApi
from . import record
from .files import Wants
from .guard import PROJECT
from .run import Failure, Run

LABEL = "openrtc.livekit.component"
STEADY = 1.0  # seconds a container must have run before it counts as started


def images(run: Run) -> None:
    """Have the images, before anything that is made from them."""
    if not run.p["images"]:
        return
    have = Images(DockerApi(run.p["docker_socket"], timeout=30), run.run_command, run.p["archive_dir"] or "")
    try:
        for name in have.missing(run.p["images"]):
            run.note_change(f"image {name}: fetch", None, f"image {name}")
            if not run.check:
                have.fetch(name)
    except FleetError as exc:
        if not run.check:
            raise Failure(str(exc), failure=exc.failure) from exc
        run.notes.append(str(exc))  # Docker itself may be among what would be installed


def last_words(run: Run, name: str) -> str:
    """The last log lines of a project's containers, for the message of a failure."""
    rc, out, dummy = run.run_command(["docker", "--host", f"unix://{run.p['docker_socket']}", "compose", "-p", name, "logs", "--no-color", "--tail", "5"])
    return f"Its last log lines: {out.strip()}" if rc == 0 and out.strip() else ""


class Projects:
    """The projects of one run; apply() when all files are in place."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.api = DockerApi(run.p["docker_socket"])
        self.place = record.record_path({**run.p, "name": f"{run.p['name']}-projects"})

    def apply(self, wants: Wants) -> None:
        if not self.run.p["projects"]:
            return
        if self.run.p["projects_up"] and not self.run.check:
            time.sleep(STEADY)
        old, new = record.read(self.place), {}
        for project in self.run.p["projects"]:
            name = project["name"]
            try:
                state = self._state(name)
            except FleetError as exc:
                if not self.run.check:
                    raise Failure(str(exc), failure=exc.failure) from exc
                self.run.notes.append(str(exc))
                state = {}
            self._settle(project, state, wants, old.get(name, {}))
            new[name] = {"invocation": state.get("InvocationID", ""), "files": record.mtimes(wants.loads.get(name + PROJECT, {}))}
        if not self.run.check and not self.run.behind and new != old:
            record.write(self.place, new)

    def _state(self, name: str) -> dict[str, str]:
        """In the words of systemd, as record.stale reads them; {} where nothing is."""
        found = []
        for listed in self.api.get("/containers/json", all=1, filters={"label": [f"com.docker.compose.project={name}"]}):
            if LABEL not in (listed.get("Labels") or {}):
                raise Failure(f"project {name} has containers of somebody else ({', '.join(listed['Names'])}): remove or rename it", code="project_foreign")
            found.append(self.api.get(f"/containers/{listed['Id']}/json"))
        if not found:
            return {}
        begun = max(moment(c["State"]["StartedAt"]) or 0.0 for c in found)
        return {"ActiveState": "active" if all(c["State"]["Status"] == "running" for c in found) else "inactive",
                "InvocationID": " ".join(sorted(f"{c['Id']}@{c['State']['StartedAt']}" for c in found)),
                "ActiveEnterTimestampMonotonic": str(int((begun - time.time() + time.monotonic()) * 1e6))}

    def _settle(self, project: dict[str, t.Any], state: dict[str, str], wants: Wants, noted: dict[str, t.Any]) -> None:
        name, key = project["name"], project["name"] + PROJECT
        loads = wants.loads.get(key, {})
        if state.get("ActiveState") != "active":
            self._behind(project, state, "started", [])
            return
        stale = record.stale(record.mtimes(loads), state, noted, time.time(), time.monotonic())
        restart = [*wants.restart.get(key, []), *(p for p in stale if loads[p] == "restart")]
        reload = [*wants.reload.get(key, []), *(p for p in stale if loads[p] == "reload")]
        if restart:
            self._behind(project, state, "restarted", restart)
        elif reload:
            self._reload(project, reload)
        elif project["check"]:
            self._check(project)

    def _behind(self, project: dict[str, t.Any], state: dict[str, str], done: str, why: t.Sequence[str]) -> None:
        name = project["name"]
        if name in self.run.p["projects_up"]:
            raise Failure(f"project {name} does not stay up. {self._words(name)}".rstrip(), project=name)
        self._note(project, {"started": "start", "restarted": "recreate"}[done], done, why, state.get("ActiveState", "absent"))
        self.run.behind.append({"name": name, "file": project["file"]})
        if project["prepare"] and not self.run.check:
            self.run.command(*shlex.split(project["prepare"]))

    def _reload(self, project: dict[str, t.Any], why: t.Sequence[str]) -> None:
        self._note(project, "reload", "reloaded", why, "active")
        if not project["reload"]:
            raise Failure(f"project {project['name']} cannot be reloaded, but {', '.join(why)} changed; declare 'restart' for these files")
        if self.run.check:
            return
        rc, out, err = self.run.run_command(shlex.split(project["reload"]))
        if rc != 0:
            raise Failure(f"reload of project {project['name']} failed ({rc}): {(err or out).strip()} {self._words(project['name'])}".rstrip(), rc=rc)

    def _check(self, project: dict[str, t.Any]) -> None:
        """As Units._check: 0 means that it runs what its files say, 1 that it must be reloaded."""
        rc, out, err = self.run.run_command(shlex.split(project["check"]))
        if rc == 1:
            self._reload(project, out.strip().splitlines()[:20])
        elif rc != 0 and not self.run.check:
            raise Failure(f"project {project['name']}: '{project['check']}' could not tell what is running ({rc}): {(err or out).strip()[-1000:]}", rc=rc)

    def _note(self, project: dict[str, t.Any], verb: str, done: str, why: t.Iterable[str], before: str) -> None:
        why = list(dict.fromkeys(why))
        self.run.note_change(f"{verb} project {project['name']}" + (f" (it has not loaded {', '.join(why)})" if why else ""),
                             f"project {project['name']}: {before}", f"project {project['name']}: active, {done}")
        self.run.done[done].append(project["name"])

    def _words(self, name: str) -> str:
        """The last log lines of a project, for the message of a failure."""
        said = []
        for listed in self.api.get("/containers/json", all=1, filters={"label": [f"com.docker.compose.project={name}"]}):
            said += self.api.logs(listed["Id"], 15)
        return f"Its last log lines: {' | '.join(said)}" if said else ""
