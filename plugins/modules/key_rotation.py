#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: key_rotation
short_description: Plan one step of replacing an API key of a LiveKit cluster
version_added: 0.1.0
description:
  - A key is replaced in two steps. First every node accepts the new key beside the old one; then, when all applications sign with the new one,
    the old key goes. In between no token is refused.
  - This judges one such step by what the nodes accept now and says which keys to deploy. It changes nothing itself; the playbook
    C(openrtc.livekit.rotate_keys) does the rest.
  - Nothing that it returns holds a secret.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  keys:
    description: C(livekit_keys) of the inventory, key to secret.
    type: dict
    required: true
  add:
    description: Key that the nodes are to accept too. It stands in O(keys) already.
    type: str
  remove:
    description: Key that no node is to accept any more, whether it stands in O(keys) still or not.
    type: str
  hosts:
    description:
      - RV(openrtc.livekit.slot_info#module:slots) of each media host, by its name, read with C(keys) so that a secret which
        was replaced under its name is found.
    type: dict
    required: true
  webhook_key:
    description: Key that signs the webhooks.
    type: str
    default: ""
  policy:
    description:
      - What becomes of the calls on nodes that drain after O(remove), as in M(openrtc.livekit.drain). One that moves them is refused, as the callers
        would come back with tokens of a key that is going.
    type: str
    choices: [move, wait, now, end]
    default: wait
  sees_tokens:
    description:
      - Whether the balancer can tell of which key a token is, as HAProxy in http mode can. It can then send tokens of the key that goes to nodes
        that still accept them. If not, a caller who loses the connection on an old node may be refused when coming back.
    type: bool
    default: true
  keys_seen:
    description: Keys of which tokens still come in, if that is known. One of them cannot be removed.
    type: list
    elements: str
    default: []
seealso:
  - module: openrtc.livekit.slot_info
  - module: openrtc.livekit.generation
"""

EXAMPLES = r"""
- name: May the old key go?
  openrtc.livekit.key_rotation:
    keys: "{{ livekit_keys }}"
    remove: APIold
    hosts: {sfu1: "{{ slots.slots }}"}
"""

RETURN = r"""
step:
  description: V(add) or V(remove).
  returned: success
  type: str
deploy:
  description: Names of the keys to deploy, in the order to deploy them.
  returned: success
  type: list
  elements: str
  sample: [APIold, APInew]
retiring:
  description: Keys whose tokens the balancers are to send to nodes that still accept them (C(livekit_haproxy_retiring_keys)).
  returned: success
  type: list
  elements: str
failure:
  description:
    - What was tried (C(tried)), on what (C(on)), what came back (C(got)), how to mend it (C(fix)), a C(code) that stays the same in all versions,
      and C(problems).
    - Codes are V(key_unknown), V(short_secret), V(only_key), V(last_key), V(key_not_everywhere), V(webhook_key), V(key_in_use), V(policy),
      V(other_secret), V(key_missing), and V(bad_configuration) for several at once.
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import key_rotation
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "keys": {"type": "dict", "required": True, "no_log": True},
            "add": {"type": "str", "no_log": False},
            "remove": {"type": "str", "no_log": False},
            "hosts": {"type": "dict", "required": True},
            "webhook_key": {"type": "str", "default": "", "no_log": False},
            "policy": {"type": "str", "choices": ["move", "wait", "now", "end"], "default": "wait"},
            "sees_tokens": {"type": "bool", "default": True, "no_log": False},
            "keys_seen": {"type": "list", "elements": "str", "default": [], "no_log": False},
        },
        mutually_exclusive=[("add", "remove")],
        required_one_of=[("add", "remove")],
        supports_check_mode=True,
    )
    p = module.params
    try:
        if p["add"]:
            found = key_rotation.add(p["add"], p["keys"], p["hosts"])
        else:
            found = key_rotation.remove(p["remove"], p["keys"], p["hosts"], p["webhook_key"], p["policy"], p["sees_tokens"], p["keys_seen"])
    except FleetError as exc:
        module.fail_json(**exc.as_result())
    before = [*found.keys] if not found.changed else [k for k in found.keys if k != found.name] + ([found.name] if found.step == "remove" else [])
    module.exit_json(changed=found.changed, step=found.step, deploy=list(found.keys), retiring=list(found.retiring),
                     diff={"before": {"keys": sorted(before)}, "after": {"keys": sorted(found.keys)}})


if __name__ == "__main__":
    main()
