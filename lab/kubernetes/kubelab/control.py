# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control plane: etcd, API server, controller manager and scheduler, on a member of its own."""
from __future__ import annotations

from . import processes, programs
from .api import Api
from .layout import API_PORT, Lab

ETCD = "http://127.0.0.1:2379"


def commands(lab: Lab) -> dict[str, list[str]]:
    """What runs, by name, in the order it is started."""
    control, pki = lab.control, lab.pki
    peer = "http://127.0.0.1:2380"
    # Nothing of a lab has to survive a power cut, so etcd need not wait for the disk.
    etcd = {
        "data-dir": control.directory / "etcd", "unsafe-no-fsync": "true", "listen-client-urls": ETCD, "advertise-client-urls": ETCD,
        "listen-peer-urls": peer, "initial-advertise-peer-urls": peer, "initial-cluster": f"default={peer}", "log-level": "warn",
    }
    apiserver = {
        "etcd-servers": ETCD, "bind-address": control.address, "advertise-address": control.address, "secure-port": API_PORT,
        "tls-cert-file": pki / "apiserver.crt", "tls-private-key-file": pki / "apiserver.key", "client-ca-file": pki / "ca.crt",
        "token-auth-file": pki / "tokens.csv", "authorization-mode": "Node,RBAC", "enable-admission-plugins": "NodeRestriction",
        "kubelet-client-certificate": pki / "kubelet-client.crt", "kubelet-client-key": pki / "kubelet-client.key",
        "kubelet-preferred-address-types": "InternalIP", "allow-privileged": "true",
        "service-account-issuer": "https://kubernetes.default.svc", "service-account-key-file": pki / "service-accounts.key",
        "service-account-signing-key-file": pki / "service-accounts.key", "service-cluster-ip-range": lab.services,
        # Aggregated APIs (metrics-server): reached at their endpoints, because no kube-proxy runs here.
        "enable-aggregator-routing": "true", "requestheader-client-ca-file": pki / "ca.crt", "requestheader-allowed-names": "front-proxy-client",
        "requestheader-username-headers": "X-Remote-User", "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": pki / "aggregator.crt", "proxy-client-key-file": pki / "aggregator.key",
    }
    manager = {
        "kubeconfig": pki / "kube-controller-manager.kubeconfig", "bind-address": "127.0.0.1", "leader-elect": "false",
        "service-account-private-key-file": pki / "service-accounts.key", "root-ca-file": pki / "ca.crt", "use-service-account-credentials": "true",
        # Its own limit of requests makes a new cluster wait for seconds; autoscalers are to be watched, not waited for.
        "kube-api-qps": 200, "kube-api-burst": 300, "horizontal-pod-autoscaler-sync-period": "5s",
        "horizontal-pod-autoscaler-initial-readiness-delay": "5s", "horizontal-pod-autoscaler-cpu-initialization-period": "15s",
    }
    scheduler = {"kubeconfig": pki / "kube-scheduler.kubeconfig", "bind-address": "127.0.0.1", "leader-elect": "false"}
    every = {"etcd": etcd, "kube-apiserver": apiserver, "kube-controller-manager": manager, "kube-scheduler": scheduler}
    return {name: [programs.program(name), *(f"--{flag}={value}" for flag, value in flags.items())] for name, flags in every.items()}


def start(lab: Lab, holder: int) -> Api:
    """Start all of it and wait until a pod could be made."""
    api = Api(lab)
    for name, command in commands(lab).items():
        if name == "kube-controller-manager":
            processes.wait(lab, "the API server", lambda: api.call("GET", "/readyz") is not None, "control/kube-apiserver", "control/etcd")
        processes.start(lab, f"control/{name}", *processes.inside(lab.control, holder), *command)
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    processes.wait(lab, "the controllers", lambda: api.call("GET", account) is not None, *(f"control/{name}" for name in commands(lab)))
    return api
