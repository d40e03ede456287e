# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out the plan of fleet.generation on one host: start beside, gate, serve, drain. Documented in modules/generation.py."""
from __future__ import annotations

import contextlib
import dataclasses
import re
import time
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.openrtc.livekit.plugins.module_utils import _slot_module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config, config_checks, generation, probe, rollback
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.balancers import haproxy
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError, raise_for
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slot_files import mask
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slots import Layout
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import compose
from ansible_collections.openrtc.livekit.plugins.plugin_utils.host_lock import HostLock

ARGUMENT_SPEC: dict[str, t.Any] = {
    "model": {"type": "dict", "required": True},
    "source": {"type": "str", "choices": ["model", "previous", "last"], "default": "model"},
    "fleet": {"type": "dict", "default": {}},
    "gates": {"type": "list", "elements": "str", "choices": ["node", "call", "balancer"], "default": ["node", "call", "balancer"]},
    "balancer_hosts": {"type": "list", "elements": "str", "default": []},
    "balancer_pages": {"type": "list", "elements": "str", "default": []},
    "balancer_username": {"type": "str"},
    "balancer_password": {"type": "str", "no_log": True},
    "probe_address": {"type": "str"},
    "peers": {"type": "list", "elements": "str", "default": []},
    "ready_timeout": {"type": "float", "default": 20},
    "call_timeout": {"type": "float", "default": 20},
    "balancer_timeout": {"type": "float", "default": 15},
    "release_url": {"type": "str", "default": "https://github.com/livekit/livekit/releases/download"},
    **_slot_module.argument_spec(),
}
MAX_CLOCK_OFFSET = 1.0  # seconds from Redis' clock, so that two hosts are never more than twice that apart
CALL_MARGIN = 15  # seconds that the gate's call may take to come up and to end, besides its media
LOCK_MARGIN = 60.0  # seconds that a change may take besides waiting at its gates
HOST_OPTIONS = tuple(_slot_module.argument_spec())


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_diff = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        dummy, args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        change = Change(self, args, task_vars or {})
        try:
            result.update(change.run())
        except FleetError as exc:
            result.update(failed=True, changed=change.changed, timeline=change.timeline, **exc.as_result())
        return result


class Desired:
    """The generation a host should run: its name and, for a slot, its files."""

    def __init__(self, args: dict[str, t.Any], layout: Layout, taken: generation.Slot | None = None, rolled_back: bool = False) -> None:
        """args["model"] is what it is made from; taken: the slot that it is taken from, rather than from the inventory."""
        self.layout, self.config_dir, self.peers = layout, args["config_dir"], args["peers"]
        self.variables = {name: value for name, value in config.plain(args["model"]).items()
                          if name.startswith("livekit_") and (value or name != "livekit_server_image")}
        self.model = config.Model.from_vars(args["model"])
        # None: no container. The image belongs to the generation, everything else to the host.
        image = self.variables.get("livekit_server_image") or args["compose"].get("image")
        self.container = compose.Settings.from_mapping({**args["compose"], "image": image}) if args["target"] == "compose" else None
        self.served_at, self.rolled_back = taken and taken.served_at, rolled_back
        # Slot 1 stands for all: a generation is the same whatever slot it runs in.
        self.name = taken and taken.generation or generation.digest(
            {"version": self.model.version, "keys": self.model.keys, "files": config.extra_files(self.model), "config": self.config(1),
             **({"container": self.container.identity()} if self.container else {})})

    def config(self, slot: int) -> dict[str, t.Any]:
        base = f"{self.config_dir}/{slot}"
        return config.render(self.model, self.layout.ports(slot), f"{base}/keys.yaml", directory=base, peers=self.peers)

    def files(self, slot: int) -> dict[str, str]:
        return {"config.yaml": config.to_yaml(self.config(slot)), "keys.yaml": config.to_yaml(self.model.keys), **config.extra_files(self.model),
                "model.json": rollback.record(self.variables, self.served_at, self.rolled_back)}


class Change:
    """One run on one host."""

    def __init__(self, action: ActionModule, args: dict[str, t.Any], task_vars: dict[str, t.Any]) -> None:
        self.action, self.args, self.task_vars = action, args, task_vars
        self.host = task_vars.get("inventory_hostname", "host")
        self.begin = time.monotonic()
        self.timeline: list[dict[str, t.Any]] = []
        self.changed = False
        self.probe: dict[str, t.Any] | None = None
        self.why = ""
        self.lock: HostLock | None = None
        pages = args["balancer_pages"] if "balancer" in args["gates"] else []
        self.pages = [{"url": url, "username": args["balancer_username"], "password": args["balancer_password"]} for url in pages]

    def run(self) -> dict[str, t.Any]:
        layout = config.layout_of({"livekit_layout": self.args["layout"]})
        desired = Desired(self.args, layout) if self.args["source"] == "model" else self.earlier(layout)
        if not desired:
            return self.result(None, generation.Plan(0), self.on_slots("slot_info"))
        seen, plan = self.plan(desired)
        if not plan.changed or self.action._task.check_mode:
            return self.result(desired, plan, seen)
        if not desired.model.redis:
            return self.apply(desired, plan, seen)
        waits = self.args["ready_timeout"] + self.args["call_timeout"] + CALL_MARGIN + self.args["balancer_timeout"]
        with HostLock(self.module, desired.model.redis, self.host, waits + LOCK_MARGIN) as self.lock:
            seen, plan = self.plan(desired)  # somebody else may have changed the host before the lock was ours
            return self.apply(desired, plan, seen) if plan.changed else self.result(desired, plan, seen)

    def apply(self, desired: Desired, plan: generation.Plan, seen: dict[str, t.Any]) -> dict[str, t.Any]:
        self.execute(plan, desired)
        return self.result(desired, plan, seen, after=self.on_slots("slot_info"))

    def result(self, desired: Desired | None, plan: generation.Plan, seen: dict[str, t.Any], after: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """What the task returns; seen: the host before, after: the host now, if it was changed."""
        rows = seen["slots"]
        nodes = {row["slot"]: row["node_id"] for row in rows if row.get("node_id")}
        return {"changed": plan.changed, "generation": desired.name if desired else None, "slot": plan.slot or None, "drained": list(plan.drain),
                "drained_nodes": [{"node_id": nodes[slot], "slot": slot} for slot in plan.drain if slot in nodes],
                "reason": "; ".join(filter(None, (self.why, "" if self.why and (plan.start or not plan.changed) else plan.reason))),
                "diff": self.diff(rows, plan, desired) if desired else [],
                "slots": [{k: v for k, v in row.items() if k != "config"} for row in (after or seen)["slots"]],
                "timeline": self.timeline, **({"probe": self.probe} if self.probe else {})}

    def plan(self, desired: Desired) -> tuple[dict[str, t.Any], generation.Plan]:
        """(the host as it is, what has to be done there), or a FleetError before anything changes."""
        layout = desired.layout
        if desired.container:
            self.args["compose"] = dataclasses.asdict(desired.container)
            raise_for(desired.container.problems())
        seen = self.on_slots("slot_info", config=True, redis=desired.model.redis or None)
        raise_for(config_checks.problems(desired.model, layout, vcpus=seen["vcpus"]))
        self.check_runtime(seen.get("runtime") or {})
        self.check_redis(seen.get("redis") or {})
        self.check_balancers(layout, seen["slots"])
        slots = [generation.Slot.from_mapping(row) for row in seen["slots"]]
        plan = generation.plan(desired.name, desired.model.version, slots, redis=bool(desired.model.redis), now=time.time(),
                               count=layout.count)
        if plan.start:
            raise_for(config_checks.step_problems(desired.model, [s.version for s in slots if s.running and s.version]))
        return seen, plan

    def earlier(self, layout: Layout) -> Desired | None:
        """The generation to run again that this host ran before, made from the variables it was made from; None where nothing is to be done."""
        with self.unheard():  # the answer holds secrets
            rows = self.on_slots("slot_info", model="full")["slots"]
        slots = [generation.Slot.from_mapping(row) for row in rows]
        models = {row["slot"]: row["model"] for row in rows}
        now = rollback.latest(slots)
        fleet = self.args["fleet"] or {self.host: [{**row, "model": rollback.digests(row["model"])} for row in rows]}
        back = self.args["source"] == "previous" and rollback.reached(self.host, fleet)
        taken = rollback.previous(slots) if back else now
        self.why = rollback.reason(self.args["source"], now, taken) if now and taken else ""
        if not taken or not (models[taken.slot] or taken.running):
            what = f"{taken.generation} was made before this collection kept the variables of a generation" if taken else "no other passed its gates here"
            raise FleetError("go back to an earlier generation", self.host, what,
                             "Set the inventory to what is to run and run openrtc.livekit.upgrade", code="no_previous_generation")
        if not models[taken.slot] or (self.args["source"] == "previous" and not back and not (taken.rolled_back and taken.running)):
            return None
        return Desired({**self.args, "model": models[taken.slot]}, layout, taken, rolled_back=back or taken.rolled_back)

    def check_runtime(self, runtime: dict[str, t.Any]) -> None:
        """Docker and Compose must be usable before anything changes."""
        if runtime.get("failure"):
            raise failure(runtime["failure"])

    def check_redis(self, redis: dict[str, t.Any]) -> None:
        """Redis must be usable from this host and the clocks must agree, before anything changes."""
        if redis.get("failure"):
            if self.action._task.check_mode:  # a first run in check mode: Redis itself may be among what would be installed
                Display().display(f"  {self.host}: {redis['failure']['tried']}: {redis['failure']['got']} (check mode goes on)")
                return
            raise failure(redis["failure"])
        offset = redis.get("clock_offset", 0.0)
        if abs(offset) > MAX_CLOCK_OFFSET:
            raise FleetError("compare the clocks", self.host, f"its clock differs from that of Redis by {offset:+.1f} s",
                             f"Nodes compare each other's clocks and take one that is {2 * MAX_CLOCK_OFFSET:g} s off for dead: run chrony on every host",
                             code="clock_skew", clock_offset=offset)

    def execute(self, plan: generation.Plan, desired: Desired) -> None:
        for page in self.pages:  # one that cannot be read now would make the gate fail later, with a node in service
            haproxy.read(page)
        if plan.start:
            self.release(desired)
        if plan.stop:
            self.slot(list(plan.stop), "draining", wait_empty=30.0)
        if plan.start:
            self.slot([plan.slot], "started", redis=desired.model.redis or None, generation=desired.name, version=desired.model.version,
                      files=desired.files(plan.slot), timeout=self.args["ready_timeout"])
        else:  # an earlier run started it; what it is now counts
            self.on_slots("slot", slots=[plan.slot], state="ready", redis=desired.model.redis or None, timeout=self.args["ready_timeout"])
        if plan.gate:
            self.gate(plan, desired)
        self.balancer(plan)
        if plan.drain:
            self.slot(list(plan.drain), "draining")

    def gate(self, plan: generation.Plan, desired: Desired) -> None:
        """The call, then service. A failure takes a node that this run has started away and leaves the old one alone."""
        try:
            if "call" in self.args["gates"]:
                self.call(plan.slot, desired)
        except FleetError:
            if plan.start:
                self.slot([plan.slot], "discarded")
            raise
        self.slot([plan.slot], "serving", generation=desired.name)

    def balancer(self, plan: generation.Plan) -> None:
        """Every balancer must send connections to the node before another one drains, whichever run has started it."""
        if not self.pages:
            return
        try:
            haproxy.wait_taken(self.pages, haproxy.server_name(self.host, plan.slot), timeout=self.args["balancer_timeout"])
            self.note("balancer takes it", plan.slot)
        except FleetError:
            if plan.start:
                self.slot([plan.slot], "draining")  # not discarded: callers may have come in by another balancer
            raise

    def check_balancers(self, layout: Layout, rows: list[dict[str, t.Any]]) -> None:
        """What would let a change go past the balancers is refused before anything changes."""
        if "balancer" in self.args["gates"] and self.args["balancer_hosts"] and not self.args["balancer_pages"]:
            raise FleetError("ask the balancers", ", ".join(self.args["balancer_hosts"]), "HAProxy has no statistics page without a password",
                             "Set livekit_haproxy_stats_password for all hosts, not only the balancers, or leave balancer out of livekit_server_gates",
                             code="balancer_stats")
        for row in rows:
            port = re.search(r"(?m)^port: (\d+)$", row.get("config") or "")
            if row["state"] in ("active", "activating") and port and int(port[1]) != layout.ports(row["slot"]).signal:
                raise FleetError("keep the balancers on the running nodes", f"{self.host}, slot {row['slot']}",
                                 f"its node listens on {port[1]}, by livekit_layout it would be {layout.ports(row['slot']).signal}",
                                 "Keep livekit_layout as it was while nodes run; to change it, drain the host first", code="layout_changed")

    def call(self, slot: int, desired: Desired) -> None:
        row = next(r for r in self.on_slots("slot_info")["slots"] if r["slot"] == slot)
        if not row["node_id"]:  # unpinned, the call might pass on another node
            raise FleetError("pin the call of the gate", f"{self.host}, slot {slot}", "the node does not tell its identifier on the metrics port",
                             "Run again; if it stays, look at the node's log", code="gate_http")
        address = self.args["probe_address"] or self.args["address"]
        key, secret = desired.model.credentials()
        request = {"url": f"http://{address}:{row['ports']['signal']}", "key": key, "secret": secret, "node_id": row["node_id"],
                   "timeout": self.args["call_timeout"]}
        answer = probe.run_in_child([request], timeout=self.args["call_timeout"] + CALL_MARGIN)[0]
        if answer.get("failure"):
            raise failure(answer["failure"])
        self.probe = answer
        self.note("call passed", slot)

    def release(self, desired: Desired) -> None:
        """Have what the generation runs: the release, or the image."""
        version, container = desired.model.version, desired.container
        if container:
            done = self.module("image", {"names": [container.image], "version": version, "socket": container.socket,
                                         **({"archive_dir": container.archive_dir} if container.archive_dir else {})})
        else:
            done = self.module("release", {"version": version, "url": self.args["release_url"], "dest": self.args["opt_dir"],
                                           "slots_dir": self.args["config_dir"]})
        if done.get("changed"):
            self.changed = True
            self.note(f"has {'image' if container else 'release'} {container.image if container else version}")
            if self.lock:
                self.lock.hold()  # a download may have taken long

    # -- helpers -------------------------------------------------------------------------------------------------

    def slot(self, slots: list[int], state: str, **options: t.Any) -> None:
        self.changed = True
        self.on_slots("slot", slots=slots, state=state, **options)
        self.note(state, *slots)

    def note(self, step: str, *slots: int) -> None:
        where = f"{self.host}: slot {', '.join(str(s) for s in slots)}" if slots else self.host
        self.timeline.append({"t": round(time.monotonic() - self.begin, 2), "at": round(time.time(), 2), "step": step, "slots": list(slots)})
        Display().display(f"  {where} {step} ({self.timeline[-1]['t']:.1f} s)")

    def on_slots(self, name: str, **options: t.Any) -> dict[str, t.Any]:
        """Run slot or slot_info with the options that they share with this action."""
        return self.module(name, {**{k: self.args[k] for k in HOST_OPTIONS}, **{k: v for k, v in options.items() if v is not None}})

    def module(self, name: str, args: dict[str, t.Any]) -> dict[str, t.Any]:
        """Run one of our modules on the host; its failure becomes a FleetError again."""
        out = self.action._execute_module(module_name=f"openrtc.livekit.{name}", module_args=args, task_vars=self.task_vars)
        if out.get("failed"):
            trace = str(out.get("module_stderr") or out.get("exception") or "")[-800:]
            raise failure({"tried": f"run module {name}", "on": self.host, "got": out.get("msg", "failed"), "fix": trace, **(out.get("failure") or {})})
        return out

    @contextlib.contextmanager
    def unheard(self) -> t.Iterator[None]:
        """What comes from the host is not shown meanwhile, however verbose the run is."""
        context = self.action._play_context
        before, context.no_log = context.no_log, True
        try:
            yield
        finally:
            context.no_log = before

    def diff(self, rows: list[dict[str, t.Any]], plan: generation.Plan, desired: Desired) -> list[dict[str, t.Any]]:
        """What --diff shows: the slots, and the configuration of the node that leaves against the one that comes."""
        before = {r["slot"]: f"{r['label']} {r['version'] or ''} {r['generation'] or ''}".strip() for r in rows}
        after = {**before, **{s: "draining " + before[s].split(" ", 1)[-1] for s in plan.drain}, **{s: "free" for s in plan.stop}}
        if plan.start or plan.gate:
            after[plan.slot] = f"serving {desired.model.version} {desired.name}"
        shown = [{"before_header": "slots", "after_header": "slots", "before": _lines(before), "after": _lines(after)}]
        if plan.start:
            # Shown with the ports of the slot that leaves, so that only what really differs does.
            old = next((r for r in rows if r["slot"] in (*plan.drain, *plan.stop)), {"slot": plan.slot, "config": ""})
            shown.append({"before_header": "config.yaml", "after_header": "config.yaml", "before": old["config"] + "\n" if old["config"] else "",
                          "after": mask(desired.files(old["slot"])["config.yaml"])})
        return shown


def failure(values: dict[str, t.Any]) -> FleetError:
    """The FleetError that a module or a child process has told as a mapping."""
    f = dict(values)
    return FleetError(f.pop("tried"), f.pop("on"), f.pop("got"), f.pop("fix"), **f)


def _lines(labels: dict[int, str]) -> str:
    return "".join(f"slot {slot}: {label}\n" for slot, label in sorted(labels.items()))
