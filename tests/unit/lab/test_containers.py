# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's container images: names, what makes one anew, and that the fleet's image holds what an ordinary host gets."""
from __future__ import annotations

import dataclasses
import importlib
import json
import pathlib
import re
import shutil
import struct
import sys
import types

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
DOCKERFILE = ROOT / "images" / "fleet" / "Dockerfile"


@pytest.fixture(name="containers", scope="module")
def fixture_containers():
    known = set(sys.modules)
    sys.path.insert(0, str(ROOT / "lab"))
    try:
        yield importlib.import_module("containers")
    finally:
        sys.path.remove(str(ROOT / "lab"))
        for name in {"containers", "images", "mirror", "common"} - known:  # the benches have a module common, too
            sys.modules.pop(name, None)


@pytest.fixture(name="docker")
def fixture_docker(containers, monkeypatch):
    """A Docker that has the images of this list, each as docker image inspect shows it."""
    there: list[dict] = []
    monkeypatch.setattr(
        containers.images, "docker",
        lambda *_words, **_more: types.SimpleNamespace(stdout="\n".join(json.dumps(image) for image in there) + "\n", returncode=0),
    )
    return there


def inspected(reference, identity="ab" * 32, **labels):
    return {"RepoTags": [reference, "other:tag"], "Id": f"sha256:{identity}", "Config": {"Labels": labels or None}}


def test_names_and_references(containers):
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))["version"]
    references = {container.name: container.reference for container in containers.chosen([])}
    assert references == {
        "server-1.13.4": "livekit/livekit-server:v1.13.4", "server-1.13.5": "livekit/livekit-server:v1.13.5",
        "server-1.13.99": "livekit/livekit-server:v1.13.99", "redis": "openrtc-lab/redis:7", "haproxy": "openrtc-lab/haproxy:2.6",
        "nginx": "openrtc-lab/nginx:1.22", "fleet": f"openrtc/livekit-fleet:{version}",
    }


def test_server_means_every_version_and_a_typing_error_is_told(containers):
    assert [one.name for one in containers.chosen(["fleet", "server", "fleet"])] == ["fleet", "server-1.13.4", "server-1.13.5", "server-1.13.99"]
    with pytest.raises(containers.LabError, match="no image redsi; there are server,.* redis"):
        containers.chosen(["redsi"])


def test_key_follows_everything_an_image_is_made_of(containers, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    copied = tmp_path / "page.html"
    shutil.copyfile(ROOT / "roles/controller/files/page.html", copied)
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM scratch\n", encoding="utf-8")
    fleet = dataclasses.replace(containers.CONTAINERS["fleet"], files={"page.html": copied}, dockerfile=dockerfile)
    keys = [fleet.key(), fleet.key()]
    assert keys[0] == keys[1] and re.fullmatch("[0-9a-f]{12}", keys[0])
    copied.write_bytes(copied.read_bytes() + b"\n")
    keys.append(fleet.key())
    keys.append(dataclasses.replace(fleet, files={"page.htm": copied}).key())
    dockerfile.write_text("FROM scratch\nUSER 1\n", encoding="utf-8")
    keys.append(fleet.key())
    assert len(set(keys)) == 4

    server = containers.CONTAINERS["server-1.13.5"]
    before = server.key()
    (tmp_path / "openrtc-livekit/mirror/v1.13.5").mkdir(parents=True)
    (tmp_path / "openrtc-livekit/mirror/v1.13.5/checksums.txt").write_text("1234  livekit.tar.gz\n", encoding="utf-8")
    assert server.key() != before


def test_an_image_is_made_when_it_is_not_there_or_not_this_one_or_not_archived(containers, docker, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    redis = containers.CONTAINERS["redis"]

    def missing():
        return containers.missing(redis, containers.look([redis]).get("redis"))

    assert missing()
    docker.append(inspected(redis.reference, **{containers.KEY: redis.key()}))
    assert missing()
    archive = tmp_path / "openrtc-livekit" / "containers" / f"redis-{redis.key()}.tar"
    archive.parent.mkdir(parents=True)
    archive.touch()
    assert not missing()
    assert containers.listing([redis]) == [{"name": "redis", "reference": "openrtc-lab/redis:7", "archive": str(archive)}]
    docker[0] = inspected(redis.reference, **{containers.KEY: "000000000000"})
    assert missing()


def test_the_official_image_is_used_and_not_replaced(containers, docker, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server = containers.CONTAINERS["server-1.13.5"]
    docker.append(inspected(server.reference, "0123456789abcdef" * 4, maintainer="somebody"))
    have = containers.look([server])["server-1.13.5"]
    assert have.key == "" and containers.archive(server, have).name == "server-1.13.5-0123456789ab.tar"
    containers.archive(server, have).parent.mkdir(parents=True)
    containers.archive(server, have).touch()
    monkeypatch.setattr(containers, "build", lambda _container: pytest.fail("built over somebody else's image"))
    containers.ensure(server)


def test_only_programs_that_need_no_loader_go_into_the_image(containers):
    def elf(*kinds):
        header = b"\x7fELF\x02".ljust(32, b"\0") + struct.pack("<Q", 64) + b"\0" * 14 + struct.pack("<HH", 56, len(kinds))
        return header.ljust(64, b"\0") + b"".join(struct.pack("<I", kind).ljust(56, b"\0") for kind in kinds)

    assert containers.is_static(elf(1, 1, 4)) and containers.is_static(b"#!/bin/sh\n")
    assert not containers.is_static(elf(6, 3, 1)) and not containers.is_static(b"")


def test_the_fleet_image_holds_what_a_host_gets():
    text = DOCKERFILE.read_text(encoding="utf-8")
    removed = re.search(r"cd fleet && rm -rf ([^)]*)\)", text)[1].split()
    exclude = yaml.safe_load((ROOT / "roles/model/vars/main.yml").read_text(encoding="utf-8"))["__livekit_model_fleet_exclude"]
    assert removed == [name.removesuffix("/*") for name in exclude]
    wanted = yaml.safe_load((ROOT / "roles/controller/vars/main.yml").read_text(encoding="utf-8"))["__livekit_controller_packages"]
    assert set(wanted) <= set(text.replace("\\\n", " ").split())


def test_the_context_has_every_file_the_fleet_dockerfile_copies(containers):
    context = containers.fleet_files()
    sources = [word for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if line.startswith("COPY ") and "--from" not in line
               for word in line.split()[1:-1]]
    assert sources and all(any(name == source or name.startswith(f"{source}/") for name in context) for source in sources)
    assert not [name for name in context if name.endswith(".pyc")]
