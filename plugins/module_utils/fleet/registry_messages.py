# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What LiveKit stores in Redis: its messages as protobuf, and as the Node, Room and Participant that the collection works with.

LiveKit publishes no Python classes for its Node message, and hosts carry no livekit-protocol at all, so the messages
are described here: only the fields we use, in a descriptor pool of our own that cannot clash with anybody's.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import collections
import dataclasses
import typing as t

from .errors import require

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.message import DecodeError

    UNREADABLE: tuple[type[Exception], ...] = (DecodeError, ValueError)  # what parse() raises on bytes that are no such message
except ImportError:
    descriptor_pb2 = None  # type: ignore[assignment]
    UNREADABLE = (ValueError,)

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


def room_patch(empty_timeout: int) -> bytes:
    """What, put behind an entry of `rooms`, gives the room this empty timeout (seconds); nothing for 0."""
    return bytes(messages()["Room"](empty_timeout=empty_timeout).SerializeToString())


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
