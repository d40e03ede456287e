# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories, and what directories and files have in common: parents, owner, group and mode.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import os
import stat
import tempfile
import typing as t

from .guard import octal
from .run import Failure, Run
from .users import gid, uid


def directories(run: Run) -> None:
    for item in run.p["directories"]:
        path = item["path"].rstrip("/") or "/"
        if os.path.isdir(path):
            attributes(run, "directory", path, item)
            continue
        parents(run, os.path.dirname(path))
        if os.path.lexists(path):
            raise Failure(f"{path} exists and is not a directory")
        run.note_change(f"directory {path}: create", None, f"directory {path} {item['mode']}")
        if not run.check:
            os.mkdir(path, 0o700)
            own(run, path, item)
            os.chmod(path, octal(item["mode"]))


def parents(run: Run, path: str) -> None:
    """A directory and its missing parents, outermost first."""
    missing = []
    while not os.path.isdir(path):
        if os.path.lexists(path):
            raise Failure(f"{path} exists and is not a directory")
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        if any(c.startswith(f"directory {folder}: ") for c in run.changes):
            continue  # check mode: told already
        run.note_change(f"directory {folder}: create", None, f"directory {folder}")
        if not run.check:
            os.mkdir(folder, 0o755)
            os.chmod(folder, 0o755)


def own(run: Run, path: str, item: dict[str, t.Any]) -> None:
    user, group = uid(run, item["owner"]), gid(run, item["group"])
    if user is not None or group is not None:
        os.chown(path, -1 if user is None else user, -1 if group is None else group)


def attributes(run: Run, kind: str, path: str, item: dict[str, t.Any]) -> None:
    """Owner, group and mode of something that exists."""
    st = os.stat(path)
    user, group, mode = uid(run, item["owner"]), gid(run, item["group"]), octal(item["mode"])
    wrong = []
    if (user is not None and user != st.st_uid) or (group is not None and group != st.st_gid):
        wrong.append("owner")
    if stat.S_IMODE(st.st_mode) != mode:
        wrong.append("mode")
    if not wrong:
        return
    run.note_change(
        f"{kind} {path}: {' and '.join(wrong)}",
        f"{kind} {path} {st.st_uid}:{st.st_gid} {stat.S_IMODE(st.st_mode):04o}",
        f"{kind} {path} {st.st_uid if user is None else item['owner']}:{st.st_gid if group is None else item['group']} {mode:04o}",
    )
    if not run.check:
        own(run, path, item)
        os.chmod(path, mode)


def temporary(path: str, data: bytes, mode: int) -> str:
    """A file beside the target, with an ending that products which look at names accept. None is left where writing fails."""
    base, ext = os.path.splitext(os.path.basename(path))
    fd, name = tempfile.mkstemp(prefix=f".{base}.", suffix=ext, dir=os.path.dirname(path))
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(name, mode)
    except OSError:
        os.unlink(name)
        raise
    return name
