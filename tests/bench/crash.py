# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that die under calls: how long the callers hear nothing, with our controller and with LiveKit alone.

    tests/bench/crash.py [--kills 8] [--others 3] [--stalls 5]     makes a lab of its own and removes it; raw JSON: build/bench/crash.json

Kinds: the process is killed (sigkill), hangs (sigstop), its host dies (container), its host loses the network (network). Each time half of
the calls live on the victim. `stock` is the same cluster, machine and calls with LiveKit's own settings and the controllers stopped;
`settings` is that with our settings, which count on a controller. Besides: Redis stalls for 3 s, after which no node may have been given
up. Goals: design section 7.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import typing as t

from cluster import HOSTS, Cluster, gaps_between
from common import BENCH, Lab, save, table
from callers import percentile

KINDS = ("sigkill", "sigstop", "container", "network")
MODES = ("ours", "stock")
CALLS = 6
SLOW = 3.5  # seconds of silence from which on a call's events are kept
PATIENCE = 30.0  # seconds until a call that is still silent counts as lost
# What LiveKit has where nothing is set (pkg/config/config.go); node_selector as in lab/overrides.yml, a list of its own otherwise.
STOCK = {"node_selector": {"kind": "any", "sort_by": "clients"},
         "signal_relay": {"retry_timeout": "7500ms", "min_retry_interval": "500ms", "max_retry_interval": "4s"}}
ACTS = ("dead", "recover", "fence", "move", "drain", "cut", "tidy")


def strike(cluster: Cluster, kind: str, host: str, slot: int) -> None:
    """Have the node of a slot die in one of four ways."""
    if kind in ("sigkill", "sigstop"):
        cluster.signal(host, f"livekit-server@{slot}.service", {"sigkill": "KILL", "sigstop": "STOP"}[kind])
    elif kind == "container":
        cluster.docker("kill", cluster.container(host))
    else:
        cluster.docker("network", "disconnect", cluster.network, cluster.container(host))


def mend(cluster: Cluster, kind: str, host: str, slot: int) -> None:
    """Bring back what strike() took. A node that still hangs or was cut off is killed: without us its rooms would be erased later."""
    if kind == "container":
        cluster.docker("start", cluster.container(host))
    elif kind == "network":
        with contextlib.suppress(SystemExit):
            cluster.signal(host, f"livekit-server@{slot}.service", "KILL")
        cluster.connect(host)
    elif kind == "sigstop":
        stopped = f"pid=$(systemctl show -p MainPID --value livekit-server@{slot}.service); grep -q '^State:.T' /proc/$pid/status && kill -KILL $pid"
        cluster.run(host, "sh", "-c", stopped, check=False)


def rep(cluster: Cluster, kind: str, mode: str, turn: int) -> dict[str, t.Any]:
    """One crash under calls of its own."""
    places = cluster.wait_serving()
    host = HOSTS[turn % len(HOSTS)]
    victim, slot = next((n, p.slot.slot) for n, p in places.items() if p.host == host)
    first, second = (n for n in places if n != victim)
    calls = cluster.calls(CALLS, BENCH / "crash-calls", "--every", "0", "--processes", "2", "--pin", victim, first, victim, second)
    try:
        time.sleep(2)
        with cluster.registry() as registry:
            since = registry.now()
        at = time.time()
        strike(cluster, kind, host, slot)
        struck = time.time() - at
        cluster.wait_heard(calls, CALLS, at_least=5.0, seconds=PATIENCE)
        noted = [{**e, "at": round(e["at"] - since, 2)} for e in cluster.log(since) if e["kind"] in ("dead", "recover", "failed")]
        mend(cluster, kind, host, slot)
    finally:
        calls.stop()
    found = json.loads(calls.out.read_text())["calls"]
    cluster.restore()
    mine, others = [c for c in found if c["node_id"] == victim], [c for c in found if c["node_id"] != victim]
    silences = [round(sum(gaps_between([c], at - 0.3, at + PATIENCE)), 3) for c in mine if not c["dropped"]]
    slow = [{"room": c["room"], "url": c["url"], "gaps": c["gaps"], "events": [e for e in c["events"] if e["t"] > at - 1]} for c in mine
            if sum(gaps_between([c], at - 0.3, at + PATIENCE)) > SLOW]
    result = {
        "kind": kind, "mode": mode, "host": host, "victim": victim, "at": at, "strike_seconds": round(struck, 2), "silences": sorted(silences),
        "lost": [{"room": c["room"], "reason": c["reason"]} for c in found if c["dropped"]], "others": gaps_between(others, at - 0.3, at + PATIENCE),
        "slow": slow if mode == "ours" else [],
        "log": [{k: e.get(k) for k in ("at", "kind", "signals", "seconds", "reason", "fenced") if k in e} for e in noted], "load": round(os.getloadavg()[0], 1),
    }
    print(f"{kind:9} {mode:8} {host}: silent {result['silences']} s, lost {len(result['lost'])}, other calls {result['others']}; "
          f"{[(e['kind'], e['at']) for e in noted]} (load {result['load']})", flush=True)
    return result


def stalls(cluster: Cluster, count: int, seconds: float) -> list[dict[str, t.Any]]:
    """Redis hangs, and nothing else is wrong: no node may be given up."""
    if not count:
        return []
    before = cluster.wait_serving()
    calls = cluster.calls(CALLS, BENCH / "crash-stalls", "--every", "0", "--processes", "2", "--pin", *before)
    runs = []
    try:
        time.sleep(5)  # a controller that has just started judges nobody
        for number in range(count):
            with cluster.registry() as registry:
                since = registry.now()
            at, host = time.time(), cluster.primary()
            cluster.signal(host, "redis-server", "STOP")
            time.sleep(seconds)
            cluster.signal(host, "redis-server", "CONT")
            took = time.time() - at
            time.sleep(6)
            after, acts = cluster.places(), [e for e in cluster.log(since) if e["kind"] in ACTS]
            evicted = sorted(set(before) - set(after))
            runs.append({"at": at, "seconds": round(took, 2), "evicted": evicted, "acts": acts})
            print(f"stall {number + 1}: Redis of {host} hung for {took:.1f} s, {len(evicted)} nodes gone, acts {[e['kind'] for e in acts]}", flush=True)
    finally:
        calls.stop()
    found = json.loads(calls.out.read_text())["calls"]
    for run in runs:
        run["gaps"] = gaps_between(found, run["at"] - 0.3, run["at"] + run["seconds"] + 6)
        run["lost"] = [c["room"] for c in found if c["dropped"] and run["at"] <= (c["last_media"] or c["started"]) < run["at"] + run["seconds"] + 6]
    return runs


def tell(runs: list[dict[str, t.Any]], stalled: list[dict[str, t.Any]]) -> list[tuple[str, t.Any, t.Any, bool]]:
    """Rows of the table: only the silences after SIGKILL have goals, the others stand beside."""
    rows: list[tuple[str, t.Any, t.Any, bool]] = []
    for kind in KINDS:
        for mode in ("ours", "settings", "stock"):
            some = [r for r in runs if (r["kind"], r["mode"]) == (kind, mode)]
            silences = sorted(s for r in some for s in r["silences"])
            if not some:
                continue
            p50, p99, lost = percentile(silences, 50), percentile(silences, 99), sum(len(r["lost"]) for r in some)
            goal = kind == "sigkill" and mode == "ours"
            what = f"{kind}, {mode}: silence of {len(silences)} calls"
            if goal:
                rows += [(f"{what}, p50", f"{p50} s", "2 s", bool(silences) and p50 <= 2.0),
                         (f"{what}, p99", f"{p99} s", "3.5 s", bool(silences) and p99 <= 3.5)]
            else:
                rows.append((f"{what}, p50 / p99", f"{p50} / {p99} s", "", True))
            rows.append((f"{kind}, {mode}: calls lost", lost, 0 if mode == "ours" else "", lost == 0 or mode != "ours"))
    if stalled:
        false = sum(len(r["evicted"]) + len(r["acts"]) for r in stalled)
        rows += [(f"nodes given up in {len(stalled)} stalls of Redis", false, 0, not false),
                 ("calls lost in these stalls", sum(len(r["lost"]) for r in stalled), 0, not any(r["lost"] for r in stalled))]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=8, help="SIGKILLs of a node in each mode")
    parser.add_argument("--others", type=int, default=3, help="crashes of each other kind in each mode")
    parser.add_argument("--stalls", type=int, default=5)
    parser.add_argument("--stall-seconds", type=float, default=3.0)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=("ours", "settings", "stock"))
    args = parser.parse_args()
    runs: list[dict[str, t.Any]] = []
    with Lab("bench-crash", "172.30.87.0/24") as lab:
        lab.playbook("deploy")
        cluster = Cluster(lab)
        stalled = stalls(cluster, args.stalls, args.stall_seconds)
        for mode in args.modes:
            if mode == "stock":
                lab.playbook("upgrade", json.dumps({"livekit_server_config": STOCK}), "livekit_upgrade_policy=now")
                cluster.wait_free()
            with cluster.alone(mode != "ours"):
                for turn in range(max(args.kills, args.others)):
                    for kind in args.kinds:
                        if turn < (args.kills if kind == "sigkill" else args.others):
                            runs.append(rep(cluster, kind, mode, turn))
                            save("crash", {"runs": runs, "stalls": stalled})
    rows = tell(runs, stalled)
    good = table("crash", rows)
    save("crash", {"runs": runs, "stalls": stalled, "load": os.getloadavg(), "rows": rows})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
