# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's hands: a thread that acts, under a lock, while detection and lease go on.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import contextlib
import threading
import time
import traceback
import typing as t

from ..errors import FleetError
from ..journal import Journal
from ..lock import Lock
from ..move import Mover
from ..placement import Limits

if t.TYPE_CHECKING:
    from ..registry import Registry
    from .settings import Settings

Tell = t.Callable[[t.Dict[str, t.Any]], None]
_TAKE_OVER = """
local held = redis.call('GET', KEYS[1])
if held and cjson.decode(held).owner == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class Hands:
    """Does one job at a time with a connection and a lock of its own."""

    def __init__(self, settings: Settings, registry: Registry, name: str, tell: Tell, make: t.Callable[..., t.Any] = Mover) -> None:
        self.settings, self.registry, self.tell, self._make = settings, registry, tell, make
        self.lock = Lock(registry, name, settings.owner)
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def give(self, job: t.Callable[[], None]) -> bool:
        """Have the job done; False where the last one still goes on."""
        if self.busy:
            return False
        self._thread = threading.Thread(target=self._do, args=(job,), name=f"hands {self.lock.name}", daemon=True)
        self._thread.start()
        return True

    def wait(self, timeout: float) -> bool:
        """Whether they are free within that time."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.busy

    def journal(self) -> Journal:
        return Journal(self.registry, self.settings.owner, self.tell)

    def mover(self) -> t.Any:
        """A mover for one job."""
        return self._make(self.registry, self.lock, self.journal(), Limits(self.settings.cpu_limit, self.settings.participants_limit))

    @contextlib.contextmanager
    def hold(self) -> t.Iterator[None]:
        """The lock, taken from another controller if need be: only the leader acts, so one that holds it without the lease is dead or was
        deposed, and its token is refused from then on."""
        try:
            self.lock.acquire()
        except FleetError as exc:
            owner = str(exc.failure.get("owner"))
            if exc.failure["code"] != "locked" or not owner.startswith("controller@"):
                raise
            self.registry.evaluate("take over a lock", _TAKE_OVER, [self.lock.key], [owner])
            self.lock.acquire()
        try:
            yield
        finally:
            with contextlib.suppress(FleetError):
                self.lock.release()

    def _do(self, job: t.Callable[[], None]) -> None:
        try:
            job()
        except FleetError as exc:
            self.failed(exc)
        except Exception:  # pylint: disable=broad-except
            self.tell({"at": round(time.time(), 3), "by": self.settings.owner, "kind": "error", "reason": traceback.format_exc()[-2000:], "outcome": "failed"})

    def failed(self, exc: FleetError, **fields: t.Any) -> None:
        """Note it, but for the usual: an operator's run is at work, or Redis went away, which freezes us anyway."""
        if exc.failure["code"] not in ("locked", "redis_unreachable"):
            self.journal().note("failed", str(exc), outcome=exc.failure["code"], **fields)
