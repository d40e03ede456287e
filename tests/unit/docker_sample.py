# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Docker daemon for tests: the Engine API over a real Unix socket, containers whose processes are real and run the real init."""
from __future__ import annotations

import contextlib
import http.server
import json
import os
import pathlib
import signal
import socketserver
import subprocess
import threading
import time
import typing as t
import urllib.parse

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import init

LABEL = "openrtc.livekit."


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    docker: FakeDocker


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    server: _Server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: t.Any) -> None:
        pass

    def _any(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, answer = self.server.docker.answer(self.command, url.path, dict(urllib.parse.parse_qsl(url.query)), json.loads(body) if body else None)
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode() if answer is not None else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if raw:
            self.wfile.write(raw)

    do_GET = do_POST = do_DELETE = _any  # noqa: N815


def begin(program: t.Sequence[str]) -> subprocess.Popen[bytes]:
    """A program under the init of real containers."""
    process = subprocess.Popen(["sh", "-c", init.INIT, "init", *program], start_new_session=True)
    time.sleep(0.05)  # until its trap is set
    return process


def end(processes: t.Iterable[subprocess.Popen[bytes]]) -> None:
    """Kill them with what they started: outside of a container that would outlive its init."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class FakeDocker:
    """containers: name -> what inspect tells; done: what changed something, as (verb, container, detail); images: what there is."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path, self.containers, self.done, self.images = str(path), {}, [], {}
        self.live_restore = True
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.server = _Server(self.path, _Handler)
        self.server.docker = self
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        end(self.processes.values())

    def add(self, name: str, labels: t.Mapping[str, str] | None = None, state: str = "running", code: int = 0, policy: str = "unless-stopped",
            program: t.Sequence[str] = ("sleep", "60")) -> int:
        """A container; one that runs gets a process under the init of real ones. Returns its process id, 0 for none."""
        pid = 0
        if state == "running":
            self.processes[name] = begin(program)
            pid = self.processes[name].pid
        self.containers[name] = {
            "Id": f"id-{name}", "Name": f"/{name}", "Config": {"Labels": dict(labels or {})}, "HostConfig": {"RestartPolicy": {"Name": policy}},
            "State": {"Status": state, "Running": state == "running", "Pid": pid, "ExitCode": code, "StartedAt": "2026-01-02T03:04:05.500000000Z"}}
        return pid

    def slot(self, n: int, version: str = "1.13.5", **more: t.Any) -> int:
        labels = {"com.docker.compose.project": f"livekit-slot-{n}", LABEL + "slot": str(n), LABEL + "version": version, LABEL + "generation": "abc"}
        return self.add(f"livekit-slot-{n}", labels, **more)

    def _refresh(self) -> None:
        for name, process in self.processes.items():
            state = self.containers[name]["State"]
            if state["Status"] == "running" and process.poll() is not None:
                code = process.returncode
                state.update(Status="exited", Running=False, Pid=0, ExitCode=code if code >= 0 else 128 - code)

    def answer(self, method: str, path: str, query: dict[str, str], body: t.Any) -> tuple[int, t.Any]:
        self._refresh()
        if path == "/info":
            return 200, {"ServerVersion": "20.10.24", "LiveRestoreEnabled": self.live_restore}
        if path == "/containers/json":
            wanted = json.loads(query.get("filters", "{}")).get("label", [])
            return 200, [{"Id": c["Id"], "Names": [c["Name"]], "Labels": c["Config"]["Labels"], "State": c["State"]["Status"]}
                         for c in self.containers.values() if all(w.partition("=")[2] == c["Config"]["Labels"].get(w.partition("=")[0]) for w in wanted)]
        if path.startswith("/images/"):
            name = urllib.parse.unquote(path[len("/images/"):-len("/json")])
            return (200, self.images[name]) if name in self.images else (404, {"message": f"No such image: {name}"})
        word, _sep, verb = path.removeprefix("/containers/").partition("/")
        found = next((c for c in self.containers.values() if word in (c["Id"], c["Name"].lstrip("/"))), None)
        if found is None:
            return 404, {"message": f"No such container: {word}"}
        return self._container(method, found, verb, query, body)

    def _container(self, method: str, found: dict[str, t.Any], verb: str, query: dict[str, str], body: t.Any) -> tuple[int, t.Any]:
        name = found["Name"].lstrip("/")
        if verb == "json":
            return 200, found
        if verb == "logs":
            return 200, b"".join(bytes([1, 0, 0, 0]) + len(line).to_bytes(4, "big") + line for line in (b"one\n", b"password: hunter2\n"))
        if method == "DELETE":
            self.done.append(("remove", name, ""))
            del self.containers[name]
            return 204, None
        if verb == "kill" and not found["State"]["Running"]:
            return 409, {"message": f"Container {name} is not running"}
        self.done.append((verb, name, query.get("signal") or body["RestartPolicy"]["Name"]))
        if verb == "kill":
            self.processes[name].send_signal(15)
            time.sleep(0.05)
        elif verb == "update":
            found["HostConfig"]["RestartPolicy"] = body["RestartPolicy"]
        return 204, None
