# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster of plain processes on this machine, for the real part of the placement bench without a lab: Redis, livekit-servers, two controllers.

There are no executors and no balancer, so nothing is recovered or drained here; rooms are created and joined as in any cluster.
"""
from __future__ import annotations

import json
import os
import pathlib
import secrets
import subprocess
import sys
import tempfile
import time
import typing as t
import urllib.request

from common import ROOT

from fleet.errors import FleetError
from fleet.registry import Registry, connect

SERVER = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "openrtc-livekit/build/1.13.5/server"  # lab/prepare builds it
REDIS, FIRST, DESK = 16399, 27880, 28405  # ports: Redis, then per node 10 from FIRST, then the controllers
UP = 90.0  # seconds for all of it to come up


class Local:
    """Started on entry, killed on exit: nobody's calls but the bench's are on it."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.redis = {"address": f"127.0.0.1:{REDIS}"}
        self.endpoint = {"api_key": "APIbench", "api_secret": secrets.token_hex(24), "url": f"ws://127.0.0.1:{FIRST}"}
        self.desks = [f"http://127.0.0.1:{DESK + n}" for n in range(2)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._home = tempfile.TemporaryDirectory(prefix="placement-")

    def registry(self) -> Registry:
        return connect(self.redis)

    def __enter__(self) -> Local:
        if not SERVER.exists():
            raise SystemExit(f"{SERVER} is missing: run lab/prepare, which builds it")
        try:
            self._start("redis", "redis-server", "--port", str(REDIS), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", self._home.name)
            self._wait(lambda: bool(self.registry().now()))
            for number in range(self.nodes):
                self._start(f"node{number}", str(SERVER), "--config", self._write(f"node{number}.json", self._node(number)))
            for number in range(len(self.desks)):
                self._start(f"controller{number}", sys.executable, "-m", "fleet.controller", "--config",
                            self._write(f"controller{number}.json", self._controller(number)))
            self._wait(self._ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: t.Any) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        self._home.cleanup()

    def _start(self, name: str, *command: str) -> None:
        with open(os.path.join(self._home.name, f"{name}.log"), "wb") as log:
            self._processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                                    env={**os.environ, "PYTHONPATH": str(ROOT / "plugins" / "module_utils")}))

    def _write(self, name: str, content: t.Mapping[str, t.Any]) -> str:
        path = os.path.join(self._home.name, name)  # a directory that only we can read
        with open(path, "w", encoding="utf-8") as handle:
            json.dump(content, handle)
        return path

    @property
    def _keys(self) -> dict[str, str]:
        return {self.endpoint["api_key"]: self.endpoint["api_secret"]}

    def _node(self, number: int) -> dict[str, t.Any]:
        port = FIRST + 10 * number
        rtc = {"tcp_port": port + 1, "udp_port": port + 2, "node_ip": "127.0.0.1", "enable_loopback_candidate": True}
        return {"port": port, "bind_addresses": ["127.0.0.1"], "rtc": rtc, "redis": self.redis, "keys": self._keys, "logging": {"level": "warn"},
                "node_selector": {"sort_by": "clients", "algorithm": "twochoice"}}

    def _controller(self, number: int) -> dict[str, t.Any]:
        # All nodes share this machine's CPUs, so a busy CPU says nothing about one of them.
        return {"redis": self.redis, "name": f"bench{number}", "port": DESK + number, "keys": self._keys, "recover": False, "drains": False, "cleanup": False,
                "placement": True, "placement_policy": {"cpu_limit": 0}, "public_url": self.endpoint["url"]}

    def _ready(self) -> bool:
        for desk in self.desks:
            with urllib.request.urlopen(f"{desk}/healthz", timeout=2):
                pass
        with self.registry() as registry:
            return len(registry.snapshot().serving()) == self.nodes

    def _wait(self, ready: t.Callable[[], bool]) -> None:
        end, last = time.monotonic() + UP, "it does not serve"
        while time.monotonic() < end:
            try:
                if ready():
                    return
            except (FleetError, OSError) as exc:
                last = str(exc)
            time.sleep(0.3)
        raise SystemExit(f"the local cluster did not come up in {UP:g} s: {last}")
