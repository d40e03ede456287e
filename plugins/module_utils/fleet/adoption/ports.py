# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports for slots beside a node that runs: no port of a slot may be one that the node, or anything else on the host, uses. Pure.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import itertools
import typing as t

from .. import slots
from ..errors import FleetError
from . import paths

Claim = t.Tuple[str, int, int, str]  # as slots.Layout.claims
UDP_WIDTH = 100
EPHEMERAL = 32768  # UDP ports from here on come and go with every program


def claims_of(config: t.Mapping[str, t.Any]) -> list[Claim]:
    """The ports that a node with this configuration uses, those included that it binds only when a call comes."""
    def number(path: str, default: int) -> int:
        return int(paths.get(config, path, default) or 0)

    out: list[Claim] = [("tcp", number("port", 7880), 0, "signalling"), ("tcp", number("rtc.tcp_port", 7881), 0, "ICE/TCP"),
                        ("tcp", number("prometheus_port", 0) or number("prometheus.port", 0), 0, "metrics"),
                        ("tcp", number("debug_handler.port", 0), 0, "debug pages")]
    out.append(("udp", *udp_range(config), "ICE/UDP"))
    if paths.get(config, "turn.enabled"):
        first, last = number("turn.relay_range_start", 0), number("turn.relay_range_end", 0)
        out += [("tcp", number("turn.tls_port", 0), 0, "TURN/TLS"), ("udp", number("turn.udp_port", 0), 0, "TURN/UDP"),
                ("udp", *((first, last) if first and last else (30000, 40000)), "TURN relay")]
    if paths.get(config, "rtc.use_stun_port_as_ice"):
        out.append(("udp", 3478, 0, "STUN"))
    return [(proto, first, last or first, f"{use} of the node that runs") for proto, first, last, use in out if first]


def udp_range(config: t.Mapping[str, t.Any]) -> tuple[int, int]:
    first, last = (int(paths.get(config, f"rtc.port_range_{end}", 0) or 0) for end in ("start", "end"))
    mux = str(paths.get(config, "rtc.udp_port", "") or "")
    if first and last:
        return first, last
    if not mux:
        return 50000, 60000
    begin, _dash, end = mux.replace(" ", "").partition("-")
    return int(begin), int(end or begin)


def listening(ports: t.Iterable[t.Sequence[t.Any]]) -> list[Claim]:
    """Claims of what listens on the host now, from [["tcp", 443], …]."""
    return [(str(proto), int(port), int(port), "something on this host") for proto, port in ports if proto == "tcp" or int(port) < EPHEMERAL]


def beside(taken: t.Sequence[Claim], vcpus: int, count: int = 3) -> slots.Layout:
    """The collection's own layout where it is free, and each family of ports moved up or down where it is not."""
    layout = slots.Layout(count=count, udp_width=max(UDP_WIDTH, vcpus))
    for family, step in (("signal", 10), ("ice_tcp", 10), ("metrics", 10), ("turn_udp", 10), ("turn_tls", 10), ("agent_check", 1), ("udp_start", 1000),
                         ("turn_relay_start", 1000)):
        layout = _free(layout, family, step, taken)
    return layout


def _free(layout: slots.Layout, family: str, step: int, taken: t.Sequence[Claim]) -> slots.Layout:
    default = getattr(layout, family)
    use = {"signal": "signalling", "ice_tcp": "ICE/TCP", "metrics": "metrics", "turn_udp": "TURN/UDP", "turn_tls": "TURN/TLS", "agent_check": "agent check",
           "udp_start": "ICE/UDP", "turn_relay_start": "TURN relay"}[family]
    for base in itertools.chain(range(default, 65000, step), range(default - step, 1024, -step)):
        candidate = dataclasses.replace(layout, **{family: base})
        mine = [claim for claim in candidate.claims(turn=True) if claim[3].endswith(use)]
        earlier = [claim for claim in candidate.claims(turn=True) if not claim[3].endswith(use)] if base != default else []
        if mine[-1][2] < 65536 and not _met(mine, taken) and not _met(mine, earlier):
            return candidate
    raise FleetError("choose ports for the slots", use, "no range is free beside what runs on this host", "Set livekit_layout yourself", code="adopt_ports")


def _met(mine: t.Iterable[Claim], others: t.Sequence[Claim]) -> bool:
    return any(a[0] == b[0] and a[1] <= b[2] and b[1] <= a[2] for a in mine for b in others)


def changed(layout: slots.Layout) -> dict[str, int]:
    """livekit_layout: what differs from the defaults."""
    default = slots.Layout()
    return {f.name: getattr(layout, f.name) for f in dataclasses.fields(layout)
            if f.name != "count" and getattr(layout, f.name) != getattr(default, f.name)}


def port(taken: t.Sequence[Claim], start: int) -> int:
    """The first free TCP port from here on."""
    return next(n for n in range(start, 65535) if not _met([("tcp", n, n, "")], taken))
