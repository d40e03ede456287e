#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: adopt_drain
short_description: Drain the LiveKit container of a former deployment
version_added: 0.1.0
description:
  - The last step of a take-over. The former node gets exactly one SIGTERM, takes no new rooms, and its container ends with its last call. That is no
    C(docker stop), which would end the calls after ten seconds.
  - Before that, its service is put into a profile in the compose file, so that nothing starts it again, and its restart policy is taken.
  - It refuses as long as no other node of the same registry serves. Run again, it sends no second signal, as that would end every call on the node.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._registry.required
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  folder:
    description: The folder from which the former deployment is started.
    type: path
    required: true
  service:
    description: LiveKit's service in its compose file.
    type: str
    default: livekit
  compose_file:
    description: Name of the compose file in O(folder).
    type: str
    default: docker-compose.yaml
  addresses:
    description: Addresses by which the registry may know the node, where several nodes started at the same time.
    type: list
    elements: str
    default: []
  socket:
    description: Socket of the Docker daemon.
    type: path
    default: /var/run/docker.sock
  state_dir:
    description: Where it is kept that the signal went out.
    type: path
    default: /var/lib/livekit
seealso:
  - module: openrtc.livekit.adopt_info
  - module: openrtc.livekit.adopt_edge
"""

EXAMPLES = r"""
- name: The former node takes no new rooms
  openrtc.livekit.adopt_drain:
    folder: /opt/livekit
    redis:
      address: 127.0.0.1:6379
"""

RETURN = r"""
reason:
  description: What the node did before.
  returned: success
  type: str
  sample: it serves
container:
  description: Name of the container, empty where there is none any more.
  returned: success
  type: str
node_id:
  description: LiveKit's identifier of the node.
  returned: success
  type: str
rooms:
  description: Rooms it still hosts, as far as it is in the registry.
  returned: success
  type: int
participants:
  description: Participants in them.
  returned: success
  type: int
failure:
  description:
    - What was tried (C(tried)), on what (C(on)), what came back (C(got)), how to mend it (C(fix)), and a C(code) that stays the same in all versions.
    - Codes are V(adopt_registry), V(no_other_node), V(adopt_service), V(docker_unreachable), V(docker_refused), and those of Redis.
  returned: failure
  type: dict
"""

import os
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils._registry_module import redis_settings, redis_spec
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.adoption import compose_file, former, reading
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry import connect
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.runtimes.docker import moment
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.runtimes.docker_api import DockerApi

SEEN = 10.0  # seconds until the registry shows that the node was told


class Drain:
    """One run on one host."""

    def __init__(self, params: t.Mapping[str, t.Any]) -> None:
        self.p, self.api = params, DockerApi(params["socket"], timeout=20)
        self.registry = connect(redis_settings(params["redis"]))
        self.path = os.path.join(params["folder"], params["compose_file"])
        self.container = reading.of_service(self.api, params["folder"], params["service"])

    def look(self) -> former.Former:
        c = self.container
        if c is None:
            return former.Former("", False, 0.0, False)
        policy = ((c["HostConfig"].get("RestartPolicy") or {}).get("Name") or "no") != "no"
        return former.Former(c["Name"].lstrip("/"), c["State"]["Status"] == "running", moment(c["State"]["StartedAt"]) or 0.0, policy, self.marked())

    def mark(self) -> str:
        return os.path.join(self.p["state_dir"], f"adopted-{t.cast('dict[str, t.Any]', self.container)['Id'][:12]}")

    def marked(self) -> float | None:
        try:
            return os.stat(self.mark()).st_mtime
        except FileNotFoundError:
            return None

    def retire(self, check: bool) -> tuple[str, str]:
        """The compose file (before, after), changed unless `check`."""
        with open(self.path, encoding="utf-8") as handle:
            before = handle.read()
        after = compose_file.retired(before, self.p["service"])
        if after != before and not check:
            mode = os.stat(self.path).st_mode & 0o777
            with open(os.open(f"{self.path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as handle:
                handle.write(after)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(f"{self.path}.new", self.path)
        return before, after

    def carry_out(self, steps: former.Steps) -> None:
        if self.container is None:
            return
        where = f"/containers/{self.container['Id']}"
        if steps.keep_away:
            self.api.post(f"{where}/update", {"RestartPolicy": {"Name": "no"}})
        if steps.tell:
            os.makedirs(self.p["state_dir"], exist_ok=True)
            with open(self.mark(), "w", encoding="ascii") as handle:  # before the signal, so that it goes out once at most
                handle.write(f"{time.time():.0f}\n")
                os.fsync(handle.fileno())
            os.utime(self.mark())
            self.api.post(f"{where}/kill", signal="SIGTERM")
            self.wait(t.cast("t.Any", steps.node).id)

    def wait(self, node_id: str) -> None:
        """Until the registry says that it drains, or it has gone."""
        end = time.monotonic() + SEEN
        while time.monotonic() < end:
            node = self.registry.snapshot().nodes.get(node_id)
            if node is None or node.draining:
                return
            time.sleep(0.2)
        raise FleetError("drain the former node", node_id, "it was told to end and the registry still has it as serving",
                         "Look at its log; tell it nothing more", code="adopt_registry")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "service": {"type": "str", "default": "livekit"},
            "compose_file": {"type": "str", "default": "docker-compose.yaml"},
            "addresses": {"type": "list", "elements": "str", "default": []},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
            "state_dir": {"type": "path", "default": "/var/lib/livekit"},
            **redis_spec(required=True),
        },
        supports_check_mode=True,
    )
    try:
        drain = Drain(module.params)
        now, snapshot = drain.look(), drain.registry.snapshot()
        steps = former.steps(now, snapshot, module.params["addresses"], foreseen=module.check_mode)
        before, after = drain.retire(module.check_mode)
        if steps.changed and not module.check_mode:
            drain.carry_out(steps)
    except FleetError as exc:
        if module.check_mode and exc.failure["code"] == "missing_library":  # it comes with the deployment
            module.exit_json(changed=True, reason="it was not looked at, as python3-redis is not here yet", container="", node_id="", rooms=0, participants=0)
        module.fail_json(**exc.as_result())
    except OSError as exc:
        error = FleetError("drain the former node", module.params["folder"], exc, "Correct livekit_adopt_folder", code="adopt_folder")
        module.fail_json(**error.as_result())
    node = steps.node
    said = {"before": f"{now.container}: {steps.reason}\n", "after": f"{now.container}: {'it drains' if steps.tell else steps.reason}\n"}
    module.exit_json(changed=steps.changed or after != before, reason=steps.reason, container=now.container, node_id=node.id if node else "",
                     rooms=len(snapshot.rooms_of(node.id)) if node else 0, participants=node.num_clients if node else 0,
                     diff=[said, {"before_header": drain.path, "after_header": drain.path, **changed_lines(before, after)}])


def changed_lines(before: str, after: str) -> dict[str, str]:
    """Only the line that came: the file may hold secrets."""
    new = set(after.splitlines()) - set(before.splitlines())
    return {"before": "", "after": "".join(f"{line}\n" for line in after.splitlines() if line in new)}


if __name__ == "__main__":
    main()
