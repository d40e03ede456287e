#!/usr/bin/env python3
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fill the lab's release mirror: livekit-server archives under the same paths and names as the project's own releases.

    <cache>/mirror/v1.13.5/livekit_1.13.5_linux_amd64.tar.gz     livekit-server and LICENSE
    <cache>/mirror/v1.13.5/checksums.txt                         sha256, two spaces, file name

A version that is not there yet is packed from <cache>/build/<version>/server, downloaded from the real release host
where that one answers, or built from its Go module. Two releases more are stand-ins, for tests only:

    1.13.99  a well-packed livekit-server that passes the static check, starts, and never serves
    1.13.98  an archive that does not match its checksums.txt

Safe to kill and to run again; two runs at a time wait for each other. Only the standard library is used.
"""
from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import io
import os
import pathlib
import platform
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request

from common import LabError, cache_dir, locked, run, say

VERSIONS = ("1.13.4", "1.13.5")
NEVER_SERVES = "1.13.99"
BAD_CHECKSUM = "1.13.98"
RELEASES = "https://github.com/livekit/livekit/releases/download"
MODULE = "github.com/livekit/livekit-server"

# What a broken release looks like from outside: right words, right exit codes, a process that stays, no port.
STAND_IN = """#!/bin/sh
# A stand-in for a broken livekit-server release, made by lab/mirror.py for tests. It never serves.
for argument; do
    case "$argument" in
    --version) echo "livekit-server version {version}"; exit 0 ;;
    ports) printf 'TCP Ports\\n7880 - HTTP service\\n7881 - ICE/TCP\\nUDP Ports\\n50000-50099 - ICE/UDP\\n'; exit 0 ;;
    esac
done
echo "starting LiveKit server (stand-in that never serves)"
exec sleep infinity
"""
STAND_IN_LICENSE = "Part of openrtc.livekit, GPL-3.0-or-later. A stand-in for tests, not LiveKit.\n"


def architecture() -> str:
    """The machine's name in release file names, which is Go's."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armv7"}.get(machine, machine)


def mirror_dir() -> pathlib.Path:
    return cache_dir() / "mirror"


def archive_name(version: str) -> str:
    return f"livekit_{version}_linux_{architecture()}.tar.gz"


def built(version: str) -> pathlib.Path:
    return cache_dir() / "build" / version / "server"


def present(version: str) -> bool:
    # checksums.txt is written last, so that a version without it was not finished.
    directory = mirror_dir() / f"v{version}"
    return (directory / archive_name(version)).exists() and archive_name(version) in read(directory / "checksums.txt")


def read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def pack(version: str, server: bytes, licence: str, hashed: bytes | None = None) -> None:
    """Write archive and checksums; hashed replaces the archive's bytes in the checksum, for the release that must not match."""
    raw = io.BytesIO()
    with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, compresslevel=6) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, mode, content in (("LICENSE", 0o644, licence.encode()), ("livekit-server", 0o755, server)):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = mode, len(content)
            tar.addfile(entry, io.BytesIO(content))
    archive = raw.getvalue()
    publish(version, archive, f"{hashlib.sha256(archive if hashed is None else hashed).hexdigest()}  {archive_name(version)}\n")


def publish(version: str, archive: bytes, checksums: str) -> None:
    directory = mirror_dir() / f"v{version}"
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in ((archive_name(version), archive), ("checksums.txt", checksums.encode())):
        partial = directory / f".{name}.partial"
        partial.write_bytes(content)
        partial.chmod(0o644)
        partial.replace(directory / name)


def download(version: str) -> bool:
    """Fetch the real release; False if the release host does not answer or does not know the version."""
    base = f"{RELEASES}/v{version}"
    try:
        with urllib.request.urlopen(f"{base}/checksums.txt", timeout=5) as answer:
            checksums = answer.read().decode()
        wanted = [line.split()[0] for line in checksums.splitlines() if line.split()[1:] == [archive_name(version)]]
        if not wanted:
            return False
        say(f"{version}: downloading the release (25 MB)")
        with urllib.request.urlopen(f"{base}/{archive_name(version)}", timeout=60) as answer:
            archive = answer.read()
    except (OSError, ValueError, IndexError, UnicodeError):
        return False
    if hashlib.sha256(archive).hexdigest() != wanted[0]:
        raise LabError(f"{base}/{archive_name(version)} does not match its checksums.txt; run again, or delete what sits between here and there")
    publish(version, archive, checksums)
    return True


def build(version: str) -> None:
    if not shutil.which("go"):
        raise LabError(
            f"livekit-server {version} can be had from nowhere: {RELEASES} does not answer and there is no Go here to build it.\n"
            f"  Install Go (1.24 or newer), or put the binary at {built(version)}"
        )
    say(f"{version}: building from the Go module (usually 2 to 3 min for the first version, 1 min for the next)")
    partial = built(version).parent / "partial"
    copy_source(MODULE, version, partial)
    run("go", "-C", str(partial), "build", "-trimpath", "-ldflags", "-s -w", "-o", "server", "./cmd/server", env={"CGO_ENABLED": "0"}, note=version)
    (partial / "server").replace(built(version))
    shutil.rmtree(partial)


def source(version: str, module: str = MODULE) -> pathlib.Path:
    """The module's source in Go's module cache, downloaded if it is not there."""
    return pathlib.Path(json.loads(run("go", "mod", "download", "-json", f"{module}@v{version}", note=version).stdout)["Dir"])


def copy_source(module: str, version: str, target: pathlib.Path) -> None:
    """A copy of a module to build in: there its own go.sum vouches for every dependency. `go install` would ask the checksum
    database for each one instead, which does not answer for all of them everywhere.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source(version, module), target, copy_function=shutil.copyfile)
    for directory in (target, *(p for p in target.rglob("*") if p.is_dir())):
        directory.chmod(0o755)


def licence_text(version: str) -> str:
    fallback = f"Apache License 2.0, see {RELEASES.removesuffix('/releases/download')}/blob/v{version}/LICENSE\n"
    if not shutil.which("go"):
        return fallback
    return read(source(version) / "LICENSE") or fallback


def ensure(version: str) -> None:
    if present(version):
        return
    started = time.monotonic()
    if version == NEVER_SERVES:
        pack(version, STAND_IN.format(version=version).encode(), STAND_IN_LICENSE)
    elif version == BAD_CHECKSUM:
        pack(version, STAND_IN.format(version=version).encode(), STAND_IN_LICENSE, hashed=b"the bytes of another archive")
    elif built(version).exists() or not download(version):
        if not built(version).exists():
            build(version)
        said = run(str(built(version)), "--version", quiet=True, timeout=20).stdout.strip()
        if not said.endswith(f" {version}"):
            raise LabError(f"{built(version)} --version says {said!r}, not {version}; delete it and run again")
        pack(version, built(version).read_bytes(), licence_text(version))
    say(f"{version}: in the mirror after {time.monotonic() - started:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("versions", nargs="*", metavar="version", help=f"default: {' '.join(VERSIONS)}")
    parser.add_argument("--check", action="store_true", help="make nothing; exit 1 if there is something to make")
    arguments = parser.parse_args()
    wanted = [*(arguments.versions or VERSIONS), NEVER_SERVES, BAD_CHECKSUM]
    if all(present(version) for version in wanted):
        say(f"{', '.join(wanted)}: ready")
        return 0
    if arguments.check:
        return 1
    os.umask(0o022)
    try:
        with locked(mirror_dir().parent / "build"):
            for version in wanted:
                ensure(version)
    except LabError as exc:
        print(f"mirror: ERROR: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
