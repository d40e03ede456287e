# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generations: change by starting beside, never by restarting.

Pure: the desired generation and the slots as they run go in, the steps of one host come out. A run killed between two
steps leaves slots from which the next call plans the rest.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import typing as t

from .errors import FleetError


def digest(material: t.Any) -> str:
    """The name of a generation: 12 hex digits over everything a node reads at its start (JSON-able)."""
    text = json.dumps(material, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Slot:
    """One slot as it is now. Times are Unix seconds; None means not known or not there."""

    slot: int
    state: str = "inactive"  # systemd ActiveState: inactive, activating, active, deactivating, failed
    generation: str | None = None  # of the files in the slot
    version: str | None = None  # of the running binary, else of the files
    intact: bool = True  # the files are those the generation was started from
    exposed: tuple[str, ...] = ()  # files that everybody on the host can read
    gate: str | None = None  # the generation that passed its gates here
    served_at: float | None = None  # when the generation of the files passed its gates, here or where it was taken from
    rolled_back: bool = False  # it came here by a rollback
    enabled: bool = False
    pid: int | None = None
    since: float | None = None
    state_since: float | None = None  # when the unit entered its state: since when it drains
    node_id: str | None = None
    rooms: int | None = None
    participants: int | None = None
    http: int | None = None

    @classmethod
    def from_mapping(cls, values: t.Mapping[str, t.Any]) -> Slot:
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in known})

    @property
    def running(self) -> bool:
        return self.state in ("active", "activating")

    @property
    def free(self) -> bool:
        return self.state in ("inactive", "failed")

    @property
    def draining(self) -> bool:
        return self.state == "deactivating"

    @property
    def label(self) -> str:
        """What an operator calls it: serving, gating, draining, free, failed."""
        if self.running:
            return "serving" if self.state == "active" and self.gate and self.gate == self.generation else "gating"
        return {"deactivating": "draining", "failed": "failed"}.get(self.state, "free")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one host has to do, in this order: stop (empty, Redis-less only), start, gate, serve, drain.

    slot: where the desired generation runs or will run; start: whether it has to be started there; gate: whether it has
    to pass its gates; drain, stop: slots that leave. changed is True when anything has to be done.
    """

    slot: int
    start: bool = False
    gate: bool = False
    stop: tuple[int, ...] = ()
    drain: tuple[int, ...] = ()
    reason: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.start or self.gate or self.stop or self.drain)


def matches(slot: Slot, generation: str, version: str, count: int | None = None) -> bool:
    """Whether the node in this slot runs the desired generation, judged by the running binary and intact files.

    A slot beyond `count`, the number of slots there are to be, never does: balancers do not know it.
    """
    return (count is None or slot.slot <= count) and slot.running and slot.generation == generation and slot.version == version and slot.intact


def plan(generation: str, version: str, slots: t.Sequence[Slot], redis: bool = True, now: float | None = None,
         count: int | None = None) -> Plan:
    """The steps that bring one host to the desired generation. Raises FleetError no_free_slot, node_busy or key_file_mode."""
    exposed = [path for s in slots for path in s.exposed]
    if exposed:
        raise FleetError("use the slots of this host", ", ".join(exposed), "everybody on the host can read these secrets, and LiveKit refuses such a key file",
                         "chmod 0640 them; then rotate the keys, as they may have been read", code="key_file_mode", files=exposed)
    same = [s for s in slots if matches(s, generation, version, count)]
    if same:
        # A gated one first, so that a run killed after its start goes on with the same slot.
        keep = min(same, key=lambda s: (s.gate != generation, s.slot))
        others = _leaving(slots, keep.slot)
        gate = keep.gate != generation or not keep.enabled or keep.state != "active"
        why = "an earlier run ended before its gates" if gate else "an earlier run ended before the drain" if others else "already running"
        return Plan(keep.slot, gate=gate, drain=others, reason=why)
    old = tuple(s for s in slots if s.running)
    if not redis and any(s.running or s.draining for s in slots):
        return _plan_without_redis(old, slots)
    free = [s for s in slots if s.free and (count is None or s.slot <= count)]
    if not free:
        raise no_free_slot(slots, now)
    target = min(free, key=lambda s: s.slot)
    return Plan(target.slot, start=True, gate=True, drain=_leaving(slots, target.slot), reason=_why(old, generation, version))


def _leaving(slots: t.Sequence[Slot], keep: int) -> tuple[int, ...]:
    """Slots that run, or would run again after a reboot, besides the one to keep."""
    return tuple(s.slot for s in slots if s.slot != keep and (s.running or s.enabled))


def _why(old: t.Sequence[Slot], generation: str, version: str) -> str:
    if not old:
        return "no node runs on this host"
    now = old[0]
    if now.version != version:
        return f"version {now.version} -> {version}"
    if not now.intact:
        return f"files of slot {now.slot} were changed after its start"
    return f"generation {now.generation} -> {generation}"


def _plan_without_redis(old: tuple[Slot, ...], slots: t.Sequence[Slot]) -> Plan:
    """Without Redis two nodes are two clusters and a drain refuses nothing, so only an empty node may be replaced."""
    busy = [s for s in slots if (s.running or s.draining) and s.participants != 0]
    if busy:
        raise FleetError(
            "change the node of this host", ", ".join(f"slot {s.slot}" for s in busy),
            "it has participants and there is no Redis, so a second node beside it would be a second cluster",
            "Wait until the node is empty, or set livekit_redis so that generations can run side by side",
            code="node_busy", slots=[dataclasses.asdict(s) for s in busy],
        )
    target = min(slots, key=lambda s: (not s.free, s not in old, s.slot))
    return Plan(target.slot, start=True, gate=True, stop=tuple(s.slot for s in old), reason="replaces an empty node (no Redis)")


def no_free_slot(slots: t.Sequence[Slot], now: float | None = None) -> FleetError:
    """Every slot is taken: name each with its calls and age, so that the operator can choose which to end."""
    def tell(s: Slot) -> str:
        rooms, people = ("?" if n is None else n for n in (s.rooms, s.participants))
        age = f", up {round((now - s.since) / 60)} min" if now and s.since else ""
        return f"slot {s.slot} {s.label} ({rooms} rooms, {people} participants{age})"

    return FleetError(
        "start a new generation", "this host", "no free slot: " + "; ".join(tell(s) for s in slots),
        "Wait until a draining slot is empty, or raise livekit_slots",
        code="no_free_slot", slots=[dataclasses.asdict(s) for s in slots],
    )
