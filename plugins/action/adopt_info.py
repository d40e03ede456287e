# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a former deployment, prints what became of it and returns an inventory. Documented in modules/adopt_info.py."""
from __future__ import annotations

import ipaddress
import typing as t

import yaml
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.adoption import folder, inventory, livekit_config, release
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.adoption.found import Found, report
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError

ARGUMENT_SPEC: dict[str, t.Any] = {
    "folder": {"type": "path"},
    "service": {"type": "str"},
    "version": {"type": "str"},
    "release": {"type": "str"},
    "namespace": {"type": "str", "default": "default"},
    "values": {"type": "dict", "default": {}, "no_log": True},
    "objects": {"type": "list", "elements": "dict", "default": [], "no_log": True},
    "connection": {"type": "dict", "default": {}},
    "socket": {"type": "path", "default": "/var/run/docker.sock"},
}
COMPOSE_FILES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        dummy, args = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC, mutually_exclusive=[("folder", "release")],
                                                  required_one_of=[("folder", "release")])
        host = (task_vars or {}).get("inventory_hostname", "host")
        try:
            if args["folder"]:
                found, connection, origin = self.folder(args, host, task_vars or {})
            else:
                found, connection, origin = self.release(args), {}, f"Helm release {args['release']} in namespace {args['namespace']}"
                host = args["release"]
            found.rows += way_back(found)
            files = inventory.files(found, host, {**args["connection"], **connection}, origin)
        except FleetError as exc:
            return {**result, "failed": True, **exc.as_result()}
        for line in report(found.rows):
            Display().display(line)
        open_ones, secrets = inventory.split(found.variables)
        return {**result, "changed": False, "rows": [row.as_dict() for row in found.rows], "variables": open_ones, "secrets": secrets,
                "files": [file.as_dict() for file in files], "_ansible_no_log": True}

    def folder(self, args: dict[str, t.Any], host: str, task_vars: dict[str, t.Any]) -> tuple[Found, dict[str, t.Any], str]:
        """(what was found, how the host is reached, from where)."""
        path = args["folder"].rstrip("/") or "/"
        seen = self.read({**args, "folder": path}, task_vars)
        if seen["slots"]:
            raise FleetError("adopt this host", host, f"it runs nodes of this collection already ({', '.join(seen['slots'])})",
                             "Go on with the inventory that was written for it: ports are chosen once", code="adopted_already")
        texts = seen["files"]
        named = {name.removeprefix(f"{path}/"): parsed(name, text) for name, text in texts.items() if name.endswith((".yaml", ".yml"))}
        documents = {name: document for name, document in named.items() if isinstance(document, dict)}
        compose = next((name for name in COMPOSE_FILES if name in documents), "")
        if not compose:
            raise FleetError("adopt this folder", f"{host}:{path}", f"it has no compose file ({', '.join(sorted(named)) or 'no YAML at all'})",
                             "Correct livekit_adopt_folder", code="adopt_folder")
        given = folder.Folder(path, documents, texts, seen["containers"], seen["versions"], seen["listening"], seen["vcpus"], compose_name=compose,
                              service_name=args["service"] or "", version=args["version"] or "")
        found = folder.adopt(given, host)
        found.variables["livekit_adopt_compose_file"] = compose
        return found, {} if reached(args["connection"]) else {"livekit_address": seen["address"]}, f"{path} on {host}"

    def read(self, args: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """The module on the host. What it answers holds secrets: it is not shown, however verbose the run is."""
        context = self._play_context
        before, context.no_log = context.no_log, True
        try:
            seen = self._execute_module(module_name="openrtc.livekit.adopt_info", module_args={"folder": args["folder"], "socket": args["socket"]},
                                        task_vars=task_vars)
        finally:
            context.no_log = before
        if seen.get("failed"):
            f = dict(seen.get("failure") or {"tried": "run module adopt_info", "on": args["folder"], "got": seen.get("msg", "failed"), "fix": "See above"})
            raise FleetError(f.pop("tried"), f.pop("on"), f.pop("got"), f.pop("fix"), **f)
        return t.cast("dict[str, t.Any]", seen)

    def release(self, args: dict[str, t.Any]) -> Found:
        given = release.Release(args["release"], args["namespace"], config.plain(args["values"]), config.plain(args["objects"]), load=load)
        return release.adopt(given, args["version"] or "")


def load(text: str) -> t.Any:
    return yaml.safe_load(text)


def parsed(name: str, text: str) -> t.Any:
    try:
        return load(text)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "somewhere"  # no text of the file: it may hold secrets
        raise FleetError("read a file of the former deployment", name, f"it is no YAML ({where})", "Correct it", code="adopt_config") from exc


def reached(connection: t.Mapping[str, t.Any]) -> bool:
    """Whether the present inventory knows an IP address of the host."""
    try:
        return bool(ipaddress.ip_address(str(connection.get("livekit_address") or connection.get("ansible_host"))))
    except ValueError:
        return False


def way_back(found: Found) -> list[t.Any]:
    """Rows for every difference between what LiveKit runs with and what a slot would."""
    model, layout = config.Model.from_vars(found.variables), config.layout_of(found.variables)
    return livekit_config.differences(found.config, config.render(model, layout.ports(1), "keys.yaml"), found.rows, found.where)
