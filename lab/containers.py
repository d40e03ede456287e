#!/usr/bin/env python3
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the container images that the Compose and Kubernetes labs run, where no registry need answer.

    server-<version>   livekit/livekit-server:v<version>   the mirror's binary; 1.13.99 is the stand-in that never serves
    redis, haproxy, nginx   openrtc-lab/<name>:…           Debian's packages
    fleet              openrtc/livekit-fleet:<version>     images/fleet/Dockerfile, as a user builds it
    base                                                   what the last four share

Each is kept in Docker and, for other Docker daemons and for containerd, as an archive in <cache>/containers/, named by a
digest of what it is made of. An image that somebody else has given one of these names (the official livekit-server, say)
is left as it is and used.

    lab/containers.py [build] [NAME …]   "server" means every version; nothing to do takes 0.3 s
    lab/containers.py --check [NAME …]   makes nothing; exit 1 if there is something to make
    lab/containers.py list               name, reference and archive, as JSON

Safe to kill and to run again; two runs at a time wait for each other. Only the standard library is used.
"""
from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import tarfile
import time
import typing as t

import images
import mirror
from common import LabError, cache_dir, locked, say

KEPT_FOR = 7 * 24 * 3600  # seconds an archive stays after it was last needed
HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
KEY = "openrtc.lab.key"  # label: what the image was made of
SERVERS = (*mirror.VERSIONS, mirror.NEVER_SERVES)
FLEET_FILES = ("plugins/module_utils/fleet", "roles/controller/files", "roles/server/files/agent_check.py")


@dataclasses.dataclass(frozen=True)
class Container:
    """One image. base: another of these or a host image of the lab; files: its build context as {path there: path here};
    version: the livekit-server that goes in as well."""

    name: str
    reference: str
    dockerfile: pathlib.Path
    base: str = "base"
    files: t.Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    version: str = ""

    def key(self) -> str:
        """Twelve hex digits that change with anything the image is made of."""
        digest = hashlib.sha256(self.dockerfile.read_bytes())
        digest.update((CONTAINERS[self.base].key() if self.base in CONTAINERS else images.RECIPE).encode())
        if self.version:
            # Hashed already by whoever packed it, and 25 MB.
            digest.update(mirror.read(mirror.mirror_dir() / f"v{self.version}" / "checksums.txt").encode())
        for name, path in sorted(self.files.items()):
            digest.update(f"\0{name}\0".encode() + path.read_bytes())
        return digest.hexdigest()[:12]


def fleet_version() -> str:
    match = re.search(r"^version: *(\S+)", (ROOT / "galaxy.yml").read_text(encoding="utf-8"), re.MULTILINE)
    if not match:
        raise LabError("galaxy.yml has no version, so the image of the fleet has no name")
    return match[1]


def fleet_files() -> dict[str, pathlib.Path]:
    """What images/fleet/Dockerfile copies."""
    paths = (path for name in FLEET_FILES for path in ((ROOT / name).rglob("*") if (ROOT / name).is_dir() else [ROOT / name]))
    return {str(path.relative_to(ROOT)): path for path in paths if path.is_file() and path.suffix != ".pyc"}


def catalogue() -> dict[str, Container]:
    """Every image by name, the shared one first."""
    made = HERE / "dockerfiles"
    every = [
        Container("base", "openrtc-lab/base:12", made / "base", base="debian12"),
        # Commands of Debian 13: wget -T of the busybox in Debian 12 crashes.
        *(Container(f"server-{version}", f"livekit/livekit-server:v{version}", made / "server", "debian13", version=version) for version in SERVERS),
        Container("redis", "openrtc-lab/redis:7", made / "redis"),
        Container("haproxy", "openrtc-lab/haproxy:2.6", made / "haproxy"),
        Container("nginx", "openrtc-lab/nginx:1.22", made / "nginx"),
        Container("fleet", f"openrtc/livekit-fleet:{fleet_version()}", ROOT / "images" / "fleet" / "Dockerfile", files=fleet_files()),
    ]
    return {container.name: container for container in every}


CONTAINERS = catalogue()
WANTED = [name for name in CONTAINERS if name != "base"]


def chosen(names: t.Iterable[str]) -> list[Container]:
    """The images of these names, all when there are none; the shared one comes along where it is needed."""
    wanted: list[str] = []
    for name in names or WANTED:
        matching = [known for known in WANTED if name in (known, known.partition("-")[0])]
        if not matching:
            raise LabError(f"there is no image {name}; there are server, {', '.join(WANTED)}")
        wanted += matching
    return [CONTAINERS[name] for name in dict.fromkeys(wanted)]


def directory() -> pathlib.Path:
    return cache_dir() / "containers"


@dataclasses.dataclass(frozen=True)
class Have:
    """What Docker has under the name of a container. key: what it was made of, "" for an image that is not ours."""

    identity: str
    key: str


def look(wanted: t.Sequence[Container]) -> dict[str, Have]:
    """What is there, by the containers' names: one question for all of them."""
    lines = images.docker("image", "inspect", "--format", "{{ json . }}", *(container.reference for container in wanted), quiet=True).stdout.splitlines()
    found = {}
    for image in (json.loads(line) for line in lines if line):
        have = Have(image["Id"].removeprefix("sha256:"), (image["Config"]["Labels"] or {}).get(KEY, ""))
        found.update(dict.fromkeys(image["RepoTags"], have))
    return {container.name: found[container.reference] for container in wanted if container.reference in found}


def archive(container: Container, have: Have | None) -> pathlib.Path:
    """Where its archive is or will be: by what it is made of, or for somebody else's image by what it is."""
    foreign = have is not None and not have.key
    return directory() / f"{container.name}-{have.identity[:12] if have and foreign else container.key()}.tar"


def missing(container: Container, have: Have | None) -> bool:
    if have is None or (have.key and have.key != container.key()):
        return True
    return not archive(container, have).exists()


def ensure(container: Container) -> None:
    """Have the image in Docker and in the cache, by the shortest way."""
    have = look([container]).get(container.name)
    if not missing(container, have):
        return
    started = time.monotonic()
    if have is None or (have.key and have.key != container.key()):
        kept = archive(container, None)
        if kept.exists():
            say(f"{container.name}: loading {kept} (usually 2 s)")
            images.docker("load", "--input", str(kept), note=container.name)
        else:
            build(container)
        have = look([container]).get(container.name)
    target = archive(container, have)
    if target.exists():
        os.utime(target)
    else:
        save(container, target)
    say(f"{container.name}: {container.reference} ready after {time.monotonic() - started:.0f} s")


def build(container: Container) -> None:
    if container.base in CONTAINERS:
        ensure(CONTAINERS[container.base])
        base = CONTAINERS[container.base].reference
    else:
        with locked(cache_dir() / "images"):
            images.ensure(images.IMAGES[container.base])
        base = images.IMAGES[container.base].tag
    say(f"{container.name}: building {container.reference} (usually 10 to 40 s)")
    work = directory() / f"work-{container.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        fill(container, work)
        # Dockerfiles of the lab stand outside the context, where BuildKit and the classic builder both find them.
        images.docker(
            "build", "--quiet", "--force-rm", "--build-arg", f"BASE={base}", "--label", f"{KEY}={container.key()}",
            "--tag", container.reference, "--file", str(work / "Dockerfile"), str(work), note=container.name,
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def fill(container: Container, work: pathlib.Path) -> None:
    """Lay out the build context."""
    shutil.copyfile(container.dockerfile, work / "Dockerfile")
    for name, path in container.files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, work / name)
    if container.version:
        (work / "livekit-server").write_bytes(server(container.version))
        (work / "livekit-server").chmod(0o755)


def server(version: str) -> bytes:
    """The mirror's livekit-server; built anew where that one would need a C library, which the image does not promise."""
    with locked(mirror.mirror_dir().parent / "build"):
        mirror.ensure(version)
        with tarfile.open(mirror.mirror_dir() / f"v{version}" / mirror.archive_name(version)) as tar:
            member = tar.extractfile("livekit-server")
            program = member.read() if member else b""
        if is_static(program):
            return program
        if not mirror.built(version).exists():
            mirror.build(version)
        return mirror.built(version).read_bytes()


def is_static(program: bytes) -> bool:
    """Whether a program starts without a loader: a script, or a 64-bit ELF file that names no interpreter."""
    if program[:5] != b"\x7fELF\x02":
        return program[:2] == b"#!"
    table, size, count = (int.from_bytes(program[at:at + length], "little") for at, length in ((32, 8), (54, 2), (56, 2)))
    interpreter = 3  # PT_INTERP
    return all(int.from_bytes(program[table + size * row:table + size * row + 4], "little") != interpreter for row in range(count))


def save(container: Container, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    images.docker("save", "--output", str(partial), container.reference, note=container.name)
    partial.replace(target)
    current = {archive(one, None) for one in CONTAINERS.values()}
    for other in directory().glob("*.tar"):
        # Another checkout may have other images of the same names, so age decides.
        if other not in current and time.time() - other.stat().st_mtime > KEPT_FOR:
            other.unlink()


def listing(wanted: t.Sequence[Container]) -> list[dict[str, str]]:
    have = look(wanted)
    return [
        {"name": container.name, "reference": container.reference, "archive": str(archive(container, have.get(container.name)))}
        for container in wanted
    ]


def archive_all(wanted: t.Sequence[Container]) -> list[pathlib.Path]:
    """The archives of these images; what Docker itself has under their names matters only where one has to be made."""
    have = look(wanted)
    unmade = [container for container in wanted if not archive(container, have.get(container.name)).exists()]
    if unmade:
        build_all(unmade)
        have = look(wanted)
    return [archive(container, have.get(container.name)) for container in wanted]


def build_all(wanted: t.Sequence[Container]) -> None:
    have = look(wanted)
    if not any(missing(container, have.get(container.name)) for container in wanted):
        say(f"{', '.join(container.name for container in wanted)}: ready")
        return
    with locked(directory()):
        for container in wanted:
            ensure(container)
        images.docker("image", "prune", "--force", "--filter", f"label={KEY}", quiet=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", metavar="build | list | name", help=f"names: server, {', '.join(WANTED)} (default: all)")
    parser.add_argument("--check", action="store_true", help="make nothing; exit 1 if there is something to make")
    arguments = parser.parse_args()
    command, names = (arguments.words[0], arguments.words[1:]) if arguments.words[:1] in (["build"], ["list"]) else ("build", arguments.words)
    try:
        wanted = chosen(names)
        if command == "list":
            print(json.dumps(listing(wanted), indent=2))
        elif arguments.check:
            have = look(wanted)
            return int(any(missing(container, have.get(container.name)) for container in wanted))
        else:
            build_all(wanted)
    except (LabError, OSError) as exc:
        print(f"containers: ERROR: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
