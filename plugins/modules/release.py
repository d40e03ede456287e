#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Install a LiveKit release beside those that run
version_added: 0.1.0
author: openrtc.livekit contributors (@openrtc)
description:
  - Downloads a release of livekit-server, checks it against the C(checksums.txt) of that release, lets the binary say which version it is, and
    moves it to C(<dest>/<version>/livekit-server) in one step. What fails on the way leaves nothing behind.
  - Versions live side by side, so nothing that runs is touched. Nothing is downloaded when the version is there and its file is intact.
  - Removes versions that are needed no more. Kept are O(version), those in O(keep), those that a slot's link C(server) leads to, and
    one to go back to, which is the newest one below O(version) (the newest other one if there is none below).
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: Contacts no server in check mode.
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  version:
    description: Release to install, such as V(1.13.5), without a leading C(v).
    type: str
    required: true
  url:
    description:
      - Where releases are. Below it are C(v<version>/checksums.txt) and C(v<version>/livekit_<version>_linux_<arch>.tar.gz).
      - A mirror for hosts without internet access can be given by V(http://), V(https://) or V(file://).
    type: str
    default: https://github.com/livekit/livekit/releases/download
  dest:
    description: Directory that holds one directory per installed version.
    type: path
    default: /opt/livekit
  arch:
    description:
      - Architecture as release files name it, such as V(amd64), V(arm64) or V(armv7).
      - By default that of the host.
    type: str
  keep:
    description: Versions that are never removed.
    type: list
    elements: str
    default: []
  slots_dir:
    description: Directory that holds one directory per slot.
    type: path
    default: /etc/livekit/slots
  timeout:
    description: Seconds to wait for the server to answer or to send more.
    type: int
    default: 30
seealso:
  - module: openrtc.livekit.generation
  - module: openrtc.livekit.slot
"""

EXAMPLES = r"""
- name: Have the release ready
  openrtc.livekit.release:
    version: 1.13.5

- name: Have it from a mirror, and keep the long-term one
  openrtc.livekit.release:
    version: 1.13.5
    url: https://mirror.example.org/livekit
    keep:
      - 1.12.0
"""

RETURN = r"""
version:
  description: The release.
  returned: success
  type: str
path:
  description: Its livekit-server.
  returned: success
  type: str
  sample: /opt/livekit/1.13.5/livekit-server
sha256:
  description: Checksum of the archive it came from; empty in check mode when it would be downloaded.
  returned: success
  type: str
downloaded:
  description: Whether this run downloaded it; in check mode whether it would.
  returned: success
  type: bool
installed:
  description: All versions in O(dest) after this run, oldest first.
  returned: success
  type: list
  elements: str
pruned:
  description: Versions that this run removed; in check mode would remove.
  returned: success
  type: list
  elements: str
failure:
  description:
    - What was tried (C(tried)), on what (C(on)), what came back (C(got)), how to mend it (C(fix)), and a C(code) that stays the same in all versions.
    - Codes are V(release_version), V(release_arch), V(release_missing), V(release_unreachable), V(release_checksum), V(release_archive),
      V(release_binary), V(release_disk_full), V(release_dest).
  returned: failure
  type: dict
"""

import functools
import typing as t

from ansible.module_utils import urls
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.release import Release


def get(url: str, **options: t.Any) -> t.Any:
    """open_url, whose own errors (a certificate nobody trusts, for one) are no OSError."""
    try:
        return urls.open_url(url, http_agent="openrtc.livekit", follow_redirects="all", **options)
    except urls.ConnectionError as exc:
        raise OSError(str(exc)) from exc


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "url": {"type": "str", "default": "https://github.com/livekit/livekit/releases/download"},
            "dest": {"type": "path", "default": "/opt/livekit"},
            "arch": {"type": "str"},
            "keep": {"type": "list", "elements": "str", "default": []},
            "slots_dir": {"type": "path", "default": "/etc/livekit/slots"},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    params = dict(module.params)
    opener = functools.partial(get, timeout=params.pop("timeout"))
    run = functools.partial(module.run_command, handle_exceptions=False)
    try:
        result = Release(opener, run, module.warn, **params).apply(module.check_mode)
    except FleetError as exc:
        module.fail_json(**exc.as_result())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
