# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The executor against a real Redis. systemd is played by a table of units, nodes by processes that sleep and small HTTP servers."""
from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import executor as executor_module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import executor_watch
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.executor import Executor, Settings
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.executor_orders import Desk
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.executor_watch import Memory, Unknown, Watch, started
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.host import SlotHost
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.lock import Lock
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.move_store import DEAD
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.orders import Order, Orders
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry import Registry
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.reports import HOSTS, HostReport
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slots import Layout

FLEET = os.path.dirname(executor_module.__file__)


def wait(check, timeout=8.0):
    """The first true answer of check()."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def free_ports(offsets):
    """A base below the ports that the kernel gives away, with nothing on base + each offset."""
    def is_free(port):
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) != 0

    start = os.getpid() * 40 % 16000
    return next(base for n in range(200) for base in [12000 + (start + n * 40) % 16000] if all(is_free(base + o) for o in offsets))


class Node:
    """A process that sleeps (its pid is the unit's) and a server on the slot's ports that answers for it."""

    def __init__(self, node_id, ports, participants=0):
        self.node_id, self.participants = node_id, participants
        self.process = subprocess.Popen(["sleep", "600"])
        self.deleted = []
        self.hangs = threading.Event()
        node = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if node.hangs.is_set():
                    time.sleep(5)
                    return
                self.send_response(200)
                self.end_headers()
                self.wfile.write((f'livekit_room_total{{node_id="{node.node_id}"}} 1\n'
                                  f'livekit_participant_total{{node_id="{node.node_id}"}} {node.participants}\n').encode())

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                node.deleted.append((self.path, body, self.headers["Authorization"]))
                known = body["room"] != "gone"
                self.send_response(200 if known else 404)
                self.end_headers()
                self.wfile.write(b"{}" if known else b'{"code": "not_found"}')

            def log_message(self, *args):
                pass

        self.servers = [http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) for port in (ports.signal, ports.metrics)]
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def end(self):
        self.process.kill()
        self.process.wait()
        for server in self.servers:
            server.shutdown()
            server.server_close()
        self.servers = []


class Systemd:
    """Commands of a host and the states of its units; `done` are the commands that change something."""

    def __init__(self):
        self.nodes, self.states, self.done, self.near, self.deaf = {}, {}, [], {"livekit-egress.service": "active"}, False

    def units(self):
        if self.deaf:
            raise Unknown("no bus")
        return {**self.near, **{f"livekit-server@{n}.service": state for n, state in self.states.items()}}

    def __call__(self, command):
        words = [w for w in command if not w.startswith("-")]
        if words[0] == "ss":
            return 0, "one\ntwo\n" if "-K" not in command else "one\n", ""
        units = [int(w.split("@")[1].split(".")[0]) for w in words if w.startswith("livekit-server@") and "*" not in w]
        if words[1] == "list-units":
            return 0, "\n".join(f"livekit-server@{n}.service loaded" for n in self.states), ""
        if words[1] == "show" and "--value" in command:
            state = self.states.get(units[0], "inactive") if units else self.near.get(words[-1], "inactive")
            value = str(self.pid(units[0])) if units and "MainPID" in command else state
            return 0, value + "\n", ""
        if words[1] == "show":
            return 0, "\n\n".join(f"Id=livekit-server@{n}.service\nActiveState={self.states.get(n, 'inactive')}\nMainPID={self.pid(n)}\n"
                                  "ActiveEnterTimestamp=@1700000000\nStateChangeTimestamp=@1700000100\nUnitFileState=enabled" for n in units), ""
        self.done.append(" ".join(command[1:]))
        if words[1] == "stop" and units:
            self.states[units[0]] = "deactivating"
        elif words[1] == "start":
            self.states[units[0]] = "activating"
        elif words[1] == "kill":
            self.nodes[units[0]].end()
            self.states[units[0]] = "inactive"
        return 0, "", ""

    def pid(self, n):
        node = self.nodes.get(n)
        return node.process.pid if node and node.process.poll() is None else 0

    def start(self, n, node):
        self.nodes[n], self.states[n] = node, "active"
        return node


class Fixture:
    """One media host: its executor in threads, and a sender of orders with a lock."""

    def __init__(self, server, tmp_path):
        self.server, self.tmp_path = server, tmp_path
        base = free_ports((0, 1, 10, 11))
        self.layout = Layout(count=2, signal=base, metrics=base + 1)
        self.systemd, self.lines, self.running = Systemd(), [], []
        self.registry = Registry({"address": server.address})
        self.lock = Lock(self.registry, "cluster", "test", ttl=60)

    def run(self, **more):
        settings = Settings(**{"host": "sfu1", "address": "127.0.0.1", "redis": {"address": self.server.address, "password": None},
                               "memory": str(self.tmp_path / "nodes.json"), "neighbours": [{"unit": "livekit-egress.service", "kind": "egress"}], **more})
        host = SlotHost(self.systemd, self.layout, str(self.tmp_path / "etc"), str(self.tmp_path / "var"), str(self.tmp_path / "opt"))
        made = Executor(settings, self.systemd, self.systemd.units, host, lambda event, **fields: self.lines.append({"event": event, **fields}))
        thread = threading.Thread(target=made.run, daemon=True)
        thread.start()
        self.running.append((made, thread))
        wait(self.report)
        wait(lambda: made.listener.since)
        return made

    def node(self, n, node_id, participants=1):
        return self.systemd.start(n, Node(node_id, self.layout.ports(n), participants))

    def report(self):
        raw = self.registry.ask("read", ("HGET", HOSTS, "sfu1"))[0]
        return HostReport.parse(raw.decode()) if raw else None

    def slot(self, n=1):
        return next(s for s in self.report().slots if s.slot == n)

    def order(self, what, args=None, timeout=5.0, host="sfu1"):
        if not self.lock.token:
            self.lock.acquire()
        return Orders(self.registry, self.lock).ask([Order(host, what, args or {})], timeout)[0]

    def refused(self, what, args=None, **more):
        with pytest.raises(FleetError) as caught:
            self.order(what, args, **more)
        return caught.value.failure["code"]


@pytest.fixture
def fixture(redis_server, tmp_path, monkeypatch):
    monkeypatch.setattr(executor_module, "BEAT", 0.3)
    made = Fixture(redis_server(), tmp_path)
    yield made
    for running, thread in made.running:
        running.stop.set()
        thread.join(5)
    for node in made.systemd.nodes.values():
        node.end()


def test_a_report_tells_slots_ports_and_neighbours(fixture):
    fixture.node(1, "ND_a", participants=3)
    fixture.run(balancer="nginx")
    wait(lambda: fixture.slot().node_id == "ND_a")
    report = fixture.report()
    slot = fixture.slot()
    assert (slot.state, slot.http, slot.rooms, slot.participants, slot.state_since) == ("active", 200, 1, 3, 1700000100.0)
    assert (slot.pid, fixture.slot(2).label) == (fixture.systemd.pid(1), "free")
    assert report.ports == {1: fixture.layout.signal, 2: fixture.layout.signal + 10} and report.address == "127.0.0.1"
    assert report.balancer == "nginx" and report.neighbours == {"livekit-egress.service": "active"}
    assert abs(report.at - time.time()) < 2


def test_the_first_report_tells_everything(fixture):
    fixture.node(1, "ND_a", participants=2)
    fixture.run()
    slots = {s.slot: s for s in fixture.report().slots}
    assert (slots[1].node_id, slots[1].http, slots[1].participants, slots[2].label) == ("ND_a", 200, 2, "free")


def test_heartbeats_come_all_the_time(fixture):
    fixture.run()
    seen = {fixture.report().at for dummy in range(40) if not time.sleep(0.05)}
    assert len(seen) >= 5


def test_a_drain_is_carried_out_and_answered(fixture):
    fixture.node(1, "ND_a")
    fixture.run()
    assert fixture.order("drain", {"slot": 1, "node_id": "ND_a"}) == {"signalled": True}
    assert wait(lambda: fixture.slot().draining)
    assert fixture.order("drain", {"slot": 1, "node_id": "ND_a"}) == {"signalled": False}
    assert [w for w in fixture.systemd.done if "stop" in w] == ["--no-block stop livekit-server@1.service"]
    line = next(line for line in fixture.lines if line["event"] == "order")
    assert (line["what"], line["by"], line["lock"], line["result"]) == ("drain", "test", "cluster", {"signalled": True})


def test_a_drain_of_another_node_is_refused(fixture):
    fixture.node(1, "ND_new")
    fixture.run()
    assert fixture.refused("drain", {"slot": 1, "node_id": "ND_old"}) == "node_differs"
    assert fixture.systemd.done == []


def lay(fixture, n=2, gate="g", **meta):
    """The files of a generation that passed its gates in the slot and then ended."""
    for path, text in ((f"etc/{n}/generation.json", json.dumps({"generation": "g", "version": "1.13.5", "files": {}, **meta})), (f"var/{n}/gate", gate)):
        (fixture.tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (fixture.tmp_path / path).write_text(text)


def test_a_warm_slot_starts_once_and_at_boot_too(fixture):
    lay(fixture)
    fixture.run()
    assert fixture.order("start", {"slot": 2, "generation": "g"}) == {"started": True}
    assert fixture.order("start", {"slot": 2, "generation": "g"}) == {"started": False}
    assert fixture.systemd.done == ["--no-block start livekit-server@2.service", "enable livekit-server@2.service"]


@pytest.mark.parametrize("gate, meta", [("g", {"generation": "other"}), ("", {}), ("other", {}), ("g", {"files": {"config.yaml": "0" * 64}})])
def test_a_slot_that_is_not_warm_is_not_started(fixture, gate, meta):
    lay(fixture, gate=gate, **meta)
    fixture.run()
    assert fixture.refused("start", {"slot": 2, "generation": "g"}) == "slot_cold"
    assert fixture.refused("start", {"slot": 7, "generation": "g"}) == "no_slots"
    assert fixture.systemd.done == []


def test_a_node_that_never_said_who_it_is_gets_one_signal(fixture):
    lay(fixture)
    fixture.run()
    fixture.order("start", {"slot": 2, "generation": "g"})
    assert fixture.order("rest", {"slot": 2, "generation": "other"}) == {"signalled": False}
    assert fixture.order("rest", {"slot": 2, "generation": "g"}) == {"signalled": True}
    assert fixture.order("rest", {"slot": 2, "generation": "g"}) == {"signalled": False}
    assert [w for w in fixture.systemd.done if "stop" in w] == ["--no-block stop livekit-server@2.service"]


def test_two_drains_at_once_send_one_signal(fixture):
    fixture.node(1, "ND_a")
    fixture.run()
    fixture.lock.acquire()
    order = Order("sfu1", "drain", {"slot": 1, "node_id": "ND_a"})
    answers = Orders(fixture.registry, fixture.lock).ask([order, order, order])
    assert sorted(a["signalled"] for a in answers) == [False, False, True]
    assert len([w for w in fixture.systemd.done if "stop" in w]) == 1


@pytest.mark.parametrize("state", ["active", "deactivating"])
def test_a_fence_kills_exactly_that_node(fixture, state):
    node = fixture.node(1, "ND_a")
    fixture.systemd.states[1] = state
    fixture.run()
    assert fixture.order("fence", {"slot": 1, "node_id": "ND_a"}) == {"killed": True}
    assert node.process.poll() is not None
    assert fixture.systemd.done == ["--signal=SIGKILL --kill-who=main kill livekit-server@1.service"]
    assert fixture.order("fence", {"slot": 1, "node_id": "ND_a"}) == {"killed": False}


def test_a_process_that_outlives_its_kill_is_told():
    host = SlotHost(lambda command: (0, "42\n", ""), Layout())
    with pytest.raises(FleetError) as caught:
        host.fence(1, "ND_a", 42, timeout=0.1)
    assert caught.value.failure["code"] == "fence_failed"
    assert host.fence(1, "ND_a", 41) is False


def test_a_fence_of_a_node_that_was_replaced_kills_nobody(fixture):
    fixture.node(1, "ND_new")
    fixture.run()
    assert fixture.order("fence", {"slot": 1, "node_id": "ND_old"}) == {"killed": False}
    assert fixture.systemd.done == []


def test_a_hung_node_keeps_its_id_and_holds_up_nobody(fixture):
    node = fixture.node(1, "ND_a")
    fixture.node(2, "ND_b")
    fixture.run()
    wait(lambda: fixture.slot().node_id == "ND_a")
    node.hangs.set()
    wait(lambda: fixture.slot().http is None)
    begun = time.monotonic()
    seen = {fixture.report().at for dummy in range(60) if not time.sleep(0.05)}
    assert len(seen) >= (time.monotonic() - begun) / 0.5
    assert (fixture.slot().node_id, fixture.slot().pid) == ("ND_a", node.process.pid)
    assert (fixture.slot(2).http, fixture.slot(2).node_id) == (200, "ND_b")
    begun = time.monotonic()
    assert fixture.order("fence", {"slot": 1, "node_id": "ND_a"}) == {"killed": True}
    assert time.monotonic() - begun < 0.5


def test_a_restarted_executor_still_knows_a_hung_node(fixture):
    node = fixture.node(1, "ND_a")
    first = fixture.run()
    wait(lambda: fixture.slot().node_id == "ND_a")
    first.stop.set()
    fixture.running[0][1].join(5)
    node.hangs.set()
    fixture.registry.ask("forget", ("DEL", HOSTS))
    fixture.run()
    assert wait(lambda: fixture.slot().node_id == "ND_a")
    assert fixture.order("fence", {"slot": 1, "node_id": "ND_a"}) == {"killed": True}


def test_a_node_that_never_said_who_it_is_is_not_fenced(fixture):
    fixture.node(1, "ND_a").hangs.set()
    fixture.run()
    assert fixture.refused("fence", {"slot": 1, "node_id": "ND_a"}) == "node_unknown"
    assert fixture.systemd.done == []


def test_a_restarted_node_is_nobody_until_it_says_who_it_is(fixture):
    fixture.node(1, "ND_a")
    fixture.run()
    wait(lambda: fixture.slot().node_id == "ND_a")
    fixture.systemd.nodes[1].end()
    fixture.systemd.states[1] = "activating"
    assert wait(lambda: fixture.slot().node_id is None)
    new = fixture.node(1, "ND_b")
    assert wait(lambda: fixture.slot().node_id == "ND_b", 2.0) and fixture.slot().pid == new.process.pid


def test_a_change_of_a_unit_is_reported_at_once(fixture, monkeypatch):
    fixture.node(1, "ND_a")
    fixture.run()
    wait(lambda: fixture.slot().node_id == "ND_a")
    monkeypatch.setattr(executor_module, "BEAT", 30.0)
    time.sleep(0.5)
    fixture.systemd.states[1] = "deactivating"
    assert wait(lambda: fixture.slot().draining, 1.0)


def test_a_token_older_than_the_highest_is_refused(fixture):
    fixture.node(1, "ND_a")
    fixture.run()
    fixture.lock.acquire()
    old = fixture.lock.token
    fixture.lock.release()
    fixture.order("cut_sockets")
    fixture.lock.token = old
    assert fixture.refused("drain", {"slot": 1, "node_id": "ND_a"}) == "order_void"
    fixture.lock.token = 0
    with pytest.raises(FleetError):
        Orders(fixture.registry, fixture.lock).ask([Order("sfu1", "drain", {"slot": 1, "node_id": "ND_a"})])
    assert fixture.systemd.done == []


def test_a_late_order_is_refused(fixture):
    fixture.node(1, "ND_a")
    executor = fixture.run()
    fixture.lock.acquire()
    executor.listener.take(json.dumps({"id": "x", "what": "drain", "args": {"slot": 1, "node_id": "ND_a"}, "lock": "cluster", "token": fixture.lock.token,
                                       "by": "test", "until": time.time() - 0.5}).encode())
    answer = json.loads(fixture.registry.wait_for("openrtc:reply:x", 2.0))
    assert answer["failure"]["code"] == "order_void" and "too late" in answer["failure"]["got"]
    assert fixture.systemd.done == []


def test_nobody_listens(fixture):
    assert fixture.refused("observe", host="edge9") == "order_unheard"


def test_an_unknown_order_and_nonsense_are_answered(fixture):
    executor = fixture.run()
    assert fixture.refused("dance") == "order_unknown"
    assert fixture.refused("do") == "order_unknown"
    assert fixture.refused("drain", {"room": 1}) == "order_failed"
    executor.listener.take(b"no json")
    assert fixture.order("observe")["host"] == "sfu1"


def test_orders_of_balancers_and_media_hosts(fixture):
    fixture.run()
    assert fixture.refused("cut", {"rooms": None, "servers": None}) == "no_balancer"
    assert fixture.order("cut_sockets") == {"cut": 1}
    assert fixture.refused("stop_unit", {"unit": "livekit-server@1.service"}) == "unit_refused"
    assert fixture.order("stop_unit", {"unit": "livekit-egress.service"}) == {"signalled": True}
    fixture.systemd.near["livekit-egress.service"] = "deactivating"
    assert fixture.order("stop_unit", {"unit": "livekit-egress.service"}) == {"signalled": False}


def test_rooms_end_through_the_node_itself(fixture):
    node = fixture.node(1, "ND_a")
    os.makedirs(fixture.tmp_path / "etc/1")
    (fixture.tmp_path / "etc/1/keys.yaml").write_text("key: secretsecretsecretsecretsecretsecret\n")
    fixture.run()
    assert fixture.order("end", {"slot": 1, "node_id": "ND_a", "rooms": ["a", "gone"]}) == {"ended": ["a"]}
    path, body, bearer = node.deleted[0]
    assert (path, body) == ("/twirp/livekit.RoomService/DeleteRoom", {"room": "a"}) and bearer.startswith("Bearer ey")
    assert not any("ey" in json.dumps(line) and "Bearer" in json.dumps(line) for line in fixture.lines)


def test_a_node_that_was_given_up_is_killed(fixture):
    node = fixture.node(1, "ND_a")
    other = fixture.node(2, "ND_b")
    fixture.run()
    wait(lambda: fixture.slot().node_id == "ND_a")
    fixture.server.client.hset(DEAD, "ND_a", "{}")
    assert wait(lambda: node.process.poll() is not None)
    assert other.process.poll() is None
    assert wait(lambda: [line for line in fixture.lines if line["event"] == "fenced" and line["killed"]])


def test_redis_comes_back_empty_and_everything_works_again(fixture, tmp_path):
    fixture.node(1, "ND_a")
    fixture.run()
    for dummy in range(5):  # the token in use is higher than those of a new Redis
        fixture.order("cut_sockets")
        fixture.lock.release()
    fixture.server.process.kill()
    fixture.server.process.wait()
    wait(lambda: [line for line in fixture.lines if line["event"] == "redis" and line["state"] == "down"])
    wait(lambda: [line for line in fixture.lines if line["event"] == "orders" and line["state"] == "down"])
    home = tmp_path / f"redis-{fixture.server.port}"
    fixture.server.process = subprocess.Popen(["redis-server", str(home / "redis.conf")], stdout=subprocess.DEVNULL)
    fixture.lock.token = 0

    def back():
        try:
            return fixture.report()
        except FleetError:
            return None

    wait(back, 20)
    wait(lambda: [line for line in fixture.lines if line["event"] == "orders"][-1]["state"] == "up")
    assert len([line for line in fixture.lines if line["event"] in ("redis", "orders") and line["state"] == "down"]) < 6
    assert fixture.order("drain", {"slot": 1, "node_id": "ND_a"}) == {"signalled": True}
    assert all(line["event"] != "redis" or line["state"] in ("up", "down") for line in fixture.lines)


def test_a_failover_is_followed_though_the_old_connections_live_on(fixture, redis_server):
    replica = redis_server(replicaof=fixture.server)
    sentinel = redis_server(sentinel_of=fixture.server)
    config = {"sentinel_addresses": [sentinel.address], "sentinel_master_name": "main"}
    executor = fixture.run(redis=config)
    # What Sentinel does in a failover, but for the end of the clients' connections.
    replica.client.replicaof("NO", "ONE")
    fixture.server.client.replicaof("127.0.0.1", str(replica.port))
    sentinel.client.execute_command("SENTINEL", "REMOVE", "main")
    sentinel.client.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", str(replica.port), "1")
    wait(lambda: replica.client.hget(HOSTS, "sfu1"), 15)
    wait(lambda: replica.client.pubsub_numsub("openrtc:orders:sfu1")[0][1] == 1, 15)
    registry = Registry(config)
    with Lock(registry, "cluster", "test") as lock:
        assert Orders(registry, lock).ask([Order("sfu1", "observe", {})])[0]["host"] == "sfu1"
    assert executor.listener.since


def test_a_lost_subscription_is_noticed(fixture):
    executor = fixture.run()
    wait(lambda: executor.listener.since and time.monotonic() - executor.listener.since > 2.1)
    fixture.server.client.client_kill_filter(_type="pubsub")
    wait(lambda: len([line for line in fixture.lines if line["event"] == "orders" and line["state"] == "up"]) > 1)
    assert fixture.order("observe")["host"] == "sfu1"
    executor.listener.since = time.monotonic() - 10
    before = executor.listener.since
    executor.listener.unheard()
    wait(lambda: executor.listener.since and executor.listener.since > before)


def test_a_host_that_cannot_be_looked_at_is_not_reported(fixture, monkeypatch):
    monkeypatch.setattr(executor_module, "BLIND", 1.0)
    executor = fixture.run()
    fixture.systemd.deaf = True
    monkeypatch.setattr(executor.watch.host, "run", lambda command: (1, "", "systemd is busy"))
    wait(lambda: [line for line in fixture.lines if line["event"] == "host" and line["state"] == "unseen"])
    time.sleep(1.5)
    before = fixture.report().at
    time.sleep(1.0)
    assert fixture.report().at == before


def test_without_dbus_units_are_still_seen(fixture):
    fixture.node(1, "ND_a")
    fixture.systemd.deaf = True
    fixture.run()
    wait(lambda: fixture.slot().node_id == "ND_a")
    fixture.systemd.states[1] = "deactivating"
    wait(lambda: fixture.slot().draining)
    assert fixture.report().neighbours == {"livekit-egress.service": "unknown"}


@pytest.mark.parametrize("tokens, passes", [([1, 1, 2], True), ([2, 1], False), ([0], False)])
def test_tokens(tokens, passes):
    desk = Desk()
    try:
        for token in tokens:
            desk.judge({"what": "drain", "lock": "a", "token": token, "until": 10}, 9.0, lambda: 5)
        assert passes
    except FleetError as exc:
        assert not passes and exc.failure["code"] == "order_void"


def test_tokens_of_another_lock_do_not_matter():
    desk = Desk()
    desk.judge({"what": "drain", "lock": "a", "token": 7, "until": 10}, 9.0, lambda: 7)
    desk.judge({"what": "drain", "lock": "b", "token": 3, "until": 10}, 9.0, lambda: 7)


def test_a_process_is_named_by_pid_and_start(tmp_path):
    process = subprocess.Popen(["sleep", "60"])
    start = started(process.pid)
    memory = Memory(str(tmp_path / "m.json"))
    assert memory.learn((process.pid, start), "ND_a") and not memory.learn((process.pid, start), "ND_a")
    assert Memory(str(tmp_path / "m.json")).nodes == {(process.pid, start): "ND_a"}
    process.kill()
    wait(lambda: started(process.pid) is None)  # a zombie is nobody
    process.wait()
    assert memory.ended() == ("ND_a",)
    memory.learn((os.getpid(), started(os.getpid())), "ND_b")
    assert Memory(str(tmp_path / "m.json")).ended() == ("ND_a",)
    for n in range(executor_watch.ENDED + 5):
        memory.nodes[(process.pid, f"{n}")] = f"ND_{n}"
    memory.learn((os.getpid(), started(os.getpid())), "ND_c")
    assert len(memory.ended()) == executor_watch.ENDED and memory.ended()[-1] == f"ND_{executor_watch.ENDED + 4}"


def test_an_answer_of_the_next_process_is_not_taken_for_this_one(tmp_path):
    class Host:
        layout = Layout(count=1)

        def measure(self, n, timeout):
            process.kill()
            process.wait()
            return {"http": 200, "node_id": "ND_next"}

    process = subprocess.Popen(["sleep", "60"])
    watch = Watch(Host(), dict, [], Memory(str(tmp_path / "m.json")))
    watch.ask(1, (process.pid, started(process.pid)))
    assert watch.memory.nodes == {}


def test_a_socket_that_accepts_and_says_nothing_ends_in_time():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(5)
        host = SlotHost(lambda command: (0, "", ""), Layout(signal=sock.getsockname()[1]))
        begun = time.monotonic()
        assert host.measure(1, executor_watch.MEASURE_TIMEOUT) == {"http": None, "node_id": None}
        assert time.monotonic() - begun < 2 * executor_watch.MEASURE_TIMEOUT


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "fleet.zip"
    with zipfile.ZipFile(path, "w") as out:
        for folder, dirs, files in os.walk(FLEET):
            for name in files:
                if name.endswith(".py"):
                    full = os.path.join(folder, name)
                    out.write(full, os.path.join("fleet", os.path.relpath(full, FLEET)))
    return path


BARE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ansible", "ansible_collections", "livekit", "aiohttp", "dbus", "yaml"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
"""


def test_the_archive_needs_neither_ansible_nor_the_sdk(archive):
    code = BARE + "import fleet.executor, fleet.api; print(fleet.api.token('key', 'secret', 'me', 'room')[:2])"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(archive)}, capture_output=True, text=True, check=True)
    assert done.stdout == "ey\n"


def test_it_runs_from_the_archive_and_stops_at_once(archive, tmp_path, redis_server):
    server = redis_server()
    path = tmp_path / "executor.json"
    path.write_text(json.dumps({"host": "edge1", "address": "127.0.0.1", "redis": {"address": server.address}, "memory": str(tmp_path / "n.json")}))
    process = subprocess.Popen([sys.executable, "-m", "fleet.executor", "--config", str(path)], env={**os.environ, "PYTHONPATH": str(archive)},
                               stdout=subprocess.PIPE, text=True)
    wait(lambda: server.client.hget(HOSTS, "edge1") and server.client.pubsub_numsub("openrtc:orders:edge1")[0][1], 40)
    time.sleep(0.2)
    begun = time.monotonic()
    process.terminate()
    out = process.communicate(timeout=10)[0]
    assert process.returncode == 0 and time.monotonic() - begun < 3.0  # 0.2 s where the machine is free
    assert {json.loads(line)["event"] for line in out.splitlines()} == {"start", "redis", "orders"}


def test_settings_that_cannot_be_read_are_told(tmp_path):
    with pytest.raises(FleetError, match="executor.json"):
        Settings.read(str(tmp_path / "executor.json"))
    (tmp_path / "executor.json").write_text('{"host": "a", "unknown": 1}')
    with pytest.raises(FleetError) as caught:
        Settings.read(str(tmp_path / "executor.json"))
    assert caught.value.failure["code"] == "executor_settings"
