# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs for an executor by the target: where the slots of its host are, what tells that something changed, how a neighbour ends.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from .balancers.haproxy_pool import Pool
from .executor_cluster import Doorkeeper, PoolKeeper, repeat
from .executor_watch import Units, patterns
from .host import Run, SlotHost
from .runtimes import docker_pulse, systemd
from .runtimes.docker import Docker
from .runtimes.docker_api import DockerApi
from .runtimes.pods import Pods, Pulse
from .slots import Layout
from .targets import compose

if t.TYPE_CHECKING:
    from .executor import Executor
    from .executor_settings import Settings

States = t.Callable[[], t.Mapping[str, str]]


class Native:
    """Where this host's nodes and neighbours are units of systemd."""

    def __init__(self, settings: Settings, run: Run) -> None:
        self.settings, self.run = settings, run

    def host(self) -> SlotHost | None:
        s = self.settings
        return None if s.layout is None else SlotHost(self.run, Layout.from_mapping(s.layout), s.config_dir, s.state_dir, s.opt_dir, s.address)

    def units(self, near: t.Sequence[str]) -> States:
        names = patterns(near, self.settings.layout is not None)
        return Units(names) if names else dict

    def end(self, unit: str) -> bool:
        """One SIGTERM for a neighbour; False when it does not run."""
        return systemd.stop_unit(self.run, unit)

    def work(self, executor: Executor) -> list[tuple[str, t.Callable[[], None]]]:
        """What else an executor has to do here, each (name, what runs in a thread of its own until executor.stop is set)."""
        return []


class Containers(Native):
    """Where they are containers of Docker; a neighbour's `unit` is the name of its container."""

    def __init__(self, settings: Settings, run: Run) -> None:
        super().__init__(settings, run)
        self.compose = compose.Settings.from_mapping(settings.compose)
        self.api = DockerApi(self.compose.socket, timeout=2.0)

    def host(self) -> SlotHost | None:
        s = self.settings
        if s.layout is None:
            return None
        layout = Layout.from_mapping(s.layout)
        return SlotHost(self.run, layout, s.config_dir, s.state_dir, s.opt_dir, s.address,
                        runtime=Docker(self.run, layout, self.compose, s.config_dir, s.address, self.api, strict=False))

    def units(self, near: t.Sequence[str]) -> States:
        """A balancer that hosts neither asks nobody: its executor gets no socket of Docker."""
        return docker_pulse.Pulse(self.api, self.compose.project, near) if near or self.settings.layout is not None else dict

    def end(self, unit: str) -> bool:
        return docker_pulse.stop_container(self.api, unit)


class Cluster(Native):
    """Where nodes are pods of Kubernetes, and this is one too. Neighbours have Deployments of their own there, and are none of ours."""

    def __init__(self, settings: Settings, run: Run) -> None:
        super().__init__(settings, run)
        self.pods = Pods(settings.namespace, settings.host, settings.keys) if settings.layout is not None else None

    def host(self) -> SlotHost | None:
        if self.pods is None:
            return None
        return SlotHost(self.run, Layout.from_mapping(self.settings.layout), address=self.settings.address, runtime=self.pods, shelf=self.pods)

    def units(self, near: t.Sequence[str]) -> States:
        return Pulse(self.pods) if self.pods else dict

    def end(self, unit: str) -> bool:
        return False

    def work(self, executor: Executor) -> list[tuple[str, t.Callable[[], None]]]:
        s, pods, stop, log = self.settings, self.pods, executor.stop, executor.log
        found: list[tuple[str, t.Callable[[], None]]] = []

        def told(what: str) -> t.Callable[[str], None]:
            return lambda got: log(what, state="unseen" if got else "seen", **({"got": got} if got else {}))

        if pods and executor.hands.host:
            keeper = Doorkeeper(executor.hands.host, executor.watch.slots, s.redis, log)
            found += [("pods", lambda: pods.pods.keep(stop, told("pods"))), ("deployments", lambda: pods.deployments.keep(stop, told("deployments"))),
                      ("serving", lambda: repeat(stop, log, "serving", keeper.step))]
        if s.pool is not None and executor.hands.proxy:
            servers = PoolKeeper(Pool(executor.hands.proxy, Layout.from_mapping(s.pool)), s.redis, s.synced, log)
            found += [("servers", lambda: repeat(stop, log, "servers", servers.step))]
        return found


TARGETS: dict[str, type[Native]] = {"native": Native, "compose": Containers, "kubernetes": Cluster}
