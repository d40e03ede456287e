#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: drain
short_description: Drain nodes of a LiveKit cluster, and move their calls when a deadline passes
version_added: 0.1.0
description:
  - The node leaves placement at once and takes no new rooms; it ends by itself when its last participant has left. What becomes of the
    calls that are still there at the deadline says O(policy).
  - The request lies in the registry. A run that was killed, or that did not wait, is gone on with by the next run or by the controller.
  - Runs on any one host that reaches Redis; the executors of the other hosts do what is to be done there.
  - A drain cannot be taken back, LiveKit knows no such thing. Start a fresh node beside it (C(openrtc.livekit.undo_drain)).
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._registry.required
  - openrtc.livekit._engine
attributes:
  check_mode:
    support: full
    details: Tells what would be done and asks for nothing.
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  hosts:
    description: Hosts whose nodes are drained, by their names in the inventory. Their nodes that drain already count too.
    type: list
    elements: str
    default: []
  node_ids:
    description: Nodes to drain.
    type: list
    elements: str
    default: []
  draining:
    description:
      - Of O(hosts) only nodes that drain already and of which nobody has said what becomes of their calls, as after a run that was killed
        right behind its SIGTERM. Nodes of O(node_ids) that are gone by now are no error then.
    type: bool
    default: false
  policy:
    description:
      - V(move) moves the calls to other nodes when the O(deadline) has passed; every caller hears less than a second of silence.
      - V(now) does so at once. V(wait) waits for ever. V(end) ends the calls at the deadline.
    type: str
    choices: [move, wait, now, end]
    default: move
  deadline:
    description: How long calls may stay, like V(30m), V(1h30m) or V(90s). Only for O(policy=move) and O(policy=end).
    type: str
    default: 30m
  wait:
    description: Wait until the nodes are gone. Otherwise this returns once they drain (with O(policy=now) once they are gone).
    type: bool
    default: true
  neighbours:
    description:
      - Units on O(hosts) that end before the node does, such as V(livekit-egress.service). Agents go first, then egress, ingress and SIP, the node
        last. Each gets one SIGTERM and finishes its work.
    type: list
    elements: dict
    default: []
    suboptions:
      unit:
        description: Name of the systemd unit.
        type: str
        required: true
      kind:
        description: What it is.
        type: str
        choices: [agent, egress, ingress, sip]
        required: true
  poll:
    description: Return after so many seconds, done or not. The action plugin uses it to show progress; V(0) for never.
    type: float
    default: 0
notes:
  - The last node that serves is never drained, and nothing begins before every node has been checked.
seealso:
  - module: openrtc.livekit.room_move
"""

EXAMPLES = r"""
- name: Empty a host; calls may stay for ten minutes and move then
  openrtc.livekit.drain:
    redis: "{{ livekit_redis }}"
    hosts: [sfu1]
    deadline: 10m

- name: Move everything off a node now
  openrtc.livekit.drain:
    redis: "{{ livekit_redis }}"
    node_ids: [ND_kJp3zK7nUmRb]
    policy: now
"""

RETURN = r"""
drains:
  description: One entry per node.
  returned: always
  type: list
  elements: dict
  contains:
    node_id: {description: The node., type: str}
    host: {description: Its host., type: str}
    slot: {description: Its slot., type: int}
    policy: {description: Its policy., type: str}
    state: {description: "What happens next or has happened: drain, wait, move, end, freeze, gone.", type: str}
    reason: {description: Why., type: str}
    rooms: {description: Rooms on it., type: int}
    participants: {description: Participants in these rooms., type: int}
    oldest: {description: Seconds since its oldest room was created., type: float}
    blockers: {description: "Participants that are no people at a screen, by room.", type: dict}
    eta: {description: Seconds until it is probably empty by itself; none where nothing is known of past rooms., type: float}
    deadline: {description: Seconds until the deadline., type: float}
done:
  description: Whether every node is gone.
  returned: always
  type: bool
timeline:
  description: Every step with its time, reason and rooms.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils._engine_module import engine_spec, mover_of, registry_of
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import drain
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.drain_run import DrainRun
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **engine_spec(),
            "hosts": {"type": "list", "elements": "str", "default": []},
            "node_ids": {"type": "list", "elements": "str", "default": []},
            "draining": {"type": "bool", "default": False},
            "policy": {"type": "str", "choices": ["move", "wait", "now", "end"], "default": "move"},
            "deadline": {"type": "str", "default": "30m"},
            "wait": {"type": "bool", "default": True},
            "neighbours": {"type": "list", "elements": "dict", "default": [], "options": {
                "unit": {"type": "str", "required": True},
                "kind": {"type": "str", "choices": ["agent", "egress", "ingress", "sip"], "required": True},
            }},
            "poll": {"type": "float", "default": 0},
        },
        supports_check_mode=True,
    )
    p = module.params
    if not (p["hosts"] or p["node_ids"]):
        module.fail_json(msg="Say what to drain: hosts or node_ids")
    run = None
    try:
        deadline = drain.seconds(p["deadline"]) if p["policy"] in ("move", "end") else None
        with registry_of(p) as registry:
            run = DrainRun(mover_of(registry, p), p["policy"], deadline, p["neighbours"], p["draining"])
            run.choose(p["hosts"], p["node_ids"])
            if not module.check_mode:
                if run.begin(p["poll"]):
                    run.pursue(wait=p["wait"], poll=p["poll"])
            module.exit_json(changed=run.changed, drains=run.drains(), done=run.done, timeline=run.mover.journal.entries)
    except FleetError as exc:
        module.fail_json(changed=bool(run and run.changed), timeline=run.mover.journal.entries if run else [], **exc.as_result())


if __name__ == "__main__":
    main()
