# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The limits a decision keeps to, and what it remembers from one look to the next.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import json
import math
import typing as t

from .errors import FleetError, Problem, raise_for


@dataclasses.dataclass(frozen=True)
class Rules:
    """Sizes are nodes, times seconds. 0 switches a limit off, unless it says otherwise."""

    min: int = 1
    max: int = 10
    boot: float = 120.0  # from an order until the node serves
    retire: float = 1800.0  # from giving a node back until it costs nothing: the longest call, or seconds with live moves
    settle: float = 180.0  # stabilisation: a smaller size must have been enough for so long
    cool_up: float = 0.0  # cool-down between two orders
    cool_down: float = 0.0  # between an order or a return and the next return
    add_at_once: int = 0  # nodes ordered by one decision
    retire_at_once: int = 0
    add_per_window: int = 0  # nodes ordered within `window`
    window: float = 600.0
    protect: float = 300.0  # a node younger than this is not given back
    boot_patience: float = 0.0  # a node that starts for longer counts as failed; 0: three times boot, at least 5 min
    failed_at_most: int = 3  # with so many failed starts nothing more is ordered until somebody looks
    node_hour: float = 0.0  # price of a node per hour, in any currency
    cost_per_hour: float = 0.0  # cost caps; they stop orders, never calls
    cost_per_day: float = 0.0  # of a UTC day
    stale: float = 10.0  # a view older than this is not acted on
    jump: float = 300.0  # clock steps larger than this freeze for one look
    dry_run: bool = False

    def __post_init__(self) -> None:
        raise_for(list(self._problems()), "the scaling rules")

    def _problems(self) -> t.Iterator[Problem]:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) != (field.name == "dry_run") or not isinstance(value, (int, float)):
                yield Problem("scaling_type", field.name, f"{value!r} is no {'boolean' if field.name == 'dry_run' else 'number'}", "Give one")
            elif not math.isfinite(value) or value < 0:
                yield Problem("scaling_negative", field.name, f"it is {value}", "Give a number of 0 or more")
            elif field.type == "int" and value != int(value):
                yield Problem("scaling_type", field.name, f"{value} is no whole number", "Nodes are whole")
        if isinstance(self.min, (int, float)) and isinstance(self.max, (int, float)):
            if self.max < 1:
                yield Problem("scaling_max", "max", f"it is {self.max}", "Give at least 1")
            if self.min > self.max:
                yield Problem("scaling_min_max", "min", f"min {self.min} is above max {self.max}", "Lower min or raise max")
        if (self.cost_per_hour or self.cost_per_day) and not self.node_hour:
            yield Problem("scaling_cost", "node_hour", "a cost cap needs the price of a node", "Set node_hour")

    @property
    def patience(self) -> float:
        return self.boot_patience or max(300.0, 3 * self.boot)

    @classmethod
    def of(cls, values: t.Mapping[str, t.Any]) -> Rules:
        """From a mapping. Raises FleetError scaling_unknown, or what is wrong with a value."""
        names = [f.name for f in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise FleetError("read the scaling rules", ", ".join(unknown), "there is no such rule", f"Known are {', '.join(names)}", code="scaling_unknown")
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class State:
    """What decide() remembers. Begin with State(); it is JSON between two runs."""

    at: float = 0.0  # of the last view
    since: float = 0.0  # begin of the unbroken row of views that could be trusted
    wanted: tuple[tuple[float, int], ...] = ()  # (when, size) of the last `settle` seconds
    ordered: tuple[tuple[float, int], ...] = ()  # (when, nodes) of the last `window` seconds
    last_order: float = 0.0
    last_return: float = 0.0
    day: int = 0  # UTC day that `spent` belongs to
    spent: float = 0.0
    frozen: str = ""

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> State:
        """Raises FleetError scaling_state on what no version of this has written."""
        try:
            values = json.loads(text)
            if not isinstance(values, dict):
                raise ValueError("it is no mapping")
            known = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
            for name in ("wanted", "ordered"):
                known[name] = tuple((float(at), int(size)) for at, size in known.get(name, ()))
            return cls(**known)
        except (ValueError, TypeError, AttributeError) as exc:
            raise FleetError("read the scaler's state", "its entry in the registry", exc, "Delete the entry: the scaler then begins anew, and keeps all nodes "
                             "until it has settled", code="scaling_state") from exc
