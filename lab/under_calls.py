#!/usr/bin/env python3
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hold real calls while something is done to the cluster, and tell whether anybody was dropped.

    lab/under_calls.py --endpoint build/demo/endpoint.json --out build/x [--calls 10] [--expect-failure] -- COMMAND ...

Exit status 0: every call came up, none was dropped, and COMMAND ended as expected. What demo, molecule and benches share.
--endpoint is the file that lab/endpoint.yml writes; report.json and report.html go into --out.
"""
from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import typing as t

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEP = re.compile(r"  (\S+): slot ([\d, ]+) (\w+)")
KINDS = {"started": "start", "draining": "drain", "discarded": "stop"}
Change = t.Tuple[str, t.Sequence[str], bool]  # title, command, whether it has to succeed


class Phases:
    """What was done when, printed as it happens and kept for the report."""

    def __init__(self) -> None:
        self.list: list[dict[str, t.Any]] = []
        self.events: list[dict[str, t.Any]] = []
        self.said = ""  # by the last command

    def run(self, name: str, *command: str, ok: t.Callable[[int], bool] = lambda rc: rc == 0, quiet: bool = False) -> None:
        """Run a command; what it prints is shown unless quiet, and ends the demo if its exit status is not ok."""
        print(f"\n== {name}", flush=True)
        begin, self.said = time.time(), ""
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, bufsize=1) as child:
            for line in child.stdout or ():
                if not quiet:
                    print(line, end="", flush=True)
                self._event(line)
                self.said += line
        rc = child.returncode
        self.list.append({"name": name, "started": begin, "ended": time.time(), "seconds": round(time.time() - begin, 1), "ok": ok(rc)})
        print(f"== {name}: {self.list[-1]['seconds']} s", flush=True)
        if not ok(rc):
            raise SystemExit(f"{name} ended with {rc}; everything is left as it is for a look")

    def _event(self, line: str) -> None:
        """What module generation says while it works becomes a mark in the report's plot."""
        step = STEP.match(line)
        if step and step[3] in KINDS:
            self.events.append({"t": time.time(), "kind": KINDS[step[3]], "text": f"{step[1]} slot {step[2]} {step[3]}"})


class Calls:
    """The call clients, in the background until stop(). script: lab/callers.py or lab/browser/browsers.py; options: more of theirs, such as --steady."""

    def __init__(self, endpoint: t.Mapping[str, t.Any], out: pathlib.Path, count: int, *options: str, script: str = "lab/callers.py") -> None:
        self.count = count
        self.status, self.out, self.until = out / "calls.status.json", out / "calls.json", out / "calls.stop"
        out.mkdir(parents=True, exist_ok=True)
        for path in (self.status, self.out, self.until):
            path.unlink(missing_ok=True)
        command = [sys.executable, str(ROOT / script), "--calls", str(count), "--seconds", "3600",
                   "--until-file", str(self.until), "--status", str(self.status), "--out", str(self.out), *options]
        if endpoint.get("ca_file") and endpoint["urls"][0].startswith("wss"):
            command += ["--ca-file", endpoint["ca_file"]]
        for url in endpoint["urls"]:
            command += ["--url", url]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL,
                                        env={**os.environ, "LIVEKIT_API_KEY": endpoint["api_key"], "LIVEKIT_API_SECRET": endpoint["api_secret"]})

    def wait_media(self, seconds: float = 60) -> None:
        end = time.time() + seconds
        while time.time() < end and self.process.poll() is None:
            try:
                if json.loads(self.status.read_text())["with_media"] >= self.count:
                    return
            except (OSError, ValueError, KeyError):
                pass
            time.sleep(0.3)
        self.stop()
        raise SystemExit("the calls did not come up; see the messages above")

    def stop(self) -> None:
        self.until.touch()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def under_calls(phases: Phases, endpoint: t.Mapping[str, t.Any], out: pathlib.Path, changes: t.Sequence[Change], count: int = 10) -> bool:
    """Hold `count` calls, make the changes and write the report into `out`. True: every call came up and nobody was dropped."""
    begin = time.time()
    print(f"\n== {count} calls, a tone from one client to the other, through the balancers", flush=True)
    calls = Calls(endpoint, out, count)
    try:
        calls.wait_media()
        phases.list.append({"name": "calls come up", "started": begin, "ended": time.time(), "seconds": round(time.time() - begin, 1), "ok": True})
        time.sleep(3)
        for title, command, good in changes:
            phases.run(title, *command, ok=(lambda rc: rc == 0) if good else (lambda rc: rc != 0))
            if not good and not re.search(r"gate_\w+|probe_\w+", phases.said):
                raise SystemExit(f"{title}: it failed, but not by a node that did not pass its gates")
            if calls.process.poll() is not None:
                raise SystemExit(f"{title}: the calls had ended before it was done, so it proves nothing")
        time.sleep(5)
    finally:
        calls.stop()
    told = out / "phases.json"
    told.write_text(json.dumps({"title": "LiveKit changed under calls", "phases": phases.list, "events": phases.events}, indent=1))
    subprocess.run([sys.executable, str(ROOT / "lab/report.py"), "--calls", str(calls.out), "--phases", str(told), "--out", str(out)], check=True)
    summary = json.loads((out / "report.json").read_text())["summary"]
    return summary["calls"] >= count and summary["dropped"] == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--expect-failure", action="store_true", help="COMMAND has to fail, as an upgrade to a broken version has to")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    endpoint = json.loads(args.endpoint.read_text())
    return 0 if under_calls(Phases(), endpoint, args.out, [(args.command[0], args.command, not args.expect_failure)], args.calls) else 1


if __name__ == "__main__":
    sys.exit(main())
