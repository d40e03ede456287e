# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""LiveKit's webhooks: their signature, and what is learnt from them. Statistics only: they get lost when a node dies, so nothing is
ever decided by them alone.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
import typing as t

from .. import eta
from ..errors import FleetError, require

try:
    import jwt
except ImportError:
    jwt = None  # type: ignore[assignment]

if t.TYPE_CHECKING:
    from ..registry import Registry

LEEWAY = 60  # seconds two clocks may differ, as LiveKit itself allows
SEEN = "openrtc:event:"  # + id of an event: both controllers may get it, and LiveKit repeats what was not answered in time
SEEN_SECONDS = 600
EVENTS = "openrtc:events"  # a list, newest first: {at, event, room, who}
KEEP = 100
KNOWN = frozenset((
    "room_started", "room_finished", "participant_joined", "participant_left", "participant_connection_aborted", "track_published", "track_unpublished",
    "egress_started", "egress_updated", "egress_ended", "ingress_started", "ingress_ended",
))
_OUR_OWN = re.compile(r"probe-[0-9a-f]{16}")  # rooms of gates and of verify (probe.py) last seconds and say nothing about calls
# KEYS: seen, events, durations. ARGV: seconds to remember it, the event as JSON or '', events to keep, duration or '', durations to keep.
_NOTE = """
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) then return 0 end
if ARGV[2] ~= '' then
  redis.call('LPUSH', KEYS[2], ARGV[2])
  redis.call('LTRIM', KEYS[2], 0, ARGV[3] - 1)
end
if ARGV[4] ~= '' then
  redis.call('LPUSH', KEYS[3], ARGV[4])
  redis.call('LTRIM', KEYS[3], 0, ARGV[5] - 1)
end
return 1
"""


def verify(body: bytes, token: str, keys: t.Mapping[str, str], now: float | None = None) -> dict[str, t.Any]:
    """The event, when one of the keys signed exactly this body. Raises FleetError webhook_refused."""
    require(jwt, "pyjwt", "python3-jwt")
    try:
        key = str(jwt.decode(token, options={"verify_signature": False}).get("iss"))
        if key not in keys:
            raise _refused("it is signed with a key that is not ours")
        claims = jwt.decode(token, keys[key], algorithms=["HS256"], options={"require": ["exp"], "verify_exp": False, "verify_nbf": False, "verify_iat": False})
        moment = time.time() if now is None else now
        if moment > float(claims["exp"]) + LEEWAY or moment < float(claims.get("nbf", 0)) - LEEWAY:
            raise _refused("its signature is out of date, or the clocks differ")
        want = base64.b64encode(hashlib.sha256(body).digest()).decode()
        if not hmac.compare_digest(want.encode(), str(claims.get("sha256")).encode()):
            raise _refused("it is signed for another body")
        event = json.loads(body)
    except (jwt.InvalidTokenError, ValueError, TypeError) as exc:
        raise _refused(str(exc)) from exc
    if not isinstance(event, dict):
        raise _refused("its body is no event")
    return event


def _refused(got: str) -> FleetError:
    return FleetError("take a webhook", "POST /webhook", got, "Set livekit_webhook.api_key to a name in livekit_keys and deploy, so that nodes and "
                      "controller share it", code="webhook_refused")


def learn(event: t.Mapping[str, t.Any]) -> tuple[dict[str, t.Any] | None, float | None]:
    """(what to show of the event, how long the room lasted). A finished room carries both of its times, so order does not matter."""
    kind, room = str(event.get("event")), _mapping(event.get("room"))
    if _OUR_OWN.fullmatch(str(room.get("name"))):
        return None, None
    at, created = _seconds(event.get("createdAt")), _seconds(room.get("creationTime"))
    lasted = at - created if kind == "room_finished" and at and created and at >= created else None
    if not kind.startswith(("room_", "participant_", "egress_", "ingress_")):
        return None, lasted
    return {"at": at, "event": kind, "room": room.get("name"), "who": _mapping(event.get("participant")).get("identity")}, lasted


def note(registry: Registry, event: t.Mapping[str, t.Any]) -> bool:
    """Keep what the event teaches; False where it was known already."""
    shown, lasted = learn(event)
    number = str(event.get("id") or hashlib.sha256(json.dumps(event, sort_keys=True).encode()).hexdigest())
    args = [SEEN_SECONDS, json.dumps(shown) if shown else "", KEEP, "" if lasted is None else lasted, eta.KEEP]
    return bool(registry.evaluate("note a webhook", _NOTE, [SEEN + number, EVENTS, eta.DURATIONS], args))


def _mapping(value: t.Any) -> t.Mapping[str, t.Any]:
    return value if isinstance(value, dict) else {}


def _seconds(value: t.Any) -> float:
    """protobuf's JSON writes 64-bit integers as text."""
    try:
        return float(value or 0)
    except (TypeError, ValueError):
        return 0.0
