# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects as a tree of files for GitOps: plain, with kustomize, or for Argo CD as an app of apps with sync waves. Pure.

A tree knows only one generation for Argo CD: it creates the new Deployment, waits until it is healthy, and then prunes the old one
(PruneLast), which drains it. Where nothing waits like that (plain, kustomize), the generation before stays in the tree until it is
retired by a run of its own.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import re
import typing as t

from ...errors import FleetError
from ...generation import Slot
from . import sealed, yaml_text
from .objects import COMPONENT, SLOT, Object
from .server import name_of

HEADER = "# Written by openrtc.livekit; the next run overwrites it.\n"
ARGO = "argoproj.io/v1alpha1"
SECRET_KINDS = ("Secret", "SealedSecret", "ExternalSecret")
# Folders in the order in which their objects can be created; the number is Argo CD's sync wave.
WAVES: dict[str, tuple[int, tuple[str, ...]]] = {
    "namespace": (0, ("namespace",)),
    "secrets": (10, ()),
    "redis": (20, ("redis",)),
    "server": (30, ("server", "executor", "controller", "tuning", "network")),
    "edge": (40, ("edge", "haproxy")),
    "autoscaling": (50, ("autoscaling",)),
    "monitoring": (60, ("monitoring",)),
}
LAYOUTS = ("plain", "kustomize", "argocd")
Seal = t.Callable[[t.Mapping[str, t.Any]], t.Mapping[str, t.Any]]


@dataclasses.dataclass(frozen=True)
class Argo:
    """Where Argo CD finds the tree: repo, revision, path of the tree in it; and where it deploys to."""

    repo: str = ""
    revision: str = "HEAD"
    path: str = "."
    project: str = "default"
    namespace: str = "argocd"
    server: str = "https://kubernetes.default.svc"


def folder(obj: t.Mapping[str, t.Any]) -> str:
    """The Secret of a generation lies beside its Deployment, so that Argo CD prunes both together, at the end."""
    labels = obj["metadata"].get("labels") or {}
    if obj["kind"] in SECRET_KINDS and SLOT not in labels:
        return "secrets"
    component = labels.get(COMPONENT, "")
    return next(name for name, (dummy, components) in WAVES.items() if component in components)


def path_of(obj: t.Mapping[str, t.Any]) -> str:
    kind = "Secret" if obj["kind"] in SECRET_KINDS else obj["kind"]  # the same path however it is protected
    return f"{folder(obj)}/{kind.lower()}-{obj['metadata']['name']}.yaml"


def tree(objects: t.Iterable[t.Mapping[str, t.Any]], layout: str, seal: Seal | None, existing: t.Mapping[str, str], argo: Argo = Argo(),
         namespace: str = "livekit", autoscaled: bool = False) -> dict[str, str]:
    """{path: text} of the whole tree.

    seal: what makes a Secret fit for a repository; None refuses Secrets. existing: {path: text} of the tree as it is, of which Secrets that are
    there already are kept. Raises FleetError secrets_in_clear, argocd_repo.
    """
    found = list(objects)
    secrets = [o for o in found if o["kind"] == "Secret"]
    if secrets and seal is None:
        raise sealed.refused(secrets)
    out = {}
    for obj in found:
        path = path_of(obj)
        if obj["kind"] == "Secret":
            kept = existing.get(path, "")
            # Named after its content, so it is the same; a new text would only be other random numbers.
            out[path] = kept if kept and not in_clear(kept) else HEADER + yaml_text.dump(t.cast(Seal, seal)(obj))
        else:
            out[path] = HEADER + yaml_text.dump(obj)
    if layout == "kustomize":
        out.update(_kustomize(out))
    elif layout == "argocd":
        out.update(_argocd(out, argo, namespace, autoscaled))
    return dict(sorted(out.items()))


def in_clear(text: str) -> bool:
    """Whether a file holds a Secret as Kubernetes itself would take it: SOPS keeps the kind, and adds a section of its own."""
    return bool(re.search(r"(?m)^kind: \"?Secret\"?$", text)) and not re.search(r"(?m)^\"?sops\"?:", text)


def _folders(paths: t.Iterable[str]) -> list[str]:
    have = {path.split("/", 1)[0] for path in paths}
    return [name for name in WAVES if name in have]


def with_kept(files: t.Mapping[str, str], kept: t.Mapping[str, str]) -> dict[str, str]:
    """The files of a kustomize tree, its lists made again so that they name what is kept too."""
    found = {**{path: text for path, text in files.items() if not path.endswith("kustomization.yaml")}, **kept}
    return {**found, **_kustomize(found)}


def _kustomize(files: t.Mapping[str, str]) -> dict[str, str]:
    def text(resources: list[str]) -> str:
        return HEADER + yaml_text.dump({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources})
    names = _folders(files)
    inner = {f"{name}/kustomization.yaml": text(sorted(p.split("/", 1)[1] for p in files if p.startswith(f"{name}/"))) for name in names}
    return {**inner, "kustomization.yaml": text(names)}


def _argocd(files: t.Mapping[str, str], argo: Argo, namespace: str, autoscaled: bool) -> dict[str, str]:
    """apps/NAME.yaml for each folder, and root.yaml, the one that is to be created by hand."""
    if not argo.repo:
        raise FleetError("write an app of apps", "livekit_kubernetes_argocd.repo", "it is empty", "Name the repository that Argo CD is to read the tree from",
                         code="argocd_repo")
    ignored = [{"group": "apps", "kind": "Deployment", "jsonPointers": ["/spec/replicas"]}] if autoscaled else []
    apps = {f"apps/{name}.yaml": _application(f"livekit-{name}", name, argo, namespace, WAVES[name][0], ignored if name == "server" else [])
            for name in _folders(files)}
    apps["root.yaml"] = _application("livekit", "apps", argo, argo.namespace, None, [])
    return {path: HEADER + yaml_text.dump(app) for path, app in apps.items()}


def _application(name: str, directory: str, argo: Argo, namespace: str, wave: int | None, ignored: list[Object]) -> Object:
    meta: Object = {"name": name, "namespace": argo.namespace}
    if wave is not None:
        meta["annotations"] = {"argocd.argoproj.io/sync-wave": str(wave)}
    path = directory if argo.path in ("", ".") else f"{argo.path.rstrip('/')}/{directory}"
    spec: Object = {
        "project": argo.project,
        "source": {"repoURL": argo.repo, "targetRevision": argo.revision, "path": path},
        "destination": {"server": argo.server, "namespace": namespace},
        "syncPolicy": {"automated": {"prune": True, "selfHeal": True},
                       # PruneLast: an old generation goes only when the new one is healthy.
                       "syncOptions": ["PruneLast=true", "ServerSideApply=true", "RespectIgnoreDifferences=true"]},
    }
    if ignored:
        spec["ignoreDifferences"] = ignored
    return {"apiVersion": ARGO, "kind": "Application", "metadata": meta, "spec": spec}


# --- generations in a tree --------------------------------------------------------------------------------------------

_DEPLOYMENT = re.compile(r"server/deployment-livekit-s(\d+)-([0-9a-f]{12})\.yaml")


def slots(existing: t.Mapping[str, str], count: int) -> list[Slot]:
    """The slots as a tree shows them: what it holds serves, everything else is free as far as files can tell (the scheduler enforces it)."""
    held = {}
    for path, text in existing.items():
        found = _DEPLOYMENT.fullmatch(path)
        if found:
            version = re.search(r'openrtc\.livekit/version"?: "?([0-9][^"\s]*)', text)
            held[int(found[1])] = Slot(int(found[1]), state="active", generation=found[2], gate=found[2], version=version[1] if version else "", enabled=True)
    return [held.get(n, Slot(n)) for n in sorted({*range(1, count + 1), *held})]


def of_generation(existing: t.Mapping[str, str], slot: int, generation: str) -> dict[str, str]:
    """The files of a generation in the tree, to be kept as they are."""
    name = name_of(slot, generation)
    return {path: existing[path] for path in (f"server/secret-{name}.yaml", f"server/deployment-{name}.yaml") if path in existing}
