# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The system user of a component, and the numbers of users and groups.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import grp
import pwd
import typing as t

from .run import Failure, Run


def uid(run: Run, owner: str | None) -> int | None:
    """A user's number; None when not asked for, -1 when (check mode before the package is there) not known yet."""
    return _id(run, owner, "user", lambda n: pwd.getpwnam(n).pw_uid)


def gid(run: Run, group: str | None) -> int | None:
    return _id(run, group, "group", lambda n: grp.getgrnam(n).gr_gid)


def _id(run: Run, name: str | None, what: str, lookup: t.Callable[[str], int]) -> int | None:
    if name is None:
        return None
    if name.isdigit():
        return int(name)
    try:
        return lookup(name)
    except KeyError:
        if run.check:
            return -1
        raise Failure(
            f"{what} {name} does not exist on this host; give it in 'user', or the package that brings it in 'packages'",
        ) from None


def ensure(run: Run) -> None:
    wanted = run.p["user"]
    if not wanted:
        return
    name, group = wanted["name"], wanted["group"] or wanted["name"]
    try:
        grp.getgrnam(group)
    except KeyError:
        run.note_change(f"group {group}: create", None, f"group: {group}")
        if not run.check:
            run.command("groupadd", "--system", group)
    try:
        entry: pwd.struct_passwd | None = pwd.getpwnam(name)
    except KeyError:
        entry = None
        run.note_change(f"user {name}: create", None, f"user: {name}")
        if not run.check:
            run.command("useradd", "--system", "--no-create-home", "--no-user-group", "--gid", group, "--home-dir", wanted["home"],
                        "--shell", wanted["shell"], name)
    primary = grp.getgrgid(entry.pw_gid).gr_name if entry else group
    missing = [g for g in wanted["groups"] if g != primary and name not in _members(run, g)]
    if missing:
        run.note_change(f"user {name}: add to {', '.join(missing)}", None, f"user {name} in: {', '.join(missing)}")
        if not run.check:
            run.command("usermod", "-a", "-G", ",".join(missing), name)


def _members(run: Run, group: str) -> list[str]:
    try:
        return grp.getgrnam(group).gr_mem
    except KeyError:
        if run.check:
            return []
        raise Failure(f"group {group} does not exist on this host") from None
