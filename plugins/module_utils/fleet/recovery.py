# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which nodes are dead. Pure but for a little memory: looks go in, verdicts with their signals come out.

A verdict needs at least two signals that do not depend on each other, one of them from outside Redis: what systemd of the host
says, what the node's own port answers to us, whether the host's executor reports, whether the node refreshes its entry. When all
nodes look dead nobody is: that is Redis, or ourselves. And when no port answers us at all, that of a node in best health included,
ports prove nothing.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from .move_plan import frozen

if t.TYPE_CHECKING:
    from .registry import Snapshot
    from .registry_messages import Node
    from .reports import Reports

SILENT_REPORT = 1.8  # seconds; executors report every second
SILENT_NODE = 3.5  # seconds; nodes refresh their entry every two, in whole seconds
HUNG = 2.5  # seconds a port must have been silent before a process that still exists is taken for hung
WITNESSES = 2
SETTLE = 4.0  # seconds after Redis is back in which nobody is judged: all have to report first
_DOWN = ("refused", "timeout", "unreachable")  # answers of a probe that say the node is not there; any HTTP answer says it is


class Verdict(t.NamedTuple):
    """One node that looks odd. signals: every sign seen, as text."""

    node_id: str
    dead: bool
    signals: list[str]
    reason: str


class Watch:
    """Remembers where nodes were and since when their ports are silent."""

    def __init__(self) -> None:
        self.homes: dict[str, tuple[str, int | None]] = {}  # node id -> host that reported it, and its process there
        self.silent: dict[str, float] = {}  # node id -> since when its port does not answer
        self.calm_from: float | None = None  # nobody is judged before (Redis' clock)
        self.blind = True  # the last look had no data: also so at the start

    def suspects(self, snapshot: Snapshot, reports: Reports) -> list[str]:
        """Nodes whose port should be asked now: any sign that something is wrong, and then two healthy ones, which show that we reach ports."""
        self._learn(reports)
        odd = [n.id for n in snapshot.nodes.values() if self._signs(n, snapshot, reports) or n.id in self.silent]
        return odd + sorted(n for n in snapshot.nodes if n not in odd)[:WITNESSES if odd else 0]

    def decide(self, snapshot: Snapshot | None, reports: Reports | None, probes: t.Mapping[str, str]) -> list[Verdict]:
        """Verdicts about odd nodes. snapshot None: Redis could not be asked. probes: {node id: "200", "406", "refused", "timeout", "unreachable"}."""
        if snapshot is None or reports is None or frozen(snapshot):
            self.blind = True
            self.silent.clear()
            return []
        now = snapshot.taken_at
        if self.blind:
            self.blind, self.calm_from = False, now + SETTLE
        self._learn(reports)
        self.homes = {n: home for n, home in self.homes.items() if n in snapshot.nodes or reports.place_of(n)}
        self.silent = {n: self.silent.get(n, now) for n, answer in probes.items() if answer in _DOWN and n in snapshot.nodes}
        reached = any(answer not in _DOWN for answer in probes.values())
        found = []
        for node in snapshot.nodes.values():
            signs = self._signs(node, snapshot, reports)
            answer = probes.get(node.id)
            if answer in _DOWN:
                signs["port"] = f"its port: {answer}"
            if signs:
                found.append(self._judge(node, signs, now, reached))
        alive = [n for n in snapshot.nodes.values() if n.id not in {v.node_id for v in found if v.dead}]
        if self.calm_from is not None and now < self.calm_from:
            return [v._replace(dead=False, reason="Redis was away a moment ago, everybody has to report first") for v in found]
        if not any(n.fresh(now) for n in alive):
            return [v._replace(dead=False, reason="every node looks dead, so it is something else") for v in found]
        return found

    def _learn(self, reports: Reports) -> None:
        for report in reports.hosts.values():
            self.homes.update({s.node_id: (report.host, s.pid) for s in report.slots if s.node_id})

    def _signs(self, node: Node, snapshot: Snapshot, reports: Reports) -> dict[str, str]:
        """{unit, report, entry: text} of what speaks against the node, its port aside."""
        signs, now = {}, snapshot.taken_at
        host, pid = self.homes.get(node.id, ("", None))
        home = reports.hosts.get(host)
        if home is not None and now - home.at > SILENT_REPORT:
            signs["report"] = f"no report of {home.host} for {now - home.at:.1f} s"
        elif home is not None and reports.place_of(node.id) is None and not any(pid and s.pid == pid for s in home.slots):
            signs["unit"] = f"{home.host} no longer runs it"
        for past in reports.hosts.values():
            if home is None and node.id in past.ended and now - past.at <= SILENT_REPORT:  # it ended before we came to know it
                signs["unit"] = f"{past.host} says that it has ended"
        if node.age(now) > SILENT_NODE:
            signs["entry"] = f"its entry is {node.age(now):.1f} s old"
        return signs

    def _judge(self, node: Node, signs: t.Mapping[str, str], now: float, reached: bool) -> Verdict:
        """reached: whether any port answers us."""
        hung = now - self.silent[node.id] if node.id in self.silent else 0.0
        dead = "unit" in signs and ("port" in signs or "entry" in signs)  # the process has ended
        dead = dead or reached and "report" in signs and "port" in signs and ("entry" in signs or hung > 1.0)  # the host is gone
        dead = dead or reached and "entry" in signs and "port" in signs and hung > HUNG  # the process hangs
        return Verdict(node.id, dead, list(signs.values()), "dead" if dead else "odd, but not enough speaks against it")
