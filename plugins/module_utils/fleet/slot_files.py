# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of the generation in a slot, as files of the host: its configuration, what it was made from, whether it passed its gates.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import typing as t

from .errors import FleetError

_PAIR = re.compile(r'(?m)^("(?:[^"\\]|\\.)*"|[^":\s]+): (.+)$')
_SECRET = re.compile(r"(?m)^(\s*-?\s*\S*(?:password|secret|credential)\S*:\s*).+$")


def mask(text: str) -> str:
    """A configuration text that may be shown: values of passwords, secrets and credentials are starred."""
    return _SECRET.sub(r"\g<1>********", text)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _scalar(text: str) -> str:
    return str(json.loads(text)) if text.startswith('"') else text


def accepted(pairs: t.Mapping[str, str], keys: t.Mapping[str, t.Any]) -> dict[str, list[str]]:
    """{api_keys, other_secrets} of a node that accepts these pairs of key and secret: the names, and those that `keys` gives another secret."""
    return {"api_keys": sorted(pairs), "other_secrets": sorted(name for name, secret in keys.items() if pairs.get(name, str(secret)) != str(secret))}


class SlotFiles:
    """The files of all slots. Directories 0750, files 0640, root:`group`."""

    def __init__(self, config_dir: str, state_dir: str, group: str = "livekit") -> None:
        self.config_dir, self.state_dir, self.group = config_dir, state_dir, group

    def facts(self, n: int) -> dict[str, t.Any]:
        meta = self._meta(n)
        return {"generation": meta.get("generation"), "version": meta.get("version"), "intact": self._intact(n, meta), "exposed": self._exposed(n, meta),
                "gate": self._read(f"{self.state_dir}/{n}/gate"), **self._service(n, meta)}

    def marks(self, numbers: t.Iterable[int]) -> t.Any:
        """Times of the files that change what a slot is called."""
        out = []
        for n in numbers:
            for path in (f"{self.state_dir}/{n}/gate", f"{self.config_dir}/{n}/generation.json"):
                try:
                    out.append(os.stat(path).st_mtime_ns)
                except OSError:
                    out.append(0)
        return out

    def config_text(self, n: int) -> str:
        """The configuration file of slot n with its secrets masked, "" where there is none."""
        return mask(self._read(f"{self.config_dir}/{n}/config.yaml") or "")

    def _read(self, path: str) -> str | None:
        try:
            with open(path, encoding="utf-8") as handle:
                return handle.read().strip()
        except OSError:
            return None

    def _meta(self, n: int) -> dict[str, t.Any]:
        return self._json(f"{self.config_dir}/{n}/generation.json")

    def _json(self, path: str) -> dict[str, t.Any]:
        try:
            return dict(json.loads(self._read(path) or "{}"))
        except (TypeError, ValueError):
            return {}

    def _service(self, n: int, meta: dict[str, t.Any]) -> dict[str, t.Any]:
        """{served_at, rolled_back}: since when the generation in slot n has been known to be good, and whether a rollback brought it."""
        made = self.model(n)
        gate = f"{self.state_dir}/{n}/gate"
        passed = meta.get("generation") and self._read(gate) == meta["generation"]
        return {"served_at": os.path.getmtime(gate) if passed else made.get("served_at"), "rolled_back": bool(made.get("rolled_back"))}

    def model(self, n: int) -> dict[str, t.Any]:
        """{model, served_at, rolled_back} that the generation in slot n was made from, {} where that is not known. It holds secrets."""
        return self._json(f"{self.config_dir}/{n}/model.json")

    def keys(self, n: int) -> dict[str, str]:
        """{name: secret} of the API keys that the node in slot n accepts, as config.to_yaml wrote them; {} where that is not known."""
        pairs = _PAIR.findall(self._read(f"{self.config_dir}/{n}/keys.yaml") or "")
        return {_scalar(name): _scalar(secret) for name, secret in pairs}

    def _intact(self, n: int, meta: dict[str, t.Any]) -> bool:
        for name, want in (meta.get("files") or {}).items():
            try:
                with open(f"{self.config_dir}/{n}/{name}", "rb") as handle:
                    if sha256(handle.read()) != want:
                        return False
            except OSError:
                return False
        return True

    def _exposed(self, n: int, meta: dict[str, t.Any]) -> tuple[str, ...]:
        paths = [f"{self.config_dir}/{n}/{name}" for name in meta.get("files") or {}]
        return tuple(path for path in paths if os.path.exists(path) and os.stat(path).st_mode & 0o007)

    def write(self, n: int, generation: str, version: str, files: t.Mapping[str, str], link: t.Callable[[str], None]) -> None:
        """Lay down a generation in slot n, which must not run. link: puts into the fresh directory what is no text."""
        final, fresh = f"{self.config_dir}/{n}", f"{self.config_dir}/.{n}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            os.makedirs(fresh, mode=0o750)
            meta = {"generation": generation, "version": version, "created_at": int(time.time()),
                    "files": {name: sha256(text.encode()) for name, text in files.items()}}
            for name, text in {**files, "generation.json": json.dumps(meta, indent=1, sort_keys=True) + "\n"}.items():
                self._put(f"{fresh}/{name}", text)
            link(fresh)
            self._own(fresh, 0o750)
        except OSError as exc:
            shutil.rmtree(fresh, ignore_errors=True)
            raise FleetError("write a generation", f"slot {n} in {self.config_dir}", exc,
                             "Nothing was started and nothing that runs was touched; free space or fix the directory, then run again",
                             code="write_failed") from exc
        shutil.rmtree(final, ignore_errors=True)
        os.rename(fresh, final)
        self.set_gate(n, None)

    def _put(self, path: str, text: str) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        self._own(path, 0o640)

    def _own(self, path: str, mode: int) -> None:
        os.chmod(path, mode)
        if os.geteuid() == 0:
            shutil.chown(path, "root", self.group)

    def set_gate(self, n: int, generation: str | None) -> None:
        """Record which generation passed its gates in slot n; the agent check reads it. None takes the mark away."""
        path = f"{self.state_dir}/{n}/gate"
        if generation is None:
            if os.path.exists(path):
                os.unlink(path)
            return
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with open(path + ".new", "w", encoding="utf-8") as out:
            out.write(generation + "\n")
        os.chmod(path + ".new", 0o644)
        os.replace(path + ".new", path)
