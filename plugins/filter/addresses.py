# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses of other hosts, for which hostvars hold no role defaults."""
from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError


def addresses(hosts: t.Iterable[str], hostvars: t.Mapping[str, t.Mapping[str, t.Any]]) -> dict[str, str]:
    """{host: livekit_address, else ansible_host, else its name}."""
    out: dict[str, str] = {}
    for host in hosts:
        if host not in hostvars:
            raise AnsibleFilterError(f"openrtc.livekit.addresses: no host {host!r} in the inventory")
        values = hostvars[host]
        found = next((values[name] for name in ("livekit_address", "ansible_host") if name in values), host)
        out[str(host)] = str(found)
    return out


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"addresses": addresses}
