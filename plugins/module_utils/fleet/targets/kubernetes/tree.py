# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tree of files on disk: read what is ours, write what differs, remove what is gone. A run that changes nothing writes no byte.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import os
import typing as t

from ...errors import FleetError
from .output import HEADER


class Changes(t.NamedTuple):
    """write: {path: text} that is new or differs; remove: paths."""

    write: dict[str, str]
    remove: list[str]

    def __bool__(self) -> bool:
        return bool(self.write or self.remove)


def read(directory: str) -> dict[str, str]:
    """{relative path: text} of the YAML files that we wrote; those of others are not looked at. {} where there is no such directory."""
    found = {}
    for folder, dummy, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".yaml") and not os.path.islink(path):
                with open(path, encoding="utf-8", errors="replace") as handle:
                    text = handle.read()
                if text.startswith(HEADER):
                    found[os.path.relpath(path, directory).replace(os.sep, "/")] = text
    return found


def compare(existing: t.Mapping[str, str], wanted: t.Mapping[str, str]) -> Changes:
    return Changes({path: text for path, text in wanted.items() if existing.get(path) != text}, sorted(set(existing) - set(wanted)))


def write(directory: str, changes: Changes) -> None:
    """Each file appears whole or not at all. Raises FleetError tree_write; file_not_ours before anything is written."""
    strangers = [path for path in changes.write if os.path.exists(os.path.join(directory, path)) and not _ours(os.path.join(directory, path))]
    if strangers:
        raise FleetError("write the tree", directory, f"{', '.join(strangers)} exist and were not written by this collection",
                         "Choose another livekit_kubernetes_output_dir, or move them away", code="file_not_ours", files=strangers)
    try:
        for path, text in changes.write.items():
            target = os.path.join(directory, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(f"{target}.new", "w", encoding="utf-8") as handle:
                handle.write(text)
            os.replace(f"{target}.new", target)
        for path in changes.remove:
            os.unlink(os.path.join(directory, path))
    except OSError as exc:
        raise FleetError("write the tree", directory, exc, "Correct the directory and run again", code="tree_write") from exc


def _ours(path: str) -> bool:
    with open(path, encoding="utf-8", errors="replace") as handle:
        return handle.readline() == HEADER
