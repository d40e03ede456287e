# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate of a new node: one short real call, in a room pinned to that node, with advice where it fails.

The library that places calls belongs into a process of its own: C(run_in_child) starts one, hands it the requests (and
with them the secret) on stdin and reads the results from its stdout. The child is this module, run as a program with the
directory above the package on PYTHONPATH, which works from a checkout, from an installed collection and from the archive
that Ansible sends to a host::

    PYTHONPATH=.../plugins/module_utils python -m fleet.probe < request.json
    PYTHONPATH=<collections path> python -m ansible_collections.openrtc.livekit.plugins.module_utils.fleet.probe

One request (a JSON object) gives one JSON object; a JSON list gives one line C({"index": n, "result": {...}}) for each
request as it ends. The exit code is 0 for a failed probe too: C(ok) is false then and C(failure) tells why.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import typing as t
import uuid

from . import sdk
from .call import Call, warm
from .call_figures import SILENCE, connect_code, fix_for
from .errors import FleetError

JOIN_TIME = 15.0  # a probe does not wait longer for its two participants; the SDK alone would try three times as long
PARALLEL = 4  # calls of one child at a time
REQUEST_KEYS = {"url", "key", "secret", "node_id", "seconds", "room", "transport", "timeout", "threshold", "ports"}


async def probe(
    url: str, key: str, secret: str, node_id: str | None = None, seconds: float = 2.0, room: str | None = None,
    transport: str = "any", timeout: float = 30.0, threshold: float = SILENCE, ports: t.Mapping[str, t.Any] | None = None,
) -> dict[str, t.Any]:
    """One real call through url, in a fresh room, pinned to node_id when given. The room is deleted whatever happens.

    seconds count from the first sound. transport: any; relay = only through TURN; tcp = ask the server for ICE/TCP.
    ports ({udp: [first, last], ice_tcp: n}) only make the advice of a failure more exact.
    Raises FleetError with code probe_signal, probe_tls, probe_auth, probe_node, probe_room, probe_media, probe_relay,
    probe_drop or probe_timeout; its failure mapping has C(call), the record so far.
    """
    _rtc, api = sdk.load()
    name = room or f"probe-{uuid.uuid4().hex[:16]}"
    on = f"{url}, node {node_id}" if node_id else url
    call: Call | None = None

    def failure(code: str, got: t.Any, tried: str = "place a test call") -> FleetError:
        more = {"call": call.result()} if call else {}
        return FleetError(tried, on, got, fix_for(code, url, node_id, ports), code=code, room=name, node_id=node_id, **more)

    try:
        lk = api.LiveKitAPI(url, key, secret, failover=False)
    except ValueError as error:
        raise failure("probe_auth", error) from error
    deadline = time.monotonic() + timeout
    try:
        await _create_room(lk, api, name, node_id, min(10.0, timeout), failure)
        call = Call(url, key, secret, name, threshold=threshold, transport=transport)
        try:
            async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                await _hold(call, seconds)
        except TimeoutError as error:
            seen = await _seen_by_server(lk, api, name)
            await call.close()
            raise _late(call, seen, transport, timeout, failure) from error
        finally:
            await call.close()
        return _judge(call, transport, node_id, failure)
    finally:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(lk.room.delete_room(api.DeleteRoomRequest(room=name)), 5)
        await lk.aclose()


async def _hold(call: Call, seconds: float) -> None:
    """Join, wait for the first sound, and go on for so long after it."""
    async with asyncio.timeout(JOIN_TIME):
        joined = await call.open()
    if not joined:
        return
    audible = asyncio.ensure_future(call.audible.wait())
    over = asyncio.ensure_future(call.over.wait())
    await asyncio.wait([audible, over], timeout=10, return_when=asyncio.FIRST_COMPLETED)
    audible.cancel()
    over.cancel()
    if call.audible.is_set():
        await call.wait(seconds)


async def _create_room(
    lk: t.Any, api: t.Any, name: str, node_id: str | None, timeout: float, failure: t.Callable[..., FleetError],
) -> None:
    aiohttp = importlib.import_module("aiohttp")
    # a short departure timeout: a node that drains next shall not wait for the room of its own gate
    request = api.CreateRoomRequest(name=name, empty_timeout=60, departure_timeout=1, max_participants=4)
    if node_id:
        request.node_id = node_id
    step = "create the room of a test call"
    try:
        await asyncio.wait_for(lk.room.create_room(request), timeout)
    except api.TwirpError as error:
        text = f"{error.code}: {error.message} (HTTP {error.status})"
        if error.status in (401, 403) or error.code in ("unauthenticated", "permission_denied"):
            raise failure("probe_auth", text, step) from error
        if node_id and re.search("node|could not find object", error.message.lower()):  # the latter is what 1.13 says of an unknown ID
            raise failure("probe_node", text, step) from error
        if error.status in (404, 502, 503, 504):
            raise failure("probe_signal", text, step) from error
        raise failure("probe_room", text, step) from error
    except aiohttp.ClientSSLError as error:
        raise failure("probe_tls", error, step) from error
    except asyncio.TimeoutError as error:
        raise failure("probe_timeout", f"no answer within {timeout:g} s", step) from error
    except (aiohttp.ClientError, OSError) as error:
        raise failure("probe_signal", error or repr(error), step) from error


async def _seen_by_server(lk: t.Any, api: t.Any, room: str) -> int:
    """How many participants the server knows in the room: those reached it, whatever became of their media."""
    try:
        found = await asyncio.wait_for(lk.room.list_participants(api.ListParticipantsRequest(room=room)), 3)
    except Exception:  # pylint: disable=broad-except
        return 0
    return len(found.participants)


def _stage(call: Call) -> str:
    if len(call.joins) < 2:
        return f"joined: {', '.join(call.joins) or 'nobody'}"
    return "media flowed" if call.audible.is_set() else "joined, no media"


def _late(call: Call, seen: int, transport: str, timeout: float, failure: t.Callable[..., FleetError]) -> FleetError:
    """What a call deserves that was not done in time; seen: participants the server knows."""
    if not call.audible.is_set() and (seen or call.joins):
        code = "probe_relay" if transport == "relay" else "probe_media"
        return failure(code, f"signalling works ({seen or len(call.joins)} of 2 known to the server), but no media connection came up")
    return failure("probe_timeout", f"not done after {timeout:g} s ({_stage(call)})")


def _judge(call: Call, transport: str, node_id: str | None, failure: t.Callable[..., FleetError]) -> dict[str, t.Any]:
    """The result of a probe, or the FleetError its call deserves."""
    out = call.result()
    if call.failed:
        code = connect_code(call.failed)
        raise failure("probe_relay" if code == "probe_media" and transport == "relay" else code, call.failed)
    if call.lost:
        raise failure("probe_drop", out["reason"])
    if call.heard.first is None:
        raise failure("probe_relay" if transport == "relay" else "probe_media", "joined, but no sound came through")
    if out["dropped"]:
        raise failure("probe_drop", out["reason"])
    return {"ok": True, "node_id": node_id, **out}


# ---------------------------------------------------------------- as a program, in a process of its own


async def _answer(request: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    base = {"ok": False, "room": request.get("room"), "node_id": request.get("node_id"), "url": request.get("url")}
    unknown = set(request) - REQUEST_KEYS
    try:
        if unknown or not {"url", "key", "secret"} <= set(request):
            raise FleetError(
                "read a probe request", str(request.get("url")),
                f"unknown: {sorted(unknown)}" if unknown else "url, key or secret is missing",
                f"Use the keys {', '.join(sorted(REQUEST_KEYS))}.", code="probe_argument",
            )
        return await probe(**request)
    except FleetError as error:
        record = error.failure.pop("call", None) or {}
        return {**record, **base, "room": error.failure.get("room", base["room"]), "reason": error.failure["got"], **error.as_result()}
    except Exception as error:  # pylint: disable=broad-except
        failed = FleetError("place a test call", str(request.get("url")), repr(error), fix_for("probe_crash"), code="probe_crash")
        return {**base, "reason": repr(error), **failed.as_result()}


def main() -> None:
    """One request or a list of them on stdin, results on stdout; nothing else gets there."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asked = json.load(sys.stdin)
    many = isinstance(asked, list)
    requests: list[dict[str, t.Any]] = [dict(r) for r in (asked if many else [asked])]
    files = {r.pop("ca_file", None) for r in requests} - {None}
    sdk.isolate(next(iter(files)) if files else None)

    with contextlib.suppress(FleetError, ImportError):  # each request tells it properly
        warm()

    async def work() -> None:
        gate = asyncio.Semaphore(PARALLEL)

        async def one(index: int, request: dict[str, t.Any]) -> None:
            async with gate:
                result = await _answer(request)
            out.write(json.dumps({"index": index, "result": result} if many else result) + "\n")
            out.flush()

        await asyncio.gather(*(one(i, r) for i, r in enumerate(requests)))

    asyncio.run(work())
    out.flush()
    os._exit(0)  # the native library may abort the process while Python takes itself down


def run_in_child(requests: t.Sequence[t.Mapping[str, t.Any]], timeout: float = 60.0, ca_file: str | None = None) -> list[dict[str, t.Any]]:
    """All requests (arguments of C(probe)) in one child process, several at a time; one result for each, in order.

    The child is killed by its pid after timeout; requests without an answer then get the failure probe_timeout.
    """
    if not requests:
        return []
    package = pathlib.Path(__file__).parent.name
    with subprocess.Popen(
        [sys.executable, "-m", f"{package}.probe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=_child_env(ca_file), start_new_session=True,
    ) as child:
        ask = json.dumps([dict(r) for r in requests]).encode()
        try:
            out, err = child.communicate(ask, timeout=timeout)
            late = False
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            late = True
    answers = _answers(out)
    words = err.decode(errors="replace").strip()[-400:] or "no message"
    code = "probe_timeout" if late else "probe_crash"
    got = f"no answer within {timeout:g} s" if late else f"the child ended with {child.returncode}: {words}"
    return [answers[n] if n in answers else _unanswered(request, code, got) for n, request in enumerate(requests)]


def _child_env(ca_file: str | None) -> dict[str, str]:
    """The environment of the child: no proxy, this package on its path, and ca_file trusted."""
    env = {k: v for k, v in os.environ.items() if k not in sdk.PROXIES}
    env.update(PYTHONPATH=str(pathlib.Path(__file__).parent.parent), PYTHONSAFEPATH="1", PYTHONDONTWRITEBYTECODE="1")
    if ca_file:
        if not os.path.isfile(ca_file):
            raise FleetError(
                "read the CA file", ca_file, "no such file", "Give the path of a PEM file on the machine that places the call.",
                code="probe_argument",
            )
        sdk.trust(ca_file, env)
    return env


def _answers(out: bytes) -> dict[int, dict[str, t.Any]]:
    """The results in the child's output by the index of their request."""
    answers: dict[int, dict[str, t.Any]] = {}
    for line in out.decode(errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            answers[entry["index"]] = entry["result"]
    return answers


def _unanswered(request: t.Mapping[str, t.Any], code: str, got: str) -> dict[str, t.Any]:
    """The result of a request that the child said nothing about."""
    failed = FleetError("place a test call", str(request.get("url")), got, fix_for(code), code=code)
    return {
        "ok": False, "room": request.get("room"), "node_id": request.get("node_id"), "url": request.get("url"),
        "reason": got, **failed.as_result(),
    }


if __name__ == "__main__":
    main()
