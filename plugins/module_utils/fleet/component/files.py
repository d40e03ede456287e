# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a component: compared, validated by the product, moved into place atomically; all put back when one is refused.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shlex
import shutil
import stat
import typing as t

from .guard import content, octal, unit_name
from .paths import attributes, own, parents, temporary
from .run import Failure, Run

UNIT_DIRS = (
    "/etc/systemd/system/", "/run/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/", "/usr/local/lib/systemd/system/",
)


@dataclasses.dataclass
class Wants:
    """What units have to do about the files of this run."""

    reload: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # unit -> why
    restart: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    # unit -> {path: "reload" | "restart"} of files it has loaded when it is up to date
    loads: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    unit_file_changed: bool = False

    def add(self, item: dict[str, t.Any], path: str, changed: bool) -> None:
        for how, wants in (("reload", self.reload), ("restart", self.restart)):
            for unit in map(unit_name, item[how]):
                if changed:
                    wants.setdefault(unit, []).append(path)
                if item["state"] == "present" and item["force"]:
                    self.loads.setdefault(unit, {})[path] = how
        if changed and item["dest"].startswith(UNIT_DIRS):
            self.unit_file_changed = True


class Files:
    """The files of one run, and how to take back what was done to them."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.undo: list[t.Callable[[], None]] = []

    def apply(self) -> Wants:
        wants = Wants()
        try:
            for item in self.run.p["files"]:
                path = os.path.realpath(item["dest"])
                wants.add(item, path, self._file(item, path))
        except BaseException:
            self._rollback()
            raise
        return wants

    def _file(self, item: dict[str, t.Any], path: str) -> bool:
        """Whether the content of the file was changed, or the file removed."""
        try:
            with open(path, "rb") as f:
                old: bytes | None = f.read()
        except FileNotFoundError:
            old = None
        except IsADirectoryError:
            raise Failure(f"{path} is a directory, not a file") from None
        if item["state"] == "absent":
            return self._remove(item, item["dest"], old)
        new = content(item) or b""
        if old is not None and (old == new or not item["force"]):
            attributes(self.run, "file", path, item)
            return False
        # Check mode: what was changed before is not in place, so this file cannot be validated against it.
        if item["validate"] and not (self.run.check and self.run.changes):
            self._validate(item, path, new)
        self._land(item, path, old, new)
        return True

    def _remove(self, item: dict[str, t.Any], path: str, old: bytes | None) -> bool:
        if not os.path.lexists(path):
            return False
        self.run.note_change(f"file {path}: remove", f"file {path}", None)
        self._difference(item, path, old, None)
        if not self.run.check:
            if os.path.islink(path):
                target = os.readlink(path)
                self.undo.append(lambda: os.symlink(target, path))
            else:
                st = os.stat(path)
                self.undo.append(lambda: _put_back(path, old or b"", st))
            os.unlink(path)
        return True

    def _validate(self, item: dict[str, t.Any], path: str, data: bytes) -> None:
        if self.run.check and (not os.path.isdir(os.path.dirname(path)) or not shutil.which(shlex.split(item["validate"])[0])):
            return
        parents(self.run, os.path.dirname(path))
        name = temporary(path, data, 0o600)
        try:
            argv = [arg.replace("%s", name) for arg in shlex.split(item["validate"])]
            try:
                rc, out, err = self.run.run_command(argv, handle_exceptions=False)
            except OSError as exc:
                raise Failure(f"{path} could not be validated: {argv[0]}: {exc.strerror}", file=path) from exc
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        if rc != 0:
            said = (err + out).replace(name, path).strip()[-3000:]
            if item["secret"]:
                said = "its output is withheld because the file is secret"
            raise Failure(
                f"{path} was refused by '{item['validate']}' ({rc}), nothing of this call's files was kept: {said}", file=path, rc=rc,
            )

    def _land(self, item: dict[str, t.Any], path: str, old: bytes | None, new: bytes) -> None:
        self.run.note_change(f"file {path}: {'create' if old is None else 'content'}")
        self._difference(item, path, old, new)
        parents(self.run, os.path.dirname(path))
        if self.run.check:
            return
        st = os.stat(path) if old is not None else None
        name = temporary(path, new, 0o600)
        try:
            if st is not None:
                with contextlib.suppress(PermissionError):
                    os.chown(name, st.st_uid, st.st_gid)
            own(self.run, name, item)
            os.chmod(name, octal(item["mode"]))
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        if st is None:
            self.undo.append(lambda: os.unlink(path))
        else:
            self.undo.append(lambda: _put_back(path, old or b"", st))

    def _difference(self, item: dict[str, t.Any], path: str, old: bytes | None, new: bytes | None) -> None:
        if item["secret"]:
            return
        before, after = (_shown(item, data) for data in (old, new))
        self.run.diffs.append({"before_header": path, "after_header": path, "before": before, "after": after})

    def _rollback(self) -> None:
        for step in reversed(self.undo):
            with contextlib.suppress(OSError):
                step()


def _shown(item: dict[str, t.Any], data: bytes | None) -> str:
    """A content as the diff shows it."""
    if data is None:
        return ""
    return data.decode("utf-8", "replace") if item["encoding"] == "text" else f"(binary) {hashlib.sha256(data).hexdigest()[:12]}\n"


def _put_back(path: str, data: bytes, st: os.stat_result) -> None:
    name = temporary(path, data, stat.S_IMODE(st.st_mode))
    with contextlib.suppress(PermissionError):
        os.chown(name, st.st_uid, st.st_gid)
    os.utime(name, ns=(st.st_atime_ns, st.st_mtime_ns))
    os.replace(name, path)
