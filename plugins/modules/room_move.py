#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: room_move
short_description: Move live rooms of a LiveKit cluster to other nodes
version_added: 0.1.0
description:
  - Moves rooms while people are in them, and leaves the node that they come from in service. Every client does one full reconnect, with native
    SDKs well under a second of silence; name, identifier and metadata of the room stay.
  - Only rooms with somebody in them move. One room or several by O(rooms), all of a node by O(node_id) or O(host), or as few as it takes to even
    out the load by O(rebalance).
  - To empty a node for good use M(openrtc.livekit.drain).
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._registry.required
  - openrtc.livekit._engine
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  rooms:
    description: Rooms to move.
    type: list
    elements: str
  node_id:
    description: Move all rooms of this node.
    type: str
  host:
    description: Move all rooms of the nodes of this host, by its name in the inventory.
    type: str
  rebalance:
    description: Choose rooms and nodes by O(goal).
    type: bool
    default: false
  goal:
    description:
      - What O(rebalance) is for. V(even) moves rooms from full nodes to empty ones until participants per CPU are as even as rooms allow.
      - V(relieve) moves as few callers as possible away from nodes that are expected to get over 95 % of their capacity.
      - V(vacate) moves rooms so that whole nodes become empty and can be given back, and no other node gets over C(fill) of O(policy). A node is
        emptied whole or not at all; rooms with recordings, phone lines or agents in them stay.
    type: str
    choices: [even, relieve, vacate]
    default: even
  policy:
    description: How rooms are placed, as C(livekit_placement). V(relieve) and V(vacate) go by it.
    type: dict
    default: {}
  to:
    description: The node, or the host, that takes the rooms. Default is the emptiest that has headroom.
    type: str
  at_most:
    description: Rooms that O(rebalance) may move; V(0) for as many as it takes.
    type: int
    default: 0
  participants_at_most:
    description: Participants that V(relieve) and V(vacate) may move, each of whom hears nothing for a moment; V(0) for as many as it takes.
    type: int
    default: 0
notes:
  - The copy of a room on a node that lives on closes about 20 seconds after its last participant has left, and then erases the room from the
    registry. The module stays until that cannot happen any more, so a move takes 45 seconds though callers notice less than one.
seealso:
  - module: openrtc.livekit.drain
"""

EXAMPLES = r"""
- name: Move one room, wherever there is most space
  openrtc.livekit.room_move:
    redis: "{{ livekit_redis }}"
    rooms: [standup]

- name: Even out the load
  openrtc.livekit.room_move:
    redis: "{{ livekit_redis }}"
    rebalance: true
"""

RETURN = r"""
moved:
  description: The node of each room that was moved, or in check mode would be.
  returned: always
  type: dict
  sample: {standup: ND_kJp3zK7nUmRb}
timeline:
  description: Every step with its time, reason and rooms.
  returned: always
  type: list
  elements: dict
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils._engine_module import engine_spec, mover_of, registry_of
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import drain, placement
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.move import Mover
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement.desk import Desk
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement.policy import Policy
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry import Snapshot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import Reports


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **engine_spec(),
            "rooms": {"type": "list", "elements": "str"},
            "node_id": {"type": "str"},
            "host": {"type": "str"},
            "rebalance": {"type": "bool", "default": False},
            "to": {"type": "str"},
            "at_most": {"type": "int", "default": 0},
            "participants_at_most": {"type": "int", "default": 0},
            "goal": {"type": "str", "choices": ["even", "relieve", "vacate"], "default": "even"},
            "policy": {"type": "dict", "default": {}},
        },
        mutually_exclusive=[("rooms", "node_id", "host")],
        supports_check_mode=True,
    )
    p = module.params
    if not (p["rooms"] or p["node_id"] or p["host"] or p["rebalance"]):
        module.fail_json(msg="Say what to move: rooms, node_id, host or rebalance")
    if p["rebalance"] and (p["rooms"] or p["node_id"] or p["host"] or p["to"]):
        module.fail_json(msg="rebalance chooses rooms and nodes by itself; give no rooms, node_id, host or to with it")
    if p["at_most"] < 0 or p["participants_at_most"] < 0:
        module.fail_json(msg="at_most and participants_at_most must not be negative")
    mover = None
    try:
        with registry_of(p) as registry:
            mover = mover_of(registry, p)
            snapshot, reports = registry.snapshot(), Reports.read(registry)
            wanted = mover.targets(choose(p, mover, snapshot, reports), snapshot, reports)
            if wanted and not module.check_mode:
                with mover.lock:
                    wanted = mover.move_rooms(t.cast("dict[str, str | None]", wanted), reason="rebalance" if p["rebalance"] else "asked for").moved
            module.exit_json(changed=bool(wanted), moved=wanted, timeline=mover.journal.entries)
    except FleetError as exc:
        done = mover.journal.entries if mover else []
        module.fail_json(changed=any(e["kind"] == "cut" for e in done), timeline=done, **exc.as_result())


def choose(p: dict[str, t.Any], mover: Mover, snapshot: Snapshot, reports: Reports) -> dict[str, str | None]:
    """{room: node id, or None for the emptiest}, as the options say."""
    if p["rebalance"]:
        among = placement.receivers(snapshot, reports)
        sizes = {r.node_id: mover.registry.sizes(snapshot.rooms_of(r.node_id)) for r in among}
        if p["goal"] != "even":
            return dict(planned(p, mover, snapshot, reports, sizes))
        return dict(placement.rebalance(sizes, among, p["at_most"]))
    rooms = p["rooms"]
    if rooms is None:
        sizes = mover.registry.sizes([room for node in sources(p, snapshot, reports) for room in snapshot.rooms_of(node)])
        rooms = [room for room, people in sizes.items() if people]
    return dict.fromkeys(rooms, receiver(p["to"], reports))


def planned(p: dict[str, t.Any], mover: Mover, snapshot: Snapshot, reports: Reports, sizes: dict[str, dict[str, int]]) -> dict[str, str]:
    """{room: node id} by the load that is expected, within the budget."""
    policy = Policy.from_mapping(p["policy"])
    desk = Desk(mover.registry, policy, mover.lock.owner)
    desk.look(snapshot, reports)
    held = drain.blockers(mover.registry.participants_of([room for rooms in sizes.values() for room in rooms]))
    carriers = desk.placer.carriers(sizes, {room for room, who in held.items() if who})
    budget = placement.Budget(p["at_most"] or None, p["participants_at_most"] or None)
    return placement.relieve(carriers, budget) if p["goal"] == "relieve" else placement.vacate(carriers, budget, policy.fill)


def sources(p: dict[str, t.Any], snapshot: Snapshot, reports: Reports) -> list[str]:
    if p["node_id"]:
        if p["node_id"] not in snapshot.nodes:
            raise FleetError("find the node", p["node_id"], "the registry knows no such node", f"It knows: {', '.join(sorted(snapshot.nodes)) or 'none'}",
                             code="node_unknown")
        return [p["node_id"]]
    return nodes_of(p["host"], reports)


def nodes_of(host: str, reports: Reports) -> list[str]:
    if host not in reports.hosts or not reports.hosts[host].slots:
        raise FleetError("find the host", host, "no executor there reports any slots",
                         f"Hosts that do: {', '.join(h for h, r in reports.hosts.items() if r.slots)}",
                         code="host_unknown")
    return [s.node_id for s in reports.hosts[host].slots if s.running and s.node_id]


def receiver(to: str | None, reports: Reports) -> str | None:
    """A node id, from a node id or a host's name."""
    if to is None or to.startswith("ND_"):
        return to
    nodes_of(to, reports)
    serving = [s.node_id for s in reports.serving(to) if s.node_id]
    if not serving:
        raise FleetError("find a node to take the rooms", to, "no node serves there", "Name another host, or none", code="node_unknown")
    return serving[0]


if __name__ == "__main__":
    main()
