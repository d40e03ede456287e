# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What adoption finds: livekit_* variables, and for every setting of the former deployment a row that says what became of it.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import typing as t

from .. import table

MAPPED, CHOSEN, DROPPED, BY_HAND = "mapped", "chosen", "no place", "to do"
SECRET_WORDS = ("password", "secret", "credential", "keys", "private_key", "certificate", "token")
WIDTH = 60  # of a shown value


@dataclasses.dataclass(frozen=True)
class Row:
    """One setting. source: file or object and key; what: MAPPED, CHOSEN (differs for a reason), DROPPED or BY_HAND; to: the variable;
    note: why, and what to do. value is fit to be shown."""

    source: str
    value: str
    what: str
    to: str = ""
    note: str = ""

    def as_dict(self) -> dict[str, str]:
        return dataclasses.asdict(self)


@dataclasses.dataclass
class Found:
    """The result of a reader, which others add to."""

    variables: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    rows: list[Row] = dataclasses.field(default_factory=list)
    config: dict[str, t.Any] = dataclasses.field(default_factory=dict, repr=False)  # what LiveKit runs with
    where: str = ""  # and where it stands

    def mapped(self, source: str, value: t.Any, to: str, note: str = "") -> None:
        self.rows.append(Row(source, show(source, value), MAPPED, to, note))

    def chosen(self, source: str, value: t.Any, to: str, note: str) -> None:
        self.rows.append(Row(source, show(source, value), CHOSEN, to, note))

    def dropped(self, source: str, value: t.Any, note: str) -> None:
        self.rows.append(Row(source, show(source, value), DROPPED, "", note))

    def todo(self, source: str, value: t.Any, note: str) -> None:
        self.rows.append(Row(source, show(source, value), BY_HAND, "", note))

    def add(self, other: Found) -> None:
        self.variables.update(other.variables)
        self.rows += other.rows
        self.config, self.where = other.config, other.where


def is_secret(name: str) -> bool:
    """Whether a value of this name is never shown: a dotted path, or the name of a variable."""
    plain = name.lower().replace("secretname", "").replace("pullsecrets", "")  # names of Secrets are none
    return any(word in plain for word in SECRET_WORDS)


def show(name: str, value: t.Any) -> str:
    """A value for the table: secrets as dots, mappings by their names, everything short."""
    if is_secret(name):
        names = ", ".join(map(str, value)) if isinstance(value, dict) else ""
        return f"{names}: ……" if names else "……" if value else ""
    if isinstance(value, dict):
        text = ", ".join(f"{k}: {show(str(k), v)}" for k, v in value.items())
    elif isinstance(value, (list, tuple)):
        text = ", ".join(show("", v) for v in value)
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= WIDTH else text[:WIDTH - 1] + "…"


def ordered(rows: t.Iterable[Row]) -> list[Row]:
    """What needs a hand first, then what has no place, what was chosen, what maps."""
    return sorted(rows, key=lambda row: (BY_HAND, DROPPED, CHOSEN, MAPPED).index(row.what))


def report(rows: t.Iterable[Row]) -> list[str]:
    """The rows as lines to read, each with its note below."""
    listed = ordered(rows)
    heads = table.lines(("what", "setting", "value", "variable"), [(r.what, r.source, r.value, r.to) for r in listed])
    out = heads[:2]
    for row, line in zip(listed, heads[2:]):
        out += [line, *([f"    {row.note}"] if row.note else [])]
    return out
