# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be true of a balancer with NGINX, seen past Ansible."""
from __future__ import annotations

import json
import os
import re

import pytest

SLOT = json.loads(os.environ["LIVEKIT_EXPECTED"])["slot"]
balancer = pytest.mark.group("livekit_balancer")


@balancer
def test_callers_go_to_the_serving_slots_and_the_others_stand_by(host) -> None:
    servers = re.findall(r"server \S+ ([^;]*); +# \S+-s(\d)", host.file("/etc/nginx/nginx.conf").content_string)
    assert servers and all(("backup" in options) == (int(slot) != SLOT) for options, slot in servers)


@balancer
def test_the_running_configuration_is_the_one_on_disk(host) -> None:
    workers = host.check_output("systemctl show -p ActiveEnterTimestamp --value nginx")
    assert host.service("nginx").is_running and workers
    assert host.run("nginx -t -q").rc == 0


@balancer
def test_the_private_key_is_private(host) -> None:
    assert host.file("/etc/nginx/livekit/tls.pem").mode == 0o600
