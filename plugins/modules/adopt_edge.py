#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: adopt_edge
short_description: Lead callers from a former Caddy to this collection's HAProxy
version_added: 0.1.0
description:
  - Changes where the layer 4 proxies of the Caddy in LiveKit's official compose folder lead to, in the Caddy that runs (through its admin API, which loads a
    configuration without a connection cut) and then in its file C(caddy.yaml), for its next start.
  - Names, certificates and their renewal stay with Caddy.
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
  folder:
    description: The folder with C(caddy.yaml).
    type: path
    required: true
  upstreams:
    description: Port that a proxy leads to now, and the C(host:port) that it is to lead to.
    type: dict
    required: true
  admin:
    description: Caddy's admin API.
    type: str
    default: http://localhost:2019
seealso:
  - module: openrtc.livekit.adopt_drain
"""

EXAMPLES = r"""
- name: Callers come by HAProxy from now on
  openrtc.livekit.adopt_edge:
    folder: /opt/livekit
    upstreams:
      "7880": 127.0.0.1:7980
"""

RETURN = r"""
failure:
  description:
    - What was tried (C(tried)), on what (C(on)), what came back (C(got)), how to mend it (C(fix)), and a C(code) that stays the same in all versions.
    - Codes are V(adopt_edge), V(caddy_unreachable), V(caddy_refused).
  returned: failure
  type: dict
"""

import json
import os
import typing as t
import urllib.error
import urllib.request

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.adoption import caddy
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError


def ask(admin: str, path: str, body: t.Any = None) -> t.Any:
    """Caddy's answer; FleetError caddy_unreachable, caddy_refused. Its configuration may hold keys, so nothing of it is told."""
    request = urllib.request.Request(admin.rstrip("/") + path, None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            raw = answer.read()
    except urllib.error.HTTPError as exc:
        raise FleetError("change what Caddy leads to", admin + path, f"{exc.code}: {exc.read().decode('utf-8', 'replace')[:300]}",
                         "See the log of Caddy's container", code="caddy_refused") from exc
    except (OSError, ValueError) as exc:
        raise FleetError("ask Caddy", admin, getattr(exc, "reason", exc), "Start Caddy with its admin API, or set livekit_adopt_edge to manual (docs/adopt.md)",
                         code="caddy_unreachable") from exc
    return json.loads(raw) if raw.strip() else None


def write_in_place(path: str, text: str) -> None:
    """The same file, as a container has it mounted; a copy of the first state lies beside it."""
    kept = f"{path}.before-adoption"
    if not os.path.exists(kept):
        with open(path, "rb") as source, open(os.open(kept, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as target:
            target.write(source.read())
    with open(path, "r+", encoding="utf-8") as handle:
        handle.write(text)
        handle.truncate()
        handle.flush()
        os.fsync(handle.fileno())


def masked(text: str) -> str:
    return "".join("…\n" if "api_key" in line or "secret" in line else line for line in text.splitlines(keepends=True))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "upstreams": {"type": "dict", "required": True},
            "admin": {"type": "str", "default": "http://localhost:2019"},
        },
        supports_check_mode=True,
    )
    p = module.params
    path = os.path.join(p["folder"], "caddy.yaml")
    try:
        to = {int(port): str(address) for port, address in p["upstreams"].items()}
        with open(path, encoding="utf-8") as handle:
            text = handle.read()
        before = ask(p["admin"], "/config/")
        caddy.check(before, to)
        after, new_text = caddy.repoint(before, to), caddy.repoint_text(text, to)
        if not module.check_mode:
            if after != before:
                ask(p["admin"], "/load", after)
            if new_text != text:
                write_in_place(path, new_text)
    except FleetError as exc:
        module.fail_json(**exc.as_result())
    except (OSError, ValueError) as exc:
        error = FleetError("change what Caddy leads to", path, exc, "Correct livekit_adopt_folder and livekit_adopt_upstreams", code="adopt_edge")
        module.fail_json(**error.as_result())
    module.exit_json(changed=after != before or new_text != text, diff={"before_header": path, "after_header": path, "before": masked(text),
                                                                        "after": masked(new_text)})


if __name__ == "__main__":
    main()
