# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inventory plugin registry, through ansible-inventory."""
from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
import yaml
from aiohttp import web
from livekit.protocol import agent as agent_protocol
from livekit.protocol import models


@pytest.fixture
def inventory(tmp_path):
    """list_hosts({options}, more sources) -> parsed `ansible-inventory --list`."""

    def run(options, *sources, name="test.livekit.yml", **environment):
        path = tmp_path / name
        path.write_text(yaml.safe_dump({"plugin": "openrtc.livekit.registry", **options}))
        done = subprocess.run(
            [str(pathlib.Path(sys.executable).with_name("ansible-inventory")), *[x for s in sources for x in ("-i", str(s))], "-i", str(path), "--list"],
            capture_output=True, text=True, cwd=tmp_path, check=False,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": next(p for p in sys.path if p.endswith("build/dev")),
                 "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1",
                 "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(tmp_path / "home"), **environment},
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        # strings that came from Redis are marked as what nobody may template
        return json.loads(done.stdout, object_hook=lambda d: d["__ansible_unsafe"] if set(d) == {"__ansible_unsafe"} else d)

    return run


def groups(listing):
    return {g: sorted(v["hosts"]) for g, v in listing.items() if g != "_meta" and v.get("hosts")}


def test_hosts_groups_and_variables(redis_server, inventory):
    server = redis_server(password="s3cret-s3cret")
    server.add_node("ND_old", ip="192.0.2.11", region="eu-west", state=2, started_at=1, rooms=["r1"], num_clients=2)
    server.add_node("ND_new", ip="192.0.2.11", region="eu-west", started_at=9, rooms=["r2"], num_clients=3, cpu_load=0.75)
    server.add_node("ND_dead", ip="192.0.2.12", age=90, rooms=["lost"], num_clients=9)
    got = inventory({
        "redis": {"address": server.address, "password": "{{ lookup('ansible.builtin.env', 'REDIS_PASSWORD') }}"},
        "names": {"192.0.2.11": "sfu1"},
        "compose": {"livekit_weight": "100 - livekit_registry_cpu_load * 100"},
        "groups": {"livekit_busy": "livekit_registry_cpu_load > 0.7"},
        "keyed_groups": [{"prefix": "first", "key": "livekit_registry_ip"}],
        "strict": True,
    }, REDIS_PASSWORD="s3cret-s3cret")
    assert groups(got) == {
        "livekit_registry": ["192.0.2.12", "sfu1"], "livekit_region_eu_west": ["sfu1"], "livekit_state_serving": ["sfu1"], "livekit_state_draining": ["sfu1"],
        "livekit_state_stale": ["192.0.2.12"], "livekit_busy": ["sfu1"], "first_192_0_2_11": ["sfu1"], "first_192_0_2_12": ["192.0.2.12"],
    }
    host = got["_meta"]["hostvars"]["sfu1"]
    assert (host["ansible_host"], host["livekit_registry_ip"], host["livekit_registry_node_id"], host["livekit_registry_state"]) == (
        "192.0.2.11", "192.0.2.11", "ND_new", "serving")
    assert (host["livekit_registry_rooms"], host["livekit_registry_participants"], host["livekit_weight"]) == (["r1", "r2"], 5, 25)
    assert [(n["id"], n["standing"], n["rooms"]) for n in host["livekit_registry_nodes"]] == [("ND_old", "draining", ["r1"]), ("ND_new", "serving", ["r2"])]
    dead = got["_meta"]["hostvars"]["192.0.2.12"]
    assert (dead["livekit_registry_state"], dead["livekit_registry_rooms"], dead["livekit_registry_participants"]) == ("stale", [], 0)
    assert "s3cret" not in json.dumps(got)


def test_a_room_name_is_never_a_template(redis_server, inventory, tmp_path):
    server = redis_server()
    server.add_node("ND_a", ip="192.0.2.11", rooms=["{{ 6 * 7 }}"])
    got = inventory({"redis": {"address": server.address}, "compose": {"first": "livekit_registry_rooms[0]"}, "strict": True})
    assert got["_meta"]["hostvars"]["192.0.2.11"]["first"] == "{{ 6 * 7 }}"


def test_known_hosts_keep_their_names(redis_server, inventory, tmp_path):
    server = redis_server()
    server.add_node("ND_a", ip="192.0.2.11")
    server.add_node("ND_b", ip="192.0.2.12")
    (tmp_path / "hosts.ini").write_text("[livekit_server]\nsfu1 ansible_host=10.0.0.1 livekit_node_ip=192.0.2.11\nsfu2 ansible_host=192.0.2.12\n")
    got = inventory({"redis": {"address": server.address}}, tmp_path / "hosts.ini")
    assert groups(got)["livekit_registry"] == ["sfu1", "sfu2"]
    assert got["_meta"]["hostvars"]["sfu1"]["ansible_host"] == "10.0.0.1" and got["_meta"]["hostvars"]["sfu1"]["livekit_registry_node_id"] == "ND_a"


def test_versions_are_asked_of_the_nodes(redis_server, inventory, serve):
    async def agent(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        answer = agent_protocol.RegisterWorkerResponse(server_info=models.ServerInfo(version="1.13.5", node_id="ND_a"))
        await socket.send_bytes(agent_protocol.ServerMessage(register=answer).SerializeToString())
        await socket.receive()
        return socket

    app = web.Application()
    app.router.add_get("/agent", agent)
    port = int(serve(app).rsplit(":", 1)[1])
    server = redis_server()
    server.add_node("ND_a", ip="127.0.0.1")
    server.add_node("ND_b", ip="127.0.0.1")
    options = {"redis": {"address": server.address}, "versions": True, "signal_ports": [9, port]}
    got = inventory(options, LIVEKIT_API_KEY="k", LIVEKIT_API_SECRET="s" * 32)
    assert groups(got)["livekit_version_1_13_5"] == ["127.0.0.1"]
    nodes = {n["id"]: n for n in got["_meta"]["hostvars"]["127.0.0.1"]["livekit_registry_nodes"]}
    assert (nodes["ND_a"]["version"], nodes["ND_a"]["signal_port"]) == ("1.13.5", port)
    assert (nodes["ND_b"]["version"], nodes["ND_b"]["signal_port"]) == ("", None)
    with pytest.raises(RuntimeError, match="api_key or api_secret is not set"):
        inventory(options)


def test_cache(redis_server, inventory, tmp_path):
    server = redis_server()
    server.add_node("ND_a", ip="192.0.2.11")
    options = {"redis": {"address": server.address}, "cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_connection": str(tmp_path / "cache")}
    first = inventory(options)
    server.add_node("ND_b", ip="192.0.2.12")
    assert inventory(options) == first
    assert groups(inventory({**options, "cache": False}))["livekit_registry"] == ["192.0.2.11", "192.0.2.12"]


def test_redis_away_is_told_in_time(redis_server, inventory):
    server = redis_server()
    server.stop()
    before = time.monotonic()
    with pytest.raises(RuntimeError, match="Could not connect to Redis") as caught:
        inventory({"redis": {"address": server.address, "password": "s3cret-s3cret"}})
    assert "s3cret" not in str(caught.value) and time.monotonic() - before < 10


def test_other_files_are_left_to_other_plugins(redis_server, inventory):
    with pytest.raises(RuntimeError):
        inventory({"redis": {"address": redis_server().address}}, name="hosts.yml")
