# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every fault stands on: a cluster under calls, what one round expects and saw, and the invariants that judge it from outside."""
from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import threading
import time
import typing as t

from cluster import HOSTS, Cluster, Watch, gaps_between
from common import BENCH
from fleet.errors import FleetError
from fleet.journal import Journal
from fleet.lock import Lock
from fleet.move import Mover, Outcome
from fleet.move_plan import Record
from fleet.move_store import MOVES
from fleet.placement import Limits
from fleet.redis_connection import as_text
from fleet.reports import Place

CALLS = 6
APART = 1.0  # seconds a room may have callers on two nodes
ACTS = ("dead", "recover", "fence", "move", "drain", "cut", "tidy", "cleanup", "drain drain", "drain move", "drain end")
SERVICES = ("redis-server", "redis-sentinel", "haproxy", "livekit-executor", "livekit-controller", "livekit-agent-check")


@dataclasses.dataclass
class Round:
    """One round of a fault: what it may cost, told by the fault itself, and what was seen."""

    fault: str
    number: int
    at: float
    nodes: dict[str, str]  # {node id: host} that served before
    out: int = 1  # hosts that may be out at the same time: one that leaves on purpose, and those the fault takes
    killed: set[str] = dataclasses.field(default_factory=set)  # nodes the fault kills: their calls may be silent, and come back
    given_up: int = 0  # calls whose client the fault kills
    calm: list[tuple[float, float]] = dataclasses.field(default_factory=list)  # times in which nothing may be decided
    hung: float = 0.0  # seconds for which nobody can join anywhere, as Redis does not answer
    same_nodes: bool = False  # the very same nodes have to serve at the end
    facts: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)
    # seen
    until: float = 0.0
    dropped: int = 0
    silent: int = 0
    fewest: int | None = None
    apart: list[float] = dataclasses.field(default_factory=list)
    split: list[float] = dataclasses.field(default_factory=list)
    after: dict[str, str] = dataclasses.field(default_factory=dict)
    left: list[str] = dataclasses.field(default_factory=list)  # records of moves that nobody finishes
    astray: dict[str, str] = dataclasses.field(default_factory=dict)  # {room: why it is nowhere}
    log: list[dict[str, t.Any]] = dataclasses.field(default_factory=list)
    gaps: list[float] = dataclasses.field(default_factory=list)


def broken(r: Round) -> list[str]:
    """Every invariant that does not hold, in words."""
    found = list(r.problems)
    if r.dropped > r.given_up:
        found.append(f"{r.dropped - r.given_up} calls were lost")
    if r.silent:
        found.append(f"{r.silent} calls have no media at the end")
    if r.fewest is not None and r.fewest < len(HOSTS) - r.out:
        found.append(f"only {r.fewest} hosts served at one time, {len(HOSTS) - r.out} have to")
    if any(s > APART + r.hung for s in r.split):
        found.append(f"callers of one room were on two nodes for {max(r.split)} s")
    for begin, end in r.calm:
        acts = [f"{e['kind']} of {e.get('node', '?')} by {e['by']} at +{e['at'] - begin:.1f} s" for e in r.log if e["kind"] in ACTS and begin < e["at"] < end]
        found += [f"it was decided on stale data: {act}" for act in acts]
    if r.same_nodes and set(r.nodes) - set(r.after):
        found.append(f"nodes are gone though nothing was wrong with them: {', '.join(sorted(set(r.nodes) - set(r.after)))}")
    found += [f"a move is not finished: {record}" for record in r.left]
    found += [f"room {room}: {why}" for room, why in r.astray.items()]
    found += [f"{e['by']} failed: {e['reason'][-300:]}" for e in r.log if e["kind"] == "error"]
    return found


@dataclasses.dataclass(frozen=True)
class Fault:
    """strike() does it, start to end; about: what a caller may notice. most: rounds at most in one run; fresh: calls of its own each round."""

    name: str
    about: str
    strike: t.Callable[[Scene], None]
    most: int = 99
    fresh: bool = False


FAULTS: dict[str, Fault] = {}
Strike = t.TypeVar("Strike", bound=t.Callable[..., None])


def fault(most: int = 99, fresh: bool = False) -> t.Callable[[Strike], Strike]:
    """Register a function, its name with dashes, as a fault."""
    def register(strike: Strike) -> Strike:
        name = strike.__name__.strip("_").replace("_", "-")
        FAULTS[name] = Fault(name, " ".join((strike.__doc__ or "").split()), strike, most, fresh)
        return strike
    return register


class Scene:
    """The cluster under calls, for the rounds of one fault. `rng` decides which host and which moment."""

    def __init__(self, cluster: Cluster, one: Fault, seed: int) -> None:
        self.cluster, self.fault, self.rng, self.out = cluster, one, random.Random(f"{seed}/{one.name}"), BENCH / "faults" / one.name
        self.rounds: list[Round] = []
        self.calls: t.Any = None
        self.prefix = ""
        self.r: Round = Round(one.name, 0, 0.0, {})

    # -- a round ------------------------------------------------------------------------------------------------

    def go(self, number: int) -> Round:
        """One round, from calls that have media to a verdict."""
        if self.calls is None:
            self._calls()
        places = self.cluster.restore()
        self.r = r = Round(self.fault.name, number, time.time(), {n: p.host for n, p in places.items()})
        self.rounds.append(r)
        lost = self.cluster.heard(self.calls)["dropped"]
        watch = Watch(self.cluster)
        watch.start()
        try:
            self.fault.strike(self)
        except (FleetError, SystemExit, OSError) as exc:
            r.problems.append(f"{type(exc).__name__}: {exc}"[:500])
            heal(self.cluster)
        r.fewest = watch.fewest  # until here: starting fresh nodes at the end is ours
        self._settle()
        watch.stop()
        r.apart, r.split, r.fewest = watch.apart, watch.split, r.fewest if r.fewest is not None else watch.fewest
        r.dropped, r.until = self.cluster.heard(self.calls)["dropped"] - lost, time.time()
        r.problems = broken(r)
        if self.fault.fresh or r.dropped or r.problems:
            self.end()
        return r

    def _calls(self) -> None:
        self.prefix = f"{self.fault.name}-{int(time.time()):x}"
        self.calls = self.cluster.calls(CALLS, self.out, "--every", "0", "--processes", "2", "--prefix", self.prefix, "--pin", *self.cluster.restore())
        self._since = len(self.rounds)
        time.sleep(1)

    def end(self) -> None:
        """Hang up, and give each round the silences of its time."""
        if self.calls is None:
            return
        self.calls.stop()
        found = []
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self.calls.out.read_text())["calls"]
        for r in self.rounds[self._since:]:
            r.gaps = gaps_between(found, r.at - 0.3, r.until)
            gone = [f"{c['room']}: {c['reason']}" for c in found if c["dropped"] and "client process" not in str(c["reason"])]
            if gone and r.dropped > r.given_up:
                r.facts["lost"] = gone
        self.calls = None

    def _settle(self) -> None:
        """Until moves are finished, hosts serve and calls have media; what is left then is the round's."""
        r, end = self.r, time.monotonic() + 45
        while time.monotonic() < end:
            with contextlib.suppress(FleetError):
                r.left = self.unfinished()
                if not r.left:
                    break
            time.sleep(0.5)
        try:
            self.cluster.restore()
        except SystemExit as exc:
            r.problems.append(str(exc))
            heal(self.cluster)
        wanted = CALLS - r.given_up
        # A client whose node dies while it connects there waits for ICE, 15 s in the SDK, and may meet the next change then.
        if not self.cluster.wait_heard(self.calls, wanted, seconds=45, steady=1.5):
            r.silent = max(0, wanted - self.cluster.heard(self.calls)["with_media"])
        with self.cluster.registry() as registry:
            snapshot = registry.snapshot()
        for number in range(CALLS):
            room = f"{self.prefix}-{number}"
            node = snapshot.room_node_map.get(room)
            if r.given_up:
                continue
            if room not in snapshot.rooms:
                r.astray[room] = "it is not in `rooms`"
            elif node is None or not snapshot.fresh(node):
                r.astray[room] = f"it is on {node}, which is not there"
        r.after = {n: p.host for n, p in self.cluster.places().items()}
        r.log = self.cluster.log(r.at)

    def unfinished(self) -> list[str]:
        """Records of moves that have to go on. Those that only guard rooms against a late erasure end by themselves."""
        with self.cluster.registry() as registry:
            (found,) = registry.ask("read the moves in progress", ("HGETALL", MOVES))
        records = [Record.parse(as_text(raw)) for raw in found.values()]
        return [f"{x.kind} {x.id} by {x.by}, {len(x.uncut)} of {len(x.rooms)} rooms not cut" for x in records if x.kind == "evacuate" or x.uncut]

    # -- what faults need ---------------------------------------------------------------------------------------

    def victim(self) -> tuple[str, Place]:
        """A serving node that has calls of ours, and where it is."""
        with self.cluster.registry() as registry:
            homes = set(registry.snapshot().room_node_map[f"{self.prefix}-{n}"] for n in range(CALLS))
        places = self.cluster.places()
        node = self.rng.choice(sorted(n for n in places if n in homes))
        self.r.facts["victim"] = f"{places[node]} {node}"
        return node, places[node]

    def kill_node(self, node_id: str, place: Place, signal: str = "KILL") -> None:
        self.r.killed.add(node_id)
        self.cluster.signal(place.host, f"livekit-server@{place.slot.slot}.service", signal)

    def moment(self, *kinds: str, latest: float = 0.4) -> tuple[str, float]:
        """A step of a move and seconds after it, by the seed."""
        kind, delay = self.rng.choice(kinds), round(self.rng.choice([0.0, self.rng.uniform(0, latest)]), 2)
        self.r.facts["moment"] = f"{delay} s after {kind}"
        return kind, delay

    def evacuate(self, node_id: str, at: str = "", act: t.Callable[[dict[str, t.Any]], None] | None = None, delay: float = 0.0,
                 tries: int = 3) -> Outcome | None:
        """Move all off a node, as an operator does, who runs it again when it fails. `act` is done `delay` seconds after the first step `at`."""
        timers: list[threading.Timer] = []

        def done(entry: dict[str, t.Any]) -> None:
            try:
                act(entry)  # type: ignore[misc]
            except (FleetError, SystemExit, OSError) as exc:
                self.r.problems.append(f"the fault itself failed: {exc}"[:300])

        def heard(entry: dict[str, t.Any]) -> None:
            if act and entry["kind"] == at and not timers:
                timers.append(threading.Timer(delay, done, [entry]))
                timers[0].start()

        outcome, errors = None, []
        for dummy in range(tries):
            try:
                with self.cluster.registry() as registry, Lock(registry, "move", "bench", wait=30) as lock:
                    outcome = Mover(registry, lock, Journal(registry, "bench", heard), Limits(0, 0)).evacuate(node_id, self.fault.name)
                break
            except FleetError as exc:
                errors.append(f"{exc.failure['code']}: {exc.failure['got']}"[:200])
                time.sleep(1)
        for timer in timers:
            timer.join(60)
        if errors:
            self.r.facts["runs that failed"] = errors
        if outcome is None:
            self.r.problems.append(f"the move did not end in {tries} runs: {errors[-1]}")
        elif act and not timers:
            self.r.problems.append(f"the move never came to {at}")
        if outcome:
            self.r.facts["move"] = f"{len(outcome.moved)} rooms in {outcome.seconds} s"
        return outcome


def heal(cluster: Cluster) -> None:
    """Undo whatever a fault that broke off has left: processes that stand still, units that do not run."""
    for host in cluster.inventory:
        with contextlib.suppress(SystemExit):
            for unit in SERVICES:
                if cluster.run(host, "systemctl", "list-unit-files", "--no-legend", f"{unit}.service", check=False).strip():
                    cluster.run(host, "sh", "-c",
                                f"pid=$(systemctl show -p MainPID --value {unit}); [ $pid = 0 ] || kill -CONT $pid; systemctl start {unit}", check=False)
