# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A containerd store with the lab's images in it, filled once. Each node starts with a copy, made of hard links where files never change."""
from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess
import time
import typing as t

from common import LabError, run, say

from . import processes
from .layout import STATE

SEEDS = STATE / "seeds"
KEPT = 2  # older stores that stay, for other checkouts
RECIPE = "1"  # raise it when what is in a seed changes


def key(archives: t.Sequence[pathlib.Path]) -> str:
    """The archives' names tell their content (see containers.py); size and time are for the one that has no digest in its name."""
    lines = [f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in sorted(archives)]
    return hashlib.sha256("\n".join([RECIPE, *lines]).encode()).hexdigest()[:12]


def ready(archives: t.Sequence[pathlib.Path]) -> bool:
    return (SEEDS / key(archives)).is_dir()


def ensure(archives: t.Sequence[pathlib.Path]) -> pathlib.Path:
    """The directory of a store with these archives; made where it is missing, older ones are removed. The caller holds the lock."""
    seed = SEEDS / key(archives)
    if seed.is_dir():
        os.utime(seed)
        return seed
    started = time.monotonic()
    say(f"loading {len(archives)} images into a store for the nodes (usually 10 to 20 s)")
    SEEDS.mkdir(parents=True, exist_ok=True)
    for old in sorted(SEEDS.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(old)
    partial = seed.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    fill(partial, archives)
    # Only the store itself is wanted.
    (partial / "store").rename(seed)
    shutil.rmtree(partial)
    say(f"images loaded after {time.monotonic() - started:.0f} s")
    return seed


def fill(directory: pathlib.Path, archives: t.Sequence[pathlib.Path]) -> None:
    directory.mkdir()
    socket = directory / "containerd.sock"
    config = directory / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{directory}/store"\nstate = "{directory}/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\n  address = "{socket}"\n[plugins."io.containerd.internal.v1.opt"]\n  path = "{directory}/opt"\n',
        encoding="utf-8",
    )
    with open(directory / "containerd.log", "wb") as log:
        # A mount namespace of its own: what it mounts while it unpacks goes away with it.
        daemon = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "containerd", "--config", str(config)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": processes.PATH},
        )
        try:
            for _attempt in range(200):
                if run("ctr", "-a", str(socket), "version", quiet=True).returncode == 0:
                    break
                if daemon.poll() is not None:
                    raise LabError(f"containerd ends at once, its log is {directory}/containerd.log")
                time.sleep(0.1)
            for archive in archives:
                run("ctr", "-a", str(socket), "-n", "k8s.io", "images", "import", str(archive), note=archive.name)
        finally:
            daemon.terminate()
            daemon.wait()


def copy(seed: pathlib.Path, target: pathlib.Path) -> None:
    """A node's own store. Images are never written to, so links do; the two databases are."""
    target.parent.mkdir(parents=True, exist_ok=True)
    run("cp", "-al", str(seed), str(target))
    for database in target.rglob("*.db"):
        private = database.with_suffix(".private")
        shutil.copyfile(database, private)
        private.replace(database)
