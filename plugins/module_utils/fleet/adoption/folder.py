# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deployment in the form of LiveKit's own generator: a folder with a compose file, livekit.yaml, caddy.yaml, redis.conf.

Pure: what was read on the host goes in, with YAML as mappings already. What runs goes before what the files say.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import re
import typing as t

from ..errors import FleetError
from ..schema import VERSION
from . import caddy, compose_file, livekit_config, paths, ports, process
from .found import Found

Mapping = t.Dict[str, t.Any]
INGRESS_PORTS = {"rtmp_port": 1935, "whip_port": 8080, "http_relay_port": 9090}
PROJECT_LABEL, SERVICE_LABEL = "com.docker.compose.project.working_dir", "com.docker.compose.service"


@dataclasses.dataclass
class Folder:
    """What the host has. documents: YAML files by name, as mappings; texts: every other file by its path on the host; containers: as Docker
    inspects them; versions: {container id: version that its livekit-server tells}; listening: [["tcp", 443], …]."""

    path: str
    documents: dict[str, Mapping]
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    containers: list[Mapping] = dataclasses.field(default_factory=list)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    listening: list[list[t.Any]] = dataclasses.field(default_factory=list)
    vcpus: int = 1
    address: str = ""
    compose_name: str = "docker-compose.yaml"
    service_name: str = ""
    version: str = ""  # as an operator says, where nothing else does

    @property
    def services(self) -> dict[str, Mapping]:
        env = compose_file.env_file(self.texts.get(f"{self.path}/.env", ""))
        found = self.documents.get(self.compose_name, {}).get("services") or {}
        return {name: service or {} for name, service in compose_file.interpolated(found, env).items()}

    @property
    def service(self) -> str:
        return self.service_name or compose_file.livekit_service(self.services)

    def container(self, service: str) -> Mapping | None:
        """The one that runs for a service of this folder."""
        return next((c for c in self.containers if (c["Config"].get("Labels") or {}).get(SERVICE_LABEL) == service), None)


@dataclasses.dataclass(frozen=True)
class Server:
    """How the folder's LiveKit is started. files: {path in the container: path on the host}."""

    config: Mapping
    version: str
    image: str
    files: dict[str, str]
    container: str = ""  # its id, "" where none runs


def on_host(path: str, files: t.Mapping[str, str]) -> str:
    """Where a path in the container is on the host; itself where no mount holds it."""
    for target in sorted(files, key=len, reverse=True):
        if path == target or path.startswith(target.rstrip("/") + "/"):
            return files[target].rstrip("/") + path[len(target.rstrip("/")):]
    return path


def server(folder: Folder) -> Server:
    """LiveKit as it runs, or as it would be started. FleetError adopt_service, adopt_config, adopt_version."""
    name = folder.service
    service, running = folder.services.get(name), folder.container(name)
    if service is None:
        raise FleetError("find LiveKit in the compose file", f"service {name}", "there is no such service", "Correct livekit_adopt_service",
                         code="adopt_service", services=list(folder.services))
    if (running["HostConfig"].get("NetworkMode") if running else service.get("network_mode")) != "host":
        raise FleetError("adopt LiveKit", f"service {name}", "its container has a network of its own, so its media ports are published one by one",
                         "Give it network_mode: host first; a slot always has the network of the host", code="adopt_network")
    arguments = list(running.get("Args") or []) if running else compose_file.command(service)
    env = process.environment(running["Config"].get("Env") or [] if running else service.get("environment") or {})
    files = compose_file.mounts(service, folder.path)
    if running:
        files = {mount["Destination"]: mount["Source"] for mount in running.get("Mounts") or [] if mount.get("Type") == "bind"}
    config = process.effective(_config(folder, files, arguments, env), arguments, env)
    image = str((running["Config"] if running else service).get("Image" if running else "image", ""))
    return Server(config, _version(folder, image, running), image, files, running["Id"] if running and running["State"]["Status"] == "running" else "")


def _config(folder: Folder, files: t.Mapping[str, str], arguments: t.Sequence[str], env: t.Mapping[str, str]) -> Mapping:
    given = process.flags(arguments)
    body = given.get("config-body") or env.get("LIVEKIT_CONFIG")
    if body:
        raise FleetError("read the configuration of LiveKit", "LIVEKIT_CONFIG", "it stands in the compose file itself",
                         "Put it into a file of its own and start LiveKit with --config FILE", code="adopt_config")
    path = on_host(str(given.get("config", "")), files)
    config = folder.documents.get(path.removeprefix(f"{folder.path}/"))
    if config is None:
        raise FleetError("read the configuration of LiveKit", path or "option --config", "there is no such file, or it is no mapping",
                         "See that livekit_adopt_folder is the folder that LiveKit is started from", code="adopt_config")
    return config


def _version(folder: Folder, image: str, running: Mapping | None) -> str:
    told = folder.versions.get(running["Id"], "") if running else ""
    tag = image.rpartition(":")[2].removeprefix("v") if ":" in image.rpartition("/")[2] else ""
    for found in (folder.version or told, tag):
        if VERSION.fullmatch(found):
            return found
    raise FleetError("tell the version of LiveKit", image or "image", "the tag names none, and no container runs that could be asked",
                     "Start it, or set livekit_adopt_version", code="adopt_version")


def adopt(folder: Folder, host: str) -> Found:
    """The inventory variables of the folder; host: its name in the inventory."""
    made = server(folder)
    texts = {name: folder.texts[on_host(name, made.files)] for name in
             (str(paths.get(made.config, path, "")) for path in ("key_file", "turn.cert_file", "turn.key_file"))
             if name and on_host(name, made.files) in folder.texts}
    found = Found({"livekit_target": "compose"})
    found.add(livekit_config.adopt(made.config, made.version, "livekit.yaml", texts))
    _image(folder, made, found)
    taken = [*ports.claims_of(made.config), *ports.listening(folder.listening), *_service_claims(folder)]
    layout = ports.beside(taken, folder.vcpus)
    livekit_config.tell_ports(made.config, layout, "livekit.yaml", found)
    _edge(folder, made, [*taken, *layout.claims(turn=True)], found)
    _others(folder, found)
    if not made.container:
        found.todo(folder.compose_name, folder.service, "its container does not run; without it there is nothing to take over, and deploy is enough")
    dependents = compose_file.dependents(folder.services, folder.service)
    if dependents:
        found.todo(f"{folder.compose_name}: depends_on", ", ".join(dependents), f"take {folder.service} out of their depends_on before the take-over, or "
                   "Compose will not start them without it")
    return found


def _image(folder: Folder, made: Server, found: Found) -> None:
    repository, _at, _digest = made.image.partition("@")
    repository = repository.rpartition(":")[0] if ":" in repository.rpartition("/")[2] else repository
    image = made.image if "@" in made.image else f"{repository}:v{made.version}"
    if image != f"livekit/livekit-server:v{made.version}":
        found.variables["livekit_compose_images"] = {"server": image}
    source = f"{folder.compose_name}: {folder.service}.image"
    if image == made.image:
        found.mapped(source, made.image, "livekit_version", "" if repository == "livekit/livekit-server" else "and livekit_compose_images.server")
    else:
        found.chosen(source, made.image, "livekit_version", f"{made.version} is what runs; a generation names one version, so it becomes {image}")


def _service_claims(folder: Folder) -> list[ports.Claim]:
    """Ports of the folder's other services that may not listen at the moment."""
    claims: list[ports.Claim] = []
    if "caddy.yaml" in folder.documents:
        claims += [("tcp", port, port, "Caddy") for port in (80, 443, 2019)]
    if "ingress.yaml" in folder.documents:
        given = (int(folder.documents["ingress.yaml"].get(key) or default) for key, default in INGRESS_PORTS.items())
        claims += [("tcp", port, port, "ingress") for port in given]
    return [claim for claim in claims if claim[1] > 0]


def _edge(folder: Folder, made: Server, taken: list[ports.Claim], found: Found) -> None:
    """HAProxy goes between Caddy and the slots; Caddy keeps port 443, the names and their certificates."""
    signal, turn_tls = int(made.config.get("port") or 7880), int(paths.get(made.config, "turn.tls_port", 0) or 0)
    routes = caddy.routes(folder.documents.get("caddy.yaml", {}))
    domain, plain = caddy.name_of(routes, signal), ports.port(taken, 7980)
    found.variables.update(livekit_balancer="haproxy", livekit_haproxy_port=0, livekit_haproxy_plain_port=plain, livekit_haproxy_plain_bind=["127.0.0.1"],
                           livekit_adopt_folder=folder.path, livekit_adopt_service=folder.service)
    if not domain:
        found.variables["livekit_adopt_edge"] = "manual"
        found.todo("the way in", "", f"no caddy.yaml leads to port {signal}: set livekit_public_url, and lead your callers from there to HAProxy at "
                   f"127.0.0.1:{plain} (livekit_haproxy_plain_bind) during the take-over")
        return
    upstreams = {signal: f"127.0.0.1:{plain}"}
    found.variables["livekit_public_url"] = f"wss://{domain}"
    found.mapped("caddy.yaml: server names", domain, "livekit_public_url", "Caddy keeps 443 and its certificates, and leads to HAProxy from then on")
    turn_domain = caddy.name_of(routes, turn_tls) if turn_tls and paths.get(made.config, "turn.enabled") else ""
    if turn_domain and paths.get(made.config, "turn.external_tls"):
        local = ports.port(taken, plain + 1)
        upstreams[turn_tls] = f"127.0.0.1:{local}"
        found.variables["livekit_haproxy_extra"] = turn_frontend(local)
        found.mapped("caddy.yaml: server names", turn_domain, "livekit_haproxy_extra", "TURN/TLS: Caddy ends TLS, HAProxy leads to a slot that serves")
    elif turn_domain:
        found.todo("caddy.yaml: server names", turn_domain, "TURN/TLS is passed on encrypted: lead it to the slots yourself (livekit_haproxy_extra)")
    found.variables.update(livekit_adopt_edge="caddy", livekit_adopt_upstreams={str(port): to for port, to in upstreams.items()})


def turn_frontend(port: int) -> str:
    """Text for haproxy.cfg: TURN whose TLS something before HAProxy has ended. A template: ports follow from livekit_layout."""
    follows = "track livekit_degraded/{{ host }}-s{{ ports.slot }}"
    return f"""\
frontend livekit_adopted_turn
    mode tcp
    option tcplog
    timeout client 24h
    bind 127.0.0.1:{port}
    default_backend livekit_adopted_turn

backend livekit_adopted_turn
    mode tcp
    balance leastconn
    timeout server 24h
{{% for host, address in livekit_haproxy_servers | openrtc.livekit.addresses(hostvars) | dictsort %}}
{{% for ports in livekit_layout | openrtc.livekit.slot_ports(count=livekit_slots) %}}
    server {{{{ host }}}}-s{{{{ ports.slot }}}} {{{{ address }}}}:{{{{ ports.turn_tls }}}} no-check no-agent-check {follows}
{{% endfor %}}
{{% endfor %}}
"""


def _others(folder: Folder, found: Found) -> None:
    """What else the folder holds."""
    neighbours, claims = [], [{"port": port, "use": use} for _tcp, port, _last, use in _service_claims(folder)]
    for name, service in folder.services.items():
        source, running = f"{folder.compose_name}: {name}", folder.container(name)
        kind = re.search(r"(^|/)(egress|ingress|sip)([:@]|$)", str(service.get("image", "")))
        if name == folder.service or "caddy" in str(service.get("image", "")):
            continue
        if kind and running:
            neighbours.append({"unit": running["Name"].lstrip("/"), "kind": kind[2]})
            found.mapped(source, service.get("image"), "livekit_neighbours", "it stays where it is; drains wait for it")
        elif "redis" in str(service.get("image", "")):
            found.mapped(source, service.get("image"), "livekit_redis", "it stays where it is, the new nodes must share it with the old one")
            claims.append({"port": 6379, "use": "Redis"})
        else:
            found.dropped(source, service.get("image"), "not part of LiveKit; it stays as it is")
    for name in ("egress.yaml", "ingress.yaml"):
        url = str(folder.documents.get(name, {}).get("ws_url", ""))
        if re.search(r"//(localhost|127\.|\[::1\])", url):
            found.todo(f"{name}: ws_url", url, "it leads to the node that will end: give it the public URL, then restart that service when it is idle")
    if neighbours:
        found.variables["livekit_neighbours"] = neighbours
    if claims:
        found.variables["livekit_server_claims"] = claims
