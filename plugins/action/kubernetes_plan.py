# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at a Kubernetes cluster and says what has to be done there. Documented in modules/kubernetes_plan.py."""
from __future__ import annotations

import dataclasses
import shutil
import time
import typing as t

from ansible.plugins.action import ActionBase

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config, config_checks
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError, raise_for
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.generation import Slot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import kubernetes
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes import checks, look, plan, rights, survey
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.api import Api
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.objects import APIS
from ansible_collections.openrtc.livekit.plugins.plugin_utils.kubernetes import CLUSTER, DEPLOYMENT, connect

ARGUMENT_SPEC: dict[str, t.Any] = {
    "model": {"type": "dict", "required": True},
    **DEPLOYMENT,
    "haproxy": {"type": "str", "default": ""},
    "controller": {"type": "dict", "default": {}},
    "generation": {"type": "str", "default": ""},
    **CLUSTER,
}


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_diff = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        dummy, args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        try:
            if not shutil.which("kubectl"):
                raise FleetError("find kubectl", "this machine", "it is not in PATH", "Install it: playbooks reach the pods of executors through it",
                                 code="no_kubectl")
            result.update(planned(args, connect(args)))
        except FleetError as exc:
            result.update(failed=True, changed=False, **exc.as_result())
        return result


def planned(args: t.Mapping[str, t.Any], api: Api) -> dict[str, t.Any]:
    """What the task returns; FleetError before anything has changed anywhere."""
    variables = config.plain(args["model"])
    model, settings = config.Model.from_vars(variables), kubernetes.Settings.from_vars(args["settings"])
    layout = config.layout_of({"livekit_layout": args["layout"]})
    raise_for(checks.problems(model, settings, layout))
    again = bool(args.get("generation"))  # one that was there before
    made = kubernetes.Material(model, settings, layout, survey.kept(variables, settings), rolled_back=again)
    generation = args.get("generation") or kubernetes.generation_name(made)
    base = kubernetes.base(model, settings, layout, args["haproxy"], config.plain(args["controller"]))
    objects = [*base, *kubernetes.desired(made, 1, generation), *kubernetes.autoscaling.objects(settings, "any")]
    raise_for(checks.missing_rights(look.reviewed(api, rights.needed(objects))), "the cluster")
    found = look.cluster(api, settings, objects)
    raise_for(checks.problems(model, settings, layout, objects, found), "the cluster")
    kept = {o["metadata"]["name"] for o in base if o["kind"] in ("Secret", "ConfigMap")}
    # What stays is as the inventory says, not as it was then.
    gone = () if again else plan.obsolete(look.removable(api, settings), objects)
    done = plan.change(generation, model.version, found, settings, layout.count, time.time(), look.pointed_at(api, settings), kept, gone)
    exists = look.namespace_exists(api, settings)
    scaler = kubernetes.autoscaling.objects(settings, kubernetes.name_of(done.plan.slot, generation))[:1] if settings.autoscaled and not done.changed else []
    differs = [] if again else look.differing(api, [*base, *scaler]) if exists else [f"{o['kind']}/{o['metadata']['name']}" for o in base]
    if done.plan.start:
        raise_for(config_checks.step_problems(model, [s.version for s in done.slots if s.running and s.version]))
    steps = {step.kind: {**step._asdict(), "names": list(step.names)} for step in done.steps if not (again and step.kind == "prune")}
    return {"changed": bool(steps or differs), "differs": differs, "generation": generation, "slot": done.plan.slot,
            "name": kubernetes.name_of(done.plan.slot, generation), "reason": done.plan.reason, "steps": steps,
            "retire": [step.name for step in done.steps if step.kind == "retire"],
            "prune": [{"api_version": APIS[kind], "kind": kind, "name": name} for kind, name in
                      (full.split("/") for full in steps.get("prune", {}).get("names", ()))],
            "slots": _told(done.slots), "nodes": {host: _told(rows) for host, rows in plan.node_slots(found, settings, layout.count).items()},
            "waiting": plan.unscheduled(found, settings), "namespace_exists": exists,
            "diff": _diff(done, generation, model.version)}


def _told(slots: t.Iterable[Slot]) -> list[dict[str, t.Any]]:
    return [{**dataclasses.asdict(s), "label": s.label} for s in slots]


def _diff(done: plan.Change, generation: str, version: str) -> dict[str, str]:
    """The slots as they are and as they will be."""
    before = {s.slot: f"{s.label} {s.version or ''} {s.generation or ''}".strip() for s in done.slots}
    after = {**before, **{n: before[n].replace("serving", "draining", 1) for n in done.plan.drain}}
    if done.plan.start or done.plan.gate:
        after[done.plan.slot] = f"serving {version} {generation}"
    lines = ["".join(f"slot {n}: {text}\n" for n, text in sorted(rows.items())) for rows in (before, after)]
    return {"before_header": "slots", "after_header": "slots", "before": lines[0], "after": lines[1]}
