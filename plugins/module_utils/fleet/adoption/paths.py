# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nested mappings by dotted paths. Pure.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import re
import typing as t

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def get(config: t.Any, path: str, default: t.Any = None) -> t.Any:
    """What stands at a path such as rtc.turn_servers[0].host."""
    for name, index in _STEP.findall(path):
        if index:
            config = config[int(index)] if isinstance(config, list) and int(index) < len(config) else None
        else:
            config = config.get(name) if isinstance(config, dict) else None
        if config is None:
            return default
    return config


def pop(config: dict[str, t.Any], path: str, default: t.Any = None) -> t.Any:
    """get(), and take it out; sections that are empty then go too."""
    value = get(config, path)
    parent, _dot, leaf = path.rpartition(".")
    holder = get(config, parent) if parent else config
    if not isinstance(holder, dict) or leaf not in holder:
        return default
    del holder[leaf]
    if not holder and parent and not parent.endswith("]"):
        pop(config, parent)
    return default if value is None else value


def put(config: dict[str, t.Any], path: str, value: t.Any) -> None:
    *parents, leaf = path.split(".")
    for name in parents:
        below = config.get(name)
        if not isinstance(below, dict):
            below = config[name] = {}
        config = below
    config[leaf] = value


def flat(config: t.Mapping[str, t.Any], prefix: str = "") -> dict[str, t.Any]:
    """{dotted path: value}; lists and empty mappings are values."""
    out: dict[str, t.Any] = {}
    for name, value in config.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, dict) and value:
            out.update(flat(value, path))
        else:
            out[path] = value
    return out


def within(path: str, places: t.Iterable[str]) -> bool:
    """Whether the path is one of these or lies below one."""
    return any(path == place or path.startswith((f"{place}.", f"{place}[")) for place in places)
