# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program as the pool `command` calls it, over one JSON file: an honest fake of somebody's hypervisor. The file may tell it to misbehave."""
from __future__ import annotations

import json
import pathlib
import sys
import time


def main() -> int:
    path = pathlib.Path(sys.argv[1])
    state, asked = json.loads(path.read_text()), json.load(sys.stdin)
    machines = state["machines"]
    if state.get("down"):
        print("Traceback: something long\nconnection to the hypervisor refused", file=sys.stderr)
        return 1
    if sys.argv[2] == "list":
        answer = {"machines": list(machines.values())}
    elif sys.argv[2] == "add":
        if asked["order"] not in state["orders"]:
            if len(machines) + asked["count"] > state["quota"]:
                print("quota exceeded", file=sys.stderr)
                return 3
            new = [f"vm-{state['next'] + n}" for n in range(asked["count"])]
            state["next"] += asked["count"]
            state["orders"][asked["order"]] = new
            machines.update({i: {"id": i, "state": "ordered", "host": f"host-{i}", "since": time.time()} for i in new})
        answer = {"ids": state["orders"][asked["order"]]}
    else:
        answer = {"ids": [i for i in asked["ids"] if machines.pop(i, None)]}
    deaf = state.pop("deaf", False) and sys.argv[2] == "add"
    path.write_text(json.dumps(state))
    print("{" if deaf else state.get("answer") or json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
