# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deployed lab as benches see it: its registry, its hosts, calls on it, and a watch over what must never happen."""
from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import typing as t

import yaml
from common import ROOT, Lab

sys.path.insert(0, str(ROOT / "lab"))
sys.path.insert(0, str(ROOT / "plugins" / "module_utils"))

from fleet.controller.lease import KEY as LEASE, controllers  # noqa: E402
from fleet.errors import FleetError  # noqa: E402
from fleet.journal import Journal, recent  # noqa: E402
from fleet.lock import Lock  # noqa: E402
from fleet.move import Mover  # noqa: E402
from fleet.move_plan import Moved, Record  # noqa: E402
from fleet.move_store import MOVES  # noqa: E402
from fleet.placement import Limits  # noqa: E402
from fleet.redis_connection import as_text  # noqa: E402
from fleet.registry import Registry, connect  # noqa: E402
from fleet.reports import Place, Reports  # noqa: E402
from under_calls import Calls  # noqa: E402

HOSTS = ("sfu1", "sfu2", "sfu3")


class Cluster:
    """The lab's cluster, reached from this machine."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        path = lab.directory / "endpoint.json"
        lab.quiet("ansible-playbook", "lab/endpoint.yml", *lab.inventory, "-e", f"endpoint_file={path}")
        self.endpoint = json.loads(path.read_text())
        self.inventory: dict[str, dict[str, t.Any]] = yaml.safe_load((lab.directory / "inventory.yml").read_text())["all"]["hosts"]
        self.homes: dict[str, int] = {}  # host -> the slot that served there last

    # -- seeing

    def registry(self) -> Registry:
        """A connection of its own for every thread."""
        return connect(self.endpoint["redis"])

    def places(self) -> dict[str, Place]:
        """{node id: where it runs} of the nodes that serve."""
        with self.registry() as registry:
            snapshot, reports = registry.snapshot(), Reports.read(registry)
            places = {n.id: reports.place_of(n.id) for n in snapshot.serving()}
            return {n: p for n, p in places.items() if p and p.slot.label == "serving"}

    def wait_serving(self, count: int = len(HOSTS), seconds: float = 40.0) -> dict[str, Place]:
        """Until so many nodes serve, by registry and by their hosts."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(FleetError):  # Redis may be what is being tried
                found = self.places()
                if len({p.host for p in found.values()}) >= count:
                    self.homes.update({p.host: p.slot.slot for p in found.values()})
                    return found
            time.sleep(0.2)
        raise SystemExit(f"{count} serving nodes did not come up in {seconds:g} s, there are {self.places()}")

    def wait_free(self, free: int = 2, seconds: float = 90.0) -> None:
        """Until every host has so many free slots again: drained nodes have ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self.registry() as registry:
                hosts = [h for h in Reports.read(registry).hosts.values() if h.slots]
            if all(sum(s.free for s in h.slots) >= free for h in hosts):
                return
            time.sleep(0.5)

    def log(self, since: float) -> list[dict[str, t.Any]]:
        """The journal since a time of Redis' clock, oldest first."""
        with self.registry() as registry:
            return [e for e in reversed(recent(registry, 1000)) if e["at"] >= since]

    def controllers(self) -> list[str]:
        """Hosts that have a controller, running or not."""
        with self.registry() as registry:
            return list(controllers(registry))

    def leader(self) -> str:
        """The host whose controller acts, "" for none."""
        with self.registry() as registry:
            (held,) = registry.ask("read the lease", ("GET", LEASE))
        return str(json.loads(held)["owner"]).partition("@")[2] if held else ""

    def address(self, host: str) -> str:
        return str(self.inventory[host]["livekit_address"])

    def redis_hosts(self) -> dict[str, str]:
        """{address: host} of the Redis servers."""
        sentinels = {a.rpartition(":")[0] for a in self.endpoint["redis"]["sentinel_addresses"]}
        return {self.address(host): host for host in self.inventory if self.address(host) in sentinels}

    def primary(self) -> str:
        """The host of the Redis server that is written to."""
        with self.registry() as registry:
            return self.redis_hosts()[registry.open().address.rpartition(":")[0]]

    # -- doing

    @contextlib.contextmanager
    def mover(self, owner: str = "bench") -> t.Iterator[Mover]:
        """The engine under its lock. CPU limits are off: the lab's hosts share one machine."""
        with self.registry() as registry, Lock(registry, "move", owner, wait=30) as lock:
            yield Mover(registry, lock, Journal(registry, owner), Limits(0, 0))

    def run(self, host: str, *command: str, check: bool = True) -> str:
        """A command on a host of the lab."""
        done = subprocess.run(["docker", "exec", self.container(host), *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise SystemExit(f"{host}: {' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def docker(self, *command: str) -> str:
        done = subprocess.run(["docker", *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"docker {' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    @property
    def network(self) -> str:
        return f"openrtc-{self.lab.name}"

    def connect(self, host: str) -> None:
        """Give a host its network back, with the address it had."""
        self.docker("network", "connect", "--ip", self.address(host), "--alias", host, self.network, self.container(host))

    def container(self, host: str) -> str:
        return f"openrtc-{self.lab.name}-{host}"

    def evacuate_in_turn(self, count: int, pause: float = 3.0) -> list[dict[str, t.Any]]:
        """Evacuate node after node and start each again, until so many rooms have moved: a row per evacuation."""
        runs: list[dict[str, t.Any]] = []
        moved = 0
        while moved < count and len(runs) < 4 * count:
            host = HOSTS[len(runs) % len(HOSTS)]
            node_id, place = next((n, p) for n, p in self.wait_serving().items() if p.host == host)
            begin = time.time()
            with self.mover() as mover:
                outcome = mover.evacuate(node_id, "bench")
            run = {"host": host, "started": begin, "ended": time.time(), "seconds": outcome.seconds, "rooms": len(outcome.moved), "timeline": outcome.timeline}
            time.sleep(pause)  # so that each silence belongs to one move
            runs.append({**run, "until": time.time()})
            moved += len(outcome.moved)
            self.start_slot(host, place.slot.slot)
            print(f"move {len(runs)}: {host}, {len(outcome.moved)} rooms, {outcome.seconds} s, {moved} of {count} (load {os.getloadavg()[0]:.1f})", flush=True)
        return runs

    def start_slot(self, host: str, slot: int) -> None:
        """Start the generation that a slot holds once more: a fresh node, whose gates it has passed before."""
        self.run(host, "systemctl", "reset-failed", f"livekit-server@{slot}.service", check=False)
        self.run(host, "systemctl", "enable", "--now", f"livekit-server@{slot}.service")

    def signal(self, host: str, unit: str, name: str) -> None:
        """Send a signal to the main process of a unit, past systemd."""
        self.run(host, "sh", "-c", f"kill -{name} $(systemctl show -p MainPID --value {unit})")

    def units(self, verb: str, unit: str, hosts: t.Iterable[str]) -> None:
        """systemctl start or stop (never for nodes) on several hosts at once."""
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda host: self.run(host, "systemctl", verb, unit), hosts))

    @contextlib.contextmanager
    def alone(self, wanted: bool = True) -> t.Iterator[None]:
        """LiveKit without our controllers."""
        hosts = self.controllers() if wanted else []
        self.units("stop", "livekit-controller", hosts)
        try:
            yield
        finally:
            self.units("start", "livekit-controller", hosts)

    def restore(self, seconds: float = 60.0) -> dict[str, Place]:
        """Start what does not run on media hosts any more; until all serve."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(FleetError, SystemExit):
                missing = set(HOSTS) - {p.host for p in self.wait_serving(0, 5).values()}
                for host in missing:
                    slot = self.homes.get(host, 1)
                    state = self.run(host, "systemctl", "show", "-p", "ActiveState", "--value", f"livekit-server@{slot}.service").strip()
                    if state in ("inactive", "failed"):
                        self.start_slot(host, slot)
                if not missing:
                    return self.places()
            time.sleep(0.5)
        raise SystemExit(f"not all media hosts serve again in {seconds:g} s, only {self.wait_serving(0)}")

    def calls(self, count: int, out: pathlib.Path, *options: str, script: str = "lab/callers.py") -> Calls:
        """Calls that have media when this returns."""
        calls = Calls(self.endpoint, out, count, *options, script=script)
        calls.wait_media()
        return calls

    def heard(self, calls: Calls) -> dict[str, t.Any]:
        """What the calls' clients said last: {calls, with_media, dropped, ...}."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads(calls.status.read_text()))
        return {"with_media": 0, "dropped": 0}

    def wait_heard(self, calls: Calls, count: int, at_least: float = 0.0, seconds: float = 30.0, steady: float = 2.0) -> bool:
        """Until so many calls have had media for `steady` seconds, looking for `at_least` so long; False where that does not come in time."""
        begin, since = time.monotonic(), None
        while time.monotonic() - begin < seconds:
            now = time.monotonic()
            since = (since or now) if self.heard(calls)["with_media"] >= count else None
            if since is not None and now - begin >= at_least and now - since >= steady:
                return True
            time.sleep(0.2)
        return False


class Watch(threading.Thread):
    """Looks at the registry ten times a second and keeps what must never happen."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(daemon=True)
        self.cluster, self.ending = cluster, threading.Event()
        self.samples = self.blind = 0  # looks, and looks at a Redis that did not answer
        self.fewest: int | None = None  # hosts with a serving node
        self.apart: list[float] = []  # of every moved room: seconds from the change of its node until all callers were there
        self.split: list[float] = []  # of these, seconds during which some callers were on the new node and some still on the old one
        self._open: dict[tuple[str, float], Moved] = {}
        self._both: dict[tuple[str, float], float] = {}
        self._seen: set[tuple[str, float]] = set()

    def run(self) -> None:
        registry: Registry | None = None
        while not self.ending.wait(0.1):
            try:
                registry = registry or self.cluster.registry()
                self._look(registry)
                self.samples += 1
            except FleetError:  # Redis may be what is being tried
                registry, self.blind = None, self.blind + 1

    def _look(self, registry: Registry) -> None:
        snapshot = registry.snapshot()
        serving = len({n.ip for n in snapshot.serving()})
        self.fewest = serving if self.fewest is None else min(self.fewest, serving)
        (found,) = registry.ask("read the moves in progress", ("HGETALL", MOVES))
        for record in map(Record.parse, map(as_text, found.values())):
            new = {(room, m.at): m for room, m in record.rooms.items() if (room, m.at) not in self._seen}
            self._open.update(new)
            self._seen.update(new)
        people = registry.participants_of({room for room, dummy in self._open})
        for (room, at), moved in list(self._open.items()):
            old = sum(moved.sids.get(p.identity) == p.sid for p in people[room])
            if 0 < old < len(people[room]) and snapshot.fresh(moved.frm):  # callers of a dead node are nowhere
                self._both.setdefault((room, at), snapshot.taken_at)
            elif not old:
                self.apart.append(round(snapshot.taken_at - at, 2))
                self.split.append(round(snapshot.taken_at - self._both.pop((room, at), snapshot.taken_at), 2))
                del self._open[room, at]

    def stop(self) -> Watch:
        self.ending.set()
        self.join(5)
        return self


def gaps_between(calls: t.Iterable[t.Mapping[str, t.Any]], start: float, end: float) -> list[float]:
    """Silences that began within a time, seconds, sorted."""
    return sorted(g["seconds"] for c in calls for g in c.get("gaps", ()) if start <= g["start"] <= end)
