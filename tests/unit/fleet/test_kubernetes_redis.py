# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The start scripts of our own Redis in the cluster, with real Redis and Sentinel: three pods are three loopback addresses."""
from __future__ import annotations

import os
import re
import subprocess
import time

import pytest
import redis
from kubernetes_sample import SECRET, settings

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes import redis as own

PODS = [f"127.0.77.{n}" for n in (1, 2, 3)]
PORTS = {str(own.SENTINEL_PORT): "36379", str(own.PORT): "16379"}


class Pods:
    """Runs the two containers of each pod."""

    def __init__(self, path):
        self.path, self.running = path, {}
        for me in PODS:
            for name, text in own.files(settings(redis={"mode": "sentinel", "password": SECRET})).items():
                target = path / me / "etc" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                (path / me / "data").mkdir(exist_ok=True)
                text = self.moved(text, me).replace("bind * -::*", f"bind {me}")
                target.write_text(text.replace("down-after-milliseconds livekit 5000", "down-after-milliseconds livekit 1000"))

    def moved(self, text, me):
        for old, new in PORTS.items():
            text = re.sub(rf"\b{old}\b", new, text)
        return text.replace(own.FILES, str(self.path / me / "etc")).replace(own.DATA, str(self.path / me / "data"))

    def start(self, me, what):
        env = {**os.environ, "ME": me, "PEERS": " ".join(PODS), "QUORUM": "2"}
        self.running[me, what] = subprocess.Popen(["sh", str(self.path / me / "etc" / f"{what}.sh")], env=env, stdout=subprocess.DEVNULL)

    def stop(self, me, what):
        process = self.running.pop((me, what))
        process.terminate()
        process.wait(10)

    def ask(self, me, *words, port=16379):
        with redis.Redis(me, port, password=SECRET, socket_timeout=2, decode_responses=True) as client:
            return client.execute_command(*words)

    def role(self, me):
        return self.ask(me, "ROLE")[0]

    def until(self, check, timeout=20.0):
        end, got = time.monotonic() + timeout, None
        while time.monotonic() < end:
            try:
                got = check()
                if got:
                    return
            except redis.RedisError as exc:
                got = exc
            time.sleep(0.1)
        raise AssertionError(f"not in {timeout} s: {got}")


@pytest.fixture
def pods(tmp_path):
    found = Pods(tmp_path)
    yield found
    for process in found.running.values():
        process.kill()
        process.wait()


def test_first_pod_is_primary_at_first_and_whoever_the_sentinels_name_later(pods):
    for me in PODS:
        pods.start(me, "redis")
        pods.until(lambda me=me: pods.ask(me, "PING"))
    for me in PODS:
        pods.start(me, "sentinel")
    pods.until(lambda: [pods.role(me) for me in PODS] == ["master", "slave", "slave"])
    pods.until(lambda: all(pods.ask(me, "SENTINEL", "MASTER", "livekit", port=36379)["num-other-sentinels"] == "2" for me in PODS))
    pods.stop(PODS[0], "redis")
    pods.until(lambda: "master" in [pods.role(me) for me in PODS[1:]])
    pods.stop(PODS[0], "sentinel")
    pods.start(PODS[0], "redis")
    pods.start(PODS[0], "sentinel")
    pods.until(lambda: pods.role(PODS[0]) == "slave" and sorted(pods.role(me) for me in PODS) == ["master", "slave", "slave"])


def test_no_password_in_a_command_line():
    for name, text in own.files(settings(redis={"mode": "sentinel", "password": SECRET})).items():
        assert name in ("password", "passwords.conf", "redis.conf") or SECRET not in text
