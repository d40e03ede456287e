# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells what of a deployment there is in a Kubernetes cluster. Documented in modules/kubernetes_info.py."""
from __future__ import annotations

import json
import time
import typing as t

import yaml
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slot_files import accepted
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import kubernetes
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes import cluster, look, plan, survey
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.api import Api
from ansible_collections.openrtc.livekit.plugins.plugin_utils.kubernetes import CLUSTER, DEPLOYMENT, connect

ARGUMENT_SPEC: dict[str, t.Any] = {
    **DEPLOYMENT,
    "keys": {"type": "dict", "no_log": True},
    "previous": {"type": "bool", "default": False},
    "wait_for": {"type": "str", "choices": ["base", "generation"]},
    "name": {"type": "str", "default": ""},
    "timeout": {"type": "float", "default": 180},
    **CLUSTER,
}


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        dummy, args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        begin = time.monotonic()
        try:
            result.update(waited(args, connect(args)))
            for row in result["slots"] if args["wait_for"] == "generation" else ():
                if row["name"] == args["name"]:
                    Display().display(f"  {row['name']}: slot {row['slot']} started ({time.monotonic() - begin:.1f} s)")
        except FleetError as exc:
            result.update(failed=True, **exc.as_result())
        return {**result, "changed": False}


def waited(args: t.Mapping[str, t.Any], api: Api, pause: float = 0.5) -> dict[str, t.Any]:
    """told(), once what is waited for is there. Raises FleetError not_up, gate_pods or pod_failed."""
    end = time.monotonic() + args["timeout"]
    while True:
        result = told(args, api)
        got = lacking(args, result)
        if not got:
            return result
        ours = {pod["name"] for row in result["slots"] if row["name"] == args["name"] for pod in row["pods"]}
        stuck = "; ".join(f"{pod}: {why}" for pod, why in result["trouble"].items() if pod in ours)
        if stuck or time.monotonic() > end:
            namespace = kubernetes.Settings.from_vars(args["settings"]).namespace
            code = "pod_failed" if stuck else "gate_pods" if args["name"] else "not_up"
            raise FleetError("bring up pods", args["name"] or f"namespace {namespace}", stuck or f"{got} after {args['timeout']:g} s",
                             f"See kubectl -n {namespace} get pods, and their events and logs", code=code)
        time.sleep(pause)


def lacking(args: t.Mapping[str, t.Any], result: t.Mapping[str, t.Any]) -> str:
    """What is not up yet, in words."""
    if args["wait_for"] == "base":
        return "; ".join(result["rolling"])
    if args["wait_for"] == "generation":
        row = next((row for row in result["slots"] if row["name"] == args["name"]), None)
        if row is None:
            return "there is no such Deployment"
        if row["ready"] < row["replicas"]:
            pods = ", ".join(f"{pod['name']} on {pod['machine'] or 'no machine'} {pod['state']}" for pod in row["pods"]) or "none yet"
            scheduler = "".join(f"; {pod}: {why}" for pod, why in result["waiting"].items())
            return f"{row['ready']} of {row['replicas']} pods are ready ({pods}{scheduler})"
    return ""


def told(args: t.Mapping[str, t.Any], api: Api) -> dict[str, t.Any]:
    """What the task returns."""
    settings, layout = kubernetes.Settings.from_vars(args["settings"]), config.layout_of({"livekit_layout": args["layout"]})
    found = look.cluster(api, settings)
    media = [n for n in found.media_nodes(settings) if cluster.ready(n)]
    rows = survey.slots(found, settings, layout.count)
    for row in rows:
        row["ports"] = layout.ports(row["slot"]).as_dict()
        if args["keys"] is not None:
            row.update(accepted(pairs_of(look.files(api, settings, row["name"])) if row["pods"] else {}, args["keys"]))
    return {"machines": survey.machines(found, settings), "balancers": survey.balancers(found, settings), "slots": rows,
            "rolling": survey.rolling(look.workloads(api, settings), len(media)), "trouble": survey.trouble(found, settings),
            "waiting": plan.unscheduled(found, settings),
            **({"previous": before(api, found, settings, layout.count, args["settings"])} if args["previous"] else {})}


def pairs_of(files: t.Mapping[str, str]) -> dict[str, str]:
    """{name: secret} of the API keys of a generation."""
    return {str(name): str(secret) for name, secret in (yaml.safe_load(files.get("keys.yaml") or "{}") or {}).items()}


def before(api: Api, found: cluster.Cluster, settings: kubernetes.Settings, count: int, present: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The generation to go back to, with the variables that it was made from; without a generation where nothing is to be done."""
    taken, reason = survey.previous(found, settings, count)
    if not taken:
        return {"generation": "", "reason": reason, "model": {}, "settings": {}}
    name = kubernetes.name_of(taken.slot, taken.generation or "")
    kept = json.loads(look.files(api, settings, name).get("model.json") or "{}").get("model")
    if not kept:
        raise FleetError("go back to an earlier generation", name, "it was made before this collection kept the variables of a generation",
                         "Set the inventory to what is to run and run openrtc.livekit.upgrade", code="no_previous_generation")
    model, was = survey.split(kept, config.plain(present))
    return {"generation": taken.generation, "reason": reason, "model": model, "settings": was}
