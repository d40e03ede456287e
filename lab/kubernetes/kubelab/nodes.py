# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node: containerd, kubelet and kube-proxy inside a member's namespaces, with its own store of images and its own control group."""
from __future__ import annotations

import json
import pathlib
import shutil
import socket
import typing as t

from common import LabError

from . import processes, programs, seed
from .layout import DOMAIN, Member

CNI = "/usr/lib/cni"


def containerd_config(member: Member) -> str:
    return f"""\
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/{programs.PAUSE}"
  # A lab machine may lack the right to lower scores, and without it no pod would start.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI}"
    conf_dir = "{member.directory}/cni"
"""


def cni_config(member: Member) -> dict[str, t.Any]:
    return {
        "cniVersion": "0.4.0", "name": "lab", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True,
             "ipam": {"type": "host-local", "ranges": [[{"subnet": str(member.pods)}]], "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def kubelet_config(member: Member) -> dict[str, t.Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": member.address, "cgroupRoot": f"/{member.cgroup}", "cgroupDriver": "cgroupfs", "failCgroupV1": False, "failSwapOn": False,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock", "oomScoreAdj": 0, "maxPods": member.pods.num_addresses - 4,
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": str(member.lab.pki / "ca.crt")}},
        "authorization": {"mode": "Webhook"}, "clusterDNS": [member.lab.control.address], "clusterDomain": DOMAIN,
        "resolvConf": str(member.directory / "resolv.conf"), "enforceNodeAllocatable": ["pods"],
        # A full disk of the machine is no reason to throw pods or images out, which could not be pulled again.
        "imageGCHighThresholdPercent": 100, "evictionHard": {name: "0%" for name in ("nodefs.available", "imagefs.available", "nodefs.inodesFree")},
    }


def proxy_config(member: Member) -> dict[str, t.Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables", "hostnameOverride": member.name,
        "clientConnection": {"kubeconfig": str(member.lab.pki / "kube-proxy.kubeconfig")}, "clusterCIDR": str(member.lab.pods),
        "bindAddress": member.address, "metricsBindAddress": "127.0.0.1:10249", "iptables": {"minSyncPeriod": "100ms"},
        # Limits of connections are the machine's.
        "conntrack": {"maxPerCore": 0, "min": 0},
    }


def make_cgroups(member: Member) -> None:
    """The control group its pods live under. With version 1 one per controller, and a new cpuset may use nothing until told."""
    for top in processes.hierarchies():
        group = top / member.cgroup
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if top.name == "cpuset":
                (group / name).write_text((top / name).read_text(encoding="ascii"), encoding="ascii")


def lay_out(member: Member, images: pathlib.Path) -> None:
    """Everything a node has on its disk before its programs start."""
    here = member.directory
    for name in ("cni", "volumes"):
        (here / name).mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("containerd.toml", containerd_config(member)), ("cni/10-lab.conflist", json.dumps(cni_config(member))),
        ("kubelet.json", json.dumps(kubelet_config(member))), ("kube-proxy.json", json.dumps(proxy_config(member))),
        ("resolv.conf", f"nameserver {member.lab.control.address}\n"),
    ):
        (here / name).write_text(content, encoding="utf-8")
    store = here / "var-lib" / "containerd"
    if not store.exists():
        seed.copy(images, store)


def commands(member: Member) -> dict[str, list[str]]:
    here = member.directory
    return {
        "containerd": ["containerd", "--config", str(here / "containerd.toml")],
        "kubelet": [
            programs.program("kubelet"), f"--config={here}/kubelet.json", f"--kubeconfig={member.kubeconfig}",
            f"--hostname-override={member.name}", f"--node-ip={member.address}",
        ],
        "kube-proxy": [programs.program("kube-proxy"), f"--config={here}/kube-proxy.json"],
    }


def start(member: Member, holder: int, *names: str) -> None:
    """Start the named programs of a node (all without a name); they are ready when the node is."""
    for name, command in commands(member).items():
        if names and name not in names:
            continue
        processes.start(member.lab, f"{member.name}/{name}", *processes.inside(member, holder), *command)
        if name == "containerd":
            path = member.directory / "run" / "containerd" / "containerd.sock"
            processes.wait(member.lab, f"containerd of {member.name}", lambda: answers(path), f"{member.name}/containerd", timeout=30)


def answers(path: pathlib.Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
        return True


def check_tools() -> None:
    missing = [name for name in ("containerd", "ctr", "runc", "ip", "iptables", "nsenter", "unshare", "openssl") if not shutil.which(name, path=processes.PATH)]
    missing += [f"{CNI}/{name}" for name in ("bridge", "host-local", "loopback", "portmap") if not pathlib.Path(CNI, name).exists()]
    if missing:
        raise LabError(f"{', '.join(missing)} not found; run lab/bootstrap --with containerd containernetworking-plugins iptables iproute2 openssl")
