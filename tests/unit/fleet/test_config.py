# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pathlib
import typing as t

import pytest
import yaml

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config, config_checks, config_keys, schema, slots
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError, raise_for

ROLE = pathlib.Path(__file__).parents[3] / "roles" / "model"
SECRET = "a-secret-nobody-may-ever-see-in-a-text"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
PRIVATE_KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\n"
GOOD: dict[str, t.Any] = {
    "livekit_version": "1.13.5",
    "livekit_keys": {"apikey": SECRET},
    "livekit_redis": {"address": "10.0.0.9:6379", "username": "livekit", "password": "pa:ss#word"},
    "livekit_public_url": "wss://livekit.example.org",
    "livekit_address": "10.0.0.1",
    "livekit_region": "eu-1",
}
TURN = {"enabled": True, "domain": "turn.example.org", "external_tls": True}
HOSTS = [{"name": "media1", "address": "10.0.0.1", "node_ip": "203.0.113.1"}, {"name": "media2", "address": "10.0.0.2", "node_ip": "203.0.113.2"}]


def model(**changes: t.Any) -> config.Model:
    return config.Model.from_vars({**GOOD, **{f"livekit_{name}": value for name, value in changes.items()}})


def render(**changes: t.Any) -> dict[str, t.Any]:
    return config.render(model(**changes), slots.Layout().ports(2), "/etc/livekit/slots/2/keys.yaml")


def found(layout: slots.Layout | None = None, hosts: t.Any = (), claims: t.Any = (), vcpus: int | None = None, server_count: int | None = None,
          **changes: t.Any) -> list[tuple[str, str]]:
    """(code, where) of each problem; each must read as a sentence with a fix, and tell no secret."""
    problems = config_checks.problems(
        model(**changes), layout or slots.Layout(), vcpus=vcpus, hosts=hosts, claims=claims, server_count=server_count)
    for problem in problems:
        assert problem.text and problem.fix and not problem.text.endswith(".")
        assert SECRET not in str(problem) and "pa:ss#word" not in str(problem)
    return [(problem.code, problem.where) for problem in problems]


# --- Model ------------------------------------------------------------------------------------------------------------

def test_model_shows_no_secret() -> None:
    text = repr(model(turn={"private_key": SECRET}, webhook={"urls": [SECRET]}, server_config={"prometheus": {"password": SECRET}}))
    assert SECRET not in text and "pa:ss#word" not in text
    assert "1.13.5" in text


def test_node_ip_is_the_address_unless_it_is_set() -> None:
    assert model().node_ip == "10.0.0.1"
    assert model(node_ip="203.0.113.5").node_ip == "203.0.113.5"


def test_names_may_come_without_the_prefix() -> None:
    short = {name.removeprefix("livekit_"): value for name, value in GOOD.items()}
    assert config.Model.from_vars(short) == model()


def test_values_of_the_command_line_are_strings() -> None:
    assert model(use_external_ip="yes").use_external_ip is True
    assert model(use_external_ip="false").use_external_ip is False
    assert config.layout_of({"livekit_slots": "4", "livekit_layout": {"udp_width": "8"}}) == slots.Layout(count=4, udp_width=8)


def test_subclasses_of_builtin_types_become_plain() -> None:
    class Tagged(str):
        pass

    class Lazy(dict):
        pass

    made = model(version=Tagged("1.13.5"), keys=Lazy({Tagged("apikey"): Tagged(SECRET)}))
    assert [value.__class__ for value in (made.version, made.keys, made.keys["apikey"])] == [str, dict, str]


@pytest.mark.parametrize(("name", "value"), [("keys", [SECRET]), ("redis", "10.0.0.9:6379"), ("turn", True), ("known_keys", "rtc.new"), ("region", {})])
def test_a_variable_of_the_wrong_shape(name: str, value: t.Any) -> None:
    with pytest.raises(FleetError, match=f"livekit_{name}: is .*, and must be") as failed:
        model(**{name: value})
    assert failed.value.failure["problems"][0]["code"] == "wrong_type"
    assert SECRET not in str(failed.value)


def test_credentials_are_the_first_pair() -> None:
    assert model(keys={"first": "1" * 32, "second": "2" * 32}).credentials() == ("first", "1" * 32)
    with pytest.raises(FleetError, match="Set livekit_keys"):
        model(keys={}).credentials()


@pytest.mark.parametrize(("given", "message"), [
    ({"livekit_layout": {"udp_with": 3}}, "livekit_layout.udp_with: no such part of the port layout. Did you mean udp_width?"),
    ({"livekit_layout": {"step": "ten"}}, "livekit_layout.step: is not a whole number"),
    ({"livekit_slots": "many"}, "livekit_slots: is not a whole number"),
])
def test_layout_of_bad_variables(given: dict[str, t.Any], message: str) -> None:
    with pytest.raises(FleetError) as failed:
        config.layout_of(given)
    assert message in str(failed.value)


# --- merge, YAML ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("base", "over", "expected"), [
    ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
    ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
    ({"a": {"b": 1}, "d": 4}, {"a": None}, {"d": 4}),
    ({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, {"a": {"c": 2}}),
    ({"a": 1}, {"a": {"b": None, "c": 2}}, {"a": {"c": 2}}),
    ({"a": {"b": 1}}, {"a": 5}, {"a": 5}),
    ({}, {"a": {"b": {"c": None}}}, {"a": {"b": {}}}),
])
def test_merge(base: t.Any, over: t.Any, expected: t.Any) -> None:
    before = repr(base)
    assert config.merge(base, over) == expected
    assert repr(base) == before


AWKWARD = {
    "plain": "info", "empty": "", "yes": "no", "number": "0123", "float": "1e3", "date": "2024-01-01", "time": "12:30:45", "quote": 'a"b\'c\\d',
    "hash": "a # b", "colon": "a: b", "lines": "one\ntwo\n", "tab": "a\tb", "unicode": "Zoë 😀 \x85 \u2028 \x7f", "space": " x ",
    "dash": "- a", "star": "*a", "null": "null",
    "tilde": "~", "int": 7, "negative": -1, "truth": True, "nothing": None, "ratio": 0.9, "list": ["a", 1, {"b": [1, 2], "c": "d"}, [], {}],
    "nested": [["a", ["b"]], {"x": {"y": []}}], "map": {}, "deep": {"a": {"b": {"c": "d"}}}, "on": "off", "range": "50000-50099", "with space": 1, "": "x",
}


def test_yaml_says_what_was_meant() -> None:
    assert yaml.safe_load(config.to_yaml(AWKWARD)) == AWKWARD
    assert yaml.safe_load(config.to_yaml({})) == {}
    assert yaml.safe_load(config.to_yaml({"t": {0: "500ms", 1: "1s"}})) == {"t": {0: "500ms", 1: "1s"}}


def test_yaml_is_readable() -> None:
    assert config.to_yaml({"rtc": {"tcp_port": 7881, "ips": {"includes": ["10.0.0.0/8"]}}, "regions": [{"name": "eu", "lat": 1.5}], "on": True}) == (
        'rtc:\n  tcp_port: 7881\n  ips:\n    includes:\n      - "10.0.0.0/8"\nregions:\n  - name: eu\n    lat: 1.5\n"on": true\n')


# --- render -----------------------------------------------------------------------------------------------------------

def test_config_of_a_cluster_node() -> None:
    rendered = render(
        node_ip="203.0.113.5", turn=TURN, webhook={"urls": ["https://app.example.org/hook"], "api_key": "apikey"},
        server_config={"room": {"empty_timeout": 60}, "signal_relay": {"max_retry_interval": "800ms"}, "logging": {"json": None}},
    )
    assert rendered == {
        "port": 7890,
        "key_file": "/etc/livekit/slots/2/keys.yaml",
        "region": "eu-1",
        "rtc": {"tcp_port": 7891, "udp_port": "50100-50199", "use_external_ip": False, "node_ip": "203.0.113.5"},
        "prometheus": {"port": 6799},
        "node_selector": {"kind": "cpuload", "sort_by": "cpuload", "algorithm": "twochoice"},
        "signal_relay": {"retry_timeout": "1500ms", "min_retry_interval": "300ms", "max_retry_interval": "800ms"},
        "logging": {"level": "info"},
        "redis": {"address": "10.0.0.9:6379", "username": "livekit", "password": "pa:ss#word"},
        "turn": {"enabled": True, "domain": "turn.example.org", "external_tls": True, "tls_port": 5359, "udp_port": 3488,
                 "relay_range_start": 31000, "relay_range_end": 31999},
        "webhook": {"urls": ["https://app.example.org/hook"], "api_key": "apikey"},
        "room": {"empty_timeout": 60},
    }
    assert yaml.safe_load(config.to_yaml(rendered)) == rendered


def test_signalling_waits_for_redis_where_controllers_cut_what_is_stale() -> None:
    assert render()["signal_relay"]["retry_timeout"] == "1500ms"
    assert render(controllers=True)["signal_relay"]["retry_timeout"] == "15m"
    assert render(controllers=True, server_config={"signal_relay": {"retry_timeout": "9s"}})["signal_relay"]["retry_timeout"] == "9s"
    assert config.Model.from_vars({"livekit_version": "1.13.5", "livekit_controllers": "True"}).controllers is True


def test_a_slow_redis_behind_sentinel_is_waited_for() -> None:
    sentinel = {"sentinel_master_name": "m", "sentinel_addresses": ["a:26379"]}
    assert render(redis=sentinel)["redis"] == {**sentinel, "read_timeout": 3000, "write_timeout": 3000}
    assert render(redis={**sentinel, "read_timeout": 500})["redis"]["read_timeout"] == 500
    assert "read_timeout" not in render(redis={"address": "a:6379"})["redis"]


def test_sections_nobody_asked_for_are_left_out() -> None:
    bare = render(redis={}, region="", turn={"enabled": False, "domain": "turn.example.org"})
    assert not {"redis", "region", "turn", "webhook", "keys"} & set(bare)


def test_node_ip_is_left_out_where_the_server_asks_stun() -> None:
    assert render(use_external_ip=True)["rtc"] == {"tcp_port": 7891, "udp_port": "50100-50199", "use_external_ip": True}


def test_a_single_udp_port_is_no_range() -> None:
    assert config.render(model(), slots.Layout(udp_width=1).ports(1), "k")["rtc"]["udp_port"] == 50000


@pytest.mark.parametrize(("version", "algorithm"), [("1.9.1", None), ("1.9.2", "twochoice"), ("1.9.12", "twochoice"), ("2.0.0", "twochoice")])
def test_only_keys_the_release_knows_are_emitted(version: str, algorithm: str | None) -> None:
    rendered = render(version=version)
    assert rendered["node_selector"].get("algorithm") == algorithm
    assert config_keys.unknown_keys(rendered, version) == []


@pytest.mark.parametrize(("turn", "peers", "expected"), [
    (TURN, [], ["10.0.0.1/32"]),
    (TURN, ["10.0.0.2", "203.0.113.1", "10.0.0.1", "fd00::5"], ["10.0.0.1/32", "10.0.0.2/32", "fd00::5/128"]),
    ({**TURN, "allow_restricted_peer_cidrs": ["10.0.0.0/24"]}, ["192.168.1.1"], ["10.0.0.0/24"]),
])
def test_turn_may_relay_to_private_media_hosts(turn: dict[str, t.Any], peers: list[str], expected: list[str]) -> None:
    def allowed(version: str) -> t.Any:
        return config.render(model(turn=turn, version=version), slots.Layout().ports(1), "k", peers=peers)["turn"].get("allow_restricted_peer_cidrs")

    assert allowed("1.13.5") == expected
    if "allow_restricted_peer_cidrs" not in turn:
        assert allowed("1.11.0") is None


@pytest.mark.parametrize(("off", "left"), [("tls_port", {"udp_port": 3488}), ("udp_port", {"tls_port": 5359})])
def test_half_of_turn_can_be_switched_off(off: str, left: dict[str, int]) -> None:
    section = render(turn={**TURN, off: 0})["turn"]
    assert {name: port for name, port in section.items() if name in ("tls_port", "udp_port")} == left


def test_a_turn_certificate_given_as_text_lies_beside_the_config() -> None:
    made = model(turn={"enabled": True, "domain": "turn.example.org", "certificate": CERTIFICATE, "private_key": PRIVATE_KEY})
    assert config.extra_files(made) == {"turn.crt": CERTIFICATE, "turn.key": PRIVATE_KEY}
    section = config.render(made, slots.Layout().ports(1), "k", directory="/etc/livekit/slots/1")["turn"]
    assert (section["cert_file"], section["key_file"]) == ("/etc/livekit/slots/1/turn.crt", "/etc/livekit/slots/1/turn.key")
    assert not {"certificate", "private_key"} & set(section)
    assert config_checks.problems(made, slots.Layout()) == []


@pytest.mark.parametrize("turn", [
    {}, {**TURN, "certificate": CERTIFICATE}, {"enabled": False, "certificate": CERTIFICATE}, {"enabled": True, "tls_port": 0, "certificate": CERTIFICATE},
])
def test_no_certificate_file_where_the_node_ends_no_tls(turn: dict[str, t.Any]) -> None:
    assert config.extra_files(model(turn=turn)) == {}


# --- unknown keys -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("bad", "advice"), [
    ({"rtc": {"udp_prot": 1}}, "rtc.udp_port?"),
    ({"rtc": {"udp_ports": 1}}, "rtc.udp_port?"),
    ({"rtc": {"use_external": True}}, "rtc.use_external_ip?"),
    ({"redis": {"hosts": []}}, "redis.address, or redis.sentinel_addresses"),
    ({"redis": {"adress": "x"}}, "redis.address?"),
    ({"redis": {"sentinel": {}}}, "sentinel_master_name"),
    ({"udp_port": 1}, "rtc.udp_port?"),
    ({"rtc": {"turn": {}}}, "mean turn?"),
    ({"rtc": {"redis": {}}}, "mean redis?"),
    ({"turn": {"host": "x"}}, "rtc.turn_servers"),
    ({"debug_handler_port": {"port": 7070}}, "debug_handler.port"),
    ({"room": {"timeout": 1}}, "room.empty_timeout?"),
    ({"room": {"participant_timeout": 1}}, "room.departure_timeout"),
    ({"limit": {"num_rooms": 1}}, "limit.num_tracks"),
    ({"nodeselector": {}}, "node_selector?"),
    ({"logging": {"jsn": True}}, "logging.json?"),
    ({"limits": {}}, "mean limit?"),
    ({"node_selector": {"sortby": "rooms"}}, "node_selector.sort_by?"),
    ({"sip": {"port": 5060}}, "port"),
    ({"quux": 1}, "Remove it"),
])
def test_an_unknown_key_and_the_nearest_right_one(bad: dict[str, t.Any], advice: str) -> None:
    problem, = config_keys.unknown_keys(bad, "1.13.5")
    assert problem.code == "unknown_key"
    assert "is no key of LiveKit 1.13.5" in problem.text
    assert advice in problem.fix


def test_keys_in_lists_are_named_by_their_index() -> None:
    problem, = config_keys.unknown_keys({"rtc": {"turn_servers": [{"host": "a", "port": 3478}, {"hots": "b"}]}}, "1.13.5")
    assert problem.where == "rtc.turn_servers[1].hots"
    assert "rtc.turn_servers[].host?" in problem.fix


@pytest.mark.parametrize(("path", "since"), [
    ("turn.ttl_seconds", "1.12.0"), ("rtc.tcp_fallback_rtt_threshold", "1.13.1"), ("debug_handler.port", "1.13.2"), ("node_selector.algorithm", "1.9.2"),
    ("room.departure_timeout", "1.6.0"), ("limit.max_attributes_size", "1.6.3"), ("prometheus.port", "1.7.1"), ("node_stats.stats_max_delay", "1.9.0"),
    ("api.check_interval", "1.10.1"), ("enable_data_tracks", "1.9.7"), ("trace.jaeger_url", "1.9.11"), ("agents.target_load", "1.11.0"),
    ("rtc.datachannel_data_track_target_latency", "1.13.4"), ("limit.max_data_track_custom_encoding_length", "1.13.3"),
])
def test_a_key_that_came_later(path: str, since: str) -> None:
    value = {"int": 1, "uint": 1, "float": 0.5, "bool": True, "duration": "1s"}.get(schema.KEYS[path].type, schema.KEYS[path].choices[-1:] or "x")
    value = value[0] if isinstance(value, tuple) else value
    tree: t.Any = value
    for name in reversed(path.split(".")):
        tree = {name: tree}
    assert config_keys.unknown_keys(tree, since) == []
    numbers = [int(n) for n in since.split(".")]
    before = ".".join(map(str, [numbers[0], numbers[1] - 1, 99] if numbers[2] == 0 else [*numbers[:2], numbers[2] - 1]))
    problem, = config_keys.unknown_keys(tree, before)
    assert problem.code == "key_too_new"
    assert f"needs LiveKit ≥ {since}, this deployment runs {before}" in problem.text


@pytest.mark.parametrize(("tree", "removed", "instead"), [
    ({"room": {"create_room_enabled": True}}, "1.13.2", "Remove it"),
    ({"signal_relay": {"enabled": True}}, "1.5.3", "Remove it"),
    ({"environment": "dev"}, "1.6.0", "Remove it"),
    ({"video": {"stream_tracker": {}}}, "1.8.2", "video.stream_tracker_manager"),
    ({"rtc": {"congestion_control": {"probe_mode": "media"}}}, "1.8.2", "rtc.congestion_control.stream_allocator"),
    ({"rtc": {"congestion_control": {"channel_observer_probe_config": {}}}}, "1.8.2", "rtc.congestion_control.remote_bwe"),
])
def test_a_key_that_is_gone(tree: dict[str, t.Any], removed: str, instead: str) -> None:
    problem, = config_keys.unknown_keys(tree, "1.13.5")
    assert problem.code == "key_removed"
    assert f"was removed in LiveKit {removed}, this deployment runs 1.13.5" in problem.text
    assert instead in problem.fix


def test_a_key_is_there_until_the_release_that_removed_it() -> None:
    tree = {"room": {"create_room_enabled": True}}
    assert config_keys.unknown_keys(tree, "1.13.1") == []
    assert [p.code for p in config_keys.unknown_keys(tree, "1.13.2")] == ["key_removed"]


@pytest.mark.parametrize("tree", [{"rtc": {"enable_warp": True}}, {"turn": {"per_user_relay_allocation_limit": 3}}, {"rtc": {"require_ipv4": True}}])
def test_a_key_no_release_has_yet(tree: dict[str, t.Any]) -> None:
    problem, = config_keys.unknown_keys(tree, "1.13.5")
    assert "needs a release after 1.13.5" in problem.text


@pytest.mark.parametrize(("tree", "words"), [
    ({"rtc": {"tcp_port": "7881"}}, 'rtc.tcp_port must be a whole number from 0 up, not the string "7881"'),
    ({"rtc": {"tcp_port": True}}, "not true or false"),
    ({"rtc": {"tcp_port": -1}}, "not a number"),
    ({"rtc": True}, "rtc must be a mapping, not true or false"),
    ({"rtc": {"use_ice_lite": "yes"}}, "rtc.use_ice_lite must be true or false"),
    ({"bind_addresses": "127.0.0.1"}, "bind_addresses must be a list of strings"),
    ({"bind_addresses": [127]}, "bind_addresses must be a list of strings"),
    ({"signal_relay": {"retry_timeout": 5}}, "a duration such as"),
    ({"signal_relay": {"retry_timeout": "5 s"}}, "a duration such as"),
    ({"rtc": {"udp_port": "50000-49000"}}, "a port or a range"),
    ({"rtc": {"udp_port": 70000}}, "a port or a range"),
    ({"rtc": {"udp_port": {"start": 1}}}, "a port or a range"),
    ({"rtc": {"ips": {"includes": ["10.0.0.300/8"]}}}, "a list of networks"),
    ({"rtc": {"turn_servers": {"host": "a"}}}, "a list of mappings"),
    ({"rtc": {"turn_servers": ["a"]}}, "a list of mappings"),
    ({"node_selector": {"cpu_load_limit": "0.9"}}, "a number"),
    ({"redis": {"password": 12345}}, "redis.password must be a string, not a number"),
    ({"rtc": {"congestion_control": {"send_side_bwe": 3}}}, "a mapping"),
])
def test_a_value_of_the_wrong_type(tree: dict[str, t.Any], words: str) -> None:
    problem, = config_keys.unknown_keys(tree, "1.13.5")
    assert problem.code == "wrong_type"
    assert words in problem.text
    assert "12345" not in str(problem)


@pytest.mark.parametrize(("tree", "fix"), [
    ({"node_selector": {"kind": "sysloud"}}, "Did you mean sysload? Possible: any, cpuload"),
    ({"node_selector": {"algorithm": "best"}}, "Possible: lowest, twochoice"),
    ({"rtc": {"turn_servers": [{"protocol": "dtls"}]}}, "Did you mean tls?"),
])
def test_a_value_that_cannot_be(tree: dict[str, t.Any], fix: str) -> None:
    problem, = config_keys.unknown_keys(tree, "1.13.5")
    assert problem.code == "bad_value" and fix in problem.fix


def test_everything_of_the_newest_release_is_taken() -> None:
    assert config_keys.unknown_keys({
        "port": 7880, "bind_addresses": [], "prometheus": {"username": "u", "password": "p"}, "enable_data_tracks": False, "sip": {},
        "rtc": {"udp_port": "50000-50099", "node_ip": "10.0.0.1,fd00::1", "interfaces": {"includes": ["eth0"]}, "ips": {"excludes": ["172.17.0.0/16"]},
                "batch_io": {"batch_size": 128, "max_flush_interval": "2ms"}, "pli_throttle": {"low_quality": "500ms"}, "allow_tcp_fallback": True,
                "turn_servers": [{"host": "t", "port": 443, "protocol": "tls", "secret_file": "/x", "ttl": 60}],
                "congestion_control": {"send_side_bwe": {"congestion_detector": {"anything": 1}}, "stream_allocator": {"probe_mode": "media"}}},
        "redis": {"address": "a:1", "db": 0, "tls": {"enabled": True, "insecure": False, "ca_cert_file": "/x"}, "pool_timeout": "1s"},
        "room": {"enabled_codecs": [{"mime": "audio/opus", "fmtp_line": ""}], "playout_delay": {"enabled": True, "min": 100}, "room_configurations": {"a": {}}},
        "node_selector": {"regions": [{"name": "eu", "lat": 50, "lon": 8.6}], "sysload_limit": 1},
        "node_stats": {"stats_rate_measurement_intervals": ["10s", "1m30s"]}, "logging": {"component_levels": {"pion": "error"}},
        "metric": {"collector": {"sampling_interval_ms": 1}}, "webhook": {"filter_params": {"include_events": ["room_started"]}},
        "region": None,
    }, "1.13.5") == []


def test_known_keys_let_newer_keys_pass() -> None:
    tree = {"rtc": {"brand_new": {"x": 1}, "other": 1}}
    assert [p.where for p in config_keys.unknown_keys(tree, "1.14.0", known=["rtc.brand_new"])] == ["rtc.other"]
    assert "livekit_known_keys" in config_keys.unknown_keys(tree, "1.14.0")[0].fix
    assert found(server_config=tree, known_keys=["rtc.brand_new", "rtc.other"], version="1.14.0") == []
    assert render(server_config=tree)["rtc"]["brand_new"] == {"x": 1}


@pytest.mark.parametrize(("text", "seconds"), [
    ("500ms", 0.5), ("2s", 2), ("1m30s", 90), ("1.5h", 5400), ("-2s", -2), ("0", 0), ("100us", 1e-4), ("", None), ("5", None), ("5 s", None), ("s", None),
    ("2d", None), ("+-2s", None),
])
def test_duration_seconds(text: str, seconds: float | None) -> None:
    assert config_keys.duration_seconds(text) == (seconds if seconds is None else pytest.approx(seconds))


def test_the_schema_is_consistent() -> None:
    for path, key in schema.KEYS.items():
        assert key.type in schema.TYPES, path
        assert not key.removed or schema.version_tuple(key.since) < schema.version_tuple(key.removed), path
        if "." in path:
            parent = path.rpartition(".")[0]
            assert schema.KEYS[parent.removesuffix("[]")].type == ("maps" if parent.endswith("[]") else "map"), path
    assert not set(schema.MISNAMED) & set(schema.KEYS)
    assert set(config_checks.OWNED) <= set(schema.KEYS)


# --- problems ---------------------------------------------------------------------------------------------------------

def test_a_good_deployment_has_no_problem() -> None:
    assert found() == []
    assert found(hosts=HOSTS, vcpus=64, claims=[("tcp", 443, 443, "HAProxy"), ["tcp", 1936, 1936, "HAProxy statistics"]], turn=TURN) == []
    assert found(redis={}, slots=1, layout=slots.Layout(count=1)) == []


VERSIONS = [("v1.13.5", "bad_version"), ("1.13", "bad_version"), ("latest", "bad_version"), ("1.13.5-rc1", "bad_version"), ("", "bad_version"),
            ("1.9.10", "broken_version"), ("1.9.5", "broken_version"), ("1.8.3", "old_version"), ("1.8.4", None), ("1.9.11", None), ("1.14.0", None)]


@pytest.mark.parametrize(("version", "code"), VERSIONS)
def test_version(version: str, code: str | None) -> None:
    assert found(version=version) == ([(code, "livekit_version")] if code else [])


def test_a_leading_v_is_named() -> None:
    assert 'Write "1.13.5"' in str(config_checks.problems(model(version="v1.13.5"), slots.Layout())[0])


@pytest.mark.parametrize(("turn", "codes"), [({}, []), (TURN, ["broken_version"]), ({**TURN, "udp_port": 0}, [])])
def test_a_release_with_broken_turn(turn: dict[str, t.Any], codes: list[str]) -> None:
    assert [code for code, where in found(version="1.10.0", turn=turn)] == codes


@pytest.mark.parametrize(("keys", "expected"), [
    ({}, [("no_keys", "livekit_keys")]),
    ({"apikey": "short"}, [("short_secret", "livekit_keys.apikey")]),
    ({"apikey": "x" * 31}, [("short_secret", "livekit_keys.apikey")]),
    ({"apikey": "x" * 32}, []),
    ({"apikey": None}, [("wrong_type", "livekit_keys.apikey")]),
    ({"apikey": 12345678901234567890123456789012}, [("wrong_type", "livekit_keys.apikey")]),
    ({"apikey": "x" * 40 + "\n"}, [("bad_secret", "livekit_keys.apikey")]),
    ({"my key": "x" * 32}, [("bad_key_name", "livekit_keys, entry 1")]),
    ({"good": "x" * 32, SECRET: "apikey"}, [("short_secret", "livekit_keys, entry 2")]),
])
def test_keys(keys: dict[str, t.Any], expected: list[tuple[str, str]]) -> None:
    assert found(keys=keys) == expected


@pytest.mark.parametrize(("layout", "claims", "turn", "words"), [
    (slots.Layout(step=1), [], {}, "slot 1 ICE/TCP and slot 2 signalling both use tcp port 7881"),
    (slots.Layout(), [("tcp", 7881, 7881, "HAProxy frontend")], {}, "HAProxy frontend and slot 1 ICE/TCP both use tcp port 7881"),
    (slots.Layout(), [("tcp", 7890, 7890, "HAProxy frontend")], {}, "HAProxy frontend and slot 2 signalling both use tcp port 7890"),
    (slots.Layout(), [("udp", 40000, 60000, "something")], {}, "something and slot 1 ICE/UDP both use udp port 50000"),
    (slots.Layout(udp_start=30500), [], TURN, "slot 1 TURN relay and slot 1 ICE/UDP both use udp port 30500"),
    (slots.Layout(udp_width=100, count=2, udp_start=50000, turn_udp=50150), [], TURN, "slot 2 ICE/UDP and slot 1 TURN/UDP both use udp port 50150"),
])
def test_ports_that_overlap(layout: slots.Layout, claims: t.Any, turn: dict[str, t.Any], words: str) -> None:
    problems = config_checks.problems(model(turn=turn), layout, claims=claims)
    assert {p.code for p in problems} == {"ports_overlap"}
    hit = [p for p in problems if words in p.text]
    assert hit
    if "ICE/TCP" in words and claims:
        assert "never a frontend of the balancer" in hit[0].fix


@pytest.mark.parametrize(("layout", "expected"), [
    (slots.Layout(udp_start=65500), [("port_range", "livekit_layout")] * 3),
    (slots.Layout(udp_width=0), [("port_range", "livekit_layout.udp_width")]),
    (slots.Layout(count=0), [("bad_slots", "livekit_slots")]),
    (slots.Layout(count=1), [("too_few_slots", "livekit_slots")]),
    (slots.Layout(count=2), []),
])
def test_layouts_that_cannot_be(layout: slots.Layout, expected: list[tuple[str, str]]) -> None:
    assert found(layout=layout) == expected


@pytest.mark.parametrize(("width", "vcpus", "bad"), [(8, 16, True), (16, 16, False), (8, None, False)])
def test_udp_range_and_vcpus(width: int, vcpus: int | None, bad: bool) -> None:
    assert found(layout=slots.Layout(udp_width=width), vcpus=vcpus) == ([("udp_range_small", "livekit_layout.udp_width")] if bad else [])


@pytest.mark.parametrize(("redis", "count", "expected"), [
    ({}, 1, []),
    ({}, 2, [("redis_missing", "livekit_redis")]),
    ({"password": "pa:ss#word"}, 2, [("redis_incomplete", "livekit_redis")]),
    ({"sentinel_addresses": ["a:26379"]}, 2, [("redis_incomplete", "livekit_redis")]),
    ({"sentinel_master_name": "m", "address": "a:6379"}, 2, [("redis_incomplete", "livekit_redis")]),
    ({"sentinel_master_name": "m", "sentinel_addresses": ["a:26379", "b:26379"]}, 2, []),
    ({"sentinel_master_name": "m", "sentinel_addresses": ["a:26379", "b"]}, 2, [("bad_value", "livekit_redis.sentinel_addresses")]),
    ({"address": "10.0.0.9"}, 1, [("bad_value", "livekit_redis.address")]),
    ({"address": "redis://:pa:ss#word@10.0.0.9:6379"}, 1, [("bad_value", "livekit_redis.address")]),
    ({"address": "[fd00::9]:6379"}, 1, []),
    ({"hosts": ["a:1"], "address": "a:1"}, 1, [("unknown_key", "livekit_redis.hosts")]),
    ({"address": "a:1", "tls": {"enable": True}}, 1, [("unknown_key", "livekit_redis.tls.enable")]),
])
def test_redis(redis: dict[str, t.Any], count: int, expected: list[tuple[str, str]]) -> None:
    assert found(redis=redis, server_count=count) == expected


@pytest.mark.parametrize(("turn", "expected"), [
    ({"enabled": False}, []),
    (TURN, []),
    ({"enabled": True, "tls_port": 0}, []),
    ({"enabled": True, "domain": "turn.example.org", "cert_file": "/c", "key_file": "/k"}, []),
    ({"enabled": True, "external_tls": True}, [("turn_domain", "livekit_turn.domain")]),
    ({**TURN, "domain": "turn"}, [("turn_domain", "livekit_turn.domain")]),
    ({**TURN, "domain": "Turn.example.org"}, [("turn_domain", "livekit_turn.domain")]),
    ({**TURN, "domain": "turn.example.org:443"}, [("turn_domain", "livekit_turn.domain")]),
    ({"enabled": True, "domain": "turn.example.org"},
     [("turn_certificate", "livekit_turn.certificate"), ("turn_certificate", "livekit_turn.private_key")]),
    ({"enabled": True, "domain": "turn.example.org", "cert_file": "/c"}, [("turn_certificate", "livekit_turn.private_key")]),
    ({"enabled": True, "domain": "turn.example.org", "certificate": PRIVATE_KEY, "private_key": PRIVATE_KEY},
     [("turn_certificate", "livekit_turn.certificate")]),
    ({"enabled": True, "domain": "turn.example.org", "certificate": CERTIFICATE, "cert_file": "/c", "key_file": "/k"},
     [("turn_certificate", "livekit_turn.certificate")]),
    ({"enabled": True, "tls_port": 0, "udp_port": 0}, [("turn_ports", "livekit_turn")]),
    ({**TURN, "tls_port": 443}, [("owned_key", "livekit_turn.tls_port")]),
    ({**TURN, "relay_range_start": 1}, [("owned_key", "livekit_turn.relay_range_start")]),
    ({**TURN, "username": "u"}, [("unknown_key", "livekit_turn.username")]),
    ({"enabled": "yes"}, [("wrong_type", "livekit_turn.enabled"), ("turn_domain", "livekit_turn.domain"),
                          ("turn_certificate", "livekit_turn.certificate"), ("turn_certificate", "livekit_turn.private_key")]),
])
def test_turn(turn: dict[str, t.Any], expected: list[tuple[str, str]]) -> None:
    assert found(turn=turn) == expected


def test_turn_needs_an_ipv4_node_ip() -> None:
    assert found(turn=TURN, node_ip="fd00::1") == [("turn_node_ip", "livekit_turn")]
    assert found(turn=TURN, node_ip="10.0.0.1,fd00::1") == []


@pytest.mark.parametrize(("url", "hosts", "expected"), [
    ("wss://livekit.example.org", HOSTS, None),
    ("", HOSTS, None),
    ("wss://10.0.0.1", HOSTS, "url_bypasses_balancer"),
    ("ws://203.0.113.2:7880", HOSTS, "url_bypasses_balancer"),
    ("wss://MEDIA1", HOSTS, "url_bypasses_balancer"),
    ("wss://10.0.0.1", HOSTS[:1], None),
    ("ws://10.0.0.1:7880", HOSTS[:1], "url_bypasses_balancer"),
    ("wss://10.0.0.1", [{**HOSTS[0], "balancer": True}, HOSTS[1]], None),
    ("ws://10.0.0.1:7890", [{**HOSTS[0], "balancer": True}, HOSTS[1]], "url_bypasses_balancer"),
    ("livekit.example.org", HOSTS, "bad_public_url"),
    ("wss://", HOSTS, "bad_public_url"),
    ("wss://a:port", HOSTS, "bad_public_url"),
    (f"wss://user:{SECRET}@livekit.example.org", HOSTS, "bad_public_url"),
    ("wss://livekit.example.org/?access_token=x", HOSTS, "bad_public_url"),
])
def test_public_url(url: str, hosts: t.Any, expected: str | None) -> None:
    assert found(public_url=url, hosts=hosts) == ([(expected, "livekit_public_url")] if expected else [])


@pytest.mark.parametrize(("addresses", "expected"), [
    (["203.0.113.1", "203.0.113.2"], []),
    (["203.0.113.1", "203.0.113.1"], [("same_node_ip", "livekit_node_ip of m2")]),
    (["203.0.113.1,fd00::1", "203.0.113.2,fd00::1"], [("same_node_ip", "livekit_node_ip of m2")]),
    (["media1.example.org", "203.0.113.2"], [("bad_node_ip", "livekit_node_ip of m1")]),
    (["203.0.113.1,203.0.113.9", "203.0.113.2"], [("bad_node_ip", "livekit_node_ip of m1")]),
])
def test_node_ips(addresses: list[str], expected: list[tuple[str, str]]) -> None:
    hosts = [{"name": f"m{i}", "node_ip": ip} for i, ip in enumerate(addresses, 1)]
    assert found(hosts=hosts) == expected
    assert found(hosts=hosts, use_external_ip=True) == []


def test_the_node_ip_of_this_host_is_checked_without_a_list() -> None:
    assert found(address="media1.example.org") == [("bad_node_ip", "livekit_node_ip")]


@pytest.mark.parametrize("path", sorted(config_checks.OWNED))
def test_what_a_slot_owns_cannot_be_overridden(path: str) -> None:
    tree: t.Any = None  # removing it is overriding it too
    for name in reversed(path.split(".")):
        tree = {name: tree}
    assert found(server_config=tree) == [("owned_key", f"livekit_server_config.{path}")]


def test_a_removed_section_takes_the_slots_keys_with_it() -> None:
    assert {where for code, where in found(server_config={"rtc": None})} >= {"livekit_server_config.rtc.tcp_port", "livekit_server_config.rtc.udp_port"}


@pytest.mark.parametrize(("extra", "changes", "expected"), [
    ({"rtc": {"udp_prot": 1}}, {}, [("unknown_key", "livekit_server_config.rtc.udp_prot")]),
    ({"room": {"create_room_enabled": True}}, {}, [("key_removed", "livekit_server_config.room.create_room_enabled")]),
    ({"debug_handler": {"port": 7070}}, {}, [("shared_port", "livekit_server_config.debug_handler.port")]),
    ({"rtc": {"use_stun_port_as_ice": True}}, {}, [("shared_port", "livekit_server_config.rtc.use_stun_port_as_ice")]),
    ({"node_stats": {"stats_update_interval": "5s"}}, {}, [("bad_value", "livekit_server_config.node_stats.stats_update_interval")]),
    ({"node_stats": {"stats_update_interval": "3s"}}, {}, []),
    ({"node_selector": {"kind": "regionaware", "regions": [{"name": "us-1", "lat": 1, "lon": 2}]}}, {}, [("bad_region", "livekit_region")]),
    ({"node_selector": {"kind": "regionaware", "regions": [{"name": "eu-1", "lat": 1, "lon": 2}]}}, {}, []),
    ({"node_selector": {"kind": "regionaware"}}, {"region": ""}, [("bad_region", "livekit_region")]),
    ({}, {"webhook": {"urls": ["http://x"], "api_key": "other"}}, [("webhook_key", "livekit_webhook.api_key")]),
    ({}, {"webhook": {"urls": ["http://x"], "api_key": "apikey"}}, []),
    ({"webhook": {"urls": ["http://x"]}}, {}, [("webhook_key", "livekit_webhook.api_key")]),
    ({}, {"log_level": "verbose"}, [("bad_value", "livekit_log_level")]),
    ({"prometheus": {"password": 12345}}, {}, [("wrong_type", "livekit_server_config.prometheus.password")]),
])
def test_server_config_and_cross_references(extra: dict[str, t.Any], changes: dict[str, t.Any], expected: list[tuple[str, str]]) -> None:
    assert found(server_config=extra, **changes) == expected


def test_raise_for_lists_every_problem_at_once() -> None:
    raise_for([])
    with pytest.raises(FleetError) as failed:
        raise_for(config_checks.problems(model(version="1.9.10", keys={"apikey": "short"}), slots.Layout()))
    result = failed.value.as_result()
    assert [p["code"] for p in result["failure"]["problems"]] == ["broken_version", "short_secret"]
    assert "2 problems. Nothing was changed. Correct and run again:\n1. " in result["msg"]
    assert "1. livekit_version: LiveKit 1.9.10 panics" in result["msg"] and "2. livekit_keys.apikey: the secret has 5 characters" in result["msg"]


@pytest.mark.parametrize(("target", "running", "turn", "expected"), [
    ("1.13.5", ["1.11.0", "1.9.12", "1.13.4"], TURN, 2),
    ("1.13.5", ["1.12.0"], TURN, 0),
    ("1.12.0", ["1.11.0"], TURN, 0),
    ("1.13.5", ["1.11.0"], {}, 0),
    ("1.13.5", ["1.11.0"], {**TURN, "tls_port": 0}, 0),
])
def test_steps_between_releases(target: str, running: list[str], turn: dict[str, t.Any], expected: int) -> None:
    assert [p.code for p in config_checks.step_problems(model(version=target, turn=turn), running)] == ["turn_step"] * expected


# --- the product's own check ------------------------------------------------------------------------------------------

def test_the_servers_own_verdict_is_read_from_its_output() -> None:
    assert config_checks.static_problems("TCP Ports\n7880 - HTTP service\nUDP Ports\n50000-50099 - ICE/UDP\n") == []
    problem, = config_checks.static_problems(
        "could not parse config: yaml: unmarshal errors:\n  line 3: field foo not found in type config.RTCConfig\n  line 5: cannot unmarshal !!str `"
        + SECRET + "` into int\n")
    assert "foo" in problem.fix and SECRET not in str(problem)
    assert "it said nothing" in config_checks.static_problems("")[0].text


# --- the role that holds the variables --------------------------------------------------------------------------------

def test_role_model_documents_each_default() -> None:
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    options = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert {name: option["default"] for name, option in options.items()} == defaults
    assert all(option.get("description") for option in options.values())
    readme = (ROLE / "README.md").read_text()
    assert [name for name in defaults if f"`{name}`" not in readme] == []


def test_role_model_hands_every_field_of_the_model_over() -> None:
    mapping = yaml.safe_load((ROLE / "vars/main.yml").read_text())["livekit_model"]
    mapping.pop("livekit_server_image")  # it belongs to a generation of containers, and makes no difference to the configuration
    assert set(mapping) == {f"livekit_{name}" for name in config.Model.__dataclass_fields__}
    assert all(value == "{{ " + name + " }}" for name, value in mapping.items())


def test_metrics_behind_a_password_are_refused_as_gates_could_not_read_them() -> None:
    assert found(server_config={"prometheus": {"username": "a", "password": "b"}}) == [("metrics_password", "livekit_server_config.prometheus")]
