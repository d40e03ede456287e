# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that modules share which talk to Redis or to LiveKit's server API.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

from .fleet.api import Api


def redis_spec(required: bool = False) -> dict[str, t.Any]:
    """Option redis of doc fragment _registry (_registry.required). Read it with redis_settings()."""
    tls = {
        "enabled": {"type": "bool"}, "insecure": {"type": "bool"}, "server_name": {"type": "str"}, "ca_cert_file": {"type": "path"},
        "client_cert_file": {"type": "path"}, "client_key_file": {"type": "path"},
    }
    options: dict[str, t.Any] = {
        "address": {"type": "str"}, "username": {"type": "str"}, "password": {"type": "str", "no_log": True}, "db": {"type": "int"},
        "use_tls": {"type": "bool"}, "tls": {"type": "dict", "options": tls},
        "sentinel_master_name": {"type": "str"}, "sentinel_addresses": {"type": "list", "elements": "str"},
        "sentinel_username": {"type": "str"}, "sentinel_password": {"type": "str", "no_log": True},
        "cluster_addresses": {"type": "list", "elements": "str"},
        "dial_timeout": {"type": "int"}, "read_timeout": {"type": "int"}, "write_timeout": {"type": "int"}, "max_redirects": {"type": "int"},
        "pool_timeout": {"type": "str"}, "pool_size": {"type": "int"},
    }
    spec: dict[str, t.Any] = {"type": "dict", "options": options}
    if required:
        spec["required"] = True
    return {"redis": spec}


def redis_settings(value: t.Mapping[str, t.Any] | None) -> dict[str, t.Any]:
    """The option redis without what was not given; {} where it says nothing, as for `redis: {}`."""
    return {k: v for k, v in (value or {}).items() if v is not None}


def api_spec() -> dict[str, t.Any]:
    """Options of doc fragment _api."""
    return {
        "url": {"type": "str", "required": True},
        "api_key": {"type": "str", "required": True, "no_log": False},
        "api_secret": {"type": "str", "required": True, "no_log": True},
        "ca_file": {"type": "path"},
        "timeout": {"type": "float", "default": 10},
    }


def api_client(params: t.Mapping[str, t.Any]) -> Api:
    return Api(params["url"], params["api_key"], params["api_secret"], ca_file=params["ca_file"], timeout=params["timeout"])
