# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What HAProxy thinks of the slots, read from its statistics page.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import base64
import csv
import io
import time
import typing as t
import urllib.error
import urllib.request

from ..errors import FleetError


def server_name(host: str, slot: int) -> str:
    """How a slot is called in the balancer's configuration."""
    return f"{host}-s{slot}"


def parse(text: str) -> dict[tuple[str, str], str]:
    """The CSV of the statistics page as {(proxy, server): status}, for example ("livekit", "sfu1-s1"): "UP"."""
    rows = csv.DictReader(io.StringIO(text.lstrip("# ")))
    return {(r["pxname"], r["svname"]): r["status"] for r in rows if r["svname"] not in ("FRONTEND", "BACKEND")}


def takes(status: str) -> bool:
    """Whether a server with this status gets new connections ("UP", "UP 1/3"; not "DRAIN", "DOWN", "MAINT", "NOLB")."""
    return status.split(" ")[0] == "UP"


def read(page: t.Mapping[str, t.Any], timeout: float = 3.0) -> dict[tuple[str, str], str]:
    """parse() of the page {url, username, password}; the password goes into a header, never into the URL."""
    request = urllib.request.Request(page["url"])
    if page.get("password"):
        pair = f"{page.get('username', '')}:{page['password']}".encode()
        request.add_header("Authorization", "Basic " + base64.b64encode(pair).decode())
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout) as answer:
            return parse(answer.read().decode())
    except (OSError, ValueError, KeyError) as exc:
        raise FleetError("read the balancer's statistics", str(page.get("url")), exc,
                         "Check that HAProxy runs, that this machine reaches its statistics port and that the password is right",
                         code="balancer_stats") from exc


def _status(page: t.Mapping[str, t.Any], backend: str, server: str, last: bool) -> str:
    """The status of one server; a page that does not answer is an error only when there is no time left."""
    try:
        return read(page).get((backend, server), "not configured")
    except FleetError:
        if last:
            raise
        return "no answer"


def wait_taken(pages: t.Sequence[t.Mapping[str, t.Any]], server: str, backend: str = "livekit", timeout: float = 15.0) -> float:
    """Until every balancer sends new connections to `server`; seconds that took. Raises FleetError gate_balancer."""
    begin = time.monotonic()
    while True:
        seen = {page["url"]: _status(page, backend, server, last=time.monotonic() - begin > timeout) for page in pages}
        if all(takes(status) for status in seen.values()):
            return time.monotonic() - begin
        if time.monotonic() - begin > timeout:
            got = ", ".join(f"{url}: {status}" for url, status in seen.items() if not takes(status))
            raise FleetError("see the balancer take a slot", server, got, "Check the agent check (port 7870) and GET / from the balancer to this host",
                             code="gate_balancer", seen=seen)
        time.sleep(0.25)
