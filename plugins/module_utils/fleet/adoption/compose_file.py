# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compose file of the former deployment: what its services are, and one that is not to be started any more. Pure.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import re
import shlex
import typing as t

from ..errors import FleetError

PROFILE = "before-adoption"  # of the former service: Compose starts no service of a profile that nobody asks for
_VARIABLE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)(?:(:?[-?+])([^}]*))?\})")


def env_file(text: str) -> dict[str, str]:
    """The names and values of a .env file."""
    pairs = (line.strip().removeprefix("export ").partition("=") for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return {name.strip(): value.strip().strip("'\"") for name, equals, value in pairs if equals}


def interpolated(value: t.Any, env: t.Mapping[str, str]) -> t.Any:
    """A value of the compose file with its ${NAME}, ${NAME:-default} and $$ replaced."""
    if isinstance(value, dict):
        return {name: interpolated(inner, env) for name, inner in value.items()}
    if isinstance(value, list):
        return [interpolated(inner, env) for inner in value]
    return _VARIABLE.sub(lambda m: _value(m, env), value) if isinstance(value, str) else value


def _value(match: re.Match[str], env: t.Mapping[str, str]) -> str:
    if match[1]:
        return "$"
    name, operator, word = match[2] or match[3], match[4] or "", match[5] or ""
    known = env.get(name, "") if operator.startswith(":") else env.get(name)
    if operator.endswith("+"):
        return word if known else ""
    return known or word if operator.startswith(":") else word if known is None else known


def command(service: t.Mapping[str, t.Any]) -> list[str]:
    words = service.get("command") or []
    return shlex.split(words) if isinstance(words, str) else [str(word) for word in words]


def mounts(service: t.Mapping[str, t.Any], folder: str) -> dict[str, str]:
    """{path in the container: path on the host} of its bind mounts."""
    out = {}
    for volume in service.get("volumes") or []:
        source, target = (volume.get("source"), volume.get("target")) if isinstance(volume, dict) else (str(volume).split(":") + [None])[:2]
        if source and target and str(source).startswith((".", "/")):
            out[str(target)] = str(source) if str(source).startswith("/") else f"{folder}/{str(source).removeprefix('./')}"
    return out


def livekit_service(services: t.Mapping[str, t.Any]) -> str:
    """The name of the one service that is livekit-server. FleetError where it is none or several."""
    names = [name for name, service in services.items() if re.search(r"(^|/)livekit-server([:@]|$)", str((service or {}).get("image", "")))]
    if len(names) != 1:
        raise FleetError("find LiveKit in the compose file", "services", f"{len(names)} of {', '.join(services) or 'none'} run an image livekit-server",
                         "Name the service with livekit_adopt_service", code="adopt_service", services=list(services))
    return names[0]


def dependents(services: t.Mapping[str, t.Any], name: str) -> list[str]:
    """Services that Compose will not start without this one."""
    return [other for other, service in services.items() if name in ((service or {}).get("depends_on") or [])]


def retired(text: str, name: str) -> str:
    """The compose file with the service put into a profile that nobody starts: one line more. The same text where it is there already."""
    lines = text.splitlines(keepends=True)
    depth, start = None, None
    for number, line in enumerate(lines):
        if depth is None and re.match(r"services\s*:", line):
            depth = 0
        elif depth is not None and (match := re.match(rf"(\s+)([\"']?){re.escape(name)}\2\s*:\s*(#.*)?$", line)):
            start, depth = number, len(match[1])
            break
    if start is None:
        raise FleetError("take LiveKit out of the compose file", f"service {name}", "it has no block of its own below services",
                         "Write it in block form, a line for each key", code="adopt_service")
    indent = next((len(line) - len(line.lstrip()) for line in lines[start + 1:] if line.strip() and not line.lstrip().startswith("#")), 0)
    if indent <= t.cast(int, depth):
        raise FleetError("take LiveKit out of the compose file", f"service {name}", "it is empty", "Correct the file", code="adopt_service")
    for line in lines[start + 1:]:
        if line.strip() and len(line) - len(line.lstrip()) <= t.cast(int, depth):
            break
        if re.match(r"\s*profiles\s*:", line):
            if PROFILE in line:
                return text
            raise FleetError("take LiveKit out of the compose file", f"service {name}", "it has profiles of its own",
                             f"Add {PROFILE} to them and take the others out once the node has ended", code="adopt_service")
    if not lines[start].endswith("\n"):
        lines[start] += "\n"
    lines.insert(start + 1, f"{' ' * indent}profiles: [{PROFILE}]\n")
    return "".join(lines)
