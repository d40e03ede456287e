# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods of the Deployment that serves. Its replicas say how many there are, a pod's deletion cost which one goes.

A pod that is deleted drains: its node gets one SIGTERM and has the grace of its pod. So retire() begins the drain rather than ending it, and the
scaler asks for none. Whoever scales by this must not have a HorizontalPodAutoscaler on the same Deployment.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import datetime
import typing as t
import urllib.parse

from ..errors import FleetError
from ..targets.kubernetes.api import MERGE, Api
from ..targets.kubernetes.objects import COMPONENT, DELETION_COST, GATE, GENERATION, MANAGER, SERVED_AT, SLOT
from .base import ENDING, ORDERED, RUNNING, Base, Machine, check_count, option

if t.TYPE_CHECKING:
    from ..orders import Orders
    from ..registry import Registry

Row = t.Mapping[str, t.Any]
ORDER = f"{MANAGER}/order"  # annotation of the Deployment: the word of the last order
PROTECTED = f"{MANAGER}/protected"  # annotation of a pod that is never to be given back
FIRST = "-1000"  # deletion cost of a pod that goes; all others cost 0 or more
TRIES = 3
CODES = {"kubernetes_unreachable": "pool_unreachable", "no_rights": "pool_refused", "unauthorized": "pool_refused"}


class Kubernetes(Base):
    """api: makes a connection; most: replicas there may be (nodes with free ports), 0 for no limit."""

    name, graceful = "kubernetes", True

    def __init__(self, api: Api, namespace: str = "livekit", most: int = 0) -> None:
        self.api, self.namespace, self.most = api, namespace, most

    @classmethod
    def of(cls, settings: t.Mapping[str, t.Any], registry: Registry, orders: Orders) -> Kubernetes:
        found = option("kubernetes", settings, {"namespace": "livekit", "kubeconfig": "", "context": "", "in_pod": False, "most": 0.0})
        api = Api.in_pod() if found["in_pod"] else Api.from_kubeconfig(found["kubeconfig"], found["context"])
        return cls(api, found["namespace"], int(found["most"]))

    def _ask(self, *args: t.Any, **more: t.Any) -> dict[str, t.Any]:
        try:
            return self.api.ask(*args, **more)
        except FleetError as exc:
            raise self._told(exc) from exc

    def _items(self, path: str, labels: str) -> list[dict[str, t.Any]]:
        try:
            return self.api.items(f"{path}/namespaces/{self.namespace}/{'pods' if path == '/api/v1' else 'deployments'}", labels)
        except FleetError as exc:
            raise self._told(exc) from exc

    @staticmethod
    def _told(exc: FleetError) -> FleetError:
        f = dict(exc.failure)
        code = str(f.pop("code"))
        status = int(f.get("status") or 0)
        known = CODES.get(code) or ("pool_unreachable" if status >= 500 else code if code in ("conflict", "not_found") else "pool_refused")
        return FleetError(f.pop("tried"), f.pop("on"), f.pop("got"), f.pop("fix"), code=known, **f)

    def _deployment(self) -> dict[str, t.Any]:
        """The one that passed its gate last."""
        gated = [d for d in self._items("/apis/apps/v1", f"{COMPONENT}=server") if _notes(d).get(GATE)]
        if not gated:
            raise FleetError("find the Deployment that serves", self.namespace, "no generation there has passed its gate", "Run openrtc.livekit.deploy first",
                             code="pool_refused")
        return max(gated, key=_served)

    def _pods(self, deployment: Row) -> list[dict[str, t.Any]]:
        labels = deployment["metadata"]["labels"]
        found = self._items("/api/v1", f"{COMPONENT}=server,{SLOT}={labels[SLOT]},{GENERATION}={labels[GENERATION]}")
        return [pod for pod in found if pod["status"].get("phase") not in ("Succeeded", "Failed")]

    def machines(self) -> list[Machine]:
        deployment = self._deployment()
        return sorted(_machine(pod, int(deployment["metadata"]["labels"][SLOT])) for pod in self._pods(deployment))

    def size(self) -> int:
        return int(self._deployment()["spec"]["replicas"])

    def add(self, count: int, order: str = "") -> list[str]:
        check_count(count)

        def more(deployment: Row) -> int | None:
            if order and _notes(deployment).get(ORDER) == order:
                return None
            size = int(deployment["spec"]["replicas"]) + count
            if self.most and size > self.most:
                raise FleetError("add pods", str(deployment["metadata"]["name"]), f"{size} would be more than {self.most}",
                                 "Add machines, or lower limits.max", code="pool_full")
            return size

        self._scale(more, {ORDER: order} if order else {})
        return []

    def retire(self, ids: t.Sequence[str]) -> list[str]:
        pods = {pod["metadata"]["name"]: pod for pod in self._pods(self._deployment())}
        live = {name for name, pod in pods.items() if not pod["metadata"].get("deletionTimestamp")}
        chosen = [i for i in ids if i in live]
        if not chosen:
            return []
        # Pods that are not ready go before all others, whatever they cost.
        before = sorted(name for name in live.difference(chosen) if not _ready(pods[name]))
        if before and any(_ready(pods[i]) for i in chosen):
            raise FleetError("give pods back", ", ".join(chosen), f"{', '.join(before)} would go first, as they are not ready",
                             "It is tried again when they are", code="pool_refused", ids=before)
        for name in chosen:
            self._ask("PATCH", f"/api/v1/namespaces/{self.namespace}/pods/{urllib.parse.quote(name)}", {"metadata": {"annotations": {DELETION_COST: FIRST}}},
                      kind=MERGE)
        self._scale(lambda deployment: max(0, int(deployment["spec"]["replicas"]) - len(chosen)), {})
        return chosen

    def _scale(self, size: t.Callable[[Row], int | None], notes: t.Mapping[str, str]) -> None:
        """Set the replicas, from what they are at that moment: a patch of what somebody else has changed since is refused, and made anew."""
        for attempt in range(TRIES):
            deployment = self._deployment()
            wanted = size(deployment)
            if wanted is None:
                return
            meta = deployment["metadata"]
            patch = {"metadata": {"resourceVersion": meta["resourceVersion"], "annotations": dict(notes)}, "spec": {"replicas": wanted}}
            try:
                self._ask("PATCH", f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{meta['name']}", patch, kind=MERGE)
                return
            except FleetError as exc:
                if exc.failure["code"] != "conflict" or attempt == TRIES - 1:
                    raise


def _notes(row: Row) -> t.Mapping[str, str]:
    return row["metadata"].get("annotations") or {}


def _served(deployment: Row) -> float:
    try:
        return float(_notes(deployment).get(SERVED_AT) or 0.0)
    except ValueError:
        return 0.0


def _ready(pod: Row) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or ())


def _machine(pod: Row, slot: int) -> Machine:
    meta = pod["metadata"]
    state = ENDING if meta.get("deletionTimestamp") else RUNNING if _ready(pod) else ORDERED
    created = str(meta.get("creationTimestamp") or "")
    since = datetime.datetime.fromisoformat(created.replace("Z", "+00:00")).timestamp() if created else 0.0
    return Machine(meta["name"], state, pod["spec"].get("nodeName") or "", pod["status"].get("hostIP") or "", slot, since,
                   _notes(pod).get(PROTECTED) == "true")
