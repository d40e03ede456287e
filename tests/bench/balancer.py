# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reload HAProxy a hundred times under new connections and long WebSockets, and count what fails.

The configuration is the role's own template, the reload the role's own script; only paths and addresses are those of this machine. Two small
servers stand for nodes, each with an agent check; a second slot on each is empty and must never be tried. Writes build/bench/balancer.json.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import typing as t

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOSTS = {"a": "127.0.0.2", "b": "127.0.0.3"}


def free_port(address: str) -> int:
    """A port nobody uses. HAProxy shares ports silently, so a fixed one could measure somebody else."""
    with socket.socket() as sock:
        sock.bind((address, 0))
        return sock.getsockname()[1]


SIGNAL, AGENT, PUBLIC = free_port("127.0.0.2"), free_port("127.0.0.2"), free_port("127.0.0.1")


def render(folder: pathlib.Path, mode: str) -> pathlib.Path:
    """The role's template with this machine's paths."""
    roles = ROOT / "roles"
    (folder / "vars.yml").write_text(json.dumps({
        "livekit_haproxy_mode": mode, "livekit_haproxy_port": PUBLIC, "livekit_haproxy_bind": ["127.0.0.1"], "livekit_haproxy_plain_port": 0,
        "livekit_haproxy_tls_cert_file": str(folder / "tls.pem"), "livekit_haproxy_stats_port": 0, "livekit_slots": 2,
        "livekit_layout": {"signal": SIGNAL, "agent_check": AGENT}, "__livekit_haproxy_addresses": HOSTS, "ansible_managed": "Ansible managed",
    }))
    play = [{
        "hosts": "localhost", "connection": "local", "gather_facts": False,
        "vars_files": [str(roles / "model/defaults/main.yml"), str(roles / "haproxy/defaults/main.yml"), str(roles / "haproxy/vars/main.yml"),
                       str(folder / "vars.yml")],
        "tasks": [{"ansible.builtin.template": {"src": str(roles / "haproxy/templates/haproxy.cfg.j2"), "dest": str(folder / "haproxy.cfg"), "mode": "0600"}}],
    }]
    (folder / "play.yml").write_text(json.dumps(play))
    env = {**os.environ, "ANSIBLE_LOCALHOST_WARNING": "False"}
    tool = pathlib.Path(sys.executable).with_name("ansible-playbook")
    command = [str(tool) if tool.exists() else "ansible-playbook", "-i", "localhost,", "-e", f"ansible_python_interpreter={sys.executable}"]
    subprocess.run([*command, str(folder / "play.yml")], check=True, env=env, stdout=subprocess.DEVNULL)
    config = folder / "haproxy.cfg"
    lines = [
        line.replace("/run/haproxy/admin.sock mode 660", f"{folder}/admin.sock mode 600").replace("/var/lib/haproxy/server-state", f"{folder}/server-state")
        for line in config.read_text().splitlines() if not line.strip().startswith(("chroot ", "user ", "group ", "log stdout"))
    ]
    config.write_text("\n".join(lines) + "\n")
    return config


class Node:
    """A stand-in: 200 for GET, an echo for WebSockets, and an agent check."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def start(self) -> list[asyncio.base_events.Server]:
        return [await asyncio.start_server(self.http, self.address, SIGNAL, backlog=1024), await asyncio.start_server(self.agent, self.address, AGENT)]

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if b"upgrade: websocket" in head.lower():
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
                while data := await reader.read(100):
                    writer.write(data)
                    await writer.drain()
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK")
                await writer.drain()
        writer.close()

    async def agent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            slot = await reader.readline()
            writer.write(b"up ready 100%\n" if slot.strip() == b"1" else b"down\n")
            await writer.drain()
        writer.close()


class Load:
    def __init__(self) -> None:
        self.tls = ssl.create_default_context()
        self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE
        self.connects, self.failed, self.errors = 0, 0, []
        self.slowest = 0.0
        self.sockets: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def once(self) -> None:
        self.connects += 1
        begin = time.perf_counter()
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection("127.0.0.1", PUBLIC, ssl=self.tls)
                writer.write(b"GET /rtc/validate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                head = await reader.read(12)
                writer.close()
                if head != b"HTTP/1.1 200":
                    raise OSError(f"answer {head!r}")
        except (OSError, asyncio.TimeoutError) as err:
            self.failed += 1
            self.errors.append(f"{type(err).__name__}: {err}")
        self.slowest = max(self.slowest, time.perf_counter() - begin)

    async def socket(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", PUBLIC, ssl=self.tls)
        writer.write(b"GET /rtc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                     b"Sec-WebSocket-Version: 13\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise OSError(f"no WebSocket: {head!r}")
        self.sockets.append((reader, writer))

    async def cut(self) -> int:
        """How many of the WebSockets do not echo any more."""
        lost = 0
        for reader, writer in self.sockets:
            try:
                writer.write(b"ping")
                async with asyncio.timeout(5):
                    await reader.readexactly(4)
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
                lost += 1
        return lost


async def bench(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, t.Any]:
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(folder / "key"), "-out", str(folder / "cert"), "-days", "2",
                    "-subj", "/CN=localhost"], check=True, stderr=subprocess.DEVNULL)
    (folder / "tls.pem").write_text((folder / "cert").read_text() + (folder / "key").read_text())
    config = render(folder, args.mode)
    servers = [server for address in HOSTS.values() for server in await Node(address).start()]
    log = (folder / "log").open("wb")
    # A session of its own: every worker, old ones included, is stopped at the end through the process group.
    haproxy = subprocess.Popen([args.haproxy, "-W", "-f", str(config), "-S", f"{folder}/master.sock"], stdout=log, stderr=log, start_new_session=True)
    load, reloads = Load(), []
    try:
        for dummy in range(100):
            await asyncio.sleep(0.1)
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", PUBLIC)
                writer.close()
                break
        else:
            raise SystemExit(f"haproxy did not come up:\n{(folder / 'log').read_text()[-2000:]}")
        await asyncio.sleep(3)  # until the checks have told which slots there are
        for dummy in range(args.websockets):
            await load.socket()
        done = asyncio.Event()

        async def connect() -> None:
            while not done.is_set() or load.connects < args.connects:
                await load.once()
                await asyncio.sleep(args.pause)

        workers = [asyncio.ensure_future(connect()) for dummy in range(args.clients)]
        for number in range(args.reloads):
            begin = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(ROOT / "roles/haproxy/files/haproxy_reload.py"), "--master", f"{folder}/master.sock", "--admin", f"{folder}/admin.sock",
                "--state", f"{folder}/server-state",
            )
            if await process.wait() != 0:
                raise SystemExit(f"reload {number + 1} failed, see the log:\n{(folder / 'log').read_text()[-2000:]}")
            reloads.append(time.perf_counter() - begin)
            if number % 10 == 9:
                await load.socket()
                print(f"{number + 1} reloads, {load.connects} connects, {load.failed} failed, {await load.cut()} WebSockets cut", flush=True)
        done.set()
        await asyncio.gather(*workers)
        lost = await load.cut()
    finally:
        os.killpg(haproxy.pid, 15)
        haproxy.wait()
        for server in servers:
            server.close()
    version = subprocess.run([args.haproxy, "-v"], check=True, capture_output=True, text=True).stdout.split()[2]
    return {
        "haproxy": version, "mode": args.mode, "reloads": len(reloads), "reload_seconds_median": sorted(reloads)[len(reloads) // 2],
        "reload_seconds_max": max(reloads), "connects": load.connects, "connects_failed": load.failed, "connect_seconds_max": load.slowest,
        "errors": load.errors[:20], "websockets": len(load.sockets), "websockets_cut": lost, "load_average": os.getloadavg()[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--connects", type=int, default=10000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.02)
    parser.add_argument("--websockets", type=int, default=20)
    parser.add_argument("--mode", choices=["http", "tcp"], default="http")
    parser.add_argument("--haproxy", default=shutil.which("haproxy") or "/usr/sbin/haproxy")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "build/bench/balancer.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it complains of every WebSocket that outlives its TLS shutdown
        result = asyncio.run(bench(args, pathlib.Path(folder)))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 1 if result["connects_failed"] or result["websockets_cut"] else 0


if __name__ == "__main__":
    sys.exit(main())
