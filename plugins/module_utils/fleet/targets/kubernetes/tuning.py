# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel settings of the media nodes, as the role kernel sets them on hosts: a DaemonSet, only where it is asked for.

It is the one privileged pod of ours: nothing less may write the settings of a machine. It sets them once per start and then only waits.
Clusters whose nodes are made from an image or by cloud-init set them there and leave this out.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

from ... import slots
from .objects import Object, container_security, make, selector, without_empty
from .settings import Settings

BUFFER = 16777216  # bytes; LiveKit asks for as much
# A smaller value is raised, a larger one stays. As in roles/kernel, without what only a host of Redis needs.
RAISED = {
    "net.core.rmem_max": BUFFER, "net.core.wmem_max": BUFFER, "net.core.netdev_max_backlog": 10000, "net.core.somaxconn": 4096,
    "net.ipv4.udp_rmem_min": 16384, "net.ipv4.udp_wmem_min": 16384, "net.ipv4.tcp_max_syn_backlog": 4096, "fs.file-max": 1048576,
    "net.netfilter.nf_conntrack_max": 262144,
}
NAME = "livekit-tuning"
_RAISE = """\
raise() {
    path=/proc/sys/$(echo "$1" | tr . /)
    [ -e "$path" ] || return 0
    read -r now <"$path"
    [ "$now" -ge "$2" ] || echo "$2" >"$path"
}
"""


def reserved(layout: slots.Layout, turn: bool) -> str:
    """The ports of all slots as net.ipv4.ip_local_reserved_ports wants them: no outgoing connection takes one before its slot starts."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for dummy, first, last, use in layout.claims(turn) if use != "agent check")


def script(layout: slots.Layout, turn: bool) -> str:
    """Other reserved ports of the machine stay reserved."""
    lines = "".join(f"raise {name} {value}\n" for name, value in RAISED.items())
    path = "/proc/sys/net/ipv4/ip_local_reserved_ports"
    return f"{_RAISE}{lines}read -r now <{path} || now=\nours={reserved(layout, turn)}\n" \
           f'case "$now" in *"$ours"*) ;; *) echo "${{now:+$now,}}$ours" >{path} ;; esac\n'


def objects(settings: Settings, layout: slots.Layout, turn: bool) -> list[Object]:
    if not settings.tuning:
        return []
    image = {"image": settings.images.fleet, "imagePullPolicy": settings.pull_policy}
    once = {"name": "set", **image, "command": ["sh", "-ec", script(layout, turn)],
            "securityContext": {"privileged": True, "runAsUser": 0, "runAsNonRoot": False, "readOnlyRootFilesystem": True}}
    wait = {"name": "wait", **image, "command": ["sh", "-c", "trap exit TERM; sleep infinity & wait"], "securityContext": container_security(),
            "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}}}
    return [make("DaemonSet", NAME, settings.namespace, "tuning", spec={
        "selector": {"matchLabels": selector("tuning")},
        "template": {"metadata": {"labels": selector("tuning")}, "spec": without_empty({
            "hostNetwork": True,
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": dict(settings.node_selector),
            "tolerations": list(settings.tolerations),
            "imagePullSecrets": [{"name": name} for name in settings.pull_secrets],
            "securityContext": {"runAsNonRoot": True, "runAsUser": settings.user, "seccompProfile": {"type": "RuntimeDefault"}},
            "initContainers": [once],
            "containers": [wait],
        })},
    })]
