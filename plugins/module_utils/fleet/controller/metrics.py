# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's figures for Prometheus.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from ..errors import require

try:
    import prometheus_client as prometheus
except ImportError:
    prometheus = None

if t.TYPE_CHECKING:
    from .lease import Lease
    from .loop import Loop

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)


class Metrics:
    def __init__(self) -> None:
        p = require(prometheus, "prometheus_client", "python3-prometheus-client")
        self.registry = r = p.CollectorRegistry()
        self._leader = p.Gauge("openrtc_controller_leader", "1 where this controller acts", registry=r)
        self._lease = p.Gauge("openrtc_controller_lease_age_seconds", "Since the lease was last renewed, 0 where it is another's", registry=r)
        self._tick = p.Gauge("openrtc_controller_tick_age_seconds", "Since the loop last looked", registry=r)
        self._frozen = p.Gauge("openrtc_controller_frozen", "1 while the data cannot be trusted and nothing is decided", registry=r)
        self._nodes = p.Gauge("openrtc_nodes", "Nodes by state, as their hosts report them; stale: in the registry only", ["state"], registry=r)
        self._rooms = p.Gauge("openrtc_rooms", "Rooms of the cluster", registry=r)
        self._people = p.Gauge("openrtc_participants", "Participants of the cluster", registry=r)
        self._draining = p.Gauge("openrtc_drains", "Drains that were asked for and go on", registry=r)
        self._moves = p.Gauge("openrtc_moves", "Moves in progress or being watched", registry=r)
        self._decisions = p.Counter("openrtc_controller_decisions", "Decisions by kind and outcome", ["kind", "outcome"], registry=r)
        self._actions = p.Histogram("openrtc_controller_action_seconds", "How long actions took", ["kind"], buckets=_SECONDS, registry=r)
        self._events = p.Counter("openrtc_controller_webhook_events", "Webhooks by event and outcome", ["event", "outcome"], registry=r)

        self._placed = p.Counter("openrtc_controller_placements", "Requests to place a room by outcome", ["outcome"], registry=r)

    def decision(self, entry: t.Mapping[str, t.Any]) -> None:
        self._decisions.labels(str(entry.get("kind")), str(entry.get("outcome") or "done")).inc()

    def timed(self, kind: str, seconds: float) -> None:
        self._actions.labels(kind).observe(seconds)

    def event(self, event: str, outcome: str) -> None:
        self._events.labels(event, outcome).inc()

    def placed(self, outcome: str) -> None:
        self._placed.labels(outcome).inc()

    def render(self, loop: Loop, lease: Lease, tick_age: float) -> bytes:
        look = loop.look
        self._leader.set(lease.held)
        self._lease.set(lease.age)
        self._tick.set(tick_age)
        self._frozen.set(bool(look.frozen))
        if look.snapshot is not None and look.reports is not None:
            now, slots = look.snapshot.taken_at, [s for h in look.reports.hosts.values() for s in h.slots]
            for state in ("serving", "gating", "draining", "failed"):
                self._nodes.labels(state).set(sum(s.label == state for s in slots))
            self._nodes.labels("stale").set(sum(not n.fresh(now) for n in look.snapshot.nodes.values()))
            self._rooms.set(len(look.snapshot.room_node_map))
            self._people.set(sum(n.num_clients for n in look.snapshot.nodes.values() if n.fresh(now)))
            self._draining.set(len(look.requests))
            self._moves.set(len(look.records))
        return t.cast(bytes, prometheus.generate_latest(self.registry))
