# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that can be refused before anything is touched; first of all what would end the calls of a node.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import base64
import fnmatch
import grp
import os
import pwd
import re
import typing as t

from .run import Failure

# A running node holds calls. It is replaced by another one beside it, never restarted, and never sent a signal from here.
PROJECT = ".project"  # names a project of Compose where units are named
NODE_UNITS = ("livekit-server@*", "livekit-server.service")


def unit_name(name: str) -> str:
    """The full name of a unit: haproxy -> haproxy.service."""
    return name if re.search(r"\.(service|socket|timer|path|target|mount|slice|project)$", name) else f"{name}.service"


def is_node(name: str) -> bool:
    """Whether a unit is a LiveKit node, which nothing here may stop, reload or restart."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in NODE_UNITS)


def triggered(files: t.Iterable[dict[str, t.Any]]) -> list[str]:
    """The units that a change of these files reloads or restarts."""
    return sorted({unit_name(u) for item in files for u in [*item["reload"], *item["restart"]]})


def content(item: dict[str, t.Any]) -> bytes | None:
    text = item["secret_content"] if item["secret_content"] is not None else item["content"]
    if text is not None and item.get("numbers"):
        text = re.sub(r"@(uid|gid):([A-Za-z0-9_-]+)@", _number, str(text))
    if text is None or item["encoding"] == "text":
        return text if text is None else str(text).encode("utf-8")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as exc:
        raise Failure(f"{item['dest']}: the content is not base64: {exc}") from None


def _number(match: re.Match[str]) -> str:
    """What @uid:NAME@ stands for; itself as long as there is no such user (check mode, and before it was made)."""
    try:
        return str(pwd.getpwnam(match[2]).pw_uid if match[1] == "uid" else grp.getgrnam(match[2]).gr_gid)
    except KeyError:
        return match[0]


def octal(mode: str) -> int:
    try:
        return int(mode, 8)
    except ValueError:
        raise Failure(f"mode {mode!r} is not an octal number; write it quoted, like '0640'") from None


def refuse(p: dict[str, t.Any]) -> None:
    """Refuse options that cannot be carried out, and complete the names of units in place."""
    for name in triggered(p["files"]):
        if is_node(name):
            raise Failure(f"refusing to reload or restart {name}: it holds calls. A node is replaced by starting another beside it "
                          "(openrtc.livekit.generation), never restarted")
    for unit in p["units"]:
        unit["name"] = unit_name(unit["name"])
        if unit["state"] == "stopped" and is_node(unit["name"]):
            raise Failure(f"refusing to stop {unit['name']} from here: draining a node is the job of openrtc.livekit.generation")
    seen: set[str] = set()
    for item in p["files"]:
        _file(item)
        if item["dest"] in seen:
            raise Failure(f"{item['dest']} is given twice")
        seen.add(item["dest"])
        octal(item["mode"])
    for directory in p["directories"]:
        octal(directory["mode"])


def _file(item: dict[str, t.Any]) -> None:
    for option in ("src", "tree"):
        if item[option] is not None:
            raise Failure(f"{item['dest']}: '{option}' is resolved on the control machine; call the module as a task, not directly")
    if item["state"] == "present" and content(item) is None:
        raise Failure(f"{item['dest']}: no content given")
    if item["validate"] and "%s" not in item["validate"]:
        raise Failure(f"{item['dest']}: validate must contain %s, got: {item['validate']}")
    if not os.path.isabs(item["dest"]):
        raise Failure(f"{item['dest']}: not an absolute path")
