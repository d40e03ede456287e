# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""livekit-client from the npm registry, without npm: its package holds one script that needs nothing else.

package-lock.json pins version and integrity (`npm install --package-lock-only` in this directory writes it anew), so one
verified download takes the place of Node and npm on every machine that runs the browser proof. The registry is npm's own
or the one that npm_config_registry or ~/.npmrc name. The archive is kept in <cache>/npm. Only the standard library is used.
"""
from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import pathlib
import re
import tarfile
import typing as t
import urllib.request

from common import LabError, cache_dir, say

PACKAGE = "livekit-client"
SCRIPT = "package/dist/livekit-client.umd.js"
LOCK = pathlib.Path(__file__).resolve().with_name("package-lock.json")
REGISTRY = "https://registry.npmjs.org"


def registry(env: t.Mapping[str, str], npmrc: str = "") -> str:
    """The registry as npm would choose it: environment, then the user's npmrc, then npm's own."""
    named = re.findall(r"^\s*registry\s*=\s*[\"']?([^\s\"']+)", npmrc, re.M)
    found = env.get("npm_config_registry") or env.get("NPM_CONFIG_REGISTRY") or (named[-1] if named else REGISTRY)
    return found.rstrip("/")


def pinned(lock: t.Mapping[str, t.Any]) -> tuple[str, str]:
    """Version and sha512 (base64) of the package in a package-lock.json."""
    entry = lock["packages"][f"node_modules/{PACKAGE}"]
    return entry["version"], next(word for word in entry["integrity"].split() if word.startswith("sha512-"))[len("sha512-"):]


def genuine(archive: bytes, sha512: str) -> bool:
    return base64.b64encode(hashlib.sha512(archive).digest()).decode() == sha512


def client() -> tuple[str, bytes]:
    """Version and script of livekit-client, from the cache or the registry."""
    version, sha512 = pinned(json.loads(LOCK.read_text(encoding="utf-8")))
    kept = cache_dir() / "npm" / f"{PACKAGE}-{version}.tgz"
    archive = kept.read_bytes() if kept.exists() else b""
    if not genuine(archive, sha512):
        archive = _download(version)
        if not genuine(archive, sha512):
            raise LabError(f"{PACKAGE} {version} from the registry does not match {LOCK.name}; find out what sits between here and there")
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f".{kept.name}.{os.getpid()}")
        part.write_bytes(archive)
        part.replace(kept)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        script = tar.extractfile(SCRIPT)
        return version, script.read() if script else b""


def _download(version: str) -> bytes:
    rc = pathlib.Path(os.environ.get("npm_config_userconfig") or os.path.expanduser("~/.npmrc"))
    url = f"{registry(os.environ, rc.read_text(encoding='utf-8') if rc.is_file() else '')}/{PACKAGE}/-/{PACKAGE}-{version}.tgz"
    say(f"{PACKAGE} {version}: downloading (3 MB)")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read()
    except OSError as exc:
        raise LabError(f"{url} can not be had: {exc}. Set npm_config_registry to a registry that answers from here") from exc
