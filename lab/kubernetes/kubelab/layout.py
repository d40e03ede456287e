# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, addresses and places of a lab. Pure: nothing here looks at the machine."""
from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
import re
import typing as t
import zlib

from common import LabError

STATE = pathlib.Path("/var/cache/openrtc-lab/kubernetes")  # of root, on a disk: images live there
MAX_NODES = 8
API_PORT = 6443
DOMAIN = "cluster.local"
STORAGE_CLASS = "lab-local"


@dataclasses.dataclass(frozen=True)
class Member:
    """A machine of the lab: the control plane's (number 0) or a node (from 1)."""

    lab: Lab
    number: int

    @property
    def name(self) -> str:
        return f"node{self.number}" if self.number else "control"

    @property
    def address(self) -> str:
        return self.lab.at(10 + self.number)

    @property
    def link(self) -> str:
        """The machine's end of its cable; at most 15 characters."""
        return f"kv{self.lab.tag}{self.number}"

    @property
    def pods(self) -> ipaddress.IPv4Network:
        """The addresses of its pods."""
        return list(self.lab.pods.subnets(new_prefix=27))[self.number - 1]

    @property
    def cgroup(self) -> str:
        return f"{self.lab.cgroup_prefix}{self.name}"

    @property
    def directory(self) -> pathlib.Path:
        return self.lab.directory / self.name

    @property
    def kubeconfig(self) -> pathlib.Path:
        return self.lab.pki / f"{self.name}.kubeconfig"


@dataclasses.dataclass(frozen=True)
class Lab:
    """One cluster. subnet: x.y.z.0/24, .1 is this machine, .10 the control plane, nodes from .11 on."""

    name: str
    subnet: str
    nodes: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", self.name):
            raise LabError(f"{self.name!r} is no name for a lab: a-z, 0-9 and \"-\", at most 31 of them")
        if not re.fullmatch(r"(\d{1,3}\.){3}0/24", self.subnet):
            raise LabError(f"{self.subnet!r} is no subnet for a lab: it must end in .0/24")
        if not 1 <= self.nodes <= MAX_NODES:
            raise LabError(f"{self.nodes} nodes: a lab has 1 to {MAX_NODES}")

    def at(self, number: int) -> str:
        return f"{self.subnet.removesuffix('0/24')}{number}"

    @property
    def tag(self) -> str:
        """Eight hex digits that tell the interfaces of this lab from those of others."""
        return f"{zlib.crc32(self.name.encode()):08x}"

    @property
    def bridge(self) -> str:
        return f"kube{self.tag}"

    @property
    def machine(self) -> str:
        return self.at(1)

    @property
    def control(self) -> Member:
        return Member(self, 0)

    @property
    def members(self) -> list[Member]:
        """The nodes."""
        return [Member(self, number) for number in range(1, self.nodes + 1)]

    @property
    def server(self) -> str:
        return f"https://{self.control.address}:{API_PORT}"

    # 198.18.0.0/15 is set aside for laboratories (RFC 2544): no network that this machine is in has these addresses.
    @property
    def pods(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"198.18.{self.subnet.split('.')[2]}.0/24")

    @property
    def services(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"198.19.{self.subnet.split('.')[2]}.0/24")

    @property
    def cgroup_prefix(self) -> str:
        return f"openrtc-kube-{self.tag}-"

    @property
    def directory(self) -> pathlib.Path:
        return STATE / "labs" / self.name

    @property
    def pki(self) -> pathlib.Path:
        return self.directory / "pki"

    @property
    def log(self) -> pathlib.Path:
        return self.directory / "log"

    @property
    def parameters(self) -> pathlib.Path:
        return self.directory / "lab.json"

    @property
    def complete(self) -> pathlib.Path:
        """A file that is there once everything has come up."""
        return self.directory / "complete"

    def facts(self, kubectl: pathlib.Path, kubeconfig: pathlib.Path) -> dict[str, t.Any]:
        """What tests and playbooks need to know, for cluster.json."""
        return {
            "name": self.name, "server": self.server, "kubeconfig": str(kubeconfig), "kubectl": str(kubectl), "machine": self.machine,
            "subnet": self.subnet, "pods": str(self.pods), "services": str(self.services), "dns": self.control.address, "domain": DOMAIN,
            "storage_class": STORAGE_CLASS, "logs": str(self.log),
            "nodes": [{"name": member.name, "address": member.address} for member in self.members],
        }
