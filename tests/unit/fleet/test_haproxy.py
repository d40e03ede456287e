# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What HAProxy's statistics page says about the slots."""
from __future__ import annotations

import base64
import http.server
import threading

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.balancers import haproxy
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError

CSV = "# pxname,svname,status,weight\nlivekit,FRONTEND,OPEN,\nlivekit,sfu1-s1,UP,80\nlivekit,sfu1-s2,{0},0\nlivekit,BACKEND,UP,80\n"


@pytest.fixture
def page():
    """A statistics page whose second slot answers with the next status of `page.states`, the last one for ever."""
    class Page(http.server.BaseHTTPRequestHandler):
        states = ["DOWN"]

        def do_GET(self):
            good = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"stats:word").decode()
            self.send_response(200 if good else 401)
            self.end_headers()
            state = Page.states.pop(0) if len(Page.states) > 1 else Page.states[0]
            self.wfile.write(CSV.format(state).encode() if good else b"")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Page.address = {"url": f"http://127.0.0.1:{server.server_port}/;csv", "username": "stats", "password": "word"}
    yield Page
    server.shutdown()


@pytest.mark.parametrize("status, takes", [
    ("UP", True), ("UP 1/3", True), ("DRAIN", False), ("DRAIN (agent)", False), ("DOWN", False), ("DOWN 1/2", False), ("MAINT", False),
])
def test_only_up_takes_connections(status, takes):
    assert haproxy.takes(status) is takes


def test_waits_until_the_balancer_takes_the_slot(page):
    page.states = ["DOWN", "DOWN 1/2", "UP"]
    assert haproxy.wait_taken([page.address], "sfu1-s2", timeout=5) > 0
    assert page.states == ["UP"]


def test_a_slot_the_balancer_never_takes_fails_the_gate_and_names_it(page):
    page.states = ["DRAIN"]
    with pytest.raises(FleetError, match="sfu1-s2") as caught:
        haproxy.wait_taken([page.address], "sfu1-s2", timeout=0.1)
    assert caught.value.failure["code"] == "gate_balancer" and "DRAIN" in caught.value.failure["got"]


def test_a_slot_missing_from_the_configuration_is_told(page):
    with pytest.raises(FleetError, match="not configured"):
        haproxy.wait_taken([page.address], "sfu9-s1", timeout=0)


def test_a_wrong_password_is_told_without_showing_it(page):
    with pytest.raises(FleetError) as caught:
        haproxy.read({**page.address, "password": "guessed"})
    assert caught.value.failure["code"] == "balancer_stats" and "guessed" not in str(caught.value)
