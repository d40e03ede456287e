# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster of Kubernetes with three machines: how long a run without a change takes, an upgrade under calls, and a pod's way to its first room.

    tests/bench/kubernetes.py [--upgrades 2] [--calls 6] [--pods 3]     makes a lab of its own and removes it; raw JSON: build/bench/kubernetes.json

The first room: from the moment in which the cluster calls a pod Ready to the first sound of a call that is pinned to it and comes through HAProxy.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
import typing as t
import urllib.request

from common import BENCH, ROOT, Lab, save, table

sys.path.insert(0, str(ROOT / "plugins" / "module_utils"))

from fleet import probe  # noqa: E402

VERSIONS = ["1.13.4", "1.13.5"]
UNCHANGED, UPGRADE, FIRST_ROOM = 10.0, 120.0, 5.0  # seconds
NODE_ID = re.compile(r'node_id="(ND_\w+)"')


class Cluster(Lab):
    """inventories/kubernetes on a cluster of lab/kubernetes."""

    def __init__(self, name: str, subnet: str) -> None:
        super().__init__(name, subnet)
        self.subnet = subnet
        self.inventory = ["-i", "inventories/kubernetes", "-e", "@lab/kubernetes.yml", "-e", f"livekit_lab_dir={self.directory}", "-e", f"lab_subnet={subnet}"]

    def __enter__(self) -> Cluster:
        os.environ["PATH"] = f"{self.directory}:{os.environ['PATH']}"
        for step in (["lab/bootstrap", "--with", "containerd", "containernetworking-plugins", "iptables", "openssl"], ["lab/kubernetes/build"],
                     ["lab/kubernetes/down", self.name], ["lab/kubernetes/up", self.name, "--subnet", self.subnet]):
            subprocess.run(step, cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
        return self

    def __exit__(self, *dummy: t.Any) -> None:
        self.quiet("lab/kubernetes/down", self.name)

    def endpoint(self) -> dict[str, t.Any]:
        path = self.directory / "endpoint.json"
        self.quiet("ansible-playbook", "lab/kubernetes_endpoint.yml", *self.inventory, "-e", f"endpoint_file={path}")
        return json.loads(path.read_text())

    def under_calls(self, calls: int, out: t.Any, command: list[str]) -> None:
        self.endpoint()
        subprocess.run([sys.executable, "lab/under_calls.py", "--endpoint", str(self.directory / "endpoint.json"), "--out", str(out), "--calls", str(calls),
                        "--", *command], cwd=ROOT, stdin=subprocess.DEVNULL, check=False)

    def kubectl(self, *words: str) -> str:
        return self.quiet("kubectl", "--kubeconfig", str(self.directory / "kubeconfig"), "-n", "livekit", *words)

    def pods(self, leaving: bool = False) -> dict[str, dict[str, t.Any]]:
        """{name: pod} of the LiveKit nodes that are to stay, or of all."""
        rows = json.loads(self.kubectl("get", "pods", "-l", "app.kubernetes.io/component=server", "-o", "json"))["items"]
        return {row["metadata"]["name"]: row for row in rows if leaving or not row["metadata"].get("deletionTimestamp")}

    def scale(self, nodes: int) -> None:
        self.kubectl("scale", "deployment", "-l", "app.kubernetes.io/component=server", f"--replicas={nodes}")


def is_ready(pod: t.Mapping[str, t.Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or ())


def until(look: t.Callable[[], t.Any], seconds: float = 60.0) -> t.Any:
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            raise SystemExit(f"not within {seconds:g} s")
        time.sleep(0.1)
    return found


def first_room(cluster: Cluster, endpoint: t.Mapping[str, t.Any]) -> float:
    """Take a node away, let a new one come, and place a call on it as soon as its pod is Ready."""
    cluster.scale(2)
    until(lambda: len(cluster.pods(leaving=True)) == 2)
    before = set(cluster.pods())
    cluster.scale(3)
    pod = until(lambda: next((row for name, row in cluster.pods().items() if name not in before and is_ready(row)), None))
    begin = time.monotonic()
    metrics = next(p["containerPort"] for p in pod["spec"]["containers"][0]["ports"] if p["name"] == "metrics")
    with urllib.request.urlopen(f"http://{pod['status']['hostIP']}:{metrics}/metrics", timeout=3) as answer:
        node_id = NODE_ID.search(answer.read().decode())[1]
    request = {"url": endpoint["url"].replace("ws", "http", 1), "key": endpoint["api_key"], "secret": endpoint["api_secret"], "node_id": node_id,
               "seconds": 0.5}
    while True:
        asked = time.monotonic()
        call = probe.run_in_child([request], timeout=30)[0]
        if not call.get("failure"):
            return asked - begin + call["first_media_ms"] / 1000
        if time.monotonic() - begin > 30:
            raise SystemExit(f"no call came up on {node_id}: {call['failure']}")


def upgrades(cluster: Cluster, count: int, calls: int) -> list[dict[str, t.Any]]:
    runs = []
    for number in range(count):
        target, out = VERSIONS[(number + 1) % 2], BENCH / f"kubernetes-upgrade-{number + 1}"
        cluster.under_calls(calls, out, cluster.command("upgrade", f"livekit_version={target}", "livekit_upgrade_policy=now"))
        report = json.loads((out / "report.json").read_text())
        change = next(p for p in report["phases"] if p["name"].startswith("ansible-playbook"))
        runs.append({"version": target, "seconds": change["seconds"], **{k: report["summary"][k] for k in ("calls", "dropped", "gaps", "worst_gap")}})
        print(f"upgrade {number + 1} to {target}: {runs[-1]}", flush=True)
    return runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrades", type=int, default=2)
    parser.add_argument("--calls", type=int, default=6)
    parser.add_argument("--pods", type=int, default=3)
    args = parser.parse_args()
    with Cluster("bench-kube", "172.30.81.0/24") as cluster:
        first = cluster.playbook("deploy", f"livekit_version={VERSIONS[0]}")
        again = [cluster.playbook("deploy", f"livekit_version={VERSIONS[0]}") for dummy in range(3)]
        endpoint = cluster.endpoint()
        rooms = [first_room(cluster, endpoint) for dummy in range(args.pods)]
        runs = upgrades(cluster, args.upgrades, args.calls)
    unchanged, slowest = statistics.median(run["seconds"] for run in again), max(run["seconds"] for run in runs)
    changed, dropped = sum(host["changed"] for run in again for host in run["hosts"].values()), sum(run["dropped"] for run in runs)
    rows = [
        ("run without a change", f"{unchanged:.1f} s", f"{UNCHANGED:g} s", unchanged <= UNCHANGED),
        ("changed in it", changed, 0, changed == 0),
        ("slowest upgrade of three nodes under calls", f"{slowest:.1f} s", f"{UPGRADE:g} s", slowest <= UPGRADE),
        (f"dropped, of {sum(run['calls'] for run in runs)} calls", dropped, 0, dropped == 0),
        ("pod ready to first room", f"{max(rooms):.2f} s", f"{FIRST_ROOM:g} s", max(rooms) <= FIRST_ROOM),
        ("first deploy", f"{first['seconds']:.1f} s", "", True),
        ("worst silence", f"{max(run['worst_gap'] for run in runs):.2f} s", "", True),
    ]
    good = table("kubernetes", rows)
    save("kubernetes", {"first": first, "unchanged": again, "rooms": rooms, "upgrades": runs, "rows": rows, "load": os.getloadavg()})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
