# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A HAProxy that runs the role's own template, small servers that stand for nodes behind it, and clients."""
from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import typing as t
import uuid

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.balancers.haproxy_runtime import SESSIONS, Runtime, parse_table

HAPROXY = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin") or "haproxy"  # lab/bootstrap installs it
ROLES = pathlib.Path(__file__).resolve().parents[3] / "roles"
# The keys that each node accepts: the first is an older generation.
NODES = {"127.0.0.2": {"new", "old'1", "live"}, "127.0.0.3": {"new", "live"}, "127.0.0.4": {"new", "live"}}
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"  # belongs to the key that socket() sends


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        return sock.getsockname()[1]


def token(room: str | None, key: str = "new", ascii_only: bool = False) -> str:
    claims = json.dumps({"iss": key, "video": {"room": room} if room else {}}, ensure_ascii=ascii_only)
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in ('{"alg":"HS256","typ":"JWT"}', claims, "signature"))


class Nodes:
    """Small servers in a thread that stand for nodes: an echo for WebSockets, 401 for other keys, silence under /rtc/silent; and agent checks."""

    def __init__(self) -> None:
        self.signal, self.agent = free_port(), free_port()
        self.asked: list[tuple[str, str]] = []
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        threading.Thread(target=self.run, daemon=True).start()
        assert self.ready.wait(5)

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.start())
        self.ready.set()
        self.loop.run_forever()

    async def start(self) -> None:
        for address, keys in NODES.items():
            await asyncio.start_server(lambda r, w, a=address, k=keys: self.serve(r, w, a, k), address, self.signal)
            await asyncio.start_server(self.check, address, self.agent)

    async def check(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"up ready 100%\n")
        writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, keys: set[str]) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            found = re.search(r"access_token=([^ &]+)|Bearer (\S+)", head)
            payload = (found[1] or found[2]).split(".")[1] if found else ""
            key = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["iss"] if found else None
            if key:
                self.asked.append((address, key))
            if key and key not in keys:
                writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 6\r\nConnection: close\r\n\r\nwrong\n")
            elif "/silent" in head:
                await reader.read()
            elif "upgrade: websocket" in head.lower():
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + ACCEPT + b"\r\n")
                while data := await reader.read(100):
                    writer.write(data)
            else:
                length = re.search(r"(?i)content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b"OK"
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
            await writer.drain()
        writer.close()


class Balancer:
    """HAProxy with the role's template, plain and, with TURN beside it, behind TLS; only paths and names are those of a test."""

    up = 200  # what it answers as soon as it runs

    def __init__(self, home: pathlib.Path, nodes: Nodes, mode: str = "http") -> None:
        self.home, self.mode = home, mode
        self.plain, self.tls = free_port(), free_port()
        self.sockets: list[socket.socket] = []
        self.render(nodes)
        self.runtime = Runtime(f"{home}/admin.sock", master_path=f"{home}/master.sock")
        self.process = subprocess.Popen(  # a session of its own, so that old workers end with it
            [HAPROXY, "-W", "-f", f"{home}/haproxy.cfg", "-S", f"{home}/master.sock"], stdout=(home / "log").open("wb"), stderr=subprocess.STDOUT,
            start_new_session=True)
        self.wait(lambda: self.answer("GET", "/")[0] == self.up, self.text)

    def text(self) -> str:
        return (self.home / "log").read_text()

    def render(self, nodes: Nodes) -> None:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{self.home}/key",
                        "-out", f"{self.home}/cert", "-days", "2", "-subj", "/CN=localhost"], check=True, stderr=subprocess.DEVNULL)
        (self.home / "tls.pem").write_text((self.home / "cert").read_text() + (self.home / "key").read_text())
        (self.home / "vars.yml").write_text(json.dumps({
            "ansible_managed": "Ansible managed", "livekit_slots": 1, "livekit_layout": {"signal": nodes.signal, "agent_check": nodes.agent},
            "__livekit_haproxy_addresses": {f"sfu{number}": address for number, address in enumerate(NODES, 1)}, "livekit_haproxy_mode": self.mode,
            "livekit_haproxy_port": self.tls, "livekit_haproxy_bind": ["127.0.0.1"], "livekit_haproxy_tls_cert_file": f"{self.home}/tls.pem",
            "livekit_haproxy_plain_port": self.plain, "livekit_haproxy_plain_bind": ["127.0.0.1", "::1"], "livekit_haproxy_stats_port": 0,
            "livekit_haproxy_retiring_keys": ["old'1", "old 2"] if self.mode == "http" else [],
            "livekit_turn": {"enabled": True, "domain": "turn.example.org"},
        }))
        files = [ROLES / "model/defaults/main.yml", ROLES / "haproxy/defaults/main.yml", ROLES / "haproxy/vars/main.yml", self.home / "vars.yml"]
        task = {"ansible.builtin.template": {"src": str(ROLES / "haproxy/templates/haproxy.cfg.j2"), "dest": f"{self.home}/haproxy.cfg", "mode": "0600"}}
        (self.home / "play.yml").write_text(json.dumps([{
            "hosts": "localhost", "connection": "local", "gather_facts": False, "vars_files": [str(file) for file in files], "tasks": [task]}]))
        tool = pathlib.Path(sys.executable).with_name("ansible-playbook")
        subprocess.run([str(tool) if tool.exists() else "ansible-playbook", "-i", "localhost,", "-e", f"ansible_python_interpreter={sys.executable}",
                        f"{self.home}/play.yml"], check=True, stdout=subprocess.DEVNULL)
        unique = uuid.uuid4().hex[:8]  # abstract sockets belong to the whole machine
        text = (self.home / "haproxy.cfg").read_text().replace("/run/haproxy/admin.sock mode 660", f"{self.home}/admin.sock mode 600")
        text = text.replace("/var/lib/haproxy/server-state", f"{self.home}/state").replace("abns@livekit", f"abns@{unique}")
        (self.home / "haproxy.cfg").write_text(re.sub(r"(?m)^    (chroot|user|group) .*\n", "", text))

    def connect(self, request: str, way: str = "plain") -> socket.socket:
        sock = socket.create_connection(("::1" if way == "v6" else "127.0.0.1", self.tls if way == "tls" else self.plain), timeout=10)
        if way == "tls":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            sock = context.wrap_socket(sock, server_hostname="localhost")
        sock.sendall(request.encode())
        self.sockets.append(sock)
        return sock

    def socket(self, room: str, path: str = "/rtc", way: str = "plain", bearer: bool = False, **options: t.Any) -> socket.socket:
        """A WebSocket that signals for a room; under /rtc/silent one that never gets its answer."""
        secret = token(room, **options)
        where, header = (path, f"Authorization: Bearer {secret}\r\n") if bearer else (f"{path}?access_token={secret}", "")
        sock = self.connect(f"GET {where} HTTP/1.1\r\nHost: x\r\n{header}Connection: Upgrade\r\nUpgrade: websocket\r\n"
                            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", way)
        if "/silent" in path:
            time.sleep(0.1)
        else:
            assert sock.recv(1000).startswith(b"HTTP/1.1 101")
        return sock

    def answer(self, method: str, path: str, secret: str = "", body: str = "") -> tuple[int, str]:
        header = f"Authorization: Bearer {secret}\r\n" if secret else ""
        data = b""
        with contextlib.suppress(OSError), self.connect(
                f"{method} {path} HTTP/1.1\r\nHost: x\r\n{header}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}") as sock:
            while chunk := sock.recv(1000):
                data += chunk
        return int(data.split()[1]) if data else 0, data.partition(b"\r\n\r\n")[2].decode()

    def tracked(self) -> int:
        """Sessions in use, over all processes."""
        return sum(1 for process in self.runtime.processes() for e in parse_table(self.runtime._ask(process, f"show table {SESSIONS}")) if e.use)

    def reload(self) -> None:
        subprocess.run([sys.executable, str(ROLES / "haproxy/files/haproxy_reload.py"), "--master", f"{self.home}/master.sock", "--admin",
                        f"{self.home}/admin.sock", "--state", f"{self.home}/state"], check=True)

    @staticmethod
    def wait(done: t.Callable[[], bool], text: t.Callable[[], str] = lambda: "it did not come true in time", timeout: float = 10) -> None:
        end = time.monotonic() + timeout
        while not done():
            assert time.monotonic() < end, text()
            time.sleep(0.02)

    def clear(self) -> None:
        """Close what a test opened, and wait until HAProxy knows."""
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()
        self.wait(lambda: not self.runtime.sessions_of(None))

    def stop(self) -> None:
        os.killpg(self.process.pid, 9)
        self.process.wait()


def lives(sock: socket.socket) -> bool:
    try:
        sock.sendall(b"ping")
        return sock.recv(10) == b"ping"
    except OSError:
        return False
