#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: kubernetes_gate
short_description: Wait until the nodes of a generation have passed a gate
version_added: 0.1.0
description:
  - Of the gates of a generation on Kubernetes, those that only somebody in the cluster can watch, who reaches Redis and the HAProxy pods. It runs in the
    pod of an executor, to which the task is delegated.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._registry.required
attributes:
  check_mode:
    support: full
    details: Waits for nothing.
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  name:
    description: Name of the Deployment of the generation.
    type: str
    required: true
  machines:
    description: Machines on which it runs, by name.
    type: list
    elements: str
    default: []
  gate:
    description:
      - V(registered) holds when each of the O(machines) has a node of the generation that answers, and the registry knows it as serving.
      - V(balancer) holds when every HAProxy sends new connections to all of them.
    type: str
    choices: [registered, balancer]
    default: registered
  pages:
    description: Addresses of the statistics pages of all HAProxies, as CSV. Required for O(gate=balancer).
    type: list
    elements: str
    default: []
  username:
    description: User of these pages.
    type: str
    default: admin
  password:
    description: Password of these pages.
    type: str
  timeout:
    description: Seconds to wait at most.
    type: float
    default: 20
seealso:
  - module: openrtc.livekit.kubernetes_info
  - module: openrtc.livekit.call_probe
"""

EXAMPLES = r"""
- name: See its nodes in the registry
  openrtc.livekit.kubernetes_gate:
    redis: "{{ livekit_redis }}"
    name: livekit-s2-3f1c0a9be274
    machines: [node1, node2]
  delegate_to: node1
"""

RETURN = r"""
nodes:
  description: The nodes of the generation, each with C(node_id), C(machine), C(slot), C(label), C(url) and C(fresh).
  returned: success
  type: list
  elements: dict
others:
  description: All other nodes that executors report, by the name of their Deployment.
  returned: success
  type: dict
failure:
  description: What went wrong, with C(code) V(gate_registry), V(gate_balancer), V(balancer_stats) or one of Redis.
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils import _registry_module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import registry
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes import gate


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_registry_module.redis_spec(required=True),
            "name": {"type": "str", "required": True},
            "machines": {"type": "list", "elements": "str", "default": []},
            "gate": {"type": "str", "choices": ["registered", "balancer"], "default": "registered"},
            "pages": {"type": "list", "elements": "str", "default": []},
            "username": {"type": "str", "default": "admin"},
            "password": {"type": "str", "no_log": True},
            "timeout": {"type": "float", "default": 20},
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        with registry.connect(_registry_module.redis_settings(p["redis"])) as store:
            if p["gate"] == "registered" and not module.check_mode:
                found = gate.wait_registered(store, p["name"], p["machines"], p["timeout"])
            else:
                found = gate.look(store)[0]
        nodes = found.pop(p["name"], [])
        if p["gate"] == "balancer" and not module.check_mode:
            pages = [{"url": url, "username": p["username"], "password": p["password"]} for url in p["pages"]]
            gate.wait_taken(pages, [node for node in nodes if node["machine"] in p["machines"]], p["timeout"])
    except FleetError as exc:
        module.fail_json(**exc.as_result())
    module.exit_json(changed=False, nodes=nodes, others=found)


if __name__ == "__main__":
    main()
