# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects as YAML for people: scripts and configuration files as blocks. Always the same text for the same object.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import re
import typing as t

from ... import config

_BLOCK = re.compile(r"[^\s][^\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]*[^\n]\n?")


def dump(value: t.Mapping[str, t.Any]) -> str:
    return "".join(f"{line}\n" for line in _lines(config.plain(value)))


def _lines(value: t.Any) -> t.Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            key = config.to_yaml({name: 0}).rsplit(":", 1)[0]
            if isinstance(inner, (dict, list)) and inner:
                yield f"{key}:"
                yield from (f"  {line}" for line in _lines(inner))
            elif _is_block(inner):
                yield f"{key}: {_mark(inner)}"
                yield from _block(inner)
            else:
                yield f"{key}: {_scalar(inner)}"
        return
    for inner in value:
        if isinstance(inner, (dict, list)) and inner:
            first, *rest = _lines(inner)
            yield f"- {first}"
            yield from (f"  {line}" if line else "" for line in rest)
        elif _is_block(inner):
            yield f"- {_mark(inner)}"
            yield from _block(inner)
        else:
            yield f"- {_scalar(inner)}"


def _scalar(value: t.Any) -> str:
    return config.to_yaml({"x": value})[3:-1]


def _is_block(value: t.Any) -> bool:
    return isinstance(value, str) and "\n" in value[:-1] and bool(_BLOCK.fullmatch(value))


def _mark(text: str) -> str:
    return "|" if text.endswith("\n") else "|-"


def _block(text: str) -> t.Iterator[str]:
    return (f"  {line}" if line else "" for line in text.removesuffix("\n").split("\n"))
