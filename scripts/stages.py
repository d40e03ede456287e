# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run test stages (make targets) one after the other, whatever fails, and sum them up.

Each stage's output is shown as it comes and kept in build/test/<stage>.log. A stage says how it went by a last line such as
"12 passed, 1 failed" (pytest's own summary is of that form). A stage that fails without a failed test counts as one failure,
and so does one that ran no test at all. The last line of the output is the sum: "test: N passed, N failed".

Needs nothing but Python: it runs before the virtual environment exists.
"""
from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOGS = os.path.join(ROOT, "build", "test")
LAST_LINES = 12  # of a failed stage, shown again above the sum: the end of the output may be all that is kept of a run
QUIET_SECONDS = 60  # a stage silent for this long gets a line that says that it still runs

ANSI = re.compile(r"\x1b\[[0-9;]*m")
COUNT = re.compile(r"\b(\d+) (passed|failed|errors?|skipped)\b")


def counts(text: str) -> dict[str, int]:
    """{passed, failed, skipped} from the last line that counts tests."""
    result = {"passed": 0, "failed": 0, "skipped": 0}
    for line in reversed(ANSI.sub("", text).splitlines()):
        found = COUNT.findall(line)
        if any(word != "skipped" for dummy, word in found):
            for number, word in found:
                result["failed" if word.startswith("error") else word] += int(number)
            break
    return result


def follow(process: subprocess.Popen, path: str, name: str) -> int:
    """Show what the stage writes into its log until it ends.

    The log is a file, not a pipe: a daemon that the stage leaves behind (dockerd) would keep a pipe open for ever.
    """
    started = spoke = time.monotonic()
    with open(path, "rb") as log:
        while True:
            ended = process.poll() is not None
            data = log.read()
            if data:
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
                spoke = time.monotonic()
            if ended:
                return process.returncode
            if time.monotonic() - spoke > QUIET_SECONDS:
                print(f"[{name}: still running, {time.monotonic() - started:.0f} s]", flush=True)
                spoke = time.monotonic()
            time.sleep(0.1)


def run(name: str) -> tuple[str, dict[str, int], float]:
    """One stage: (verdict, counts, seconds)."""
    print(f"\n=== {name} " + "=" * max(0, 100 - len(name)), flush=True)
    path = os.path.join(LOGS, f"{name}.log")
    began = time.monotonic()
    with open(path, "wb") as log:
        process = subprocess.Popen(
            ["make", name], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        code = follow(process, path, name)
    except BaseException:
        # Interrupted: the stage has a process group of its own, take it along.
        os.killpg(process.pid, signal.SIGTERM)
        raise
    seconds = time.monotonic() - began
    with open(path, encoding="utf-8", errors="replace") as log:
        result = counts(log.read())
    verdict = "passed"
    if code != 0:
        verdict = f"FAILED (exit {code})"
        result["failed"] = max(1, result["failed"])
    elif result["failed"] or not result["passed"]:
        verdict = "FAILED" if result["failed"] else "FAILED (ran no test)"
        result["failed"] = max(1, result["failed"])
    print(f"--- {name}: {verdict}, {seconds:.0f} s", flush=True)
    return verdict, result, seconds


def main(stages: list[str]) -> int:
    if not stages:
        print("usage: python3 scripts/stages.py STAGE...   (a stage is a make target)", file=sys.stderr)
        return 2
    os.makedirs(LOGS, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(LOGS, "summary"))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    rows = [(name, *run(name)) for name in stages]
    for name, verdict, dummy, dummy in rows[:-1]:  # the last one's end is still to be seen
        if verdict != "passed":
            with open(os.path.join(LOGS, f"{name}.log"), encoding="utf-8", errors="replace") as log:
                print(f"\n=== {name} ended with:\n" + "".join(log.readlines()[-LAST_LINES:]), flush=True)
    print(f"\n{'stage':12} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}  verdict")
    for name, verdict, result, seconds in rows:
        log = "" if verdict == "passed" else f"; output: build/test/{name}.log"
        print(f"{name:12} {result['passed']:7} {result['failed']:7} {result['skipped']:8} {seconds:8.0f}  {verdict}{log}")
    passed = sum(row[2]["passed"] for row in rows)
    failed = sum(row[2]["failed"] for row in rows)
    summary = f"test: {passed} passed, {failed} failed"
    with open(os.path.join(LOGS, "summary"), "w", encoding="utf-8") as handle:
        handle.write(summary + "\n")
    print(summary, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
