# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules scale and capacity_info share: a scaler with its pool, and what it was told of the past.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import os
import socket
import time
import typing as t

from .fleet import pools
from .fleet.demand_store import DemandStore
from .fleet.forecast import Forecaster, Outlook
from .fleet.journal import Journal
from .fleet.lock import Lock
from .fleet.orders import Orders
from .fleet.registry import Registry
from .fleet.scaler import Scaler
from .fleet.scaling_settings import ScalingSettings

LOCK = "scale"
WEEKS = 5


def scaler_of(registry: Registry, settings: ScalingSettings, params: t.Mapping[str, t.Any]) -> tuple[Scaler, Lock]:
    """A scaler whose lock is not held yet. Raises FleetError for a pool that cannot be."""
    owner = params["owner"] or f"{socket.gethostname()} pid {os.getpid()}"
    lock = Lock(registry, LOCK, owner, wait=params["lock_wait"])
    pool = pools.load(settings.pool, registry, Orders(registry, lock))
    return Scaler(registry, pool, settings, Journal(registry, owner), owner), lock


def outlook_of(path: str | None, settings: ScalingSettings) -> Outlook | None:
    """What the history that a controller keeps lets expect; None without one, or where it ends more than an hour ago."""
    if not path or not os.path.exists(path):
        return None
    store = DemandStore(path)
    try:
        rows = store.rows(time.time() - WEEKS * 7 * 86400)
    finally:
        store.close()
    if not rows or time.time() - rows[-1][0] > 3600:
        return None
    unit = settings.measure.capacity
    forecaster = Forecaster(settings.rules.boot, settings.rules.retire, unit, settings.goal, settings.rules.min * unit)
    for at, value in rows:
        forecaster.observe(at, value)
    return forecaster.outlook()
