# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deployment and a cluster for the tests of the target Kubernetes: as its API would show them, as far as anybody looks."""
from __future__ import annotations

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config, slots
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets import kubernetes
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.targets.kubernetes.cluster import Cluster

SECRET = "a-secret-nobody-may-ever-see-in-a-text"
PEM = {"certificate": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
       "private_key": "-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\n"}
VARIABLES = {
    "livekit_version": "1.13.5",
    "livekit_keys": {"apikey": SECRET},
    "livekit_redis": {"address": "10.0.0.9:6379", "password": "pa:ss#word"},
    "livekit_public_url": "wss://livekit.example.org",
    "livekit_turn": {"enabled": True, "domain": "turn.example.org", **PEM},
}
LAYOUT = slots.Layout()
NEW, OLD = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


def model(**changes):
    return config.Model.from_vars({**VARIABLES, **{f"livekit_{name}": value for name, value in changes.items()}})


def settings(**changes):
    return kubernetes.Settings.from_vars({"tls": {"secret": "livekit-tls"}, "node_cidrs": ["10.0.0.0/24"], **changes})


def material(found=None, **changes):
    return kubernetes.Material(found or model(), settings(**changes), LAYOUT, VARIABLES)


def everything(**changes):
    """Every object there can be, with every part switched on."""
    chosen = settings(**{**dict(
        redis={"mode": "sentinel", "password": SECRET},
        autoscaling={"max": 5, "participants": 200, "rooms": 50, "tracks": 900, "bytes_per_second": 10**8, "adapter": True},
        tls={"secret": "livekit-tls", "issuer": "letsencrypt"}, ingress={"class_name": "nginx", "host": "livekit.example.org"}, gateway={"name": "edge"},
        tuning=True, monitoring={"kind": "pod", "labels": {"release": "prometheus"}}, turn={"type": "LoadBalancer", "cloud": "aws"},
        tolerations=[{"key": "media", "operator": "Exists"}], node_selector={"media": "yes"}, pull_secrets=["registry"]), **changes})
    found = model(redis={})
    made = kubernetes.Material(found, chosen, LAYOUT, VARIABLES)
    generation = kubernetes.desired(made, 2)
    scaler = kubernetes.autoscaling.objects(chosen, generation[1]["metadata"]["name"])[:1]
    return [*kubernetes.base(found, chosen, LAYOUT, "frontend in\n    bind :8443\n", {"user": "admin"}), *generation, *scaler]


def pick(objects, kind, name=None):
    """The one object of this kind (and name, or its beginning)."""
    (found,) = [o for o in objects if o["kind"] == kind and (name is None or o["metadata"]["name"] == name)]
    return found


# --- a cluster --------------------------------------------------------------------------------------------------------

def node(name, ready=True, cordoned=False, taints=(), address="10.0.0.1", **labels):
    return {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}}, "spec": {"unschedulable": cordoned, "taints": list(taints)},
            "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}], "addresses": [{"type": "InternalIP", "address": address}]}}


def own(slot, generation, version="1.13.5", **more):
    return {"app.kubernetes.io/name": "livekit", "app.kubernetes.io/component": "server", "app.kubernetes.io/managed-by": "openrtc.livekit",
            "openrtc.livekit/slot": str(slot), "openrtc.livekit/generation": generation, "openrtc.livekit/version": version, **more}


def pod(slot, generation, on=None, ready=True, serving=True, leaving=False, waiting=None, phase="Running", started="2026-01-01T00:00:00Z"):
    meta = {"name": f"livekit-s{slot}-{generation}-{on}", "namespace": "livekit",
            "labels": own(slot, generation, **({"openrtc.livekit/serving": "true"} if serving else {}))}
    if leaving:
        meta |= {"deletionTimestamp": "2026-01-01T02:02:00Z", "deletionGracePeriodSeconds": 3720}
    states = [{"name": "livekit", "state": {"waiting": waiting}}] if waiting else []
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    if on is None:
        conditions = [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: 3 node(s) didn't have free ports"}]
    return {"metadata": meta, "spec": {"nodeName": on, "volumes": [{"secret": {"secretName": f"livekit-s{slot}-{generation}"}}]},
            "status": {"phase": phase, "startTime": started, "conditions": conditions, "containerStatuses": states}}


def deployment(slot, generation, replicas=3, ready=3, gated=True, served_at="1000.5", version="1.13.5", revision="1"):
    notes = {"deployment.kubernetes.io/revision": revision, **({"openrtc.livekit/gate": generation, "openrtc.livekit/served-at": served_at} if gated else {})}
    return {"metadata": {"name": f"livekit-s{slot}-{generation}", "namespace": "livekit", "labels": own(slot, generation, version), "annotations": notes},
            "spec": {"replicas": replicas}, "status": {"readyReplicas": ready}}


def secret(slot, generation, served_at=None):
    notes = {"openrtc.livekit/served-at": served_at} if served_at else {}
    return {"metadata": {"name": f"livekit-s{slot}-{generation}", "namespace": "livekit", "labels": own(slot, generation), "annotations": notes}}


def cluster(**parts):
    nodes = [node(f"node{n}", address=f"10.0.0.{n}") for n in (1, 2, 3)]
    return Cluster(**{"nodes": nodes, **parts})


def serving(slot=1, generation=OLD, **more):
    """A cluster of three nodes on which one generation serves."""
    parts = {"deployments": [deployment(slot, generation)], "pods": [pod(slot, generation, f"node{n}") for n in (1, 2, 3)],
             "secrets": [secret(slot, generation, "1000.5")]}
    for name, rows in more.items():
        parts[name] = [*parts.get(name, []), *rows]
    return cluster(**parts)
