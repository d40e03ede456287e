#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: adopt_info
short_description: Tell what a LiveKit deployment of another kind is in livekit_* variables
version_added: 0.1.0
description:
  - Reads a folder of the kind that LiveKit's own generator makes (compose file, C(livekit.yaml), C(caddy.yaml)) with the containers that run from it,
    or a release of the official Helm chart. Changes nothing.
  - Prints a table of what became of every setting, and returns an inventory.
  - This is an action plugin. The result holds secrets, so it is never shown, whatever C(no_log) says; printed is only what may be seen.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  folder:
    description: The folder on the host from which LiveKit is started.
    type: path
  service:
    description: LiveKit's service in the compose file. By default the one whose image is a C(livekit-server).
    type: str
  version:
    description: LiveKit version that runs, where neither node nor image tells it.
    type: str
  release:
    description: Name of a Helm release instead of O(folder).
    type: str
  namespace:
    description: Namespace of the release.
    type: str
    default: default
  values:
    description: Values of the release, as C(helm get values) tells them. Not needed where O(objects) holds the Secret in which Helm keeps them.
    type: dict
    default: {}
  objects:
    description: Objects of the namespace, ConfigMaps, Secrets, Deployments and HorizontalPodAutoscalers, as the API of Kubernetes tells them.
    type: list
    elements: dict
    default: []
  connection:
    description: Variables by which the present inventory reaches the host, to be kept.
    type: dict
    default: {}
  socket:
    description: Socket of the Docker daemon.
    type: path
    default: /var/run/docker.sock
seealso:
  - module: openrtc.livekit.adopt_edge
  - module: openrtc.livekit.adopt_drain
"""

EXAMPLES = r"""
- name: What is this?
  openrtc.livekit.adopt_info:
    folder: /opt/livekit
  register: former
"""

RETURN = r"""
rows:
  description: What became of every setting.
  returned: success
  type: list
  elements: dict
  contains:
    what:
      description: V(mapped), V(chosen) (it will differ, for the reason in RV(rows[].note)), V(no place), or V(to do) by hand.
      type: str
    source:
      description: Where it stands.
      type: str
    value:
      description: Its value, without secrets.
      type: str
    to:
      description: The variable.
      type: str
    note:
      description: Why, and what to do.
      type: str
variables:
  description: The variables without secrets.
  returned: success
  type: dict
secrets:
  description: The others.
  returned: success
  type: dict
files:
  description: An inventory folder as C(path), C(content) and C(secret).
  returned: success
  type: list
  elements: dict
failure:
  description:
    - What was tried (C(tried)), on what (C(on)), what came back (C(got)), how to mend it (C(fix)), and a C(code) that stays the same in all versions.
    - Codes are V(adopt_folder), V(adopt_service), V(adopt_config), V(adopt_version), V(adopt_network), V(adopt_value), V(adopt_ports), V(adopt_release),
      V(adopted_already), V(docker_unreachable), and those of values that LiveKit does not take.
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.adoption import reading
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.runtimes.docker_api import DockerApi


def main() -> None:
    """The part on the host: what the action asks for."""
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path"}, "service": {"type": "str"}, "version": {"type": "str"}, "release": {"type": "str"},
            "namespace": {"type": "str", "default": "default"}, "values": {"type": "dict", "default": {}, "no_log": True},
            "objects": {"type": "list", "elements": "dict", "default": [], "no_log": True}, "connection": {"type": "dict", "default": {}},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
        },
        supports_check_mode=True,
    )
    if not module.params["folder"]:
        module.fail_json(msg="A release is read on the control machine; call the module as a task, not directly")
    try:
        found = reading.read(module.params["folder"], module.run_command, DockerApi(module.params["socket"]))
    except FleetError as exc:
        module.fail_json(**exc.as_result())
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
