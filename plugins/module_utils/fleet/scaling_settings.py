# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""livekit_scaling: how a cluster grows and shrinks, from one mapping.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import typing as t

from . import capacity, drain
from .errors import FleetError
from .policies.base import Policy
from .policies.load import load as load_policies
from .pools import KINDS
from .scaling_rules import Rules
from .scaling_view import Measure

KNOWN = ("pool", "limits", "policies", "measure", "per_node", "profiles", "cpus", "drain", "goal")
BOOT = {"slots": 5.0, "kubernetes": 30.0}  # seconds until what such a pool adds serves, where limits.boot says nothing else
DRAIN = {"policy": "move", "deadline": "30m"}


@dataclasses.dataclass(frozen=True)
class ScalingSettings:
    """pool: settings of the pool, its kind among them; goal: share of the demand that may find no place; deadline: seconds calls may stay."""

    pool: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict, repr=False)
    rules: Rules = Rules()
    policies: t.Sequence[Policy] = ()
    measure: Measure = Measure()
    drain_policy: str = "move"
    deadline: float | None = drain.DEADLINE
    goal: float = 1e-5

    @classmethod
    def of(cls, values: t.Mapping[str, t.Any]) -> ScalingSettings:
        """Raises FleetError that says what is wrong with which setting."""
        unknown = sorted(set(values) - set(KNOWN))
        if unknown:
            raise _wrong(", ".join(unknown), "there is no such setting", f"Known are {', '.join(KNOWN)}")
        for name in ("pool", "limits", "policies", "profiles", "drain"):
            if not isinstance(values.get(name) or {}, dict):
                raise _wrong(name, f"it is {values[name]!r}, not a mapping", "See docs/scaling.md")
        policy, deadline = _drain(values.get("drain") or {})
        kind = str((values.get("pool") or {}).get("kind") or "")
        rules = Rules.of({**({"boot": BOOT[kind]} if kind in BOOT else {}), **(values.get("limits") or {})})
        goal = _number(values, "goal", 1e-5)
        if not 0 < goal < 1:
            raise _wrong("goal", f"it is {goal:g}", "Give a share between 0 and 1, such as 0.00001")
        return cls(values.get("pool") or {}, rules, tuple(load_policies(values.get("policies"))), _measure(values), policy, deadline, goal)

    def check(self) -> None:
        """What can be told without a cluster and the pool's libraries. Raises FleetError pool_unknown."""
        kind = str(self.pool.get("kind") or "")
        if kind not in KINDS:
            raise FleetError("find the pool", kind or "livekit_scaling.pool without a kind", "there is no such pool", f"Known are {', '.join(sorted(KINDS))}",
                             code="pool_unknown")


def _wrong(on: str, got: t.Any, fix: str) -> FleetError:
    return FleetError("read livekit_scaling", on, got, fix, code="scaling_settings")


def _number(values: t.Mapping[str, t.Any], name: str, default: float) -> float:
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise _wrong(name, f"it is {value!r}", "Give a number of 0 or more")
    return float(value)


def _measure(values: t.Mapping[str, t.Any]) -> Measure:
    by = values.get("measure", "load")
    if by not in ("load", "rooms"):
        raise _wrong("measure", f"it is {by!r}", "Give load or rooms")
    per_node = _number(values, "per_node", 20.0)
    if not per_node:
        raise _wrong("per_node", "it is 0", "Give the rooms that fill a node")
    profiles = {str(name): capacity.Profile.of({"name": str(name), **row}, f"livekit_scaling.profiles.{name}")
                for name, row in (values.get("profiles") or {}).items()}
    return Measure(by, per_node, profiles, int(_number(values, "cpus", 0)))


def _drain(values: t.Mapping[str, t.Any]) -> tuple[str, float | None]:
    unknown = sorted(set(values) - set(DRAIN))
    if unknown:
        raise _wrong(f"drain.{unknown[0]}", "there is no such setting", f"Known are {', '.join(DRAIN)}")
    chosen = {**DRAIN, **values}
    if chosen["policy"] not in drain.POLICIES or chosen["policy"] == "end":
        raise _wrong("drain.policy", f"it is {chosen['policy']!r}", "Give move, wait or now: giving a node back never ends a call")
    return str(chosen["policy"]), drain.seconds(chosen["deadline"]) if chosen["policy"] == "move" else None
