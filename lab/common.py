# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab's scripts share: where things are kept, how a command is run, how progress is told. Standard library only."""
from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import subprocess
import sys
import time
import typing as t


class LabError(Exception):
    """Something the user has to know, in plain words."""


def cache_dir() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(base) / "openrtc-livekit"


def say(text: str) -> None:
    program = pathlib.Path(sys.argv[0]).stem
    print(f"{time.strftime('%H:%M:%S')} {program}: {text}", flush=True)


def run(
    *command: str, quiet: bool = False, timeout: float | None = None, env: t.Mapping[str, str] | None = None, note: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a command without standard input; unless quiet, a failure raises with the end of what it said.

    With a note, which names the work, the user hears every 30 s that it goes on.
    """
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=None if env is None else {**os.environ, **env},
        )
    except FileNotFoundError as exc:
        raise LabError(f"{command[0]} is not installed; run lab/bootstrap first") from exc
    with process:
        while True:
            try:
                out, err = process.communicate(timeout=30 if note else timeout)
                break
            except subprocess.TimeoutExpired:
                elapsed = time.monotonic() - started
                if timeout is not None and elapsed >= timeout:
                    process.kill()
                    timeout = None
                elif note:
                    say(f"{note}: still at it after {elapsed:.0f} s")
            except BaseException:
                process.kill()
                raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if done.returncode and not quiet:
        tail = "\n  ".join((err or out).strip().splitlines()[-8:])
        raise LabError(f"{' '.join(command[:4])} … failed with {done.returncode}:\n  {tail}")
    return done


@contextlib.contextmanager
def locked(directory: pathlib.Path) -> t.Iterator[None]:
    """One run at a time per directory; the lock goes with the process, however it ends."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is at it, waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
