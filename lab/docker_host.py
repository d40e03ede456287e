#!/usr/bin/env python3
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the host image that has Docker, openrtc-lab:debian12-docker, and the Compose plugin beside it, as Debian 12 has none.

    <cache>/build/compose-2.27.1/docker-compose     built from its Go module; lab/create.yml mounts it into the hosts

Safe to kill and to run again; two runs at a time wait for each other. Only the standard library is used.
"""
from __future__ import annotations

import argparse
import hashlib
import pathlib
import shutil
import sys
import time

import images
import mirror
from common import LabError, cache_dir, locked, run, say

COMPOSE = "2.27.1"  # the newest that speaks to Docker 20.10 and builds here
MODULE = "github.com/docker/compose/v2"
BASE = images.IMAGES["debian12"]
TAG = f"{BASE.tag}-docker"
DOCKERFILE = pathlib.Path(__file__).resolve().parent / "dockerfiles" / "docker-host"
KEY = "openrtc.lab.made-of"


def plugin() -> pathlib.Path:
    return cache_dir() / "build" / f"compose-{COMPOSE}" / "docker-compose"


def build_plugin() -> None:
    if not shutil.which("go"):
        raise LabError(f"the Compose plugin must be built, and there is no Go here. Install Go (1.21 or newer), or put docker-compose {COMPOSE} at {plugin()}")
    say(f"compose {COMPOSE}: building from the Go module (usually 4 to 6 min, once)")
    copied = plugin().parent / "partial"
    mirror.copy_source(MODULE, COMPOSE, copied)
    run("go", "-C", str(copied), "build", "-trimpath", "-ldflags", f"-s -w -X {MODULE}/internal.Version=v{COMPOSE}", "-o", "made", "./cmd",
        env={"CGO_ENABLED": "0"}, note=f"compose {COMPOSE}")
    (copied / "made").replace(plugin())
    shutil.rmtree(copied)


def made_of() -> str:
    """Changes with whatever the image is made of, but not with fresher package lists of its base."""
    return hashlib.sha256(DOCKERFILE.read_bytes() + images.RECIPE.encode()).hexdigest()[:12]


def image_ready() -> bool:
    template = f'{{{{ index .Config.Labels "{KEY}" }}}}'
    return images.docker("image", "inspect", "--format", template, TAG, quiet=True).stdout.strip() == made_of()


def build_image() -> None:
    images.ensure(BASE)
    say("debian12-docker: installing Docker (usually 30 s)")
    images.docker("build", "--quiet", "--build-arg", f"BASE={BASE.tag}", "--label", f"{KEY}={made_of()}", "--tag", TAG,
                  "--file", str(DOCKERFILE), str(DOCKERFILE.parent), note="debian12-docker")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="make nothing; exit 1 if there is something to make")
    arguments = parser.parse_args()
    try:
        if plugin().exists() and image_ready():
            say(f"compose {COMPOSE}, debian12-docker: ready")
            return 0
        if arguments.check:
            return 1
        started = time.monotonic()
        with locked(plugin().parent):
            if not plugin().exists():
                build_plugin()
            if not image_ready():
                build_image()
        say(f"done in {time.monotonic() - started:.0f} s")
    except LabError as exc:
        print(f"docker_host: ERROR: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
