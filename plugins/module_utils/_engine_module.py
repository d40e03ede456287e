# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules drain, room_move and registry_cleanup share: an engine under its lock. Note that this module util is PRIVATE to the collection."""
from __future__ import annotations

import contextlib
import os
import socket
import typing as t

from ._registry_module import redis_settings, redis_spec
from .fleet.journal import Journal
from .fleet.lock import Lock
from .fleet.move import Mover
from .fleet.placement import Limits
from .fleet.registry import Registry, connect

LOCK = "move"  # one mover at a time in a cluster


def engine_spec() -> dict[str, t.Any]:
    """The options of doc fragment _engine, redis included."""
    return {
        **redis_spec(required=True),
        "cpu_limit": {"type": "float", "default": 0.9},
        "participants_limit": {"type": "int", "default": 0},
        "lock_wait": {"type": "float", "default": 60},
        "owner": {"type": "str"},
    }


def registry_of(params: t.Mapping[str, t.Any]) -> Registry:
    return connect(redis_settings(params["redis"]))


def mover_of(registry: Registry, params: t.Mapping[str, t.Any]) -> Mover:
    """A mover that does not hold its lock yet: good for looking."""
    owner = params["owner"] or f"{socket.gethostname()} pid {os.getpid()}"
    return Mover(registry, Lock(registry, LOCK, owner, wait=params["lock_wait"]), Journal(registry, owner),
                 Limits(params["cpu_limit"], params["participants_limit"]))


@contextlib.contextmanager
def engine(params: t.Mapping[str, t.Any]) -> t.Iterator[Mover]:
    """A mover that holds the lock."""
    with registry_of(params) as registry:
        mover = mover_of(registry, params)
        with mover.lock:
            yield mover
