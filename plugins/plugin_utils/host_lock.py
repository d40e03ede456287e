# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock of one host during a change, taken through the host itself, as the control machine may not reach Redis."""
from __future__ import annotations

import contextlib
import signal
import threading
import typing as t

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.plugin_utils.owner import owner

Module = t.Callable[[str, t.Dict[str, t.Any]], t.Dict[str, t.Any]]


class HostLock:
    """`with HostLock(…)`: held inside, given back at the end, after Ctrl-C too. A run that is killed loses it when ttl is over.

    module(name, options) runs one of our modules on the host and raises FleetError where it fails.
    """

    def __init__(self, module: Module, redis: dict[str, t.Any], host: str, ttl: float) -> None:
        self.module, self.signals = module, {}  # type: ignore[var-annotated]
        self.options: dict[str, t.Any] = {"redis": redis, "name": f"host:{host}", "owner": owner(), "ttl": ttl}

    def hold(self) -> None:
        """Take it, or hold it for another ttl."""
        self.options["token"] = self.module("lock", self.options)["token"]

    def __enter__(self) -> HostLock:
        self.hold()
        if threading.current_thread() is threading.main_thread():  # of a worker, which ends at once otherwise
            self.signals = {number: signal.signal(number, self._interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_exc: t.Any) -> None:
        try:
            with contextlib.suppress(FleetError):  # then it expires
                self.module("lock", {**self.options, "state": "released"})
        finally:
            for number, before in self.signals.items():
                signal.signal(number, before)

    def _interrupted(self, number: int, _frame: t.Any) -> None:
        for each in self.signals:
            signal.signal(each, signal.SIG_IGN)  # the same again must not keep the lock from being given back
        raise KeyboardInterrupt(f"signal {number}")
