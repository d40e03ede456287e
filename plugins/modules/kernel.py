#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: kernel
short_description: Set kernel parameters for media, and tell which ones the host refuses
version_added: 0.1.0
description:
  - Writes the settings for the next boot, sets them now, and reads each one back.
  - A container, or a kernel without a feature, may refuse some. These are listed in RV(refused) with the reason; they neither fail
    the task nor make it report a change each time.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: linux
options:
  settings:
    description: Values by name, which must hold exactly.
    type: dict
    default: {}
  minimum:
    description: Values by name, for which a larger one that is set already is as good.
    type: dict
    default: {}
  reserve_ports:
    description: Keep the ports of the slots out of the range from which outgoing connections take theirs.
    type: bool
    default: true
  layout:
    description: How the ports of a slot follow from its number.
    type: dict
    default: {}
  turn:
    description: Whether the embedded TURN is on, whose ports are then reserved too.
    type: bool
    default: false
  path:
    description: File for the next boot.
    type: path
    default: /etc/sysctl.d/60-livekit.conf
  root:
    description: Where the running settings are.
    type: path
    default: /proc/sys
"""

EXAMPLES = r"""
- name: Room for bursts of media
  openrtc.livekit.kernel:
    minimum:
      net.core.rmem_max: 16777216
      net.core.wmem_max: 16777216
"""

RETURN = r"""
applied:
  description: Settings that hold now, with their running values.
  returned: success
  type: dict
  sample: {net.core.rmem_max: "16777216"}
refused:
  description: Settings that this host does not take, with the reason.
  returned: success
  type: dict
  sample: {net.core.rmem_max: "not in this kernel or container"}
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import sysctl
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slots import Layout


def wanted(params: dict[str, t.Any]) -> dict[str, tuple[str, bool]]:
    """{name: (value, whether more is as good)}."""
    out = {str(k): (str(v), True) for k, v in params["minimum"].items()}
    out.update({str(k): (str(v), False) for k, v in params["settings"].items()})
    if params["reserve_ports"]:
        out["net.ipv4.ip_local_reserved_ports"] = (sysctl.reserved_ports(Layout.from_mapping(params["layout"]), params["turn"]), False)
    return out


def apply(name: str, value: str, minimum: bool, root: str, check: bool) -> tuple[str | None, str | None, str | None]:
    """(value before, value after, why refused) of one setting."""
    before = sysctl.read(name, root)
    if before is None:
        return None, None, "not in this kernel or container"
    if sysctl.satisfied(value, before, minimum):
        return before, before, None
    if check:
        if not os.access(sysctl.path(name, root), os.W_OK):
            return before, before, "read-only"
        return before, value, None
    refused = sysctl.write(name, value, root)
    return before, sysctl.read(name, root), refused


def write_file(module: AnsibleModule, text: str) -> str:
    """Put the file for the next boot in place when it differs; the text before."""
    path = module.params["path"]
    old = ""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as handle:
            old = handle.read()
    if old != text and not module.check_mode:
        with open(path + ".new", "w", encoding="utf-8") as out:
            out.write(text)
        os.chmod(path + ".new", 0o644)
        module.atomic_move(path + ".new", path)
    return old


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "dict", "default": {}}, "minimum": {"type": "dict", "default": {}}, "reserve_ports": {"type": "bool", "default": True},
            "layout": {"type": "dict", "default": {}}, "turn": {"type": "bool", "default": False},
            "path": {"type": "path", "default": "/etc/sysctl.d/60-livekit.conf"}, "root": {"type": "path", "default": "/proc/sys"},
        },
        supports_check_mode=True,
    )
    want = wanted(module.params)
    text = sysctl.drop_in({name: value for name, (value, dummy) in want.items()})
    old = write_file(module, text)
    applied, refused, before, after = {}, {}, {}, {}
    for name, (value, minimum) in sorted(want.items()):
        was, now, why = apply(name, value, minimum, module.params["root"], module.check_mode)
        if why:
            refused[name] = why
        else:
            applied[name] = now
        if was != now:
            before[name], after[name] = was, now
    note = {"msg": "refused by this host: " + ", ".join(f"{name} ({why})" for name, why in refused.items())} if refused else {}
    module.exit_json(
        changed=old != text or bool(after), applied=applied, refused=refused, **note,
        diff=[{"before_header": module.params["path"], "after_header": module.params["path"], "before": old, "after": text},
              {"before_header": "running", "after_header": "running", "before": before, "after": after}],
    )


if __name__ == "__main__":
    main()
