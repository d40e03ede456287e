# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module drain in short turns and prints a line of progress after each. Documented in modules/drain.py."""
from __future__ import annotations

import time
import typing as t

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.drain_run import UNSEEN
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.table import age
from ansible_collections.openrtc.livekit.plugins.plugin_utils.owner import owner

MODULE = "openrtc.livekit.drain"
TURN = 12.0  # seconds of one turn, so that a line comes a few times a minute
PATIENCE = 60.0  # seconds for which Redis or an executor may be away once a drain has begun


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        args = {"owner": owner(), **self._task.args}
        if self._task.async_val or "poll" in self._task.args:
            result.update(self._execute_module(module_name=MODULE, module_args=args, task_vars=task_vars, wrap_async=bool(self._task.async_val)))
            return result
        timeline: list[dict[str, t.Any]] = []
        rows: dict[str, dict[str, t.Any]] = {}  # node id -> what was told of it last
        changed, begin, calm = False, time.monotonic(), time.monotonic()
        while True:
            out = self._execute_module(module_name=MODULE, module_args={**args, "poll": TURN}, task_vars=task_vars)
            timeline += out.get("timeline") or []
            changed = changed or bool(out.get("changed"))
            code = (out.get("failure") or {}).get("code")
            if code == "node_unknown" and rows.get(out["failure"].get("node_id")):  # the controller saw it end between two turns
                gone(rows, [out["failure"]["node_id"]])
                args["node_ids"] = [n for n in args["node_ids"] if rows.get(n, {}).get("state") != "gone"]
                if args["node_ids"] or args.get("hosts"):
                    continue
                out = {"done": True, "drains": []}
            elif code in UNSEEN and rows and time.monotonic() - calm < PATIENCE:
                Display().display(f"  {out['msg']}")
                time.sleep(1.0)
                continue
            if out.get("failed"):
                return {**result, **out, "changed": changed, "timeline": timeline}
            calm = time.monotonic()
            found = {d["node_id"]: d for d in out["drains"]}
            gone(rows, [n for n in rows if n not in found])
            rows.update(found)
            for line in lines(list(rows.values()), time.monotonic() - begin):
                Display().display(line)
            waiting = [d for d in rows.values() if d["state"] != "gone"]
            settled = not waiting or (not boolean(args.get("wait", True)) and all(d["state"] == "wait" for d in waiting))
            if self._task.check_mode or settled:
                return {**result, **out, "changed": changed, "timeline": timeline, "drains": list(rows.values())}


def gone(rows: dict[str, dict[str, t.Any]], nodes: t.Iterable[str]) -> None:
    """Note that these nodes have ended."""
    for node in nodes:
        rows[node].update(state="gone", reason="the node is gone", rooms=0, participants=0, blockers={}, eta=None, deadline=None, oldest=None)


def lines(drains: t.Sequence[t.Mapping[str, t.Any]], seconds: float) -> list[str]:
    """One line per node: what is on it, what blocks, how long it may take."""
    out = []
    for d in drains:
        where = f"  {d['host']}: slot {d['slot']}"
        if d["state"] == "gone":
            out.append(f"{where} is empty and gone ({seconds:.0f} s)")
            continue
        held = f", held by {', '.join(sorted({who for people in d['blockers'].values() for who in people}))}" if d["blockers"] else ""
        eta = "unknown" if d["eta"] is None else age(d["eta"])
        due = "" if d["deadline"] is None else f", {d['policy']} in {age(max(0.0, d['deadline']))}"
        why = f" ({d['reason']})" if d["state"] == "freeze" else ""
        out.append(f"{where} {d['state']}: {d['rooms']} rooms, {d['participants']} participants, oldest room {age(d['oldest'])}, "
                   f"empty by itself in {eta}{due}{held}{why}")
    return out
