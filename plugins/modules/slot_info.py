#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: slot_info
short_description: Tell what the slots of a media host run
version_added: 0.1.0
description:
  - Reads each slot of a host, from systemd or Docker, from the files of its generation and from the node itself.
  - Needs nothing but Python and systemd on the host, with O(target=compose) Docker; on a host without systemd every slot is free.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._registry
  - openrtc.livekit._slots
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  config:
    description: Return the configuration file of each slot too, with secrets masked.
    type: bool
    default: false
  model:
    description:
      - Return the C(livekit_*) variables that the generation in each slot was made from.
      - With V(digests) one digest per variable, to compare hosts by; with V(full) the values, secrets included, so set C(no_log) on the task.
    type: str
    choices: [none, digests, full]
    default: none
  keys:
    description: API keys with their secrets, to tell which of them each node accepts. They are compared on the host and never returned.
    type: dict
    default: {}
seealso:
  - module: openrtc.livekit.slot
  - module: openrtc.livekit.generation
  - module: openrtc.livekit.node_info
"""

EXAMPLES = r"""
- name: What runs here?
  openrtc.livekit.slot_info:
    layout: "{{ livekit_layout }}"
  register: slots

- name: Fail when a slot has failed
  ansible.builtin.assert:
    that: slots.slots | selectattr('label', 'eq', 'failed') | length == 0
"""

RETURN = r"""
slots:
  description: One entry per slot, in the order of their numbers.
  returned: success
  type: list
  elements: dict
  contains:
    slot:
      description: Number of the slot.
      type: int
    label:
      description: One of V(serving), V(gating), V(draining), V(failed), V(free).
      type: str
    state:
      description: ActiveState of the systemd unit, or what comes next to it for a container.
      type: str
    version:
      description: LiveKit version of the running binary, or of the files where nothing runs.
      type: str
    generation:
      description: Generation of the files in the slot.
      type: str
    gate:
      description: Generation that passed its gates in this slot.
      type: str
    intact:
      description: Whether the files are still those that the generation was written with.
      type: bool
    exposed:
      description: Files with secrets that everybody on the host can read. There must be none.
      type: list
      elements: str
    served_at:
      description: When the generation passed its gates, in Unix seconds; of one that was taken from another slot, when it did there.
      type: float
    rolled_back:
      description: Whether a rollback brought the generation here.
      type: bool
    api_keys:
      description: Names of the API keys that the running node accepts, none for a slot where nothing runs.
      type: list
      elements: str
    other_secrets:
      description: Those of O(keys) which the running node accepts with another secret only.
      type: list
      elements: str
    enabled:
      description: Whether the slot starts at boot.
      type: bool
    pid:
      description: Main process.
      type: int
    since:
      description: When the unit became active, in Unix seconds.
      type: float
    node_id:
      description: LiveKit's identifier of the node, new at each start.
      type: str
    rooms:
      description: Rooms hosted by the node.
      type: int
    participants:
      description: Participants hosted by the node.
      type: int
    http:
      description: Status of C(GET /) on the signalling port.
      type: int
    ports:
      description: The ports of the slot.
      type: dict
    config:
      description: Configuration file with secrets masked.
      returned: O(config=true)
      type: str
    model:
      description: What O(model) asks for; empty for generations made before this collection kept it.
      returned: O(model) is not V(none)
      type: dict
  sample:
    - {slot: 1, label: serving, version: 1.13.5, generation: 0a1b2c3d4e5f, node_id: ND_abc, rooms: 4, participants: 9}
runtime:
  description: What runs the nodes, where that is Docker.
  returned: O(target=compose)
  type: dict
  contains:
    docker:
      description: Version of the Docker daemon.
      type: str
    compose:
      description: Version of the Compose plugin.
      type: str
    live_restore:
      description: Whether containers outlive a restart of the Docker daemon.
      type: bool
    restart:
      description: What a restart of the Docker daemon would cost, in words.
      type: str
    failure:
      description: Why nothing can be started here; the module itself does not fail for that.
      type: dict
vcpus:
  description: Number of CPUs the host shows to a node.
  returned: success
  type: int
redis:
  description: What this host finds at Redis.
  returned: when O(redis) is given
  type: dict
  contains:
    clock_offset:
      description: Seconds by which the clock of this host is ahead of that of Redis.
      type: float
    failure:
      description: Why Redis cannot be used from here; the module itself does not fail for that.
      type: dict
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils import _registry_module, _slot_module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import registry, rollback
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.generation import Slot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.host import SlotHost
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slot_files import accepted


def look_at_redis(settings: dict[str, t.Any]) -> dict[str, t.Any]:
    try:
        return {"clock_offset": registry.connect(settings).check_access().clock_offset}
    except FleetError as exc:
        return {"failure": exc.failure}


def look_at_runtime(host: SlotHost) -> dict[str, t.Any]:
    try:
        return host.runtime.about()
    except FleetError as exc:
        return {"failure": exc.failure}


def as_row(host: SlotHost, slot: Slot, params: dict[str, t.Any]) -> dict[str, t.Any]:
    row = _slot_module.as_row(slot, host)
    row.update(accepted({} if slot.free else host.shelf.keys(slot.slot), params["keys"]))
    if params["config"]:
        row["config"] = host.shelf.config_text(slot.slot)
    if params["model"] != "none":
        model = host.shelf.model(slot.slot).get("model") or {}
        row["model"] = model if params["model"] == "full" else rollback.digests(model)
    return row


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_slot_module.argument_spec(), **_registry_module.redis_spec(),
            "config": {"type": "bool", "default": False},
            "model": {"type": "str", "choices": ["none", "digests", "full"], "default": "none"},
            "keys": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    try:
        host = _slot_module.slot_host(module)
        rows = [as_row(host, slot, module.params) for slot in host.observe()]
        runtime = look_at_runtime(host)
    except FleetError as exc:
        module.fail_json(**exc.as_result())
    redis = _registry_module.redis_settings(module.params["redis"])
    module.exit_json(changed=False, slots=rows, vcpus=len(os.sched_getaffinity(0)), **({"redis": look_at_redis(redis)} if redis else {}),
                     **({"runtime": runtime} if runtime else {}))


if __name__ == "__main__":
    main()
