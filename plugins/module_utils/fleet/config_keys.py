# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of a LiveKit configuration against those that one version of livekit-server knows (schema).

Pure: names, types and values are judged, and near misses turned into advice. No text made here contains a secret.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import difflib
import ipaddress
import re
import typing as t

from . import schema
from .config import kind_of, plain
from .errors import Problem

_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SECRET_WORDS = ("password", "secret", "credential", "keys")


def unknown_keys(config: t.Mapping[str, t.Any], version: str, known: t.Iterable[str] = ()) -> list[Problem]:
    """What livekit-server of this version would not take: keys it never had, has not yet or has no more, and wrong types.

    known: dotted paths to let pass with all that is below them, for releases newer than schema.NEWEST.
    """
    return list(_walk(plain(config), "", "", schema.version_or_newest(version), tuple(known)))


def _walk(config: dict[str, t.Any], path: str, shape: str, version: str, known: tuple[str, ...]) -> t.Iterator[Problem]:
    """path: as written, with list indexes; shape: as in schema.KEYS."""
    for name, value in config.items():
        here, form = (f"{path}.{name}", f"{shape}.{name}") if path else (name, name)
        if any(form == k or form.startswith(f"{k}.") for k in known):
            continue
        key = schema.KEYS.get(form)
        if key is None:
            yield Problem("unknown_key", here, f"{here} is no key of LiveKit {version}", _advice(form, version))
            continue
        if value is None:
            continue
        if schema.later(key.since, version):
            wanted = f"a release after {schema.NEWEST}" if key.since == schema.UNRELEASED else f"LiveKit ≥ {key.since}"
            yield Problem("key_too_new", here, f"{here} needs {wanted}, this deployment runs {version}", "Remove it or raise livekit_version")
            continue
        if not schema.usable(key, version):
            fix = f"Use {key.instead} instead" if key.instead else "Remove it"
            yield Problem("key_removed", here, f"{here} was removed in LiveKit {key.removed}, this deployment runs {version}", fix)
            continue
        yield from _walk_value(key, value, here, form, version, known)


def _walk_value(key: schema.Key, value: t.Any, here: str, form: str, version: str, known: tuple[str, ...]) -> t.Iterator[Problem]:
    if not _fits(key.type, value):
        fix = "Put it in quotes" if key.type == "str" and isinstance(value, (int, float)) else f"Give {schema.TYPES[key.type]}"
        got = kind_of(value)
        if isinstance(value, str) and key.type != "str" and not any(word in form for word in _SECRET_WORDS):
            got = f'the string "{value}"'
        yield Problem("wrong_type", here, f"{here} must be {schema.TYPES[key.type]}, not {got}", fix)
    elif key.choices and value not in key.choices:
        near = difflib.get_close_matches(value, key.choices, 1)
        yield Problem("bad_value", here, f'{here} cannot be "{value}"',
                      (f"Did you mean {near[0]}? " if near else "") + f"Possible: {', '.join(key.choices)}")
    elif key.type == "map":
        yield from _walk(value, here, form, version, known)
    elif key.type == "maps":
        for number, item in enumerate(value):
            yield from _walk(item, f"{here}[{number}]", f"{form}[]", version, known)


def nearest(path: str, version: str = schema.NEWEST) -> str:
    """The dotted path of the known key that most resembles this one, or "". Siblings first, then the same word elsewhere."""
    candidates = [name for name, key in schema.KEYS.items() if schema.usable(key, version)]
    parent, _dot, leaf = path.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in candidates if name.rpartition(".")[0] == parent}
    leaves: dict[str, list[str]] = {}
    for name in candidates:
        leaves.setdefault(name.rpartition(".")[2], []).append(name)

    def close(word: str, pool: t.Iterable[str], cutoff: float) -> str:
        return next(iter(difflib.get_close_matches(word, list(pool), 1, cutoff)), "")

    def likest(names: list[str]) -> str:
        return max(names, key=lambda name: difflib.SequenceMatcher(None, path, name).ratio())

    if hit := close(leaf, siblings, 0.75):
        return siblings[hit]
    if parent and leaf in candidates:  # a section written one level too deep
        return leaf
    if parent and len(leaf) > 3 and (partly := [full for name, full in siblings.items() if leaf in name]):
        return likest(partly)
    if leaf in leaves:
        return likest(leaves[leaf])
    if hit := close(path, candidates, 0.75):
        return hit
    if hit := close(leaf, siblings, 0.6):
        return siblings[hit]
    hit = close(leaf, leaves, 0.7)
    return likest(leaves[hit]) if hit else ""


def _advice(path: str, version: str) -> str:
    if path in schema.MISNAMED:
        return f"Use {schema.MISNAMED[path]}"
    near = nearest(path, version)
    advice = f"Did you mean {near}?" if near else "Remove it"
    if schema.later(version, schema.NEWEST):
        advice += f" (keys newer than LiveKit {schema.NEWEST} go into livekit_known_keys)"
    return advice


def _fits(kind: str, value: t.Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind in ("int", "uint"):
        return number and isinstance(value, int) and (kind == "int" or value >= 0)
    if kind == "float":
        return number
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "str":
        return isinstance(value, str)
    if kind == "duration":
        return isinstance(value, str) and duration_seconds(value) is not None
    if kind == "ports":
        return bool(_port_range(value))
    if kind == "cidrs":
        return isinstance(value, list) and all(isinstance(v, str) and _is_network(v) for v in value)
    if kind in ("strings", "durations", "maps"):
        inner = {"strings": "str", "durations": "duration", "maps": "map"}[kind]
        return isinstance(value, list) and all(_fits(inner, v) for v in value)
    if kind == "strmap":
        return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    return isinstance(value, dict)  # map, open


def duration_seconds(text: str) -> float | None:
    """Seconds of a Go duration ("1m30s", "500ms"), None if it is none."""
    body = text.lstrip("+-") if text[:2] not in ("+-", "-+", "--", "++") else ""
    parts = list(_DURATION_PART.finditer(body))
    if body == "0":
        return 0.0
    if not parts or "".join(p[0] for p in parts) != body:
        return None
    total = sum(float(p[1]) * _UNITS[p[2]] for p in parts)
    return -total if text.startswith("-") else total


def _port_range(value: t.Any) -> tuple[int, int] | None:
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", str(value)) if isinstance(value, (int, str)) and not isinstance(value, bool) else None
    if not match:
        return None
    first, last = int(match[1]), int(match[2] or match[1])
    return (first, last) if 1 <= first <= last <= 65535 and (first < last or not match[2]) else None


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text
