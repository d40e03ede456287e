# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Caddy with its layer 4 app, as the official deployment puts it before LiveKit: which names lead where, and leading them elsewhere.

Caddy stays: it has the names' certificates and renews them. Only the addresses that it hands connections to are changed.
Pure.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import copy
import dataclasses
import re
import typing as t

from ..errors import FleetError

_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[\w./-]*):(\d+)")


@dataclasses.dataclass(frozen=True)
class Route:
    """What one server name leads to."""

    names: tuple[str, ...]
    port: int  # of the upstream
    dial: str


def routes(config: t.Mapping[str, t.Any]) -> list[Route]:
    """Every proxy of the layer 4 app with the server names that lead to it."""
    found = []
    for server in _mapping(_mapping(_mapping(config, "apps"), "layer4"), "servers").values():
        for route in server.get("routes") or [] if isinstance(server, dict) else []:
            names = [name for match in route.get("match") or [] for name in (match.get("tls") or {}).get("sni") or []]
            for dial in _dials(route):
                port = dial.rpartition(":")[2]
                if port.isdigit():
                    found.append(Route(tuple(map(str, names)), int(port), dial))
    return found


def _mapping(value: t.Any, name: str) -> dict[str, t.Any]:
    inner = value.get(name) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def _dials(route: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    for handler in route.get("handle") or []:
        for upstream in handler.get("upstreams") or [] if handler.get("handler") == "proxy" else []:
            yield from map(str, upstream.get("dial") or [])


def name_of(found: t.Iterable[Route], port: int) -> str:
    """The first server name that leads to this port, "" for none."""
    return next((route.names[0] for route in found if route.port == port and route.names), "")


def repoint(config: t.Mapping[str, t.Any], to: t.Mapping[int, str]) -> dict[str, t.Any]:
    """The configuration with every proxy to one of these local ports leading to `to` instead, {port: "host:port"}."""
    out: dict[str, t.Any] = copy.deepcopy(dict(config))
    for server in _mapping(_mapping(_mapping(out, "apps"), "layer4"), "servers").values():
        for route in server.get("routes") or []:
            for handler in route.get("handle") or []:
                for upstream in handler.get("upstreams") or [] if handler.get("handler") == "proxy" else []:
                    upstream["dial"] = [_moved(str(dial), to) for dial in upstream.get("dial") or []]
    return out


def _moved(dial: str, to: t.Mapping[int, str]) -> str:
    port = dial.rpartition(":")[2]
    return to.get(int(port), dial) if port.isdigit() else dial


def repoint_text(text: str, to: t.Mapping[int, str]) -> str:
    """The same in Caddy's YAML file, with its comments and its form: what stands at, and as a list below, each `dial`."""
    out, inside = [], False
    for line in text.splitlines(keepends=True):
        inside = bool(re.search(r"\bdial\b[\"']?\s*:", line)) or (inside and bool(re.match(r"\s*-\s*[\"']?[^\s]*:\d+[\"']?\s*$", line)))
        out.append(_ADDRESS.sub(lambda m: to.get(int(m[1]), m[0]), line) if inside else line)
    return "".join(out)


def check(before: t.Mapping[str, t.Any], to: t.Mapping[int, str]) -> None:
    """FleetError where no proxy leads to one of the ports, neither the former nor the new ones."""
    now = {route.port for route in routes(before)}
    wanted = {int(address.rpartition(":")[2]) for address in to.values()}
    lost = [str(port) for port, address in to.items() if port not in now and int(address.rpartition(":")[2]) not in now]
    if lost:
        raise FleetError("lead callers to the balancer", "Caddy", f"none of its layer 4 proxies leads to port {', '.join(lost)} (there are "
                         f"{', '.join(map(str, sorted(now - wanted))) or 'none'})",
                         "Lead your callers to HAProxy yourself and set livekit_adopt_edge to manual (docs/adopt.md)", code="adopt_edge")
