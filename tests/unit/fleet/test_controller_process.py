# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controllers as hosts run them: from the archive, with a configuration file, killed and stopped."""
from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import typing as t
import urllib.error
import urllib.request

import pytest
import yaml
from conftest import free_port
from controller_sample import cluster, settings

from ansible_collections.openrtc.livekit.plugins.action.component import archive

ROOT = pathlib.Path(__file__).parents[3]


class Controller:
    def __init__(self, server: t.Any, folder: pathlib.Path, name: str) -> None:
        self.port = free_port()
        self.log = folder / f"{name}.log"
        config = folder / f"{name}.json"
        values = dataclasses.asdict(settings(server, name=name, port=self.port, cleanup=False, drains=False))
        config.write_text(json.dumps(values))
        self.process = subprocess.Popen([sys.executable, "-m", "fleet.controller", "--config", str(config)], stdout=self.log.open("wb"),
                                        stderr=subprocess.STDOUT, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder / "fleet.zip")})

    def health(self) -> dict[str, t.Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=2) as answer:
                return t.cast("dict[str, t.Any]", json.load(answer))
        except (urllib.error.URLError, OSError):
            return {}

    def until(self, key: str, value: t.Any, timeout: float = 15.0) -> float:
        begin = time.monotonic()
        while self.health().get(key) != value:
            if time.monotonic() - begin > timeout:
                pytest.fail(f"{key} never became {value}: {self.health()} {self.log.read_text()}")
            time.sleep(0.05)
        return time.monotonic() - begin

    def lines(self) -> list[dict[str, t.Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def start(redis_server: t.Callable[..., t.Any], tmp_path: pathlib.Path) -> t.Iterator[t.Callable[[str], Controller]]:
    exclude = yaml.safe_load((ROOT / "roles/model/vars/main.yml").read_text())["__livekit_model_fleet_exclude"]
    (tmp_path / "fleet.zip").write_bytes(archive(str(ROOT / "plugins/module_utils/fleet"), exclude))
    server, made = redis_server(), []
    cluster(server)

    def run(name: str) -> Controller:
        made.append(Controller(server, tmp_path, name))
        return made[-1]

    run.server = server  # type: ignore[attr-defined]
    yield run
    for one in made:
        one.process.kill()
        one.process.wait()


def test_handover(start: t.Callable[[str], Controller]) -> None:
    first = start("edge1")
    first.until("leader", True)
    second = start("edge2")
    second.until("ok", True)
    assert second.health()["leader"] is False
    first.process.kill()
    assert second.until("leader", True) < 5.0
    assert [e["kind"] for e in second.lines()] == ["lead"]
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(10) == 0
    assert not start.server.client.exists("openrtc:lease:controller")  # type: ignore[attr-defined]


def test_a_configuration_that_cannot_be_read_is_told(tmp_path: pathlib.Path) -> None:
    folder = str(ROOT / "plugins/module_utils")
    for text, words in (("{", "controller.json"), ('{"redis": {}, "colour": 1}', "colour"), ('{"redis": {}}', "neither address nor sentinel_addresses")):
        (tmp_path / "controller.json").write_text(text)
        command = [sys.executable, "-m", "fleet.controller", "--config", str(tmp_path / "controller.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env={**os.environ, "PYTHONPATH": folder}, check=False)
        assert done.returncode == 1 and words in json.loads(done.stdout)["reason"]
