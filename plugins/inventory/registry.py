# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: registry
short_description: Hosts of a LiveKit cluster from its registry in Redis
version_added: 0.1.0
author: openrtc.livekit contributors (@openrtc)
description:
  - Makes one host of each address that a node of the cluster has, with its nodes as variables. Nodes come and go, a host may run several.
  - A host that an inventory source read before this one knows by that address keeps its name and gets the variables added.
  - Reads O(redis) in one round trip. The file that names this plugin must end in C(livekit.yml) or C(livekit.yaml).
  - The groups are C(livekit_region_REGION), C(livekit_state_STATE) with C(serving), C(draining) or C(stale) as the state, and, with O(versions),
    C(livekit_version_VERSION). A host is in a group if one of its nodes is.
extends_documentation_fragment:
  - openrtc.livekit._registry.required
  - constructed
  - inventory_cache
options:
  plugin:
    description: Name of this plugin.
    type: str
    required: true
    choices: [openrtc.livekit.registry, registry]
  group:
    description: Group that all hosts are put into.
    type: str
    default: livekit_registry
  names:
    description: Names of hosts by the address of their nodes.
    type: dict
    default: {}
  match_variables:
    description: Variables in which a host of an earlier inventory source may have the address of its nodes, and so is known by it.
    type: list
    elements: str
    default: [livekit_node_ip, livekit_address, ansible_host]
  versions:
    description:
      - Ask the nodes which LiveKit version they run. The registry does not know; each node tells it on its signalling port to anyone with
        a key, without a room being opened.
      - A node that cannot be reached at its own address on any of O(signal_ports) has an empty version.
    type: bool
    default: false
  signal_ports:
    description: Signalling ports of the slots, the first slot first.
    type: list
    elements: int
    default: [7880, 7890, 7900]
  api_key:
    description: Key of LiveKit's C(keys), for O(versions).
    type: str
    env:
      - name: LIVEKIT_API_KEY
  api_secret:
    description: Secret of that key.
    type: str
    env:
      - name: LIVEKIT_API_SECRET
"""

EXAMPLES = r"""
# cluster.livekit.yml
plugin: openrtc.livekit.registry
redis:
  address: 10.0.0.5:6379
  password: "{{ lookup('ansible.builtin.env', 'LIVEKIT_REDIS_PASSWORD') }}"
names:
  203.0.113.11: sfu1
  203.0.113.12: sfu2
compose:
  ansible_host: "'10.0.0.' ~ livekit_registry_ip.split('.')[3]"
groups:
  livekit_busy: livekit_registry_cpu_load > 0.7
keyed_groups:
  - prefix: livekit_nodes
    key: livekit_registry_nodes | length | string
"""

import ipaddress
import typing as t

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import api, registry
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.registry_messages import Node


def standing(node: Node, now: float) -> str:
    """serving, draining, stale, or LiveKit's own word in lower case."""
    if not node.fresh(now):
        return "stale"
    return {"SERVING": "serving", "SHUTTING_DOWN": "draining"}.get(node.state, node.state.lower())


def rows(snapshot: registry.Snapshot) -> list[dict[str, t.Any]]:
    """The nodes as variables: plain data, since it goes into the cache."""
    by_node = snapshot.rooms_by_node()
    ordered = sorted(snapshot.nodes.values(), key=lambda n: (n.ip, n.started_at, n.id))
    return [
        {**n.as_dict(), "age": round(n.age(snapshot.taken_at), 1), "fresh": n.fresh(snapshot.taken_at), "standing": standing(n, snapshot.taken_at),
         "rooms": by_node.get(n.id, []), "version": "", "signal_port": None}
        for n in ordered
    ]


def host_variables(ip: str, nodes: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    """What a host gets. The plain ones are of its living nodes taken together."""
    alive = [n for n in nodes if n["fresh"]]
    serving = [n for n in alive if n["standing"] == "serving"]
    newest = max(serving or alive or nodes, key=lambda n: n["started_at"])
    return {
        "livekit_registry_ip": ip,
        "livekit_registry_nodes": nodes,
        "livekit_registry_node_id": newest["id"],
        "livekit_registry_region": newest["region"],
        "livekit_registry_state": newest["standing"],
        "livekit_registry_version": newest["version"],
        "livekit_registry_cpu_load": newest["cpu_load"],
        "livekit_registry_rooms": sorted(room for n in alive for room in n["rooms"]),
        "livekit_registry_participants": sum(n["num_clients"] for n in alive),
    }


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    NAME = "openrtc.livekit.registry"

    def verify_file(self, path: str) -> bool:
        return super().verify_file(path) and path.endswith(("livekit.yml", "livekit.yaml"))

    def parse(self, inventory: t.Any, loader: t.Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache=cache)
        self._read_config_data(path)
        self.load_cache_plugin()
        key = self.get_cache_key(path)
        wanted, use = self.get_option("cache"), self.get_option("cache") and cache
        nodes = None
        if use:
            try:
                nodes = self._cache[key]
            except KeyError:
                pass
        if nodes is None:
            try:
                nodes = self._ask()
            except FleetError as exc:
                raise AnsibleParserError(str(exc)) from exc
            if wanted:
                self._cache[key] = nodes
        self._fill(nodes)

    def _setting(self, name: str) -> t.Any:
        return self.templar.template(self.get_option(name))

    def _ask(self) -> list[dict[str, t.Any]]:
        with registry.connect(self._setting("redis")) as store:
            found = rows(store.snapshot())
        if self.get_option("versions"):
            self._add_versions(found)
        return found

    def _add_versions(self, nodes: list[dict[str, t.Any]]) -> None:
        key, secret = self._setting("api_key"), self._setting("api_secret")
        if not key or not secret:
            raise FleetError("ask the versions of the nodes", "option versions", "api_key or api_secret is not set",
                             "Set both, or LIVEKIT_API_KEY and LIVEKIT_API_SECRET in the environment", code="api_unauthorized")
        addresses = sorted({n["ip"] for n in nodes if n["fresh"]})
        urls = {f"http://{_bracketed(ip)}:{port}": port for ip in addresses for port in self.get_option("signal_ports")}
        by_id = {n["id"]: n for n in nodes}
        for url, info in api.server_infos(urls, key, secret).items():
            if isinstance(info, FleetError):
                self.display.vvv(str(info))
                if info.failure["code"] == "api_unauthorized":
                    self.display.warning(str(info))
            elif info.node_id in by_id:
                by_id[info.node_id].update(version=info.version, signal_port=urls[url])

    def _known(self) -> dict[str, str]:
        """{address: name of a host}: by option names, then by what earlier inventory sources say."""
        found: dict[str, str] = {}
        for variable in reversed(self.get_option("match_variables")):
            for name, host in self.inventory.hosts.items():
                value = host.vars.get(variable)
                if isinstance(value, str):
                    found[value] = name
        found.update({name: name for name in self.inventory.hosts if name not in found})
        found.update({str(ip): str(name) for ip, name in (self._setting("names") or {}).items()})
        return found

    def _fill(self, nodes: list[dict[str, t.Any]]) -> None:
        known, strict = self._known(), self.get_option("strict")
        top = self._group(self.get_option("group"))
        by_ip: dict[str, list[dict[str, t.Any]]] = {}
        for node in nodes:
            by_ip.setdefault(node["ip"], []).append(node)
        for ip, own in by_ip.items():
            name = known.get(ip, ip)
            is_new = name not in self.inventory.hosts
            self.inventory.add_host(name, group=top)
            if is_new and name != ip:
                self.inventory.set_variable(name, "ansible_host", ip)
            variables = host_variables(ip, own)
            for variable, value in variables.items():
                self.inventory.set_variable(name, variable, value)
            for kind, field in (("region", "region"), ("state", "standing"), ("version", "version")):
                for value in sorted({n[field] for n in own if n[field]}):
                    self.inventory.add_host(name, group=self._group(f"livekit_{kind}_{value}"))
            self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
            self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
            self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)

    def _group(self, name: str) -> str:
        return self.inventory.add_group(self._sanitize_group_name(name))


def _bracketed(ip: str) -> str:
    try:
        return f"[{ip}]" if ipaddress.ip_address(ip).version == 6 else ip
    except ValueError:
        return ip
