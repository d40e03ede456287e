# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have container images on a host: from a registry, or without one from a directory of archives (docker save).

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import json
import os
import tarfile
import typing as t

from .errors import FleetError
from .runtimes.docker_api import DockerApi
from .runtimes.systemd import Run

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz")
UNKNOWN = ("not found", "manifest unknown", "pull access denied", "repository does not exist", "invalid reference", "no matching manifest")


class Images:
    """The images of one Docker. archive_dir: where archives lie on the host; then no registry is asked."""

    def __init__(self, api: DockerApi, run: Run, archive_dir: str = "") -> None:
        self.api, self.run, self.archive_dir = api, run, archive_dir
        self.docker = ["docker", "--host", f"unix://{api.path}"]

    def missing(self, references: t.Iterable[str]) -> list[str]:
        """Those that Docker does not have, each once."""
        return [reference for reference in dict.fromkeys(references) if self.api.find(f"/images/{reference}/json") is None]

    def fetch(self, reference: str) -> None:
        """Raises FleetError image_absent, image_archive or image_registry."""
        if self.archive_dir:
            self._load(reference)
        else:
            self._pull(reference)

    def _pull(self, reference: str) -> None:
        rc, out, err = self.run([*self.docker, "pull", "--quiet", reference])
        if rc == 0:
            return
        got = (err or out).strip()[-500:] or f"docker pull ended with {rc}"
        if any(word in got.lower() for word in UNKNOWN):
            fix = "Correct livekit_compose_images or livekit_version; log in to the registry if it is a private one"
            raise FleetError("fetch an image", reference, got, fix, code="image_absent", image=reference)
        fix = "Let this host reach the registry, or put archives (docker save) on it and set livekit_compose_archive_dir"
        raise FleetError("fetch an image", reference, got, fix, code="image_registry", image=reference)

    def _load(self, reference: str) -> None:
        path = self._archive(reference)
        rc, out, err = self.run([*self.docker, "load", "--quiet", "--input", path])
        if rc != 0:
            raise FleetError("load an image", path, (err or out).strip()[-500:], "Make the archive anew: docker save", code="image_archive", image=reference)
        if self.missing([reference]):
            raise FleetError("load an image", path, f"Docker does not have {reference} afterwards", "Make the archive anew: docker save",
                             code="image_archive", image=reference)

    def _archive(self, reference: str) -> str:
        """The archive in which the image is; of several, the one that was made last."""
        seen: list[str] = []
        try:
            paths = sorted((entry.path for entry in os.scandir(self.archive_dir) if entry.name.endswith(ARCHIVES)),
                           key=lambda path: (-os.stat(path).st_mtime, path))
        except OSError as exc:
            raise FleetError("read the archives of images", self.archive_dir, exc, "Put them on the host, or correct livekit_compose_archive_dir",
                             code="image_archive") from exc
        for path in paths:
            tags = tags_of(path)
            if reference in tags:
                return path
            seen += tags
        why = "Archives know tags and no digests: name the image by its tag" if "@" in reference else "Add its archive: docker save -o NAME.tar IMAGE"
        raise FleetError("find an image", f"{reference} in {self.archive_dir}", f"the archives there have {', '.join(seen) or 'none'}", why,
                         code="image_absent", image=reference)

    def ask(self, reference: str, version: str) -> None:
        """The server in the image must run here, and be the version that its name says."""
        alone = ["--rm", "--pull", "never", "--network", "none", "--read-only", "--cap-drop", "ALL"]
        rc, out, err = self.run([*self.docker, "run", *alone, reference, "--version"])
        if rc != 0 or out.split()[-1:] != [version]:
            raise FleetError("run livekit-server --version", reference, f"it says {(out or err).strip()[-300:]!r}",
                             f"Name an image of LiveKit {version} for this host's architecture (livekit_compose_images.server)", code="image_version",
                             image=reference)


def tags_of(path: str) -> list[str]:
    """The images in an archive of docker save; [] for other files."""
    try:
        with tarfile.open(path) as tar:
            listed = tar.extractfile("manifest.json")
            found = json.load(listed) if listed else []
        return [tag for image in found for tag in image.get("RepoTags") or ()]
    except (OSError, KeyError, ValueError, EOFError, AttributeError, TypeError, tarfile.TarError):
        return []
