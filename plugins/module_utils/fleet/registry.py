# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry: what a LiveKit cluster says about itself in Redis.

connect() takes LiveKit's own `redis` section, Registry.snapshot() reads the whole state in one round trip, and
Snapshot answers questions about it without any further I/O. Everything here only reads.

LiveKit publishes no Python classes for its Node message, and hosts carry no livekit-protocol at all, so the messages
are described here: only the fields we use, in a descriptor pool of our own that cannot clash with anybody's.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import collections
import dataclasses
import ssl
import time
import typing as t

from .errors import FleetError, require

try:
    import redis
    import redis.backoff
    import redis.connection
    import redis.retry
except ImportError:
    redis = None  # type: ignore[assignment]

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.message import DecodeError
except ImportError:
    descriptor_pb2 = None  # type: ignore[assignment]

FRESH_SECONDS = 5.0  # LiveKit's own limit (selector AvailableSeconds): an older node gets no rooms
STATES = ("STARTING_UP", "SERVING", "SHUTTING_DOWN", "SUSPENDED")
TYPES = {0: "SERVER", 1: "CONTROLLER", 2: "MEDIA", 4: "TURN", 5: "SWEEPER", 6: "DIRECTOR", 7: "HOSTED_AGENT", 8: "SETTINGS"}
PARTICIPANT_STATES = ("JOINING", "JOINED", "ACTIVE", "DISCONNECTED")
PARTICIPANT_KINDS = {0: "STANDARD", 1: "INGRESS", 2: "EGRESS", 3: "SIP", 4: "AGENT", 7: "CONNECTOR", 8: "BRIDGE"}

# The messages: {message: [(field, number, type)]}. A type in upper case is a message or, with a leading *, repeated.
# Enums are read as int32: their wire form is the same, and a value added by a later LiveKit stays readable.
MESSAGES: dict[str, list[tuple[str, int, str]]] = {
    "NodeStatsRate": [
        ("duration", 3, "int64"), ("bytes_in", 8, "float"), ("bytes_out", 9, "float"), ("packets_in", 10, "float"),
        ("packets_out", 11, "float"), ("nack_total", 12, "float"), ("sys_packets_out", 13, "float"),
        ("sys_packets_dropped", 14, "float"),
    ],
    "NodeStats": [
        ("started_at", 1, "int64"), ("updated_at", 2, "int64"), ("num_rooms", 3, "int32"), ("num_clients", 4, "int32"),
        ("num_tracks_in", 5, "int32"), ("num_tracks_out", 6, "int32"), ("bytes_in", 7, "uint64"), ("bytes_out", 8, "uint64"),
        ("packets_in", 9, "uint64"), ("packets_out", 10, "uint64"), ("nack_total", 11, "uint64"), ("num_cpus", 17, "uint32"),
        ("load_avg_last1min", 18, "float"), ("load_avg_last5min", 19, "float"), ("load_avg_last15min", 20, "float"),
        ("cpu_load", 21, "float"), ("sys_packets_out", 28, "uint32"), ("sys_packets_dropped", 29, "uint32"),
        ("memory_total", 34, "uint64"), ("memory_used", 35, "uint64"), ("participant_rtc_connected", 44, "uint64"),
        ("forward_latency", 48, "uint32"), ("forward_jitter", 49, "uint32"), ("rates", 50, "*NodeStatsRate"),
    ],
    "Node": [
        ("id", 1, "string"), ("ip", 2, "string"), ("num_cpus", 3, "uint32"), ("stats", 4, "NodeStats"), ("type", 5, "int32"),
        ("state", 6, "int32"), ("region", 7, "string"),
    ],
    "Room": [
        ("sid", 1, "string"), ("name", 2, "string"), ("empty_timeout", 3, "uint32"), ("max_participants", 4, "uint32"),
        ("creation_time", 5, "int64"), ("metadata", 8, "string"), ("num_participants", 9, "uint32"),
        ("active_recording", 10, "bool"), ("num_publishers", 11, "uint32"), ("departure_timeout", 14, "uint32"),
    ],
    "ParticipantPermission": [
        ("can_subscribe", 1, "bool"), ("can_publish", 2, "bool"), ("can_publish_data", 3, "bool"), ("hidden", 7, "bool"),
        ("recorder", 8, "bool"), ("agent", 11, "bool"),
    ],
    "ParticipantInfo": [
        ("sid", 1, "string"), ("identity", 2, "string"), ("state", 3, "int32"), ("joined_at", 6, "int64"), ("name", 9, "string"),
        ("permission", 11, "ParticipantPermission"), ("is_publisher", 13, "bool"), ("kind", 14, "int32"),
    ],
}

_classes: dict[str, t.Any] = {}


def messages() -> t.Mapping[str, t.Any]:
    """{message name: protobuf class}; built once, on first use. Works with protobuf 3.21 (Debian 12, 13) up to 7."""
    require(descriptor_pb2, "protobuf", "python3-protobuf")
    if not _classes:
        field_type = descriptor_pb2.FieldDescriptorProto
        package = "openrtc_livekit_registry"
        file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
        for name, fields in MESSAGES.items():
            message = file.message_type.add(name=name)
            for field, number, kind in fields:
                added = message.field.add(name=field, number=number, label=field_type.LABEL_OPTIONAL)
                if kind.startswith("*"):
                    added.label = field_type.LABEL_REPEATED
                kind = kind.lstrip("*")
                if kind in MESSAGES:
                    added.type, added.type_name = field_type.TYPE_MESSAGE, f".{package}.{kind}"
                else:
                    added.type = getattr(field_type, f"TYPE_{kind.upper()}")
        pool = descriptor_pool.DescriptorPool()
        pool.AddSerializedFile(file.SerializeToString())
        if hasattr(message_factory, "GetMessageClass"):
            get_class = message_factory.GetMessageClass
        else:
            get_class = message_factory.MessageFactory(pool).GetPrototype
        _classes.update({name: get_class(pool.FindMessageTypeByName(f"{package}.{name}")) for name in MESSAGES})
    return _classes


@dataclasses.dataclass(frozen=True)
class Node:
    """One livekit-server process as it describes itself. Times are Unix seconds of the node's own clock."""

    id: str
    ip: str
    region: str
    state: str  # SERVING, SHUTTING_DOWN (draining); STARTING_UP and SUSPENDED are never set by a stock server
    type: str = "SERVER"
    started_at: int = 0
    updated_at: int = 0  # written every 2 s; LiveKit ignores nodes older than 5 s
    num_cpus: int = 0
    num_rooms: int = 0
    num_clients: int = 0  # participants hosted here, right while draining too
    num_tracks_in: int = 0
    num_tracks_out: int = 0
    bytes_in: int = 0  # since the node's start
    bytes_out: int = 0
    packets_in: int = 0
    packets_out: int = 0
    nack_total: int = 0
    bytes_in_rate: float = 0.0  # per second over LiveKit's shortest measuring interval; 0 in the first ~10 s of life
    bytes_out_rate: float = 0.0
    packets_in_rate: float = 0.0
    packets_out_rate: float = 0.0
    sys_packets_dropped_rate: float = 0.0
    cpu_load: float = 0.0  # 0..1, of the cgroup if there is one
    load_avg_last1min: float = 0.0  # of the whole machine, even in a container
    load_avg_last5min: float = 0.0
    load_avg_last15min: float = 0.0
    memory_total: int = 0  # bytes
    memory_used: int = 0
    sys_packets_out: int = 0
    sys_packets_dropped: int = 0
    forward_latency: int = 0
    forward_jitter: int = 0

    @classmethod
    def parse(cls, raw: bytes) -> Node:
        """A value of the hash `nodes`."""
        message = messages()["Node"].FromString(raw)
        stats = message.stats
        values: dict[str, t.Any] = {name: getattr(stats, name) for name in _STATS}
        if stats.rates:
            values.update({f"{name}_rate": getattr(stats.rates[0], name) for name in _RATES})
        values["num_cpus"] = message.num_cpus or stats.num_cpus
        state = STATES[message.state] if 0 <= message.state < len(STATES) else f"STATE_{message.state}"
        kind = TYPES.get(message.type, f"TYPE_{message.type}")
        return cls(id=message.id, ip=message.ip, region=message.region, state=state, type=kind, **values)

    def age(self, now: float) -> float:
        """Seconds since the node last reported; slightly negative if its clock runs ahead of `now`."""
        return now - self.updated_at

    def fresh(self, now: float) -> bool:
        """Whether LiveKit itself would call the node available."""
        return self.age(now) < FRESH_SECONDS

    @property
    def serving(self) -> bool:
        """Whether the node says that it takes rooms; ask fresh() too, a dead node says so for ever."""
        return self.state == "SERVING"

    @property
    def draining(self) -> bool:
        return self.state == "SHUTTING_DOWN"

    def as_dict(self) -> dict[str, t.Any]:
        return dataclasses.asdict(self)


_STATS = (
    "started_at", "updated_at", "num_rooms", "num_clients", "num_tracks_in", "num_tracks_out", "bytes_in", "bytes_out", "packets_in",
    "packets_out", "nack_total", "cpu_load", "load_avg_last1min", "load_avg_last5min", "load_avg_last15min", "memory_total",
    "memory_used", "sys_packets_out", "sys_packets_dropped", "forward_latency", "forward_jitter",
)
_RATES = ("bytes_in", "bytes_out", "packets_in", "packets_out", "sys_packets_dropped")


@dataclasses.dataclass(frozen=True)
class Room:
    """A value of the hash `rooms`. The counts are what the node last stored, a few seconds behind."""

    name: str
    sid: str
    created_at: int
    num_participants: int
    num_publishers: int
    max_participants: int
    empty_timeout: int
    departure_timeout: int
    active_recording: bool
    metadata: str

    @classmethod
    def parse(cls, raw: bytes) -> Room:
        message = messages()["Room"].FromString(raw)
        values = {f.name: getattr(message, f.name) for f in dataclasses.fields(cls) if f.name != "created_at"}
        return cls(created_at=message.creation_time, **values)

    def as_dict(self) -> dict[str, t.Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Participant:
    """A value of a hash `room_participants:<room>`."""

    identity: str
    sid: str
    name: str
    state: str
    kind: str  # STANDARD, INGRESS, EGRESS, SIP, AGENT, ...
    joined_at: int
    is_publisher: bool
    hidden: bool

    @classmethod
    def parse(cls, raw: bytes) -> Participant:
        message = messages()["ParticipantInfo"].FromString(raw)
        known = 0 <= message.state < len(PARTICIPANT_STATES)
        return cls(
            identity=message.identity, sid=message.sid, name=message.name,
            state=PARTICIPANT_STATES[message.state] if known else f"STATE_{message.state}",
            kind=PARTICIPANT_KINDS.get(message.kind, f"KIND_{message.kind}"), joined_at=message.joined_at,
            is_publisher=message.is_publisher, hidden=message.permission.hidden,
        )

    def as_dict(self) -> dict[str, t.Any]:
        return dataclasses.asdict(self)


def count_kinds(participants: t.Iterable[Participant]) -> dict[str, int]:
    """{kind: how many}, e.g. {"STANDARD": 12, "SIP": 1}."""
    return dict(sorted(collections.Counter(p.kind for p in participants).items()))


@dataclasses.dataclass(frozen=True)
class Ghosts:
    """What dead nodes leave behind; LiveKit never clears any of it by itself. Truthy if there is anything."""

    nodes: tuple[str, ...] = ()  # entries of `nodes` that nobody refreshes
    rooms: t.Mapping[str, str] = dataclasses.field(default_factory=dict)  # {room: node} of `room_node_map` with such a node or a missing one
    missing: tuple[str, ...] = ()  # nodes that rooms point at though `nodes` does not know them
    unmapped: tuple[str, ...] = ()  # entries of `rooms` that no node hosts

    def __bool__(self) -> bool:
        return bool(self.nodes or self.rooms or self.missing or self.unmapped)

    def as_dict(self) -> dict[str, t.Any]:
        return {"nodes": list(self.nodes), "rooms": dict(self.rooms), "missing": list(self.missing), "unmapped": list(self.unmapped)}


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The registry at one moment of Redis' clock. Every question is answered from here; nothing is read again."""

    taken_at: float  # Unix seconds, Redis' clock
    clock_offset: float  # this machine's clock minus Redis' clock, seconds
    nodes: t.Mapping[str, Node]
    room_node_map: t.Mapping[str, str]
    rooms: frozenset[str]
    highest_version: str = ""  # highest livekit-server version that ever started here, not what runs

    def node_of(self, room: str) -> Node | None:
        return self.nodes.get(self.room_node_map.get(room, ""))

    def rooms_of(self, node_id: str) -> list[str]:
        """Rooms mapped to the node, sorted."""
        return sorted(room for room, node in self.room_node_map.items() if node == node_id)

    def rooms_by_node(self) -> dict[str, list[str]]:
        """{node id: its rooms, sorted}, missing nodes included; one pass for callers that need all."""
        found: dict[str, list[str]] = {}
        for room, node in sorted(self.room_node_map.items()):
            found.setdefault(node, []).append(room)
        return found

    def fresh(self, node_id: str) -> bool:
        node = self.nodes.get(node_id)
        return node is not None and node.fresh(self.taken_at)

    def serving(self) -> list[Node]:
        """Nodes that LiveKit would place a room on: fresh and SERVING, by id."""
        return [n for _id, n in sorted(self.nodes.items()) if n.serving and n.fresh(self.taken_at)]

    @property
    def all_stale(self) -> bool:
        """There are nodes and none is fresh: a sign that Redis stalled, not that every node died."""
        return bool(self.nodes) and not any(n.fresh(self.taken_at) for n in self.nodes.values())

    def ghosts(self) -> Ghosts:
        return Ghosts(
            nodes=tuple(i for i, n in sorted(self.nodes.items()) if not n.fresh(self.taken_at)),
            rooms={r: n for r, n in sorted(self.room_node_map.items()) if not self.fresh(n)},
            missing=tuple(sorted({n for n in self.room_node_map.values() if n not in self.nodes})),
            unmapped=tuple(sorted(r for r in self.rooms if r not in self.room_node_map)),
        )


@dataclasses.dataclass(frozen=True)
class Access:
    """What check_access() proved. role is "" where the user may not ask for it."""

    role: str
    redis_version: str
    user: str
    clock_offset: float


# What a LiveKit user needs, as commands that are queued and thrown away. A denied one is reported by name.
_PROOF: tuple[tuple[str, ...], ...] = (
    ("HGETALL", "nodes"),
    ("HSET", "nodes", "ND_openrtc_check", "x"),
    ("HDEL", "nodes", "ND_openrtc_check"),
    ("HGETALL", "room_node_map"),
    ("HSET", "room_node_map", "openrtc_check", "x"),
    ("HDEL", "room_node_map", "openrtc_check"),
    ("HSET", "rooms", "openrtc_check", "x"),
    ("HSET", "room_internal", "openrtc_check", "x"),
    ("HSET", "room_participants:openrtc_check", "x", "x"),
    ("DEL", "room_participants:openrtc_check"),
    ("SET", "room_lock:openrtc_check", "x", "NX", "EX", "5"),
    ("EVAL", "return 1", "1", "room_lock:openrtc_check"),
    ("SET", "livekit_version", "0", "NX"),
    ("PUBLISH", "Keepalive|Ping|ND_openrtc_check|REQ", ""),
    ("SUBSCRIBE", "Keepalive|Ping|ND_openrtc_check|REQ"),
)

# redis-py turned these first words of an error into exception classes, or left them in the text, depending on its version
_AUTH_WORDS = ("WRONGPASS", "NOAUTH", "invalid password", "invalid username-password", "Authentication required", "without any password configured",
               "no password is set", "AuthenticationError")
_TLS_WORDS = ("SSL", "TLS", "certificate")


def _address(text: t.Any) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port"."""
    host, colon, port = str(text).rpartition(":")
    host = host.strip()
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""  # a bare IPv6 address
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise FleetError("read the Redis address", str(text), "it is not host:port", "Write it as LiveKit wants it, e.g. 10.0.0.5:6379 or [fd00::5]:6379",
                         code="redis_config")
    return host, int(port)


def _format(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tls_context(config: t.Mapping[str, t.Any], where: str) -> tuple[ssl.SSLContext, str] | None:
    """(context, server name or "") from LiveKit's redis.tls / redis.use_tls, None for plain TCP."""
    tls = config.get("tls") or {}
    if not (tls.get("enabled") or config.get("use_tls")):
        return None
    try:
        context = ssl.create_default_context(cafile=tls.get("ca_cert_file") or None)
        if tls.get("client_cert_file"):
            context.load_cert_chain(tls["client_cert_file"], tls.get("client_key_file") or None)
    except (OSError, ssl.SSLError) as exc:
        files = ", ".join(str(tls[k]) for k in ("ca_cert_file", "client_cert_file", "client_key_file") if tls.get(k))
        raise FleetError("load the TLS files for Redis", where, exc, f"Check that these exist here, are readable and are PEM: {files}",
                         code="redis_config") from exc
    if tls.get("insecure"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context, str(tls.get("server_name") or "")


def _tls_connection_class() -> t.Any:
    """A TLS connection with a free choice of server name, alike for every redis-py (its own differ, 4.3 does not even check names)."""

    class TlsConnection(redis.connection.Connection):  # type: ignore[misc, name-defined]
        def __init__(self, *, tls_context: ssl.SSLContext, tls_name: str = "", **kwargs: t.Any) -> None:
            self._tls_context, self._tls_name = tls_context, tls_name
            super().__init__(**kwargs)

        def _connect(self) -> t.Any:
            sock = super()._connect()
            try:
                return self._tls_context.wrap_socket(sock, server_hostname=self._tls_name or self.host)
            except BaseException:
                sock.close()
                raise

    return TlsConnection


class Registry:
    """A connection to a cluster's registry. Not for use by several threads at once. Close it, or use it in `with`."""

    def __init__(self, config: t.Mapping[str, t.Any], timeout: float = 3.0) -> None:
        require(redis, "redis", "python3-redis")
        messages()
        self._config = {k: v for k, v in dict(config).items() if v is not None}
        self._timeout = timeout
        self._redis: t.Any = None
        self._follows = bool(self._config.get("sentinel_addresses"))
        self.address = ""  # "host:port" of the server in use
        self._secrets = [str(self._config[k]) for k in ("password", "sentinel_password") if self._config.get(k)]
        if not self._follows:
            if self._config.get("cluster_addresses"):
                raise FleetError(
                    "connect to Redis", ", ".join(map(str, self._config["cluster_addresses"])), "Redis Cluster is not supported by this collection",
                    "Use one Redis server (redis.address) or Sentinel (redis.sentinel_master_name, redis.sentinel_addresses)", code="redis_cluster",
                )
            if not self._config.get("address"):
                raise FleetError("connect to Redis", "the redis settings", "neither address nor sentinel_addresses is set",
                                 "Set redis.address to host:port, as in LiveKit's configuration", code="redis_config")
            self.address = _format(*_address(self._config["address"]))
        elif not self._config.get("sentinel_master_name"):
            raise FleetError("connect to Redis", ", ".join(map(str, self._config["sentinel_addresses"])), "sentinel_master_name is not set",
                             "Set redis.sentinel_master_name to the name that the Sentinels monitor", code="redis_config")

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_exc: t.Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Registry {self.address or 'not connected'}>"

    def close(self) -> None:
        if self._redis is not None:
            try:
                self._redis.connection_pool.disconnect()
            finally:
                self._redis = None

    # --- what callers ask for

    def snapshot(self) -> Snapshot:
        """The whole cluster state, one round trip."""
        started = time.time()
        now, nodes, room_node_map, rooms, version, _role = self._ask(
            "read the registry", ("TIME",), ("HGETALL", "nodes"), ("HGETALL", "room_node_map"), ("HKEYS", "rooms"), ("GET", "livekit_version"), ("ROLE",),
        )
        middle = (started + time.time()) / 2
        taken_at = now[0] + now[1] / 1e6
        return Snapshot(
            taken_at=taken_at,
            clock_offset=middle - taken_at,
            nodes={_text(key): self._parse(Node, raw, f"nodes[{_text(key)}]") for key, raw in nodes.items()},
            room_node_map={_text(room): _text(node) for room, node in room_node_map.items()},
            rooms=frozenset(map(_text, rooms)),
            highest_version=_text(version or b""),
        )

    def room_details(self, names: t.Iterable[str] | None = None) -> dict[str, Room]:
        """{room: details} of the named rooms that exist, or of all."""
        if names is None:
            (found,) = self._ask("read the rooms", ("HGETALL", "rooms"))
            pairs = [(_text(name), raw) for name, raw in found.items()]
        else:
            wanted = list(names)
            if not wanted:
                return {}
            (values,) = self._ask("read the rooms", ("HMGET", "rooms", *wanted))
            pairs = [(name, raw) for name, raw in zip(wanted, values) if raw is not None]
        return {name: self._parse(Room, raw, f"rooms[{name}]") for name, raw in pairs}

    def participants(self, room: str) -> list[Participant]:
        """Who is in the room, by identity. Left-overs of a crashed node are told apart by Snapshot.ghosts()."""
        return self.participants_of([room])[room]

    def participants_of(self, rooms: t.Iterable[str]) -> dict[str, list[Participant]]:
        """{room: its participants, by identity}, one round trip for all."""
        wanted = list(rooms)
        if not wanted:
            return {}
        answers = self._ask("read the participants", *[("HGETALL", f"room_participants:{room}") for room in wanted])
        return {
            room: sorted((self._parse(Participant, raw, f"room_participants:{room}") for raw in found.values()), key=lambda p: p.identity)
            for room, found in zip(wanted, answers)
        }

    def clock_offset(self, samples: int = 3) -> float:
        """This machine's clock minus Redis' clock in seconds, from the quickest of a few answers."""
        best: tuple[float, float] | None = None
        for _n in range(max(1, samples)):
            before = time.time()
            (now,) = self._ask("read Redis' clock", ("TIME",))
            after = time.time()
            found = (after - before, (before + after) / 2 - (now[0] + now[1] / 1e6))
            best = found if best is None or found < best else best
        return best[1] if best else 0.0

    def check_access(self) -> Access:
        """Prove that this user can do all LiveKit does: keys, channels, writes. Changes nothing.

        The commands go into a transaction that is thrown away: Redis checks permission, role, memory and disk state when a
        command is queued, so a refusal shows, and nothing is ever executed.
        """
        offset = self.clock_offset()
        client = self._client()
        connection = client.connection_pool.make_connection()
        answers: list[t.Any] = []
        try:
            connection.connect()
            script = [("MULTI",), *_PROOF, ("DISCARD",), ("ROLE",), ("INFO", "server"), ("ACL", "WHOAMI")]
            connection.send_packed_command(connection.pack_commands(script))
            for _command in script:
                try:
                    answers.append(connection.read_response())
                except redis.exceptions.ResponseError as exc:
                    answers.append(exc)
        except (redis.exceptions.RedisError, OSError) as exc:
            raise self._explain("check access to Redis", exc) from exc
        finally:
            connection.disconnect()
        if isinstance(answers[0], Exception):
            raise self._explain("check access to Redis", answers[0])
        queued = answers[1:1 + len(_PROOF)]
        role, info, user = answers[-3:]
        self._require_master(role)
        denied, other = [], None
        for command, answer in zip(_PROOF, queued):
            if _is_acl(answer):
                denied.append(" ".join(word for word in command[:2]))
            elif isinstance(answer, Exception):
                other = other or answer
        if denied:
            raise self._acl_error("check access to Redis", "; ".join(denied), denied)
        if other is not None:
            raise self._explain("write to Redis", other)
        version = ""
        if not isinstance(info, Exception):
            lines = _text(info).splitlines()
            version = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("redis_version:")), "")
        return Access(
            role="" if isinstance(role, Exception) else _text(role[0]), redis_version=version,
            user="" if isinstance(user, Exception) else _text(user), clock_offset=offset,
        )

    # --- connection

    def open(self) -> Registry:
        """Connect and see that the server answers and is no replica."""
        _pong, _role = self._ask("connect to Redis", ("PING",), ("ROLE",))
        return self

    def _ask(self, tried: str, *commands: tuple[t.Any, ...]) -> list[t.Any]:
        """The answers of a pipeline. With Sentinel a failed one is asked once more of the master of that moment."""
        try:
            return self._ask_once(tried, commands)
        except FleetError as exc:
            if not self._follows or exc.failure["code"] not in ("redis_unreachable", "redis_replica"):
                raise
            self.close()
            return self._ask_once(tried, commands)

    def _ask_once(self, tried: str, commands: t.Iterable[tuple[t.Any, ...]]) -> list[t.Any]:
        pipeline = self._client().pipeline(transaction=False)
        names = []
        for command in commands:
            pipeline.execute_command(*command)
            names.append(command)
        try:
            answers = pipeline.execute(raise_on_error=False)
        except (redis.exceptions.RedisError, OSError) as exc:
            raise self._explain(tried, exc) from exc
        for command, answer in zip(names, answers):
            if command[0] == "ROLE":
                self._require_master(answer)
        for command, answer in zip(names, answers):
            if command[0] != "ROLE" and isinstance(answer, Exception):
                if _is_acl(answer):
                    what = " ".join(map(str, command[:2]))
                    raise self._acl_error(tried, what, [what])
                raise self._explain(tried, answer)
        return answers

    def _client(self) -> t.Any:
        if self._redis is None:
            if self._follows:
                self.address = self._ask_sentinels()
            self._redis = self._make(self.address, self._config.get("username"), self._config.get("password"), int(self._config.get("db") or 0))
        return self._redis

    def _make(self, address: str, username: t.Any, password: t.Any, db: int) -> t.Any:
        host, port = _address(address)
        kwargs: dict[str, t.Any] = {
            "host": host, "port": port, "db": db, "username": username or None, "password": password or None,
            "socket_timeout": self._timeout, "socket_connect_timeout": self._timeout, "socket_keepalive": True,
            "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0),  # redis-py 6 and later would try for many seconds
        }
        if int(redis.__version__.split(".")[0]) >= 5:
            kwargs["protocol"] = 2  # no HELLO: one permission less to ask of the user
        tls = _tls_context(self._config, address)
        if tls:
            kwargs.update(connection_class=_tls_connection_class(), tls_context=tls[0], tls_name=tls[1])
        return redis.Redis(connection_pool=redis.ConnectionPool(**kwargs))

    def _ask_sentinels(self) -> str:
        """"host:port" of the master, from the first Sentinel that knows it."""
        name, heard = str(self._config["sentinel_master_name"]), []
        for item in self._config["sentinel_addresses"]:
            address = _format(*_address(item))
            client = self._make(address, self._config.get("sentinel_username"), self._config.get("sentinel_password"), 0)
            try:
                found = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", name)
            except (redis.exceptions.RedisError, OSError) as exc:
                heard.append(f"{address}: {self._clean(exc)}")
                continue
            finally:
                client.connection_pool.disconnect()
            if found:
                return _format(_text(found[0]), int(found[1]))
            heard.append(f"{address}: knows no master of that name")
        raise FleetError(
            "find the Redis master through Sentinel", name, "; ".join(heard),
            "Check redis.sentinel_master_name, the Sentinels' addresses and their password", code="sentinel_no_master", master_name=name,
        )

    # --- errors

    def _where(self) -> str:
        user, db = self._config.get("username"), self._config.get("db")
        more = [f"user {user}"] if user else []
        more += [f"db {db}"] if db else []
        return f"{self.address} ({', '.join(more)})" if more else self.address

    def _clean(self, exc: t.Any) -> str:
        """The text of an error, without any password."""
        text = " ".join(str(exc).split()).rstrip(".") or type(exc).__name__
        for secret in self._secrets:
            text = text.replace(secret, "********")
        return text

    def _explain(self, tried: str, exc: BaseException) -> FleetError:
        text = self._clean(exc)
        if isinstance(exc, redis.exceptions.AuthenticationError) or any(word in text for word in _AUTH_WORDS):
            has = bool(self._config.get("password"))
            fix = "Set redis.password (and redis.username) to what the server wants"
            if "without any password" in text or "no password is set" in text:
                fix = "The server has no password: give it one (requirepass or an ACL user), or remove redis.password"
            return FleetError(tried, self._where(), text, fix, code="redis_auth", password_given=has)
        if _is_acl(exc):
            return self._acl_error(tried, text, [text])
        if isinstance(exc, redis.exceptions.ReadOnlyError) or "READONLY" in text:
            return self._replica_error("")
        if isinstance(exc, redis.exceptions.BusyLoadingError):
            return FleetError(tried, self._where(), text, "Redis is reading its data from disk: try again in a moment", code="redis_unreachable")
        if isinstance(exc, redis.exceptions.ResponseError):
            return FleetError(tried, self._where(), text, "Look at the server's log", code="redis_error")
        if any(word in text for word in _TLS_WORDS):
            fix = "Compare redis.tls (enabled, ca_cert_file, server_name, client_cert_file) with the server's TLS settings"
            return FleetError(tried, self._where(), text, fix, code="redis_tls")
        return FleetError(
            tried, self._where(), text,
            "Check that redis-server runs, listens on that address (bind, port), that no firewall is in between and that both sides agree on TLS",
            code="redis_unreachable",
        )

    def _acl_error(self, tried: str, got: str, denied: list[str]) -> FleetError:
        user = self._config.get("username") or "default"
        return FleetError(
            tried, self._where(), f"user {user} may not: {got}",
            f"LiveKit needs every key and every channel: ACL SETUSER {user} on >PASSWORD ~* &* +@all -@dangerous +info +role, or wider", code="redis_acl",
            denied=denied, user=user,
        )

    def _require_master(self, role: t.Any) -> None:
        """role: the answer to ROLE. A user that may not ask is believed."""
        if not isinstance(role, Exception) and role and _text(role[0]) not in ("master", "sentinel"):
            raise self._replica_error(_format(_text(role[1]), int(role[2])))
        if not isinstance(role, Exception) and role and _text(role[0]) == "sentinel":
            raise FleetError("use Redis", self._where(), "this is a Sentinel, not a Redis server",
                             "Set redis.sentinel_addresses and redis.sentinel_master_name instead of redis.address", code="redis_config")

    def _replica_error(self, master: str) -> FleetError:
        follows = f"it is a replica of {master}" if master else "it is a replica"
        return FleetError("use Redis", self._where(), follows,
                          f"Point redis.address at the master{' ' + master if master else ''}, or use Sentinel", code="redis_replica", master=master)

    def _parse(self, cls: t.Any, raw: bytes, what: str) -> t.Any:
        try:
            return cls.parse(raw)
        except (DecodeError, ValueError) as exc:
            raise FleetError("read the registry", f"{what} on {self._where()}", exc,
                             "This Redis database holds something else than LiveKit's state: give LiveKit a Redis of its own",
                             code="registry_unreadable") from exc


def _is_acl(answer: t.Any) -> bool:
    return isinstance(answer, Exception) and (isinstance(answer, redis.exceptions.NoPermissionError) or "NOPERM" in str(answer))


def _text(value: t.Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def connect(config: t.Mapping[str, t.Any], timeout: float = 3.0) -> Registry:
    """A registry that answered, from LiveKit's own `redis` section. Raises FleetError with one of these codes:

    redis_unreachable, redis_auth, redis_acl, redis_replica, redis_tls, redis_config, redis_cluster, sentinel_no_master,
    redis_error, missing_library.
    """
    return Registry(config, timeout).open()
