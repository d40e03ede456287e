#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: call_probe
short_description: Place a real call through LiveKit and measure it
version_added: 0.1.0
description:
  - Places one call of two. A participant publishes a tone, another one listens, and what counts is what is heard.
    A client that is connected without hearing anything makes the task fail.
  - The call takes place in a room of its own, which is deleted afterwards, also when the call fails.
    With O(node_id) that room is pinned to one node, which may be one that takes no other rooms at the moment.
  - Runs where the task runs, and media has to come through from there, so it usually is delegated to the control machine.
author: openrtc.livekit contributors (@openrtc)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - openrtc.livekit._api
attributes:
  check_mode:
    support: partial
    details: A call needs a room, so none is placed in check mode. The task is skipped and says so.
  diff_mode:
    support: none
  platform:
    platforms: posix
requirements:
  - livekit 1.2.0 (Python library with the native client)
options:
  node_id:
    description: Node (C(ND_...)) that has to host the call. The cluster chooses if not given.
    type: str
  node_ids:
    description: Several nodes, each of which has to host a call of its own. The calls run side by side in one process.
    type: list
    elements: str
  seconds:
    description: How long to listen, from the first sound on.
    type: float
    default: 2
  transport:
    description:
      - How media may go. V(any) leaves it to client and server.
      - V(relay) allows nothing but TURN. V(tcp) makes the server offer ICE/TCP only.
      - With V(relay), TURN/TLS works only with a certificate of a public CA, since the native client trusts no other there.
    type: str
    choices: [any, relay, tcp]
    default: any
  timeout:
    description: Seconds for the whole call.
    type: float
    default: 30
  ca_file:
    description: Certificate of a private CA to trust besides the system's, a PEM file on the host that the task runs on.
    type: path
  max_join_ms:
    description: Fail if one of the two took longer than this to join.
    type: int
  max_first_media_ms:
    description: Fail if the first sound came later than this, counted from the begin of joining.
    type: int
  max_gap_ms:
    description: Fail if there was a longer silence than this. Silences below 250 ms are not seen.
    type: int
  max_loss_percent:
    description: Fail if a greater share of the listener's packets was lost.
    type: float
  expect_transport:
    description: Fail if media came to the listener in none of these ways.
    type: list
    elements: str
    choices: [udp, tcp, turn/udp, turn/tcp, turn/tls]
notes:
  - A failed call is told by C(failure.code), one of C(probe_signal) (no connection to O(url)), C(probe_tls), C(probe_auth),
    C(probe_node) (no node O(node_id)), C(probe_room), C(probe_media) (joined, but no media), C(probe_relay), C(probe_drop),
    C(probe_timeout), C(probe_gate) (a limit of this task), C(probe_crash) and C(probe_argument).
  - The client runs in a process of its own and gets the secret through a pipe. HTTP proxies of the environment are not used.
seealso:
  - module: openrtc.livekit.node_info
  - module: openrtc.livekit.generation
"""

EXAMPLES = r"""
- name: Is the cluster fit for calls?
  openrtc.livekit.call_probe:
    url: "{{ livekit_public_url }}"
    api_key: "{{ livekit_keys.keys() | first }}"
    api_secret: "{{ livekit_keys.values() | first }}"
  delegate_to: localhost

- name: A call on each node, fast enough, and over UDP
  openrtc.livekit.call_probe:
    url: "{{ livekit_public_url }}"
    api_key: "{{ livekit_keys.keys() | first }}"
    api_secret: "{{ livekit_keys.values() | first }}"
    node_id: "{{ item.id }}"
    max_join_ms: 1000
    max_loss_percent: 1
    expect_transport: [udp]
  loop: "{{ cluster.nodes }}"
  loop_control:
    label: "{{ item.id }}"
  delegate_to: localhost

- name: Does TURN carry a call?
  openrtc.livekit.call_probe:
    url: "{{ livekit_public_url }}"
    api_key: "{{ livekit_keys.keys() | first }}"
    api_secret: "{{ livekit_keys.values() | first }}"
    transport: relay
  delegate_to: localhost
"""

RETURN = r"""
calls:
  description: Every call, in the order of O(node_ids), each like RV(call).
  returned: success
  type: list
  elements: dict
call:
  description: What the call was like; of several the first one, or the one that failed.
  returned: success, and on failure if the call got as far
  type: dict
  contains:
    ok:
      description: Whether it was a good call.
      type: bool
    room:
      description: Its room.
      type: str
    node_id:
      description: Node it was pinned to, if any.
      type: str
    join_ms:
      description: Milliseconds until both had joined, by the slower one.
      type: int
    joins:
      description: The same by participant, C(publisher) and C(subscriber).
      type: dict
    first_media_ms:
      description: Milliseconds from the begin of joining to the first sound.
      type: int
    media_seconds:
      description: Seconds of sound that were heard.
      type: float
    gaps:
      description: Silences over 250 ms, each with C(start) in Unix seconds and C(seconds).
      type: list
      elements: dict
    transport:
      description: How media came to the listener, V(udp), V(tcp), V(turn/udp), V(turn/tcp) or V(turn/tls).
      type: str
    remote:
      description: Address and port of the server that media came from.
      type: str
    loss_percent:
      description: Share of the listener's packets that were lost.
      type: float
    jitter_ms:
      description: Jitter at the listener.
      type: float
    rtt_ms:
      description: Round trip time to the server.
      type: float
    events:
      description: What happened, each with C(t) in Unix seconds, C(who) and C(event).
      type: list
      elements: dict
    reason:
      description: Why the call counts as dropped, if it does.
      type: str
  sample:
    ok: true
    room: probe-0f3a2b1c4d5e6f70
    node_id: ND_4kLmNoPqRsTu
    join_ms: 118
    first_media_ms: 340
    media_seconds: 2.03
    gaps: []
    transport: udp
    remote: 192.0.2.11:50007
    loss_percent: 0.0
failure:
  description: What went wrong, with C(code), C(tried), C(on), C(got) and C(fix).
  returned: failure
  type: dict
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils import _registry_module
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.call import TRANSPORTS
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.call_figures import unmet
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.probe import run_in_child

WAYS = ["udp", "tcp", "turn/udp", "turn/tcp", "turn/tls"]


def check(call: dict[str, t.Any], params: t.Mapping[str, t.Any]) -> None:
    """Raise FleetError for a call that failed, or for figures that miss the limits of the task."""
    if call.get("failure"):
        f = dict(call.pop("failure"))
        raise FleetError(f.pop("tried"), f.pop("on"), f.pop("got"), f.pop("fix"), **f)
    missed = unmet(
        call, params["max_join_ms"], params["max_first_media_ms"], params["max_gap_ms"], params["max_loss_percent"],
        params["expect_transport"] or (),
    )
    if missed:
        fixes = list(dict.fromkeys(m["fix"] for m in missed))
        raise FleetError("pass a test call", params["url"], "; ".join(m["got"] for m in missed), " ".join(fixes), code="probe_gate")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_registry_module.api_spec(),
            "node_id": {"type": "str"},
            "node_ids": {"type": "list", "elements": "str"},
            "seconds": {"type": "float", "default": 2},
            "transport": {"type": "str", "choices": list(TRANSPORTS), "default": "any"},
            "timeout": {"type": "float", "default": 30},
            "max_join_ms": {"type": "int"},
            "max_first_media_ms": {"type": "int"},
            "max_gap_ms": {"type": "int"},
            "max_loss_percent": {"type": "float"},
            "expect_transport": {"type": "list", "elements": "str", "choices": WAYS},
        },
        mutually_exclusive=[("node_id", "node_ids")],
        supports_check_mode=True,
    )
    params = module.params
    if module.check_mode:
        module.exit_json(changed=False, skipped=True, msg="No call in check mode: a call needs a room of its own.")
    request = {
        "url": params["url"], "key": params["api_key"], "secret": params["api_secret"],
        "seconds": params["seconds"], "transport": params["transport"], "timeout": params["timeout"],
    }
    requests = [{**request, "node_id": node} for node in (params["node_ids"] or [params["node_id"]])]
    call: dict[str, t.Any] = {}
    try:
        calls = run_in_child(requests, timeout=params["timeout"] * len(requests) + 20, ca_file=params["ca_file"])
        for call in calls:
            check(call, params)
    except FleetError as error:
        call.pop("msg", None)
        module.fail_json(**error.as_result(), **({"call": call} if call else {}))
    module.exit_json(changed=False, call=calls[0], calls=calls)


if __name__ == "__main__":
    main()
