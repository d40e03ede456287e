# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The few calls of Docker's Engine API that slots need, over its Unix socket, with the standard library.

A call takes about a millisecond, where the docker command takes 30 and the SDK of PyPI 400 to be imported: the executor asks several
times a second.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import http.client
import json
import socket
import typing as t
import urllib.parse

from ..errors import FleetError

Json = t.Any


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class DockerApi:
    """One Docker daemon. Every call opens a connection of its own, so any thread may call."""

    def __init__(self, path: str = "/var/run/docker.sock", timeout: float = 5.0) -> None:
        self.path, self.timeout = path, timeout

    def get(self, path: str, **query: t.Any) -> Json:
        return self._json("GET", path, query)

    def post(self, path: str, body: Json = None, **query: t.Any) -> Json:
        return self._json("POST", path, query, body)

    def delete(self, path: str) -> None:
        self._json("DELETE", path, {})

    def find(self, path: str) -> Json:
        """As get(), None where there is no such thing."""
        try:
            return self.get(path)
        except FleetError as exc:
            if exc.failure.get("status") == 404:
                return None
            raise

    def logs(self, container: str, lines: int) -> list[str]:
        """The last lines of both streams; [] where there are none to be had."""
        try:
            raw = self._ask("GET", f"/containers/{container}/logs", {"stdout": 1, "stderr": 1, "tail": lines})
        except FleetError:
            return []
        return _streams(raw).decode("utf-8", "replace").splitlines()

    def _json(self, method: str, path: str, query: t.Mapping[str, t.Any], body: Json = None) -> Json:
        raw = self._ask(method, path, query, body)
        try:
            return json.loads(raw) if raw.strip() else None
        except ValueError:
            return raw.decode("utf-8", "replace")  # such as the OK of /_ping

    def _ask(self, method: str, path: str, query: t.Mapping[str, t.Any], body: Json = None) -> bytes:
        target = path + ("?" + urllib.parse.urlencode({k: v if isinstance(v, (str, int)) else json.dumps(v) for k, v in query.items()}) if query else "")
        connection = _Connection(self.path, self.timeout)
        try:
            connection.request(method, target, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException) as exc:
            raise FleetError("ask Docker", self.path, str(exc) or type(exc).__name__,
                             f"See whether Docker runs on this host: systemctl status docker; docker -H unix://{self.path} info",
                             code="docker_unreachable") from exc
        finally:
            connection.close()
        if answer.status >= 400:
            raise FleetError("ask Docker", f"{method} {path}", _message(raw) or f"status {answer.status}",
                             "See the log of Docker on this host: journalctl -u docker", code="docker_refused", status=answer.status)
        return raw


def _message(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        return raw.decode("utf-8", "replace").strip()[:300]


def _streams(raw: bytes) -> bytes:
    """Docker's log frames (stream, three zeros, length, bytes) without their heads."""
    out = b""
    while len(raw) >= 8 and raw[0] <= 2 and raw[1:4] == b"\0\0\0":
        size = int.from_bytes(raw[4:8], "big")
        out, raw = out + raw[8:8 + size], raw[8 + size:]
    return out + raw
