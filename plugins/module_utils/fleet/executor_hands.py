# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the executor does when it is told to: one method per order, each checked against what runs in the slot at that moment.

A node gets at most one SIGTERM (SlotHost.drain), and SIGKILL only by its node id.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import collections
import json
import threading
import typing as t
import urllib.error
import urllib.request

from .api import token
from .balancers.haproxy_runtime import Runtime
from .errors import FleetError
from .executor_watch import Process, Watch
from .generation import Slot
from .host import Run, SlotHost

ORDERS = ("start", "rest", "drain", "fence", "end", "avoid", "cut", "cut_sockets", "stop_unit", "observe")


class Hands:
    """The orders of one host. proxy: its HAProxy, None without one; neighbours: units that may be stopped."""

    def __init__(self, run: Run, host: SlotHost | None, watch: Watch, report: t.Callable[[], str], proxy: Runtime | None = None,
                 neighbours: t.Sequence[str] = (), end_unit: t.Callable[[str], bool] = lambda unit: False) -> None:
        self.end_unit = end_unit
        self.run, self.host, self.watch, self.report, self.proxy, self.neighbours = run, host, watch, report, proxy, neighbours
        self._busy: dict[int, threading.Lock] = collections.defaultdict(threading.Lock)  # one order at a time per slot

    def do(self, what: str, args: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """Carry out an order; raises FleetError."""
        if what not in ORDERS:
            raise FleetError("carry out an order", what, "this executor does not know it", "Install the same version everywhere: run openrtc.livekit.deploy",
                             code="order_unknown", known=list(ORDERS))
        return t.cast("dict[str, t.Any]", getattr(self, what)(**args))

    # -- nodes -------------------------------------------------------------------------------------------------

    def start(self, slot: int, generation: str) -> dict[str, t.Any]:
        """Start what lies in a warm slot: this generation, which passed its gates there before. Returns before the node answers."""
        host = self._host()
        with self._busy[slot]:
            found = self._slot(slot)
            if found.running and found.generation == generation:
                return {"started": False}
            if not found.free or found.generation != generation or found.gate != generation or not found.intact or found.exposed:
                raise FleetError("start a warm slot", f"slot {slot}", f"it is {found.label} with generation {found.generation or 'none'}, "
                                 f"{'whole' if found.intact else 'changed since'}, passed {found.gate or 'none'}",
                                 "Run openrtc.livekit.deploy on this host, which starts it with all its gates", code="slot_cold", slot=slot)
            host.start(slot)
            host.runtime.enable(slot)
            self.watch.look()
            return {"started": True}

    def rest(self, slot: int, generation: str) -> dict[str, t.Any]:
        """One SIGTERM for whatever node runs this generation in the slot, also one that has not said yet who it is; calls end by themselves."""
        host = self._host()
        with self._busy[slot]:
            found = self._slot(slot)
            if not found.running or found.generation != generation:
                return {"signalled": False}
            try:
                return {"signalled": host.drain(slot)}
            finally:
                self.watch.look()

    def _slot(self, slot: int) -> Slot:
        found = next((s for s in self._host().observe(measure=False) if s.slot == slot), None)
        if found is None:
            raise FleetError("find a slot", f"slot {slot}", "this host has no such slot", "Read the state again, or raise livekit_layout.count",
                             code="no_slots")
        return found

    def drain(self, slot: int, node_id: str) -> dict[str, t.Any]:
        host = self._host()
        with self._busy[slot]:
            if self._node(slot, node_id) is None:
                return {"signalled": False}
            try:
                return {"signalled": host.drain(slot)}
            finally:
                self.watch.look()

    def fence(self, slot: int, node_id: str) -> dict[str, t.Any]:
        host = self._host()
        with self._busy[slot]:
            try:
                process = self._node(slot, node_id)
            except FleetError as exc:
                if exc.failure["code"] != "node_differs":
                    raise
                process = None  # another node has the slot, so this one is gone
            if process is None:
                return {"killed": False}
            try:
                return {"killed": host.fence(slot, node_id, process[0])}
            finally:
                self.watch.look()

    def end(self, slot: int, node_id: str, rooms: list[str]) -> dict[str, t.Any]:
        """Calls of these rooms end for everybody in them."""
        host = self._host()
        if self._node(slot, node_id) is None:
            return {"ended": []}
        pairs = host.shelf.keys(slot)
        if not pairs:
            raise FleetError("end rooms", f"slot {slot}", "its keys.yaml names no API key", "Look at the files of the slot on this host", code="no_keys")
        bearer = token(*next(iter(pairs.items())), grants={"room_create": True}, ttl=60)
        base = f"http://{host.address}:{host.layout.ports(slot).signal}"
        ended, failed = [], {}
        for room in rooms:
            try:
                if _delete_room(base, bearer, room):
                    ended.append(room)
            except (OSError, ValueError) as exc:
                failed[room] = str(exc)
        if failed:
            raise FleetError("end rooms", ", ".join(failed), next(iter(failed.values())), "See the log of the node; run again for the rooms that are left",
                             code="end_failed", ended=ended, failed=failed)
        return {"ended": ended}

    def _node(self, slot: int, node_id: str) -> Process | None:
        """The process that is this node, None where the slot runs none. Raises node_differs or node_unknown."""
        self.watch.look()
        process = self.watch.process(slot)
        if process is None:
            return None
        if process not in self.watch.memory.nodes:
            self.watch.ask(slot, process)
        found = self.watch.memory.nodes.get(process)
        if found is None:
            raise FleetError("find a node", f"{node_id} in slot {slot}", f"process {process[0]} runs there and does not say which node it is",
                             "It may just have started: try again. If it hangs, look at it on this host", code="node_unknown", slot=slot)
        if found != node_id:
            raise FleetError("find a node", f"{node_id} in slot {slot}", f"{found} runs there", "Read the state again: the node is gone", code="node_differs",
                             slot=slot, found=found)
        return process

    def _host(self) -> SlotHost:
        if self.host is None:
            raise FleetError("carry out an order for a slot", "this host", "it is no media host", "Send the order to the host that runs the node",
                             code="no_slots")
        return self.host

    # -- signalling --------------------------------------------------------------------------------------------

    def cut(self, rooms: list[str] | None = None, servers: list[str] | None = None) -> dict[str, t.Any]:
        return self._proxy().cut(rooms, servers)

    def avoid(self, servers: list[str]) -> dict[str, t.Any]:
        """No new connections to these servers, until their agent check says ready."""
        return {"avoided": self._proxy().avoid(servers)}

    def _proxy(self) -> Runtime:
        if self.proxy is None:
            raise FleetError("talk to HAProxy", "this host", "no HAProxy runs here", "Cut the sockets on the media hosts instead (cut_sockets)",
                             code="no_balancer")
        return self.proxy

    def cut_sockets(self) -> dict[str, t.Any]:
        """Close every established connection to the signalling ports of this host's slots."""
        layout = self._host().layout
        which = ["state", "established", "( " + " or ".join(f"sport = :{layout.ports(n).signal}" for n in layout.numbers) + " )"]
        listed = self._ss("-tnH", *which)
        cut = self._ss("-K", "-tnH", *which) if listed else []
        if listed and not cut:
            raise FleetError("close sockets", f"{len(listed)} connections", "the kernel closed none of them",
                             "ss -K needs a kernel with CONFIG_INET_DIAG_DESTROY and the capability CAP_NET_ADMIN", code="sockets_stay", left=len(listed))
        return {"cut": len(cut)}

    def _ss(self, *options: str) -> list[str]:
        rc, out, err = self.run(["ss", *options])
        if rc != 0:
            raise FleetError("list sockets", "ss", (err or out).strip(), "Install iproute2 on this host", code="ss")
        return out.splitlines()

    # -- others ------------------------------------------------------------------------------------------------

    def stop_unit(self, unit: str) -> dict[str, t.Any]:
        """One SIGTERM for a neighbour, which finishes its work."""
        if unit not in self.neighbours:
            raise FleetError("stop a unit", unit, "it is none of this host's neighbours", "Name it in livekit_neighbours and run openrtc.livekit.deploy",
                             code="unit_refused", neighbours=list(self.neighbours))
        return {"signalled": self.end_unit(unit)}

    def observe(self) -> dict[str, t.Any]:
        """The report of this host, with nodes asked now."""
        self.watch.look()
        self.watch.ask_all(3.0)
        return dict(json.loads(self.report()))


def _delete_room(base: str, bearer: str, room: str) -> bool:
    """Whether there was such a room. Raises OSError."""
    request = urllib.request.Request(f"{base}/twirp/livekit.RoomService/DeleteRoom", data=json.dumps({"room": room}).encode(),
                                     headers={"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=8.0) as answer:
            answer.read()
        return True
    except urllib.error.HTTPError as exc:
        text = exc.read(2000).decode("utf-8", "replace")
        if exc.code == 404 and "not_found" in text:
            return False
        raise OSError(f"HTTP {exc.code} {text}") from exc
