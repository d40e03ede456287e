# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deployments as LiveKit's generator and its Helm chart leave them, written for these tests."""
from __future__ import annotations

import base64
import copy
import gzip
import json

import yaml
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.adoption.folder import Folder

SECRET = "k3pTq9ZxVb7LmN2sWd5RfYhJcG8uA4eQiB6o"
HERE = "/opt/livekit"

LIVEKIT = """
port: 7880
bind_addresses:
    - ""
rtc:
    tcp_port: 7881
    port_range_start: 50000
    port_range_end: 60000
    use_external_ip: true
    enable_loopback_candidate: false
redis:
    address: localhost:6379
    username: ""
    password: ""
    db: 0
    use_tls: false
    sentinel_master_name: ""
    sentinel_addresses: []
    cluster_addresses: []
    max_redirects: null
turn:
    enabled: true
    domain: turn.calls.example.net
    cert_file: ""
    key_file: ""
    tls_port: 5349
    udp_port: 3478
    external_tls: true
room:
    empty_timeout: 600
webhook:
    urls: [https://app.example.net/hooks]
    api_key: APIw7example
keys:
    APIw7example: k3pTq9ZxVb7LmN2sWd5RfYhJcG8uA4eQiB6o
"""

CADDY = """
storage:
  module: file_system
  root: /data
apps:
  tls:
    certificates:
      automate: [calls.example.net, turn.calls.example.net]
  layer4:
    servers:
      main:
        listen: [":443"]
        routes:
          # TURN/TLS
          - match:
              - tls:
                  sni: ["turn.calls.example.net"]
            handle:
              - handler: tls
              - handler: proxy
                upstreams:
                  - dial: ["192.0.2.10:5349"]
          - match:
              - tls:
                  sni: ["calls.example.net"]
            handle:
              - handler: tls
                connection_policies:
                  - alpn: ["http/1.1"]
              - handler: proxy
                upstreams:
                  - dial:
                      - localhost:7880
"""

COMPOSE = """
services:
  caddy:
    image: livekit/caddyl4
    command: run --config /etc/caddy.yaml --adapter yaml
    restart: unless-stopped
    network_mode: "host"
    volumes: ["./caddy.yaml:/etc/caddy.yaml", "./caddy_data:/data"]
  livekit:
    image: livekit/livekit-server:${LIVEKIT_TAG:-latest}
    command: --config /etc/livekit.yaml
    restart: unless-stopped
    network_mode: "host"
    volumes:
      - ./livekit.yaml:/etc/livekit.yaml
  redis:
    image: redis:7-alpine
    command: redis-server /etc/redis.conf
    network_mode: "host"
  egress:
    image: livekit/egress:latest
    network_mode: "host"
"""

EGRESS = "ws_url: ws://localhost:7880\napi_key: APIw7example\n"


def container(service, image, number=1, **more):
    return {
        "Id": f"{number:064x}", "Name": f"/livekit-{service}-1", "Path": "/livekit-server", "Args": ["--config", "/etc/livekit.yaml"],
        "Config": {"Image": image, "Env": ["PATH=/usr/bin"], "Labels": {"com.docker.compose.service": service}},
        "HostConfig": {"NetworkMode": "host", "RestartPolicy": {"Name": "unless-stopped"}},
        "Mounts": [{"Type": "bind", "Source": f"{HERE}/livekit.yaml", "Destination": "/etc/livekit.yaml"}],
        "State": {"Status": "running", "Pid": 4242, "StartedAt": "2026-10-01T10:00:00.5Z"}, **more}


def folder(livekit=LIVEKIT, compose=COMPOSE, running=True, **more):
    documents = {"docker-compose.yaml": compose, "livekit.yaml": livekit, "caddy.yaml": CADDY, "egress.yaml": EGRESS}
    containers = [container("livekit", "livekit/livekit-server:latest"), container("egress", "livekit/egress:latest", 2)] if running else []
    given = {"path": HERE, "documents": {name: yaml.safe_load(text) for name, text in documents.items()}, "containers": containers,
             "versions": {f"{1:064x}": "1.13.4"} if running else {}, "listening": [["tcp", 443], ["tcp", 7880], ["tcp", 6379]], "vcpus": 4}
    return Folder(**{**given, **more})


# --- the chart --------------------------------------------------------------------------------------------------------

VALUES = {
    "replicaCount": 3,
    "terminationGracePeriodSeconds": 18000,
    "livekit": {
        "rtc": {"use_external_ip": True},
        "redis": {"address": "redis.data.svc:6379", "password": "example-redis-password"},
        "keys": {"APIw7example": SECRET},
        "turn": {"enabled": True, "domain": "turn.calls.example.net", "tls_port": 3478, "udp_port": 443, "secretName": "turn-tls",
                 "serviceType": "LoadBalancer", "loadBalancerAnnotations": {"example.net/pool": "blue"}},
        "room": {"empty_timeout": 900},
        "prometheus_port": 6789,
    },
    "loadBalancer": {"type": "do", "clusterIssuer": "letsencrypt", "tls": [{"hosts": ["calls.example.net"], "secretName": "calls-tls"}]},
    "nodeSelector": {"media": "yes"},
    "resources": {"requests": {"cpu": "3500m"}, "limits": {"cpu": "4", "memory": "4Gi"}},
}


def labels(**more):
    return {"app.kubernetes.io/instance": "calls", "app.kubernetes.io/name": "livekit-server", **more}


def release_objects(values=None, config=None, **deployment):
    """What the API has of a release: the same LiveKit configuration as in the values unless another is given."""
    values = VALUES if values is None else values
    chart = {"port": 7880, "log_level": "info", "rtc": {"tcp_port": 7881, "port_range_start": 50000, "port_range_end": 60000, "use_external_ip": True}}
    made = {**chart, **copy.deepcopy(values["livekit"]), "rtc": {**chart["rtc"], **values["livekit"].get("rtc", {})}}
    pod = {"hostNetwork": True, "nodeSelector": {"media": "yes"}, "containers": [{
        "name": "livekit-server", "image": "livekit/livekit-server:v1.9.0", "args": ["--disable-strict-config"],
        "env": [{"name": "LIVEKIT_CONFIG", "valueFrom": {"configMapKeyRef": {"name": "calls-livekit-server", "key": "config.yaml"}}},
                {"name": "LIVEKIT_TURN_CERT", "value": "/etc/lkcert/tls.crt"}],
        "resources": values.get("resources", {})}], **deployment}
    packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(
        {"config": values, "chart": {"metadata": {"appVersion": "v1.9.0"}}}).encode()))).decode()
    return [
        {"kind": "ConfigMap", "metadata": {"name": "calls-livekit-server", "labels": labels()}, "data": {"config.yaml": yaml.safe_dump(config or made)}},
        {"kind": "Deployment", "metadata": {"name": "calls-livekit-server", "labels": labels()}, "spec": {"replicas": 3, "template": {"spec": pod}}},
        {"kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "turn-tls"},
         "data": {"tls.crt": base64.b64encode(b"-----BEGIN CERTIFICATE-----\nexample\n").decode(),
                  "tls.key": base64.b64encode(b"-----BEGIN PRIVATE KEY-----\nexample\n").decode()}},
        {"kind": "Secret", "type": "helm.sh/release.v1", "metadata": {"name": "sh.helm.release.v1.calls.v2", "labels": {
            "owner": "helm", "name": "calls", "version": "2"}}, "data": {"release": packed}},
    ]
