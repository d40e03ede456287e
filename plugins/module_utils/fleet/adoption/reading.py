# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What adoption reads on a host: the folder's files, its containers as Docker tells them, ports in use. Changes nothing.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import os
import re
import socket
import typing as t

from ..errors import FleetError
from ..runtimes.docker_api import DockerApi
from ..runtimes.systemd import Run
from .folder import PROJECT_LABEL, SERVICE_LABEL, on_host

LARGEST = 256 * 1024  # bytes of a file
_NAMED = re.compile(r"(?m)^\s*(?:key_file|cert_file)\s*:\s*[\"']?(/[^\s\"'#]+)")
_LISTEN = {"tcp": "0A", "udp": "07"}
SLOT = "openrtc.livekit.slot"
# What is taken of a container; the rest is long, and nobody's business.
_KEPT = {"Config": ("Image", "Env", "Labels"), "HostConfig": ("NetworkMode", "RestartPolicy"), "State": ("Status", "Pid", "StartedAt", "Running")}


def read(folder: str, run: Run, api: DockerApi) -> dict[str, t.Any]:
    """{files, containers, versions, listening, vcpus, address, slots}; files by their paths on the host, secrets included."""
    files = folder_files(folder)
    everything = containers(api)
    mine = [c for c in everything if (c["Config"].get("Labels") or {}).get(PROJECT_LABEL, "").rstrip("/") == folder.rstrip("/")]
    files.update(named_files(files, mine))
    servers = [c for c in mine if c["State"]["Status"] == "running" and "livekit-server" in c["Config"]["Image"]]
    return {"files": files, "containers": mine, "versions": {c["Id"]: version_of(c, run, api) for c in servers}, "listening": listening(),
            "vcpus": len(os.sched_getaffinity(0)), "address": own_address(),
            "slots": [c["Name"].lstrip("/") for c in everything if SLOT in (c["Config"].get("Labels") or {})]}


def folder_files(folder: str) -> dict[str, str]:
    """{path: text} of its YAML and .conf files and .env. FleetError where there is no such folder."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as exc:
        raise FleetError("read the folder of the former deployment", folder, exc.strerror, "Correct livekit_adopt_folder", code="adopt_folder") from exc
    wanted = (os.path.join(folder, name) for name in names if name == ".env" or name.endswith((".yaml", ".yml", ".conf")))
    return {path: text for path in wanted if (text := _text(path)) is not None}


def _text(path: str) -> str | None:
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > LARGEST:
            return None
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except OSError:
        return None


def named_files(files: t.Mapping[str, str], found: t.Iterable[t.Mapping[str, t.Any]]) -> dict[str, str]:
    """Keys and certificates that the configuration names, by their paths on the host."""
    out = {}
    for container in found:
        mounts = {m["Destination"]: m["Source"] for m in container.get("Mounts") or [] if m.get("Type") == "bind"}
        names = [name for text in files.values() for name in _NAMED.findall(text)]
        names += [word.partition("=")[2] for word in [*(container["Config"].get("Env") or []), *(container.get("Args") or [])]]
        names += list(container.get("Args") or [])
        for path in {on_host(name, mounts) for name in names if name.startswith("/")}:
            text = _text(path)
            if text is not None:
                out[path] = text
    return out


def containers(api: DockerApi) -> list[dict[str, t.Any]]:
    """All of the host, as far as adoption looks at them."""
    out = []
    for listed in api.get("/containers/json", all=1):
        labels = listed.get("Labels") or {}
        whole = api.find(f"/containers/{listed['Id']}/json") if PROJECT_LABEL in labels or SLOT in labels else None
        if whole:
            kept = {section: {name: whole[section].get(name) for name in names} for section, names in _KEPT.items()}
            out.append({**{name: whole.get(name) for name in ("Id", "Name", "Path", "Args", "Mounts")}, **kept})
    return out


def of_service(api: DockerApi, folder: str, service: str) -> dict[str, t.Any] | None:
    """The container of a service of the folder, the one that runs first."""
    found = [c for c in containers(api) if (c["Config"].get("Labels") or {}).get(PROJECT_LABEL, "").rstrip("/") == folder.rstrip("/")
             and c["Config"]["Labels"].get(SERVICE_LABEL) == service]
    return min(found, key=lambda c: c["State"]["Status"] != "running", default=None)


def version_of(container: t.Mapping[str, t.Any], run: Run, api: DockerApi) -> str:
    """What the livekit-server in a running container says of itself; "" where it says nothing."""
    rc, out, _err = run(["docker", "--host", f"unix://{api.path}", "exec", str(container["Id"]), str(container["Path"]), "--version"])
    found = re.search(r"version v?(\d+\.\d+\.\d+)", out) if rc == 0 else None
    return found[1] if found else ""


def listening(root: str = "/proc/net") -> list[list[t.Any]]:
    """[["tcp", 443], ["udp", 3478], …]: ports that something of this host listens on."""
    found = set()
    for proto, state in _LISTEN.items():
        for name in (proto, f"{proto}6"):
            for line in (_text_of_proc(f"{root}/{name}")).splitlines()[1:]:
                columns = line.split()
                if len(columns) > 3 and columns[3] == state:
                    found.add((proto, int(columns[1].rpartition(":")[2], 16)))
    return [list(entry) for entry in sorted(found)]


def _text_of_proc(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as handle:
            return handle.read()
    except OSError:
        return ""


def own_address() -> str:
    """The address this host sends from; nothing is sent to find it. "" where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return ""
