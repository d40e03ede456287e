# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of changes: what an operator gives the playbooks, a disk that is full, two operators at once; and webhooks, which nothing may depend on."""
from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import subprocess
import time
import typing as t
import urllib.error
import urllib.request

from common import RECAP, ROOT
from faults_scene import ACTS, Scene, fault
from fleet import eta
from fleet.controller import webhook
from fleet.redis_connection import as_text

SLOTS = "/etc/livekit/slots"
SELECTOR = {"kind": "any", "sort_by": "clients"}  # as lab/overrides.yml


def change(scene: Scene, **more: t.Any) -> list[str]:
    """`upgrade` to a configuration that never was, with calls moved at once."""
    config = {"node_selector": SELECTOR, "room": {"empty_timeout": 300 + int(time.time()) % 10000}, **more}
    return scene.cluster.lab.command("upgrade", json.dumps({"livekit_server_config": config}), "livekit_upgrade_policy=now")


def run(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def refused(scene: Scene, command: list[str], words: str) -> None:
    """The playbook has to fail with these words (a pattern), and leave everything as it was."""
    scene.r.same_nodes = True
    code, said = run(command)
    found = re.search(words, said)
    scene.r.facts["said"] = found[0] if found else said.strip()[-300:]
    if code == 0:
        scene.r.problems.append("the playbook ended with 0")
    elif not found:
        scene.r.problems.append(f"the playbook failed for another reason: {said.strip()[-300:]}")


@fault(most=2)
def broken_binary(scene: Scene) -> None:
    """`upgrade` to a release that starts and never serves. It fails at its gate on the first host; no caller notices."""
    refused(scene, scene.cluster.lab.command("upgrade", "livekit_version=1.13.99", "livekit_upgrade_policy=now"), r"gate_\w+|does not answer")


@fault(most=2)
def broken_config(scene: Scene) -> None:
    """`upgrade` with a setting that LiveKit does not know. It is refused before any node starts; no caller notices."""
    refused(scene, change(scene, nonsense=True), r"nonsense")


@fault(most=2)
def disk_full(scene: Scene) -> None:
    """The disk of the first host is full when `upgrade` writes a generation. It fails there; no caller notices. With space it can be run again."""
    host = "sfu1"
    # The files that are there go along, so that nothing but the space is missing.
    scene.cluster.run(host, "sh", "-ec",
                      f"cp -a {SLOTS} /run/slots-kept; mount -t tmpfs -o size=256k,mode=0750 tmpfs {SLOTS}; cp -a /run/slots-kept/. {SLOTS}/; "
                      f"chown --reference=/run/slots-kept {SLOTS}; dd if=/dev/zero of={SLOTS}/.filler bs=1k 2>/dev/null || true")
    try:
        refused(scene, change(scene), r"No space left on device")
    finally:
        scene.cluster.run(host, "sh", "-c", f"umount {SLOTS}; rm -rf /run/slots-kept")
    scene.r.facts["said"] = f"{scene.r.facts.get('said')}"
    code, said = run(change(scene))
    scene.r.same_nodes = False
    if code:
        scene.r.problems.append(f"with space it still fails: {said.strip()[-400:]}")


@fault(most=2)
def two_operators(scene: Scene) -> None:
    """Two operators run the same `upgrade` at the same time. One changes the hosts, the other waits or is told who does; callers notice the moves."""
    command = change(scene)
    both = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for dummy in range(2)]
    said = [process.communicate()[0] for process in both]
    codes = [process.returncode for process in both]
    scene.r.facts["ended with"] = codes
    if 0 not in codes:
        scene.r.problems.append(f"both runs failed: {said[0].strip()[-300:]} / {said[1].strip()[-300:]}")
    for code, words in zip(codes, said):
        if code and "locked" not in words and "holds it" not in words:
            scene.r.problems.append(f"the other run failed for another reason: {words.strip()[-400:]}")
    code, again = run(command)
    changed = {m[1]: int(m[3]) for m in RECAP.finditer(again) if int(m[3])}
    if code or changed:
        scene.r.problems.append(f"a rerun ended with {code} and changed {changed}: {again.strip()[-300:] if code else ''}")


# -- webhooks -----------------------------------------------------------------------------------------------------


def signed(body: bytes, key: str, secret: str) -> str:
    """The token that LiveKit sends with a webhook."""
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    claims = {"iss": key, "exp": int(time.time()) + 300, "nbf": int(time.time()), "sha256": base64.b64encode(hashlib.sha256(body).digest()).decode()}
    head = f"{part(json.dumps({'alg': 'HS256', 'typ': 'JWT'}).encode())}.{part(json.dumps(claims).encode())}"
    return f"{head}.{part(hmac.new(secret.encode(), head.encode(), hashlib.sha256).digest())}"


def post(url: str, body: bytes, token: str) -> int:
    request = urllib.request.Request(url, data=body, headers={"Authorization": token, "Content-Type": "application/webhook+json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code


@fault()
def webhooks_lost_doubled_reordered(scene: Scene) -> None:
    """Webhooks come in any order, twice, to both controllers, not at all, or forged. Nobody notices: they are statistics and decide nothing."""
    r, endpoint = scene.r, scene.cluster.endpoint
    r.same_nodes, r.out = True, 0
    urls = [f"http://{scene.cluster.address(host)}:8405/webhook" for host in scene.cluster.controllers()]
    rooms = {f"hook-{r.number}-{n}-{time.time():.0f}": 4242.0 + r.number + n / 8 for n in range(5)}
    lost = scene.rng.choice(sorted(rooms))
    sent: list[tuple[str, str, bytes]] = []  # room, event, body
    for room, lasted in rooms.items():
        begun = int(time.time()) - 5000
        for kind in ("room_started", "participant_joined", "participant_left", "room_finished"):
            event = {"event": kind, "id": f"EV_{room}_{kind}", "createdAt": str(begun + lasted if kind == "room_finished" else begun),
                     "room": {"name": room, "creationTime": str(begun)}, "participant": {"identity": "somebody"}}
            if not (room == lost and kind == "room_finished"):
                sent.append((room, kind, json.dumps(event).encode()))
    order = sent + scene.rng.sample(sent, len(sent) // 2)
    scene.rng.shuffle(order)
    answers = [post(scene.rng.choice(urls), body, signed(body, endpoint["api_key"], endpoint["api_secret"])) for dummy, dummy, body in order]
    forged = [post(urls[0], sent[0][2], signed(b"another body", endpoint["api_key"], endpoint["api_secret"])), post(urls[0], sent[0][2], ""),
              post(urls[0], sent[0][2], signed(sent[0][2], endpoint["api_key"], "not-the-secret")),
              post(urls[0], b"[]", signed(b"[]", endpoint["api_key"], endpoint["api_secret"]))]
    if set(answers) != {200} or set(forged) != {401}:
        r.problems.append(f"answers {sorted(set(answers))}, to forged ones {forged}")
    with scene.cluster.registry() as registry:
        events, durations = registry.ask("read what was learnt", ("LRANGE", webhook.EVENTS, 0, -1), ("LRANGE", eta.DURATIONS, 0, -1))
    seen = [(e.get("room"), e.get("event")) for e in (json.loads(as_text(raw)) for raw in events) if e.get("room") in rooms]
    learnt = sorted(float(as_text(d)) for d in durations if float(as_text(d)) in rooms.values())
    if sorted(seen) != sorted((room, kind) for room, kind, dummy in sent):
        r.problems.append(f"{len(sent)} different events were sent, {len(seen)} are known")
    if learnt != sorted(v for room, v in rooms.items() if room != lost):
        r.problems.append(f"durations learnt: {learnt}")
    acts = [e["kind"] for e in scene.cluster.log(r.at) if e["kind"] in ACTS]
    if acts:
        r.problems.append(f"something was done because of webhooks: {acts}")
