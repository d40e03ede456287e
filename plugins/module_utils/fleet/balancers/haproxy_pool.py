# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The servers of a HAProxy whose nodes come and go: added and removed through its runtime socket, under the names that fixed ones have.

In Kubernetes machines are not known beforehand, so haproxy.cfg names no server there. What the executors report is the list: serving
nodes are added, draining ones keep their sessions and get no new ones, and what is gone is removed. A machine that does not report leaves
its servers as they are, as does a Redis that is away: nothing is taken out for lack of news (their health checks go on).

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import re
import typing as t
import zlib

from ..reports import Reports
from ..slots import Layout
from .haproxy import server_name
from .haproxy_runtime import CHECKED, Runtime

TURN, RETIRING = "livekit_turn", "livekit_retiring"
BACKENDS = (*CHECKED, RETIRING, TURN)
_FORCED_MAINT, _FORCED_DRAIN = 0x01, 0x08  # of srv_admin_state
OPTIONS = "check inter 1s fall 2 rise 1 weight 100"


class Wanted(t.NamedTuple):
    """A server as it is to be. state: ready, drain, or keep, where nothing is known of its machine now; weight: percent, 0 where nothing is known."""

    address: str
    signal: int
    turn: int
    state: str
    weight: int = 0


class Seen(t.NamedTuple):
    """A server of a backend as HAProxy has it. state: ready, drain or maint; weight: of 100, as they are added with that."""

    address: str
    port: int
    state: str
    weight: int = 100


def weight_of(busy: float) -> int:
    """Percent from the busy share of a machine's CPU (0..1), in steps of ten so that it is calm: as the agent check of hosts does."""
    return max(10, min(100, round((1.0 - busy) * 10) * 10))


def wanted(reports: Reports, layout: Layout, now: float, busy: t.Mapping[str, float] | None = None) -> dict[str, Wanted]:
    """{server: what is to be} of every node that serves or drains. A node that has not passed its gate is none of them. busy: {node id: share of its CPU}."""
    found = {}
    for host, report in reports.hosts.items():
        for slot in report.slots:
            state = {"serving": "ready", "draining": "drain"}.get(slot.label)
            if state:
                kept = state if report.fresh(now) else "keep"
                found[server_name(host, slot.slot)] = Wanted(
                    report.address, report.ports[slot.slot], layout.ports(slot.slot).turn_tls, kept,
                    weight_of(busy[slot.node_id]) if busy and slot.node_id in busy else 0)
    return found


def parse_servers(text: str) -> dict[str, dict[str, Seen]]:
    """{backend: {server: ...}} of `show servers state`."""
    found: dict[str, dict[str, Seen]] = {}
    for row in (line.split() for line in text.splitlines() if re.match(r"\d+ \S+ \d+ ", line)):
        admin = int(row[6])
        state = "maint" if admin & _FORCED_MAINT else "drain" if admin & _FORCED_DRAIN else "ready"
        found.setdefault(row[1], {})[row[3]] = Seen(row[4], int(row[18]), state, int(row[7]))
    return found


def commands(wanted_: t.Mapping[str, Wanted], seen: t.Mapping[str, t.Mapping[str, Seen]], backends: t.Iterable[str]) -> list[str]:
    """What HAProxy is to be told, in order; nothing where all is as it should be. A server with sessions cannot be removed yet: it is tried again."""
    out: list[str] = []
    for backend in (b for b in BACKENDS if b in set(backends)):
        have = seen.get(backend, {})
        for name, server in sorted(wanted_.items()):
            out += _one(backend, name, server, have.get(name))
        for name in sorted(set(have) - set(wanted_)):
            out += _gone(f"{backend}/{name}", have[name])
    return out


def _one(backend: str, name: str, server: Wanted, now: Seen | None) -> list[str]:
    port = server.turn if backend == TURN else server.signal
    full = f"{backend}/{name}"
    # A token of a retiring key is offered to draining nodes too.
    state = "ready" if backend == RETIRING and server.state == "drain" else server.state
    if now and (now.address, now.port) != (server.address, port):
        return _gone(full, now)  # another machine has the name now; added by the next look
    if now is None:
        if state != "ready":
            return []
        # The number decides over the consistent hash, so it has to be the same in every HAProxy.
        number = 1 + zlib.crc32(name.encode()) % (2**31 - 2)
        return [f"add server {full} {server.address}:{port} {OPTIONS} id {number}", f"enable health {full}", f"set server {full} state ready"]
    out = [f"set server {full} state {state}"] if state in ("ready", "drain") and now.state != state else []
    return out + ([f"set server {full} weight {server.weight}%"] if server.weight and state == "ready" and now.weight != server.weight else [])


def _gone(full: str, now: Seen) -> list[str]:
    return ([] if now.state == "maint" else [f"set server {full} state maint", f"disable health {full}"]) + [f"del server {full}"]


class Pool:
    """Keeps one HAProxy's servers in step. Commands are sent only when something differs."""

    def __init__(self, runtime: Runtime, layout: Layout) -> None:
        self.runtime, self.layout = runtime, layout

    def sync(self, read: t.Callable[[], tuple[Reports, float, t.Mapping[str, float]]]) -> list[str]:
        """What was sent. read: the reports, the time of Redis, and {node id: busy share of its CPU}. Raises FleetError balancer_socket."""
        names = [line.strip() for line in self.runtime.ask("show backend").splitlines()]
        seen = parse_servers(self.runtime.ask("show servers state"))
        # Reports are read last: a server that somebody else told to drain just now is reported as draining by then, and is not taken back.
        reports, now, busy = read()
        sent = commands(wanted(reports, self.layout, now, busy), seen, names)
        for command in sent:  # one by one: what follows a refused one on a line would not be carried out
            self.runtime.ask(command)
        return sent
