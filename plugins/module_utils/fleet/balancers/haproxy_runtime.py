# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cut signalling in the HAProxy of this host, exactly: the sessions of some rooms and no others.

The role's configuration tracks each signalling session under `sha1(room):address:port` of its client, from the request on, so a retry that
waits for an answer is known too. A reload leaves sessions in old processes, which only the master reaches: each process is asked there.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import hashlib
import os
import re
import socket
import time
import typing as t

from ..errors import FleetError

FRONTEND = "livekit_in"
CHECKED = ("livekit", "livekit_degraded")  # servers there follow their agent check
BACKENDS = (*CHECKED, "livekit_retiring")
PASSED = "livekit_signal"  # where TURN shares port 443: the way of a client to FRONTEND, whose sessions then hide its address in `show sess`
SESSIONS, KEYS = "livekit_sessions", "livekit_keys"  # stick tables
KEYS_EXPIRE = 24 * 3600  # as in the role's template
UNREADABLE = "-"  # stands for a room whose name HAProxy could not read
_BATCH = 200  # commands at a time; on one line they have to fit into a buffer of 16 KiB

_SETTLE = 0.2  # s for HAProxy to end sessions after it said so; 2.6 does it at once
_RELOADING = 1.0  # s for a master that reloads to answer again

_ENTRY = re.compile(r"^0x\w+: key=(.+) use=(\d+) exp=(\d+)", re.M)
_SESSION = re.compile(r"^(0x\w+): proto=\S+ src=(\S+) fe=(\S+) be=(\S+) srv=(\S+)", re.M)


class Session(t.NamedTuple):
    """One request or WebSocket of signalling, as its process knows it."""

    id: str
    source: str  # address:port of the client
    backend: str
    server: str


class Entry(t.NamedTuple):
    """One key of a stick table: how many sessions hold it now, and how long it is kept yet (ms)."""

    key: str
    use: int
    expires: int


def parse_processes(text: str) -> list[int]:
    """Process ids of all workers in `show proc`, those of before a reload included."""
    return [int(pid) for pid in re.findall(r"^(\d+)\s+worker\s", text, re.M)]


def parse_table(text: str) -> list[Entry]:
    return [Entry(key, int(use), int(expires)) for key, use, expires in _ENTRY.findall(text)]


def parse_sessions(text: str) -> list[Session]:
    """The sessions of signalling in `show sess`."""
    rows = _SESSION.findall(text)
    return [Session(number, source, backend, server) for number, source, frontend, backend, server in rows
            if backend == PASSED or (frontend == FRONTEND and backend in BACKENDS)]


def choose(found: t.Sequence[Session], clients: set[str] | None, servers: t.Collection[str] | None) -> list[Session]:
    """Of these sessions those of `clients` (None: of all), on these servers if given. Of one that is only seen on its way the server is not known."""
    direct = [s for s in found if s.backend != PASSED]
    wanted = [s for s in direct if (clients is None or s.source in clients) and (servers is None or s.server in servers)]
    passed = (clients or set()) - {s.source for s in direct}
    return wanted + [s for s in found if s.backend == PASSED and s.source in passed]


def digests(room: str) -> set[str]:
    """What a session of this room may be tracked under.

    Some SDKs write other letters than ASCII as \\uXXXX into a token. HAProxy reads those up to U+00FF as one byte each, and no others.
    """
    plain = hashlib.sha1(room.encode()).hexdigest()
    try:
        return {plain, hashlib.sha1(room.encode("latin-1")).hexdigest()}
    except UnicodeEncodeError:
        return {plain, UNREADABLE}


def sources(entries: t.Iterable[Entry], rooms: t.Iterable[str]) -> set[str]:
    """Clients (address:port) that signal for one of these rooms now."""
    wanted: set[str] = set().union(*map(digests, rooms))
    split = (entry.key.partition(":") for entry in entries if entry.use)
    return {source for digest, dummy, source in split if digest in wanted}


def ages(entries: t.Iterable[Entry]) -> dict[str, float]:
    """{API key: seconds since its last use}, 0 while a session that was opened with it lives."""
    return {e.key: 0.0 if e.use else max(0.0, KEYS_EXPIRE - e.expires / 1000) for e in entries}


class Found(t.NamedTuple):
    """What there is to cut in one process. `whole`: all it has, since all were asked for or it does not know rooms."""

    process: t.Optional[int]
    sessions: t.List[Session]
    whole: bool


class Runtime:
    """The running HAProxy of this host. Without a master socket only the one process behind socket_path is known."""

    def __init__(self, socket_path: str = "/run/haproxy/admin.sock", timeout: float = 3.0, master_path: str = "/run/haproxy-master.sock") -> None:
        self.socket_path, self.timeout, self.master_path = socket_path, timeout, master_path

    def cut(self, rooms: t.Sequence[str] | None, servers: t.Sequence[str] | None = None) -> dict[str, t.Any]:
        """Cut the sessions of these rooms (None: of all), on these servers if given: {cut, left, exact}.

        `left` of them were still there a moment later. Not `exact`: rooms were asked for, but a process does not know rooms (tcp mode),
        so all its sessions were cut.
        """
        found = [f for f in self._find(rooms, servers) if f.sessions]
        for f in found:
            # Not "shutdown sessions server": after a reload the old process refuses it. An id that was freed meanwhile is refused, too.
            self._tell(f.process, [f"shutdown session {session.id}" for session in f.sessions])
        total, end = sum(len(f.sessions) for f in found), time.monotonic() + _SETTLE
        while True:
            left = sum(len(set(f.sessions) & set(self._sessions(f.process))) for f in found)
            if not left or time.monotonic() > end:
                break
            time.sleep(0.01)
        return {"cut": total - left, "left": left, "exact": rooms is None or not any(f.whole for f in found)}

    def avoid(self, servers: t.Sequence[str]) -> int:
        """No new connections to these servers; how many there are. The agent check takes it back when it says ready."""
        rows = [row.split() for row in self._send(self.socket_path, "show servers state").splitlines()]
        wanted = [f"{row[1]}/{row[3]}" for row in rows if len(row) > 3 and row[1] in CHECKED and row[3] in servers]
        self._tell(None, [f"set server {name} state drain" for name in wanted])
        return len(wanted)

    def sessions_of(self, rooms: t.Sequence[str] | None, servers: t.Sequence[str] | None = None) -> list[Session]:
        """What cut() would cut."""
        return [session for f in self._find(rooms, servers) for session in f.sessions]

    def keys_seen(self) -> dict[str, float]:
        """{API key: seconds since a node last accepted it}, of the last 24 h or since HAProxy was started; 0 while such a session lives."""
        seen: dict[str, float] = {}
        for process in self.processes():
            for key, age in ages(parse_table(self._ask(process, f"show table {KEYS}"))).items():
                seen[key] = min(age, seen.get(key, age))
        return seen

    def ask(self, command: str) -> str:
        """The answer of the newest process to one command."""
        return self._send(self.socket_path, command)

    def processes(self) -> list[int | None]:
        """Every process that may hold sessions; [None] where only the admin socket tells."""
        if not os.path.exists(self.master_path):
            return [None]
        end = time.monotonic() + _RELOADING
        while True:
            try:
                found = parse_processes(self._send(self.master_path, "show proc"))
                if found:
                    return list(found)
                raise self._error(self.master_path, "the master names no worker process")
            except FleetError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.02)

    # -- finding ---------------------------------------------------------------------------------------------------

    def _find(self, rooms: t.Sequence[str] | None, servers: t.Sequence[str] | None) -> list[Found]:
        found = []
        for process in self.processes() if rooms is None or rooms else []:
            table = self._ask(process, f"show table {SESSIONS}") if rooms else ""
            whole = rooms is None or "No such table" in table
            clients = None if whole else sources(parse_table(table), rooms or [])
            if clients != set():
                found.append(Found(process, choose(self._sessions(process), clients, servers), whole))
        return found

    def _sessions(self, process: int | None) -> list[Session]:
        return parse_sessions(self._ask(process, "show sess"))

    # -- sockets ---------------------------------------------------------------------------------------------------

    def _ask(self, process: int | None, command: str) -> str:
        """The answer of one process. A process that ended meanwhile answers nothing, and has no sessions."""
        return self._send(self.socket_path, command) if process is None else self._send(self.master_path, f"@!{process} {command}")

    def _tell(self, process: int | None, commands: list[str]) -> None:
        for start in range(0, len(commands), _BATCH):
            batch = commands[start:start + _BATCH]
            if process is None:
                self._send(self.socket_path, ";".join(batch))
            else:
                self._send(self.master_path, "\n".join(f"@!{process} {command}" for command in batch))

    def _send(self, path: str, text: str) -> str:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(self.timeout)
                sock.connect(path)
                sock.sendall(f"{text}\n".encode())
                sock.shutdown(socket.SHUT_WR)
                data = []
                while True:
                    chunk = sock.recv(1 << 18)
                    if not chunk:
                        return b"".join(data).decode("utf-8", "replace")
                    data.append(chunk)
        except OSError as exc:
            raise self._error(path, exc) from exc

    def _error(self, path: str, got: t.Any) -> FleetError:
        return FleetError("talk to HAProxy", path, got, "See systemctl status haproxy on this host; this needs root, and the configuration of role "
                          "openrtc.livekit.haproxy", code="balancer_socket")
