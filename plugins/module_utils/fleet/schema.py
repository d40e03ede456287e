# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration keys livekit-server knows, as data: dotted path, type, and the releases that know it.

Taken from the configuration structs of every release from 1.5.0 to 1.13.5. A key without `since` is older than that.
To add a release: raise NEWEST, add its new keys with `since` and give keys that went away a `removed`.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import re
import typing as t

OLDEST = "1.5.0"  # the oldest release whose keys are told apart here
NEWEST = "1.13.5"  # the newest one
UNRELEASED = "1.13.6"  # since: seen in the source after NEWEST, in no release yet
VERSION = re.compile(r"\d+\.\d+\.\d+")  # what a release is called


@dataclasses.dataclass(frozen=True)
class Key:
    """One key. Types: see TYPES; "open" is a subtree that is passed on unchecked, "map" a section listed here."""

    type: str
    since: str = OLDEST
    removed: str = ""
    instead: str = ""  # what took the place of a removed or deprecated key
    choices: tuple[str, ...] = ()


TYPES: t.Final[dict[str, str]] = {
    "int": "a whole number",
    "uint": "a whole number from 0 up",
    "float": "a number",
    "bool": "true or false",
    "str": "a string",
    "duration": "a duration such as 500ms, 2s or 1m30s",
    "ports": 'a port or a range "first-last"',
    "strings": "a list of strings",
    "durations": "a list of durations such as 10s",
    "cidrs": "a list of networks such as 10.0.0.0/8",
    "strmap": "a mapping of strings",
    "map": "a mapping",
    "maps": "a list of mappings",
    "open": "a mapping",
}


def _k(kind: str, since: str = OLDEST, removed: str = "", instead: str = "", choices: tuple[str, ...] = ()) -> Key:
    return Key(kind, since, removed, instead, choices)


_SORT = ("random", "sysload", "cpuload", "rooms", "clients", "tracks", "bytespersec")
_LEVELS = ("debug", "info", "warn", "error")
_FLAT_CC = {  # flat until 1.8.2, then three sections
    "nack_ratio_attenuator": ("float", "remote_bwe"), "expected_usage_threshold": ("float", "remote_bwe"),
    "channel_observer_probe_config": ("open", "remote_bwe"), "channel_observer_non_probe_config": ("open", "remote_bwe"),
    "send_side_bandwidth_estimation": ("bool", "use_send_side_bwe"), "probe_mode": ("str", "stream_allocator"),
    "min_channel_capacity": ("int", "stream_allocator"), "probe_config": ("open", "stream_allocator"),
    "disable_etimation_unmanaged_tracks": ("bool", "stream_allocator"),
}

# "section" or "list[]" -> {key: Key or type name}
_SECTIONS: dict[str, dict[str, Key | str]] = {
    "": {
        "port": "uint", "bind_addresses": "strings", "region": "str", "key_file": "str", "keys": "strmap",
        "prometheus_port": _k("uint", instead="prometheus.port"),
        "log_level": _k("str", instead="logging.level"),
        "development": "bool",
        "environment": _k("str", removed="1.6.0"),
        "enable_data_tracks": _k("bool", "1.9.7"),
        "enable_participant_data_blob": _k("bool", "1.13.2"),
        "sip": _k("map", "1.5.2"),
    },
    "prometheus": {"port": _k("uint", "1.7.1"), "username": _k("str", "1.7.1"), "password": _k("str", "1.7.1")},
    "debug_handler": {"port": _k("uint", "1.13.2")},
    "rtc": {
        "tcp_port": "uint", "port_range_start": "uint", "port_range_end": "uint", "udp_port": "ports",
        "use_stun_port_as_ice": _k("bool", "1.9.1"),
        "node_ip": "str", "use_external_ip": "bool", "stun_servers": "strings", "external_ip_only": "bool",
        "advertise_internal_ip": _k("bool", "1.13.0"),
        "skip_external_ip_validation": _k("bool", "1.13.0"),
        "use_ice_lite": "bool", "enable_loopback_candidate": "bool", "use_mdns": "bool", "force_tcp": "bool",
        "sctp_min_cwnd": _k("int", "1.9.0"), "sctp_fast_rtx_wnd": _k("int", "1.9.0"), "sctp_cwnd_ca_step": _k("int", "1.9.0"),
        "host_acceptance_min_wait": _k("duration", "1.13.0"), "srflx_acceptance_min_wait": _k("duration", "1.13.0"),
        "prflx_acceptance_min_wait": _k("duration", "1.13.0"), "relay_acceptance_min_wait": _k("duration", "1.13.0"),
        "require_ipv4": _k("bool", UNRELEASED), "additional_host_ips": _k("strings", UNRELEASED), "enable_warp": _k("bool", UNRELEASED),
        "turn_servers": "maps",
        "strict_acks": "bool",
        "packet_buffer_size": "int",
        "packet_buffer_size_video": _k("int", "1.6.0"), "packet_buffer_size_audio": _k("int", "1.6.0"),
        "allow_tcp_fallback": "bool",
        "tcp_fallback_rtt_threshold": _k("int", "1.13.1"), "allow_udp_unstable_fallback": _k("bool", "1.13.1"),
        "reconnect_on_publication_error": "bool", "reconnect_on_subscription_error": "bool", "reconnect_on_data_channel_error": "bool",
        "data_channel_max_buffered_amount": _k("uint", "1.5.1"),
        "datachannel_slow_threshold": _k("int", "1.8.2"),
        "datachannel_lossy_target_latency": _k("duration", "1.9.6"),
        "datachannel_data_track_target_latency": _k("duration", "1.13.4"),
        "enable_rtp_stream_restart_detection": _k("bool", "1.9.9"),
    },
    "rtc.interfaces": {"includes": "strings", "excludes": "strings"},
    "rtc.ips": {"includes": "cidrs", "excludes": "cidrs"},
    "rtc.batch_io": {"batch_size": "int", "max_flush_interval": "duration"},
    "rtc.turn_servers[]": {
        "host": "str", "port": "int", "protocol": _k("str", choices=("tls", "tcp", "udp")), "username": "str", "credential": "str",
        "secret": _k("str", "1.9.10"), "ttl": _k("int", "1.9.10"), "secret_file": _k("str", "1.13.0"),
    },
    "rtc.pli_throttle": {"low_quality": "duration", "mid_quality": "duration", "high_quality": "duration"},
    "rtc.forward_stats": {
        "summary_interval": _k("duration", "1.6.2"), "report_interval": _k("duration", "1.6.2"), "report_window": _k("duration", "1.6.2"),
    },
    "rtc.congestion_control": {
        "enabled": "bool", "allow_pause": "bool",
        "use_send_side_bwe": _k("bool", "1.8.2"), "use_send_side_bwe_interceptor": _k("bool", "1.8.2"),
        "send_side_bwe_pacer": _k("str", "1.9.0", choices=("pass-through", "no-queue", "leaky-bucket")),
        "send_side_bwe": _k("open", "1.8.2"), "remote_bwe": _k("open", "1.8.2"),
        **{key: _k(kind, removed="1.8.2", instead=f"rtc.congestion_control.{new}") for key, (kind, new) in _FLAT_CC.items()},
    },
    "rtc.congestion_control.stream_allocator": {
        "min_channel_capacity": _k("int", "1.8.2"), "disable_etimation_unmanaged_tracks": _k("bool", "1.8.2"),
        "probe_mode": _k("str", "1.8.2", choices=("padding", "media")), "probe_overage_pct": _k("int", "1.8.2"),
        "probe_min_bps": _k("int", "1.8.2"), "paused_min_wait": _k("duration", "1.8.2"),
    },
    "redis": {
        "address": "str", "username": "str", "password": "str", "db": "int", "use_tls": _k("bool", instead="redis.tls.enabled"),
        "sentinel_master_name": "str", "sentinel_username": "str", "sentinel_password": "str", "sentinel_addresses": "strings",
        "cluster_addresses": "strings", "dial_timeout": "int", "read_timeout": "int", "write_timeout": "int", "max_redirects": "int",
        "pool_timeout": "duration", "pool_size": "int",
    },
    "redis.tls": {
        "enabled": "bool", "insecure": "bool", "server_name": "str", "ca_cert_file": "str", "client_cert_file": "str", "client_key_file": "str",
    },
    "turn": {
        "enabled": "bool", "domain": "str", "tls_port": "int", "udp_port": "int", "external_tls": "bool", "cert_file": "str", "key_file": "str",
        "relay_range_start": "uint", "relay_range_end": "uint",
        "bind_addresses": _k("strings", "1.10.1"),
        "ttl_seconds": _k("int", "1.12.0"), "allow_restricted_peer_cidrs": _k("cidrs", "1.12.0"), "deny_peer_cidrs": _k("cidrs", "1.12.0"),
        "per_user_relay_allocation_limit": _k("int", UNRELEASED),
    },
    "audio": {
        "active_level": "uint", "min_percentile": "uint", "update_interval": "uint", "smooth_intervals": "uint", "active_red_encoding": "bool",
        "enable_loss_proxying": _k("bool", "1.6.0"),
    },
    "video": {
        "dynacast_pause_delay": "duration", "codec_regression_threshold": _k("int", "1.9.0"),
        "stream_tracker_manager": _k("open", "1.8.2"),
        "stream_tracker": _k("open", removed="1.8.2", instead="video.stream_tracker_manager"),
    },
    "room": {
        "auto_create": "bool", "enabled_codecs": "maps", "max_participants": "uint", "empty_timeout": "uint", "enable_remote_unmute": "bool",
        "sync_streams": "bool",
        "departure_timeout": _k("uint", "1.6.0"),
        "create_room_enabled": _k("bool", "1.8.0", "1.13.2"),
        "create_room_timeout": _k("duration", "1.8.0"), "create_room_attempts": _k("int", "1.8.0"),
        "update_batch_target_size": _k("int", "1.9.1"),
        "room_configurations": _k("open", "1.7.1"),
        "enable_full_room_in_webhooks": _k("bool", UNRELEASED),
        "max_metadata_size": _k("uint", instead="limit.max_metadata_size"),
        "max_room_name_length": _k("int", "1.6.2", instead="limit.max_room_name_length"),
        "max_participant_identity_length": _k("int", "1.6.2", instead="limit.max_participant_identity_length"),
    },
    "room.enabled_codecs[]": {"mime": "str", "fmtp_line": "str"},
    "room.playout_delay": {"enabled": "bool", "min": "int", "max": "int"},
    "ingress": {"rtmp_base_url": "str", "whip_base_url": "str"},
    "webhook": {"urls": "strings", "api_key": "str"},
    "webhook.url_notifier": {"num_workers": _k("int", "1.9.0"), "queue_size": _k("int", "1.9.0")},
    "webhook.resource_url_notifier": {"max_age": _k("duration", "1.9.0"), "max_depth": _k("int", "1.9.0")},
    "webhook.filter_params": {"include_events": _k("strings", "1.9.2"), "exclude_events": _k("strings", "1.9.2")},
    "node_selector": {
        "kind": _k("str", choices=("any", "cpuload", "sysload", "regionaware", "random")), "sort_by": _k("str", choices=_SORT),
        "algorithm": _k("str", "1.9.2", choices=("lowest", "twochoice")),
        "cpu_load_limit": "float", "sysload_limit": "float", "regions": "maps",
    },
    "node_selector.regions[]": {"name": "str", "lat": "float", "lon": "float"},
    "signal_relay": {
        "enabled": _k("bool", removed="1.5.3"), "retry_timeout": "duration", "min_retry_interval": "duration", "max_retry_interval": "duration",
        "stream_buffer_size": "int", "connect_attempts": _k("int", "1.8.0"),
    },
    "psrpc": {
        "max_attempts": _k("int", "1.5.1"), "timeout": _k("duration", "1.5.1"), "backoff": _k("duration", "1.5.1"), "buffer_size": _k("int", "1.5.1"),
    },
    "logging": {
        "json": "bool", "level": _k("str", choices=_LEVELS), "sample": "bool", "sample_initial": "int", "sample_interval": "int",
        "item_sample_seconds": "int", "item_sample_initial": "int", "item_sample_interval": "int", "component_levels": "strmap",
        "pion_level": "str",
    },
    "limit": {
        "num_tracks": "int", "bytes_per_sec": "float", "subscription_limit_video": "int", "subscription_limit_audio": "int",
        "max_metadata_size": _k("uint", "1.6.3"), "max_attributes_size": _k("uint", "1.6.3"), "max_room_name_length": _k("int", "1.6.3"),
        "max_participant_identity_length": _k("int", "1.6.3"), "max_participant_name_length": _k("int", "1.7.1"),
        "max_data_blob_key_length": _k("int", "1.13.2"), "max_data_blobs_size": _k("uint", "1.13.2"),
        "max_data_track_custom_encoding_length": _k("int", "1.13.3"),
        "signal_message_size_limit": _k("int", UNRELEASED), "agent_signal_message_size_limit": _k("int", UNRELEASED),
        "max_api_request_body_size": _k("int", UNRELEASED),
    },
    "agents": {
        "target_load": _k("float", "1.11.0"), "enable_user_data_recording": _k("bool", "1.9.2"), "enable_user_data_redaction": _k("bool", "1.13.4"),
    },
    "metric": {"timestamper_config": _k("open", "1.8.0"), "collector": _k("open", "1.8.0"), "reporter": _k("open", "1.8.0")},
    "trace": {"jaeger_url": _k("str", "1.9.11")},
    "node_stats": {
        "stats_update_interval": _k("duration", "1.9.0"), "stats_rate_measurement_intervals": _k("durations", "1.9.0"),
        "stats_max_delay": _k("duration", "1.9.0"),
    },
    "api": {
        "execution_timeout": _k("duration", "1.10.1"), "check_interval": _k("duration", "1.10.1"), "max_check_interval": _k("duration", "1.10.1"),
        "enable_psrpc_for_get_list_participants": _k("bool", "1.10.1"),
    },
}


def version_tuple(version: str) -> tuple[int, ...]:
    """(1, 13, 5) of "1.13.5"; ValueError for anything else than numbers and dots."""
    return tuple(int(part) for part in version.split("."))


def later(one: str, other: str) -> bool:
    return version_tuple(one) > version_tuple(other)


def version_or_newest(version: str) -> str:
    """The version, or NEWEST for what is none, so that the keys of a deployment with a wrong version can still be judged."""
    return version if VERSION.fullmatch(version) else NEWEST


def usable(key: Key, version: str) -> bool:
    """Whether that release takes the key."""
    version = version_or_newest(version)
    return not later(key.since, version) and (not key.removed or later(key.removed, version))


def _build() -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for section, inside in _SECTIONS.items():
        for name, spec in inside.items():
            keys[f"{section}.{name}" if section else name] = Key(spec) if isinstance(spec, str) else spec
    for section, inside in _SECTIONS.items():  # a section is as old as the oldest key in it
        if section and not section.endswith("[]"):
            specs = [Key(s) if isinstance(s, str) else s for s in inside.values()]
            keys.setdefault(section, Key("map", since=min((s.since for s in specs), key=version_tuple)))
    return keys


KEYS: t.Final[dict[str, Key]] = _build()

# Keys found in blog posts, charts and old samples that livekit-server never had -> what to use. Checked before similarity.
MISNAMED: t.Final[dict[str, str]] = {
    "debug_handler_port": "debug_handler.port",
    "health_port": "GET / on the signalling port; there is no separate health port",
    "metrics_port": "prometheus.port, which follows from the slot (livekit_layout.metrics)",
    "limit.num_rooms": "no limit of rooms exists; limit.num_tracks and limit.bytes_per_sec do",
    "limit.num_clients": "no limit of clients exists; limit.num_tracks and limit.bytes_per_sec do",
    "limit.max_rooms": "no limit of rooms exists; limit.num_tracks and limit.bytes_per_sec do",
    "redis.host": 'redis.address ("host:port")',
    "redis.hosts": "redis.address, or redis.sentinel_addresses or redis.cluster_addresses for several",
    "redis.port": 'redis.address ("host:port")',
    "redis.url": 'redis.address ("host:port")',
    "redis.sentinel": "the flat keys redis.sentinel_master_name and redis.sentinel_addresses",
    "redis.tls_enabled": "redis.tls.enabled",
    "redis.ssl": "redis.tls.enabled",
    "room.participant_timeout": "room.empty_timeout or room.departure_timeout",
    "room.track_timeout": "room.empty_timeout or room.departure_timeout",
    "rtc.ice_candidate_pool_size": "nothing: clients choose it, the server has no such key",
    "rtc.max_track_subscribers": "limit.subscription_limit_video and limit.subscription_limit_audio",
    "rtc.subscriber_bandwidth_limit": "nothing: the server has no such key",
    "turn.credential": "rtc.turn_servers for an external TURN server",
    "turn.host": "turn.domain for the embedded server, rtc.turn_servers for an external one",
    "turn.password": "rtc.turn_servers for an external TURN server",
    "turn.port": "turn.udp_port and turn.tls_port, which follow from the slot (livekit_layout)",
    "turn.secretName": "turn.cert_file and turn.key_file (secretName belongs to the Helm chart)",
    "turn.username": "rtc.turn_servers for an external TURN server",
}
