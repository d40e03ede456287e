# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be true of a balancer with HAProxy, seen past Ansible."""
from __future__ import annotations

import json
import os

import pytest

SLOT = json.loads(os.environ["LIVEKIT_EXPECTED"])["slot"]
balancer = pytest.mark.group("livekit_balancer")


@balancer
def test_the_balancer_sends_callers_to_the_serving_slots_only(host) -> None:
    rows = [line.split(",") for line in host.check_output(
        "python3 -c \"import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock'); s.sendall(b'show stat\\n'); "
        "d = b''\nwhile True:\n    b = s.recv(65536)\n    d += b\n    if not b: break\nprint(d.decode())\"").splitlines() if line.startswith("livekit,")]
    servers = {row[1]: row[17] for row in rows if row[1] not in ("FRONTEND", "BACKEND")}
    assert servers and {name for name, state in servers.items() if state.startswith("UP")} == {n for n in servers if n.endswith(f"-s{SLOT}")}


@balancer
def test_the_statistics_need_their_password(host) -> None:
    address = host.check_output("hostname -I").split()[0]
    ask = f"import http.client as h; c = h.HTTPConnection('{address}', 8404); c.request('GET', '/;csv'); print(c.getresponse().status)"
    assert host.check_output(f'python3 -c "{ask}"') == "401"
