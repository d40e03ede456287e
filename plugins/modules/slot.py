#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: slot
short_description: Start, put into service, drain or discard one slot of a media host
version_added: 0.1.0
description:
  - The steps that M(openrtc.livekit.generation) is made of, for those who want them one by one.
  - A node gets at most one C(SIGTERM) in its life. Nothing here restarts a node or signals one that drains.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._registry
  - openrtc.livekit._slots
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  slots:
    description: Numbers of the slots. All but O(state=draining) take exactly one.
    type: list
    elements: int
    required: true
  state:
    description:
      - V(started) writes O(files), lets the release read the configuration, starts the node and waits until it answers and is in the registry;
        on failure the slot is emptied again.
      - V(ready) waits until a node that was started answers and is in the registry; it changes nothing.
      - V(serving) records that the generation passed its gates, so that the balancer takes it and it starts at boot.
      - V(draining) sends the one C(SIGTERM); the node leaves placement at once and ends when its last participant leaves.
      - V(discarded) ends a node whose generation never passed its gates.
    type: str
    choices: [started, ready, serving, draining, discarded]
    required: true
  generation:
    description: Name of the generation. Required for O(state=started) and O(state=serving).
    type: str
  version:
    description: LiveKit version, which must be installed. Required for O(state=started).
    type: str
  files:
    description: Files of the generation, name to content. Required for O(state=started).
    type: dict
  timeout:
    description: Seconds until a started node must answer and be in the registry.
    type: float
    default: 20
  wait_empty:
    description: With O(state=draining), seconds to wait until the nodes are gone; V(0) returns at once.
    type: float
    default: 0
seealso:
  - module: openrtc.livekit.slot_info
  - module: openrtc.livekit.generation
"""

EXAMPLES = r"""
- name: Let slot 1 finish its calls and end
  openrtc.livekit.slot:
    slots: [1]
    state: draining
"""

RETURN = r"""
slots:
  description: The slots after the step, as M(openrtc.livekit.slot_info) returns them.
  returned: success
  type: list
  elements: dict
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils import _registry_module, _slot_module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import registry
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.generation import Slot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.host import SlotHost


def registered(module: AnsibleModule) -> t.Callable[[str], bool]:
    """Whether a node is in the registry, serving and fresh. Without Redis its own answer is all there is."""
    settings = _registry_module.redis_settings(module.params["redis"])
    if not settings:
        return lambda node_id: True
    store = registry.connect(settings)
    store.check_access()

    def check(node_id: str) -> bool:
        snapshot = store.snapshot()
        node = snapshot.nodes.get(node_id)
        return bool(node and node.serving and node.fresh(snapshot.taken_at))

    return check


def start(module: AnsibleModule, host: SlotHost, slot: Slot) -> bool:
    p = module.params
    if not slot.free:
        raise FleetError("start a generation", f"slot {slot.slot}", f"it is {slot.label}", "Choose a free slot", code="slot_busy")
    if module.check_mode:
        return True
    seen = registered(module)  # Redis must answer before anything changes
    host.write(slot.slot, p["generation"], p["version"], p["files"])
    host.static_check(slot.slot)
    try:
        host.start(slot.slot)
        host.wait_ready(slot.slot, p["timeout"], seen)
    except FleetError:
        host.discard(slot.slot)
        raise
    return True


def ready(module: AnsibleModule, host: SlotHost, slot: Slot) -> bool:
    if not module.check_mode:
        host.wait_ready(slot.slot, module.params["timeout"], registered(module))
    return False


def serve(module: AnsibleModule, host: SlotHost, slot: Slot) -> bool:
    want = module.params["generation"]
    if slot.state != "active" or slot.generation != want:
        raise FleetError("put a generation into service", f"slot {slot.slot}", f"it is {slot.label} with generation {slot.generation}, not {want}",
                         "Start that generation first", code="slot_other")
    if slot.gate == want and slot.enabled:
        return False
    if not module.check_mode:
        host.serve(slot.slot, want)
    return True


def drain(module: AnsibleModule, host: SlotHost, slots: list[Slot]) -> bool:
    leaving = [s for s in slots if s.running or s.enabled]
    if not module.check_mode:
        for slot in leaving:
            host.drain(slot.slot)
        wait_empty(module, host, [s.slot for s in slots])
    return bool(leaving)


def wait_empty(module: AnsibleModule, host: SlotHost, numbers: list[int]) -> None:
    limit = module.params["wait_empty"]
    end = time.monotonic() + limit
    while limit:
        left = [s for s in host.observe() if s.slot in numbers and not s.free]
        if not left:
            return
        if time.monotonic() > end:
            raise FleetError("wait until a node is empty", ", ".join(f"slot {s.slot}" for s in left),
                             f"{sum(s.participants or 0 for s in left)} participants after {limit:g} s", "It goes on draining; wait longer",
                             code="not_empty")
        time.sleep(1)


def discard(module: AnsibleModule, host: SlotHost, slot: Slot) -> bool:
    if slot.free:
        return False
    if not module.check_mode:
        host.discard(slot.slot)
    return True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_slot_module.argument_spec(),
            **_registry_module.redis_spec(),
            "slots": {"type": "list", "elements": "int", "required": True},
            "state": {"type": "str", "required": True, "choices": ["started", "ready", "serving", "draining", "discarded"]},
            "generation": {"type": "str"},
            "version": {"type": "str"},
            "files": {"type": "dict", "no_log": True},
            "timeout": {"type": "float", "default": 20},
            "wait_empty": {"type": "float", "default": 0},
        },
        required_if=[("state", "started", ("generation", "version", "files")), ("state", "serving", ("generation",))],
        supports_check_mode=True,
    )
    numbers, state = module.params["slots"], module.params["state"]
    if state != "draining" and len(numbers) != 1:
        module.fail_json(msg=f"state={state} takes exactly one slot, not {numbers}")
    try:
        host = _slot_module.slot_host(module)
        before = [s for s in host.observe() if s.slot in numbers]
        if len(before) != len(set(numbers)):
            raise FleetError("find the slots", f"{numbers}", f"this host has slots {list(host.layout.numbers)}", "Correct the numbers", code="slot_unknown")
        steps = {"started": start, "ready": ready, "serving": serve, "discarded": discard}
        changed = drain(module, host, before) if state == "draining" else steps[state](module, host, before[0])
        after = [s for s in host.observe() if s.slot in numbers]
    except FleetError as exc:
        module.fail_json(**exc.as_result())
    module.exit_json(
        changed=changed, slots=[_slot_module.as_row(s, host) for s in after],
        diff={"before": _labels(before), "after": {s.slot: state for s in before} if changed and module.check_mode else _labels(after)},
    )


def _labels(slots: list[Slot]) -> dict[int, str]:
    return {s.slot: f"{s.label} {s.version or ''} {s.generation or ''}".strip() for s in slots}


if __name__ == "__main__":
    main()
