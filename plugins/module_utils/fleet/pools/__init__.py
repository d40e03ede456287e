# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools: where nodes come from when there are to be more, and where they go. base.py says what a pool promises.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import importlib
import typing as t

from ..errors import FleetError
from .base import ENDING, FAILED, ORDERED, RUNNING, Base, Machine, Pool

if t.TYPE_CHECKING:
    from ..orders import Orders
    from ..registry import Registry

__all__ = ["ENDING", "FAILED", "KINDS", "ORDERED", "RUNNING", "Base", "Machine", "Pool", "load"]

# Each in a module of its own: a host needs the libraries of its own pool only.
KINDS = {"slots": "slots.Slots", "inventory": "inventory.Inventory", "command": "command.Command", "kubernetes": "kubernetes.Kubernetes",
         "aws_asg": "aws_asg.AwsAsg", "aws_ecs": "aws_ecs.AwsEcs", "openstack": "openstack.Openstack"}


def load(config: t.Mapping[str, t.Any], registry: Registry, orders: Orders) -> Pool:
    """The pool of {kind: slots, ...its settings}. Raises FleetError pool_unknown, pool_settings, missing_library."""
    kind = str(config.get("kind") or "")
    if kind not in KINDS:
        raise FleetError("find the pool", kind or "without a kind", "there is no such pool", f"Known are {', '.join(sorted(KINDS))}", code="pool_unknown")
    module, _dot, name = KINDS[kind].rpartition(".")
    found = getattr(importlib.import_module(f".{module}", __package__), name)
    return t.cast(Pool, found.of({key: value for key, value in config.items() if key != "kind"}, registry, orders))
