# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Orders to the executors of hosts, through the registry: drain a slot, fence a node, cut signalling.

An order is published on a channel of its host, so it reaches an executor that listens now or nobody: none is ever carried out
late. It carries the token of the lock it was given under, and a time after which it is void. The answer comes back on a list.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import json
import time
import typing as t
import uuid

from .errors import FleetError
from .redis_connection import as_text

if t.TYPE_CHECKING:
    from .lock import Lock
    from .registry import Registry

CHANNEL = "openrtc:orders:"  # + host
REPLY = "openrtc:reply:"  # + id of the order; a list of one


class Order(t.NamedTuple):
    """What a host is to do: `what` is one of executor.ORDERS, `args` its options."""

    host: str
    what: str
    args: dict[str, t.Any]


class Orders:
    """Sends orders under a lock."""

    def __init__(self, registry: Registry, lock: Lock) -> None:
        self.registry, self.lock = registry, lock

    def ask(self, orders: t.Sequence[Order], timeout: float = 5.0) -> list[dict[str, t.Any]]:
        """Send all, wait for all: what each host answered, in the same order.

        Raises FleetError order_unheard (no executor listens), order_timeout, or what the host itself failed with; failure.answers
        holds the answers of the others.
        """
        if not orders:
            return []
        answers = self.try_all(orders, timeout)
        failed = [a for a in answers if isinstance(a, FleetError)]
        if failed:
            failed[0].failure["answers"] = [a for a in answers if not isinstance(a, FleetError)]
            raise failed[0]
        return t.cast("list[dict[str, t.Any]]", answers)

    def try_all(self, orders: t.Sequence[Order], timeout: float = 5.0) -> list[dict[str, t.Any] | FleetError]:
        """As ask(), but a failure stands in its place in the list."""
        until = self.registry.now() + timeout
        ids = [uuid.uuid4().hex for dummy in orders]
        heard = self.registry.ask("send orders", *[
            ("PUBLISH", CHANNEL + order.host, json.dumps({
                "id": number, "what": order.what, "args": order.args, "lock": self.lock.name, "token": self.lock.token, "by": self.lock.owner, "until": until,
            })) for number, order in zip(ids, orders)])
        end = time.monotonic() + timeout
        return [self._answer(order, number, end, count) for order, number, count in zip(orders, ids, heard)]

    def _answer(self, order: Order, number: str, end: float, heard: int) -> dict[str, t.Any] | FleetError:
        tried = f"have host {order.host} {order.what}"
        if not heard:
            return FleetError(tried, order.host, "its executor does not listen",
                              "See systemctl status livekit-executor on that host; run openrtc.livekit.deploy where it was never installed",
                              code="order_unheard")
        left = max(0.05, end - time.monotonic())
        found = self.registry.wait_for(REPLY + number, left)
        if found is None:
            return FleetError(tried, order.host, "no answer in time", "See journalctl -u livekit-executor on that host", code="order_timeout")
        answer = json.loads(as_text(found))
        if answer.get("failure"):
            f = dict(answer["failure"])
            return FleetError(f.pop("tried", tried), f.pop("on", order.host), f.pop("got", "failed"), f.pop("fix", ""), **f)
        return dict(answer.get("result") or {})
