#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: scale
short_description: Grow or shrink a LiveKit cluster without ending a call
version_added: 0.1.0
description:
  - Without O(size) it decides once what a controller with C(livekit_scaling) decides all the time, from what runs now. With O(size) the cluster gets
    that many nodes, within the limits.
  - New nodes come from the pool of O(scaling). A node that is given back drains first; its calls end by themselves or move, and its machine goes back to
    the pool when nothing runs on it any more. That is gone on with by the controller, or by the next run.
  - In check mode it says what it would do, and why, and changes nothing.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._registry.required
  - openrtc.livekit._engine
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  scaling:
    description: How the cluster scales, as C(livekit_scaling). C(pool) is needed.
    type: dict
    required: true
  size:
    description: Nodes to have. Draining ones do not count.
    type: int
  history:
    description: The file of demand that a controller on this host keeps, so that the forecast has a say. Without it only what runs now counts.
    type: path
  wait:
    description: Seconds to wait until new nodes serve and leaving ones are gone; meanwhile drains are gone on with. With V(0) it returns at once.
    type: float
    default: 0
notes:
  - Without O(size) nodes are given back only when they were not needed for C(limits.settle) seconds, and a single run cannot know that. Use a controller,
    or set it to 0.
  - C(limits.cool_up), C(limits.cool_down) and C(limits.settle) do not hold for an O(size) that was asked for.
seealso:
  - module: openrtc.livekit.capacity_info
  - module: openrtc.livekit.drain
"""

EXAMPLES = r"""
- name: What would the scaler do now?
  openrtc.livekit.scale:
    redis: "{{ livekit_redis }}"
    scaling: "{{ livekit_scaling }}"
  check_mode: true
  register: plan

- name: Six nodes for the conference, and wait until they serve
  openrtc.livekit.scale:
    redis: "{{ livekit_redis }}"
    scaling: "{{ livekit_scaling }}"
    size: 6
    wait: 120
"""

RETURN = r"""
msg:
  description: The decision in one line.
  returned: success
  type: str
  sample: "3 nodes, 5 to be: add 2 (headroom: 71 now; 80 and 12 free)"
have:
  description: Nodes there were, starting ones included, draining ones not.
  returned: success
  type: int
size:
  description: Nodes there are to be.
  returned: success
  type: int
actions:
  description: What was done, or in check mode would be; each with its reason.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: V(add), V(retire), V(replace) or V(hold).
      type: str
    reason:
      description: Why.
      type: str
    count:
      description: How many.
      type: int
    nodes:
      description: Machines that it is about.
      type: list
wishes:
  description: What each policy wants, and why. The largest counts.
  returned: success
  type: list
  elements: dict
limits:
  description: What kept the size from the largest wish.
  returned: success
  type: list
  elements: str
added:
  description: Machines that were ordered, as far as the pool names them at once.
  returned: success
  type: list
  elements: str
given_back:
  description: Machines that were empty and went back to the pool.
  returned: success
  type: list
  elements: str
demand:
  description: Demand, in the units of C(livekit_scaling.measure); C(capacity) of them fill a node.
  returned: success
  type: float
capacity:
  description: See RV(demand).
  returned: success
  type: float
"""

import dataclasses
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils._engine_module import engine_spec, mover_of, registry_of
from ansible_collections.openrtc.livekit.plugins.module_utils._scaling_module import outlook_of, scaler_of
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import drain
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.policies.fixed import Fixed
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.scaler import Scaler, as_status
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.scaling import Decision
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.scaling_settings import ScalingSettings

POLL = 0.5


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **engine_spec(),
            "scaling": {"type": "dict", "required": True},
            "size": {"type": "int"},
            "history": {"type": "path"},
            "wait": {"type": "float", "default": 0},
        },
        supports_check_mode=True,
    )
    p, result = module.params, Result()
    try:
        settings = settings_of(p)
        with registry_of(p) as registry:
            scaler, lock = scaler_of(registry, settings, p)
            result.run(scaler, lock, p, module.check_mode)
            if p["wait"] and not module.check_mode and not settings.rules.dry_run:
                wait(scaler, lock, p, result)
    except FleetError as exc:
        module.fail_json(changed=result.changed, **{**result.as_dict(), **exc.as_result()})
    module.exit_json(changed=result.changed, **result.as_dict())


def settings_of(p: t.Mapping[str, t.Any]) -> ScalingSettings:
    settings = ScalingSettings.of(p["scaling"])
    if p["size"] is None:
        return settings
    rules = settings.rules
    if not rules.min <= p["size"] <= rules.max:
        raise FleetError("scale", f"{p['size']} nodes", f"limits.min is {rules.min}, limits.max is {rules.max}", "Ask for a size between them, or change them",
                         code="scaling_size")
    return dataclasses.replace(settings, policies=(Fixed(p["size"]),), rules=dataclasses.replace(rules, settle=0.0, cool_up=0.0, cool_down=0.0))


class Result:
    """What was decided and done so far."""

    def __init__(self) -> None:
        self.decision: Decision | None = None
        self.added: list[str] = []
        self.given_back: list[str] = []
        self.shown: dict[str, t.Any] = {}
        self.acted = False

    def run(self, scaler: Scaler, lock: t.Any, p: t.Mapping[str, t.Any], check: bool) -> None:
        if check:
            self.decide(scaler, p, remember=False)
            return
        with lock:
            sight, seen = self.decide(scaler, p)
            decision = t.cast(Decision, self.decision)
            self.given_back += scaler.finish(sight)
            scaler.tell(decision, seen)
            self.acted = decision.dry_run is False and any(a.kind != "hold" for a in decision.actions)
            self.added = scaler.act(decision, sight)
            for action in decision.actions if self.acted else ():
                scaler.journal.note("scale", action.reason, action=action.kind, count=action.count, nodes=list(action.nodes), have=decision.have,
                                    size=decision.size, outcome="done")

    def decide(self, scaler: Scaler, p: t.Mapping[str, t.Any], remember: bool = True) -> t.Any:
        sight = scaler.look(remember=remember)
        seen = scaler.view(sight, scaler.measure(sight), outlook_of(p["history"], scaler.settings) if p["size"] is None else None)
        self.decision = scaler.decide(seen, now=scaler.registry.now())
        self.shown = as_status(self.decision, seen)
        for action in self.decision.actions:
            if action.kind == "freeze":
                raise FleetError("decide how many nodes there are to be", "the cluster", action.reason,
                                 "Nothing is done on data that cannot be trusted; mend that, then run again", code="frozen")
        return sight, seen

    @property
    def changed(self) -> bool:
        would = self.decision is not None and not self.decision.dry_run and any(a.kind not in ("hold", "freeze") for a in self.decision.actions)
        return would or bool(self.given_back)

    def as_dict(self) -> dict[str, t.Any]:
        d = self.decision
        if d is None:
            return {"added": self.added, "given_back": self.given_back}
        words = [f"{a.kind} {a.count or len(a.nodes) or ''}".strip() + (f": {', '.join(a.nodes)}" if a.nodes else "") + f" ({a.reason})" for a in d.actions]
        text = f"{d.have} nodes, {d.size} to be: {'; '.join(words)}"
        shown = {key: self.shown[key] for key in ("have", "size", "actions", "wishes", "limits", "demand", "capacity")}
        return {"msg": text, "added": self.added, "given_back": self.given_back, **shown,
                "diff": {"before": f"{d.have} nodes\n", "after": f"{d.size} nodes\n" + "".join(f"{w}\n" for w in words if self.changed)}}


def wait(scaler: Scaler, lock: t.Any, p: t.Mapping[str, t.Any], result: Result) -> None:
    """Until the size is reached and what leaves is gone, going on with drains meanwhile. Raises FleetError scaling_slow."""
    end, size = time.monotonic() + p["wait"], t.cast(Decision, result.decision).size
    while True:
        with lock:
            sight = scaler.look()
            result.given_back += scaler.finish(sight)
        members = scaler.view(sight, scaler.measure(sight)).members
        serving, leaving = sum(m.state == "serving" for m in members), [m.id for m in members if m.state == "draining"]
        if serving >= size and not leaving:
            return
        if time.monotonic() > end:
            raise FleetError("wait for the cluster", f"{size} nodes", f"{serving} serve, {', '.join(leaving) or 'none'} still leaving after {p['wait']:g} s",
                             "It goes on without this run; look again with openrtc.livekit.capacity_info", code="scaling_slow", serving=serving,
                             leaving=leaving)
        pursue(scaler, p)
        time.sleep(POLL)


def pursue(scaler: Scaler, p: t.Mapping[str, t.Any]) -> None:
    """Go on with the drains, unless a controller does."""
    mover = mover_of(scaler.registry, {**p, "lock_wait": 0})
    drainer = drain.Drainer(mover)
    for request in drain.requests(scaler.registry).values():
        try:
            if drainer.look(request).kind not in ("wait", "freeze"):
                with mover.lock:
                    drainer.step(request)
        except FleetError as exc:
            if exc.failure["code"] not in ("locked", "lock_lost"):
                raise


if __name__ == "__main__":
    main()
