# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes as pods of this machine: the target `kubernetes`. Runtime and shelf in one, as labels and annotations are all that is kept here.

What there is to be, the API tells; what really runs, the processes of this machine do. Both are asked, so a crash shows as fast as on a
host, a fence is a signal and no request, and an API that is away hides neither. Nothing is started here: Deployments do that.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import os
import typing as t

from ..errors import FleetError
from ..targets.kubernetes import cluster as c
from ..targets.kubernetes.api import MERGE, Api
from ..targets.kubernetes.mirror import Mirror
from ..targets.kubernetes.objects import COMPONENT, SERVING, VERSION
from ..targets.kubernetes.plan import pod_slot, trouble
from . import Running, processes

SERVERS = f"app.kubernetes.io/name=livekit,{COMPONENT}=server"


class Pods:
    """The pods of one machine. keys: {API key: secret} of the deployment, as far as it may be known here."""

    def __init__(self, namespace: str, node: str, keys: t.Mapping[str, str] | None = None, connect: t.Callable[[float], Api] = Api.in_pod,
                 inits: processes.Inits | None = None) -> None:
        self.namespace, self.node, self._keys = namespace, node, dict(keys or {})
        self.pods = Mirror(connect, f"/api/v1/namespaces/{namespace}/pods", SERVERS, f"spec.nodeName={node}")
        self.deployments = Mirror(connect, f"/apis/apps/v1/namespaces/{namespace}/deployments", SERVERS)
        self.inits = inits or own_inits()

    # -- reading

    def look(self, numbers: t.Sequence[int]) -> dict[int, Running]:
        marks = self._marks()
        found = {n: self._running(n, pod, pid, marks) for n, (pid, pod) in self._slots().items()}
        return {n: running for n, running in found.items() if n in numbers or running.state not in ("inactive", "failed")}

    def _slots(self) -> dict[int, tuple[int | None, c.Row]]:
        """{slot: (process id of the init, pod)}. Of several pods in a slot the one that runs, else the one that is to."""
        rows = [pod for pod in self.pods.rows() if c.slot_of(pod)]
        inits = self.running(rows)
        told = sorted(((inits.get(str(pod["metadata"]["uid"])), pod) for pod in rows),
                      key=lambda one: (one[0] is not None, not one[1]["metadata"].get("deletionTimestamp"), one[1]["metadata"].get("creationTimestamp") or ""))
        return {c.slot_of(pod): (pid, pod) for pid, pod in told}

    def running(self, rows: t.Iterable[c.Row]) -> dict[str, int]:
        """{uid of a pod: process id of its init}."""
        return self.inits.find({str(pod["metadata"]["uid"]) for pod in rows if not c.over(pod)})

    def _running(self, n: int, pod: c.Row, pid: int | None, marks: t.Mapping[str, t.Mapping[str, str]]) -> Running:
        seen = pod_slot(n, pod, marks)
        return Running(state_of(pod, pid), pid, seen.enabled, seen.since, seen.state_since, c.labels(pod).get(VERSION))

    def _marks(self) -> dict[str, dict[str, str]]:
        return {c.name(row): c.notes(row) for row in self.deployments.rows() if not row["metadata"].get("deletionTimestamp")}

    def _find(self, n: int) -> tuple[int | None, c.Row | None]:
        return self._slots().get(n, (None, None))

    def state(self, n: int) -> str:
        pid, pod = self._find(n)
        return state_of(pod, pid) if pod else "inactive"

    def pid(self, n: int) -> int | None:
        return self._find(n)[0]

    def log(self, n: int, lines: int) -> list[str]:
        pod = self._find(n)[1]
        return self.pods.api().text(f"{self._path(pod)}/log?tailLines={lines}").splitlines() if pod else []

    def about(self) -> dict[str, t.Any]:
        return {}

    # -- doing

    def stop(self, n: int) -> None:
        """The kubelet sends SIGTERM, and SIGKILL no sooner than the pod's grace is over. Its uid keeps a successor of that name out of it."""
        pod = self._find(n)[1]
        if pod is None:
            return
        try:
            self.pods.put(self.pods.api().ask("DELETE", self._path(pod), _options(pod)))
        except FleetError as exc:
            if exc.failure["code"] not in ("not_found", "conflict"):  # it has gone
                raise

    def enable(self, n: int) -> None:
        """That is its Deployment's annotation, which whoever made it sets."""

    def disable(self, n: int) -> None:
        """A pod that was deleted never comes back."""

    def kill(self, n: int, pid: int | None = None) -> tuple[bool, str]:
        want = pid or self.pid(n)
        return processes.kill(want, lambda: self.pid(n) == want) if want else (True, "")

    def clear(self, n: int) -> None:
        """Nothing failed stays: the Deployment sees to that."""

    def require(self, n: int, version: str) -> None:
        raise _elsewhere("write a generation", n)

    def lay(self, n: int, generation: str, version: str) -> dict[str, str]:
        raise _elsewhere("write a generation", n)

    def link(self, folder: str, version: str) -> None:
        pass

    def check(self, n: int) -> tuple[int, str, str]:
        raise _elsewhere("check a configuration", n)

    def start(self, n: int) -> None:
        raise _elsewhere("start a node", n)

    # -- what is kept

    def facts(self, n: int) -> dict[str, t.Any]:
        pod = self._find(n)[1]
        if pod is None:
            return {}
        seen = pod_slot(n, pod, self._marks())
        return {"generation": seen.generation, "version": seen.version, "gate": seen.gate, "served_at": seen.served_at, "rolled_back": seen.rolled_back}

    def marks(self, numbers: t.Iterable[int]) -> t.Any:
        return self.deployments.changes

    def set_gate(self, n: int, generation: str | None) -> None:
        """The label `serving`: Services select it, and executors beside HAProxy add what has it."""
        pod = self._find(n)[1]
        if pod is None or (generation and c.generation_of(pod) != generation):
            return
        # A patch that names another uid is refused, so no successor of that name is marked.
        patch = {"metadata": {"uid": pod["metadata"]["uid"], "labels": {SERVING: "true" if generation else None}}}
        self.pods.put(self.pods.api().ask("PATCH", self._path(pod), patch, kind=MERGE))

    def write(self, n: int, generation: str, version: str, files: t.Mapping[str, str], link: t.Callable[[str], None]) -> None:
        raise _elsewhere("write a generation", n)

    def config_text(self, n: int) -> str:
        return ""

    def model(self, n: int) -> dict[str, t.Any]:
        return {}

    def keys(self, n: int) -> dict[str, str]:
        return dict(self._keys)

    def _path(self, pod: c.Row) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{c.name(pod)}"


def state_of(pod: c.Row, pid: int | None) -> str:
    """What systemd would call it. Its process tells more than its conditions, which are some seconds old and never come while the API is away."""
    leaves = bool(pod["metadata"].get("deletionTimestamp"))
    if pid is not None:
        return "deactivating" if leaves or processes.told(pid) else "active"
    if leaves or c.over(pod):
        return "inactive"
    return "failed" if trouble(pod) else "activating"


def _options(pod: c.Row) -> dict[str, t.Any]:
    return {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": pod["metadata"]["uid"]}}


def own_inits() -> processes.Inits:
    """FleetError host_pid where the processes of the machine cannot be seen."""
    if os.getpid() == 1:
        raise FleetError("look at the nodes of this machine", "this pod", "it sees its own processes only", "Set hostPID: true, as the role kubernetes does",
                         code="host_pid")
    return processes.Inits()


def _elsewhere(what: str, n: int) -> FleetError:
    return FleetError(what, f"slot {n}", "nodes are pods here, and a generation is a Deployment and its Secret", "Run openrtc.livekit.deploy or upgrade",
                      code="not_here", slot=n)


class Pulse:
    """What the executor watches several times a second: every change of a pod, and of its process. Asks nobody but the kernel."""

    def __init__(self, pods: Pods) -> None:
        self.pods = pods

    def __call__(self) -> dict[str, str]:
        """{pod: something that differs after each change}; raises FleetError before the API was reached for the first time."""
        rows = self.pods.pods.rows()
        inits = self.pods.running(rows)
        out = {}
        for row in rows:
            pid = inits.get(str(row["metadata"]["uid"]))
            out[c.name(row)] = f"{row['metadata'].get('resourceVersion')} {pid} {bool(pid and processes.told(pid))}"
        return out
