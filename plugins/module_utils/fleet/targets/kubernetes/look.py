# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One look at a cluster: everything that checks and plan want to know, and nothing that is secret. Reads only.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import base64
import typing as t

from ...errors import FleetError
from . import cluster as c
from .api import Api
from .autoscaling import NAME as SCALER
from .objects import APIS, MANAGER
from .plan import REMOVABLE
from .rights import plural
from .settings import Settings

OURS = f"app.kubernetes.io/managed-by={MANAGER}"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def cluster(api: Api, settings: Settings, objects: t.Iterable[t.Mapping[str, t.Any]] = ()) -> c.Cluster:
    """objects: what is to be applied; only the APIs of these are looked for. Of Secrets no data is read."""
    here = f"namespaces/{settings.namespace}"
    version = api.ask("GET", "/version")
    return c.Cluster(
        nodes=[_slim_node(n) for n in api.items("/api/v1/nodes")],
        pods=[p for p in map(_slim_pod, api.items("/api/v1/pods")) if c.slot_of(p) or c.host_ports(p) or p["metadata"]["namespace"] == settings.namespace],
        deployments=api.items(f"/apis/apps/v1/{here}/deployments", OURS),
        replicasets=api.items(f"/apis/apps/v1/{here}/replicasets", "app.kubernetes.io/component=server"),
        secrets=api.items(f"/api/v1/{here}/secrets", OURS, metadata_only=True),
        config_maps=api.items(f"/api/v1/{here}/configmaps", OURS, metadata_only=True),
        apis=_apis(api, objects),
        version=f"{version.get('major')}.{str(version.get('minor')).rstrip('+')}",
        storage_classes=_storage(api) if settings.redis.mode != "external" else None,
    )


def namespace_exists(api: Api, settings: Settings) -> bool:
    return api.get(f"/api/v1/namespaces/{settings.namespace}") is not None


def pointed_at(api: Api, settings: Settings) -> str | None:
    """Name of the Deployment that the HPA scales, None without one."""
    found = api.get(f"/apis/autoscaling/v2/namespaces/{settings.namespace}/horizontalpodautoscalers/{SCALER}") if settings.autoscaled else None
    return str(found["spec"]["scaleTargetRef"]["name"]) if found else None


def removable(api: Api, settings: Settings) -> list[tuple[str, c.Row]]:
    """(kind, object) of everything of ours of the kinds that may go; without their contents."""
    found: list[tuple[str, c.Row]] = []
    for kind in REMOVABLE:
        version = APIS[kind]
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        try:
            found += [(kind, row) for row in api.items(f"{path}/namespaces/{settings.namespace}/{plural(kind)}", OURS, metadata_only=True)]
        except FleetError as exc:  # a kind that the cluster does not have, or that we have no business with
            if exc.failure["code"] not in ("not_found", "no_rights"):
                raise
    return found


def workloads(api: Api, settings: Settings) -> list[tuple[str, c.Row]]:
    """(kind, object) of everything of ours that runs pods."""
    base = f"/apis/apps/v1/namespaces/{settings.namespace}"
    return [(kind, row) for kind in ("Deployment", "DaemonSet", "StatefulSet") for row in api.items(f"{base}/{plural(kind)}", OURS)]


def files(api: Api, settings: Settings, name: str) -> dict[str, str]:
    """{file: text} of the Secret of a generation, {} where it is gone. It holds everything that is secret of a deployment."""
    found = api.get(f"/api/v1/namespaces/{settings.namespace}/secrets/{name}") or {}
    return {key: base64.b64decode(value).decode() for key, value in (found.get("data") or {}).items()}


_SERVERS_OWN = ("managedFields", "resourceVersion", "generation", "creationTimestamp", "uid")


def differing(api: Api, objects: t.Iterable[t.Mapping[str, t.Any]]) -> list[str]:
    """"Kind/name" of the objects that applying would change, by the word of the cluster: each is applied as a trial that is not kept, unknown fields
    are refused. Raises FleetError kubernetes_api with what the cluster says."""
    return [f"{obj['kind']}/{c.name(obj)}" for obj in objects if _differs(api, obj)]


def _differs(api: Api, obj: t.Mapping[str, t.Any]) -> bool:
    space = obj["metadata"].get("namespace")
    base = f"/apis/{obj['apiVersion']}" if "/" in obj["apiVersion"] else f"/api/{obj['apiVersion']}"
    path = f"{base}{f'/namespaces/{space}' if space else ''}/{plural(obj['kind'])}/{c.name(obj)}"
    now = api.get(path)
    if now is None:
        return True
    try:
        tried = api.ask("PATCH", f"{path}?fieldManager={MANAGER}&dryRun=All&fieldValidation=Strict", obj, kind="application/apply-patch+yaml")
    except FleetError as exc:
        if exc.failure["code"] == "conflict":  # somebody else set a field of ours: the real one says which
            return True
        raise
    return _own_part(now) != _own_part(tried)


def _own_part(obj: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    meta = {key: value for key, value in obj["metadata"].items() if key not in _SERVERS_OWN}
    return {**{key: value for key, value in obj.items() if key != "status"}, "metadata": meta}


def reviewed(api: Api, reviews: t.Iterable[t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """The reviews (rights.needed) with the answers of the cluster. Asking changes nothing there."""
    return [api.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review) for review in reviews]


def _apis(api: Api, objects: t.Iterable[t.Mapping[str, t.Any]]) -> dict[str, list[str]]:
    found = {}
    for version in sorted({o["apiVersion"] for o in objects}):
        listed = api.get(f"/apis/{version}" if "/" in version else f"/api/{version}")
        found[version] = sorted({r["kind"] for r in (listed or {}).get("resources", ())})
    return found


def _storage(api: Api) -> dict[str, bool] | None:
    try:
        return {c.name(s): c.notes(s).get(DEFAULT_CLASS) == "true" for s in api.items("/apis/storage.k8s.io/v1/storageclasses")}
    except FleetError as exc:
        if exc.failure["code"] == "no_rights":  # not needed to deploy, only to tell beforehand
            return None
        raise


def _part(row: t.Mapping[str, t.Any], *names: str) -> dict[str, t.Any]:
    return {name: row[name] for name in names if row.get(name) is not None}


def _slim_node(row: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {"metadata": _part(row["metadata"], "name", "labels", "annotations"), "spec": _part(row.get("spec") or {}, "taints", "unschedulable"),
            "status": _part(row.get("status") or {}, "conditions", "addresses")}


def _slim_pod(row: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    meta = _part(row["metadata"], "name", "namespace", "labels", "deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences", "uid")
    containers = [{"ports": inner["ports"]} for inner in row["spec"].get("containers") or () if inner.get("ports")]
    return {"metadata": meta, "spec": {**_part(row["spec"], "nodeName", "hostNetwork", "volumes"), "containers": containers},
            "status": _part(row.get("status") or {}, "phase", "startTime", "podIP", "conditions", "containerStatuses")}
