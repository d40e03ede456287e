# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder of LiveKit's generator as livekit_* variables, and back."""
from __future__ import annotations

import copy

import pytest
import yaml
from adoption_sample import CADDY, COMPOSE, HERE, LIVEKIT, SECRET, container, folder
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet import config, config_checks, slots
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.adoption import caddy, compose_file, inventory, livekit_config, ports, process
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.adoption import folder as reader
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.adoption.found import report
from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.errors import FleetError

TURN_SERVER = {"host": "t.example.net", "port": 443, "protocol": "tls", "username": "u", "credential": "example-turn-credential"}


def changed(text, **values):
    """The configuration with dotted keys set (a__b), or taken out with None."""
    made = yaml.safe_load(text)
    for name, value in values.items():
        level = made
        *parents, leaf = name.split("__")
        for parent in parents:
            level = level.setdefault(parent, {})
        if value is None:
            level.pop(leaf, None)
        else:
            level[leaf] = value
    return yaml.safe_dump(made)


def way_back(found):
    model, layout = config.Model.from_vars(found.variables), config.layout_of(found.variables)
    return livekit_config.differences(found.config, config.render(model, layout.ports(1), "keys.yaml"), found.rows, found.where)


def rows(found, what):
    return {row.source: row for row in found.rows if row.what == what}


def refusal(given):
    with pytest.raises(FleetError) as caught:
        reader.adopt(given, "calls1")
    return caught.value


# --- the whole folder -------------------------------------------------------------------------------------------------

def test_the_generators_folder_becomes_an_inventory_that_can_be_deployed():
    found = reader.adopt(folder(), "calls1")
    v = found.variables
    assert v["livekit_version"] == "1.13.4" and v["livekit_keys"] == {"APIw7example": SECRET} and v["livekit_redis"] == {"address": "localhost:6379"}
    assert v["livekit_public_url"] == "wss://calls.example.net" and v["livekit_use_external_ip"] is True
    assert v["livekit_turn"] == {"enabled": True, "domain": "turn.calls.example.net", "external_tls": True}
    assert v["livekit_server_config"]["room"] == {"empty_timeout": 600}
    model, layout = config.Model.from_vars(v), config.layout_of(v)
    hosts = [{"name": "calls1", "address": "192.0.2.10", "node_ip": "192.0.2.10", "balancer": True}]
    claims = [("tcp", c["port"], c["port"], c["use"]) for c in v["livekit_server_claims"]]
    assert config_checks.problems(model, layout, hosts=hosts, claims=claims, vcpus=4) == []


def test_every_difference_that_a_slot_will_have_is_told_and_none_is_without_a_reason():
    found = reader.adopt(folder(), "calls1")
    told = way_back(found)
    assert {row.source.split(": ")[1].split(".")[0] for row in told} == {"logging", "node_selector", "signal_relay"}
    assert all("default of this collection" in row.note for row in told)


def test_what_the_operator_had_set_wins_over_the_collections_defaults():
    found = reader.adopt(folder(changed(LIVEKIT, node_selector__kind="sysload", node_selector__sysload_limit=0.7, logging__json=False)), "calls1")
    rendered = config.render(config.Model.from_vars(found.variables), config.layout_of(found.variables).ports(1), "keys.yaml")
    assert rendered["node_selector"]["kind"] == "sysload" and rendered["node_selector"]["sysload_limit"] == 0.7 and rendered["logging"]["json"] is False


@pytest.mark.parametrize("key, value", [
    ("audio__active_level", 40), ("room__enabled_codecs", [{"mime": "audio/opus"}]), ("rtc__turn_servers", [TURN_SERVER]),
    ("limit__num_tracks", 400), ("rtc__interfaces__includes", ["eth0"]), ("region", "eu"), ("log_level", "debug"),
    ("logging__level", "warn"), ("prometheus_port", 6789), ("prometheus__port", 6789),
    ("rtc__udp_port", "7882-7892"), ("psrpc__timeout", 3000000000), ("turn__relay_range_start", 20000), ("rtc__use_external_ip", False),
    ("redis__username", "calls"), ("ingress__rtmp_base_url", "rtmp://calls.example.net/x"),
])
def test_any_setting_comes_back_or_its_change_is_told(key, value):
    found = reader.adopt(folder(changed(LIVEKIT, **{key: value})), "calls1")
    assert not [row for row in way_back(found) if "without a reason" in row.note], key


def test_a_difference_that_nobody_chose_would_be_seen():
    found = reader.adopt(folder(), "calls1")
    found.variables["livekit_server_config"]["room"]["empty_timeout"] = 5
    assert [row for row in way_back(found) if "without a reason" in row.note and row.value == "600 → 5"]


def test_slots_get_ports_beside_everything_that_is_in_use():
    found = reader.adopt(folder(listening=[["tcp", 7890], ["tcp", 7980], ["udp", 3488]]), "calls1")
    layout = config.layout_of(found.variables)
    running = ports.claims_of(yaml.safe_load(LIVEKIT))
    assert slots.overlaps([*layout.claims(turn=True), *running]) == []
    assert 7890 not in [layout.ports(n).signal for n in layout.numbers] and found.variables["livekit_haproxy_plain_port"] == 7981
    assert 3488 not in [layout.ports(n).turn_udp for n in layout.numbers]
    assert "UDP 61000-61299" in rows(found, "to do")["firewall"].value


def test_no_secret_is_in_the_report_or_in_a_file_that_everybody_may_read():
    found = reader.adopt(folder(changed(LIVEKIT, redis__password="example-redis-password", rtc__turn_servers=[TURN_SERVER])), "calls1")
    files = inventory.files(found, "calls1", {"ansible_host": "192.0.2.10"}, "a folder")
    shown = "\n".join([*report(found.rows), *(f.content for f in files if not f.secret)])
    hidden = [f for f in files if f.secret]
    for secret in (SECRET, "example-redis-password", "example-turn-credential"):
        assert secret not in shown and secret in hidden[0].content
    assert [f.path for f in hidden] == ["group_vars/all/vault.yml"]
    main = next(f for f in files if f.path.endswith("main.yml")).content
    assert 'password: "{{ livekit_vault_redis_password }}"' in main and 'credential: "{{ livekit_vault_server_config_rtc_turn_servers_1_credential }}"' in main


def test_braces_in_a_value_are_no_template():
    text = inventory.yaml({"livekit_region": "{{ lookup('pipe', 'id') }}", "livekit_redis": {"password": "{{ livekit_vault_redis_password }}"}})
    assert "livekit_region: !unsafe \"{{ lookup" in text and 'password: "{{ livekit_vault' in text


def test_the_host_is_reached_as_before_and_nothing_else_of_the_old_inventory_is_kept():
    files = inventory.files(reader.adopt(folder(), "calls1"), "calls1", {"ansible_host": "192.0.2.10", "ansible_password": "example"}, "a folder")
    hosts = yaml.safe_load(files[0].content)["all"]
    assert hosts["hosts"]["calls1"] == {"ansible_host": "192.0.2.10"} and set(hosts["children"]) == {"livekit_balancer", "livekit_server"}


# --- what has no place ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("key, value, says", [
    ("development", True, "developer"), ("debug_handler__port", 7070, "two slots"), ("prometheus__username", "x", "firewall"),
    ("bind_addresses", ["127.0.0.1"], "firewall"), ("rtc__use_stun_port_as_ice", True, "3478"),
])
def test_what_no_slot_can_have_is_named_with_what_to_do(key, value, says):
    found = reader.adopt(folder(changed(LIVEKIT, **{key: value})), "calls1")
    row = next(row for source, row in rows(found, "no place").items() if source.endswith(key.replace("__", ".")) or key.split("__")[0] in source)
    assert says in row.note and not [r for r in way_back(found) if "without a reason" in r.note]


def test_keys_that_livekit_reads_over_are_named_with_their_right_names():
    found = reader.adopt(folder(changed(LIVEKIT, rtc__udp_prot=7882)), "calls1")
    assert "rtc.udp_port" in rows(found, "no place")["livekit.yaml: rtc.udp_prot"].note


def test_a_value_that_livekit_would_not_take_is_an_error():
    assert refusal(folder(changed(LIVEKIT, room__empty_timeout="soon"))).failure["code"] == "wrong_type"


def test_without_redis_the_take_over_is_told_to_be_impossible():
    found = reader.adopt(folder(changed(LIVEKIT, redis=None)), "calls1")
    assert "livekit_redis" not in found.variables and "no second node" in rows(found, "to do")["livekit.yaml: redis"].note


def test_an_egress_that_goes_straight_to_the_node_is_a_thing_to_do():
    found = reader.adopt(folder(), "calls1")
    assert "public URL" in rows(found, "to do")["egress.yaml: ws_url"].note
    assert found.variables["livekit_neighbours"] == [{"unit": "livekit-egress-1", "kind": "egress"}]


def test_another_way_in_than_caddy_is_left_to_the_operator():
    given = folder()
    del given.documents["caddy.yaml"]
    found = reader.adopt(given, "calls1")
    assert found.variables["livekit_adopt_edge"] == "manual" and "livekit_public_url" in rows(found, "to do")["the way in"].note


# --- what runs goes before what the files say -------------------------------------------------------------------------

def test_environment_and_command_line_go_before_the_file():
    running = container("livekit", "livekit/livekit-server:latest", Args=["--config", "/etc/livekit.yaml", "--node-ip=192.0.2.7"])
    running["Config"]["Env"] = ["LIVEKIT_KEYS=other: " + SECRET, "LIVEKIT_ROOM_EMPTY_TIMEOUT=30", "LIVEKIT_RTC_USE_EXTERNAL_IP=false"]
    found = reader.adopt(folder(containers=[running]), "calls1")
    assert found.variables["livekit_keys"] == {"other": SECRET} and found.variables["livekit_node_ip"] == "192.0.2.7"
    assert found.variables["livekit_server_config"]["room"]["empty_timeout"] == 30


def test_flags_are_read_in_every_form():
    assert process.flags(["--config", "/a", "--dev", "--bind=1.1.1.1", "--bind", "2.2.2.2", "--turn.enabled", "--rtc.tcp_port=7"]) == {
        "config": "/a", "dev": "true", "bind": ["1.1.1.1", "2.2.2.2"], "turn.enabled": "true", "rtc.tcp_port": "7"}


def test_a_folder_that_does_not_run_can_be_read_when_its_image_names_a_version():
    given = folder(running=False, texts={f"{HERE}/.env": "LIVEKIT_TAG=v1.9.0\n"})
    found = reader.adopt(given, "calls1")
    assert found.variables["livekit_version"] == "1.9.0" and "docker-compose.yaml" in rows(found, "to do")


def test_an_image_of_another_registry_and_a_digest_are_kept():
    for image, kept in (("registry.example.net/livekit/livekit-server:v1.13.4", "registry.example.net/livekit/livekit-server:v1.13.4"),
                        (f"livekit/livekit-server@sha256:{'a' * 64}", f"livekit/livekit-server@sha256:{'a' * 64}")):
        found = reader.adopt(folder(containers=[container("livekit", image)]), "calls1")
        assert found.variables["livekit_compose_images"] == {"server": kept}


def test_keys_and_certificates_in_files_are_read_through_the_mounts():
    running = container("livekit", "livekit/livekit-server:v1.13.4")
    running["Mounts"].append({"Type": "bind", "Source": f"{HERE}/certs", "Destination": "/certs"})
    made = changed(LIVEKIT, keys=None, key_file="/certs/keys.yaml", turn__external_tls=False, turn__cert_file="/certs/c.pem", turn__key_file="/certs/k.pem")
    texts = {f"{HERE}/certs/keys.yaml": f"APIfile: {SECRET}\n", f"{HERE}/certs/c.pem": "-----BEGIN CERTIFICATE-----\n"}
    found = reader.adopt(folder(made, containers=[running], texts=texts), "calls1")
    assert found.variables["livekit_keys"] == {"APIfile": SECRET} and found.variables["livekit_turn"]["certificate"].startswith("-----BEGIN")
    assert "private_key" in rows(found, "to do")["livekit.yaml: turn.key_file"].note


@pytest.mark.parametrize("given, code", [
    (folder(compose=COMPOSE.replace("livekit/livekit-server", "example/other"), running=False), "adopt_service"),
    (folder(running=False), "adopt_version"),
    (folder(containers=[{**container("livekit", "livekit/livekit-server:v1.13.4"), "HostConfig": {"NetworkMode": "bridge"}}]), "adopt_network"),
    (folder(containers=[container("livekit", "livekit/livekit-server:v1.13.4", Args=["--config", "/nowhere.yaml"])]), "adopt_config"),
])
def test_what_cannot_be_adopted_is_refused_with_a_code(given, code):
    error = refusal(given)
    assert error.failure["code"] == code and error.failure["fix"]


# --- Caddy ------------------------------------------------------------------------------------------------------------

TO = {7880: "127.0.0.1:7980", 5349: "127.0.0.1:7981"}


def test_caddys_file_is_changed_where_its_proxies_lead_and_nowhere_else():
    text = caddy.repoint_text(CADDY, TO)
    assert yaml.safe_load(text) == caddy.repoint(yaml.safe_load(CADDY), TO)
    old, new = CADDY.splitlines(), text.splitlines()
    assert [(a.strip(), b.strip()) for a, b in zip(old, new) if a != b] == [
        ('- dial: ["192.0.2.10:5349"]', '- dial: ["127.0.0.1:7981"]'), ("- localhost:7880", "- 127.0.0.1:7980")]
    assert caddy.repoint_text(text, TO) == text and len(old) == len(new)


def test_a_caddy_that_leads_elsewhere_is_refused_and_one_that_was_changed_already_is_not():
    made = yaml.safe_load(CADDY)
    caddy.check(made, TO)
    caddy.check(caddy.repoint(made, TO), TO)
    with pytest.raises(FleetError, match="port 7000"):
        caddy.check(made, {7000: "127.0.0.1:7980"})


def test_a_caddyfile_or_http_app_is_no_layer_4_proxy():
    assert caddy.routes({"apps": {"http": {"servers": {}}}}) == [] and caddy.routes({}) == []


# --- the compose file -------------------------------------------------------------------------------------------------

def test_the_former_service_is_started_no_more_and_nothing_else_changes():
    text = compose_file.retired(COMPOSE, "livekit")
    after, before = yaml.safe_load(text), yaml.safe_load(COMPOSE)
    assert after["services"]["livekit"].pop("profiles") == ["before-adoption"] and after == before
    assert compose_file.retired(text, "livekit") == text


def test_the_last_service_and_one_that_depends_are_handled():
    assert "profiles" in yaml.safe_load(compose_file.retired("services:\n  livekit:\n    image: x", "livekit"))["services"]["livekit"]
    made = yaml.safe_load(COMPOSE)["services"]
    made["app"] = {"image": "x", "depends_on": {"livekit": {"condition": "service_started"}}}
    assert compose_file.dependents(made, "livekit") == ["app"]
    given = folder()
    given.documents["docker-compose.yaml"] = {"services": made}
    assert "app" in rows(reader.adopt(given, "calls1"), "to do")["docker-compose.yaml: depends_on"].value


@pytest.mark.parametrize("text", ["services: {livekit: {image: x}}\n", "services:\n  livekit:\n    profiles: [mine]\n", "volumes: {}\n"])
def test_a_compose_file_that_cannot_be_changed_safely_is_refused(text):
    with pytest.raises(FleetError, match="compose file"):
        compose_file.retired(text, "livekit")


def test_variables_of_compose_are_filled_in():
    env = {"A": "1", "EMPTY": ""}
    assert compose_file.interpolated(["$A", "${A}-x", "${B:-two}", "${EMPTY:-d}", "${EMPTY-d}", "$$A", "${A:+set}"], env) == [
        "1", "1-x", "two", "d", "", "$A", "set"]
    assert compose_file.env_file("# x\nexport A='1'\nB=2=3\n\nnothing\n") == {"A": "1", "B": "2=3"}


def test_nothing_that_was_read_is_changed():
    given = folder()
    before = copy.deepcopy(given)
    reader.adopt(given, "calls1")
    assert given == before
