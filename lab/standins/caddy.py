#!/usr/bin/env python3
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""STAND-IN for Caddy with its layer 4 app, which cannot be had in the lab: ends TLS on its port and leads on by server name.

    caddy.py run --config /etc/caddy.yaml --adapter yaml

Like the real one it loads another configuration through its admin API (GET /config/, POST /load) without cutting a connection: those that
are open stay where they lead to. Unlike it, it has one certificate for every name (/data/livekit.pem) and knows no other handlers.
"""
from __future__ import annotations

import argparse
import http.server
import json
import socket
import ssl
import threading
import typing as t

import yaml

CERTIFICATE = "/data/livekit.pem"
ADMIN = ("127.0.0.1", 2019)


class Edge:
    def __init__(self, config: dict[str, t.Any]) -> None:
        self.config = config

    def dial(self, name: str | None) -> tuple[str, int]:
        """Where a server name leads to; the last route where there is none, as the lab has addresses instead of names."""
        routes = [r for s in self.config["apps"]["layer4"]["servers"].values() for r in s["routes"]]
        match = [r for r in routes if any(name in m.get("tls", {}).get("sni", []) for m in r["match"])] or routes[-1:]
        proxy = next(h for h in match[0]["handle"] if h["handler"] == "proxy")
        host, _colon, port = proxy["upstreams"][0]["dial"][0].rpartition(":")
        return host or "localhost", int(port)

    def serve(self, port: int = 443) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        context.sni_callback = lambda sock, name, _context: setattr(sock, "asked_for", name)
        with socket.create_server(("", port), backlog=128) as listener:
            while True:
                client, _address = listener.accept()
                threading.Thread(target=self.handle, args=(client, context), daemon=True).start()

    def handle(self, client: socket.socket, context: ssl.SSLContext) -> None:
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            inside = context.wrap_socket(client, server_side=True)
            upstream = socket.create_connection(self.dial(getattr(inside, "asked_for", None)), 5)
            upstream.settimeout(None)
        except OSError:
            client.close()
            return
        for source, target in ((inside, upstream), (upstream, inside)):
            threading.Thread(target=pump, args=(source, target), daemon=True).start()


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def admin(edge: Edge) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer(json.dumps(edge.config).encode())

        def do_POST(self) -> None:
            edge.config = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(b"")

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["run"])
    parser.add_argument("--config", required=True)
    parser.add_argument("--adapter", choices=["yaml"])
    with open(parser.parse_args().config, encoding="utf-8") as handle:
        edge = Edge(yaml.safe_load(handle))
    threading.Thread(target=http.server.ThreadingHTTPServer(ADMIN, admin(edge)).serve_forever, daemon=True).start()
    edge.serve()


if __name__ == "__main__":
    main()
