# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How orders reach the executor: a subscription that is renewed for ever, and the rules by which an order is refused.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import json
import threading
import time
import typing as t

from .errors import FleetError
from .lock import TOKENS
from .orders import CHANNEL, REPLY
from .registry import Registry

Log = t.Callable[..., None]
KEEP_ANSWER = 60  # seconds
FREE = ("observe",)  # orders that change nothing need no lock


class Desk:
    """Judges orders by token and time. Remembers the highest token of each lock."""

    def __init__(self) -> None:
        self.highest: dict[str, int] = {}
        self._lock = threading.Lock()

    def judge(self, order: t.Mapping[str, t.Any], now: float, counter: t.Callable[[], int]) -> None:
        """Raises FleetError order_void. counter() tells the newest token there is; asked only when the order's looks old."""
        lock, token, until = str(order.get("lock") or ""), int(order.get("token") or 0), float(order.get("until") or 0)
        if now > until:
            raise _void(order, f"it came {now - until:.1f} s too late", "Send it again if it is still wanted")
        if order.get("what") in FREE:
            return
        with self._lock:
            if self.highest.get(lock, 0) > token > 0 and counter() < self.highest[lock]:
                self.highest.clear()  # Redis lost its data and counts from the start
            if token < max(1, self.highest.get(lock, 0)):
                raise _void(order, f"its token {token} of lock {lock} is older than {self.highest.get(lock, 0)}",
                            "The sender lost its lock to somebody else: run again")
            self.highest[lock] = token


def _void(order: t.Mapping[str, t.Any], got: str, fix: str) -> FleetError:
    return FleetError("carry out an order", str(order.get("what")), got, fix, code="order_void")


class Listener:
    """Hears the orders of one host and answers them, each in a thread of its own. run() returns when `stop` is set."""

    def __init__(self, redis: t.Mapping[str, t.Any], host: str, do: t.Callable[[str, t.Mapping[str, t.Any]], t.Any], log: Log, stop: threading.Event) -> None:
        self.hear, self.answers = Registry(redis), Registry(redis)
        self.channel, self.do, self.log, self.stop = CHANNEL + host, do, log, stop
        self.desk = Desk()
        self.since: float | None = None  # monotonic time of the subscription
        self._renew = threading.Event()
        self._answering = threading.Lock()

    def unheard(self) -> None:
        """Redis says that nobody listens: the subscription was lost without a word (a failover, a dead connection)."""
        if self.since is not None and time.monotonic() - self.since > 2.0:
            self._renew.set()

    def run(self) -> None:
        pause, said = 0.1, ""
        while not self.stop.is_set():
            try:
                self._listen()
                got = ""
            except Exception as exc:  # pylint: disable=broad-except  # nothing may end this: orders must be heard again
                got = exc.failure["got"] if isinstance(exc, FleetError) else type(exc).__name__
            if self.since is not None:
                pause, said, self.since = 0.1, "", None
            if got and got != said:
                self.log("orders", state="down", got=got)
            said = got
            self.stop.wait(pause)
            pause = min(1.0, pause * 2)

    def _listen(self) -> None:
        self._renew.clear()
        self.hear.close()
        pubsub = self.hear.listen(self.channel)
        try:
            self.since = time.monotonic()
            self.log("orders", state="up", redis=self.hear.address)
            while not self.stop.is_set() and not self._renew.is_set():
                message = pubsub.get_message(timeout=1.0)
                if message and message.get("data"):  # an empty one is our own heartbeat
                    threading.Thread(target=self.take, args=(message["data"],), daemon=True).start()
        finally:
            pubsub.close()

    def take(self, raw: bytes) -> None:
        """Carry out one order and answer it."""
        begun, order = time.monotonic(), {}
        try:
            order = dict(json.loads(raw))
            with self._answering:
                now = self.answers.now()
            self.desk.judge(order, now, self._counter)
            answer: dict[str, t.Any] = {"result": self.do(str(order.get("what")), order.get("args") or {})}
        except FleetError as exc:
            answer = {"failure": exc.failure}
        except Exception as exc:  # pylint: disable=broad-except  # whoever sent it waits for an answer
            answer = {"failure": {"code": "order_failed", "tried": f"carry out {order.get('what')}", "got": f"{type(exc).__name__}: {exc}",
                                  "fix": "See journalctl -u livekit-executor on that host"}}
        self.log("order", what=order.get("what"), args=order.get("args"), by=order.get("by"), lock=order.get("lock"), token=order.get("token"),
                 seconds=round(time.monotonic() - begun, 3), **_outcome(answer))
        if order.get("id"):
            self._reply(str(order["id"]), answer)

    def _counter(self) -> int:
        with self._answering:
            (found,) = self.answers.ask("read the newest token", ("GET", TOKENS))
        return int(found or 0)

    def _reply(self, number: str, answer: dict[str, t.Any]) -> None:
        try:
            with self._answering:
                self.answers.ask("answer an order", ("RPUSH", REPLY + number, json.dumps(answer, default=str)), ("EXPIRE", REPLY + number, KEEP_ANSWER))
        except FleetError as exc:
            self.log("answer_lost", id=number, got=exc.failure["got"])


def _outcome(answer: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What the log keeps of an answer: no report of a host, no list of rooms."""
    if answer.get("failure"):
        return {"failed": answer["failure"]["code"], "got": answer["failure"].get("got")}
    return {"result": {k: v for k, v in answer["result"].items() if isinstance(v, (bool, int, float))}}
