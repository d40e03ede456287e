# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Redis of our own in the cluster: one pod, or three with Sentinel. For one that exists set livekit_redis and leave mode at external.

Each pod works out at its start who is primary: the Sentinels say so, and at the very first start it is the first pod. Names, not
addresses, are announced, as pods change theirs. The password comes as a file; redis-cli gets it in the environment of one command.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from .objects import Object, container_security, hashed, make, pod_security, secret, selector, without_empty
from .settings import Settings

COMPONENT = "redis"
NAME = "livekit-redis"
PORT, SENTINEL_PORT = 6379, 26379
MASTER = "livekit"
FILES, DATA = "/etc/livekit-redis", "/data"
SENTINELS = 3

# ME: the name of this pod; PEERS: those of all, the first one first; QUORUM: 0 without Sentinel. A Sentinel may still name this pod while another
# one has just been promoted, so that one is looked for too. After the whole cluster was down, what Sentinel wrote down last counts.
_PRIMARY = f"""\
set -eu
REDISCLI_AUTH=$(cat {FILES}/password)
export REDISCLI_AUTH
primary=
if [ "$QUORUM" -gt 0 ]; then
    for peer in $PEERS; do
        primary=$(timeout 2 redis-cli -h "$peer" -p {SENTINEL_PORT} sentinel get-master-addr-by-name {MASTER} 2>/dev/null | head -n 1)
        case "$primary" in *' '*) primary= ;; ?*) break ;; esac
    done
    if [ -z "$primary" ] || [ "$primary" = "$ME" ]; then
        for peer in $PEERS; do
            [ "$peer" != "$ME" ] || continue
            case "$(timeout 2 redis-cli -h "$peer" -p {PORT} role 2>/dev/null | head -n 1)" in master) primary=$peer; break ;; esac
        done
    fi
    [ -n "$primary" ] || [ ! -s {DATA}/sentinel.conf ] || primary=$(sed -n 's/^sentinel monitor {MASTER} \\([^ ]*\\) .*/\\1/p' {DATA}/sentinel.conf)
fi
[ -n "$primary" ] || primary=${{PEERS%% *}}
"""
REDIS_START = _PRIMARY + f"""\
cp {FILES}/redis.conf {DATA}/redis.conf
[ "$QUORUM" -eq 0 ] || echo "replica-announce-ip $ME" >>{DATA}/redis.conf
[ "$primary" = "$ME" ] || echo "replicaof $primary {PORT}" >>{DATA}/redis.conf
unset REDISCLI_AUTH
exec redis-server {DATA}/redis.conf
"""
# Sentinel writes down what it knows of the others; kept in the volume, so that it still knows them after a restart. Only passwords come anew.
SENTINEL_START = _PRIMARY + f"""\
{{
    if [ -s {DATA}/sentinel.conf ]; then
        grep -v -e '^requirepass ' -e '^sentinel sentinel-pass ' -e '^sentinel auth-pass ' {DATA}/sentinel.conf
    else
        cat {FILES}/sentinel.conf
        echo "sentinel announce-ip $ME"
        echo "sentinel monitor {MASTER} $primary {PORT} $QUORUM"
        cat {FILES}/monitor.conf
    fi
    cat {FILES}/passwords.conf
}} >{DATA}/sentinel.conf.new
mv {DATA}/sentinel.conf.new {DATA}/sentinel.conf
unset REDISCLI_AUTH
exec redis-server {DATA}/sentinel.conf --sentinel
"""


def hosts(settings: Settings) -> list[str]:
    """DNS names of the pods."""
    count = SENTINELS if settings.redis.mode == "sentinel" else 1
    return [f"{NAME}-{number}.{NAME}.{settings.namespace}.svc" for number in range(count)]


def section(settings: Settings) -> dict[str, t.Any]:
    """LiveKit's section `redis` for it."""
    if settings.redis.mode == "standalone":
        return {"address": f"{hosts(settings)[0]}:{PORT}", "password": settings.redis.password}
    return {"sentinel_master_name": MASTER, "sentinel_addresses": [f"{host}:{SENTINEL_PORT}" for host in hosts(settings)],
            "sentinel_password": settings.redis.password, "password": settings.redis.password}


def files(settings: Settings) -> dict[str, str]:
    password, sentinel = settings.redis.password, settings.redis.mode == "sentinel"
    redis = {"port": PORT, "bind": "* -::*", "protected-mode": "yes", "dir": DATA, "requirepass": password, "masterauth": password, "appendonly": "yes",
             "appendfsync": "everysec", "maxmemory": settings.redis.maxmemory, "maxmemory-policy": "noeviction", "tcp-keepalive": 60}
    watch = {"down-after-milliseconds": 5000, "failover-timeout": 10000, "parallel-syncs": 1}
    own = {"port": SENTINEL_PORT, "bind": "* -::*", "dir": DATA, "sentinel resolve-hostnames": "yes", "sentinel announce-hostnames": "yes"}
    passwords = {"requirepass": password, "sentinel sentinel-pass": password, f"sentinel auth-pass {MASTER}": password}
    found = {"password": password, "redis.conf": _lines(redis), "redis.sh": REDIS_START}
    if sentinel:
        found |= {"sentinel.conf": _lines(own), "monitor.conf": "".join(f"sentinel {key} {MASTER} {value}\n" for key, value in watch.items()),
                  "passwords.conf": _lines(passwords), "sentinel.sh": SENTINEL_START}
    return found


def _lines(values: t.Mapping[str, t.Any]) -> str:
    return "".join(f"{key} {value}\n" for key, value in values.items())


def objects(settings: Settings) -> list[Object]:
    """[Secret, Service, PodDisruptionBudget, StatefulSet]; [] where Redis is somewhere else."""
    if settings.redis.mode == "external":
        return []
    kept, namespace = files(settings), settings.namespace
    ports = [{"name": "redis", "port": PORT, "targetPort": "redis"}]
    if settings.redis.mode == "sentinel":
        ports.append({"name": "sentinel", "port": SENTINEL_PORT, "targetPort": "sentinel"})
    budget = {"selector": {"matchLabels": selector(COMPONENT)}, "maxUnavailable": 1}
    return [
        secret(hashed(NAME, kept), namespace, COMPONENT, kept),
        # Pods find each other before they are ready: who is primary has to be known for that.
        make("Service", NAME, namespace, COMPONENT, spec={"clusterIP": "None", "publishNotReadyAddresses": True, "selector": selector(COMPONENT),
                                                          "ports": ports}),
        make("PodDisruptionBudget", NAME, namespace, COMPONENT, spec=budget),
        _set(settings, hashed(NAME, kept)),
    ]


def _set(settings: Settings, kept: str) -> Object:
    sentinel = settings.redis.mode == "sentinel"
    apart = {"labelSelector": {"matchLabels": selector(COMPONENT)}, "topologyKey": "kubernetes.io/hostname"}
    containers = [_container(settings, "redis", PORT)] + ([_container(settings, "sentinel", SENTINEL_PORT)] if sentinel else [])
    claim = without_empty({"accessModes": ["ReadWriteOnce"], "storageClassName": settings.redis.storage_class,
                           "resources": {"requests": {"storage": settings.redis.size}}})
    return make("StatefulSet", NAME, settings.namespace, COMPONENT, spec={
        "serviceName": NAME,
        "replicas": len(hosts(settings)),
        "podManagementPolicy": "OrderedReady",
        "selector": {"matchLabels": selector(COMPONENT)},
        "template": {"metadata": {"labels": selector(COMPONENT)}, "spec": without_empty({
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 30,
            "imagePullSecrets": [{"name": name} for name in settings.pull_secrets],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}} if sentinel else None,
            "securityContext": {**pod_security(settings.user), "fsGroupChangePolicy": "OnRootMismatch"},
            "containers": containers,
            "volumes": [{"name": "config", "secret": {"secretName": kept, "defaultMode": 0o440}}],
        })},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
    })


def _container(settings: Settings, what: str, port: int) -> Object:
    ping = f'REDISCLI_AUTH=$(cat {FILES}/password) redis-cli -p {port} ping | grep -q PONG'
    return without_empty({
        "name": what,
        "image": settings.images.redis,
        "imagePullPolicy": settings.pull_policy,
        "command": ["sh", f"{FILES}/{what}.sh"],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                {"name": "ME", "value": f"$(POD).{NAME}.{settings.namespace}.svc"},
                {"name": "PEERS", "value": " ".join(hosts(settings))},
                {"name": "QUORUM", "value": str(SENTINELS // 2 + 1 if settings.redis.mode == "sentinel" else 0)}],
        "ports": [{"name": what, "containerPort": port, "protocol": "TCP"}],
        "readinessProbe": {"exec": {"command": ["sh", "-c", ping]}, "periodSeconds": 2, "timeoutSeconds": 3, "failureThreshold": 3},
        "resources": dict(settings.resources.redis),
        "securityContext": container_security(),
        "volumeMounts": [{"name": "config", "mountPath": FILES, "readOnly": True}, {"name": "data", "mountPath": DATA}],
    })
