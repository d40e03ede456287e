#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: lock
short_description: Hold one of the locks that keep two operators from changing the same thing
version_added: 0.1.0
description:
  - A lock is a key in the cluster's Redis with an owner and an expiry. A run that is killed loses it when its time is over.
  - M(openrtc.livekit.generation) holds the lock C(host:NAME) of a host while it changes it, through this module. Take the same lock
    around a change of your own to keep it apart from those.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._registry.required
attributes:
  check_mode:
    support: full
    description: Fails as a run would where somebody else holds the lock.
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  name:
    description: Name of the lock.
    type: str
    required: true
  state:
    description:
      - V(held) takes the lock, or fails with who holds it. With O(token) it holds the lock for another O(ttl).
      - V(released) gives back the lock with this O(token); one that expired or that somebody else holds is left alone.
    type: str
    choices: [held, released]
    default: held
  owner:
    description: Who holds it, for those who come second. Required for O(state=held).
    type: str
  ttl:
    description: Seconds until the lock expires by itself.
    type: float
    default: 60
  token:
    description: The RV(token) of the call that took it. Required for O(state=released).
    type: int
seealso:
  - module: openrtc.livekit.generation
"""

EXAMPLES = r"""
- name: Keep others from changing this host
  openrtc.livekit.lock:
    redis: "{{ livekit_redis }}"
    name: "host:{{ inventory_hostname }}"
    owner: nightly maintenance
    ttl: 600
  register: held

- name: Let them again
  openrtc.livekit.lock:
    redis: "{{ livekit_redis }}"
    name: "host:{{ inventory_hostname }}"
    state: released
    token: "{{ held.token }}"
"""

RETURN = r"""
token:
  description: Grows with every lock that is taken in this Redis; V(0) when the lock is not held, and in check mode.
  returned: success
  type: int
failure:
  description:
    - What was tried (C(tried)), on what (C(on)), what came back (C(got)), how to mend it (C(fix)), and a C(code) that stays the same in all versions.
    - With the code V(locked) there are C(owner) and C(expires_in), in seconds; V(lock_lost) is for a O(token) that holds nothing any more.
  returned: failure
  type: dict
"""

import json
import math
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils import _registry_module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import lock, registry
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError


def holder(store: registry.Registry, key: str) -> dict[str, t.Any]:
    """{owner, token} of whoever holds the lock, {} for nobody."""
    (held,) = store.ask("read a lock", ("GET", key))
    return json.loads(held) if held else {}


def apply(store: registry.Registry, p: dict[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    wanted = lock.Lock(store, p["name"], p["owner"] or "", p["ttl"])
    before = holder(store, wanted.key)
    mine = bool(before) and before["token"] == p["token"]
    if p["state"] == "released":
        if mine and not check_mode:
            wanted.token = p["token"]
            wanted.release()
        return {"changed": mine, "token": 0, "before": before}
    if p["token"]:
        wanted.token = p["token"]
        if not check_mode or not mine:
            wanted.renew()
    elif not check_mode or before:
        wanted.acquire()
        if check_mode:  # it has just expired
            wanted.release()
    return {"changed": not mine, "token": wanted.token, "before": before}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_registry_module.redis_spec(required=True),
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["held", "released"], "default": "held"},
            "owner": {"type": "str"},
            "ttl": {"type": "float", "default": 60},
            "token": {"type": "int", "no_log": False},
        },
        required_if=[("state", "held", ("owner",)), ("state", "released", ("token",))],
        supports_check_mode=True,
    )
    p = module.params
    if not math.isfinite(p["ttl"]) or p["ttl"] < 1:
        module.fail_json(msg=f"ttl must be 1 second or more, not {p['ttl']:g}")
    try:
        with registry.connect(_registry_module.redis_settings(p["redis"])) as store:
            result = apply(store, p, module.check_mode)
    except FleetError as exc:
        module.fail_json(**exc.as_result())
    before = result.pop("before").get("owner", "")
    after = (p["owner"] if p["state"] == "held" else "") if result["changed"] else before
    module.exit_json(**result, diff={"before": {"holder": before}, "after": {"holder": after}})


if __name__ == "__main__":
    main()
