# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One step of replacing an API key: add the new one beside the old, or remove the old one.

Pure. A node accepts every key of its generation and gives connected clients fresh tokens signed with any one of them, so a client
may hold a token of the old key for as long as one node has it. Hence two steps, each a generation of its own, and the order of them.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import typing as t

from .config_checks import SECRET_LENGTH
from .errors import Problem, raise_for

Rows = t.Sequence[t.Mapping[str, t.Any]]  # the slots of a host, as module slot_info tells them


@dataclasses.dataclass(frozen=True)
class Rotation:
    """What to do: deploy the keys of these names, in this order, and let the balancers send tokens of `retiring` to nodes that accept them."""

    step: str  # add or remove
    name: str
    changed: bool
    keys: tuple[str, ...]
    retiring: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Node:
    where: str
    draining: bool
    keys: frozenset[str]
    other: frozenset[str]  # keys it accepts with another secret


def _nodes(hosts: t.Mapping[str, Rows]) -> list[_Node]:
    running = ("active", "activating", "deactivating")
    return [_Node(f"{host} slot {row['slot']}", row["state"] == "deactivating", frozenset(row.get("api_keys") or ()), frozenset(row.get("other_secrets") or ()))
            for host, rows in sorted(hosts.items()) for row in rows if row["state"] in running]


def add(name: str, keys: t.Mapping[str, t.Any], hosts: t.Mapping[str, Rows]) -> Rotation:
    """Have every node accept the key too. keys: {name: secret} as the inventory has them, the new one included.

    The new pair goes last: the first one signs the collection's own calls, which the older nodes have to accept.
    """
    nodes = _nodes(hosts)
    raise_for([*_add_problems(name, keys, nodes), *_mapping_problems(keys, nodes)], "the rotation of keys")
    changed = not nodes or any(name not in n.keys for n in nodes if not n.draining)
    return Rotation("add", name, changed, (*(k for k in keys if k != name), name))


def _add_problems(name: str, keys: t.Mapping[str, t.Any], nodes: t.Sequence[_Node]) -> t.Iterator[Problem]:
    if name not in keys:
        yield Problem("key_unknown", "livekit_keys", f"has no key {name}", "Put the new pair last in livekit_keys, the secret from: openssl rand -hex 32")
    elif len(str(keys[name])) < SECRET_LENGTH:
        yield Problem("short_secret", f"livekit_keys.{name}", f"the secret has {len(str(keys[name]))} characters, at least {SECRET_LENGTH} are needed",
                      "Make one with: openssl rand -hex 32")
    if set(keys) == {name} and any(n.keys - {name} for n in nodes):
        yield Problem("only_key", "livekit_keys", f"holds nothing but {name}, so the tokens of today would be refused",
                      "Keep the old pair in livekit_keys until it has been removed with livekit_rotate_remove")


def remove(name: str, keys: t.Mapping[str, t.Any], hosts: t.Mapping[str, Rows], webhook_key: str = "", policy: str = "wait", sees_tokens: bool = True,
           seen: t.Iterable[str] = ()) -> Rotation:
    """Have no node accept the key any more. keys: as the inventory has them, with this one or without.

    sees_tokens: the balancer knows which key a token is of (HAProxy in http mode); seen: keys of which tokens still come in.
    """
    nodes = _nodes(hosts)
    left = {k: secret for k, secret in keys.items() if k != name}
    changed = any(name in n.keys for n in nodes if not n.draining)
    found = list(_remove_problems(name, keys, left, nodes, webhook_key))
    if changed:
        found += _token_problems(name, policy, seen)
    raise_for([*found, *_mapping_problems({**left, name: None}, nodes)], "the rotation of keys")
    retiring = (name,) if sees_tokens and any(name in n.keys for n in nodes) else ()
    return Rotation("remove", name, changed, tuple(left), retiring)


def _remove_problems(name: str, keys: t.Mapping[str, t.Any], left: t.Mapping[str, t.Any], nodes: t.Sequence[_Node], webhook_key: str) -> t.Iterator[Problem]:
    if name not in keys and not any(name in n.keys for n in nodes):
        known = sorted({*keys, *(key for n in nodes for key in n.keys)})
        yield Problem("key_unknown", name, "neither livekit_keys nor any node knows this key", f"Known: {', '.join(known)}")
        return
    if not left:
        yield Problem("last_key", name, "it is the only key", "Add the next one first, with livekit_rotate_add")
        return
    behind = [n.where for n in nodes if not n.keys & set(left)]
    if behind:
        yield Problem("key_not_everywhere", name, f"no other key is accepted by {', '.join(behind)}",
                      "Add the next key first (livekit_rotate_add), and wait until nodes of before that have ended: their callers have tokens of this key only")
    if webhook_key == name:
        yield Problem("webhook_key", "livekit_webhook.api_key", f"signs with {name}",
                      "Let another of livekit_keys sign the webhooks, and run openrtc.livekit.upgrade first")


def _token_problems(name: str, policy: str, seen: t.Iterable[str]) -> t.Iterator[Problem]:
    if name in seen:
        yield Problem("key_in_use", name, "tokens of this key still come in", "Have every application sign with another key first")
    if policy not in ("wait", "end"):
        yield Problem("policy", "livekit_upgrade_policy",
                      f"is {policy}: callers who are moved come back with tokens of {name} just when the last nodes that accept it are ended",
                      "Set it to wait, the default of this step: the nodes of before end with their last call")


def _mapping_problems(keys: t.Mapping[str, t.Any], nodes: t.Sequence[_Node]) -> t.Iterator[Problem]:
    """What a rotation must not change by the way."""
    for node in nodes:
        if node.other:
            yield Problem("other_secret", ", ".join(f"livekit_keys.{k}" for k in sorted(node.other)), f"{node.where} accepts it with another secret",
                          "A secret is never replaced under its name, as nobody could tell the tokens apart: give the new one a new name")
    gone = sorted({k for n in nodes if not n.draining for k in n.keys} - set(keys))
    if gone:
        yield Problem("key_missing", "livekit_keys", f"lacks {', '.join(gone)}, which nodes accept now",
                      "Put it back, and remove it in a step of its own with livekit_rotate_remove")
