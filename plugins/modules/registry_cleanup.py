#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: registry_cleanup
short_description: Remove what dead nodes left in the registry of a LiveKit cluster
version_added: 0.1.0
description:
  - LiveKit clears the entry of a crashed node only when some other node starts, and rooms nobody comes back to never. Such rooms show up in lists
    and cannot be deleted through the API.
  - Finishes moves that were interrupted first, and moves the rooms of a dead node in which people wait (O(recover)); then removes ghosts. It never
    touches a node that lives, nor its rooms.
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
  after:
    description: Seconds of silence after which a node is a ghost, and of age after which a room no node hosts is one.
    type: float
    default: 60
  recover:
    description: Give the rooms of dead nodes to living ones, as the controller does, rather than remove those that have participants.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Clean up after a crash
  openrtc.livekit.registry_cleanup:
    redis: "{{ livekit_redis }}"
"""

RETURN = r"""
nodes:
  description: Nodes that were removed, with the reason.
  returned: always
  type: dict
rooms:
  description: Rooms that were removed, with the reason.
  returned: always
  type: dict
recovered:
  description: The new node of each room that was given to a living one.
  returned: always
  type: dict
timeline:
  description: Every step with its time and reason.
  returned: always
  type: list
  elements: dict
"""

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils._engine_module import engine_spec, mover_of, registry_of
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import cleanup
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.host import http_get
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.move import Mover
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import Reports


def main() -> None:
    module = AnsibleModule(
        argument_spec={**engine_spec(), "after": {"type": "float", "default": 60}, "recover": {"type": "bool", "default": True}},
        supports_check_mode=True,
    )
    p = module.params
    mover = None
    try:
        with registry_of(p) as registry:
            mover = mover_of(registry, p)
            found, dead = look(mover, p["after"])
            recovered: dict[str, str] = dict.fromkeys((room for rooms in dead.values() for room in rooms), "") if p["recover"] else {}
            rooms = {room: why for room, why in found.rooms.items() if room not in recovered}
            found, records = dataclasses.replace(found, rooms=rooms), mover.store.records().values()
            unfinished = any(record.kind == "evacuate" for record in records)
            if not module.check_mode and (found or recovered or records):
                with mover.lock:
                    recovered = {}
                    for node_id in dead if p["recover"] else ():
                        recovered.update(mover.recover(node_id, [found.nodes.get(node_id, "missing")], "asked for").moved)
                    unfinished = bool(mover.resume())
                    found = cleanup.apply(registry, mover.lock, look(mover, p["after"])[0])
                    if found:
                        mover.journal.note("cleanup", "ghosts", **found.as_dict())
            module.exit_json(changed=bool(found or recovered or unfinished), recovered=recovered, timeline=mover.journal.entries, **found.as_dict())
    except FleetError as exc:
        module.fail_json(changed=bool(mover and mover.journal.entries), timeline=mover.journal.entries if mover else [], **exc.as_result())


def look(mover: Mover, after: float) -> tuple[cleanup.Cleanup, dict[str, list[str]]]:
    """What is a ghost, and {dead node: its rooms with participants}."""
    registry = mover.registry
    snapshot, reports = registry.snapshot(), Reports.read(registry)
    probes = {}
    for node in snapshot.nodes.values():
        place = reports.place_of(node.id)
        if place and node.age(snapshot.taken_at) > after:
            status = http_get(place.url, timeout=1.0)[0]
            probes[node.id] = "silent" if status is None else str(status)
    found = cleanup.plan(snapshot, reports, probes, registry.room_details(), after)
    sizes: t.Mapping[str, int] = registry.sizes([room for room in found.rooms if found.homes[room]])
    dead: dict[str, list[str]] = {}
    for room, size in sizes.items():
        if size:
            dead.setdefault(found.homes[room], []).append(room)
    return found, dead


if __name__ == "__main__":
    main()
