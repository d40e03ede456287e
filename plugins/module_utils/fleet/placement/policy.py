# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a room asks for, and the operator's rules for placing: who goes where, how full nodes get, what is kept free. Pure.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import fnmatch
import typing as t
import zlib

from ..errors import Problem, raise_for
from .targets import PER_CPU, VIDEO_LOAD

STRATEGIES = ("spread", "pack")


@dataclasses.dataclass(frozen=True)
class Wish:
    """A room that is to be placed. participants: as many will come; None for what is known of such rooms. video: of these, how many publish it."""

    room: str
    participants: float | None = None
    video: float | None = None
    labels: tuple[str, ...] = ()
    node_label: str = ""
    region: str = ""
    version: str = ""
    required: bool = False  # rather no node than one that lacks label, region or version
    strategy: str = ""


@dataclasses.dataclass(frozen=True)
class Rule:
    """For rooms whose name (a pattern as in a shell) and label match. share: percent of these, always the same ones, as for a canary."""

    match: str = "*"
    label: str = ""
    share: float = 100.0
    participants: float | None = None
    video: float | None = None
    node_label: str = ""
    region: str = ""
    version: str = ""
    required: bool | None = None
    strategy: str = ""

    def concerns(self, wish: Wish) -> bool:
        if not fnmatch.fnmatchcase(wish.room, self.match) or self.label and self.label not in wish.labels:
            return False
        return self.share >= 100 or zlib.crc32(wish.room.encode()) % 10000 < self.share * 100


@dataclasses.dataclass(frozen=True)
class Reservation:
    """Room kept free from `start` less `lead` to `end` (Unix seconds) for `rooms` rooms of `participants` each, whose names match."""

    name: str
    match: str
    participants: float
    start: float
    end: float
    rooms: int = 1
    video: float | None = None
    lead: float = 600.0
    node_label: str = ""
    region: str = ""
    version: str = ""

    def holds(self, now: float) -> bool:
        return self.start - self.lead <= now < self.end

    def wish(self, number: int) -> Wish:
        return Wish(f"{self.name}#{number}", self.participants, self.video, (), self.node_label, self.region, self.version)


@dataclasses.dataclass(frozen=True)
class Policy:
    """How rooms are placed.

    strategy: spread (evenly) or pack (as many as fit within `fill` on few nodes, so that others become empty). fill: share of a node's capacity.
    cpu_limit: nodes whose CPU is busier (0 to 1) take rooms only when all are; 0 for no such limit. capacity_per_cpu: participants without video that one
    CPU carries; video_load: what one with video costs, in such without.
    labels: {label of nodes: patterns of host names}; exclusive: labels whose nodes take only rooms that ask for them.
    """

    strategy: str = "spread"
    fill: float = 0.7
    cpu_limit: float = 0.9
    capacity_per_cpu: float = PER_CPU
    video_load: float = VIDEO_LOAD
    labels: t.Mapping[str, t.Sequence[str]] = dataclasses.field(default_factory=dict)
    exclusive: t.Sequence[str] = ()
    rules: t.Sequence[Rule] = ()
    reservations: t.Sequence[Reservation] = ()

    @classmethod
    def from_mapping(cls, values: t.Mapping[str, t.Any]) -> Policy:
        """From livekit_placement. Raises FleetError with every problem in it."""
        policy, found = cls._parse(values)
        raise_for(found, "livekit_placement")
        return policy

    @classmethod
    def problems(cls, values: t.Mapping[str, t.Any]) -> list[Problem]:
        """What is wrong with livekit_placement."""
        return cls._parse(values)[1]

    @classmethod
    def _parse(cls, values: t.Mapping[str, t.Any]) -> tuple[Policy, list[Problem]]:
        found: list[Problem] = []
        fields = _fields(cls, values, "livekit_placement", found)
        for name, kind in (("rules", Rule), ("reservations", Reservation)):
            rows = fields.get(name) or []
            fields[name] = [row for n, given in enumerate(rows) if (row := _row(kind, given, f"livekit_placement.{name}[{n}]", found))]
        if found:
            return cls(), found
        policy = cls(**fields)
        return policy, _wrong(policy)

    def apply(self, wish: Wish) -> Wish:
        """The wish with what the rules say; a later rule goes before an earlier one, and what was asked for before both."""
        said: dict[str, t.Any] = {}
        for rule in self.rules:
            if rule.concerns(wish):
                said.update({k: v for k in ("participants", "video", "node_label", "region", "version", "required", "strategy")
                             if (v := getattr(rule, k)) not in (None, "")})
        asked = {k: v for k in said if (v := getattr(wish, k)) not in (None, "", False)}
        return dataclasses.replace(wish, **{**said, **asked})

    def labels_of(self, host: str) -> frozenset[str]:
        return frozenset(label for label, hosts in self.labels.items() if any(fnmatch.fnmatchcase(host, p) for p in hosts))


_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "str": (str, "text"), "bool": (bool, "true or false"), "float": ((int, float), "a number"), "int": (int, "a whole number"),
    "t.Mapping": (dict, "a mapping"), "t.Sequence": ((list, tuple), "a list"),
}


def _fields(kind: t.Any, values: t.Any, where: str, found: list[Problem]) -> dict[str, t.Any]:
    """The values that fit the dataclass; what does not goes to `found`."""
    if not isinstance(values, dict):
        found.append(Problem("wrong_type", where, "is no mapping", "See the role model's README"))
        return {}
    known = {f.name: f for f in dataclasses.fields(kind)}
    out = {}
    for name, value in values.items():
        if name not in known:
            found.append(Problem("unknown_key", f"{where}.{name}", "is not known", f"Use one of: {', '.join(known)}"))
        elif value is not None:
            types, words = _TYPES[str(known[name].type).split("[", maxsplit=1)[0].split(" |", maxsplit=1)[0]]
            if isinstance(value, types) and (types is bool or not isinstance(value, bool)):
                out[name] = value
            else:
                found.append(Problem("wrong_type", f"{where}.{name}", f"must be {words}", "Correct it"))
    missing = [f.name for f in known.values() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in values]
    if missing:
        found.append(Problem("missing", where, f"lacks {', '.join(missing)}", "Add it"))
    return out


def _row(kind: t.Any, given: t.Any, where: str, found: list[Problem]) -> t.Any:
    before = len(found)
    fields = _fields(kind, given, where, found)
    return kind(**fields) if len(found) == before else None


def _wrong(policy: Policy) -> list[Problem]:
    """What has the right type and no sense."""
    found = []

    def check(right: bool, where: str, text: str, fix: str) -> None:
        if not right:
            found.append(Problem("bad_value", f"livekit_placement.{where}", text, fix))

    check(policy.strategy in STRATEGIES, "strategy", f"is {policy.strategy}", "Use spread or pack")
    check(0 < policy.fill <= 1, "fill", f"is {policy.fill:g}", "Give a share of a node's capacity, over 0 and up to 1")
    check(0 <= policy.cpu_limit <= 1, "cpu_limit", f"is {policy.cpu_limit:g}", "Give a share of a CPU, 0 to 1")
    check(0 < policy.capacity_per_cpu < float("inf"), "capacity_per_cpu", f"is {policy.capacity_per_cpu:g}", "Give a number over 0")
    check(1 <= policy.video_load < float("inf"), "video_load", f"is {policy.video_load:g}", "Give 1 or more")
    for label in policy.exclusive:
        check(label in policy.labels, "exclusive", f"names {label}, which no host has", "Add it to livekit_placement.labels")
    known = {*policy.labels, ""}
    for n, rule in enumerate(policy.rules):
        check(rule.strategy in (*STRATEGIES, ""), f"rules[{n}].strategy", f"is {rule.strategy}", "Use spread or pack")
        check(0 <= rule.share <= 100, f"rules[{n}].share", f"is {rule.share:g}", "Give percent, 0 to 100")
        check(rule.participants is None or rule.participants >= 0, f"rules[{n}].participants", "is negative", "Give 0 or more")
        check(rule.node_label in known, f"rules[{n}].node_label", f"is {rule.node_label}, which no host has", "Add it to livekit_placement.labels")
    names = [r.name for r in policy.reservations]
    for n, held in enumerate(policy.reservations):
        where = f"reservations[{n}]"
        check(names.count(held.name) == 1, f"{where}.name", f"is {held.name}, as another one's", "Give each a name of its own")
        check(held.start < held.end, f"{where}.end", "is not after its start", "Give Unix seconds, start before end")
        check(held.participants > 0 and held.rooms > 0 and held.lead >= 0, where, "has no participants or no rooms, or a negative lead", "Give more than 0")
        check(held.node_label in known, f"{where}.node_label", f"is {held.node_label}, which no host has", "Add it to livekit_placement.labels")
    return found
