#!/usr/bin/env python3
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every operation of the collection on one cluster, one after the other, while the same calls go on.

    lab/operations.py --lab operations --endpoint FILE --out build/x [--calls 8] -- -i inventories/cluster -i ... -e ...

What follows -- goes to ansible-playbook. Exit status 0: every call came up, none was dropped, each heard the other side to the
end, and no operation but the crash cost more silence than a move may. report.json and report.html go into --out.
"""
from __future__ import annotations

import argparse
import json
import os
import pathlib
import secrets
import sys
import typing as t

from under_calls import Change, Phases, under_calls

MOVE_SILENCE = 5.0  # seconds; generous, as hosts, clients and Ansible share a machine here. Benches have the figures
CRASH_SILENCE = 8.0  # stock LiveKit needs 11
CRASH = ("systemctl kill --signal=SIGKILL --kill-who=main "
         "\"$(systemctl list-units --state=active --plain --no-legend 'livekit-server@*' | cut -d' ' -f1)\"; sleep 15")


def operations(lab: str, options: t.Sequence[str], keys: pathlib.Path, old: str, new: str) -> list[Change]:
    """keys: an inventory in which both keys stand."""
    def playbook(verb: str, *more: str) -> list[str]:
        return ["ansible-playbook", f"openrtc.livekit.{verb}", *options, *more]

    version = ["-e", "livekit_version=1.13.5"]
    return [
        ("drain sfu1, its calls move at once", playbook("drain", "--limit", "sfu1", "-e", "livekit_drain_policy=now"), True),
        ("undo the drain: a fresh node on sfu1", playbook("undo_drain", "--limit", "sfu1"), True),
        ("move every room of sfu2", playbook("move", "-e", "livekit_move_from=sfu2"), True),
        ("rebalance", playbook("rebalance"), True),
        ("upgrade, calls move at once", playbook("upgrade", *version, "-e", "livekit_upgrade_policy=now"), True),
        ("rollback, calls move at once", playbook("rollback", "-e", "livekit_upgrade_policy=now"), True),
        ("crash: SIGKILL on sfu3", ["docker", "exec", f"openrtc-{lab}-sfu3", "sh", "-c", CRASH], True),
        ("recover: nothing is left of it", playbook("recover"), True),
        ("a new API key beside the old one",
         playbook("rotate_keys", "-i", str(keys), "-e", f"livekit_rotate_add={new}", "-e", "livekit_upgrade_policy=now"), True),
        ("the old API key goes", playbook("rotate_keys", "-i", str(keys), "-e", f"livekit_rotate_remove={old}"), True),
    ]


def compose_operations(lab: str, options: t.Sequence[str], more: str) -> list[Change]:
    """What containers do under calls. more: an inventory with one media host more, sfu3."""
    def playbook(verb: str, *extra: str) -> list[str]:
        return ["ansible-playbook", f"openrtc.livekit.{verb}", *options, *extra]

    old, new, grown = ["-e", "livekit_version=1.13.4"], ["-e", "livekit_version=1.13.5"], ["-i", more]
    crash = "kill -9 $(docker inspect -f '{{.State.Pid}}' $(docker ps -q --filter label=openrtc.livekit.slot | head -1)); sleep 15"
    return [
        ("upgrade, calls move at once", playbook("upgrade", *new, "-e", "livekit_upgrade_policy=now"), True),
        ("rollback, calls move at once", playbook("rollback", "-e", "livekit_upgrade_policy=now"), True),
        ("drain sfu1, its calls move at once", playbook("drain", "--limit", "sfu1", "-e", "livekit_drain_policy=now"), True),
        ("undo the drain: a fresh node on sfu1", playbook("undo_drain", "--limit", "sfu1"), True),
        ("a host more", playbook("deploy", *old, *grown), True),
        ("rooms to it", playbook("rebalance", *grown), True),
        ("that host is emptied", playbook("maintenance", *old, *grown, "--limit", "sfu3", "-e", "livekit_maintenance_policy=now"), True),
        ("a host less", playbook("deploy", *old), True),
        ("Docker starts anew on sfu2, with live-restore", ["docker", "exec", f"openrtc-{lab}-sfu2", "systemctl", "restart", "docker"], True),
        ("crash: SIGKILL on sfu2", ["docker", "exec", f"openrtc-{lab}-sfu2", "sh", "-c", crash], True),
        ("recover: nothing is left of it", playbook("recover", *old), True),
    ]


def kubernetes_operations(lab: str, options: t.Sequence[str], kubeconfig: str) -> list[Change]:
    """What a cluster of three machines does under calls."""
    def playbook(verb: str, *more: str) -> list[str]:
        return ["ansible-playbook", f"openrtc.livekit.{verb}", *options, *more]

    def kubectl(*words: str) -> list[str]:
        return ["kubectl", "--kubeconfig", kubeconfig, *words]

    three = kubectl("-n", "livekit", "wait", "deployment", "-l", "app.kubernetes.io/component=server", "--for=jsonpath={.status.readyReplicas}=3",
                    "--timeout=90s")
    crash = ("pod=$(kubectl -n livekit get pods -l openrtc.livekit/serving=true --field-selector spec.nodeName=node3 -o name | head -n 1); "
             "kubectl -n livekit exec $pod -- sh -c 'kill -9 $(pidof livekit-server)'; sleep 15")
    before, after, at_once = ["-e", "livekit_version=1.13.4"], ["-e", "livekit_version=1.13.5"], ["-e", "livekit_upgrade_policy=now"]
    return [
        ("upgrade, calls move at once", playbook("upgrade", *after, *at_once), True),
        ("rollback, calls move at once", playbook("rollback", *at_once), True),
        ("drain node1, its calls move at once", playbook("drain", *before, "--limit", "kubernetes,node1", "-e", "livekit_drain_policy=now"), True),
        ("undo the drain of node1", playbook("undo_drain", *before, "--limit", "kubernetes,node1"), True),
        ("kubectl drains node2, its calls move at the deadline",
         kubectl("drain", "node2", "--pod-selector", "app.kubernetes.io/component=server", "--timeout", "120s"), True),
        ("kubectl lets pods come to node2 again", kubectl("uncordon", "node2"), True),
        ("three nodes again", three, True),
        ("a node less", playbook("deploy", *before, "-e", "livekit_kubernetes_replicas=2"), True),
        ("a node more", playbook("deploy", *before), True),
        ("it is up", three, True),
        ("rooms to it", playbook("rebalance", *before), True),
        ("containerd starts anew on node1", ["lab/kubernetes/node", lab, "node1", "restart", "containerd"], True),
        ("crash: SIGKILL on node3", ["env", f"KUBECONFIG={kubeconfig}", "sh", "-c", crash], True),
        ("recover: nothing is left of it", playbook("recover", *before), True),
    ]


def two_keys(directory: pathlib.Path, endpoint: t.Mapping[str, t.Any], new: str) -> pathlib.Path:
    """An inventory that says nothing but the cluster's key and a new one after it; for its owner's eyes only."""
    path = directory / "group_vars" / "all.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as out:
        json.dump({"livekit_keys": {endpoint["api_key"]: endpoint["api_secret"], new: secrets.token_hex(16)}}, out)
    (directory / "hosts.json").write_text('{"all": {}}')
    return directory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", required=True)
    parser.add_argument("--endpoint", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--calls", type=int, default=8)
    parser.add_argument("--new-key", default="APIrotated")
    parser.add_argument("--plan", choices=["operations", "compose", "kubernetes"], default="operations")
    parser.add_argument("--more", default="", help="with --plan compose, an inventory with one media host more")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="operations whose titles have one of these words")
    parser.add_argument("options", nargs="+")
    args = parser.parse_args()
    endpoint = json.loads(args.endpoint.read_text())
    if args.plan == "compose":
        plan = compose_operations(args.lab, args.options, args.more)
    elif args.plan == "kubernetes":
        plan = kubernetes_operations(args.lab, args.options, endpoint["kubeconfig"])
    else:
        keys = two_keys(args.out / "keys", endpoint, args.new_key)
        plan = operations(args.lab, args.options, keys, endpoint["api_key"], args.new_key)
    plan = [step for step in plan if not args.only or any(word in step[0] for word in args.only)]
    good = under_calls(Phases(), endpoint, args.out, plan, args.calls)
    for phase in json.loads((args.out / "report.json").read_text())["phases"]:
        limit = CRASH_SILENCE if phase["name"].startswith("crash") else MOVE_SILENCE
        if phase["worst_gap"] > limit:
            print(f"{phase['name']}: a silence of {phase['worst_gap']:.2f} s, more than {limit:g} s", file=sys.stderr)
            good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
