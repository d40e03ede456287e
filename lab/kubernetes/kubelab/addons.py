# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cluster is usually given beside Kubernetes itself: names, figures for autoscalers, and places for volumes."""
from __future__ import annotations

import functools
import typing as t

from . import processes, programs
from .api import Api
from .layout import DOMAIN, STORAGE_CLASS, Lab, Member

METRICS_PORT = 4443
VOLUMES = 4  # per node; a released one is not used again
SERVICES = "/api/v1/namespaces/kube-system/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"
APIS = "/apis/apiregistration.k8s.io/v1/apiservices"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
PERSISTENT = "/api/v1/persistentvolumes"


def commands(lab: Lab) -> dict[str, list[str]]:
    """Both run beside the control plane, so that a test which stops nodes does not stop them."""
    admin, control = lab.pki / "admin.kubeconfig", lab.control
    metrics = {
        "kubeconfig": admin, "authentication-kubeconfig": admin, "authorization-kubeconfig": admin, "kubelet-insecure-tls": "true",
        "kubelet-preferred-address-types": "InternalIP", "kubelet-use-node-status-port": "true", "metric-resolution": "10s",
        "kubelet-request-timeout": "5s", "bind-address": control.address, "secure-port": METRICS_PORT, "cert-dir": control.directory / "metrics",
    }
    return {
        "metrics-server": [programs.program("metrics-server"), *(f"--{flag}={value}" for flag, value in metrics.items())],
        "coredns": [programs.program("coredns"), "-quiet", "-conf", str(control.directory / "Corefile")],
    }


def corefile(lab: Lab) -> str:
    """Names of the cluster only: a lab has no way out, so that nothing can depend on one."""
    return f"""\
.:53 {{
    errors
    ready
    kubernetes {DOMAIN} in-addr.arpa {{
        kubeconfig {lab.pki}/admin.kubeconfig
        ttl 5
    }}
}}
"""


def metrics_objects(lab: Lab) -> list[tuple[str, dict[str, t.Any]]]:
    """How the API server finds metrics-server: (collection, object)."""
    name = {"name": "metrics-server", "namespace": "kube-system"}
    port = {"name": "https", "protocol": "TCP"}
    return [
        (SERVICES, {"apiVersion": "v1", "kind": "Service", "metadata": name, "spec": {"ports": [{**port, "port": 443, "targetPort": METRICS_PORT}]}}),
        (SLICES, {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{**port, "port": METRICS_PORT}],
            "metadata": {**name, "labels": {"kubernetes.io/service-name": "metrics-server"}},
            "endpoints": [{"addresses": [lab.control.address], "conditions": {"ready": True}}],
        }),
        (APIS, {
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
                     "insecureSkipTLSVerify": True, "service": name},
        }),
    ]


def storage_objects(members: t.Sequence[Member]) -> list[tuple[str, dict[str, t.Any]]]:
    """A storage class, the default one, and volumes in directories of the nodes."""
    objects: list[tuple[str, dict[str, t.Any]]] = [(CLASSES, {
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
        "metadata": {"name": STORAGE_CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    })]
    for member in members:
        here = [{"key": "kubernetes.io/hostname", "operator": "In", "values": [member.name]}]
        objects += [(PERSISTENT, {
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{member.name}-{number}"},
            "spec": {
                "capacity": {"storage": "8Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": STORAGE_CLASS, "local": {"path": str(volume(member, number))},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": here}]}},
            },
        }) for number in range(1, VOLUMES + 1)]
    return objects


def volume(member: Member, number: int) -> t.Any:
    return member.directory / "volumes" / str(number)


def make_volumes(member: Member) -> None:
    """Directories that a pod of any user can write to."""
    for number in range(1, VOLUMES + 1):
        volume(member, number).mkdir(parents=True, exist_ok=True)
        volume(member, number).chmod(0o777)


def start(lab: Lab, holder: int) -> None:
    (lab.control.directory / "Corefile").write_text(corefile(lab), encoding="utf-8")
    for name, command in commands(lab).items():
        processes.start(lab, f"control/{name}", *processes.inside(lab.control, holder), *command)


def apply(api: Api, objects: t.Sequence[tuple[str, dict[str, t.Any]]]) -> None:
    for path, item in objects:
        processes.wait(api.lab, f"{item['kind']} {item['metadata']['name']}", functools.partial(api.apply, path, item), "control/kube-apiserver")
