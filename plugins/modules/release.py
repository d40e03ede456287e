#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Install a LiveKit release beside those that run
version_added: 0.1.0
author: openrtc.livekit contributors (@openrtc)
description:
  - Downloads a release of livekit-server, checks it against the C(checksums.txt) of that release, lets the binary say which version it is, and
    moves it to C(<dest>/<version>/livekit-server) in one step. What fails on the way leaves nothing behind.
  - Versions live side by side, so nothing that runs is touched. Nothing is downloaded when the version is there and its file is intact.
  - Removes versions that are needed no more. Kept are O(version), those in O(keep), those that a slot's link C(server) leads to, and
    one to go back to, which is the newest one below O(version) (the newest other one if there is none below).
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: Contacts no server in check mode.
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  version:
    description: Release to install, such as V(1.13.5), without a leading C(v).
    type: str
    required: true
  url:
    description:
      - Where releases are. Below it are C(v<version>/checksums.txt) and C(v<version>/livekit_<version>_linux_<arch>.tar.gz).
      - A mirror for hosts without internet access can be given by V(http://), V(https://) or V(file://).
    type: str
    default: https://github.com/livekit/livekit/releases/download
  dest:
    description: Directory that holds one directory per installed version.
    type: path
    default: /opt/livekit
  arch:
    description:
      - Architecture as release files name it, such as V(amd64), V(arm64) or V(armv7).
      - By default that of the host.
    type: str
  keep:
    description: Versions that are never removed.
    type: list
    elements: str
    default: []
  slots_dir:
    description: Directory that holds one directory per slot.
    type: path
    default: /etc/livekit/slots
  timeout:
    description: Seconds to wait for the server to answer or to send more.
    type: int
    default: 30
seealso:
  - module: openrtc.livekit.generation
  - module: openrtc.livekit.slot
"""

EXAMPLES = r"""
- name: Have the release ready
  openrtc.livekit.release:
    version: 1.13.5

- name: Have it from a mirror, and keep the long-term one
  openrtc.livekit.release:
    version: 1.13.5
    url: https://mirror.example.org/livekit
    keep:
      - 1.12.0
"""

RETURN = r"""
version:
  description: The release.
  returned: success
  type: str
path:
  description: Its livekit-server.
  returned: success
  type: str
  sample: /opt/livekit/1.13.5/livekit-server
sha256:
  description: Checksum of the archive it came from; empty in check mode when it would be downloaded.
  returned: success
  type: str
downloaded:
  description: Whether this run downloaded it; in check mode whether it would.
  returned: success
  type: bool
installed:
  description: All versions in O(dest) after this run, oldest first.
  returned: success
  type: list
  elements: str
pruned:
  description: Versions that this run removed; in check mode would remove.
  returned: success
  type: list
  elements: str
failure:
  description:
    - What was tried (C(tried)), on what (C(on)), what came back (C(got)), how to mend it (C(fix)), and a C(code) that stays the same in all versions.
    - Codes are V(release_version), V(release_arch), V(release_missing), V(release_unreachable), V(release_checksum), V(release_archive),
      V(release_binary), V(release_disk_full), V(release_dest).
  returned: failure
  type: dict
"""

import contextlib
import errno
import fcntl
import gzip
import hashlib
import http.client
import json
import os
import platform
import re
import shutil
import ssl
import tarfile
import tempfile
import typing as t
import urllib.error
import urllib.parse
import zlib

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError

BINARY = "livekit-server"
STAMP = "release.json"  # beside the binary: where it came from, and what it must still be
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "armv7l": "armv7"}
CHUNK = 1 << 20
VERSION = re.compile(r"\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?")


# -- decisions: no I/O ---------------------------------------------------------------------------------------------

def version_key(version: str) -> tuple[t.Any, ...]:
    """Orders versions as people do: 1.9.0 before 1.10.0, and a pre-release before its release."""
    numbers, dummy, extra = version.partition("-")
    parts = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"[.-]", extra) if part)
    return (tuple(int(number) for number in numbers.split(".")), not extra, parts)


def to_prune(installed: t.Iterable[str], wanted: str, keep: t.Iterable[str], used: t.Iterable[str]) -> list[str]:
    """The installed versions that nothing needs, oldest first."""
    others = sorted(set(installed) - {wanted}, key=version_key)
    below = [version for version in others if version_key(version) < version_key(wanted)]
    spare = (below or others)[-1:]
    needed = {*keep, *used, *spare}
    return [version for version in others if version not in needed]


def checksum_of(checksums: str, name: str) -> str | None:
    """The SHA-256 that checksums.txt gives for a file; None where it does not name the file."""
    for line in checksums.splitlines():
        digest, dummy, file_name = line.strip().partition(" ")
        if file_name.strip().lstrip("*") == name and re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            return digest.lower()
    return None


def shown(url: str) -> str:
    """A URL fit for messages: without the user and password that some put into it."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


# -- doing -----------------------------------------------------------------------------------------------------------

def sha256_file(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


class Release:
    def __init__(self, module: AnsibleModule) -> None:
        p = module.params
        self.module = module
        self.version: str = p["version"]
        self.dest: str = p["dest"]
        self.slots_dir: str = p["slots_dir"]
        self.timeout: int = p["timeout"]
        for version in (self.version, *p["keep"]):
            if not VERSION.fullmatch(version):
                raise FleetError("read a version", version, "it is not of the form X.Y.Z", "Write it like 1.13.5, without a leading v", code="release_version")
        arch = p["arch"] or ARCHITECTURES.get(platform.machine())
        if not arch:
            raise FleetError(
                "find the release for this host", platform.machine(), "LiveKit has no release for this architecture",
                f"Use a host with one of {', '.join(sorted(ARCHITECTURES))}, or set `arch` if your mirror has more",
                code="release_arch", arch=platform.machine(),
            )
        self.arch = arch
        self.base = f"{p['url'].rstrip('/')}/v{self.version}"
        self.archive = f"livekit_{self.version}_linux_{self.arch}.tar.gz"
        self.home = os.path.join(self.dest, self.version)
        self.path = os.path.join(self.home, BINARY)

    # what is there

    def installed(self) -> list[str]:
        """Versions in dest. Only directories that hold a livekit-server count, so nothing else is ever removed."""
        try:
            names = os.listdir(self.dest)
        except FileNotFoundError:
            return []
        found = [name for name in names if VERSION.fullmatch(name) and os.path.lexists(os.path.join(self.dest, name, BINARY))]
        return sorted(found, key=version_key)

    def stamp(self) -> dict[str, t.Any] | None:
        """The stamp of the wanted version if its binary is intact, None otherwise."""
        try:
            with open(os.path.join(self.home, STAMP), encoding="utf-8") as handle:
                stamp = json.load(handle)
            intact = (
                stamp["arch"] == self.arch and os.stat(self.path).st_mode & 0o111 == 0o111
                and os.path.getsize(self.path) == stamp["size"] and sha256_file(self.path) == stamp["binary_sha256"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return stamp if intact else None

    def used(self) -> set[str]:
        """Versions that a slot's link leads to. A directory that cannot be read raises: then nobody knows what is needed."""
        used = set()
        root = os.path.realpath(self.dest)
        try:
            slots = os.listdir(self.slots_dir)
        except FileNotFoundError:
            return used
        for slot in slots:
            try:
                target = os.readlink(os.path.join(self.slots_dir, slot, "server"))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as exc:
                if exc.errno == errno.EINVAL:  # a file, not a link
                    continue
                raise
            inside = os.path.relpath(os.path.realpath(os.path.join(self.slots_dir, slot, target)), root)
            used.add(inside.split(os.sep)[0])
        return used

    # getting it

    def open(self, name: str) -> t.Any:
        """An open response for a file of the release."""
        url = f"{self.base}/{name}"
        if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
            raise self.unreachable(url, "the URL is none of http, https and file", "Correct livekit_release_url")
        try:
            return open_url(url, timeout=self.timeout, http_agent="openrtc.livekit", follow_redirects="all")
        except urllib.error.HTTPError as exc:
            if exc.code in (404, 410):
                raise self.missing(url, f"HTTP {exc.code}") from exc
            raise self.unreachable(url, f"HTTP {exc.code} {exc.reason}") from exc
        except (urllib.error.URLError, OSError, ValueError, http.client.HTTPException) as exc:
            reason = getattr(exc, "reason", exc)
            if isinstance(reason, FileNotFoundError):
                raise self.missing(url, "no such file") from exc
            if isinstance(reason, ssl.SSLError):
                fix = "Let the host trust the server's certificate authority, or use another mirror (livekit_release_url)"
                raise self.unreachable(url, reason, fix) from exc
            raise self.unreachable(url, reason) from exc

    def missing(self, url: str, got: str) -> FleetError:
        return FleetError(
            "download a release", shown(url), got,
            f"Check that LiveKit {self.version} exists for {self.arch} (livekit_version), and that livekit_release_url leads to a place with v{self.version}/",
            code="release_missing", url=shown(url), version=self.version, arch=self.arch,
        )

    def unreachable(self, url: str, got: t.Any, fix: str = "") -> FleetError:
        return FleetError(
            "download a release", shown(url), got,
            fix or "Check that this host reaches the server; for hosts without internet access set livekit_release_url to a mirror",
            code="release_unreachable", url=shown(url),
        )

    def read(self, name: str, sink: t.Callable[[bytes], t.Any]) -> None:
        """Pass a file of the release to sink, whole or with an error."""
        url = f"{self.base}/{name}"
        size = 0
        with contextlib.closing(self.open(name)) as answer:
            length = answer.headers.get("Content-Length")
            while True:
                try:
                    block = answer.read(CHUNK)
                except (OSError, http.client.HTTPException) as exc:
                    raise self.unreachable(url, f"broke off after {size} bytes: {exc!r}") from exc
                if not block:
                    break
                size += len(block)
                sink(block)
        if length is not None and length.isdigit() and int(length) != size:
            raise self.unreachable(url, f"broke off after {size} of {length} bytes", "Run again; if it stays, look at the server or a proxy on the way")

    def expected(self) -> str:
        """The archive's checksum as the release states it."""
        text = bytearray()
        self.read("checksums.txt", text.extend)
        digest = checksum_of(text.decode("utf-8", "replace"), self.archive)
        if not digest:
            raise FleetError(
                "find the checksum of a release", shown(f"{self.base}/checksums.txt"), f"it does not name {self.archive}",
                f"Check that LiveKit {self.version} exists for {self.arch}; set `arch` or livekit_version to what the release has",
                code="release_missing", url=shown(self.base), version=self.version, arch=self.arch,
            )
        return digest

    def fetch(self, folder: str) -> str:
        """The verified archive in folder; returns its checksum."""
        expected = self.expected()
        digest = hashlib.sha256()
        with open(os.path.join(folder, self.archive), "wb") as handle:
            def sink(block: bytes) -> None:
                digest.update(block)
                handle.write(block)
            self.read(self.archive, sink)
        if digest.hexdigest() != expected:
            raise FleetError(
                "verify a release", shown(f"{self.base}/{self.archive}"), f"its SHA-256 is {digest.hexdigest()}, checksums.txt says {expected}",
                "Nothing was installed. Run again; if it stays, the file or the mirror is damaged or tampered with: do not use it",
                code="release_checksum", expected=expected, actual=digest.hexdigest(),
            )
        return expected

    def unpack(self, folder: str) -> None:
        """livekit-server, and nothing else, out of the archive."""
        archive = os.path.join(folder, self.archive)
        on = shown(f"{self.base}/{self.archive}")
        fix = "The archive matches its checksum but is no LiveKit release. Compare the mirror with the official releases"
        try:
            with tarfile.open(archive, "r:gz") as tar:
                member = next((m for m in tar if m.isfile() and m.name in (BINARY, f"./{BINARY}")), None)
                source = tar.extractfile(member) if member else None
                if source is None:
                    raise FleetError("unpack a release", on, f"there is no file {BINARY} in it", fix, code="release_archive")
                with open(os.path.join(folder, BINARY), "wb") as target:
                    shutil.copyfileobj(source, target, CHUNK)
                    target.flush()
                    os.fsync(target.fileno())
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as exc:
            raise FleetError("unpack a release", on, exc, fix, code="release_archive") from exc
        os.chmod(os.path.join(folder, BINARY), 0o755)
        os.unlink(archive)

    def ask(self, folder: str) -> None:
        """The binary must run here and say that it is what its name says."""
        fix = f"Check that the release is for this host's architecture ({self.arch}), and that {self.dest} is not mounted noexec"
        try:
            rc, out, err = self.module.run_command([os.path.join(folder, BINARY), "--version"], handle_exceptions=False)
        except OSError as exc:
            raise FleetError("run livekit-server --version", self.archive, exc, fix, code="release_binary") from exc
        if rc != 0:
            raise FleetError("run livekit-server --version", self.archive, f"exit status {rc}: {(err or out).strip()}", fix, code="release_binary")
        if out.split()[-1:] != [self.version]:
            raise FleetError(
                "run livekit-server --version", self.archive, f"it says {out.strip()!r}",
                f"The archive of {self.version} contains another version: correct the mirror", code="release_binary",
            )

    def install(self) -> dict[str, t.Any]:
        """Download, verify, unpack, try, move into place: in a directory of its own until the last step."""
        folder = tempfile.mkdtemp(prefix=f".new-{self.version}-", dir=self.dest)
        try:
            digest = self.fetch(folder)
            self.unpack(folder)
            self.ask(folder)
            binary = os.path.join(folder, BINARY)
            stamp = {
                "version": self.version, "arch": self.arch, "archive": self.archive, "archive_sha256": digest,
                "size": os.path.getsize(binary), "binary_sha256": sha256_file(binary),
            }
            with open(os.path.join(folder, STAMP), "w", encoding="utf-8") as handle:
                json.dump(stamp, handle, indent=2)
            os.chmod(os.path.join(folder, STAMP), 0o644)
            os.chmod(folder, 0o755)
            if os.path.isdir(self.home):
                # Damaged, and perhaps linked to by a slot: replace its files one by one, the path is there at every moment.
                os.replace(binary, self.path)
                os.replace(os.path.join(folder, STAMP), os.path.join(self.home, STAMP))
            else:
                os.rename(folder, self.home)
            return stamp
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise FleetError(
                    "install a release", self.dest, exc, "Nothing was installed. Free about 200 MB there, or set `dest` to another file system",
                    code="release_disk_full",
                ) from exc
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self, version: str) -> None:
        gone = tempfile.mkdtemp(prefix=f".old-{version}-", dir=self.dest)
        os.rename(os.path.join(self.dest, version), os.path.join(gone, version))
        shutil.rmtree(gone, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> t.Iterator[None]:
        """One run at a time in dest. What a killed run left behind goes."""
        os.makedirs(self.dest, mode=0o755, exist_ok=True)
        with open(os.path.join(self.dest, ".lock"), "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for name in os.listdir(self.dest):
                if name.startswith((".new-", ".old-")):
                    shutil.rmtree(os.path.join(self.dest, name), ignore_errors=True)
            yield

    # the whole

    def plan(self) -> tuple[dict[str, str], dict[str, str], dict[str, t.Any] | None, list[str]]:
        """(versions before, versions after, stamp of the wanted one if it is intact, versions to remove)."""
        installed = self.installed()
        stamp = self.stamp()
        try:
            pruned = to_prune(installed, self.version, self.module.params["keep"], self.used())
        except OSError as exc:
            pruned = []
            self.module.warn(f"No version was removed: the slots in {self.slots_dir} cannot be read ({exc})")
        before = {version: "installed" for version in installed}
        if not stamp and self.version in before:
            before[self.version] = "damaged"
        after = {version: "installed" for version in sorted({*installed, self.version}, key=version_key) if version not in pruned}
        return before, after, stamp, pruned

    def run(self) -> dict[str, t.Any]:
        if self.module.check_mode:
            before, after, stamp, pruned = self.plan()
            downloaded = not stamp
        else:
            with self.locked():
                before, after, stamp, pruned = self.plan()
                downloaded = not stamp
                stamp = stamp or self.install()
                for version in pruned:
                    self.remove(version)
        return {
            "changed": before != after, "version": self.version, "path": self.path, "sha256": (stamp or {}).get("archive_sha256", ""),
            "downloaded": downloaded, "installed": list(after), "pruned": pruned,
            "diff": {"before_header": self.dest, "after_header": self.dest, "before": listing(before), "after": listing(after)},
        }


def listing(versions: dict[str, str]) -> str:
    return "".join(f"{version}: {state}\n" for version, state in versions.items())


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "url": {"type": "str", "default": "https://github.com/livekit/livekit/releases/download"},
            "dest": {"type": "path", "default": "/opt/livekit"},
            "arch": {"type": "str"},
            "keep": {"type": "list", "elements": "str", "default": []},
            "slots_dir": {"type": "path", "default": "/etc/livekit/slots"},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**Release(module).run())
    except FleetError as exc:
        module.fail_json(**exc.as_result())
    except OSError as exc:
        dest = module.params["dest"]
        error = FleetError("install a release", dest, exc, f"Make {dest} a directory that this user may write (become: true)", code="release_dest")
        module.fail_json(**error.as_result())


if __name__ == "__main__":
    main()
