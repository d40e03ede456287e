# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What unit tests share: real Redis servers, modules run as they are, and a scripted LiveKit server API."""
from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import socket
import subprocess
import threading
import time
import typing as t

import pytest
import redis
from aiohttp import web
from ansible.module_utils.testing import patch_module_args
from google.protobuf import json_format
from livekit import api as livekit_api

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import registry_messages


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@dataclasses.dataclass
class RedisServer:
    """A running redis-server (or Sentinel) of one test."""

    port: int
    process: subprocess.Popen[bytes]
    client: redis.Redis

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def add_node(self, node_id: str, *, age: float = -60, state: int = 1, ip: str = "192.0.2.1", region: str = "", rates: dict[str, float] | None = None,
                 rooms: t.Iterable[str] = (), **stats: t.Any) -> None:
        """Write what a livekit-server writes about itself, as of `age` seconds ago. By default it stays fresh however slow the machine is."""
        m = registry_messages.messages()
        stats.setdefault("updated_at", int(time.time() - age))
        stats.setdefault("num_rooms", len(list(rooms)))
        message = m["Node"](id=node_id, ip=ip, region=region, state=state, num_cpus=2, stats=m["NodeStats"](**stats))
        if rates:
            message.stats.rates.append(m["NodeStatsRate"](**rates))
        self.client.hset("nodes", node_id, message.SerializeToString())
        for room in rooms:
            self.add_room(room, node_id)

    def add_room(self, name: str, node_id: str | None = None, **fields: t.Any) -> None:
        self.client.hset("rooms", name, registry_messages.messages()["Room"](name=name, sid=f"RM_{name}", **fields).SerializeToString())
        if node_id:
            self.client.hset("room_node_map", name, node_id)

    def add_participant(self, room: str, identity: str, kind: int = 0, **fields: t.Any) -> None:
        message = registry_messages.messages()["ParticipantInfo"](identity=identity, sid=f"PA_{identity}", kind=kind, state=2, **fields)
        self.client.hset(f"room_participants:{room}", identity, message.SerializeToString())

    def dump(self) -> dict[bytes, bytes | None]:
        """The whole database, to show that nothing changed."""
        return {key: self.client.dump(key) for key in self.client.keys("*")}


@pytest.fixture
def redis_server(tmp_path: pathlib.Path) -> t.Iterator[t.Callable[..., RedisServer]]:
    """start(password=, acl=[...], replicaof=RedisServer, sentinel_of=RedisServer, tls=(cert, key), lines=[...]) -> a server that answers."""
    running: list[RedisServer] = []

    def start(password: str | None = None, acl: t.Sequence[str] = (), replicaof: RedisServer | None = None, sentinel_of: RedisServer | None = None,
              tls: tuple[pathlib.Path, pathlib.Path] | None = None, lines: t.Sequence[str] = ()) -> RedisServer:
        port = free_port()
        home = tmp_path / f"redis-{port}"
        home.mkdir()
        config = [f"dir {home}", "bind 127.0.0.1", *[f"user {line}" for line in acl], *lines]
        config += ["port 0", f"tls-port {port}", f"tls-cert-file {tls[0]}", f"tls-key-file {tls[1]}", "tls-auth-clients no"] if tls else [f"port {port}"]
        if sentinel_of:
            config.append(f"sentinel monitor main 127.0.0.1 {sentinel_of.port} 1")
        else:
            config += ['save ""', "appendonly no"]
        if password:
            config.append(f"requirepass {password}")
        if replicaof:
            config.append(f"replicaof 127.0.0.1 {replicaof.port}")
        (home / "redis.conf").write_text("\n".join(config) + "\n")
        command = ["redis-server", str(home / "redis.conf"), *(["--sentinel"] if sentinel_of else [])]
        process = subprocess.Popen(command, stdout=(home / "log").open("wb"), stderr=subprocess.STDOUT)
        client = redis.Redis(port=port, password=password, ssl=bool(tls), ssl_cert_reqs="none", ssl_check_hostname=False)
        server = RedisServer(port, process, client)
        running.append(server)
        for _attempt in range(200):
            if process.poll() is not None:
                break
            with contextlib.suppress(redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
                try:
                    client.ping()
                except redis.exceptions.ResponseError:
                    pass  # it answers
                return server
            time.sleep(0.02)
        raise RuntimeError((home / "log").read_text())

    yield start
    for server in reversed(running):
        server.stop()


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str]) -> t.Callable[..., dict[str, t.Any]]:
    """run(main, {arguments}, check=False) -> what the module prints as its result, `failed` included. Runs in this process."""

    def run(main: t.Callable[[], None], arguments: dict[str, t.Any], check: bool = False) -> dict[str, t.Any]:
        arguments = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True, "_ansible_remote_tmp": "/tmp", "_ansible_keep_remote_files": False}
        capsys.readouterr()
        with patch_module_args(arguments), pytest.raises(SystemExit):
            main()
        out = capsys.readouterr().out
        return {"failed": False, **json.loads(out)}

    return run


class Twirp:
    """A server API that follows a script: each request must be the next one expected, by method and body.

    expect("CreateRoom", {"name": "x"}, Room(...)) or, for an error, expect(..., error=("not_found", "text", 404)).
    Methods that change something fail while `read_only`, whatever the script says.
    """

    CHANGING = ("CreateRoom", "DeleteRoom", "UpdateRoomMetadata", "RemoveParticipant", "MutePublishedTrack", "UpdateParticipant", "SendData")
    REQUESTS: t.ClassVar[dict[str, t.Any]] = {
        "CreateRoom": livekit_api.CreateRoomRequest, "DeleteRoom": livekit_api.DeleteRoomRequest, "ListRooms": livekit_api.ListRoomsRequest,
        "ListParticipants": livekit_api.ListParticipantsRequest, "UpdateRoomMetadata": livekit_api.UpdateRoomMetadataRequest,
    }
    KEY, SECRET = "devkey", "secretsecretsecretsecretsecretsecret"

    def __init__(self) -> None:
        self.script: list[tuple[str, dict[str, t.Any], t.Any, tuple[str, str, int] | None]] = []
        self.heard: list[str] = []
        self.grants: list[t.Any] = []
        self.problems: list[str] = []
        self.read_only = False
        self.url = ""

    @property
    def options(self) -> dict[str, t.Any]:
        return {"url": self.url, "api_key": self.KEY, "api_secret": self.SECRET}

    def expect(self, method: str, body: dict[str, t.Any], answer: t.Any = None, error: tuple[str, str, int] | None = None) -> Twirp:
        self.script.append((method, body, answer, error))
        return self

    async def handle(self, request: web.Request) -> web.Response:
        method = request.path.removeprefix("/twirp/livekit.RoomService/")
        body = json_format.MessageToDict(self.REQUESTS[method].FromString(await request.read()), preserving_proto_field_name=True)
        self.heard.append(method)
        try:
            claims = livekit_api.TokenVerifier(self.KEY, self.SECRET).verify(request.headers["Authorization"].removeprefix("Bearer "))
        except Exception:
            return self.error("unauthenticated", "permissions denied", 401)
        self.grants.append(claims.video)
        if self.read_only and method in self.CHANGING:
            self.problems.append(f"{method} {body} in check mode")
            return self.error("internal", "not in check mode", 500)
        wanted = self.script.pop(0) if self.script else None
        if wanted is None or wanted[:2] != (method, body):
            self.problems.append(f"expected {wanted and wanted[:2]}, got {(method, body)}")
            return self.error("internal", "not in the script", 500)
        if wanted[3]:
            return self.error(*wanted[3])
        return web.Response(body=wanted[2].SerializeToString() if wanted[2] is not None else b"", content_type="application/protobuf")

    @staticmethod
    def error(code: str, text: str, status: int) -> web.Response:
        return web.json_response({"code": code, "msg": text}, status=status)


@pytest.fixture
def serve() -> t.Iterator[t.Callable[..., str]]:
    """start(aiohttp application) -> its base URL; it runs in a thread until the test ends."""
    stops: list[t.Callable[[], None]] = []

    def start(app: web.Application, ssl_context: t.Any = None) -> str:
        loop = asyncio.new_event_loop()
        runner = web.AppRunner(app)
        port = free_port()

        async def up() -> None:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port, ssl_context=ssl_context).start()

        loop.run_until_complete(up())
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()

        def stop() -> None:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(5)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(5)
            loop.close()

        stops.append(stop)
        return f"{'https' if ssl_context else 'http'}://127.0.0.1:{port}"

    yield start
    for stop in stops:
        stop()


@pytest.fixture
def twirp(serve: t.Callable[..., str]) -> t.Iterator[Twirp]:
    """A scripted server API. What was expected and did not come, or came and was not expected, fails the test."""
    scripted = Twirp()
    app = web.Application()
    app.router.add_post("/twirp/livekit.RoomService/{method}", scripted.handle)
    scripted.url = serve(app)
    yield scripted
    assert not scripted.problems
    assert not scripted.script, "expected, but never asked"


@pytest.fixture
def certificate(tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """(certificate, key) of its own authority for the name sfu.example.com and 127.0.0.1."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=sfu.example.com",
         "-addext", "subjectAltName=DNS:sfu.example.com,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )
    return cert, key
