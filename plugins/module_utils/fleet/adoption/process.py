# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node was started with besides its file: command line and environment, which go before the file. Pure.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import copy
import typing as t

from .. import schema
from ..config import plain
from ..errors import FleetError
from . import paths
from .livekit_config import key_file

FLAGS = {
    "config": "", "config-body": "", "disable-strict-config": "", "key-file": "key_file", "keys": "keys", "region": "region", "node-ip": "rtc.node_ip",
    "udp-port": "rtc.udp_port", "redis-host": "redis.address", "redis-password": "redis.password", "turn-cert": "turn.cert_file",
    "turn-key": "turn.key_file", "bind": "bind_addresses", "dev": "development",
}
SWITCHES = ("disable-strict-config", "dev")
ENVIRONMENT = {
    "LIVEKIT_KEYS": "keys", "LIVEKIT_KEY_FILE": "key_file", "LIVEKIT_REGION": "region", "NODE_IP": "rtc.node_ip", "UDP_PORT": "rtc.udp_port",
    "REDIS_HOST": "redis.address", "REDIS_PASSWORD": "redis.password", "LIVEKIT_TURN_CERT": "turn.cert_file", "LIVEKIT_TURN_KEY": "turn.key_file",
}
SCALARS = ("int", "uint", "float", "bool", "str", "duration", "ports")


def flags(arguments: t.Sequence[str]) -> dict[str, t.Any]:
    """{flag without dashes: value} of livekit-server's command line; `bind` may come several times, so it is a list."""
    out: dict[str, t.Any] = {}
    rest = [str(word) for word in arguments]
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        path = FLAGS.get(name, name)
        if not equals:
            boolean = name in SWITCHES or (path in schema.KEYS and schema.KEYS[path].type == "bool")
            value = "true" if boolean or not rest else rest.pop(0)
        out[name] = [*out.get(name, ()), value] if name == "bind" else value
    return out


def environment(entries: t.Iterable[str] | t.Mapping[str, t.Any]) -> dict[str, str]:
    """{name: value} of Docker's list of NAME=value, or of the mapping that Compose takes as well."""
    if isinstance(entries, t.Mapping):
        return {str(name): str(value) for name, value in entries.items() if value is not None}
    return {name: value for name, equals, value in (str(entry).partition("=") for entry in entries) if equals}


def effective(config: t.Mapping[str, t.Any], arguments: t.Sequence[str], env: t.Mapping[str, str]) -> dict[str, t.Any]:
    """The configuration that the node runs with: the file's, under the environment, under the command line."""
    out: dict[str, t.Any] = copy.deepcopy(plain(config))
    generated = {"LIVEKIT_" + path.upper().replace(".", "_"): path for path, key in schema.KEYS.items() if key.type in SCALARS and "[]" not in path}
    for name, value in env.items():
        path = ENVIRONMENT.get(name) or generated.get(name)
        if path and value:
            _lay(out, path, value, f"environment variable {name}")
    for name, value in flags(arguments).items():
        path = FLAGS.get(name, name)
        if path in schema.KEYS:
            _lay(out, path, value, f"option --{name}")
    return out


def _lay(config: dict[str, t.Any], path: str, value: t.Any, where: str) -> None:
    if path == "keys":
        value = key_file(value)
    kind = schema.KEYS[path].type
    try:
        if kind in ("int", "uint"):
            value = int(value)
        elif kind == "float":
            value = float(value)
        elif kind == "bool":
            value = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}[str(value).lower()]
        elif kind == "ports" and str(value).isdigit():
            value = int(value)
    except (KeyError, ValueError) as exc:
        raise FleetError("read how LiveKit was started", where, f"{value!r} is not {schema.TYPES[kind]}", "Correct it where LiveKit is started now",
                         code="adopt_value") from exc
    paths.put(config, path, value)
