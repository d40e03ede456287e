# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The desk where rooms get their node: a placer with its eyes on the registry. Used by the controller for hours and by a module for a moment.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import time
import typing as t

from .. import eta
from ..errors import FleetError
from ..move_plan import frozen
from ..redis_connection import as_text
from . import claims
from .placer import CLAIM_SECONDS, Choice, Placer
from .policy import Policy, Wish
from .targets import Loads, targets

if t.TYPE_CHECKING:
    from ..registry import Registry, Snapshot
    from ..reports import Reports

SWEEP = 30.0  # seconds between two times that old claims are removed and habits are kept


class Settled(t.NamedTuple):
    """kind: found (the room has its node), claimed (somebody is just placing it there), new (it is ours to create). choice: of a new one."""

    kind: str
    node_id: str
    choice: Choice | None = None


class Desk:
    """Not for use by several threads at once. by: who places, for claims."""

    def __init__(self, registry: Registry, policy: Policy, by: str, loads: Loads | None = None) -> None:
        self.registry, self.by = registry, by
        self.loads = loads or Loads(policy.video_load, policy.capacity_per_cpu)
        self.placer = Placer(policy, load=self.loads.room)
        self._snapshot: Snapshot | None = None
        self._looked = self._swept = 0.0  # of our clock that never steps
        self._learnt: set[str] = set()

    # -- seeing

    def look(self, snapshot: Snapshot, reports: Reports, leaving: t.Collection[str] = (), keep: bool = False) -> None:
        """Take in one moment of the cluster. keep: write down what was learnt, and clear old claims away; one of several controllers does that.

        Raises FleetError frozen where the snapshot cannot be trusted.
        """
        why = frozen(snapshot)
        if why:
            raise FleetError("place rooms", "the registry", why, "Nothing is decided on data that cannot be trusted; mend that, then try again", code="frozen")
        if self._snapshot is None:
            self._begin(snapshot)
        held = claims.claims(self.registry)
        self._snapshot, self._looked = snapshot, time.monotonic()
        for room, c in held.items():
            if not self.placer.knows(room) and (room in snapshot.room_node_map or snapshot.taken_at - c.at < CLAIM_SECONDS):
                self.placer.note(c.wish(room), c.node_id, c.at)
        homes = snapshot.room_node_map
        sizes = self.registry.sizes(homes)
        found = targets(snapshot, reports, self.placer.policy, sizes, self.loads, leaving)
        self._learnt |= set(self.placer.observe(found, homes, sizes, snapshot.taken_at))
        if keep and time.monotonic() - self._swept >= SWEEP:
            self._sweep(held)

    def _begin(self, snapshot: Snapshot) -> None:
        """What is known before the first look: habits, how long rooms last, and how old those are that live."""
        (kinds,) = self.registry.ask("read what is known of rooms", ("HGETALL", claims.HABITS))
        self.placer.habits.load({as_text(key): as_text(raw) for key, raw in kinds.items()})
        for seconds in reversed(eta.durations(self.registry)):
            self.placer.lifetimes.learn(seconds)
        rooms = self.registry.room_details()
        self.placer.start({name: float(room.created_at) for name, room in rooms.items() if room.created_at},
                          {name: room.num_participants for name, room in rooms.items()}, snapshot.room_node_map, snapshot.taken_at)

    def _sweep(self, held: t.Mapping[str, claims.Claim]) -> None:
        self._swept = time.monotonic()
        claims.forget(self.registry, claims.outdated(held, self._home, self.now))
        texts = self.placer.habits.dump(self._learnt)
        self._learnt = set()
        if texts:
            self.registry.ask("keep what was learnt of rooms", ("HSET", claims.HABITS, *(word for pair in texts.items() for word in pair)))

    @property
    def age(self) -> float:
        """Seconds since the last look."""
        return time.monotonic() - self._looked if self._snapshot else float("inf")

    @property
    def now(self) -> float:
        """Redis' clock, Unix seconds."""
        return (self._snapshot.taken_at if self._snapshot else 0.0) + time.monotonic() - self._looked

    @property
    def _home(self) -> t.Mapping[str, str]:
        return self._snapshot.room_node_map if self._snapshot else {}

    # -- settling

    def settle(self, wish: Wish, refused: t.Collection[str] = (), recovers: bool = True) -> Settled:
        """The room's node; from now on nobody places it elsewhere. refused: nodes that did not take it. recovers: a controller brings the rooms of
        dead nodes back, so those are not ours.

        Raises FleetError no_receiver, node_dead.
        """
        home = self._home.get(wish.room, "")
        dead = home if home and self._snapshot and not self._snapshot.fresh(home) else ""
        if dead and recovers:
            raise FleetError("place a room", wish.room, f"its node {dead} died a moment ago, and its rooms are just being brought back",
                             "Try again in two seconds", code="node_dead", room=wish.room)
        choice = self.placer.choose(wish, self.now, refused)
        kind, node_id = claims.claim(self.registry, wish, choice.node_id, self.now, self.by, [n for n in self.placer.targets if n not in refused], dead)
        if kind != "found":
            self.placer.note(wish, node_id, self.now)
        return Settled(kind, node_id, choice if kind == "new" else None)

    def preview(self, wish: Wish) -> Settled:
        """What settle() would say. The next preview takes it as done; nothing is written."""
        home = self._home.get(wish.room)
        if home and self._snapshot and self._snapshot.fresh(home):
            return Settled("found", home)
        choice = self.placer.choose(wish, self.now)
        self.placer.note(wish, choice.node_id, self.now)
        return Settled("new", choice.node_id, choice)

    def release(self, wish: Wish, node_id: str) -> None:
        """The node did not take it."""
        claims.release(self.registry, wish.room, node_id, self.by)
        self.placer.forget(wish.room)

    def home(self, room: str) -> str:
        """Where the registry has the room now, "" for nowhere."""
        (found,) = self.registry.ask("read the node of a room", ("HGET", "room_node_map", room))
        return as_text(found or b"")
