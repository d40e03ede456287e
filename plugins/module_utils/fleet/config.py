# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the livekit_* variables to one slot's LiveKit configuration.

Pure: mappings in, mappings and text out. What can be said against the variables beforehand is in config_checks.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import json
import re
import typing as t
from collections import abc

from . import schema, slots
from .errors import FleetError, Problem, raise_for

# Parts of livekit_turn that are not LiveKit's: PEM texts -> (file beside config.yaml, LiveKit's key for its path).
PEM_FILES = {"certificate": ("turn.crt", "cert_file"), "private_key": ("turn.key", "key_file")}
# Peers that the embedded TURN server refuses unless they are allowed by name.
_RESTRICTED = tuple(ipaddress.ip_network(n) for n in (
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "fc00::/7", "fe80::/10", "::1/128",
))
_PLAIN_SCALAR = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}
TYPE_NAMES = {dict: "a mapping", list: "a list", bool: "true or false", str: "a string", int: "a number", float: "a number"}

# How long a node tries to pass a caller's signalling on before it drops it. Short, and the longest silence after a node died is half of what it is
# with LiveKit's own 7.5 s. Controllers cut such signalling within a second themselves; then it may as well be longer than any outage of Redis,
# in which nothing can be passed on: a caller who is dropped then loses media too, as its SDK gives up resuming.
RELAY = {"retry_timeout": "1500ms", "min_retry_interval": "300ms", "max_retry_interval": "500ms"}
WATCHED_RELAY = {"retry_timeout": "15m", "min_retry_interval": "300ms", "max_retry_interval": "2s"}
# Milliseconds. With Sentinel LiveKit's own is 200, so that a Redis which is merely slow looks like one that is away.
SENTINEL_TIMEOUTS = {"read_timeout": 3000, "write_timeout": 3000}


# --- values -----------------------------------------------------------------------------------------------------------

def plain(value: t.Any) -> t.Any:
    """The value as exact built-in types: Ansible hands in subclasses that serializers do not know."""
    if isinstance(value, abc.Mapping):
        return {int(k) if isinstance(k, int) and not isinstance(k, bool) else str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    for kind in (bool, int, float, str):  # bool is an int too, so it comes first
        if isinstance(value, kind):
            return kind(value)
    return None if value is None else str(value)


def kind_of(value: t.Any) -> str:
    return "empty" if value is None else TYPE_NAMES.get(type(value), type(value).__name__)


@dataclasses.dataclass(frozen=True)
class Model:
    """A deployment as its livekit_* variables describe it, seen from one media host."""

    version: str
    keys: dict[str, t.Any] = dataclasses.field(default_factory=dict, repr=False)
    redis: dict[str, t.Any] = dataclasses.field(default_factory=dict, repr=False)
    public_url: str = ""
    region: str = ""
    address: str = ""
    node_ip: str = ""
    use_external_ip: bool = False
    log_level: str = "info"
    turn: dict[str, t.Any] = dataclasses.field(default_factory=dict, repr=False)
    webhook: dict[str, t.Any] = dataclasses.field(default_factory=dict, repr=False)
    server_config: dict[str, t.Any] = dataclasses.field(default_factory=dict, repr=False)
    known_keys: tuple[str, ...] = ()
    controllers: bool = False  # whether there are any

    @classmethod
    def from_vars(cls, values: t.Mapping[str, t.Any]) -> Model:
        """From {livekit_version: …, livekit_keys: …, …}, or the same names without "livekit_" if none has it; other names are left alone.

        FleetError where a value has the wrong shape.
        """
        prefix = "livekit_" if any(name.startswith("livekit_") for name in values) else ""
        fields: dict[str, t.Any] = {}
        wrong: list[Problem] = []
        for field in dataclasses.fields(cls):
            name = f"livekit_{field.name}"
            value = plain(values.get(prefix + field.name))
            if value is None:
                continue
            kind = {"keys": dict, "redis": dict, "turn": dict, "webhook": dict, "server_config": dict, "known_keys": list,
                    "use_external_ip": bool, "controllers": bool}.get(field.name, str)
            if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
                value = str(value)
            elif kind is bool and str(value).lower() in ("true", "yes", "false", "no"):  # from the command line it comes as a string
                value = str(value).lower() in ("true", "yes")
            if not isinstance(value, kind):
                wrong.append(Problem("wrong_type", name, f"is {kind_of(value)}, and must be {TYPE_NAMES[kind]}",
                                     "See the role model's README"))
            else:
                fields[field.name] = tuple(str(v) for v in value) if kind is list else value
        raise_for(wrong)
        fields.setdefault("version", "")
        fields.setdefault("node_ip", fields.get("address", ""))
        return cls(**fields)

    def credentials(self) -> tuple[str, str]:
        """(API key, secret) for tokens and API calls: the first pair of livekit_keys."""
        for key, secret in self.keys.items():
            return key, str(secret)
        raise FleetError("choose an API key", "livekit_keys", "it is empty", "Set livekit_keys to {key: secret}", code="no_keys")


def layout_of(values: t.Mapping[str, t.Any]) -> slots.Layout:
    """The port layout of livekit_layout and livekit_slots; FleetError on a name that Layout does not have."""
    given = plain(values.get("livekit_layout")) or {}
    names = [f.name for f in dataclasses.fields(slots.Layout)]
    wrong = []
    for name, number in given.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            wrong.append(Problem("unknown_key", f"livekit_layout.{name}", "no such part of the port layout",
                                 f"Did you mean {near[0]}?" if near else f"Use one of: {', '.join(names)}"))
        elif isinstance(number, bool) or not re.fullmatch(r"\d+", str(number)):
            wrong.append(Problem("wrong_type", f"livekit_layout.{name}", "is not a whole number", "Give a number"))
    count = values.get("livekit_slots")
    if count is not None:
        if isinstance(count, bool) or not re.fullmatch(r"\d+", str(count)):
            wrong.append(Problem("wrong_type", "livekit_slots", "is not a whole number", "Give the number of slots per host, 2 or more"))
        else:
            given = {**given, "count": count}
    raise_for(wrong)
    return slots.Layout.from_mapping(given)


def merge(base: t.Any, over: t.Any) -> t.Any:
    """`over` laid on `base`: mappings are merged, lists and scalars replaced, a null removes the key."""
    if not isinstance(base, abc.Mapping) or not isinstance(over, abc.Mapping):
        return over
    out = dict(base)
    for key, value in over.items():
        below = out.pop(key, None) if value is None else out.get(key)
        if isinstance(value, abc.Mapping):
            out[key] = merge(below if isinstance(below, abc.Mapping) else {}, value)
        elif value is not None:
            out[key] = value
    return out


# --- rendering --------------------------------------------------------------------------------------------------------

def ips(address: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses of "v4" or "v4,v6"; [] if any part is no IP address."""
    try:
        return [ipaddress.ip_address(part.strip()) for part in address.split(",")] if address else []
    except ValueError:
        return []


def restricted_routes(addresses: t.Iterable[str]) -> list[str]:
    """The addresses (or "v4,v6" pairs, or networks) that TURN refuses to relay to by default, as networks, sorted."""
    texts = [part for address in addresses for part in ([address] if "/" in address else map(str, ips(address)))]
    found = {ipaddress.ip_network(text, strict=False) for text in texts}
    refused = [f for f in found if any(f.version == n.version and f.overlaps(n) for n in _RESTRICTED)]
    return [str(f) for f in sorted(refused, key=lambda f: (f.version, int(f.network_address), f.prefixlen))]


def render(model: Model, ports: slots.Ports, key_file: str, directory: str = "", peers: t.Iterable[str] = ()) -> dict[str, t.Any]:
    """LiveKit's configuration for one slot.

    directory: where `extra_files` will lie; peers: the node IPs of all media hosts, or their networks, to which TURN may relay even if
    they are private.
    """
    first, last = ports.udp
    own: dict[str, t.Any] = {
        "port": ports.signal,
        "key_file": key_file,
        "region": model.region or None,
        "rtc": {
            "tcp_port": ports.ice_tcp,
            "udp_port": first if first == last else f"{first}-{last}",
            "use_external_ip": model.use_external_ip,
            "node_ip": None if model.use_external_ip else model.node_ip or None,
        },
        "prometheus": {"port": ports.metrics},
        # Two nodes drawn, the one with less load taken: bursts of new rooms do not pile up on one node between two reports.
        "node_selector": {"kind": "cpuload", "sort_by": "cpuload", "algorithm": "twochoice"},
        "signal_relay": dict(WATCHED_RELAY if model.controllers else RELAY),
        "logging": {"json": True, "level": model.log_level},
        "turn": {"enabled": True, "allow_restricted_peer_cidrs": restricted_routes([model.node_ip, *peers]) or None} if model.turn.get("enabled") else None,
    }
    config = _known_only(merge({}, own), model.version)
    redis = {**SENTINEL_TIMEOUTS, **model.redis} if model.redis.get("sentinel_addresses") else model.redis
    sections = {"redis": redis or None, "turn": _turn_section(model, ports, directory), "webhook": model.webhook or None}
    return merge(merge(config, sections), model.server_config)


def _turn_section(model: Model, ports: slots.Ports, directory: str) -> dict[str, t.Any] | None:
    if not model.turn.get("enabled"):
        return None
    section = {name: value for name, value in model.turn.items() if name not in PEM_FILES}
    for file in extra_files(model):
        name = next(key for known, key in PEM_FILES.values() if known == file)
        section[name] = f"{directory}/{file}" if directory else file
    section["tls_port"] = None if model.turn.get("tls_port") == 0 else ports.turn_tls
    section["udp_port"] = None if model.turn.get("udp_port") == 0 else ports.turn_udp
    section["relay_range_start"], section["relay_range_end"] = ports.turn_relay
    return section


def extra_files(model: Model) -> dict[str, str]:
    """{file name: content} that belong beside config.yaml: the TURN certificate and its key, where livekit_turn holds them as PEM text.

    So they are part of the generation, and a renewal is a change like any other.
    """
    turn = model.turn
    if not turn.get("enabled") or turn.get("tls_port") == 0 or turn.get("external_tls"):
        return {}
    return {file: str(turn[name]) for name, (file, _key) in PEM_FILES.items() if turn.get(name)}


def _known_only(config: dict[str, t.Any], version: str, prefix: str = "") -> dict[str, t.Any]:
    """Our own defaults without the keys the release does not know. What the operator wrote is judged, not dropped."""
    out = {}
    for name, value in config.items():
        key = schema.KEYS.get(prefix + name)
        if key is not None and schema.usable(key, version):
            value = _known_only(value, version, f"{prefix}{name}.") if isinstance(value, dict) else value
            if value != {}:
                out[name] = value
    return out


def to_yaml(value: t.Mapping[str, t.Any]) -> str:
    """The mapping as YAML, always the same text for the same mapping, whatever libraries a host has (generations are digests)."""
    return "".join(f"{line}\n" for line in _yaml_lines(plain(value))) or "{}\n"


def _yaml_lines(value: t.Any) -> t.Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, (dict, list)) and inner:
                yield f"{_yaml_scalar(name)}:"
                yield from (f"  {line}" for line in _yaml_lines(inner))
            else:
                yield f"{_yaml_scalar(name)}: {_yaml_scalar(inner)}"
    else:
        for inner in value:
            lines = list(_yaml_lines(inner)) if isinstance(inner, (dict, list)) and inner else [_yaml_scalar(inner)]
            yield f"- {lines[0]}"
            yield from (f"  {line}" for line in lines[1:])


def _yaml_scalar(value: t.Any) -> str:
    if isinstance(value, str) and _PLAIN_SCALAR.fullmatch(value) and value.lower() not in _YAML_WORDS:
        return value
    text = json.dumps(value, ensure_ascii=False)  # a JSON scalar, [] and {} are YAML as they stand
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda m: f"\\u{ord(m[0]):04x}", text)
