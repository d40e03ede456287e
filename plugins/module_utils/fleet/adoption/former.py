# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The former node: whether it is told to end now. It has no init that swallows a second signal, and a second one ends every call on it.

Pure. The registry is the truth, as a node says there at once that it was told. The mark is written before the signal goes out, for the
moment between the two, and for a registry that cannot be read later.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import typing as t

from ..errors import FleetError
from ..registry import Snapshot
from ..registry_messages import Node

SAME_START = 15.0  # seconds between the start of a container and that of the node in it
SETTLE = 10.0  # seconds after which a signal that went out shows in the registry


@dataclasses.dataclass(frozen=True)
class Former:
    """The container of before. started_at, marked_at: Unix seconds; marked_at: when a run was about to send the signal, None: none was."""

    container: str
    running: bool
    started_at: float
    restarts: bool  # whether Docker would start it anew
    marked_at: float | None = None


@dataclasses.dataclass(frozen=True)
class Steps:
    """tell: send the one SIGTERM; keep_away: take its restart policy. node: its entry in the registry."""

    tell: bool
    keep_away: bool
    node: Node | None
    reason: str

    @property
    def changed(self) -> bool:
        return self.tell or self.keep_away


def node_of(former: Former, snapshot: Snapshot, addresses: t.Collection[str]) -> Node | None:
    """Its entry in the registry, by its start and, where several nodes started then, by the address. None where that is not sure."""
    found = [n for n in snapshot.nodes.values() if abs(n.started_at - former.started_at) <= SAME_START]
    if len(found) > 1:
        found = [n for n in found if n.ip in addresses]
    return found[0] if len(found) == 1 else None


def steps(former: Former, snapshot: Snapshot, addresses: t.Collection[str], foreseen: bool = False) -> Steps:
    """What is left to do. foreseen: check mode, in which the node that is to take over need not be there yet. FleetError adopt_registry, no_other_node."""
    if not former.running:
        return Steps(False, former.restarts, None, "it has ended")
    node = node_of(former, snapshot, addresses)
    if node and node.draining:
        return Steps(False, former.restarts, node, "it drains")
    if former.marked_at is not None and not (node and snapshot.fresh(node.id) and snapshot.taken_at - former.marked_at > SETTLE):
        return Steps(False, former.restarts, node, "a run before this one has told it to end")
    if node is None or not snapshot.fresh(node.id):
        raise FleetError("find the former node in the registry", former.container, f"none of the {len(snapshot.nodes)} nodes there started when it did",
                         "livekit_redis must be the Redis that this node uses; it was not told to end", code="adopt_registry")
    if not foreseen and not [n for n in snapshot.serving() if n.id != node.id]:
        raise FleetError("end the former node", former.container, "no other node serves", "Run openrtc.livekit.deploy and openrtc.livekit.verify first",
                         code="no_other_node")
    return Steps(True, former.restarts, node, "it serves")
