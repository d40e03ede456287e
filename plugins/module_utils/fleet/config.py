# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the livekit_* variables to one slot's LiveKit configuration, and everything that can be said against them beforehand.

Pure, but for `static_check` at the end: mappings in, mappings, text and problems out. No text made here contains a secret.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import json
import re
import subprocess
import typing as t
from collections import abc
import urllib.parse

from . import schema, slots
from .errors import FleetError

Claim = tuple[str, int, int, str]  # as in slots.Layout.claims: protocol, first port, last port, what it is for

MINIMUM = "1.8.4"  # older releases speak a signalling protocol that must not be mixed with newer ones in a cluster
BROKEN_VERSIONS = {
    "1.9.5": "was withdrawn before it came out",
    "1.9.10": "panics while running; its makers say not to use it",
}
SECRET_LENGTH = 32

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+\.?")  # what livekit-server itself accepts
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
_PLAIN_SCALAR = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SECRET_WORDS = ("password", "secret", "credential", "keys")
# Parts of livekit_turn that are not LiveKit's: PEM texts -> (file beside config.yaml, LiveKit's key for its path).
_PEM_FILES = {"certificate": ("turn.crt", "cert_file"), "private_key": ("turn.key", "key_file")}
# Peers that the embedded TURN server refuses unless they are allowed by name.
_RESTRICTED = tuple(ipaddress.ip_network(n) for n in (
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "fc00::/7", "fe80::/10", "::1/128",
))
# LiveKit keys that follow from the slot or have a variable of their own -> where to change them.
OWNED = {
    "port": "livekit_layout.signal",
    "rtc.tcp_port": "livekit_layout.ice_tcp",
    "rtc.udp_port": "livekit_layout.udp_start and livekit_layout.udp_width",
    "rtc.port_range_start": "livekit_layout.udp_start and livekit_layout.udp_width",
    "rtc.port_range_end": "livekit_layout.udp_start and livekit_layout.udp_width",
    "rtc.node_ip": "livekit_node_ip",
    "rtc.use_external_ip": "livekit_use_external_ip",
    "prometheus.port": "livekit_layout.metrics",
    "prometheus_port": "livekit_layout.metrics",
    "key_file": "livekit_keys",
    "keys": "livekit_keys",
    "redis": "livekit_redis",
    "region": "livekit_region",
    "turn": "livekit_turn",
}
_TURN_PORTS = {
    "tls_port": "livekit_layout.turn_tls", "udp_port": "livekit_layout.turn_udp",
    "relay_range_start": "livekit_layout.turn_relay_start", "relay_range_end": "livekit_layout.turn_relay_width",
}


# --- values -----------------------------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that keeps a deployment from being right: a stable code, the variable or key, what is wrong, what to do."""

    code: str
    where: str
    text: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}. {self.fix}"

    def as_dict(self) -> dict[str, str]:
        return dataclasses.asdict(self)


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
                    "use_external_ip": bool}.get(field.name, str)
            if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
                value = str(value)
            elif kind is bool and str(value).lower() in ("true", "yes", "false", "no"):  # from the command line it comes as a string
                value = str(value).lower() in ("true", "yes")
            if not isinstance(value, kind):
                wrong.append(Problem("wrong_type", name, f"is {_kind_of(value)}, and must be {_NAMES[kind]}", "See the role model's README"))
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


def raise_for(found: t.Iterable[Problem], on: str = "the livekit_* variables") -> None:
    """Raise one FleetError that lists every problem; failure.problems holds them as mappings. Nothing found: nothing raised."""
    found = list(found)
    if not found:
        return
    listing = "".join(f"\n{number}. {problem}" for number, problem in enumerate(found, 1))
    raise FleetError("accept the configuration", on, "1 problem" if len(found) == 1 else f"{len(found)} problems",
                     f"Nothing was changed. Correct and run again:{listing}", code=found[0].code if len(found) == 1 else "bad_configuration",
                     problems=[problem.as_dict() for problem in found])


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

def restricted_routes(addresses: t.Iterable[str]) -> list[str]:
    """The addresses (or "v4,v6" pairs) that TURN refuses to relay to by default, as /32 or /128 networks, sorted."""
    found = {ip for address in addresses for ip in _ips(address) if any(ip.version == n.version and ip in n for n in _RESTRICTED)}
    return [f"{ip}/{ip.max_prefixlen}" for ip in sorted(found, key=lambda ip: (ip.version, int(ip)))]


def render(model: Model, ports: slots.Ports, key_file: str, directory: str = "", peers: t.Iterable[str] = ()) -> dict[str, t.Any]:
    """LiveKit's configuration for one slot.

    directory: where `extra_files` will lie; peers: the node IPs of all media hosts, to which TURN may relay even if they are private.
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
        # Smaller than LiveKit's own: halves the longest silence after a node dies.
        "signal_relay": {"retry_timeout": "1500ms", "min_retry_interval": "300ms", "max_retry_interval": "500ms"},
        "logging": {"json": True, "level": model.log_level},
        "turn": {"enabled": True, "allow_restricted_peer_cidrs": restricted_routes([model.node_ip, *peers]) or None} if model.turn.get("enabled") else None,
    }
    config = _known_only(merge({}, own), model.version)
    sections = {"redis": model.redis or None, "turn": _turn_section(model, ports, directory), "webhook": model.webhook or None}
    return merge(merge(config, sections), model.server_config)


def _turn_section(model: Model, ports: slots.Ports, directory: str) -> dict[str, t.Any] | None:
    if not model.turn.get("enabled"):
        return None
    section = {name: value for name, value in model.turn.items() if name not in _PEM_FILES}
    for file in extra_files(model):
        name = next(key for known, key in _PEM_FILES.values() if known == file)
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
    return {file: str(turn[name]) for name, (file, _key) in _PEM_FILES.items() if turn.get(name)}


def _known_only(config: dict[str, t.Any], version: str, prefix: str = "") -> dict[str, t.Any]:
    """Our own defaults without the keys the release does not know. What the operator wrote is judged, not dropped."""
    out = {}
    for name, value in config.items():
        key = schema.KEYS.get(prefix + name)
        if key is not None and _usable(key, version):
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


# --- checking keys ----------------------------------------------------------------------------------------------------

def unknown_keys(config: t.Mapping[str, t.Any], version: str, known: t.Iterable[str] = ()) -> list[Problem]:
    """What livekit-server of this version would not take: keys it never had, has not yet or has no more, and wrong types.

    known: dotted paths to let pass with all that is below them, for releases newer than schema.NEWEST.
    """
    return list(_walk(plain(config), "", "", _version_or_newest(version), tuple(known)))


def _walk(config: dict[str, t.Any], path: str, shape: str, version: str, known: tuple[str, ...]) -> t.Iterator[Problem]:
    """path: as written, with list indexes; shape: as in schema.KEYS."""
    for name, value in config.items():
        here, form = (f"{path}.{name}", f"{shape}.{name}") if path else (name, name)
        if any(form == k or form.startswith(f"{k}.") for k in known):
            continue
        key = schema.KEYS.get(form)
        if key is None:
            yield Problem("unknown_key", here, f"{here} is no key of LiveKit {version}", _advice(form, version))
            continue
        if value is None:
            continue
        if _later(key.since, version):
            wanted = f"a release after {schema.NEWEST}" if key.since == schema.UNRELEASED else f"LiveKit ≥ {key.since}"
            yield Problem("key_too_new", here, f"{here} needs {wanted}, this deployment runs {version}", "Remove it or raise livekit_version")
            continue
        if not _usable(key, version):
            fix = f"Use {key.instead} instead" if key.instead else "Remove it"
            yield Problem("key_removed", here, f"{here} was removed in LiveKit {key.removed}, this deployment runs {version}", fix)
            continue
        yield from _walk_value(key, value, here, form, version, known)


def _walk_value(key: schema.Key, value: t.Any, here: str, form: str, version: str, known: tuple[str, ...]) -> t.Iterator[Problem]:
    if not _fits(key.type, value):
        fix = "Put it in quotes" if key.type == "str" and isinstance(value, (int, float)) else f"Give {schema.TYPES[key.type]}"
        got = _kind_of(value)
        if isinstance(value, str) and key.type != "str" and not any(word in form for word in _SECRET_WORDS):
            got = f'the string "{value}"'
        yield Problem("wrong_type", here, f"{here} must be {schema.TYPES[key.type]}, not {got}", fix)
    elif key.choices and value not in key.choices:
        near = difflib.get_close_matches(value, key.choices, 1)
        yield Problem("bad_value", here, f'{here} cannot be "{value}"',
                      (f"Did you mean {near[0]}? " if near else "") + f"Possible: {', '.join(key.choices)}")
    elif key.type == "map":
        yield from _walk(value, here, form, version, known)
    elif key.type == "maps":
        for number, item in enumerate(value):
            yield from _walk(item, f"{here}[{number}]", f"{form}[]", version, known)


def nearest(path: str, version: str = schema.NEWEST) -> str:
    """The dotted path of the known key that most resembles this one, or "". Siblings first, then the same word elsewhere."""
    candidates = [name for name, key in schema.KEYS.items() if _usable(key, version)]
    parent, _dot, leaf = path.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in candidates if name.rpartition(".")[0] == parent}
    leaves: dict[str, list[str]] = {}
    for name in candidates:
        leaves.setdefault(name.rpartition(".")[2], []).append(name)

    def close(word: str, pool: t.Iterable[str], cutoff: float) -> str:
        return next(iter(difflib.get_close_matches(word, list(pool), 1, cutoff)), "")

    def likest(names: list[str]) -> str:
        return max(names, key=lambda name: difflib.SequenceMatcher(None, path, name).ratio())

    if hit := close(leaf, siblings, 0.75):
        return siblings[hit]
    if parent and leaf in candidates:  # a section written one level too deep
        return leaf
    if parent and len(leaf) > 3 and (partly := [full for name, full in siblings.items() if leaf in name]):
        return likest(partly)
    if leaf in leaves:
        return likest(leaves[leaf])
    if hit := close(path, candidates, 0.75):
        return hit
    if hit := close(leaf, siblings, 0.6):
        return siblings[hit]
    hit = close(leaf, leaves, 0.7)
    return likest(leaves[hit]) if hit else ""


def _advice(path: str, version: str) -> str:
    if path in schema.MISNAMED:
        return f"Use {schema.MISNAMED[path]}"
    near = nearest(path, version)
    advice = f"Did you mean {near}?" if near else "Remove it"
    if _later(version, schema.NEWEST):
        advice += f" (keys newer than LiveKit {schema.NEWEST} go into livekit_known_keys)"
    return advice


def _usable(key: schema.Key, version: str) -> bool:
    version = _version_or_newest(version)
    return not _later(key.since, version) and (not key.removed or _later(key.removed, version))


def _later(one: str, other: str) -> bool:
    return schema.version_tuple(one) > schema.version_tuple(other)


def _version_or_newest(version: str) -> str:
    return version if _VERSION.fullmatch(version) else schema.NEWEST


_NAMES = {dict: "a mapping", list: "a list", bool: "true or false", str: "a string", int: "a number", float: "a number"}


def _kind_of(value: t.Any) -> str:
    return "empty" if value is None else _NAMES.get(type(value), type(value).__name__)


def _fits(kind: str, value: t.Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind in ("int", "uint"):
        return number and isinstance(value, int) and (kind == "int" or value >= 0)
    if kind == "float":
        return number
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "str":
        return isinstance(value, str)
    if kind == "duration":
        return isinstance(value, str) and duration_seconds(value) is not None
    if kind == "ports":
        return bool(_port_range(value))
    if kind == "cidrs":
        return isinstance(value, list) and all(isinstance(v, str) and _is_network(v) for v in value)
    if kind in ("strings", "durations", "maps"):
        inner = {"strings": "str", "durations": "duration", "maps": "map"}[kind]
        return isinstance(value, list) and all(_fits(inner, v) for v in value)
    if kind == "strmap":
        return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    return isinstance(value, dict)  # map, open


def duration_seconds(text: str) -> float | None:
    """Seconds of a Go duration ("1m30s", "500ms"), None if it is none."""
    body = text.lstrip("+-") if text[:2] not in ("+-", "-+", "--", "++") else ""
    parts = list(_DURATION_PART.finditer(body))
    if body == "0":
        return 0.0
    if not parts or "".join(p[0] for p in parts) != body:
        return None
    total = sum(float(p[1]) * _UNITS[p[2]] for p in parts)
    return -total if text.startswith("-") else total


def _port_range(value: t.Any) -> tuple[int, int] | None:
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", str(value)) if isinstance(value, (int, str)) and not isinstance(value, bool) else None
    if not match:
        return None
    first, last = int(match[1]), int(match[2] or match[1])
    return (first, last) if 1 <= first <= last <= 65535 and (first < last or not match[2]) else None


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text


def _ips(address: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses of "v4" or "v4,v6"; [] if any part is no IP address."""
    try:
        return [ipaddress.ip_address(part.strip()) for part in address.split(",")] if address else []
    except ValueError:
        return []


# --- checking a whole deployment --------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class _Case:
    model: Model
    layout: slots.Layout
    vcpus: int | None
    server_count: int
    hosts: list[dict[str, t.Any]]
    claims: list[Claim]


def problems(
    model: Model,
    layout: slots.Layout,
    vcpus: int | None = None,
    server_count: int | None = None,
    hosts: t.Iterable[t.Mapping[str, t.Any]] = (),
    claims: t.Iterable[Claim] = (),
) -> list[Problem]:
    """Everything wrong with a deployment that shows before any host is asked.

    hosts: the media hosts as {name, node_ip, address, balancer: true if the balancer runs there too}; claims: ports others use on them
    ("tcp", first, last, "HAProxy statistics"); server_count: number of media hosts, by default the number of `hosts`, at least 1.
    """
    known_hosts = [dict(host) for host in hosts]
    count = server_count if server_count is not None else max(1, len(known_hosts))
    case = _Case(model, layout, vcpus, count, known_hosts, [(p, int(first), int(last), use) for p, first, last, use in claims])
    return [problem for check in _CHECKS for problem in check(case)]


def _check_version(case: _Case) -> t.Iterator[Problem]:
    where, version = "livekit_version", case.model.version
    if not _VERSION.fullmatch(version):
        hint = f'Write "{version[1:]}"' if version.startswith("v") and _VERSION.fullmatch(version[1:]) else 'Name a release, such as "1.13.5"'
        yield Problem("bad_version", where, f'"{version}" is no version of the form X.Y.Z', hint)
    elif version in BROKEN_VERSIONS:
        yield Problem("broken_version", where, f"LiveKit {version} {BROKEN_VERSIONS[version]}", f"Take another release, such as {schema.NEWEST}")
    elif _later(MINIMUM, version):
        yield Problem("old_version", where, f"LiveKit {version} is older than {MINIMUM}, and cannot be mixed with newer releases in one cluster",
                      f"Take {MINIMUM} or newer")
    elif version == "1.10.0" and case.model.turn.get("enabled") and case.model.turn.get("udp_port", 1) != 0:
        yield Problem("broken_version", where, "LiveKit 1.10.0 hands out a broken TURN/UDP address", "Take 1.10.1 or newer")


def _check_keys(case: _Case) -> t.Iterator[Problem]:
    where = "livekit_keys"
    if not case.model.keys:
        yield Problem("no_keys", where, "no API key is set", "Set livekit_keys to {key: secret}, the secret from: openssl rand -hex 32")
    for number, (name, secret) in enumerate(case.model.keys.items(), 1):
        sane = bool(_KEY_NAME.fullmatch(name)) and len(name) < SECRET_LENGTH
        label = f"{where}.{name}" if sane else f"{where}, entry {number}"  # what looks like a secret in the wrong place is not shown
        if not _KEY_NAME.fullmatch(name):
            yield Problem("bad_key_name", label, "the name of the API key is not made of letters, digits, '.', '_' and '-' (64 at most)",
                          "Choose a plain name")
        if not isinstance(secret, str):
            yield Problem("wrong_type", label, f"the secret is {_kind_of(secret)}, and must be a string", "Put it in quotes")
        elif len(secret) < SECRET_LENGTH:
            swapped = " (Are key and secret swapped? It is {key: secret}.)" if len(name) >= SECRET_LENGTH else ""
            yield Problem("short_secret", label, f"the secret has {len(secret)} characters, at least {SECRET_LENGTH} are needed",
                          f"Make one with: openssl rand -hex 32{swapped}")
        elif re.search(r"\s|[^\x20-\x7e]", secret):
            yield Problem("bad_secret", label, "the secret contains white space or characters outside ASCII",
                          "Make one with: openssl rand -hex 32")


def _check_sections(case: _Case) -> t.Iterator[Problem]:
    model = case.model
    turn = {name: value for name, value in model.turn.items() if name not in _PEM_FILES}
    for variable, section in (("redis", model.redis), ("turn", turn), ("webhook", model.webhook)):
        for problem in unknown_keys({variable: section}, model.version, model.known_keys):
            yield dataclasses.replace(problem, where=f"livekit_{problem.where}")
    for problem in unknown_keys(model.server_config, model.version, model.known_keys):
        yield dataclasses.replace(problem, where=f"livekit_server_config.{problem.where}")
    if model.log_level not in schema.KEYS["logging.level"].choices:
        yield Problem("bad_value", "livekit_log_level", f'"{model.log_level}" is no log level',
                      f"Possible: {', '.join(schema.KEYS['logging.level'].choices)}")


def _check_owned(case: _Case) -> t.Iterator[Problem]:
    for path, variable in OWNED.items():
        level: t.Any = case.model.server_config
        *parents, leaf = path.split(".")
        for parent in parents:
            level = level.get(parent, {}) if isinstance(level, dict) else None
        if not isinstance(level, dict) or leaf in level:
            yield Problem("owned_key", f"livekit_server_config.{path}", f"{path} is set for each slot by the collection and cannot be overridden",
                          f"Use {variable}")
    if case.layout.count > 1:
        debug, rtc = (_section(case.model.server_config, name) for name in ("debug_handler", "rtc"))
        for path, used in (("debug_handler.port", debug.get("port")), ("rtc.use_stun_port_as_ice", rtc.get("use_stun_port_as_ice"))):
            if used:
                yield Problem("shared_port", f"livekit_server_config.{path}", f"{path} opens the same port in every slot, the second one could not start",
                              "Remove it")


def _section(config: t.Mapping[str, t.Any], name: str) -> dict[str, t.Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _check_layout(case: _Case) -> t.Iterator[Problem]:
    layout = case.layout
    for name, value, least in (("udp_width", layout.udp_width, 1), ("turn_relay_width", layout.turn_relay_width, 1)):
        if value < least:
            yield Problem("port_range", f"livekit_layout.{name}", f"is {value}, and must be {least} or more", "Raise it")
    if not 1 <= layout.count <= 99:
        yield Problem("bad_slots", "livekit_slots", f"{layout.count} slots are not possible", "Give 1 to 99; 3 suits most hosts")
        return
    turn = bool(case.model.turn.get("enabled"))
    own = layout.claims(turn=turn)
    for proto, first, last, use in own:
        if first < 1 or last > 65535:
            yield Problem("port_range", "livekit_layout", f"{use} would use {proto} ports {first}-{last}, beyond 65535", "Lower the base or the step")
    for proto, one, other, port in slots.overlaps([*own, *case.claims]):
        fix = "Change livekit_layout or the other port"
        if "ICE/TCP" in one + other and case.claims:
            fix += "; ICE/TCP goes straight to the node, it is never a frontend of the balancer"
        yield Problem("ports_overlap", "livekit_layout", f"{one} and {other} both use {proto} port {port}", fix)
    if case.vcpus is not None and 0 < layout.udp_width < case.vcpus:
        yield Problem("udp_range_small", "livekit_layout.udp_width",
                      f"{layout.udp_width} UDP ports per slot are fewer than the host's {case.vcpus} vCPUs, media would be throttled",
                      f"Set it to {case.vcpus} or more")
    if case.model.redis and layout.count < 2:
        yield Problem("too_few_slots", "livekit_slots", "with one slot there is no free place to start a new generation beside the old one",
                      "Set it to 2 or more, 3 is the default")


def _check_redis(case: _Case) -> t.Iterator[Problem]:
    redis, where = case.model.redis, "livekit_redis"
    if not redis:
        if case.server_count > 1:
            yield Problem("redis_missing", where, f"{case.server_count} media hosts without Redis are as many separate clusters",
                          "Set livekit_redis.address, or sentinel_master_name and sentinel_addresses")
        return
    several = {name: redis.get(name) for name in ("sentinel_addresses", "cluster_addresses")}
    if not redis.get("address") and not any(several.values()):
        yield Problem("redis_incomplete", where, "no address is set", "Set address, or sentinel_master_name and sentinel_addresses")
    if bool(redis.get("sentinel_addresses")) != bool(redis.get("sentinel_master_name")):
        yield Problem("redis_incomplete", where, "sentinel_addresses and sentinel_master_name go together, one is missing", "Set both")
    listed = [(f"{where}.address", redis.get("address"))]
    listed += [(f"{where}.{name}", address) for name, found in several.items() if isinstance(found, list) for address in found]
    for place, address in listed:
        if isinstance(address, str) and address and not re.fullmatch(r".+:\d{1,5}", address):
            yield Problem("bad_value", place, "is not of the form host:port (and has no redis:// in front)", "Write for example 10.0.0.5:6379")
        elif isinstance(address, str) and "://" in address:
            yield Problem("bad_value", place, "is a URL, LiveKit wants host:port", "Write for example 10.0.0.5:6379")


def _check_turn(case: _Case) -> t.Iterator[Problem]:
    turn, where = case.model.turn, "livekit_turn"
    for name, variable in _TURN_PORTS.items():
        off = name in ("tls_port", "udp_port")
        if name in turn and not (off and turn[name] == 0):
            yield Problem("owned_key", f"{where}.{name}", f"turn.{name} follows from the slot{', only 0 (off) can be set here' if off else ''}",
                          f"Use {variable}")
    if not turn.get("enabled"):
        return
    if turn.get("tls_port") == 0 and turn.get("udp_port") == 0:
        yield Problem("turn_ports", where, "TURN is enabled with both of its ports switched off", "Remove tls_port: 0 or udp_port: 0")
    if turn.get("tls_port") != 0:
        domain = turn.get("domain")
        if not domain:
            yield Problem("turn_domain", f"{where}.domain", "TURN/TLS is enabled without a domain",
                          "Set the domain clients reach on port 443, or tls_port: 0 for TURN/UDP alone")
        elif isinstance(domain, str) and not _DOMAIN.fullmatch(domain):
            yield Problem("turn_domain", f"{where}.domain", f'"{domain}" is no domain LiveKit accepts (lower case, at least one dot, no port or scheme)',
                          "Write for example turn.example.org")
        if not turn.get("external_tls"):
            yield from _check_turn_certificate(turn, where)
    versions = {ip.version for ip in _ips(case.model.node_ip)}
    if versions and 4 not in versions and "bind_addresses" not in turn:
        yield Problem("turn_node_ip", where, "TURN listens on IPv4 and the node has no IPv4 address", "Set bind_addresses, or an IPv4 livekit_node_ip")


def _check_turn_certificate(turn: dict[str, t.Any], where: str) -> t.Iterator[Problem]:
    for pem, (_file, path), mark in (("certificate", _PEM_FILES["certificate"], "CERTIFICATE"), ("private_key", _PEM_FILES["private_key"], "PRIVATE KEY")):
        text = turn.get(pem)
        if not text and not turn.get(path):
            yield Problem("turn_certificate", f"{where}.{pem}", f"TURN/TLS is enabled without {pem} (PEM text) or {path} (a path on the host)",
                          "Set it, or external_tls: true if the balancer ends TLS")
        elif text and turn.get(path):
            yield Problem("turn_certificate", f"{where}.{pem}", f"{pem} and {path} are both set", "Keep one of them")
        elif text and not (isinstance(text, str) and re.search(f"^-----BEGIN [A-Z ]*{mark}-----", text, re.MULTILINE)):
            yield Problem("turn_certificate", f"{where}.{pem}", f"is no PEM text with a BEGIN {mark} line", "Give the content of the file, not its path")


def _check_node_ips(case: _Case) -> t.Iterator[Problem]:
    if case.model.use_external_ip:
        return
    shown = {str(host.get("node_ip") or ""): str(host.get("name")) for host in case.hosts} or {case.model.node_ip: ""}
    for node_ip, name in shown.items():
        versions = [ip.version for ip in _ips(node_ip)]
        if not versions or len(set(versions)) != len(versions):
            yield Problem("bad_node_ip", "livekit_node_ip" + (f" of {name}" if name else ""), f'"{node_ip}" is no IP address (nor "IPv4,IPv6")',
                          "Set the address at which clients reach the media ports, or livekit_use_external_ip: true")
    owner: dict[t.Any, str] = {}
    for host in case.hosts:
        for ip in _ips(str(host.get("node_ip") or "")):
            if ip in owner:
                yield Problem("same_node_ip", f"livekit_node_ip of {host.get('name')}", f"{ip} is the node IP of {owner[ip]} too",
                              "Give each host its own; media goes straight to this address")
            owner.setdefault(ip, str(host.get("name")))


def _check_public_url(case: _Case) -> t.Iterator[Problem]:
    where, url = "livekit_public_url", case.model.public_url
    if not url:
        return
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urllib.parse.urlsplit(""), None, None
    if parts.scheme not in ("ws", "wss", "http", "https") or not host or parts.username is not None or parts.query:
        yield Problem("bad_public_url", where, "is no URL of the form wss://host or wss://host:port", "Write for example wss://livekit.example.org")
        return
    port = port or (443 if parts.scheme in ("wss", "https") else 80)
    signalling = {case.layout.ports(slot).signal for slot in range(1, max(1, min(case.layout.count, 99)) + 1)}
    for media in case.hosts or [{"address": case.model.address, "node_ip": case.model.node_ip}]:
        names = {str(media.get(key) or "").lower() for key in ("name", "address")} | {str(ip) for ip in _ips(str(media.get("node_ip") or ""))}
        if host.lower() not in names - {""}:
            continue
        into_slot = port in signalling and (case.server_count > 1 or case.layout.count > 1)
        if into_slot or (case.server_count > 1 and not media.get("balancer")):
            yield Problem("url_bypasses_balancer", where,
                          f"{host}:{port} is media host {media.get('name') or host} itself, not the balancer: clients lose their calls when that node stops",
                          "Use the balancer's address")


def _check_cross_references(case: _Case) -> t.Iterator[Problem]:
    model, extra = case.model, case.model.server_config
    webhook = merge(model.webhook, _section(extra, "webhook"))
    if webhook.get("urls") and webhook.get("api_key") not in model.keys:
        yield Problem("webhook_key", "livekit_webhook.api_key", "is none of the names in livekit_keys, LiveKit would not start", "Name one of them")
    selector = _section(extra, "node_selector")
    if selector.get("kind") == "regionaware":
        names = [r.get("name") for r in selector.get("regions") or [] if isinstance(r, dict)]
        if not model.region or (names and model.region not in names):
            yield Problem("bad_region", "livekit_region", "node_selector.kind regionaware needs the host's region, one of node_selector.regions",
                          f"Set it to one of: {', '.join(map(str, names))}" if names else "Set livekit_region")
    interval = _section(extra, "node_stats").get("stats_update_interval")
    if isinstance(interval, str) and (duration_seconds(interval) or 0) > 3:
        yield Problem("bad_value", "livekit_server_config.node_stats.stats_update_interval",
                      f"with {interval} between reports nodes look dead to each other (limit 5 s) and to health checks (4 s)", "Set 3s or less")


_CHECKS: tuple[t.Callable[[_Case], t.Iterable[Problem]], ...] = (
    _check_version, _check_keys, _check_sections, _check_owned, _check_layout, _check_redis, _check_turn, _check_node_ips, _check_public_url,
    _check_cross_references,
)


def step_problems(model: Model, running: t.Iterable[str]) -> list[Problem]:
    """What speaks against going from the versions now running to the model's: nodes of both share a cluster meanwhile."""
    target = model.version
    if not _VERSION.fullmatch(target) or not model.turn.get("enabled") or model.turn.get("tls_port") == 0 or _later("1.13.0", target):
        return []
    old = sorted({v for v in running if _VERSION.fullmatch(v) and _later("1.12.0", v)}, key=schema.version_tuple)
    return [Problem("turn_step", "livekit_version", f"nodes of {v} hand out TURN credentials that nodes of {target} refuse", "Go to 1.12.0 first") for v in old]


# --- the product's own check ------------------------------------------------------------------------------------------

def static_problems(output: str) -> list[Problem]:
    """The verdict in the output of `livekit-server --config FILE ports`, whose exit status is 0 in any case."""
    if re.search(r"^TCP Ports\s*$", output, re.MULTILINE):
        return []
    lines = [re.sub("`[^`]*`", "`…`", line.strip()) for line in output.splitlines() if line.strip()]  # a value may be a secret
    fields = re.findall(r"field (\S+) not found", output)
    fix = f"Correct livekit_server_config: {', '.join(fields)}" if fields else "Correct livekit_server_config"
    return [Problem("static_check", "config.yaml", f"livekit-server does not take it: {' '.join(lines[:6])[:500] or 'it said nothing'}", fix)]


def static_check(binary: str, config_file: str, timeout: float = 20) -> list[Problem]:
    """Let livekit-server itself read a configuration file (it binds nothing); its environment is empty, as LIVEKIT_* would override the file."""
    try:
        done = subprocess.run([binary, "--config", config_file, "ports"], capture_output=True, text=True, timeout=timeout, check=False,
                              env={"PATH": "/usr/bin:/bin"})
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Problem("static_check", binary, f"could not be run: {error}", "Check that the archive fits the host's architecture")]
    return static_problems(done.stdout + done.stderr)
