# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots: the numbered places of a host where one node can run, and the ports that follow from the number.

Pure: numbers in, numbers out. Firewall, balancer, configuration and probes all take a slot's ports from here.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import typing as t


@dataclasses.dataclass(frozen=True)
class Ports:
    """The ports of one slot. Ranges are (first, last), both included."""

    slot: int
    signal: int  # HTTP API and signalling WebSocket, TCP, behind the balancer
    ice_tcp: int  # ICE/TCP, never behind a balancer
    metrics: int  # Prometheus, TCP
    udp: tuple[int, int]  # ICE/UDP mux range
    turn_udp: int  # embedded TURN and STUN, UDP
    turn_tls: int  # embedded TURN/TLS, TCP, behind the balancer's 443
    turn_relay: tuple[int, int]  # TURN relay range, UDP

    def as_dict(self) -> dict[str, t.Any]:
        return {**dataclasses.asdict(self), "udp": list(self.udp), "turn_relay": list(self.turn_relay)}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the ports of a slot follow from its number: base + step * (slot - 1)."""

    count: int = 3
    step: int = 10
    signal: int = 7880
    ice_tcp: int = 7881
    metrics: int = 6789
    udp_start: int = 50000
    udp_width: int = 100
    turn_udp: int = 3478
    turn_tls: int = 5349
    turn_relay_start: int = 30000
    turn_relay_width: int = 1000
    agent_check: int = 7870  # one per host, not per slot

    @classmethod
    def from_mapping(cls, values: t.Mapping[str, t.Any] | None) -> Layout:
        """A layout from {name: number}; unknown names raise TypeError as a dataclass does."""
        return cls(**{k: int(v) for k, v in (values or {}).items()})

    @property
    def numbers(self) -> range:
        return range(1, self.count + 1)

    def ports(self, slot: int) -> Ports:
        if slot < 1:
            raise ValueError(f"slots count from 1, not {slot}")
        n = slot - 1
        udp = self.udp_start + n * self.udp_width
        relay = self.turn_relay_start + n * self.turn_relay_width
        return Ports(
            slot=slot,
            signal=self.signal + n * self.step,
            ice_tcp=self.ice_tcp + n * self.step,
            metrics=self.metrics + n * self.step,
            udp=(udp, udp + self.udp_width - 1),
            turn_udp=self.turn_udp + n * self.step,
            turn_tls=self.turn_tls + n * self.step,
            turn_relay=(relay, relay + self.turn_relay_width - 1),
        )

    def claims(self, turn: bool = False) -> list[tuple[str, int, int, str]]:
        """Every port range a host with this layout uses: (protocol, first, last, what it is for)."""
        out = [("tcp", self.agent_check, self.agent_check, "agent check")]
        for slot in self.numbers:
            p = self.ports(slot)
            out += [
                ("tcp", p.signal, p.signal, f"slot {slot} signalling"),
                ("tcp", p.ice_tcp, p.ice_tcp, f"slot {slot} ICE/TCP"),
                ("tcp", p.metrics, p.metrics, f"slot {slot} metrics"),
                ("udp", *p.udp, f"slot {slot} ICE/UDP"),
            ]
            if turn:
                out += [
                    ("udp", p.turn_udp, p.turn_udp, f"slot {slot} TURN/UDP"),
                    ("tcp", p.turn_tls, p.turn_tls, f"slot {slot} TURN/TLS"),
                    ("udp", *p.turn_relay, f"slot {slot} TURN relay"),
                ]
        return out


def overlaps(claims: t.Iterable[tuple[str, int, int, str]]) -> list[tuple[str, str, str, int]]:
    """Pairs of claims that share a port: [(protocol, one use, other use, first shared port)]."""
    found = []
    widest: dict[str, tuple[int, str]] = {}  # protocol -> (last port, use) of the claim that reaches farthest so far
    for proto, first, last, use in sorted(claims):
        reach = widest.get(proto)
        if reach and first <= reach[0]:
            found.append((proto, reach[1], use, first))
        if not reach or last > reach[0]:
            widest[proto] = (last, use)
    return found
