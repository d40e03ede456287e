# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock of a run that changes a cluster of Kubernetes: a Lease, as Redis may not be there yet.

A Lease is changed only by who saw its newest version (resourceVersion), so of two that find it expired one gets it.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import datetime
import typing as t

from ...errors import FleetError
from .api import Api

NAME = "livekit-change"  # controllers have Leases of their own


class RunLock:
    """owner: who runs, the same for all tasks of a run; ttl: seconds until others may take it; gone(owner): whether that run is known to have ended."""

    def __init__(self, api: Api, namespace: str, owner: str, ttl: float, gone: t.Callable[[str], bool]) -> None:
        self.api, self.owner, self.ttl, self.gone = api, owner, ttl, gone
        self.leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self.path, self.namespace = f"{self.leases}/{NAME}", namespace

    def hold(self, now: float, check: bool = False) -> bool:
        """Take it, or hold it for another ttl; False where there is no namespace yet, so nothing to guard. check: only see that it could be taken.

        False too where the account may not look: the plan then names all the rights that lack. now: seconds since 1970. Raises FleetError locked.
        """
        try:
            found = self.api.get(self.path)
            if found is None and self.api.get(f"/api/v1/namespaces/{self.namespace}") is None:
                return False
        except FleetError as exc:
            if exc.failure["code"] != "no_rights":
                raise
            return False
        if found is not None:
            self._refuse_held(found, now)
        if check:
            return True
        spec = {"holderIdentity": self.owner, "leaseDurationSeconds": int(self.ttl), "renewTime": _written(now)}
        wanted = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME, "namespace": self.namespace}, "spec": spec}
        try:
            if found is None:
                self.api.ask("POST", self.leases, wanted)
            else:
                wanted["metadata"] = {**found["metadata"]}
                self.api.ask("PUT", self.path, wanted)
        except FleetError as exc:
            if exc.failure["code"] != "conflict":
                raise
            self._refuse_held(self.api.get(self.path) or {}, now)  # somebody was faster
            raise
        return True

    def release(self) -> bool:
        """Give it back, where it is ours; what somebody else holds by now stays."""
        try:
            found = self.api.get(self.path)
            if found is None or (found.get("spec") or {}).get("holderIdentity") != self.owner:
                return False
            self.api.ask("DELETE", self.path, {"preconditions": {"resourceVersion": found["metadata"]["resourceVersion"]}})
        except FleetError as exc:
            if exc.failure["code"] not in ("not_found", "conflict", "no_rights"):
                raise
            return False
        return True

    def _refuse_held(self, found: t.Mapping[str, t.Any], now: float) -> None:
        """Raises FleetError locked where another run holds it."""
        spec = found.get("spec") or {}
        holder, left = str(spec.get("holderIdentity") or ""), _read(spec.get("renewTime")) + float(spec.get("leaseDurationSeconds") or 0) - now
        if not holder or holder == self.owner or left <= 0 or self.gone(holder):
            return
        raise FleetError("change the cluster", f"namespace {self.namespace}", f"{holder} is changing it, for another {left:.0f} s at most",
                         f"Wait for that run and run again. Where it has ended without saying so: kubectl -n {self.namespace} delete lease {NAME}",
                         code="locked", owner=holder, expires_in=round(left, 1))


def _written(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _read(text: t.Any) -> float:
    """Seconds since 1970; 0, long ago, for what is no time."""
    try:
        return datetime.datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=datetime.timezone.utc).timestamp()
    except ValueError:
        return 0.0
