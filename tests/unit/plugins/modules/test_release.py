# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""release: real archives from a real HTTP server into a temporary directory; the binary in them is a shell script that knows its version."""
from __future__ import annotations

import errno
import hashlib
import io
import os
import pathlib
import ssl
import stat
import subprocess
import tarfile
import typing as t

import pytest
from aiohttp import web

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import release
from ansible_collections.openrtc.livekit.plugins.modules.release import main


def archive(says: str, member: str = "livekit-server") -> bytes:
    script = f"#!/bin/sh\necho livekit-server version {says}\n".encode()
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, content in (("LICENSE", b"text"), (member, script)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


class Mirror:
    """A release host: files by path, and what was asked of it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut: str | None = None  # the path that breaks off half-way
        self.status = 404
        self.url = ""

    def add(self, version: str, content: bytes | None = None, arch: str = "amd64", digest: str | None = None, says: str | None = None) -> None:
        name = f"livekit_{version}_linux_{arch}.tar.gz"
        content = archive(says or version) if content is None else content
        self.files[f"/v{version}/{name}"] = content
        self.files[f"/v{version}/checksums.txt"] = f"{'0' * 64}  other.zip\n{digest or hashlib.sha256(content).hexdigest()}  {name}\n".encode()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        content = self.files.get(request.path)
        if content is None:
            return web.Response(status=self.status)
        if request.path == self.cut:
            answer = web.StreamResponse(headers={"Content-Length": str(len(content))})
            await answer.prepare(request)
            await answer.write(content[:len(content) // 2])
            request.transport.close()
            return answer
        return web.Response(body=content)


@pytest.fixture
def mirror(serve: t.Callable[..., str]) -> Mirror:
    made = Mirror()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.handle)
    made.url = serve(app)
    return made


class Host:
    """The module on one temporary host."""

    def __init__(self, root: pathlib.Path, mirror: Mirror, run_module: t.Callable[..., dict[str, t.Any]]) -> None:
        self.dest, self.slots = root / "opt", root / "slots"
        self.mirror, self.run_module = mirror, run_module

    def __call__(self, version: str = "1.13.5", check: bool = False, **options: t.Any) -> dict[str, t.Any]:
        arguments = {"version": version, "url": self.mirror.url, "dest": str(self.dest), "slots_dir": str(self.slots), "arch": "amd64", **options}
        return self.run_module(main, arguments, check=check)

    def link(self, slot: int, version: str) -> None:
        folder = self.slots / str(slot)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "server").unlink(missing_ok=True)
        (folder / "server").symlink_to(self.dest / version / "livekit-server")

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.dest.parent)): path.read_bytes() for path in self.dest.parent.rglob("*") if path.is_file()}

    def versions(self) -> list[str]:
        """Everything in dest but the lock, so that left-overs show."""
        return sorted(name for name in os.listdir(self.dest) if name != ".lock") if self.dest.exists() else []


@pytest.fixture
def host(tmp_path: pathlib.Path, mirror: Mirror, run_module: t.Callable[..., dict[str, t.Any]]) -> Host:
    return Host(tmp_path, mirror, run_module)


def test_install(host: Host, mirror: Mirror) -> None:
    mirror.add("1.13.5")
    old = os.umask(0o077)
    try:
        result = host()
    finally:
        os.umask(old)
    assert result["changed"] and result["downloaded"]
    assert result["path"] == str(host.dest / "1.13.5" / "livekit-server")
    assert result["sha256"] == hashlib.sha256(mirror.files["/v1.13.5/livekit_1.13.5_linux_amd64.tar.gz"]).hexdigest()
    assert subprocess.run([result["path"], "--version"], check=True, capture_output=True, text=True).stdout == "livekit-server version 1.13.5\n"
    assert stat.S_IMODE(os.stat(result["path"]).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(host.dest / "1.13.5").st_mode) == 0o755
    assert sorted(os.listdir(host.dest / "1.13.5")) == ["livekit-server", "release.json"]
    assert result["diff"]["before"] == "" and result["diff"]["after"] == "1.13.5: installed\n"
    assert mirror.asked == ["/v1.13.5/checksums.txt", "/v1.13.5/livekit_1.13.5_linux_amd64.tar.gz"]


def test_second_run_asks_nothing(host: Host, mirror: Mirror) -> None:
    mirror.add("1.13.5")
    host()
    mirror.asked.clear()
    result = host()
    assert not result["changed"] and not result["downloaded"] and mirror.asked == []
    assert result["sha256"] and result["diff"]["before"] == result["diff"]["after"]


@pytest.mark.parametrize("damage", ["content", "mode", "stamp"])
def test_damaged_file_is_replaced(host: Host, mirror: Mirror, damage: str) -> None:
    mirror.add("1.13.5")
    path = pathlib.Path(host()["path"])
    good = path.read_bytes()
    if damage == "content":
        path.write_bytes(good.replace(b"echo", b"eCho"))
    elif damage == "mode":
        path.chmod(0o644)
    else:
        path.with_name("release.json").write_text("{}")
    check = host(check=True)
    assert check["changed"] and check["diff"]["before"] == "1.13.5: damaged\n"
    result = host()
    assert result["changed"] and result["downloaded"] and path.read_bytes() == good and os.access(path, os.X_OK)
    assert not host()["changed"] and host.versions() == ["1.13.5"]


def test_file_url(host: Host, mirror: Mirror, tmp_path: pathlib.Path) -> None:
    mirror.add("1.13.5")
    for path, content in mirror.files.items():
        target = tmp_path / "media" / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    url = f"file://{tmp_path / 'media'}"
    assert host(url=url)["downloaded"] and mirror.asked == []
    failure = host("1.13.6", url=url)["failure"]
    assert failure["code"] == "release_missing" and failure["on"] == f"{url}/v1.13.6/checksums.txt"


def test_arch_from_the_host(host: Host, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.add("1.13.5", arch="armv7")
    monkeypatch.setattr(release.platform, "machine", lambda: "armv7l")
    assert host(arch=None)["downloaded"]
    monkeypatch.setattr(release.platform, "machine", lambda: "riscv64")
    assert host(arch=None)["failure"]["code"] == "release_arch"


@pytest.mark.parametrize("name", [
    "mismatch", "no_version", "no_arch", "not_gzip", "cut_gzip", "no_binary", "other_version", "not_runnable", "interrupted", "interrupted_list", "forbidden",
])
def test_bad_release_installs_nothing(host: Host, mirror: Mirror, name: str) -> None:
    mirror.add("1.13.4")
    host("1.13.4")
    before = host.files()
    good = archive("1.13.5")
    path = "/v1.13.5/livekit_1.13.5_linux_amd64.tar.gz"
    if name == "mismatch":
        mirror.add("1.13.5", digest="f" * 64)
        code, words = "release_checksum", "checksums.txt says ffff"
    elif name == "no_version":
        code, words = "release_missing", f"{mirror.url}/v1.13.5/checksums.txt"
    elif name == "no_arch":
        mirror.add("1.13.5", arch="arm64")
        code, words = "release_missing", "does not name livekit_1.13.5_linux_amd64.tar.gz"
    elif name == "not_gzip":
        mirror.add("1.13.5", content=b"<html>Welcome</html>")
        code, words = "release_archive", "unpack"
    elif name == "cut_gzip":
        mirror.add("1.13.5", content=good[:len(good) // 2])
        code, words = "release_archive", "unpack"
    elif name == "no_binary":
        mirror.add("1.13.5", content=archive("1.13.5", member="bin/livekit-server"))
        code, words = "release_archive", "no file livekit-server"
    elif name == "other_version":
        mirror.add("1.13.5", says="1.13.4")
        code, words = "release_binary", "livekit-server version 1.13.4"
    elif name == "not_runnable":
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w:gz") as tar:
            entry = tarfile.TarInfo("livekit-server")
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"\x7fELF"))
        mirror.add("1.13.5", content=raw.getvalue())
        code, words = "release_binary", "architecture (amd64)"
    elif name == "interrupted":
        mirror.add("1.13.5")
        mirror.cut = path
        code, words = "release_unreachable", "broke off after"
    elif name == "interrupted_list":
        mirror.add("1.13.5")
        mirror.cut = "/v1.13.5/checksums.txt"
        code, words = "release_unreachable", "broke off after"
    else:
        mirror.status = 403
        code, words = "release_unreachable", "HTTP 403"
    result = host()
    assert result["failed"] and result["failure"]["code"] == code, result
    assert words in result["msg"]
    assert result["failure"]["fix"]
    assert host.files() == before and host.versions() == ["1.13.4"]


def test_unreachable(host: Host) -> None:
    result = host(url="http://user:secret@127.0.0.1:1/releases")
    assert result["failure"]["code"] == "release_unreachable" and "refused" in result["msg"]
    assert result["failure"]["url"] == "http://127.0.0.1:1/releases/v1.13.5/checksums.txt" and "secret" not in str(result["failure"]) + result["msg"]
    assert "livekit_release_url" in result["failure"]["fix"]
    assert host(url="ftp://127.0.0.1:1/")["failure"]["code"] == "release_unreachable"


def test_disk_full(host: Host, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.add("1.13.5")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(release.os, "fsync", full)
    result = host()
    assert result["failure"]["code"] == "release_disk_full" and "Free" in result["failure"]["fix"]
    assert host.versions() == []


def test_dest_that_is_no_directory(host: Host, mirror: Mirror) -> None:
    mirror.add("1.13.5")
    host.dest.write_text("")
    assert host()["failure"]["code"] == "release_dest"


@pytest.mark.parametrize("version", ["v1.13.5", "latest", "1.13", "../1.13.5", "1.13.5/x", ""])
def test_version_form(host: Host, mirror: Mirror, version: str) -> None:
    assert host(version)["failure"]["code"] == "release_version"
    assert host("1.13.5", keep=["1.13.4", version])["failure"]["code"] == "release_version"
    assert mirror.asked == [] and not host.dest.exists()


def test_check_mode_contacts_and_writes_nothing(host: Host, mirror: Mirror) -> None:
    for version in ("1.12.0", "1.13.3", "1.13.4", "1.13.5"):
        mirror.add(version)
    result = host(check=True)
    assert result["changed"] and result["downloaded"] and result["sha256"] == ""
    assert result["diff"]["after"] == "1.13.5: installed\n" and not host.dest.exists()
    for version in ("1.12.0", "1.13.3", "1.13.4"):
        host(version, keep=["1.12.0", "1.13.3"])
    mirror.asked.clear()
    before = host.files()
    result = host(check=True)
    assert result["installed"] == ["1.13.4", "1.13.5"] and result["pruned"] == ["1.12.0", "1.13.3"]
    assert mirror.asked == [] and host.files() == before
    real = host()
    assert {key: real[key] for key in ("installed", "pruned", "diff", "changed")} == {key: result[key] for key in ("installed", "pruned", "diff", "changed")}


def test_prune(host: Host, mirror: Mirror) -> None:
    versions = ["1.9.0", "1.10.0", "1.13.3", "1.13.4", "1.13.5"]
    for version in versions:
        mirror.add(version)
        host(version, keep=versions)
    host.link(1, "1.10.0")
    (host.slots / "2").mkdir()  # a slot that never ran
    (host.dest / "notes").mkdir()  # not ours
    result = host(keep=["1.9.0"])
    assert result["changed"] and result["pruned"] == ["1.13.3"] and result["installed"] == ["1.9.0", "1.10.0", "1.13.4", "1.13.5"]
    assert host.versions() == ["1.10.0", "1.13.4", "1.13.5", "1.9.0", "notes"]
    assert "1.13.3: installed\n" in result["diff"]["before"] and "1.13.3" not in result["diff"]["after"]
    host.link(1, "1.13.5")
    assert host()["pruned"] == ["1.9.0", "1.10.0"]


def test_prune_follows_relative_links_and_other_paths(host: Host, mirror: Mirror, tmp_path: pathlib.Path) -> None:
    for version in ("1.13.2", "1.13.3", "1.13.4", "1.13.5"):
        mirror.add(version)
        host(version, keep=["1.13.2", "1.13.3", "1.13.4"])
    (tmp_path / "alias").symlink_to(host.dest)
    for slot, target in (("1", "../../opt/1.13.2/livekit-server"), ("2", f"{tmp_path}/alias/1.13.3/livekit-server")):
        (host.slots / slot).mkdir(parents=True)
        (host.slots / slot / "server").symlink_to(target)
    assert host()["pruned"] == []


def test_slots_that_cannot_be_read_freeze_pruning(host: Host, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.13.3", "1.13.4", "1.13.5"):
        mirror.add(version)
        host(version, keep=["1.13.3"])
    host.slots.write_text("")  # no directory
    result = host()
    assert not result["changed"] and result["pruned"] == [] and "1.13.3" in result["installed"]


def test_left_overs_of_a_killed_run_go(host: Host, mirror: Mirror) -> None:
    mirror.add("1.13.5")
    (host.dest / ".new-1.13.5-x").mkdir(parents=True)
    (host.dest / ".old-1.13.1-x" / "1.13.1").mkdir(parents=True)
    host()
    assert host.versions() == ["1.13.5"]


@pytest.mark.parametrize("installed, wanted, keep, used, pruned", [
    ([], "1.13.5", [], [], []),
    (["1.13.5"], "1.13.5", [], [], []),
    (["1.13.4", "1.13.5"], "1.13.5", [], [], []),
    (["1.13.3", "1.13.4", "1.13.5"], "1.13.5", [], [], ["1.13.3"]),
    (["1.13.3", "1.13.4"], "1.13.5", [], [], ["1.13.3"]),
    (["1.13.3", "1.13.4", "1.13.5"], "1.13.5", [], ["1.13.3"], []),
    (["1.13.3", "1.13.4", "1.13.5"], "1.13.5", ["1.13.3"], [], []),
    (["1.13.4", "1.13.5", "1.13.99"], "1.13.5", [], [], ["1.13.99"]),  # a version that failed its gates is no way back
    (["1.13.4", "1.13.5"], "1.13.4", [], [], []),  # back: the only other one stays
    (["1.13.3", "1.13.4", "1.13.5"], "1.13.4", [], [], ["1.13.5"]),
    (["1.9.0", "1.10.0", "1.11.0"], "1.11.0", [], [], ["1.9.0"]),
    (["1.13.5-rc.1", "1.13.5-rc.10", "1.13.5"], "1.13.5", [], [], ["1.13.5-rc.1"]),
])
def test_prune_rules(installed: list[str], wanted: str, keep: list[str], used: list[str], pruned: list[str]) -> None:
    assert release.to_prune(installed, wanted, keep, used) == pruned


@pytest.mark.parametrize("line, found", [
    ("{d}  a.tar.gz", True), ("{d} *a.tar.gz", True), ("{D}  a.tar.gz\r", True),
    ("{d}  a.tar.gz.sbom", False), ("{d}  ba.tar.gz", False), ("abc  a.tar.gz", False), ("", False),
])
def test_checksum_of(line: str, found: bool) -> None:
    digest = "ab" * 32
    text = f"# comment\n{line.format(d=digest, D=digest.upper())}\n"
    assert (release.checksum_of(text, "a.tar.gz") == digest) is found


def test_a_mirror_whose_certificate_nobody_trusts_is_unreachable_not_a_crash(host: Host, serve, certificate) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    result = host("1.13.5", url=serve(web.Application(), context).replace("http://", "https://"))
    assert result["failure"]["code"] == "release_unreachable" and not host.versions()
