# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that can be said against a deployment's livekit_* variables before any host is asked: problems(), one check for each matter.

And what the release itself says of a configuration file: static_problems(). Pure. No text made here contains a secret.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import re
import typing as t
import urllib.parse

from . import schema, slots
from .config import PEM_FILES, Model, ips, kind_of, merge
from .config_keys import duration_seconds, unknown_keys
from .errors import Problem

Claim = tuple[str, int, int, str]  # as in slots.Layout.claims: protocol, first port, last port, what it is for

MINIMUM = "1.8.4"  # older releases speak a signalling protocol that must not be mixed with newer ones in a cluster
BROKEN_VERSIONS = {
    "1.9.5": "was withdrawn before it came out",
    "1.9.10": "panics while running; its makers say not to use it",
}
SECRET_LENGTH = 32

_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+\.?")  # what livekit-server itself accepts
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
    if not schema.VERSION.fullmatch(version):
        hint = f'Write "{version[1:]}"' if version.startswith("v") and schema.VERSION.fullmatch(version[1:]) else 'Name a release, such as "1.13.5"'
        yield Problem("bad_version", where, f'"{version}" is no version of the form X.Y.Z', hint)
    elif version in BROKEN_VERSIONS:
        yield Problem("broken_version", where, f"LiveKit {version} {BROKEN_VERSIONS[version]}", f"Take another release, such as {schema.NEWEST}")
    elif schema.later(MINIMUM, version):
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
            yield Problem("wrong_type", label, f"the secret is {kind_of(secret)}, and must be a string", "Put it in quotes")
        elif len(secret) < SECRET_LENGTH:
            swapped = " (Are key and secret swapped? It is {key: secret}.)" if len(name) >= SECRET_LENGTH else ""
            yield Problem("short_secret", label, f"the secret has {len(secret)} characters, at least {SECRET_LENGTH} are needed",
                          f"Make one with: openssl rand -hex 32{swapped}")
        elif re.search(r"\s|[^\x20-\x7e]", secret):
            yield Problem("bad_secret", label, "the secret contains white space or characters outside ASCII",
                          "Make one with: openssl rand -hex 32")


def _check_sections(case: _Case) -> t.Iterator[Problem]:
    model = case.model
    turn = {name: value for name, value in model.turn.items() if name not in PEM_FILES}
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
    prometheus = _section(case.model.server_config, "prometheus")
    if any(isinstance(value, str) and value for value in (prometheus.get("username"), prometheus.get("password"))):
        yield Problem("metrics_password", "livekit_server_config.prometheus", "the collection reads each node's identifier from its metrics without a password",
                      "Remove username and password, and let a firewall guard the metrics ports instead")
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
    versions = {ip.version for ip in ips(case.model.node_ip)}
    if versions and 4 not in versions and "bind_addresses" not in turn:
        yield Problem("turn_node_ip", where, "TURN listens on IPv4 and the node has no IPv4 address", "Set bind_addresses, or an IPv4 livekit_node_ip")


def _check_turn_certificate(turn: dict[str, t.Any], where: str) -> t.Iterator[Problem]:
    for pem, (_file, path), mark in (("certificate", PEM_FILES["certificate"], "CERTIFICATE"), ("private_key", PEM_FILES["private_key"], "PRIVATE KEY")):
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
        versions = [ip.version for ip in ips(node_ip)]
        if not versions or len(set(versions)) != len(versions):
            yield Problem("bad_node_ip", "livekit_node_ip" + (f" of {name}" if name else ""), f'"{node_ip}" is no IP address (nor "IPv4,IPv6")',
                          "Set the address at which clients reach the media ports, or livekit_use_external_ip: true")
    owner: dict[t.Any, str] = {}
    for host in case.hosts:
        for ip in ips(str(host.get("node_ip") or "")):
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
        names = {str(media.get(key) or "").lower() for key in ("name", "address")} | {str(ip) for ip in ips(str(media.get("node_ip") or ""))}
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
    if not schema.VERSION.fullmatch(target) or not model.turn.get("enabled") or model.turn.get("tls_port") == 0 or schema.later("1.13.0", target):
        return []
    old = sorted({v for v in running if schema.VERSION.fullmatch(v) and schema.later("1.12.0", v)}, key=schema.version_tuple)
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
