# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kernel: a temporary tree stands for /proc/sys."""
from __future__ import annotations

import errno
import json
import os

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.openrtc.livekit.plugins.modules import kernel


class Host:
    def __init__(self, root, capsys):
        self.root, self.capsys = root, capsys
        self.conf = root / "etc/sysctl.d/60-livekit.conf"

    def sysctl(self, name, value=None):
        path = self.root / "proc" / name.replace(".", "/")
        if value is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
        return path.read_text().strip()

    def run(self, settings, check=False, **params):
        args = {"settings": settings, "path": str(self.conf), "proc": str(self.root / "proc"), "_ansible_check_mode": check, "_ansible_diff": True, **params}
        with patch_module_args(args), pytest.raises(SystemExit):
            kernel.main()
        return json.loads(self.capsys.readouterr().out)


@pytest.fixture(name="host")
def fixture_host(tmp_path, capsys):
    return Host(tmp_path, capsys)


def test_set_read_back_kept_and_idempotent(host):
    host.sysctl("net.core.rmem_max", 212992)
    host.sysctl("net.ipv4.ip_local_port_range", "32768\t60999")
    settings = {"net.core.rmem_max": ">=16777216", "net.ipv4.ip_local_port_range": "32768 60999"}

    shown = host.run(settings, check=True)
    assert shown["changed"] and list(shown["applied"]) == ["net.core.rmem_max"]
    assert host.sysctl("net.core.rmem_max") == "212992" and not host.conf.exists()

    done = host.run(settings)
    assert done["changed"] and done["refused"] == {} and done["msg"] == ""
    assert host.sysctl("net.core.rmem_max") == "16777216"
    assert "net.core.rmem_max = 16777216\n" in host.conf.read_text()
    assert "net.core.rmem_max = 16777216" in done["diff"][1]["after"]

    again = host.run(settings)
    assert not again["changed"] and again["applied"] == {}


def test_a_minimum_never_lowers(host):
    host.sysctl("net.core.rmem_max", 33554432)
    host.run({"net.core.rmem_max": ">=16777216"})
    assert host.sysctl("net.core.rmem_max") == "33554432"
    assert "= 33554432" in host.conf.read_text()


def test_a_missing_setting_is_told_and_not_a_change_every_time(host):
    first = host.run({"net.core.rmem_max": ">=16777216"})
    assert "not there" in first["refused"]["net.core.rmem_max"] and "net.core.rmem_max" in first["msg"]
    assert first["changed"]  # the file
    again = host.run({"net.core.rmem_max": ">=16777216"})
    assert not again["changed"] and again["refused"] == first["refused"]


def test_an_optional_setting_is_left_out_where_it_is_missing(host):
    result = host.run({"net.netfilter.nf_conntrack_max": ">=262144"}, optional=["net.netfilter.nf_conntrack_max"])
    assert result["refused"] == {} and "conntrack" not in host.conf.read_text()


@pytest.mark.parametrize(("number", "says"), [(errno.EROFS, "read-only"), (errno.EPERM, "not permitted"), (errno.EINVAL, "does not take")])
def test_what_the_kernel_refuses_is_told(host, monkeypatch, number, says):
    host.sysctl("net.core.rmem_max", 1)
    real = open

    def refuse(path, mode="r", **more):
        if mode == "w" and str(path).endswith("rmem_max"):
            raise OSError(number, os.strerror(number))
        return real(path, mode, **more)

    monkeypatch.setattr(kernel, "open", refuse, raising=False)
    result = host.run({"net.core.rmem_max": ">=16777216"})
    assert says in result["refused"]["net.core.rmem_max"] and result["applied"] == {}
    assert not host.run({"net.core.rmem_max": ">=16777216"})["changed"]


@pytest.mark.parametrize(("wanted", "now", "value"), [
    (">=10", "5", "10"), (">=10", "20", "20"), (">=4096 1000", "1 2000", "4096 2000"), ("1", "1", "1"), ("10", "20", "10"),
    ("7880,50000-50099,50100-50199", "7880,50000-50199", "7880,50000-50199"), ("7880,7881", "7880-7881", "7880-7881"),
    ("7880,7890", "7880", "7880,7890"), ("32768 60999", "32768\t60999", "32768 60999"),
])
def test_target(wanted, now, value):
    assert kernel.target(wanted, now) == value


def test_null_is_left_out_and_bad_names_are_refused(host):
    assert host.run({"vm.overcommit_memory": None})["refused"] == {}
    assert host.run({"../../etc/passwd": 1})["failed"]
