# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetching images: from a registry played by a table of answers, and from real archives."""
from __future__ import annotations

import io
import json
import os
import tarfile
import time

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.images import Images
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.runtimes.docker_api import DockerApi
from ansible_collections.openrtc.livekit.plugins.modules import image

from docker_sample import FakeDocker

NAME = "livekit/livekit-server:v1.13.5"


@pytest.fixture(name="docker")
def fixture_docker(tmp_path):
    made = FakeDocker(tmp_path / "docker.sock")
    yield made
    made.close()


def archive(path, *tags):
    text = json.dumps([{"Config": "x.json", "RepoTags": list(tags)}]).encode()
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))


class Runs:
    """docker pull, load and run; `has` is what Docker has after either of the first two."""

    def __init__(self, docker, has=NAME, answer=(0, "", "")):
        self.docker, self.has, self.answer, self.done = docker, has, answer, []

    def __call__(self, command):
        self.done.append(command[3:])
        if command[3] in ("pull", "load") and self.answer[0] == 0 and self.has:
            self.docker.images[self.has] = {"Config": {}}
        return self.answer if command[3] != "run" else (0, "livekit-server version 1.13.5\n", "")


def code(call, *args):
    with pytest.raises(FleetError) as caught:
        call(*args)
    return caught.value.failure["code"]


def test_what_docker_has_is_not_fetched(docker):
    docker.images[NAME] = {}
    assert Images(DockerApi(docker.path), Runs(docker)).missing([NAME, NAME, "redis:7"]) == ["redis:7"]


@pytest.mark.parametrize("said, expected", [
    ("manifest for x not found: manifest unknown", "image_absent"), ("pull access denied for x, repository does not exist", "image_absent"),
    ("dial tcp: lookup registry-1.docker.io: no such host", "image_registry"), ("unauthorized: authentication required", "image_registry")])
def test_why_a_pull_failed_is_told(docker, said, expected):
    assert code(Images(DockerApi(docker.path), Runs(docker, answer=(1, "", said))).fetch, NAME) == expected


def test_the_right_archive_is_loaded_and_no_registry_asked(docker, tmp_path):
    archive(tmp_path / "a.tar", "redis:7")
    archive(tmp_path / "b.tar", NAME)
    (tmp_path / "c.tar").write_text("no archive")
    runs = Runs(docker)
    Images(DockerApi(docker.path), runs, str(tmp_path)).fetch(NAME)
    assert runs.done == [["load", "--quiet", "--input", str(tmp_path / "b.tar")]]


def test_of_two_archives_of_an_image_the_newer_one_is_loaded(docker, tmp_path):
    for age, name in ((100, "a.tar"), (0, "b.tar"), (50, "c.tar")):
        archive(tmp_path / name, NAME)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    runs = Runs(docker)
    Images(DockerApi(docker.path), runs, str(tmp_path)).fetch(NAME)
    assert [command[-1] for command in runs.done] == [str(tmp_path / "b.tar")]


def test_an_image_in_no_archive_is_told_with_those_that_are(docker, tmp_path):
    archive(tmp_path / "a.tar", "redis:7")
    images = Images(DockerApi(docker.path), Runs(docker), str(tmp_path))
    with pytest.raises(FleetError, match="redis:7") as caught:
        images.fetch(NAME)
    assert caught.value.failure["code"] == "image_absent"
    with pytest.raises(FleetError, match="by its tag"):
        images.fetch("a/b@sha256:" + "0" * 64)
    assert code(Images(DockerApi(docker.path), Runs(docker), str(tmp_path / "nowhere")).fetch, NAME) == "image_archive"


def test_an_archive_that_does_not_hold_what_it_says(docker, tmp_path):
    archive(tmp_path / "b.tar", NAME)
    assert code(Images(DockerApi(docker.path), Runs(docker, has=""), str(tmp_path)).fetch, NAME) == "image_archive"


def test_an_image_of_another_version_is_refused(docker):
    images = Images(DockerApi(docker.path), Runs(docker))
    images.ask(NAME, "1.13.5")
    assert code(images.ask, NAME, "1.13.4") == "image_version"


def test_the_module(docker, run_module, monkeypatch):
    runs = Runs(docker)
    monkeypatch.setattr(image.AnsibleModule, "run_command", lambda self, command: runs(command))
    options = {"names": [NAME], "socket": docker.path, "version": "1.13.5"}
    assert run_module(image.main, options, check=True)["fetched"] == [NAME] and runs.done == []
    assert run_module(image.main, options)["changed"] and [c[0] for c in runs.done] == ["pull", "run"]
    assert not run_module(image.main, options)["changed"]
    assert run_module(image.main, {**options, "version": "1.13.4"})["failure"]["code"] == "image_version", "also where it is there already"
    assert run_module(image.main, {**options, "socket": "/nowhere.sock"})["failure"]["code"] == "docker_unreachable"
