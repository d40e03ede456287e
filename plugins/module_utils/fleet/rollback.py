# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which generation a host goes back to, and whether it has to.

Pure. A change that was stopped half-way reached only some hosts; going back on the others too would take them one change too
far. So what the newest change did to one host is compared with what every other host runs now.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import json
import typing as t

from .errors import FleetError
from .generation import Slot, digest

Digests = t.Mapping[str, str]  # {variable: digest of its value}
Rows = t.Sequence[t.Mapping[str, t.Any]]  # the slots of a host, as module slot_info tells them with model=digests


def digests(model: t.Mapping[str, t.Any]) -> dict[str, str]:
    """What models are compared by across hosts, without their secrets."""
    return {name: digest(value) for name, value in sorted(model.items())}


def record(model: t.Mapping[str, t.Any], served_at: float | None = None, rolled_back: bool = False) -> str:
    """The file model.json of a generation, from which it can be made again for another slot."""
    return json.dumps({"model": model, "served_at": served_at, "rolled_back": rolled_back}, sort_keys=True, indent=1) + "\n"


def latest(slots: t.Iterable[Slot]) -> Slot | None:
    """The slot of the generation in service, or else of the one that was last; None where none ever passed its gates."""
    return max((s for s in slots if s.served_at), key=lambda s: (s.running, s.served_at), default=None)


def previous(slots: t.Sequence[Slot]) -> Slot | None:
    """The slot of the generation that was in service before latest(); None where the host does not have it any more."""
    now = latest(slots)
    others = (s for s in slots if now and s.served_at and s.generation != now.generation)
    return max(others, key=lambda s: t.cast(float, s.served_at), default=None)


def reason(source: str, now: Slot, taken: Slot) -> str:
    """Why a host runs `taken` again, or goes on with what it runs; source: option of module generation."""
    if taken is not now:
        gone = f", but its node in slot {taken.slot} drains and cannot be called back, so a fresh one starts" if taken.draining else ""
        return f"back from generation {now.generation} ({now.version}) to {taken.generation} ({taken.version}){gone}"
    if source == "previous":
        return "rolled back already" if now.rolled_back else "the newest change did not reach this host"
    if now.running:
        return f"slot {now.slot} serves"
    how = "drains and cannot be called back" if now.draining else "has ended"
    return f"the node in slot {now.slot} {how}: a fresh one of the same generation starts"


class _Host(t.NamedTuple):
    now: Slot
    before: Slot | None
    models: t.Mapping[int, Digests]

    @property
    def change(self) -> dict[str, tuple[str | None, str | None]]:
        """{variable: (before, now)} of what the last change of this host changed."""
        old, new = self.models.get(self.before.slot, {}) if self.before else {}, self.models.get(self.now.slot, {})
        return {name: (old.get(name), new.get(name)) for name in {*old, *new} if old.get(name) != new.get(name)}


def _hosts(fleet: t.Mapping[str, Rows]) -> dict[str, _Host]:
    found = {}
    for name, rows in fleet.items():
        slots = [Slot.from_mapping(row) for row in rows]
        now = latest(slots)
        if now:
            found[name] = _Host(now, previous(slots), {row["slot"]: row.get("model") or {} for row in rows})
    return found


def reached(host: str, fleet: t.Mapping[str, Rows]) -> bool:
    """Whether the newest change of the fleet reached this host, so that it has to go back. False after a rollback too, and True
    where no host has anything to go back to.

    Raises FleetError rollback_unclear where that cannot be told of some host, whichever one is asked for.
    """
    hosts = _hosts(fleet)
    changed = [h for h in hosts.values() if h.before and h.change and not h.now.rolled_back]
    if not changed:
        return host in hosts and not any(h.before or h.now.rolled_back for h in hosts.values())
    newest = max(changed, key=lambda h: t.cast(float, h.now.served_at))
    verdicts = {name: _reached(h, newest) for name, h in hosts.items()}
    unclear = sorted(name for name, verdict in verdicts.items() if verdict is None)
    if unclear:
        raise FleetError(
            "find out which hosts the newest change reached", ", ".join(unclear),
            f"they run neither what that change brought nor what was there before ({', '.join(sorted(newest.change))})",
            "Name the hosts that are to go back, each to its own previous generation: --limit HOST,HOST", code="rollback_unclear",
            hosts=unclear, variables=sorted(newest.change),
        )
    return bool(verdicts.get(host))


def _reached(mine: _Host, newest: _Host) -> bool | None:
    """Whether a host runs what the newest change brought; None where it runs neither that nor what was there before."""
    if mine.now.rolled_back:
        return False
    runs = {name: mine.models.get(mine.now.slot, {}).get(name) for name in newest.change}
    if runs == {name: new for name, (dummy, new) in newest.change.items()}:
        return True
    return False if runs == {name: old for name, (old, dummy) in newest.change.items()} else None
