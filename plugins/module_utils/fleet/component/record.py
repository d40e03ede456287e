# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of what the units of a component have loaded: modification times only. It must not survive a reboot.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
import typing as t

from .paths import temporary


def record_path(p: dict[str, t.Any]) -> str:
    return os.path.join(p["record_dir"], re.sub(r"[^A-Za-z0-9_.@-]", "_", p["name"]) + ".json")


def read(path: str) -> dict[str, t.Any]:
    """{unit: {invocation, files: {path: mtime in ns}}}; empty when there is none yet."""
    try:
        with open(path, encoding="utf-8") as f:
            found = json.load(f)
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def write(path: str, record: dict[str, t.Any]) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    os.replace(temporary(path, json.dumps(record, sort_keys=True).encode(), 0o600), path)


def mtimes(paths: t.Iterable[str]) -> dict[str, int]:
    """{path: mtime in ns} of those that exist."""
    out = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            out[path] = os.stat(path).st_mtime_ns
    return out


def stale(files: t.Mapping[str, int], unit: t.Mapping[str, str], noted: t.Mapping[str, t.Any], now: float, monotonic: float) -> list[str]:
    """Paths the running unit has not loaded yet.

    files: {path: mtime in ns} of what this unit loads; noted: what the record says since this module last acted on the unit
    ({invocation, files}); now/monotonic: both clocks at the same moment. A file noted for the same invocation must have the noted
    mtime; any other must be older than the start of the unit (its monotonic start time taken to the wall clock of today, so that a clock
    set after boot does no harm).
    """
    same = noted.get("invocation") == unit.get("InvocationID") and bool(unit.get("InvocationID"))
    loaded = noted.get("files", {}) if same else {}
    try:
        started = now - (monotonic - int(unit.get("ActiveEnterTimestampMonotonic", "0")) / 1e6)
    except ValueError:
        started = now
    return [path for path, mtime in sorted(files.items()) if (loaded[path] != mtime if path in loaded else mtime / 1e9 > started)]
