# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reload HAProxy: save the state of its servers for the new process, reload through the master, and wait until the new process serves.

Without the saved state the new process would count every server as up until its first checks, empty and draining slots included.
Without the wait a reload that failed would look like one that succeeded: the master goes on with the old process.
"""
from __future__ import annotations

import argparse
import os
import socket
import sys
import time


def ask(path: str, command: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        sock.connect(path)
        sock.sendall(f"{command}\n".encode())
        sock.shutdown(socket.SHUT_WR)
        data = b""
        while True:
            try:
                chunk = sock.recv(65536)
            except ConnectionResetError:
                break
            if not chunk:
                return data.decode("utf-8", "replace")
            data += chunk
        return data.decode("utf-8", "replace")


def worker(master: str) -> int | None:
    """The process that takes new connections, None while there is none."""
    section = ""
    for line in ask(master, "show proc").splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ").strip()
        elif section == "workers" and len(line.split()) > 2 and line.split()[1] == "worker":
            return int(line.split()[0])
    return None


def save(admin: str, path: str) -> None:
    state = ask(admin, "show servers state")
    if not state.startswith("1"):
        raise OSError(f"no server state from {admin}: {state[:100]!r}")
    temporary = f"{path}.new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "w", encoding="utf-8") as f:
        f.write(state)
    os.replace(temporary, path)


def main() -> int:
    parser = argparse.ArgumentParser(description="Reload HAProxy and wait for the new process.")
    parser.add_argument("--master", default="/run/haproxy-master.sock")
    parser.add_argument("--admin", default="/run/haproxy/admin.sock")
    parser.add_argument("--state", default="/var/lib/haproxy/server-state")
    parser.add_argument("--timeout", type=float, default=30)
    args = parser.parse_args()
    try:
        save(args.admin, args.state)
    except OSError as err:
        print(f"the state of the servers could not be saved, checks will find it again: {err}", file=sys.stderr)
    try:
        before = worker(args.master)
        ask(args.master, "reload")
    except OSError as err:
        print(f"no reload: the master does not answer: {err}", file=sys.stderr)
        return 1
    end = time.monotonic() + args.timeout
    while time.monotonic() < end:
        try:
            now = worker(args.master)
            if now is not None and now != before and ask(args.admin, "show info").find(f"Pid: {now}\n") >= 0:
                return 0
        except OSError:
            pass
        time.sleep(0.05)
    print(f"the new process did not come up within {args.timeout:g} s; the old one serves on with the old configuration", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
