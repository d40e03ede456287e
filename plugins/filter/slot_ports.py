# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports of slots for templates, from the function that all parts of the collection share."""
from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.slots import Layout


def slot_ports(layout: t.Mapping[str, t.Any] | None, slot: int | None = None, count: int | None = None) -> dict[str, t.Any] | list[dict[str, t.Any]]:
    """The ports of one slot, or of every slot when none is named."""
    values = dict(layout or {})
    if count is not None:
        values["count"] = count
    try:
        found = Layout.from_mapping(values)
        if slot is not None:
            return found.ports(int(slot)).as_dict()
        return [found.ports(number).as_dict() for number in found.numbers]
    except (TypeError, ValueError) as err:
        raise AnsibleFilterError(f"openrtc.livekit.slot_ports: {err}") from err


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"slot_ports": slot_ports}
