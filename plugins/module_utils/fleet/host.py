# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The slots of the host this runs on: read them, start, serve, drain and stop them. Thin: it executes, it never decides.

Each livekit-server gets at most one SIGTERM: drain() refuses a unit that is not active, and nothing here restarts one.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import http.client
import re
import time
import typing as t
import urllib.error
import urllib.request

from .config_checks import static_problems
from .errors import FleetError, raise_for
from .generation import Slot
from .runtimes import Running, Runtime, Shelf
from .runtimes.systemd import Run, Systemd
from .slot_files import SlotFiles, mask
from .slots import Layout

# A SIGTERM within 0.1 s after the first answer starts a drain that never ends (server.go: Start sets `running` late).
SETTLE = 0.5
_NODE_ID = re.compile(r'node_id="(ND_\w+)"')
_GAUGE = re.compile(r"^(livekit_room_total|livekit_participant_total)\{[^}]*\} (\S+)", re.M)


def http_get(url: str, timeout: float = 2.0) -> tuple[int | None, str]:
    """(status, body) of a GET; status None when nothing answered. No proxy: these are the host's own ports."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as exc:
        return exc.code, ""
    except http.client.HTTPException:  # something answers, but not in HTTP
        return 0, ""
    except (OSError, ValueError):
        return None, ""


class SlotHost:
    """The slots of this host. `run` executes a command and returns (rc, stdout, stderr), as AnsibleModule.run_command does.

    runtime: what runs their processes, units of systemd unless another is given; shelf: what is kept of their generations, files unless another is given.
    """

    def __init__(self, run: Run, layout: Layout, config_dir: str = "/etc/livekit/slots", state_dir: str = "/var/lib/livekit/slots",
                 opt_dir: str = "/opt/livekit", address: str = "127.0.0.1", group: str = "livekit", runtime: Runtime | None = None,
                 shelf: Shelf | None = None) -> None:
        self.run, self.layout, self.address = run, layout, address
        # run may be replaced later, so it is looked up at each call
        self.runtime: Runtime = runtime or Systemd(lambda command: self.run(command), config_dir, opt_dir)  # pylint: disable=unnecessary-lambda
        self.shelf: Shelf = shelf or SlotFiles(config_dir, state_dir, group)

    # -- reading -------------------------------------------------------------------------------------------------

    def observe(self, measure: bool = True) -> list[Slot]:
        """Every slot of the layout, and those beyond it that still run (a layout that shrank). Without `measure` no node is asked anything."""
        found = self.runtime.look(self.layout.numbers)
        numbers = sorted(set(self.layout.numbers) | set(found))
        return [self._observe(n, found.get(n, Running()), measure) for n in numbers]

    def _observe(self, n: int, found: Running, measure: bool = True) -> Slot:
        facts = self.shelf.facts(n)
        values: dict[str, t.Any] = {
            **facts, "slot": n, "state": found.state, "pid": found.pid, "version": found.version or facts.get("version"), "enabled": found.enabled}
        if found.pid:
            values.update(since=found.since, state_since=found.state_since, **(self.measure(n) if measure else {}))
        return Slot(**values)

    def measure(self, n: int, timeout: float = 2.0) -> dict[str, t.Any]:
        """{http, node_id, rooms, participants} as the node in slot n tells them itself."""
        ports = self.layout.ports(n)
        status = http_get(f"http://{self.address}:{ports.signal}/", timeout)[0]
        metrics = http_get(f"http://{self.address}:{ports.metrics}/metrics", timeout)[1] if status is not None else ""
        gauges = {name: int(float(value)) for name, value in _GAUGE.findall(metrics)}
        node = _NODE_ID.search(metrics)
        out: dict[str, t.Any] = {"http": status, "node_id": node[1] if node else None}
        if node:
            out["rooms"] = gauges.get("livekit_room_total", 0)
            out["participants"] = gauges.get("livekit_participant_total", 0)
        return out

    # -- doing ---------------------------------------------------------------------------------------------------

    def write(self, n: int, generation: str, version: str, files: t.Mapping[str, str]) -> None:
        """Lay down a generation in slot n, which must not run."""
        self.runtime.require(n, version)
        self.shelf.write(n, generation, version, {**files, **self.runtime.lay(n, generation, version)}, lambda folder: self.runtime.link(folder, version))

    def static_check(self, n: int) -> None:
        """Let the release itself read the configuration. Judged by its words: it exits 0 even on errors (facts 1.9)."""
        dummy, out, err = self.runtime.check(n)
        raise_for(static_problems(out + "\n" + err), f"slot {n}")

    def start(self, n: int) -> None:
        """Start the node. Its ports must be silent before: an answer would be that of somebody else."""
        ports = self.layout.ports(n)
        for port, what in ((ports.signal, "signalling"), (ports.metrics, "metrics")):
            if http_get(f"http://{self.address}:{port}/")[0] is not None:
                raise FleetError("start a node", f"slot {n}, port {port}", f"something else answers on its {what} port",
                                 "Free the port, or keep livekit_layout as it was while nodes run", code="port_taken", slot=n)
        self.runtime.start(n)

    def wait_ready(self, n: int, timeout: float, registered: t.Callable[[str], bool]) -> Slot:
        """Until the node answers 200 and `registered(node_id)` holds. Raises FleetError gate_http or gate_registry."""
        end, seen = time.monotonic() + timeout, {}
        while time.monotonic() < end:
            seen = self.measure(n)
            if seen["http"] == 200 and seen["node_id"] and self.runtime.state(n) == "active" and registered(seen["node_id"]):
                time.sleep(SETTLE)
                return next(s for s in self.observe() if s.slot == n)
            time.sleep(0.25)
        code = "gate_registry" if seen.get("http") == 200 and seen.get("node_id") else "gate_http"
        got = (f"node {seen['node_id']} answers but is not in the registry as SERVING" if code == "gate_registry"
               else f"GET / gave {seen.get('http') or 'no answer'} after {timeout:g} s")
        raise FleetError("bring up a node", f"slot {n}, port {self.layout.ports(n).signal}", got,
                         "See `log` for what the server said" if code == "gate_http" else "Check that the node reaches Redis and that the clocks agree",
                         code=code, slot=n, log=self.journal(n))

    def journal(self, n: int, lines: int = 25) -> list[str]:
        return [mask(line) for line in self.runtime.log(n, lines)]

    def serve(self, n: int, generation: str) -> None:
        """The generation passed: it starts at boot from now on, and the agent check lets the balancer in."""
        self.runtime.enable(n)
        self.shelf.set_gate(n, generation)

    def drain(self, n: int) -> bool:
        """One SIGTERM, only to a node that runs and has had none; False when there was nothing to signal. Returns at once."""
        self.runtime.disable(n)
        if self.runtime.state(n) not in ("active", "activating"):
            return False
        time.sleep(SETTLE)  # it may have answered for the first time just now
        self.runtime.stop(n)
        return True

    def fence(self, n: int, node_id: str, pid: int, timeout: float = 2.0) -> bool:
        """SIGKILL for the process `pid`, which the caller knows to be `node_id`, whether it hangs, drains or serves; never another signal.

        False when the slot does not run that process any more. Returns when the process is gone.
        """
        if self.runtime.pid(n) != pid:
            return False
        killed, why = self.runtime.kill(n, pid)
        end = time.monotonic() + timeout
        while self.runtime.pid(n) == pid:
            if not killed or time.monotonic() > end:
                raise FleetError("fence a node", f"{node_id} in slot {n}, process {pid}", why or f"it outlived SIGKILL by {timeout:g} s",
                                 "Look at the process on this host: it may wait for a disk; switch the host off if it does not end",
                                 code="fence_failed", slot=n)
            time.sleep(0.03)
        return killed

    def discard(self, n: int, timeout: float = 5.0) -> None:
        """End a node that did not pass its gates: one SIGTERM, then SIGKILL if it does not listen and nobody is on it.

        LiveKit may have placed rooms on it meanwhile, as it does on every node of the registry. Then it is left to drain.
        """
        facts = self.shelf.facts(n)
        if facts.get("gate") and facts["gate"] == facts.get("generation"):
            raise FleetError("discard a slot", f"slot {n}", "its generation passed the gates and may hold calls", "Drain it instead", code="slot_serving")
        if self.drain(n):
            end = time.monotonic() + timeout
            while time.monotonic() < end and self._active(n):
                time.sleep(0.2)
            if self._active(n) and not self.measure(n).get("participants"):
                self.runtime.kill(n)
        self.runtime.clear(n)

    def _active(self, n: int) -> bool:
        return self.runtime.state(n) not in ("inactive", "failed")
