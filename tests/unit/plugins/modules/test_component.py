# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""component: real files in a temporary root, the module run as a whole; only systemctl is a stand-in that keeps its state in a file."""
from __future__ import annotations

import base64
import json
import os
import stat
import sys
import time

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.component import paths, run
from ansible_collections.openrtc.livekit.plugins.modules import component

SYSTEMCTL = """#!{python}
import json, os, sys, time
path = os.environ["FAKE_UNITS"]
units = json.load(open(path))
args = [a for a in sys.argv[1:] if a != "-q" and not a.startswith("--")]
props = ""
if "-p" in args:
    i = args.index("-p"); props = args[i + 1]; del args[i:i + 2]
verb, names = args[0], args[1:]
with open(path + ".log", "a") as log:
    if verb not in ("show", "is-enabled"):
        log.write(" ".join([verb, *names]) + chr(10))
rc = 0
blocks = []
for name in names:
    u = units.setdefault(name, {{"ActiveState": "inactive", "UnitFileState": "disabled", "InvocationID": "", "ActiveEnterTimestampMonotonic": "0",
                                "NeedDaemonReload": "no", "CanReload": "yes"}})
    if verb == "show":
        blocks.append(chr(10).join(f"{{k}}={{u.get(k, '')}}" for k in props.split(",")))
    elif verb in ("start", "restart"):
        if u.get("broken"):
            rc = 1; print("Job for %s failed" % name, file=sys.stderr)
        else:
            u.update(ActiveState="active", InvocationID=os.urandom(4).hex(), ActiveEnterTimestampMonotonic=str(int(time.monotonic() * 1e6)))
    elif verb == "stop":
        u.update(ActiveState="inactive")
    elif verb in ("enable", "disable"):
        u["UnitFileState"] = verb + "d"
    elif verb == "is-enabled":
        print(u["UnitFileState"])
if verb == "daemon-reload":
    for u in units.values():
        u["NeedDaemonReload"] = "no"
if blocks:
    print((chr(10) * 2).join(blocks))
json.dump(units, open(path, "w"))
sys.exit(rc)
"""


class Host:
    """A temporary root with a stand-in systemctl."""

    def __init__(self, root, monkeypatch, capsys):
        self.root, self.capsys = root, capsys
        bindir = root / "bin"
        bindir.mkdir()
        tool = bindir / "systemctl"
        tool.write_text(SYSTEMCTL.format(python=sys.executable))
        tool.chmod(0o755)
        self.units_file = root / "units.json"
        self.units_file.write_text("{}")
        monkeypatch.setenv("FAKE_UNITS", str(self.units_file))
        monkeypatch.setenv("PATH", f"{bindir}:{os.environ['PATH']}")
        self.systemd = True
        monkeypatch.setattr(run, "systemd_runs", lambda: self.systemd)

    def run(self, check=False, **params):
        params = {"name": "thing", "record_dir": str(self.root / "record"), "_ansible_check_mode": check, "_ansible_diff": True,
                  "_ansible_tmpdir": str(self.root), **params}
        with patch_module_args(params), pytest.raises(SystemExit):
            component.main()
        return json.loads(self.capsys.readouterr().out)

    @property
    def log(self):
        path = self.root / "units.json.log"
        return path.read_text().splitlines() if path.exists() else []

    def unit(self, name, **values):
        units = json.loads(self.units_file.read_text())
        units.setdefault(name, {}).update(values)
        self.units_file.write_text(json.dumps(units))

    def path(self, name):
        return str(self.root / name)


@pytest.fixture(name="host")
def fixture_host(tmp_path, monkeypatch, capsys):
    return Host(tmp_path, monkeypatch, capsys)


def wanted(host, content="a\n", **over):
    return {
        "directories": [{"path": host.path("etc/thing"), "mode": "0750"}],
        "files": [{"dest": host.path("etc/thing/thing.conf"), "content": content, "mode": "0640", "reload": ["thing"], **over}],
        "units": [{"name": "thing", "enabled": True, "state": "started"}],
    }


def test_first_run_second_run_and_a_change(host):
    first = host.run(**wanted(host))
    assert first["changed"] and first["started"] == ["thing.service"], first
    conf = host.root / "etc/thing/thing.conf"
    assert conf.read_text() == "a\n"
    assert stat.S_IMODE(conf.stat().st_mode) == 0o640
    assert stat.S_IMODE(conf.parent.stat().st_mode) == 0o750
    assert host.log == ["enable thing.service", "start thing.service"]

    again = host.run(**wanted(host))
    assert not again["changed"] and again["changes"] == [] and again["diff"] == []

    change = host.run(**wanted(host, "b\n"))
    assert change["reloaded"] == ["thing.service"] and change["restarted"] == []
    assert change["diff"][0]["before"] == "a\n" and change["diff"][0]["after"] == "b\n"
    assert host.log[-1] == "reload thing.service"
    assert not host.run(**wanted(host, "b\n"))["changed"]


def test_check_mode_shows_everything_and_touches_nothing(host):
    shown = host.run(check=True, user={"name": "nobody-of-this-name"}, **wanted(host, owner="nobody-of-this-name"))
    assert shown["changed"] and shown["started"] == ["thing.service"]
    assert any(c.startswith("user ") for c in shown["changes"])
    assert not (host.root / "etc").exists() and not (host.root / "record").exists() and host.log == []
    done = host.run(**wanted(host))
    check = host.run(check=True, **wanted(host))
    assert done["changed"] and not check["changed"]


def test_a_run_that_died_between_write_and_reload_is_completed(host):
    host.run(**wanted(host))
    conf = host.root / "etc/thing/thing.conf"
    conf.write_text("b\n")  # what the dead run left behind
    result = host.run(**wanted(host, "b\n"))
    assert result["reloaded"] == ["thing.service"] and "has not loaded" in result["changes"][0]
    assert not host.run(**wanted(host, "b\n"))["changed"]


def test_without_a_record_the_start_of_the_unit_decides(host):
    host.run(**wanted(host, restart=["thing"], reload=[]))
    record = host.root / "record/thing.json"
    record.unlink()
    assert not host.run(**wanted(host, restart=["thing"], reload=[]))["changed"]
    record.unlink()
    late = time.time() + 5
    os.utime(host.root / "etc/thing/thing.conf", (late, late))
    assert host.run(**wanted(host, restart=["thing"], reload=[]))["restarted"] == ["thing.service"]


def test_a_unit_restarted_by_hand_has_loaded_everything(host):
    host.run(**wanted(host))
    conf = host.root / "etc/thing/thing.conf"
    conf.write_text("b\n")
    host.unit("thing.service", InvocationID="byhand", ActiveEnterTimestampMonotonic=str(int((time.monotonic() + 1) * 1e6)))
    assert not host.run(**wanted(host, "b\n"))["changed"]


def test_refused_file_changes_nothing(host):
    host.run(**wanted(host))
    files = [
        {"dest": host.path("etc/thing/thing.conf"), "content": "new\n", "mode": "0640", "reload": ["thing"]},
        {"dest": host.path("etc/thing/other.conf"), "content": "bad\n", "validate": "grep -q good %s"},
    ]
    mtime = (host.root / "etc/thing/thing.conf").stat().st_mtime_ns
    result = host.run(files=files, units=[{"name": "thing", "state": "started"}])
    assert result["failed"] and "other.conf was refused" in result["msg"]
    assert (host.root / "etc/thing/thing.conf").read_text() == "a\n"
    assert (host.root / "etc/thing/thing.conf").stat().st_mtime_ns == mtime
    assert sorted(os.listdir(host.root / "etc/thing")) == ["thing.conf"]
    assert "reload thing.service" not in host.log


def test_validation_sees_a_file_beside_the_target(host):
    result = host.run(files=[{"dest": host.path("x/web.conf"), "content": "ok", "validate": "sh -c 'case %s in */x/.web.*.conf) exit 0;; esac; exit 1'"}])
    assert result["changed"], result


def test_secret_contents_are_never_shown(host):
    for check in (True, False):
        result = host.run(check=check, files=[{"dest": host.path("k"), "secret_content": "hunter2hunter2", "secret": True, "mode": "0600",
                                               "validate": "grep -q hunter %s"}])
        assert result["changed"] and "hunter2" not in json.dumps(result) and result["diff"] == []
    result = host.run(files=[{"dest": host.path("k"), "secret_content": "another-one", "secret": True, "validate": "sh -c 'cat %s; exit 1'"}])
    assert result["failed"] and "another-one" not in json.dumps(result)


def test_seed_is_written_once_and_left_to_the_product(host):
    seed = {"dest": host.path("s"), "content": "seed\n", "force": False, "restart": ["thing"]}
    units = [{"name": "thing", "state": "started"}]
    assert host.run(files=[seed], units=units)["changed"]
    (host.root / "s").write_text("rewritten by the product\n")
    again = host.run(files=[{**seed, "content": "other seed\n"}], units=units)
    assert not again["changed"] and (host.root / "s").read_text() == "rewritten by the product\n"


def test_absent_file(host):
    (host.root / "old").write_text("x")
    item = {"dest": host.path("old"), "state": "absent", "restart": ["thing"]}
    units = [{"name": "thing", "state": "started"}]
    host.unit("thing.service", ActiveState="active", InvocationID="1", ActiveEnterTimestampMonotonic="1", UnitFileState="enabled")
    assert host.run(check=True, files=[item], units=units)["restarted"] == ["thing.service"]
    assert host.run(files=[item], units=units)["restarted"] == ["thing.service"]
    assert not (host.root / "old").exists()
    assert not host.run(files=[item], units=units)["changed"]


@pytest.mark.parametrize("key", ["reload", "restart"])
def test_nodes_are_never_restarted(host, key):
    result = host.run(files=[{"dest": host.path("a"), "content": "x", key: ["livekit-server@2"]}])
    assert result["failed"] and "refusing" in result["msg"] and "generation" in result["msg"]
    assert not (host.root / "a").exists()


def test_nodes_are_never_stopped_but_may_be_enabled(host):
    assert host.run(units=[{"name": "livekit-server@1", "state": "stopped"}])["failed"]
    assert host.run(units=[{"name": "livekit-server@1", "enabled": True}])["changed"]


def test_inactive_unit_is_started_not_reloaded(host):
    host.run(**wanted(host))
    host.unit("thing.service", ActiveState="failed")
    result = host.run(**wanted(host, "c\n"))
    assert result["started"] == ["thing.service"] and result["reloaded"] == []


def test_start_that_fails_tells_the_unit(host):
    host.unit("thing.service", ActiveState="inactive", UnitFileState="disabled", broken=True)
    result = host.run(**wanted(host))
    assert result["failed"] and "systemctl start thing.service failed" in result["msg"]


def test_daemon_reload_when_systemd_says_so(host):
    host.run(**wanted(host))
    host.unit("thing.service", NeedDaemonReload="yes")
    assert host.run(**wanted(host))["changes"] == ["daemon-reload"]
    assert not host.run(**wanted(host))["changed"]


def test_without_systemd_units_are_enabled_and_not_started(host):
    host.systemd = False
    result = host.run(**wanted(host))
    assert host.log == ["enable thing.service"] and result["started"] == []
    assert "not running" in result["notes"][0]
    assert not host.run(**wanted(host))["changed"]


def test_owner_that_does_not_exist_is_an_error(host):
    result = host.run(files=[{"dest": host.path("a"), "content": "x", "owner": "nobody-of-this-name"}])
    assert result["failed"] and "nobody-of-this-name does not exist" in result["msg"]
    assert os.listdir(host.root / "record") == [] if (host.root / "record").exists() else True
    assert not [n for n in os.listdir(host.root) if n.startswith(".a")]


def test_a_binary_file_lands_as_it_is_and_is_not_shown(host):
    data = b"PK\x03\x04\xff\x00\n"
    item = {"dest": host.path("a.zip"), "content": base64.b64encode(data).decode(), "encoding": "base64", "restart": ["thing"]}
    host.unit("thing.service", ActiveState="active", UnitFileState="enabled", ActiveEnterTimestampMonotonic="1", NeedDaemonReload="no")
    units = [{"name": "thing", "enabled": True, "state": "started"}]
    result = host.run(files=[item], units=units)
    assert (host.root / "a.zip").read_bytes() == data and result["restarted"] == ["thing.service"]
    shown = next(d for d in result["diff"] if d["after_header"] == host.path("a.zip"))
    assert shown["before"] == "" and shown["after"].startswith("(binary) ") and item["content"] not in json.dumps(result)
    assert not host.run(files=[item], units=units)["changed"]


def test_gate_that_nobody_answers_fails(host):
    result = host.run(gates=[{"path": host.path("no.sock"), "timeout": 0.2}])
    assert result["failed"] and "did not pass its gate" in result["msg"]


@pytest.mark.parametrize(("bad", "says"), [
    ({"content": "x", "mode": "rw"}, "octal"),
    ({"content": "x", "validate": "true"}, "%s"),
    ({}, "no content"),
    ({"content": "x", "dest": "relative"}, "absolute"),
    ({"content": "x", "encoding": "base64"}, "not base64"),
    ({"tree": "/x"}, "control machine"),
])
def test_bad_input(host, bad, says):
    result = host.run(files=[{"dest": host.path("a"), **bad}])
    assert result["failed"] and says in result["msg"]


def test_idempotent_run_is_fast(host):
    params = wanted(host)
    params["files"] += [{"dest": host.path(f"etc/thing/{n}"), "content": "x" * 5000} for n in range(50)]
    host.run(**params)
    begin = time.perf_counter()
    assert not host.run(**params)["changed"]
    assert time.perf_counter() - begin < 1


def test_a_full_disk_leaves_no_piece_of_a_secret_behind(tmp_path, monkeypatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paths.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        paths.temporary(str(tmp_path / "keys.yaml"), b"secret", 0o600)
    assert list(tmp_path.iterdir()) == []
