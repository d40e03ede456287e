# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of a cluster, compiled from their Go modules once and kept in the cache by what they are made of."""
from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
import shutil
import tarfile
import time

from common import LabError, cache_dir, locked, run, say
from containers import KEPT_FOR

SOURCES = pathlib.Path(__file__).resolve().parent.parent / "go"
KUBERNETES = "1.34.4"
# The binaries and the names they are called by.
BINARIES = {
    "pause": (),
    "addons": ("coredns", "metrics-server"),
    "control": ("etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet", "kubectl"),
}
USUALLY = {"pause": "seconds", "addons": "2 to 5 min", "control": "6 to 9 min"}
PAUSE = "openrtc-lab/pause:1"


def key() -> str:
    """Twelve hex digits that change with anything the programs are made of."""
    digest = hashlib.sha256(json.dumps([BINARIES, flags("control"), PAUSE]).encode())
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file():
            digest.update(f"\0{path.relative_to(SOURCES)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def directory() -> pathlib.Path:
    return cache_dir() / "kubernetes" / key()


def missing() -> bool:
    return not (directory() / "complete").exists()


def program(name: str) -> str:
    return str(directory() / name)


def flags(binary: str) -> str:
    """Linker flags; without a version Kubernetes calls itself v0.0.0 and its parts do not trust each other."""
    if binary != "control":
        return "-s -w"
    major, minor, _patch = KUBERNETES.split(".")
    values = {
        "gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean", "gitCommit": "0" * 40,
        "buildDate": "1970-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(["-s -w", *(f"-X {package}.{name}={value}" for package in packages for name, value in values.items())])


def build() -> None:
    if not missing():
        return
    if not shutil.which("go"):
        raise LabError("Kubernetes is compiled here and there is no Go: install Go 1.24 or newer (a newer toolchain that is asked for comes by itself)")
    with locked(cache_dir() / "kubernetes"):
        if not missing():
            return
        directory().mkdir(parents=True, exist_ok=True)
        for binary, names in BINARIES.items():
            compile_one(binary)
            for name in names:
                link = directory() / name
                link.unlink(missing_ok=True)
                link.symlink_to(binary)
        write_pause(directory() / "pause.tar")
        (directory() / "complete").touch()
        for other in directory().parent.iterdir():
            if other.is_dir() and other != directory() and time.time() - other.stat().st_mtime > KEPT_FOR:
                shutil.rmtree(other)


def compile_one(binary: str) -> None:
    target = directory() / binary
    if target.exists():
        return
    started = time.monotonic()
    say(f"{binary}: compiling {' '.join(BINARIES[binary])} (from nothing usually {USUALLY[binary]}, with Go's build cache seconds)".replace("  ", " "))
    partial = target.with_suffix(".partial")
    run(
        "go", "build", "-C", str(SOURCES / binary), "-mod=readonly", "-trimpath", "-ldflags", flags(binary), "-o", str(partial), ".",
        env={"CGO_ENABLED": "0"}, note=binary,
    )
    partial.replace(target)
    say(f"{binary}: {target.stat().st_size / 1e6:.0f} MB after {time.monotonic() - started:.0f} s")


def write_pause(target: pathlib.Path) -> None:
    """The image of the pod's own process, one file in one layer, in Docker's archive format."""
    layer = tar({"pause": ((directory() / "pause").read_bytes(), 0o755)})
    config = json.dumps({
        "architecture": os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64"), "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]).encode()
    target.write_bytes(tar({name: (config, 0o644), "layer.tar": (layer, 0o644), "manifest.json": (manifest, 0o644)}))


def tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return raw.getvalue()
