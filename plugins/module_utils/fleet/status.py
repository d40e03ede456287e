# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator asks first: which host runs what, in which state, under which load. Pure.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from .table import age, lines

HEADINGS = ("HOST", "SLOT", "VERSION", "STATE", "ROOMS", "PARTICIPANTS", "CPU", "AGE", "NODE")
_ORDER = {"serving": 0, "gating": 1, "draining": 2, "failed": 3, "unknown": 4}


def rows(hosts: t.Mapping[str, t.Sequence[t.Mapping[str, t.Any]]], nodes: t.Sequence[t.Mapping[str, t.Any]], now: float) -> list[dict[str, t.Any]]:
    """Slots joined with the registry by node id.

    hosts: {host: rows of slot_info}; nodes: rows of node_info, best with rooms=true, as a node's own count of participants includes some
    whose signalling only passes through it; now: Unix seconds. Free slots are left out. A node of the
    registry that no slot runs becomes a row of host "?" and state "unknown": a ghost, or a node nobody manages.
    """
    known = {n["id"]: n for n in nodes}
    out = []
    for host, slots in hosts.items():
        for s in slots:
            if s["label"] == "free":
                continue
            node = known.pop(s.get("node_id") or "", {})
            out.append({
                "host": host, "slot": s["slot"], "version": s.get("version"), "state": s["label"], "rooms": s.get("rooms"),
                "participants": node.get("participants", s.get("participants")), "cpu": node.get("cpu_load"),
                "seconds": now - s["since"] if s.get("since") else None,
                "node_id": s.get("node_id"), "registered": bool(node), "generation": s.get("generation"),
            })
    for node in known.values():
        out.append({
            "host": "?", "slot": None, "version": None, "state": "unknown", "rooms": node.get("num_rooms"),
            "participants": node.get("participants", node.get("num_clients")),
            "cpu": node.get("cpu_load"), "seconds": now - node["started_at"] if node.get("started_at") else None, "node_id": node["id"],
            "registered": True, "generation": None, "ip": node.get("ip"),
        })
    return sorted(out, key=lambda r: (r["host"] == "?", r["host"], _ORDER.get(r["state"], 9), r["slot"] or 0))


def table(found: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    """rows() as lines of text with a closing line of totals."""
    body = [(r["host"], r["slot"], r["version"], r["state"], r["rooms"], r["participants"],
             f"{r['cpu'] * 100:.0f}%" if r["cpu"] is not None else None, age(r["seconds"]), r["node_id"]) for r in found]
    serving = sum(r["state"] == "serving" for r in found)
    draining = sum(r["state"] == "draining" for r in found)
    rooms = sum(r["rooms"] or 0 for r in found)
    people = sum(r["participants"] or 0 for r in found)
    return [*lines(HEADINGS, body), f"{serving} serving, {draining} draining, {rooms} rooms, {people} participants"]
