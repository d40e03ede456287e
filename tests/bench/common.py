# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What benches share: a lab of their own, playbooks that are timed and counted, a table and a JSON file."""
from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import time
import typing as t

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCH = ROOT / "build" / "bench"
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)\s+skipped=(\d+)", re.M)


class Lab:
    """Six hosts as in inventories/cluster, made on entry and removed on exit."""

    def __init__(self, name: str, subnet: str) -> None:
        self.name, self.directory = name, ROOT / "build" / "lab" / name
        self.options = ["-e", f"lab_name={name}", "-e", f"lab_subnet={subnet}"]
        self.inventory = ["-i", "inventories/cluster", "-i", str(self.directory / "inventory.yml"), "-e", "@lab/overrides.yml",
                          "-e", f"livekit_lab_dir={self.directory}"]

    def __enter__(self) -> Lab:
        for step in ("lab/bootstrap", "lab/prepare"):
            subprocess.run([step], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
        self.quiet("ansible-playbook", "lab/destroy.yml", *self.options)
        self.quiet("ansible-playbook", "lab/create.yml", *self.options)
        return self

    def __exit__(self, *dummy: t.Any) -> None:
        self.quiet("ansible-playbook", "lab/destroy.yml", *self.options)

    def quiet(self, *command: str) -> str:
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            print(done.stdout[-6000:], flush=True)
            raise SystemExit(f"{' '.join(command[:2])} ended with {done.returncode}")
        return done.stdout

    def command(self, verb: str, *variables: str) -> list[str]:
        return ["ansible-playbook", f"openrtc.livekit.{verb}", *self.inventory, *(word for v in variables for word in ("-e", v))]

    def playbook(self, verb: str, *variables: str) -> dict[str, t.Any]:
        """Run one of our playbooks: {seconds, hosts: {name: {tasks, changed}}}; skipped tasks count as tasks."""
        begin = time.monotonic()
        said = self.quiet(*self.command(verb, *variables))
        seconds = time.monotonic() - begin
        hosts = {m[1]: {"tasks": int(m[2]) + int(m[6]), "changed": int(m[3])} for m in RECAP.finditer(said)}
        print(f"{verb}: {seconds:.1f} s, {sum(h['changed'] for h in hosts.values())} changed (load {os.getloadavg()[0]:.1f})", flush=True)
        return {"seconds": seconds, "hosts": hosts, "load": os.getloadavg()[0]}

    def under_calls(self, calls: int, out: pathlib.Path, command: list[str]) -> None:
        """lab/under_calls.py around a command; a dropped call is for the bench to count, not an error here."""
        endpoint = self.directory / "endpoint.json"
        self.quiet("ansible-playbook", "lab/endpoint.yml", *self.inventory, "-e", f"endpoint_file={endpoint}")
        subprocess.run([sys.executable, "lab/under_calls.py", "--endpoint", str(endpoint), "--out", str(out), "--calls", str(calls), "--", *command],
                       cwd=ROOT, stdin=subprocess.DEVNULL, check=False)


def table(title: str, rows: t.Sequence[tuple[str, t.Any, t.Any, bool]]) -> bool:
    """Print (what, figure, goal, met) and tell whether all are met."""
    print(f"\n{title}")
    for what, figure, goal, met in rows:
        print(f"  {what:50} {str(figure):>12}  goal {str(goal) or '-':>8}  {'met' if met else 'NOT MET'}")
    return all(row[3] for row in rows)


def save(name: str, content: t.Mapping[str, t.Any]) -> None:
    BENCH.mkdir(parents=True, exist_ok=True)
    (BENCH / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"raw figures: build/bench/{name}.json", flush=True)
