# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for a cluster's nodes, executors and callers, over a real Redis, about twenty times as fast as they are.

It obeys what was measured of livekit-server: nodes refresh their entry; a caller whose signalling is cut joins the node that the
registry names; the old node keeps the old session for a while, then removes the participant's entry whoever wrote it; a copy of a
room that has been empty for its departure timeout, or whose drained node ends, erases the room from the registry whoever owns it.
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import move, move_plan, registry_messages
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.generation import Slot
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.journal import Journal
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.lock import Lock
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.move import Mover
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.move_store import DEAD, MOVES, SAVED
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.orders import CHANNEL, REPLY
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.placement import Limits
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry import connect
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import HOSTS, HostReport

TICK = 0.02


def hurry(monkeypatch, fence_after=0.5, guard=1.2, freeze=3.0, unwatched=0.3):
    """The engine's waiting times, shortened like those of the model."""
    for module in (move, move_plan):
        monkeypatch.setattr(module, "FENCE_AFTER", fence_after)
        monkeypatch.setattr(module, "GUARD_SECONDS", guard)
    monkeypatch.setattr(move_plan, "WAVE_SECONDS", 0.2)
    monkeypatch.setattr(move_plan, "SLOW", 2.0)  # several tests share a processor
    monkeypatch.setattr(move, "POLL", 0.01)
    monkeypatch.setattr(move, "PASSING", 0.0)
    monkeypatch.setattr(move, "AGENT_CACHE", 0.0)
    monkeypatch.setattr(move, "FREEZE_SECONDS", freeze)
    monkeypatch.setattr(move, "UNWATCHED", unwatched)


class Killed(BaseException):
    """Stands for SIGKILL of the process that moves rooms: nothing catches it, nothing is released."""


@dataclasses.dataclass
class ModelNode:
    id: str
    host: str
    slot: int
    state: str = "active"
    rooms: dict = dataclasses.field(default_factory=dict)  # room -> {identity: (sid, when the session ends or None)}
    empty_since: dict = dataclasses.field(default_factory=dict)
    terms: int = 0  # SIGTERMs it got
    kills: int = 0
    frozen: bool = False  # SIGSTOP
    names: bool = True  # it says which node it is
    since: float | None = None

    @property
    def alive(self):
        return self.state != "gone"


@dataclasses.dataclass
class Caller:
    identity: str
    room: str
    node: str
    sid: str
    joins: int = 1
    due: float | None = None  # when it comes back
    returns: bool = True


class Cluster:
    """nodes: {node id: (host, slot)}. Start it with `with`."""

    def __init__(self, server, nodes, balancers=("edge1",), linger=0.8, departure=1.0, back=0.03, cpus=2):
        self.server, self.client = server, server.client
        self.linger, self.departure, self.back, self.cpus = linger, departure, back, cpus
        self.nodes = {n: ModelNode(n, host, slot) for n, (host, slot) in nodes.items()}
        self.balancers, self.silent = list(balancers), set()  # silent: hosts whose executor does not answer or report
        self.callers, self.orders, self.problems, self.owners = [], [], [], {}
        self.neighbours = {}  # host -> {unit: state}
        self.worst_split = 0.0
        self.started, self.slow_start, self.refusing = 0, False, set()
        self.highest = {}
        self.lock, self.stopped = threading.RLock(), threading.Event()
        self.threads = []
        self.messages = registry_messages.messages()

    # -- building

    def room(self, name, node_id, *identities, departure_timeout=1):
        self.server.add_room(name, node_id, metadata=f"about {name}", departure_timeout=departure_timeout, creation_time=int(time.time()) - 100)
        self.client.hset("room_internal", name, f"internal {name}")
        with self.lock:
            self.nodes[node_id].rooms.setdefault(name, {})
        for identity in identities:
            self.join(identity, name)

    def join(self, identity, room):
        with self.lock:
            caller = Caller(identity, room, "", "", joins=0)
            self.callers.append(caller)
            self._join(caller)
            return caller

    def __enter__(self):
        self.pump()
        for work in (self._run, self._listen):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self.threads.append(thread)
        end = time.monotonic() + 5
        while not self.client.pubsub_numsub(CHANNEL + self.hosts[0])[0][1] and time.monotonic() < end:
            time.sleep(0.005)
        return self

    def __exit__(self, *_exc):
        self.stopped.set()
        for thread in self.threads:
            thread.join(5)

    @property
    def hosts(self):
        return sorted({n.host for n in self.nodes.values()} | set(self.balancers))

    # -- what the engine is given

    def registry(self):
        return connect({"address": self.server.address})

    def mover(self, owner="me", name="move", limits=Limits(), ttl=15.0, wait=0.0):
        registry = self.registry()
        return Mover(registry, Lock(registry, name, owner, ttl=ttl, wait=wait), Journal(registry, owner), limits)

    # -- nodes

    def _run(self):
        while not self.stopped.wait(TICK):
            try:
                self.pump()
            except Exception as exc:  # the test tells of it
                if not self.stopped.is_set():
                    self.problems.append(repr(exc))

    def pump(self):
        with self.lock:
            now = time.time()
            pipe = self.client.pipeline(transaction=False)
            for node in self.nodes.values():
                if node.alive and node.names and not node.frozen:
                    self._live(node, now, pipe)
            for host in self.hosts:
                if host not in self.silent:
                    pipe.hset(HOSTS, host, self.report(host, now).as_json())
            pipe.execute()
            for caller in self.callers:
                if caller.due is not None and caller.due <= now and caller.returns:
                    self._join(caller)
            self._owners(now)

    def _live(self, node, now, pipe):
        for room, people in node.rooms.items():
            for identity in [i for i, (_sid, until) in people.items() if until and until <= now]:
                del people[identity]
                pipe.hdel(f"room_participants:{room}", identity)
            if people:
                node.empty_since.pop(room, None)
            else:
                node.empty_since.setdefault(room, now)
        clients = sum(map(len, node.rooms.values()))
        if node.state == "deactivating" and not clients:
            for room in node.rooms:
                self._erase(room, pipe)
            pipe.hdel("nodes", node.id)
            node.rooms.clear()
            node.state = "gone"
            return
        for room in [r for r, since in node.empty_since.items() if now - since > self.departure and r in node.rooms]:
            self._erase(room, pipe)
            del node.rooms[room], node.empty_since[room]
        stats = self.messages["NodeStats"](updated_at=int(now), num_rooms=len(node.rooms), num_clients=clients, cpu_load=0.1)
        message = self.messages["Node"](id=node.id, ip="192.0.2.1", num_cpus=self.cpus, stats=stats, state=1 if node.state == "active" else 2)
        pipe.hset("nodes", node.id, message.SerializeToString())

    @staticmethod
    def _erase(room, pipe):
        for key in ("room_node_map", "rooms", "room_internal"):
            pipe.hdel(key, room)
        pipe.delete(f"room_participants:{room}")

    def _join(self, caller):
        """The caller's full (re)connect, to the node that the registry names."""
        home = (self.client.hget("room_node_map", caller.room) or b"").decode()
        if home not in self.nodes or not self.nodes[home].alive:
            home = sorted(n.id for n in self.nodes.values() if n.state == "active")[0]
            self.client.hset("room_node_map", caller.room, home)
        if not self.client.hexists("rooms", caller.room):
            self.server.add_room(caller.room)  # a new room of that name: metadata is lost
        before, node = self.nodes.get(caller.node), self.nodes[home]
        if before and before is not node and caller.identity in before.rooms.get(caller.room, {}):
            before.rooms[caller.room][caller.identity] = (caller.sid, time.time() + self.linger)
        caller.joins += 1
        caller.node, caller.sid, caller.due = home, f"PA_{caller.identity}_{caller.joins}", None
        node.rooms.setdefault(caller.room, {})[caller.identity] = (caller.sid, None)
        info = self.messages["ParticipantInfo"](identity=caller.identity, sid=caller.sid, state=2)
        self.client.hset(f"room_participants:{caller.room}", caller.identity, info.SerializeToString())

    def leave(self, caller):
        with self.lock:
            self.callers.remove(caller)
            node = self.nodes[caller.node]
            if node.alive:
                node.rooms.get(caller.room, {}).pop(caller.identity, None)
                self.client.hdel(f"room_participants:{caller.room}", caller.identity)

    def _owners(self, now):
        """Callers of one room who sit on two living nodes cannot hear each other; how long that lasted at worst."""
        for room in {c.room for c in self.callers}:
            homes = {c.node for c in self.callers if c.room == room and c.due is None and self.nodes[c.node].alive}
            since = self.owners.setdefault(room, now) if len(homes) > 1 else self.owners.pop(room, now)
            self.worst_split = max(self.worst_split, now - since)

    def kill(self, node_id, age=0):
        """The process is gone at once. age: how long ago it refreshed its entry."""
        with self.lock:
            node = self.nodes[node_id]
            node.state, node.frozen = "gone", False
            node.rooms.clear()
            if age:
                self.server.add_node(node_id, age=age)
            for caller in self.callers:
                if caller.node == node_id:
                    caller.due = time.time() + 0.3

    # -- executors

    def report(self, host, now):
        slots = {s: Slot(s) for s in (1, 2)}
        for node in sorted(self.nodes.values(), key=lambda n: n.alive):
            if node.host == host and node.alive:
                slots[node.slot] = Slot(node.slot, state=node.state, generation="g", gate="g", version="1.13.5", pid=1000 + node.slot,
                                        node_id=node.id if node.names else None, since=node.since, participants=sum(map(len, node.rooms.values())))
            elif node.host == host:  # what it ran lies there still
                slots[node.slot] = Slot(node.slot, generation="g", gate="g", version="1.13.5")
        media = any(n.host == host for n in self.nodes.values())
        return HostReport(host, "127.0.0.1", now, tuple(slots.values()) if media else (), {1: 1, 2: 2} if media else {},
                          "haproxy-http" if host in self.balancers else "", self.neighbours.get(host, {}))

    def _listen(self):
        pubsub = self.client.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(*[CHANNEL + host for host in self.hosts])
        while not self.stopped.is_set():
            with contextlib.suppress(Exception):  # Redis may be away
                message = pubsub.get_message(timeout=0.05)
                if message and message["data"]:
                    self._take(message["channel"].decode()[len(CHANNEL):], json.loads(message["data"]))
        with contextlib.suppress(Exception):
            pubsub.close()

    def _take(self, host, order):
        if host in self.silent:
            return
        if time.time() > order["until"] or order["token"] < self.highest.get(order["lock"], 1):
            answer = {"failure": {"code": "order_void", "tried": "carry out an order", "on": host, "got": "late or old", "fix": "run again"}}
        else:
            self.highest[order["lock"]] = order["token"]
            with self.lock:
                result = getattr(self, "_" + order["what"])(host, **order["args"])
                self.orders.append((host, order["what"], order["args"], result))
            answer = {"failure": result} if "code" in result else {"result": result}
            self.pump()  # reports come at once when something changed
        self.client.rpush(REPLY + order["id"], json.dumps(answer))
        self.client.expire(REPLY + order["id"], 60)

    def _in(self, host, slot, node_id):
        return next((n for n in self.nodes.values() if (n.host, n.slot, n.id) == (host, slot, node_id) and n.alive), None)

    def _start(self, host, slot, generation):
        if any((n.host, n.slot) == (host, slot) and n.alive for n in self.nodes.values()):
            return {"started": False}
        if host in self.refusing or generation != "g":
            return {"code": "slot_cold", "tried": "start a warm slot", "on": host, "got": "it is cold", "fix": "deploy"}
        self.started += 1
        name = f"ND_start{self.started}"
        self.nodes[name] = ModelNode(name, host, slot, state="activating" if self.slow_start else "active", names=not self.slow_start, since=time.time())
        return {"started": True}

    def come_up(self):
        """Nodes that were started slowly are there now."""
        with self.lock:
            for node in self.nodes.values():
                if node.state == "activating":
                    node.state, node.names = "active", True
            self.pump()

    def _rest(self, host, slot, generation):
        node = next((n for n in self.nodes.values() if (n.host, n.slot) == (host, slot) and n.state in ("active", "activating")), None)
        if node is None:
            return {"signalled": False}
        node.terms, node.state = node.terms + 1, "deactivating"
        return {"signalled": True}

    def _drain(self, host, slot, node_id):
        node = self._in(host, slot, node_id)
        if node is None or node.state != "active":
            return {"signalled": False}
        node.terms, node.state = node.terms + 1, "deactivating"
        return {"signalled": True}

    def _fence(self, host, slot, node_id):
        node = self._in(host, slot, node_id)
        if node is None:
            return {"killed": False}
        node.kills += 1
        self.kill(node_id)
        return {"killed": True}

    def _end(self, host, slot, node_id, rooms):
        for room in rooms:
            for caller in [c for c in self.callers if c.room == room]:
                self.leave(caller)
            self._erase(room, self.client)
            self.nodes[node_id].rooms.pop(room, None)
        return {"ended": rooms}

    def _cut(self, host, rooms=None, servers=None):
        cut = [c for c in self.callers if c.due is None and (rooms is None and not servers or c.room in (rooms or ()))]
        for caller in cut:
            caller.due = time.time() + self.back
        return {"cut": len(cut), "left": 0}

    def _avoid(self, host, servers):
        return {"avoided": servers}

    def _cut_sockets(self, host):
        return self._cut(host)

    def _stop_unit(self, host, unit):
        active = self.neighbours.get(host, {}).get(unit) == "active"
        if active:
            self.neighbours[host][unit] = "deactivating"
        return {"signalled": active}

    # -- what has to hold in the end

    def homes(self):
        return {k.decode(): v.decode() for k, v in self.client.hgetall("room_node_map").items()}

    def rooms(self):
        return {k.decode(): self.messages["Room"].FromString(v).metadata for k, v in self.client.hgetall("rooms").items()}

    def settle(self, timeout=3.0):
        """Until every caller that comes back at all is back."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            with self.lock:
                if all(c.due is None or not c.returns for c in self.callers):
                    return
            time.sleep(0.01)

    def assert_evacuated(self, node_id, rooms, kept=True):
        """The node is gone, its rooms live elsewhere whole, and nothing of the move is left."""
        self.settle()
        with self.lock:
            node, homes = self.nodes[node_id], self.homes()
            assert not self.problems
            assert not node.alive and node.terms <= 1 and node.kills <= 1
            assert node_id not in homes.values() and not self.client.hexists("nodes", node_id)
            assert set(rooms) <= set(homes)
            assert set(rooms) <= set(self.rooms())
            assert not kept or all(text == f"about {room}" for room, text in self.rooms().items())
            assert all(self.nodes[home].state == "active" for home in homes.values())
            for caller in self.callers:
                assert caller.node == homes[caller.room] or not caller.returns, caller
            assert not self.client.exists(MOVES) and not self.client.keys(SAVED + "*")
            assert not self.client.hexists(DEAD, node_id)
            assert self.worst_split < 1.0
