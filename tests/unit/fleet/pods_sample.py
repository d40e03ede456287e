# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An API of Kubernetes for tests, with pods whose processes are real and run the real init: lists, watches, merge patches, deletions."""
from __future__ import annotations

import http.server
import json
import queue
import re
import threading
import time
import urllib.parse

import docker_sample
import kubernetes_sample

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.runtimes import processes
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.api import Api

KINDS = ("pods", "deployments", "nodes")


class Cluster(http.server.ThreadingHTTPServer):
    """objects: {kind: {name: object}}; done: what changed something, as (verb, name, body); refuse: status for every request, 0 for none."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects = {kind: {} for kind in KINDS}
        self.done, self.refuse, self.asked, self.version = [], 0, [], 0
        self.watchers, self.processes = [], {}
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def connect(self, timeout=2.0):
        return Api(f"http://127.0.0.1:{self.server_port}", timeout=timeout)

    def close(self):
        for events in list(self.watchers):
            events[1].put(None)
        self.shutdown()
        self.server_close()
        docker_sample.end(self.processes.values())

    def end_watches(self):
        for events in list(self.watchers):
            events[1].put(None)

    # -- what there is

    def put(self, kind, row, event=None):
        self.version += 1
        meta = row["metadata"]
        known = meta["name"] in self.objects[kind]
        meta["resourceVersion"] = str(self.version)
        meta.setdefault("uid", f"uid-{kind}-{meta['name']}-{self.version}")
        self.objects[kind][meta["name"]] = row
        if event == "DELETED":
            del self.objects[kind][meta["name"]]
        line = json.dumps({"type": event or ("MODIFIED" if known else "ADDED"), "object": row}).encode() + b"\n"
        for wanted, events in list(self.watchers):
            if wanted == kind:
                events.put(line)
        return row

    def add(self, slot, generation, on="node1", runs=True, program=("sleep", "60"), **more):
        """A pod, with a process where it runs. Returns its process id, 0 for none."""
        row = kubernetes_sample.pod(slot, generation, on, **more)
        row = self.put("pods", row)
        if runs:
            process = docker_sample.begin(program)
            self.processes[row["metadata"]["uid"]] = process
            return process.pid
        return 0

    def deploy(self, slot, generation, **more):
        return self.put("deployments", kubernetes_sample.deployment(slot, generation, **more))

    def pod(self, slot, generation, on="node1"):
        return self.objects["pods"].get(f"livekit-s{slot}-{generation}-{on}")

    def remove(self, kind, name):
        self.put(kind, self.objects[kind][name], "DELETED")

    # -- answers

    def listed(self, kind, query):
        terms = re.findall(r"([\w./-]+)(?:=([\w.-]+)| in \(([^)]*)\))", query.get("labelSelector", ""))
        wanted = {key: (one or several).split(",") for key, one, several in terms}
        node = query.get("fieldSelector", "").removeprefix("spec.nodeName=")
        return [row for row in self.objects[kind].values() if all(row["metadata"].get("labels", {}).get(key) in values for key, values in wanted.items())
                and (not node or row["spec"].get("nodeName") == node)]

    def change(self, method, kind, name, body):
        row = self.objects[kind].get(name)
        if row is None:
            return 404, {"message": f'{kind} "{name}" not found'}
        uid = (body or {}).get("preconditions", body.get("metadata", {})).get("uid")
        if uid and uid != row["metadata"]["uid"]:
            return 409, {"message": "Precondition failed: UID"}
        self.done.append((method, name, body))
        row = json.loads(json.dumps(row))
        if method == "DELETE":
            grace = row["spec"].get("terminationGracePeriodSeconds", 3720)
            ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + grace))
            row["metadata"].setdefault("deletionTimestamp", ends)
            row["metadata"].setdefault("deletionGracePeriodSeconds", grace)
            process = self.processes.get(row["metadata"]["uid"])
            if process:
                process.terminate()
        else:
            merge(row, {"metadata": {k: v for k, v in body.get("metadata", {}).items() if k != "uid"}})
        return 200, self.put(kind, row)


def merge(row, patch):
    for key, value in patch.items():
        if isinstance(value, dict):
            merge(row.setdefault(key, {}), value)
        elif value is None:
            row.pop(key, None)
        else:
            row[key] = value


class Inits(processes.Inits):
    """As on a machine, but that uids are found in the cluster's own table."""

    def __init__(self, cluster):
        super().__init__()
        self.cluster = cluster

    def _search(self, uids):
        return {uid: p.pid for uid, p in self.cluster.processes.items() if uid in uids and p.poll() is None}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536

    def do_GET(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        self.server.asked.append((self.command, url.path))
        found = re.fullmatch(r"/apis?/.*?/(pods|deployments|nodes)(?:/([^/]+))?(/log)?", url.path)
        if self.server.refuse or not found:
            self.tell(self.server.refuse or 404, {"message": "refused for the test"})
        elif found[3]:
            self.tell(200, "one\npassword: hunter2\n")
        elif found[2]:
            self.tell(*(self.server.change(self.command, found[1], found[2], body)))
        elif query.get("watch"):
            self.watch(found[1], query)
        else:
            self.tell(200, {"items": self.server.listed(found[1], query), "metadata": {"resourceVersion": str(self.server.version)}})

    do_PATCH = do_DELETE = do_GET

    def watch(self, kind, query):
        events = (kind, queue.Queue())
        self.server.watchers.append(events)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        while True:
            line = events[1].get()
            chunk = line or b""
            self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            self.wfile.flush()
            if not line:
                break
        self.server.watchers.remove(events)

    def tell(self, status, answer):
        raw = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args):
        pass


def until(check, timeout=5.0):
    end = time.monotonic() + timeout
    while not check() and time.monotonic() < end:
        time.sleep(0.02)
    return check()
