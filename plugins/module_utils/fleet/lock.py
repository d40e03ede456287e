# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks in the registry: an owner, an expiry, and a fencing token that grows with every acquisition.

A lock is held for seconds and renewed while its holder works; a holder that dies loses it by itself. Whoever acts carries the
token: a script or an order with a token that is no longer the lock's is refused, so a holder that slept through its expiry
cannot do harm.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import contextlib
import json
import time
import typing as t

from .errors import FleetError
from .redis_connection import as_text

if t.TYPE_CHECKING:
    from .registry import Registry

PREFIX = "openrtc:lock:"
TOKENS = "openrtc:tokens"  # a counter, never reset: tokens of all locks
TTL = 15.0  # seconds

_ACQUIRE = """
local held = redis.call('GET', KEYS[1])
if held then return {0, held, redis.call('PTTL', KEYS[1])} end
local token = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], cjson.encode({owner = ARGV[1], token = token}), 'PX', ARGV[2])
return {token, '', 0}
"""
_RENEW = """
local held = redis.call('GET', KEYS[1])
if not held or tostring(cjson.decode(held).token) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE = """
local held = redis.call('GET', KEYS[1])
if not held or tostring(cjson.decode(held).token) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


class Lock:
    """A lock by name. Use it in `with`, or call acquire(), renew() while working, release()."""

    def __init__(self, registry: Registry, name: str, owner: str, ttl: float = TTL, wait: float = 0.0) -> None:
        self.registry, self.name, self.owner, self.ttl, self.wait = registry, name, owner, ttl, wait
        self.key = PREFIX + name
        self.token = 0  # 0: not held

    def acquire(self) -> Lock:
        """Take it, once it is free within `wait` seconds. Raises FleetError locked, with owner and expires_in (seconds)."""
        end = time.monotonic() + self.wait
        while True:
            token, held, left = self.registry.evaluate("take a lock", _ACQUIRE, [self.key, TOKENS], [self.owner, int(self.ttl * 1000)])
            if token or time.monotonic() >= end:
                break
            time.sleep(0.25)
        if not token:
            owner = str(json.loads(as_text(held)).get("owner"))
            raise FleetError("take the lock", self.name, f"{owner} holds it",
                             f"Wait until that run ends; if it was killed, the lock ends by itself in {left / 1000:.0f} s",
                             code="locked", owner=owner, expires_in=left / 1000)
        self.token = int(token)
        return self

    def renew(self) -> None:
        """Hold it for another ttl. Raises FleetError lock_lost where it expired or went to somebody else."""
        if not self.registry.evaluate("renew a lock", _RENEW, [self.key], [self.token, int(self.ttl * 1000)]):
            self.token = 0
            raise FleetError("keep the lock", self.name, f"{self.owner} no longer holds it", "Run again: the next run goes on from where this one stopped",
                             code="lock_lost")

    def release(self) -> None:
        if self.token:
            token, self.token = self.token, 0
            self.registry.evaluate("release a lock", _RELEASE, [self.key], [token])

    def __enter__(self) -> Lock:
        return self.acquire()

    def __exit__(self, *_exc: t.Any) -> None:
        with contextlib.suppress(FleetError):  # it expires by itself; why the holder stopped must not be hidden
            self.release()
