# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What HAProxy's sockets say, read; and whom that makes to cut."""
from __future__ import annotations

import hashlib
import pathlib
import re

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.balancers import haproxy_runtime as runtime
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError

ROOT = pathlib.Path(__file__).resolve().parents[3]

PROCESSES = """#<PID>          <type>          <reloads>       <uptime>        <version>
28924           master          1 [failed: 0]   0d00h02m06s     2.6.12-1+deb12u4
# workers
31724           worker          0               0d00h00m01s     2.6.12-1+deb12u4
# old workers
28927           worker          1               0d00h02m06s     2.6.12-1+deb12u4
# programs

"""
SESSIONS = """0x557bba002540: proto=tcpv4 src=10.0.0.9:53518 fe=livekit_in be=livekit srv=sfu1-s1 ts=00 epoch=0x2 age=0s calls=3 rate=0 cpu=0
0x557bba1d59f0: proto=tcpv6 src=2001:db8::7:53522 fe=livekit_in be=livekit_degraded srv=sfu2-s1 ts=00 epoch=0x2 age=0s calls=2 rate=0 cpu=0 lat=0
0x557bba1d59f1: proto=tcpv4 src=10.0.0.9:53519 fe=livekit_tls be=livekit_signal srv=here ts=00 epoch=0x2 age=0s calls=2 rate=0 cpu=0 lat=0
0x557bba1d59f2: proto=tcpv4 src=10.0.0.9:999 fe=livekit_in be=<NONE> srv=<none> ts=00 epoch=0x2 age=0s calls=2 rate=0 cpu=0 lat=0
0x557bba1e28f0: proto=unix_stream src=unix:1 fe=GLOBAL be=<NONE> srv=<none> ts=00 epoch=0x2 age=0s calls=1 rate=1 cpu=0 lat=0 rq[f=c08002h]

"""


def sha1(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


def test_old_workers_are_processes_too() -> None:
    assert runtime.parse_processes(PROCESSES) == [31724, 28927]
    assert runtime.parse_processes("") == []


def test_only_signalling_counts_as_a_session() -> None:
    assert runtime.parse_sessions(SESSIONS) == [
        ("0x557bba002540", "10.0.0.9:53518", "livekit", "sfu1-s1"), ("0x557bba1d59f0", "2001:db8::7:53522", "livekit_degraded", "sfu2-s1"),
        ("0x557bba1d59f1", "10.0.0.9:53519", "livekit_signal", "here")]


def test_a_client_behind_the_shared_port_is_cut_on_its_way() -> None:
    plain, hidden = runtime.Session("0x1", "10.0.0.1:1", "livekit", "sfu1-s1"), runtime.Session("0x2", "unix:1", "livekit", "sfu2-s1")
    way, known = runtime.Session("0x3", "10.0.0.1:2", "livekit_signal", "here"), runtime.Session("0x4", "10.0.0.1:1", "livekit_signal", "here")
    found = [plain, hidden, way, known]
    assert runtime.choose(found, {"10.0.0.1:1", "10.0.0.1:2"}, None) == [plain, way]
    assert runtime.choose(found, {"10.0.0.1:2", "10.0.0.1:3"}, None) == [way]
    assert runtime.choose(found, None, None) == [plain, hidden]
    assert runtime.choose(found, None, ["sfu2-s1"]) == [hidden]
    assert runtime.choose(found, {"10.0.0.1:1"}, ["sfu2-s1"]) == []


def test_a_table_of_haproxy_2_and_3() -> None:
    text = f"# table: livekit_sessions, type: string, size:1048576, used:2\n0x7ff43004c840: key={sha1('a')}:::1:53556 use=1 exp=9892\n"
    text += f"0x7ff430058530: key={sha1('b')}:10.0.0.1:53648 use=0 exp=9898 shard=0\n\n"
    assert runtime.parse_table(text) == [(f"{sha1('a')}:::1:53556", 1, 9892), (f"{sha1('b')}:10.0.0.1:53648", 0, 9898)]


def test_the_clients_of_a_room_are_those_whose_session_lives() -> None:
    entries = [runtime.Entry(f"{sha1(room)}:{client}", use, 9000) for room, client, use in [
        ("a", "10.0.0.1:1", 1), ("a", "2001:db8::1:2", 1), ("a", "10.0.0.1:3", 0), ("b", "10.0.0.1:4", 1), ("ab", "10.0.0.1:5", 1)]]
    assert runtime.sources(entries, ["a"]) == {"10.0.0.1:1", "2001:db8::1:2"}
    assert runtime.sources(entries, ["a", "b", "nobody"]) == {"10.0.0.1:1", "2001:db8::1:2", "10.0.0.1:4"}
    assert runtime.sources(entries, []) == set()


def test_a_room_is_known_by_every_name_haproxy_may_read() -> None:
    assert runtime.digests("plain / \"room\"") == {sha1("plain / \"room\"")}
    assert runtime.digests("Büro") == {sha1("Büro"), hashlib.sha1("Büro".encode("latin-1")).hexdigest()}
    assert runtime.digests("会議") == {sha1("会議"), runtime.UNREADABLE}


def test_the_age_of_a_key_is_what_is_gone_of_its_time() -> None:
    day = runtime.KEYS_EXPIRE * 1000
    assert runtime.ages([runtime.Entry("live", 2, day - 5000), runtime.Entry("old", 0, day - 60_000), runtime.Entry("now", 0, day + 3)]) == {
        "live": 0.0, "old": 60.0, "now": 0.0}
    template = (ROOT / "roles/haproxy/templates/haproxy.cfg.j2").read_text()
    expire = re.search(r"backend livekit_keys\n.* expire (\d+)h ", template)
    assert expire and int(expire[1]) * 3600 == runtime.KEYS_EXPIRE


def test_no_socket_is_an_error_with_a_fix(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FleetError) as caught:
        runtime.Runtime(str(tmp_path / "admin.sock"), master_path=str(tmp_path / "master.sock")).cut(["a"])
    assert caught.value.failure["code"] == "balancer_socket"
    assert "systemctl status haproxy" in caught.value.failure["fix"]
    with pytest.raises(FleetError):
        runtime.Runtime(str(tmp_path / "admin.sock"), master_path=str(tmp_path / "master.sock")).keys_seen()


def test_no_rooms_is_nothing_to_cut(tmp_path: pathlib.Path) -> None:
    assert runtime.Runtime(str(tmp_path / "admin.sock")).cut([]) == {"cut": 0, "left": 0, "exact": True}
