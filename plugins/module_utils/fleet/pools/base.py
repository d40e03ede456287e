# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every pool can do, and what the scaler relies on.

- machines() tells all there are, those still starting and those on their way out included. It never guesses: what cannot be asked raises.
- add() with the same `order` twice adds once. What it added shows in machines() from then on, or add() raises.
- retire() gives back exactly the machines it is told, never others, and the pool then is that much smaller. What is gone already is no error.
- retire() is told only of machines that nobody is on any more. A pool that can tell that somebody is refuses, or waits for the calls.

tests/unit/fleet/pool_conformance.py holds each pool to this.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import abc
import time
import typing as t

from ..errors import FleetError

ORDERED, RUNNING, ENDING, FAILED = "ordered", "running", "ending", "failed"


class Machine(t.NamedTuple):
    """One machine, pod or slot. `host` is the name under which its executor reports, "" where the pool does not know it; then `address` finds it."""

    id: str
    state: str  # ordered: not up yet; running; ending: the pool itself is taking it away, or was told to; failed: it will not come up
    host: str = ""
    address: str = ""  # private
    slot: int = 0  # of that host; 0: all of it
    since: float = 0.0  # when it was ordered, Unix seconds; 0: not known
    protected: bool = False  # by its operator: never to be given back


class Pool(t.Protocol):
    """See the module's text for what each promises. All raise FleetError: pool_unreachable, pool_refused (quota, rights), pool_full, pool_answer.

    Two attributes a pool may have: takes_away, it may take a machine by itself, which then is `ending` until retire() is told of it, or its time is over;
    graceful, retire() itself is the drain, and the machine is `ending` while calls are on it.
    """

    name: str

    def machines(self) -> list[Machine]:
        """All machines of the pool, by id."""

    def size(self) -> int:
        """How many machines there are or will be: orders count, those that are ending do not."""

    def add(self, count: int, order: str = "") -> list[str]:
        """Order so many more and return at once: the ids that are known already. order: the same word is the same order."""

    def retire(self, ids: t.Sequence[str]) -> list[str]:
        """Give these back: the ids that were still there."""

    def wait_ready(self, ids: t.Sequence[str], timeout: float) -> list[Machine]:
        """Until all of them run. Raises FleetError pool_timeout, pool_failed."""


class Base(abc.ABC):
    """size() and wait_ready() for pools whose machines() tells all that is needed."""

    name = ""
    poll = 1.0  # seconds between two looks

    @abc.abstractmethod
    def machines(self) -> list[Machine]:
        """See Pool."""

    def size(self) -> int:
        return sum(m.state in (ORDERED, RUNNING) for m in self.machines())

    def wait_ready(self, ids: t.Sequence[str], timeout: float) -> list[Machine]:
        end = time.monotonic() + timeout
        while True:
            found = {m.id: m for m in self.machines()}
            failed = [i for i in ids if i in found and found[i].state in (FAILED, ENDING)]
            if failed:
                raise FleetError("wait for machines", ", ".join(failed), f"the pool {self.name} says that they failed", "See the pool's own log",
                                 code="pool_failed", ids=failed)
            late = [i for i in ids if i not in found or found[i].state != RUNNING]
            if not late:
                return [found[i] for i in ids]
            if time.monotonic() >= end:
                raise FleetError("wait for machines", ", ".join(late), f"not running after {timeout:g} s",
                                 "Look at them in the pool itself; the scaler replaces what does not serve in time", code="pool_timeout", ids=late)
            time.sleep(min(self.poll, max(0.0, end - time.monotonic())))


def check_count(count: int) -> None:
    if count < 1:
        raise FleetError("add machines", str(count), "it is no number of machines", "Give 1 or more", code="pool_count")


def option(pool: str, settings: t.Mapping[str, t.Any], known: t.Mapping[str, t.Any], required: t.Sequence[str] = ()) -> dict[str, t.Any]:
    """The settings of a pool over their defaults. Raises FleetError pool_settings for what is unknown, missing or of another type."""
    wrong = [f"{name} is unknown" for name in settings if name not in known]
    wrong += [f"{name} is missing" for name in required if not settings.get(name, known[name])]
    for name, value in settings.items():
        default = known.get(name)
        if isinstance(default, bool) and not isinstance(value, bool):
            wrong.append(f"{name} is {value!r}, not true or false")
        elif isinstance(default, float) and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0):
            wrong.append(f"{name} is {value!r}, not a number of 0 or more")
        elif isinstance(default, (str, list, dict)) and not isinstance(value, type(default)):
            wrong.append(f"{name} is {value!r}, not a {({str: 'text', list: 'list', dict: 'mapping'})[type(default)]}")
    if wrong:
        raise FleetError("read the settings of a pool", pool, "; ".join(wrong), f"Known are {', '.join(sorted(known)) or 'none'}", code="pool_settings")
    return {**known, **settings}
