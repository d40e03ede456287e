# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps a Redis and its Sentinel on what the role wants, without undoing what a failover decided.

Redis and Sentinel rewrite their configuration files at a failover. So who is primary is written once, before the first start and after
asking the members that already run, and belongs to Redis from then on. All other settings lie in files of the role and are compared with,
and laid on, the running process.

    seed redis|sentinel    before each start: write the state file when there is none
    check redis|sentinel   exit 0 when the running process has the wanted settings; else print what differs and exit 1
    apply redis|sentinel   set what differs, without a restart

Passwords come from the configuration file, never from arguments.
"""
from __future__ import annotations

import argparse
import ipaddress
import json
import os
import shutil
import socket
import sys
import typing as t

CONFIG = "/etc/redis/livekit.json"


class RedisError(Exception):
    """An error reply."""


class Link:
    """One connection that speaks RESP2."""

    def __init__(self, host: str, port: int, config: dict[str, t.Any], timeout: float = 2.0) -> None:
        self.sock = socket.create_connection((host, port), timeout)
        self.file = self.sock.makefile("rb")
        try:
            self("AUTH", config["admin"]["username"], config["admin"]["password"])
        except BaseException:
            self.close()
            raise

    def __call__(self, *words: t.Any) -> t.Any:
        parts = [str(w).encode() for w in words]
        self.sock.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
        return self._reply()

    def _reply(self) -> t.Any:
        line = self.file.readline()
        if not line:
            raise ConnectionError("connection closed")
        kind, rest = line[:1], line[1:-2].decode("utf-8", "replace")
        if kind == b"+":
            return rest
        if kind == b"-":
            raise RedisError(rest)
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if int(rest) < 0 else self.file.read(int(rest) + 2)[:-2].decode("utf-8", "replace")
        if kind == b"*":
            return None if int(rest) < 0 else [self._reply() for dummy in range(int(rest))]
        raise RedisError(f"reply not understood: {line[:40]!r}")

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *exc: t.Any) -> None:
        self.close()


def mapping(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2]))


def same(key: str, wanted: str, running: str) -> bool:
    """Whether two spellings of a setting mean the same (100mb and 104857600, quotes around nothing, event letters in another order)."""
    if key == "notify-keyspace-events":
        return set(wanted.replace("A", "g$lshzxetd")) == set(running.replace("A", "g$lshzxetd"))

    def plain(text: str) -> str:
        text = " ".join(text.strip().strip('"').lower().split())
        for suffix, factor in (("kb", 1024), ("mb", 1024**2), ("gb", 1024**3), ("k", 1000), ("m", 1000**2), ("g", 1000**3), ("b", 1)):
            if text.endswith(suffix) and text[:-len(suffix)].isdigit():
                return str(int(text[:-len(suffix)]) * factor)
        return text
    return plain(wanted) == plain(running)


def primary_of(config: dict[str, t.Any]) -> tuple[str, int]:
    """Who is primary now: what the Sentinels of the other members say (newest epoch), else a member that is primary, else the variable."""
    answers = []
    others = [p for p in config["peers"] if p != config["self"]]
    if config["mode"] == "sentinel":
        for peer in others:
            try:
                with Link(peer, config["sentinel_port"], config, 1.0) as link:
                    m = mapping(link("SENTINEL", "MASTER", config["master_name"]))
                    answers.append((int(m.get("config-epoch", 0)), m["ip"], int(m["port"])))
            except (OSError, RedisError, KeyError, ValueError):
                continue
        if answers:
            return max(answers)[1:]
        for peer in others:
            try:
                with Link(peer, config["port"], config, 1.0) as link:
                    if link("ROLE")[0] == "master":
                        return peer, config["port"]
            except (OSError, RedisError):
                continue
    return config["primary"], config["port"]


def write_once(path: str, lines: list[str]) -> None:
    """A file of the redis user, complete or not there at all."""
    temporary = f"{path}.new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w", encoding="utf-8") as f:
        f.write("".join(f"{line}\n" for line in lines))
    if os.geteuid() == 0:
        shutil.chown(temporary, "redis", "redis")
    os.replace(temporary, path)


def is_name(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return True
    return False


def seed(config: dict[str, t.Any], what: str) -> None:
    path = config["state"][what]
    if os.path.exists(path):
        return
    host, port = primary_of(config)
    lines = ["# Written once by the role, rewritten by Redis, which keeps here what a failover decided."]
    if what == "redis":
        lines += [] if host == config["self"] else [f"replicaof {host} {port}"]
        print(f"starting as {'primary' if host == config['self'] else f'replica of {host}:{port}'}")
    else:
        name, admin = config["master_name"], config["admin"]
        names = "yes" if any(is_name(p) for p in config["peers"]) else "no"
        lines += [
            f"port {config['sentinel_port']}", f"bind {config['bind']}", "protected-mode no", 'logfile ""', f"dir {config['dir']}",
            f"aclfile {config['aclfile']['sentinel']}", f"sentinel resolve-hostnames {names}", f"sentinel announce-hostnames {names}",
            f"sentinel announce-ip {config['self']}", f"sentinel announce-port {config['sentinel_port']}",
            f"sentinel sentinel-user {admin['username']}", f"sentinel sentinel-pass {admin['password']}",
            f"sentinel monitor {name} {host} {port} {config['sentinel']['quorum']}",
            f"sentinel auth-user {name} {admin['username']}", f"sentinel auth-pass {name} {admin['password']}",
            *(f"sentinel {key} {name} {value}" for key, value in config["sentinel"].items() if key != "quorum"),
        ]
        print(f"watching {host}:{port}")
    write_once(path, lines)


def differences(link: Link, config: dict[str, t.Any], what: str) -> dict[str, tuple[str, str]]:
    """{setting: (running, wanted)}."""
    out = {}
    if what == "redis":
        for key, wanted in config["settings"].items():
            running = mapping(link("CONFIG", "GET", key)).get(key)
            if running is not None and not same(key, str(wanted), running):
                out[key] = (running, str(wanted))
    else:
        running_of = mapping(link("SENTINEL", "MASTER", config["master_name"]))
        for key, wanted in config["sentinel"].items():
            if key in running_of and running_of[key] != str(wanted):
                out[key] = (running_of[key], str(wanted))
    return out


def shown(key: str, pair: tuple[str, str]) -> str:
    return key if key.endswith(("auth", "pass")) else f"{key}: {pair[0]} -> {pair[1]}"


def remember(config: dict[str, t.Any], what: str) -> None:
    """Keep the password the process has now, so that a later change of it can be applied. Gone at the next boot, as the process is."""
    os.makedirs(config["run"], mode=0o700, exist_ok=True)
    path = os.path.join(config["run"], f"{what}-admin")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
        f.write(config["admin"]["password"])


def remembered(config: dict[str, t.Any], what: str) -> list[str]:
    try:
        with open(os.path.join(config["run"], f"{what}-admin"), encoding="utf-8") as f:
            return [f.read()]
    except OSError:
        return []


def connect(config: dict[str, t.Any], what: str) -> Link:
    port = config["port"] if what == "redis" else config["sentinel_port"]
    last: Exception = OSError("no address")
    for host in config["local"]:
        for password in (config["admin"]["password"], *remembered(config, what)):
            try:
                return Link(host, port, {"admin": {**config["admin"], "password": password}})
            except (OSError, RedisError) as err:
                last = err
    raise last


def set_users(link: Link, path: str) -> None:
    """Make the users what the file says. ACL LOAD would close every connection, LiveKit's included; SETUSER closes none."""
    wanted = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            words = line.split()
            if len(words) > 1 and words[0] == "user":
                wanted[words[1]] = words[2:]
    for name, rules in wanted.items():
        link("ACL", "SETUSER", name, "reset", *rules)
    for name in link("ACL", "USERS"):
        if name not in wanted and name != "default":
            link("ACL", "DELUSER", name)


def apply(config: dict[str, t.Any], what: str) -> int:
    refused = []
    with connect(config, what) as link:
        set_users(link, config["aclfile"][what])
        remember(config, what)
        for key, pair in differences(link, config, what).items():
            try:
                if what == "redis":
                    link("CONFIG", "SET", key, pair[1].strip('"'))
                else:
                    link("SENTINEL", "SET", config["master_name"], key, pair[1])
                print(f"set {shown(key, pair)}")
            except RedisError as err:
                refused.append(f"{shown(key, pair)} ({err})")
        if what == "sentinel":
            name, admin = config["master_name"], config["admin"]
            link("SENTINEL", "SET", name, "auth-user", admin["username"])
            link("SENTINEL", "SET", name, "auth-pass", admin["password"])
            link("SENTINEL", "CONFIG", "SET", "sentinel-user", admin["username"])
            link("SENTINEL", "CONFIG", "SET", "sentinel-pass", admin["password"])
    if refused:
        print("not possible while it runs, restart it at a quiet moment, replicas first: " + "; ".join(refused), file=sys.stderr)
    return 1 if refused else 0


def check(config: dict[str, t.Any], what: str) -> int:
    with connect(config, what) as link:
        found = differences(link, config, what)
    for key, pair in found.items():
        print(shown(key, pair))
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Keep a Redis or Sentinel on the role's settings.")
    parser.add_argument("verb", choices=["seed", "check", "apply"])
    parser.add_argument("what", choices=["redis", "sentinel"])
    parser.add_argument("--config", default=CONFIG)
    args = parser.parse_args()
    with open(args.config, encoding="utf-8") as f:
        config = json.load(f)
    try:
        if args.verb == "seed":
            seed(config, args.what)
            remember(config, args.what)
            return 0
        return (check if args.verb == "check" else apply)(config, args.what)
    except (OSError, RedisError) as err:
        print(f"{args.verb} {args.what}: {err}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
