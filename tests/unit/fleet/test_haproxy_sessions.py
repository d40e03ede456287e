# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real HAProxy with the role's own template: exact cuts, old processes after a reload, keys that are on their way out."""
from __future__ import annotations

import pathlib
import re
import socket
import ssl
import time
import typing as t

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.balancers.haproxy_runtime import Runtime
from haproxy_sample import NODES, Balancer, Nodes, lives, token


def ended(sock: socket.socket) -> bool:
    """Whether a request without an answer has failed."""
    try:
        return sock.recv(1000)[:12] in (b"", b"HTTP/1.1 502")
    except (ConnectionError, ssl.SSLError):
        return True


@pytest.fixture(scope="module")
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture(scope="module")
def http(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Balancer]:
    running = Balancer(tmp_path_factory.mktemp("http"), nodes)
    yield running
    running.stop()


@pytest.fixture
def balancer(http: Balancer, nodes: Nodes) -> t.Iterator[Balancer]:
    nodes.asked.clear()
    yield http
    http.clear()


def test_the_sessions_of_a_room_are_cut_and_no_others(balancer: Balancer) -> None:
    a = [balancer.socket("a"), balancer.socket("a", bearer=True), balancer.socket("a", path="/rtc/v1"), balancer.socket("a", way="v6"),
         balancer.socket("a", way="tls")]
    others = [balancer.socket("b"), balancer.socket("ab"), balancer.socket("b", way="tls"), balancer.socket("b", way="v6")]
    assert balancer.tracked() == len(a + others)
    assert len(balancer.runtime.sessions_of(["a"])) == len(a)
    assert balancer.runtime.cut(["a", "nobody"]) == {"cut": len(a), "left": 0, "exact": True}
    assert not any(map(lives, a))
    assert all(map(lives, others))
    assert balancer.runtime.cut(["a"])["cut"] == 0


@pytest.mark.parametrize("way", ["plain", "tls"])
def test_a_request_that_waits_for_its_answer_is_cut_too(balancer: Balancer, way: str) -> None:
    waiting, other = balancer.socket("a", path="/rtc/silent", way=way), balancer.socket("b", path="/rtc/silent", way=way)
    assert balancer.tracked() == 2
    assert balancer.runtime.cut(["a"]) == {"cut": 1, "left": 0, "exact": True}
    began = time.monotonic()
    assert ended(waiting)
    assert time.monotonic() - began < 0.5
    balancer.wait(lambda: balancer.tracked() == 1)
    other.settimeout(0.2)
    with pytest.raises(TimeoutError):
        other.recv(1)


def test_a_session_is_tracked_just_as_long_as_it_lives(balancer: Balancer) -> None:
    sock = balancer.socket("a")
    assert balancer.tracked() == 1
    sock.close()
    balancer.wait(lambda: balancer.tracked() == 0)
    assert balancer.answer("POST", "/twirp/livekit.RoomService/SendData", token("a"), "data") == (200, "data")
    waiting = balancer.connect(f"GET /twirp/silent HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token('a')}\r\n\r\n")
    time.sleep(0.1)
    assert balancer.tracked() == 0, "requests of the server API are not signalling"
    waiting.close()


@pytest.mark.parametrize("room", ["Büro", "会議", "a\"b\\c/d", "tab\t", "😀", "x" * 256])
def test_any_name_can_be_cut(balancer: Balancer, room: str) -> None:
    sockets = [balancer.socket(room), balancer.socket(room, ascii_only=True)]
    other = balancer.socket("b")
    assert balancer.runtime.cut([room]) == {"cut": 2, "left": 0, "exact": True}
    assert not any(map(lives, sockets))
    assert lives(other)


def test_sessions_of_old_processes_are_cut_after_a_reload(balancer: Balancer) -> None:
    old = [balancer.socket("a"), balancer.socket("b"), balancer.socket("a", path="/rtc/silent")]
    balancer.reload()
    middle = [balancer.socket("a"), balancer.socket("b")]
    balancer.reload()
    new = [balancer.socket("a"), balancer.socket("b")]
    assert len(balancer.runtime.processes()) == 3
    assert balancer.runtime.cut(["a"]) == {"cut": 4, "left": 0, "exact": True}
    assert not any(map(lives, [old[0], middle[0], new[0]]))
    assert all(map(lives, [old[1], middle[1], new[1]]))
    assert balancer.runtime.cut(None) == {"cut": 3, "left": 0, "exact": True}
    balancer.wait(lambda: len(balancer.runtime.processes()) == 1)


def test_cuts_can_be_narrowed_to_servers(balancer: Balancer) -> None:
    sockets = [balancer.socket(f"room {number}") for number in range(12)]
    servers = sorted({session.server for session in balancer.runtime.sessions_of(None)})
    assert len(servers) > 1
    first = balancer.runtime.cut(None, servers[:1])
    assert 0 < first["cut"] < len(sockets)
    assert sum(map(lives, sockets)) == len(sockets) - first["cut"]
    assert balancer.runtime.cut([f"room {number}" for number in range(12)], servers[:1])["cut"] == 0
    assert balancer.runtime.cut(None)["cut"] == len(sockets) - first["cut"]


def test_without_a_master_socket_the_one_process_is_asked(balancer: Balancer) -> None:
    balancer.wait(lambda: len(balancer.runtime.processes()) == 1)
    a, b = balancer.socket("a"), balancer.socket("b")
    alone = Runtime(balancer.runtime.socket_path, master_path="/nonexistent")
    assert alone.cut(["a"]) == {"cut": 1, "left": 0, "exact": True}
    assert (lives(a), lives(b)) == (False, True)


def test_a_retiring_key_finds_the_node_that_knows_it(balancer: Balancer, nodes: Nodes) -> None:
    for number in range(9):
        assert lives(balancer.socket(f"room {number}", key="old'1", bearer=bool(number % 2)))
    assert balancer.answer("POST", "/twirp/livekit.RoomService/ListRooms", token(None, "old'1"), "body") == (200, "body")
    assert {address for address, dummy in nodes.asked} == set(NODES), "nodes that refuse were asked and passed over"
    assert balancer.runtime.cut(["room 3"])["cut"] == 1


def test_a_retiring_key_that_no_node_knows_is_refused(balancer: Balancer, nodes: Nodes) -> None:
    began = time.monotonic()
    assert balancer.answer("GET", "/rtc/validate", token("a", "old 2")) == (401, "wrong\n")
    assert time.monotonic() - began < 1
    assert {address for address, dummy in nodes.asked} == set(NODES)


def test_a_key_that_does_not_retire_is_refused_at_once(balancer: Balancer, nodes: Nodes) -> None:
    assert balancer.answer("GET", "/rtc/validate", token("a", "unknown")) == (401, "wrong\n")
    assert len(nodes.asked) == 1


def test_keys_are_seen_while_nodes_accept_them(balancer: Balancer) -> None:
    sock = balancer.socket("a", key="live")
    balancer.answer("GET", "/rtc/validate", token("a", "unknown"))
    assert balancer.runtime.keys_seen()["live"] == 0
    sock.close()
    time.sleep(0.3)
    seen = balancer.runtime.keys_seen()
    assert 0.2 < seen["live"] < 10
    assert "unknown" not in seen


def test_keys_are_remembered_over_a_reload(balancer: Balancer) -> None:
    def settled() -> bool:
        """A process that has looked for an older one to learn from (10 s at most) hands on what it knows."""
        found = re.search(r"flags=(0x\w+)", balancer.runtime._ask(balancer.runtime.processes()[0], "show peers"))
        return bool(found) and int(found[1], 16) & 3 == 3

    sock = balancer.socket("a", key="live")
    balancer.wait(settled, timeout=15)
    time.sleep(2)
    sock.close()
    closed = time.monotonic()
    balancer.reload()
    balancer.wait(lambda: len(balancer.runtime.processes()) == 1)
    time.sleep(0.2)
    seen = balancer.runtime.keys_seen()
    assert 0 < seen["live"] < time.monotonic() - closed + 1, "the end of its last session counts"


def test_in_tcp_mode_rooms_are_not_known_and_all_is_cut(nodes: Nodes, tmp_path: pathlib.Path) -> None:
    balancer = Balancer(tmp_path, nodes, mode="tcp")
    try:
        sockets = [balancer.socket("a"), balancer.socket("b", way="tls")]
        assert balancer.runtime.cut(["a"]) == {"cut": 2, "left": 0, "exact": False}
        assert not any(map(lives, sockets))
        assert balancer.runtime.keys_seen() == {}
    finally:
        balancer.stop()
