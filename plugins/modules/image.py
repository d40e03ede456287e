#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: image
short_description: Have container images on a host, from a registry or from archives
version_added: 0.1.0
description:
  - What M(openrtc.livekit.release) is to a native host, for one that runs LiveKit in containers. An image that Docker has already is left as it is,
    so name images by the tag of one version or by digest.
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
  names:
    description: Images, with tag or digest.
    type: list
    elements: str
    required: true
  version:
    description: The LiveKit version that the images must contain. Each is asked for it, in a container without network.
    type: str
  archive_dir:
    description:
      - Directory on the host with archives as C(docker save) writes them. When it is given, no registry is asked.
      - Where several archives have an image of this name, the newest is taken.
    type: path
  socket:
    description: Socket of the Docker daemon.
    type: path
    default: /var/run/docker.sock
seealso:
  - module: openrtc.livekit.generation
  - module: openrtc.livekit.release
"""

EXAMPLES = r"""
- name: Have the next version before the maintenance window
  openrtc.livekit.image:
    names: ["livekit/livekit-server:v1.13.5"]
    version: 1.13.5
"""

RETURN = r"""
fetched:
  description: Images that were fetched; in check mode would be.
  returned: success
  type: list
  elements: str
failure:
  description:
    - What was tried (C(tried)), on what (C(on)), what came back (C(got)), how to mend it (C(fix)), and a C(code) that stays the same in all versions.
    - Codes are V(docker_unreachable), V(image_absent), V(image_registry), V(image_archive), V(image_version).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.images import Images
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.runtimes.docker_api import DockerApi


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "version": {"type": "str"},
            "archive_dir": {"type": "path"},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
        },
        supports_check_mode=True,
    )
    p = module.params
    images = Images(DockerApi(p["socket"], timeout=30), module.run_command, p["archive_dir"] or "")
    try:
        fetched = images.missing(p["names"])
        for name in [] if module.check_mode else p["names"]:
            if name in fetched:
                images.fetch(name)
            if p["version"]:
                images.ask(name, p["version"])
    except FleetError as exc:
        module.fail_json(**exc.as_result())
    module.exit_json(changed=bool(fetched), fetched=fetched, diff={"before": "", "after": "".join(f"{name}\n" for name in fetched)})


if __name__ == "__main__":
    main()
