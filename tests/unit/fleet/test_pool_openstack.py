# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool openstack, against a fake of the HTTP interfaces of Keystone and Nova."""
from __future__ import annotations

import http.server
import json
import threading
import urllib.parse

import pytest
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.pools import ENDING, FAILED, load
from pool_conformance import Conformance, code, ids


class Cloud:
    """A project with a quota, a pool of three servers, and one of somebody else's."""

    def __init__(self):
        self.servers, self.number, self.quota, self.token = {}, 0, 7, 1
        self.down, self.deaf, self.held, self.logins, self.odd = False, False, False, 0, None
        for tag in ("livekit", "livekit", "livekit", "database"):
            self.make({"name": f"old-{self.number}", "tags": [tag], "metadata": {}, "flavorRef": "1", "imageRef": "2"})
        self.settle()

    def make(self, asked):
        if not (asked.get("flavorRef") and asked.get("imageRef")):
            return 400, {"badRequest": {"message": "flavorRef is missing"}}
        if len(self.servers) >= self.quota:
            return 403, {"forbidden": {"message": "Quota exceeded for instances"}}
        self.number += 1
        name = f"id-{self.number}"
        self.servers[name] = {**asked, "id": name, "status": "BUILD", "created": "2026-01-01T00:00:00Z", "OS-EXT-STS:task_state": None,
                              "addresses": {"net": [{"addr": f"10.0.0.{self.number}", "OS-EXT-IPS:type": "fixed"}]}}
        return 202, {"server": {"id": name}}

    def settle(self):
        for server in self.servers.values():
            if server["status"] == "BUILD" and not self.held:
                server["status"] = "ACTIVE"

    def do(self, method, path, body, token):
        if self.down:
            return 503, {}
        if path == "/v3/auth/tokens":
            credential = body["auth"]["identity"]["application_credential"]
            self.logins += 1
            if credential != {"id": "cred", "secret": "hush"}:
                return 401, {"error": {"message": "The request you have made requires authentication."}}
            end = {"interface": "public", "region_id": "one", "url": self.url + "/compute"}
            return 201, {"token": {"catalog": [{"type": "image", "endpoints": []}, {"type": "compute", "endpoints": [end]}]}}
        if token != f"token-{self.token}":
            return 401, {}
        if self.odd is not None:
            return 200, self.odd
        parts = urllib.parse.urlsplit(path)
        if method == "GET":
            query = dict(urllib.parse.parse_qsl(parts.query))
            return 200, {"servers": [s for s in self.servers.values() if query["tags"] in s["tags"]]}
        if method == "POST":
            return self.make(body["server"])
        return (204, {}) if self.servers.pop(parts.path.rpartition("/")[2], None) else (404, {})


@pytest.fixture
def cloud():
    made = Cloud()

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_any(self):
            length = int(self.headers["Content-Length"] or 0)
            status, body = made.do(self.command, self.path, json.loads(self.rfile.read(length)) if length else None, self.headers["X-Auth-Token"])
            if made.deaf and self.command == "POST" and self.path.endswith("/servers"):
                made.deaf, status, body = False, 504, {}
            text = json.dumps(body).encode() if status != 204 else b""
            self.send_response(status)
            self.send_header("X-Subject-Token", f"token-{made.token}")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


class World:
    room, stranger, away = 3, "id-99", ("pool_unreachable",)

    def __init__(self, cloud, folder):
        self.cloud, self.folder = cloud, folder
        (folder / "secret").write_text("hush\n")
        self.pool = self.make()

    def make(self, **more):
        settings = {"auth_url": self.cloud.url + "/v3", "credential_id": "cred", "secret_file": str(self.folder / "secret"), "region": "one",
                    "server": {"flavorRef": "1", "imageRef": "2", "networks": [{"uuid": "n"}]}}
        return load({"kind": "openstack", **settings, **more}, None, None)

    def who(self):
        return {i for i, s in self.cloud.servers.items() if "livekit" in s["tags"]}

    def settle(self):
        self.cloud.settle()

    def hold(self):
        self.cloud.held = True

    def lose(self, name):
        del self.cloud.servers[name]

    def cut(self):
        self.cloud.down = True

    def mend(self):
        self.cloud.down = False

    def deaf(self):
        self.cloud.deaf = True


@pytest.fixture
def world(cloud, tmp_path):
    return World(cloud, tmp_path)


class TestOpenstack(Conformance):
    pass


def test_a_server_has_its_inventory_name_and_address(world):
    (name,) = world.pool.add(1, "1790000000.5")
    found = {m.id: m for m in world.pool.machines()}[name]
    assert found.host.startswith("livekit-") and found.address == "10.0.0.5" and found.since == 1767225600.0
    assert world.cloud.servers[name]["networks"] == [{"uuid": "n"}]
    assert len({m.host for m in world.pool.machines()}) == 4


def test_a_token_that_ran_out_is_fetched_anew(world):
    world.pool.machines()
    world.cloud.token = 2
    assert len(world.pool.machines()) == 3 and world.cloud.logins == 2
    world.pool.machines()
    assert world.cloud.logins == 2


def test_an_order_that_was_cut_off_is_completed(world):
    world.cloud.quota = 6
    assert code(world.pool.add, 3, "one") == "pool_refused" and world.pool.size() == 5
    world.cloud.quota = 9
    assert len(world.pool.add(3, "one")) == 3 and world.pool.size() == 6


def test_states_that_a_server_may_be_in(world):
    first, second, third = sorted(world.who())
    world.cloud.servers[first]["status"] = "ERROR"
    world.cloud.servers[second]["OS-EXT-STS:task_state"] = "deleting"
    world.cloud.servers[third]["metadata"]["openrtc-protected"] = "yes"
    found = {m.id: m for m in world.pool.machines()}
    assert (found[first].state, found[second].state, found[third].protected) == (FAILED, ENDING, True)
    assert world.pool.retire([second]) == [] and world.pool.retire([first]) == [first] and first not in ids(world)


@pytest.mark.parametrize("odd", [{}, {"servers": None}, {"servers": {}}])
def test_an_answer_that_is_none_is_no_empty_pool(world, odd):
    world.pool.machines()
    world.cloud.odd = odd
    assert code(world.pool.machines) == "pool_answer"


def test_what_keeps_it_from_logging_in_is_told(world):
    assert code(world.make(region="two").machines) == "pool_refused"
    assert code(world.make(credential_id="other").machines) == "pool_refused"
    assert code(world.make(secret_file=str(world.folder / "none")).machines) == "pool_refused"
    assert code(world.make(auth_url="http://127.0.0.1:9/v3").machines) == "pool_unreachable"


@pytest.mark.parametrize("settings", [{"server": {}}, {"flavour": 1}, {"auth_url": ""}, {"auth_url": "file:///etc/shadow"}])
def test_settings_that_cannot_work_are_refused(world, settings):
    assert code(lambda: world.make(**settings)) == "pool_settings"
