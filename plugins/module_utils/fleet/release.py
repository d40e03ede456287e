# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases of LiveKit on one host, side by side: download, verify, try, move into place, and remove what nothing needs.

Documented in modules/release.py.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

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

from .errors import FleetError

BINARY = "livekit-server"
STAMP = "release.json"  # beside the binary: where it came from, and what it must still be
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "armv7l": "armv7"}
CHUNK = 1 << 20
VERSION = re.compile(r"\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?")

Run = t.Callable[[t.List[str]], t.Tuple[int, str, str]]


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
    """One release, and those beside it in dest.

    get: opens a URL and returns the answer to read from, or raises OSError.
    run: executes a command and returns (rc, stdout, stderr), or raises OSError where it
    cannot. warn: takes a text for the operator.
    """

    def __init__(
        self, get: t.Callable[[str], t.Any], run: Run, warn: t.Callable[[str], None], *, version: str, url: str, dest: str, slots_dir: str,
        arch: str | None = None, keep: t.Sequence[str] = (),
    ) -> None:
        self.get, self.run, self.warn = get, run, warn
        self.version, self.dest, self.slots_dir, self.keep = version, dest, slots_dir, keep
        for version in (self.version, *keep):
            if not VERSION.fullmatch(version):
                fix = "Write it like 1.13.5, without a leading v"
                raise FleetError("read a version", version, "it is not of the form X.Y.Z", fix, code="release_version")
        arch = arch or ARCHITECTURES.get(platform.machine())
        if not arch:
            raise FleetError(
                "find the release for this host", platform.machine(), "LiveKit has no release for this architecture",
                f"Use a host with one of {', '.join(sorted(ARCHITECTURES))}, or set `arch` if your mirror has more",
                code="release_arch", arch=platform.machine(),
            )
        self.arch = arch
        self.base = f"{url.rstrip('/')}/v{self.version}"
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
            return self.get(url)
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
            f"Check that LiveKit {self.version} exists for {self.arch} (livekit_version), "
            f"and that livekit_release_url leads to a place with v{self.version}/",
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
            fix = "Run again; if it stays, look at the server or a proxy on the way"
            raise self.unreachable(url, f"broke off after {size} of {length} bytes", fix)

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
                "verify a release", shown(f"{self.base}/{self.archive}"),
                f"its SHA-256 is {digest.hexdigest()}, checksums.txt says {expected}",
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
            rc, out, err = self.run([os.path.join(folder, BINARY), "--version"])
        except OSError as exc:
            raise FleetError("run livekit-server --version", self.archive, exc, fix, code="release_binary") from exc
        if rc != 0:
            got = f"exit status {rc}: {(err or out).strip()}"
            raise FleetError("run livekit-server --version", self.archive, got, fix, code="release_binary")
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
                    "install a release", self.dest, exc,
                    "Nothing was installed. Free about 200 MB there, or set `dest` to another file system", code="release_disk_full",
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
            pruned = to_prune(installed, self.version, self.keep, self.used())
        except OSError as exc:
            pruned = []
            self.warn(f"No version was removed: the slots in {self.slots_dir} cannot be read ({exc})")
        before = {version: "installed" for version in installed}
        if not stamp and self.version in before:
            before[self.version] = "damaged"
        after = {version: "installed" for version in sorted({*installed, self.version}, key=version_key) if version not in pruned}
        return before, after, stamp, pruned

    def apply(self, check_mode: bool = False) -> dict[str, t.Any]:
        """Bring dest to where it should be; the result as the module returns it. In check mode what it would be."""
        try:
            return self._apply(check_mode)
        except OSError as exc:
            fix = f"Make {self.dest} a directory that this user may write (become: true)"
            raise FleetError("install a release", self.dest, exc, fix, code="release_dest") from exc

    def _apply(self, check_mode: bool) -> dict[str, t.Any]:
        if check_mode:
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
