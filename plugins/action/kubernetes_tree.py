# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a deployment as a tree of files for GitOps. Documented in modules/kubernetes_tree.py."""
from __future__ import annotations

import json
import subprocess
import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config, generation
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError, raise_for
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import kubernetes
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes import checks, output, sealed, survey, tree
from ansible_collections.openrtc.livekit.plugins.plugin_utils.kubernetes import DEPLOYMENT

ARGUMENT_SPEC: dict[str, t.Any] = {
    "model": {"type": "dict", "required": True},
    **DEPLOYMENT,
    "haproxy": {"type": "str", "default": ""},
    "controller": {"type": "dict", "default": {}},
    "directory": {"type": "path", "required": True},
    "form": {"type": "str", "choices": list(output.LAYOUTS), "default": "plain"},
    "secrets": {"type": "str", "choices": ["", "external", "sealed", "sops"], "default": ""},
    "store": {"type": "dict", "default": {}},
    "sealed_certificate": {"type": "str", "default": ""},
    "sops_arguments": {"type": "list", "elements": "str", "default": []},
    "argocd": {"type": "dict", "default": {}},
    "retire": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_diff = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        dummy, args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        try:
            existing = tree.read(args["directory"])
            wanted, told = planned(args, existing)
            changes = tree.compare(existing, wanted)
            if changes and not self._task.check_mode:
                tree.write(args["directory"], changes)
            result.update(changed=bool(changes), written=sorted(changes.write), removed=changes.remove, diff=_diff(existing, changes), **told)
        except FleetError as exc:
            result.update(failed=True, changed=False, **exc.as_result())
        return result


def planned(args: t.Mapping[str, t.Any], existing: t.Mapping[str, str]) -> tuple[dict[str, str], dict[str, t.Any]]:
    """({path: text} of the whole tree, what to tell of it)."""
    variables = config.plain(args["model"])
    model, settings = config.Model.from_vars(variables), kubernetes.Settings.from_vars(args["settings"])
    layout = config.layout_of({"livekit_layout": args["layout"]})
    made = kubernetes.Material(model, settings, layout, survey.kept(variables, settings))
    name = kubernetes.generation_name(made)
    held = output.slots(existing, layout.count)
    # Where nobody waits for the new generation, the old one stays until it is retired; and only one can be on its way at a time.
    waiting = [s for s in held if s.running and s.generation != name]
    stay = args["form"] != "argocd" and not args["retire"]
    plan = generation.plan(name, model.version, held, count=layout.count)
    slot = following(held, layout.count) if plan.start else plan.slot
    base = kubernetes.base(model, settings, layout, args["haproxy"], config.plain(args["controller"]))
    scaler = kubernetes.autoscaling.objects(settings, kubernetes.name_of(slot, name))[:1 if settings.autoscaled else 0]
    objects = [*base, *kubernetes.desired(made, slot, name, serving=True), *scaler]
    raise_for(checks.problems(model, settings, layout, objects))
    argo = load_argo(args["argocd"])
    files = output.tree(objects, args["form"], seal(args), existing, argo, settings.namespace, settings.autoscaled)
    kept = {path: text for s in waiting if stay for path, text in output.of_generation(existing, s.slot, s.generation or "").items()}
    if kept and args["form"] == "kustomize":
        files = output.with_kept(files, kept)
    return {**files, **kept}, {"generation": name, "slot": slot, "kept": [s.generation for s in waiting if stay]}


def following(held: t.Sequence[generation.Slot], count: int) -> int:
    """The free slot after the newest one in turn: those before it may have nodes that drain, which files do not show."""
    last = max((s.slot for s in held if s.running), default=0)
    order = [*range(last + 1, count + 1), *range(1, last + 1)]
    return next(n for n in order if any(s.slot == n and s.free for s in held))


def load_argo(values: t.Mapping[str, t.Any]) -> output.Argo:
    wrong: list[t.Any] = []
    found = kubernetes.load(output.Argo, config.plain(values), "livekit_kubernetes_argocd", wrong)
    raise_for(wrong)
    return t.cast(output.Argo, found)


def seal(args: t.Mapping[str, t.Any]) -> output.Seal | None:
    """What makes a Secret fit for a repository, by the mode that was chosen."""
    if args["secrets"] == "sealed":
        return sealed.Sealer(args["sealed_certificate"])
    if args["secrets"] == "sops":
        return lambda secret: sops(secret, args["sops_arguments"])
    if args["secrets"] == "external":
        store = args["store"]
        if not store.get("name"):
            raise FleetError("refer to Secrets in a store", "livekit_kubernetes_store.name", "it is empty", "Name your SecretStore or ClusterSecretStore",
                             code="no_store")
        return lambda secret: sealed.external(secret, str(store["name"]), str(store.get("kind") or "ClusterSecretStore"), str(store.get("prefix") or ""))
    return None


def sops(secret: t.Mapping[str, t.Any], arguments: t.Sequence[str]) -> dict[str, t.Any]:
    """The Secret, its data encrypted by the program sops. It gets the Secret on standard input."""
    command = ["sops", "--encrypt", "--encrypted-regex", "^(data|stringData)$", "--input-type", "json", "--output-type", "json", *arguments, "/dev/stdin"]
    try:
        done = subprocess.run(command, input=json.dumps(secret), capture_output=True, text=True, check=True, timeout=60)
        return dict(json.loads(done.stdout))
    except FileNotFoundError as exc:
        raise FleetError("encrypt a Secret", "sops", "the program is missing on this machine", "Install sops, or choose another livekit_kubernetes_secrets",
                         code="no_sops") from exc
    except (subprocess.SubprocessError, ValueError) as exc:
        said = str(getattr(exc, "stderr", "") or exc).strip()[-500:]
        raise FleetError("encrypt a Secret", secret["metadata"]["name"], said, "Give its keys: livekit_kubernetes_sops_arguments, or a .sops.yaml",
                         code="sops_failed") from exc


def _diff(existing: t.Mapping[str, str], changes: tree.Changes) -> list[dict[str, str]]:
    """Secrets are named only, even where they are sealed."""
    def text(path: str, content: str) -> str:
        return "(a Secret)\n" if content and path.rpartition("/")[2].startswith("secret-") else content
    return [{"before_header": path, "after_header": path, "before": text(path, existing.get(path, "")), "after": text(path, changes.write.get(path, ""))}
            for path in [*changes.write, *changes.remove]]
