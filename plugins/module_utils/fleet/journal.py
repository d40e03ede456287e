# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal: what was decided and done, by whom, one JSON mapping each, in the registry where everybody sees it.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import json
import time
import typing as t

from .errors import FleetError
from .redis_connection import as_text

if t.TYPE_CHECKING:
    from .registry import Registry

KEY = "openrtc:log"  # a list, newest first
KEEP = 1000


class Journal:
    """Notes decisions: into the registry, to `echo` (the controller's standard output), and in memory as the timeline of one run."""

    def __init__(self, registry: Registry, by: str, echo: t.Callable[[dict[str, t.Any]], None] | None = None) -> None:
        self.registry, self.by, self.echo = registry, by, echo
        self.entries: list[dict[str, t.Any]] = []

    def note(self, kind: str, reason: str = "", **fields: t.Any) -> dict[str, t.Any]:
        """One decision: its kind, why, and what else belongs to it (node, room, rooms, inputs, outcome; JSON-able). Times are Redis' clock."""
        entry = {"at": round(time.time(), 3), "by": self.by, "kind": kind, "reason": reason, **fields}
        self.entries.append(entry)
        try:
            entry["at"] = round(self.registry.now(), 3)
            self.registry.ask("note a decision", ("LPUSH", KEY, json.dumps(entry, separators=(",", ":"))), ("LTRIM", KEY, 0, KEEP - 1))
        except FleetError:
            pass  # the journal must not stop what it tells of; the timeline still has it
        if self.echo:
            self.echo(entry)
        return entry


def recent(registry: Registry, count: int = 100) -> list[dict[str, t.Any]]:
    """The newest entries, newest first."""
    (found,) = registry.ask("read the journal", ("LRANGE", KEY, 0, count - 1))
    return [json.loads(as_text(raw)) for raw in found]
