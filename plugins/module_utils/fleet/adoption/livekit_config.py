# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A LiveKit configuration as livekit_* variables.

Pure: the configuration that a node runs with goes in, variables and rows come out. config.render makes the same configuration of the
variables again, up to what differences() lists.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import copy
import re
import typing as t

from .. import config_checks, config_keys, schema
from ..config import PEM_FILES, plain
from ..errors import Problem, raise_for
from ..slots import Layout
from . import paths, ports
from .found import CHOSEN, DROPPED, Found, Row, show

Texts = t.Mapping[str, str]  # {path as the node sees it: content of that file}

PORTS = (
    "port", "rtc.tcp_port", "rtc.udp_port", "rtc.port_range_start", "rtc.port_range_end", "prometheus.port", "prometheus_port", "turn.tls_port",
    "turn.udp_port", "turn.relay_range_start", "turn.relay_range_end",
)
FILES = ("keys", "key_file", "turn.cert_file", "turn.key_file")
# Keys that no slot can have -> why, and what to do instead.
NO_PLACE = {
    "debug_handler": "two slots cannot share its port; read a profile by starting it on one node by hand",
    "rtc.use_stun_port_as_ice": "two slots cannot share UDP 3478; TURN/UDP of a slot answers STUN too",
    "prometheus.username": "the collection reads each node's identifier from its metrics without a password; guard the metrics ports with a firewall",
    "prometheus.password": "see prometheus.username",
    "development": "it is for a developer's machine: debug logs and open debug pages; nothing else of the configuration depends on it",
    "rtc.force_tcp": "it is for tests: media would never use UDP",
}
GONE = ("unknown_key", "key_removed", "key_too_new")  # what livekit-server reads over, or is told by a flag to read over


def adopt(config: t.Mapping[str, t.Any], version: str, where: str = "livekit.yaml", texts: Texts | None = None) -> Found:
    """Variables of a configuration; where: what its rows call it; texts: the files that it names, as far as they could be read.

    FleetError for values that LiveKit does not take, as no running node can have them.
    """
    found = Found({"livekit_version": version}, config=dict(config), where=where)
    left = _cleaned(plain(config), version, where, found)
    for path, note in NO_PLACE.items():
        value = paths.pop(left, path)
        if value not in (None, False, "", 0):
            found.dropped(f"{where}: {path}", value, note)
    _keys(left, where, texts or {}, found)
    _simple(left, where, found)
    _addresses(left, where, found)
    _turn(left, where, texts or {}, found)
    _section(left, "webhook", where, found)
    _redis(left, where, found)
    for path in PORTS:
        paths.pop(left, path)
    if left:
        found.variables["livekit_server_config"] = left
        for path, value in paths.flat(left).items():
            found.mapped(f"{where}: {path}", value, f"livekit_server_config.{path}")
    return found


def _cleaned(config: dict[str, t.Any], version: str, where: str, found: Found) -> dict[str, t.Any]:
    """A copy without nulls and without what this release does not know; Go takes whole numbers for durations, in nanoseconds."""
    left = t.cast("dict[str, t.Any]", _without_nulls(copy.deepcopy(config)))
    _spell_durations(left)
    wrong: list[Problem] = []
    for problem in config_keys.unknown_keys(left, version):
        if problem.code in GONE:
            value = paths.pop(left, problem.where)
            found.dropped(f"{where}: {problem.where}", value, f"{problem.text}, so it has no effect now. {problem.fix}")
        else:
            wrong.append(problem)
    raise_for(wrong, on=where)
    return left


def _spell_durations(left: dict[str, t.Any]) -> None:
    for path, value in paths.flat(left).items():
        key = schema.KEYS.get(path)
        if key and key.type == "duration" and isinstance(value, int) and not isinstance(value, bool):
            paths.put(left, path, f"{value}ns")


def _without_nulls(value: t.Any) -> t.Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _keys(left: dict[str, t.Any], where: str, texts: Texts, found: Found) -> None:
    file, keys = paths.pop(left, "key_file", ""), paths.pop(left, "keys", {})
    if file and file in texts:  # LiveKit prefers it too
        keys = key_file(texts[file])
    elif file:
        found.todo(f"{where}: key_file", file, "the file could not be read: set livekit_keys to what is in it, {key: secret}")
    if keys:
        found.variables["livekit_keys"] = keys
        found.mapped(f"{where}: {'key_file' if file else 'keys'}", keys, "livekit_keys", "in the file of secrets")


def key_file(text: str) -> dict[str, str]:
    """LiveKit's key file or LIVEKIT_KEYS: "key: secret" per line, {key: secret, …} on one, or JSON's quotes."""
    body = text.strip()
    lines = body[1:-1].split(",") if body.startswith("{") and body.endswith("}") else body.splitlines()
    pairs = [line.partition(":") for line in lines if line.strip() and not line.strip().startswith("#")]
    return {name.strip().strip("'\""): secret.strip().strip("'\"") for name, _colon, secret in pairs}


def _simple(left: dict[str, t.Any], where: str, found: Found) -> None:
    if region := paths.pop(left, "region"):
        found.variables["livekit_region"] = region
        found.mapped(f"{where}: region", region, "livekit_region")
    old, level = paths.pop(left, "log_level"), paths.pop(left, "logging.level")
    if level := old or level:
        found.variables["livekit_log_level"] = level
        found.mapped(f"{where}: {'log_level' if old else 'logging.level'}", level, "livekit_log_level")


def _addresses(left: dict[str, t.Any], where: str, found: Found) -> None:
    bind = [address for address in paths.pop(left, "bind_addresses", []) if address not in ("", "0.0.0.0", "::")]
    if bind:
        found.dropped(f"{where}: bind_addresses", bind,
                      "the balancer and the gates reach a slot at livekit_address, so it listens on every address; close the ports with a firewall")
    external, node_ip = paths.pop(left, "rtc.use_external_ip"), paths.pop(left, "rtc.node_ip")
    if external is not None:
        found.variables["livekit_use_external_ip"] = external
        found.mapped(f"{where}: rtc.use_external_ip", external, "livekit_use_external_ip")
    if node_ip and external:
        found.dropped(f"{where}: rtc.node_ip", node_ip, "rtc.use_external_ip goes before it, so it has no effect now")
    elif node_ip:
        found.variables["livekit_node_ip"] = node_ip
        found.mapped(f"{where}: rtc.node_ip", node_ip, "livekit_node_ip")


def _turn(left: dict[str, t.Any], where: str, texts: Texts, found: Found) -> None:
    section = paths.pop(left, "turn", {})
    if not section.get("enabled"):
        if rest := {name: value for name, value in section.items() if value and name != "enabled"}:
            found.dropped(f"{where}: turn", rest, "turn.enabled is not true, so the section has no effect now")
        return
    turn = {name: value for name, value in section.items() if f"turn.{name}" not in PORTS and value not in ("", [], {})}
    turn.update({name: 0 for name in ("tls_port", "udp_port") if not section.get(name)})
    ends_tls = turn.get("tls_port") != 0 and not turn.get("external_tls")
    for variable, (_file, key) in PEM_FILES.items():
        path = turn.pop(key, "")
        if ends_tls and path in texts:
            turn[variable] = texts[path]
            found.mapped(f"{where}: turn.{key}", path, f"livekit_turn.{variable}", "its content, in the file of secrets; rotate_certificates renews it")
        elif ends_tls:
            found.todo(f"{where}: turn.{key}", path, f"the file could not be read: set livekit_turn.{variable} to its content (PEM)")
    found.variables["livekit_turn"] = turn
    for name, value in turn.items():
        if name not in PEM_FILES:
            found.mapped(f"{where}: turn.{name}", value, f"livekit_turn.{name}")


def _section(left: dict[str, t.Any], name: str, where: str, found: Found) -> None:
    section = paths.pop(left, name, {})
    if section:
        found.variables[f"livekit_{name}"] = section
        for path, value in paths.flat(section).items():
            found.mapped(f"{where}: {name}.{path}", value, f"livekit_{name}.{path}")


def redis_of(config: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The redis section without what is LiveKit's own default there, which is nothing and zero everywhere."""
    def bare(value: t.Any) -> t.Any:
        return {k: bare(v) for k, v in value.items() if v not in (None, "", [], {}, 0, False)} if isinstance(value, dict) else value
    section = bare(plain(config.get("redis") or {}))
    return {name: value for name, value in section.items() if value != {}} if is_shared(section) else {}


def is_shared(redis: t.Mapping[str, t.Any]) -> bool:
    """Whether this section makes a node one of a cluster."""
    return any(redis.get(name) for name in ("address", "sentinel_addresses", "cluster_addresses"))


def _redis(left: dict[str, t.Any], where: str, found: Found) -> None:
    redis = redis_of({"redis": paths.pop(left, "redis", {})})
    if not redis:
        found.todo(f"{where}: redis", "", "there is none, so no second node can run beside this one: its calls have to end before anything changes")
        return
    found.variables["livekit_redis"] = redis
    for path, value in paths.flat(redis).items():
        found.mapped(f"{where}: redis.{path}", value, f"livekit_redis.{path}")


def tell_ports(config: t.Mapping[str, t.Any], layout: Layout, where: str, found: Found) -> None:
    """The variables of the layout, and a row for every port."""
    found.variables.update(livekit_slots=layout.count, livekit_layout=ports.changed(layout))
    slots = [layout.ports(n) for n in layout.numbers]
    turn = bool(paths.get(config, "turn.enabled"))
    shown = {"port": [p.signal for p in slots], "rtc.tcp_port": [p.ice_tcp for p in slots], "prometheus.port": [p.metrics for p in slots],
             "prometheus_port": [p.metrics for p in slots], "turn.udp_port": [p.turn_udp for p in slots], "turn.tls_port": [p.turn_tls for p in slots]}
    for path in PORTS:
        value = paths.get(config, path)
        if value and (turn or not path.startswith("turn.")):
            to = config_checks.OWNED.get(path, "livekit_layout")
            new = ", ".join(map(str, shown[path])) if path in shown else "ranges of their own"
            found.chosen(f"{where}: {path}", value, to if to.startswith("livekit_layout") else "livekit_layout",
                         f"slots get {new}, as the node that runs keeps its ports until its last call has ended")
    public = [f"TCP {', '.join(str(p.ice_tcp) for p in slots)}", f"UDP {slots[0].udp[0]}-{slots[-1].udp[1]}"]
    if turn and paths.get(config, "turn.udp_port"):
        public.append(f"UDP {', '.join(str(p.turn_udp) for p in slots)}")
    found.todo("firewall", "; ".join(public), "open these to everybody before the take-over, as the old ones are; to the control machine "
               f"also TCP {', '.join(str(p.signal) for p in slots)} and 8404")


# --- the way back -----------------------------------------------------------------------------------------------------

def differences(config: t.Mapping[str, t.Any], rendered: t.Mapping[str, t.Any], rows: t.Iterable[Row], where: str = "livekit.yaml") -> list[Row]:
    """Every key that a slot will have otherwise than the former node has it, but for those whose row says so already.

    rows: those of adopt(). A difference that nobody chose is a mistake of ours: its note says so.
    """
    told = [row.source.removeprefix(f"{where}: ") for row in rows if row.what == DROPPED]
    before, after = _comparable(config), _comparable(rendered)
    out = []
    for path in sorted({*before, *after}):
        if before.get(path) == after.get(path) or paths.within(path, told) or paths.within(path, (*PORTS, *FILES)):
            continue
        if path not in before:
            note = "a default of this collection; livekit_server_config sets it otherwise"
        elif path not in after and path == "bind_addresses":
            continue  # every address, which is the default
        else:
            note = f"would become {show(path, after.get(path)) or 'unset'} without a reason: set livekit_server_config.{path}, and tell us"
        out.append(Row(f"{where}: {path}", f"{show(path, before.get(path)) or 'unset'} → {show(path, after.get(path)) or 'unset'}", CHOSEN, "", note))
    return out


def _comparable(config: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Flat, with every setting under the one name that means it, and without what says nothing."""
    left = t.cast("dict[str, t.Any]", _without_nulls(copy.deepcopy(plain(config))))
    _spell_durations(left)
    if level := paths.pop(left, "log_level"):
        paths.put(left, "logging.level", level)
    redis = paths.pop(left, "redis", {})
    if redis := redis_of({"redis": redis}):
        left["redis"] = redis
    if not paths.get(left, "turn.enabled"):
        paths.pop(left, "turn")
    turn = left.get("turn", {})
    if isinstance(turn, dict):
        for name in [name for name, value in turn.items() if value in ("", [])]:
            del turn[name]
    external = paths.get(left, "rtc.use_external_ip")
    if external is False:
        paths.pop(left, "rtc.use_external_ip")
    if external or paths.get(left, "rtc.node_ip") == "":
        paths.pop(left, "rtc.node_ip")
    if left.get("region") == "":
        del left["region"]
    return {path: re.sub(r"\s+", "", value) if path == "rtc.node_ip" else value for path, value in paths.flat(left).items() if value != {}}
