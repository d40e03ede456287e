# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Any program as a pool: Proxmox, libvirt, IPMI, a cloud we do not know. docs/pools.md has its contract, with an example.

The program is called with one word, list, add or retire, gets JSON on its input and answers JSON on its output:

    list    {}                           {"machines": [{"id": ..., "state": ..., "host": ..., "address": ..., "since": ..., "protected": ...}]}
    add     {"count": 2, "order": "..."} {"ids": [...]}    the same order twice adds once
    retire  {"ids": [...]}               {"ids": [...]}    those that were still there

Any other end than 0 is a failure, and the last line it wrote to its error output says why.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import json
import math
import os
import subprocess
import typing as t

from ..errors import FleetError
from .base import ENDING, FAILED, ORDERED, RUNNING, Base, Machine, check_count, option

if t.TYPE_CHECKING:
    from ..orders import Orders
    from ..registry import Registry

STATES = (ORDERED, RUNNING, ENDING, FAILED)
TEXTS = ("host", "address")


class Command(Base):
    """argv: the program and its own options. environment: for it, beside PATH, HOME and LANG; secrets go there. timeout: seconds per call."""

    name = "command"

    def __init__(self, argv: t.Sequence[str], environment: t.Mapping[str, str] | None = None, timeout: float = 60.0) -> None:
        self.argv, self.timeout = list(argv), timeout
        self.environment = {**{k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}, **(environment or {})}

    @classmethod
    def of(cls, settings: t.Mapping[str, t.Any], registry: Registry, orders: Orders) -> Command:
        found = option("command", settings, {"argv": [], "environment": {}, "timeout": 60.0}, ("argv",))
        return cls([str(word) for word in found["argv"]], {str(k): str(v) for k, v in found["environment"].items()}, float(found["timeout"]))

    def machines(self) -> list[Machine]:
        rows = self._ask("list", {}).get("machines")
        if not isinstance(rows, list):
            raise self._bad("list", "there is no list `machines` in it")
        found = [self._machine(row) for row in rows]
        if len({m.id for m in found}) != len(found):
            raise self._bad("list", "two machines have the same id")
        return sorted(found)

    def _machine(self, row: t.Any) -> Machine:
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
            raise self._bad("list", f"a machine without an id: {str(row)[:100]}")
        if row.get("state") not in STATES:
            raise self._bad("list", f"{row['id']} has the state {row.get('state')!r}, expected one of {', '.join(STATES)}")
        try:
            since, texts = float(row.get("since") or 0.0), [str(row.get(name) or "") for name in TEXTS]
        except (TypeError, ValueError):
            raise self._bad("list", f"{row['id']} was ordered at {row.get('since')!r}, expected Unix seconds") from None
        if not math.isfinite(since):
            raise self._bad("list", f"{row['id']} was ordered at {since}")
        return Machine(row["id"], row["state"], *texts, since=since, protected=bool(row.get("protected")))

    def add(self, count: int, order: str = "") -> list[str]:
        check_count(count)
        return self._ids("add", {"count": count, "order": order})

    def retire(self, ids: t.Sequence[str]) -> list[str]:
        return [i for i in self._ids("retire", {"ids": list(ids)}) if i in ids] if ids else []

    def _ids(self, word: str, question: t.Mapping[str, t.Any]) -> list[str]:
        found = self._ask(word, question).get("ids", [])
        if not isinstance(found, list) or not all(isinstance(i, str) for i in found):
            raise self._bad(word, f"its `ids` are {str(found)[:100]}, expected a list of texts")
        return found

    def _ask(self, word: str, question: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        try:
            done = subprocess.run([*self.argv, word], input=json.dumps(question), capture_output=True, text=True, timeout=self.timeout, check=False,
                                  env=self.environment)
        except subprocess.TimeoutExpired as exc:
            raise self._failed(word, f"no answer within {self.timeout:g} s", "pool_unreachable") from exc
        except (OSError, UnicodeDecodeError) as exc:
            raise self._failed(word, exc, "pool_unreachable") from exc
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1][:500]
            raise self._failed(word, f"it ended with {done.returncode}: {last}", "pool_refused")
        try:
            found = json.loads(done.stdout)
        except ValueError as exc:
            raise self._bad(word, f"{exc}: {done.stdout[:100]!r}") from exc
        if not isinstance(found, dict):
            raise self._bad(word, "it is no mapping")
        return found

    def _failed(self, word: str, got: t.Any, code: str) -> FleetError:
        return FleetError(f"have the pool's program {word}", self.argv[0], got, "Run it by hand with the same word and input; docs/pools.md has its contract",
                          code=code)

    def _bad(self, word: str, got: str) -> FleetError:
        return self._failed(word, f"its answer is none: {got}", "pool_answer")
