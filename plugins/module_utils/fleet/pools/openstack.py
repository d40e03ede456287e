# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers of OpenStack, by the APIs of Keystone (v3) and Nova (2.52 and later), with an application credential. Needs no library.

The servers of a pool carry its tag, and each the word of the order it came by; so what an order brought is known although its answer was lost.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import datetime
import hashlib
import http.client
import json
import typing as t
import urllib.error
import urllib.parse
import urllib.request

from ..errors import FleetError
from .base import ENDING, FAILED, ORDERED, RUNNING, Base, Machine, check_count, option

if t.TYPE_CHECKING:
    from ..orders import Orders
    from ..registry import Registry

VERSION = "compute 2.52"  # tags at creation
ORDER, PROTECTED = "openrtc-order", "openrtc-protected"  # metadata of a server
TIMEOUT = 20.0
STATES = {"BUILD": ORDERED, "REBUILD": ORDERED, "ACTIVE": RUNNING, "REBOOT": RUNNING, "HARD_REBOOT": RUNNING, "PASSWORD": RUNNING, "MIGRATING": RUNNING}
KNOWN: dict[str, t.Any] = {"auth_url": "", "credential_id": "", "secret_file": "", "region": "", "tag": "livekit", "prefix": "livekit-", "server": {}}


class Openstack(Base):
    """auth_url: of Keystone, with /v3; secret_file: holds the credential's secret; server: what a new one is made of (flavorRef, imageRef, networks ...),
    as Nova takes it; tag: of the pool's servers; prefix: of their names, which are their inventory names."""

    name, poll = "openstack", 5.0

    def __init__(self, auth_url: str, credential_id: str, secret_file: str, server: t.Mapping[str, t.Any], region: str = "", tag: str = "livekit",
                 prefix: str = "livekit-") -> None:
        self.auth_url, self.credential_id, self.secret_file, self.region = auth_url.rstrip("/"), credential_id, secret_file, region
        self.server, self.tag, self.prefix = dict(server), tag, prefix
        self._token = self._compute = ""

    @classmethod
    def of(cls, settings: t.Mapping[str, t.Any], registry: Registry, orders: Orders) -> Openstack:
        found = option("openstack", settings, KNOWN, ("auth_url", "credential_id", "secret_file", "server", "tag"))
        if not found["auth_url"].startswith(("https://", "http://")):
            raise FleetError("read the settings of a pool", "openstack.auth_url", f"{found['auth_url']} is no URL of Keystone", "Give https://HOST:5000/v3",
                             code="pool_settings")
        return cls(**found)

    # -- the API

    def _login(self) -> None:
        try:
            with open(self.secret_file, encoding="utf-8") as handle:
                secret = handle.read().strip()
        except OSError as exc:
            raise FleetError("log in to OpenStack", self.secret_file, exc, "Lay the application credential's secret down there, mode 0640",
                             code="pool_refused") from exc
        identity = {"methods": ["application_credential"], "application_credential": {"id": self.credential_id, "secret": secret}}
        headers, body = self._call("log in to OpenStack", "POST", f"{self.auth_url}/auth/tokens", {"auth": {"identity": identity}})
        try:
            ends = [e for s in body["token"]["catalog"] if s["type"] == "compute" for e in s["endpoints"] if e["interface"] == "public"]
            self._compute = next(e["url"] for e in ends if self.region in ("", e.get("region_id"), e.get("region"))).rstrip("/")
            self._token = headers["X-Subject-Token"]
        except (KeyError, StopIteration, TypeError) as exc:
            raise FleetError("find the compute service", self.auth_url, "its catalog names none for this region", "Correct region in livekit_scaling.pool",
                             code="pool_refused") from exc

    def _nova(self, tried: str, method: str, path: str, body: t.Any = None) -> dict[str, t.Any]:
        """A token that ran out is fetched anew, once."""
        fresh = not self._token
        if fresh:
            self._login()
        try:
            return self._call(tried, method, self._compute + path, body)[1]
        except FleetError as exc:
            if exc.failure.get("status") != 401 or fresh:
                raise
        self._login()
        return self._call(tried, method, self._compute + path, body)[1]

    def _call(self, tried: str, method: str, url: str, body: t.Any) -> tuple[t.Any, dict[str, t.Any]]:
        headers = {"Accept": "application/json", "Content-Type": "application/json", "OpenStack-API-Version": VERSION,
                   **({"X-Auth-Token": self._token} if self._token else {})}
        request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode(), headers=headers, method=method)
        where = urllib.parse.urlsplit(url).path
        try:
            with urllib.request.build_opener().open(request, timeout=TIMEOUT) as answer:
                raw = answer.read()
                return answer.headers, dict(json.loads(raw)) if raw else {}
        except urllib.error.HTTPError as exc:
            text = exc.read(500).decode("utf-8", "replace")
            code = "pool_unreachable" if exc.code >= 500 or exc.code == 429 else "pool_refused"
            raise FleetError(tried, where, f"HTTP {exc.code} {text}", "Read what it says: a quota, a right, or a setting of livekit_scaling.pool", code=code,
                             status=exc.code) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise FleetError(tried, where, exc, "See whether this host reaches OpenStack", code="pool_unreachable") from exc
        except (TypeError, ValueError) as exc:
            raise FleetError(tried, where, f"its answer is no JSON: {exc}", "See whether auth_url is right", code="pool_answer") from exc

    # -- the pool

    def _servers(self) -> list[dict[str, t.Any]]:
        found: list[dict[str, t.Any]] = []
        query = {"tags": self.tag, "limit": "200"}
        while True:
            page = self._nova("list servers", "GET", f"/servers/detail?{urllib.parse.urlencode(query)}").get("servers")
            if not isinstance(page, list):
                raise FleetError("list servers", self.tag, "there is no list of servers in the answer", "See whether auth_url is right", code="pool_answer")
            found += page
            if len(page) < int(query["limit"]):
                return [s for s in found if s["status"] not in ("DELETED", "SOFT_DELETED")]
            query["marker"] = page[-1]["id"]

    def machines(self) -> list[Machine]:
        return sorted(map(_machine, self._servers()))

    def add(self, count: int, order: str = "") -> list[str]:
        check_count(count)
        here = [s["id"] for s in self._servers() if order and s.get("metadata", {}).get(ORDER) == order]
        word = hashlib.sha256(order.encode()).hexdigest()[:8] if order else ""
        for number in range(len(here), count):
            name = f"{self.prefix}{word}{number}" if word else f"{self.prefix}{len(self._servers())}"
            metadata = {**self.server.get("metadata", {}), ORDER: order}
            made = self._nova("make a server", "POST", "/servers", {"server": {**self.server, "name": name, "metadata": metadata, "tags": [self.tag]}})
            here.append(str(made["server"]["id"]))
        return here

    def retire(self, ids: t.Sequence[str]) -> list[str]:
        there = {m.id for m in self.machines() if m.state != ENDING}
        chosen = [i for i in ids if i in there]
        for name in chosen:
            try:
                self._nova("delete a server", "DELETE", f"/servers/{urllib.parse.quote(name)}")
            except FleetError as exc:
                if exc.failure.get("status") != 404:
                    raise
        return chosen


def _machine(server: t.Mapping[str, t.Any]) -> Machine:
    deleting = server.get("OS-EXT-STS:task_state") == "deleting"
    state = ENDING if deleting else STATES.get(server["status"], FAILED)
    addresses = [a["addr"] for net in server.get("addresses", {}).values() for a in net if a.get("OS-EXT-IPS:type", "fixed") == "fixed"]
    created = str(server.get("created") or "")
    since = datetime.datetime.fromisoformat(created.replace("Z", "+00:00")).timestamp() if created else 0.0
    return Machine(server["id"], state, server["name"], addresses[0] if addresses else "", since=since, protected=PROTECTED in server.get("metadata", {}))
