#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: kernel
short_description: Kernel settings, verified after setting, with a note on what the kernel refuses
version_added: 0.1.0
author: openrtc.livekit contributors (@openrtc)
description:
  - Writes settings to a file of C(sysctl.d), sets them in the running kernel and reads them back.
  - Never fails because a kernel or a container refuses a setting. What was refused, and why, is in RV(refused) and in RV(msg), and is not
    reported as a change at every run.
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: linux
    support: full
options:
  settings:
    description:
      - Settings by name, such as C(net.core.rmem_max). A value V(>=N) only raises a smaller one. A list of ports or numbers is joined by commas.
      - A setting whose value is null is left out.
    type: dict
    required: true
  optional:
    description: Names in O(settings) that are left out without a word where the kernel does not have them, such as those of a module that is not loaded.
    type: list
    elements: str
    default: []
  path:
    description: File that keeps the settings over a reboot.
    type: path
    default: /etc/sysctl.d/60-livekit.conf
  proc:
    description: Where the running kernel's settings are.
    type: path
    default: /proc/sys
notes:
  - Limits on open files belong to the units, not here.
"""

EXAMPLES = r"""
- name: Socket buffers for media
  openrtc.livekit.kernel:
    settings:
      net.core.rmem_max: ">=16777216"
      net.core.wmem_max: ">=16777216"
      net.ipv4.ip_local_reserved_ports: 50000-50299
"""

RETURN = r"""
applied:
  description: Settings that were set in the running kernel (or would be, in check mode), with their values from before and after.
  type: dict
  returned: always
  sample: {"net.core.rmem_max": {"before": "212992", "after": "16777216"}}
refused:
  description: Settings the kernel or the container does not take, with the reason.
  type: dict
  returned: always
  sample: {"net.core.rmem_max": "not there: hidden from this container, or its kernel module is not loaded (wanted 16777216)"}
msg:
  description: One sentence on what was refused, empty if nothing was.
  type: str
  returned: always
"""

import errno
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

HEADER = "# Ansible managed: openrtc.livekit.kernel\n"


def wanted_text(value: t.Any) -> str:
    """A value as the kernel takes it, a minimum still with its sign."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, (list, tuple)):
        return ",".join(str(v) for v in value)
    return " ".join(str(value).split())


def ports_of(text: str) -> set[tuple[int, int]] | None:
    """Ranges of a port list, joined where they touch, or None when it is not one."""
    ranges = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            ranges.append((int(first), int(last if dash else first)))
    except ValueError:
        return None
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return set(joined)


def target(wanted: str, now: str) -> str:
    """The value to set, given the one there is: the same one when nothing is to be done."""
    now = " ".join(now.split())
    if wanted.startswith(">="):
        least = wanted[2:].strip().split()
        have = now.split()
        if len(least) == len(have) and all(v.lstrip("-").isdigit() for v in [*least, *have]):
            return " ".join(max(a, b, key=int) for a, b in zip(least, have))
        return " ".join(least)
    if wanted == now:
        return now
    if ("," in wanted or "-" in wanted) and now and ports_of(wanted) is not None and ports_of(wanted) == ports_of(now):
        return now
    return wanted


def lines_of(settings: t.Mapping[str, str]) -> str:
    return HEADER + "".join(f"{key} = {value}\n" for key, value in sorted(settings.items()))


def read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    except FileNotFoundError:
        return None


def reason(err: OSError) -> str:
    """Why the kernel refused, in words."""
    if isinstance(err, FileNotFoundError):
        return "not there: hidden from this container, or its kernel module is not loaded"
    if err.errno == errno.EROFS:
        return "read-only in this container; set it on the container's host"
    if err.errno in (errno.EACCES, errno.EPERM):
        return "not permitted here; set it on the container's host"
    if err.errno in (errno.EINVAL, errno.ERANGE):
        return "the kernel does not take this value"
    return err.strerror or str(err)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "dict", "required": True},
            "optional": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path", "default": "/etc/sysctl.d/60-livekit.conf"},
            "proc": {"type": "path", "default": "/proc/sys"},
        },
        supports_check_mode=True,
    )
    p = module.params
    wanted = {str(key): wanted_text(value) for key, value in p["settings"].items() if value is not None}
    bad = sorted(key for key in wanted if not key or ".." in key or key.startswith((".", "/")))
    if bad:
        module.fail_json(msg=f"not names of kernel settings: {', '.join(bad)}; write them like net.core.rmem_max")

    applied: dict[str, dict[str, str]] = {}
    refused: dict[str, str] = {}
    kept: dict[str, str] = {}  # what goes into the file
    for key, want in sorted(wanted.items()):
        path = os.path.join(p["proc"], *key.replace("/", "\0").split(".")).replace("\0", ".")
        kept[key] = want[2:].strip() if want.startswith(">=") else want
        try:
            with open(path, encoding="utf-8") as f:
                before = " ".join(f.read().split())
        except OSError as err:
            if isinstance(err, FileNotFoundError) and key in p["optional"]:
                del kept[key]
            else:
                refused[key] = f"{reason(err)} (wanted {kept[key]})"
            continue
        value = target(want, before)
        if want.startswith(">="):
            kept[key] = value  # a value that was higher already must not shrink at the next boot
        if value == before:
            continue
        if module.check_mode:
            if os.access(path, os.W_OK):
                applied[key] = {"before": before, "after": value}
            else:
                refused[key] = f"not writable here; set it on the container's host (wanted {value}, is {before})"
            continue
        try:
            with open(path, "w", encoding="utf-8") as f:
                f.write(f"{value}\n")
        except OSError as err:
            refused[key] = f"{reason(err)} (wanted {value}, is {before})"
            continue
        after = " ".join((read(path) or "").split())
        if after == before:
            refused[key] = f"taken without an error but not kept (wanted {value}, is {after})"
        else:
            applied[key] = {"before": before, "after": after}
            if target(want, after) != after:
                refused[key] = f"only in part (wanted {value}, is {after})"

    old, new = read(p["path"]), lines_of(kept)
    if old != new and not module.check_mode:
        os.makedirs(os.path.dirname(p["path"]), mode=0o755, exist_ok=True)
        temporary = f"{p['path']}.new"  # sysctl.d only reads names that end in .conf
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "w", encoding="utf-8") as f:
            f.write(new)
        os.chmod(temporary, 0o644)
        os.replace(temporary, p["path"])
    result: dict[str, t.Any] = {
        "changed": bool(applied) or old != new,
        "applied": applied,
        "refused": refused,
        "msg": "Left as they are: " + "; ".join(f"{key} {why}" for key, why in refused.items()) if refused else "",
    }
    if module._diff:
        result["diff"] = [
            {"before_header": p["path"], "after_header": p["path"], "before": old or "", "after": new},
            {"before_header": "running kernel", "after_header": "running kernel",
             "before": "".join(f"{k} = {v['before']}\n" for k, v in applied.items()),
             "after": "".join(f"{k} = {v['after']}\n" for k, v in applied.items())},
        ]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
