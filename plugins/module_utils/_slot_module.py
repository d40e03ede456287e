# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules slot and slot_info share. Note that this module util is PRIVATE to the collection."""
from __future__ import annotations

import dataclasses
import functools
import os
import typing as t

from .fleet.errors import FleetError
from .fleet.host import SlotHost
from .fleet.runtimes.docker import Docker
from .fleet.runtimes.pods import Pods
from .fleet.slots import Layout
from .fleet.targets import compose
from .fleet.targets.kubernetes.api import ACCOUNT

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from .fleet.generation import Slot


def argument_spec() -> dict[str, t.Any]:
    """The options of doc fragment _slots."""
    return {
        "layout": {"type": "dict", "default": {}},
        "address": {"type": "str", "default": "127.0.0.1"},
        "config_dir": {"type": "path", "default": "/etc/livekit/slots"},
        "state_dir": {"type": "path", "default": "/var/lib/livekit/slots"},
        "opt_dir": {"type": "path", "default": "/opt/livekit"},
        "target": {"type": "str", "choices": ["native", "compose", "kubernetes"], "default": "native"},
        "compose": {"type": "dict", "default": {}},
    }


def slot_host(module: AnsibleModule) -> SlotHost:
    p = module.params
    try:
        layout = Layout.from_mapping(p["layout"])
    except (TypeError, ValueError) as exc:
        names = sorted(f.name for f in dataclasses.fields(Layout))
        raise FleetError("read the port layout", "option layout", exc, f"Use only these names, each a number: {', '.join(names)}", code="layout") from exc
    run = functools.partial(_run, module)
    if p["target"] == "kubernetes":
        pods = _pods()
        return SlotHost(run, layout, address=p["address"], runtime=pods, shelf=pods)
    runtime = None
    if p["target"] == "compose":
        runtime = Docker(run, layout, compose.Settings.from_mapping(p["compose"]), p["config_dir"], p["address"])
    return SlotHost(run, layout, config_dir=p["config_dir"], state_dir=p["state_dir"], opt_dir=p["opt_dir"], address=p["address"], runtime=runtime)


def _pods() -> Pods:
    """The pods of the machine whose executor this runs beside."""
    try:
        with open(f"{ACCOUNT}/namespace", encoding="utf-8") as handle:
            return Pods(handle.read().strip(), os.environ["NODE_NAME"])
    except (KeyError, OSError) as exc:
        raise FleetError("look at the pods of this machine", "this host", "it is no executor of Kubernetes",
                         "With livekit_target: kubernetes the inventory names the control machine, in the group livekit_kubernetes, and no media hosts",
                         code="no_executor") from exc


def _run(module: AnsibleModule, command: list[str]) -> tuple[int, str, str]:
    """A command looked up in PATH; a host without it (no systemd yet, an image build) answers as if it knew nothing."""
    path = module.get_bin_path(command[0])
    return module.run_command([path, *command[1:]]) if path else (127, "", f"{command[0]} is not installed")


def as_row(slot: Slot, host: SlotHost) -> dict[str, t.Any]:
    """A slot as modules return it: its fields, what an operator calls its state, and its ports."""
    return {**dataclasses.asdict(slot), "label": slot.label, "ports": host.layout.ports(slot.slot).as_dict()}
