# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup placement, in a template as users write it."""
from __future__ import annotations

import json

import pytest
from test_token import template


def test_nodes(tmp_path, redis_server):
    server = redis_server()
    server.add_node("ND_a", region="eu")
    server.add_node("ND_b", region="us")
    server.add_room("there", "ND_b")
    for n in range(90):
        server.add_participant("there", f"p{n}")
    before = server.dump()
    redis = json.dumps({"address": server.address})
    where = f"redis={redis}"
    one, three, region = template(tmp_path, f"""[
        lookup('openrtc.livekit.placement', 'daily', {where}),
        query('openrtc.livekit.placement', 'big', 'small', 'there', participants=100, {where}),
        lookup('openrtc.livekit.placement', 'x', region='us', {where}, policy={{'strategy': 'pack'}}),
    ]""")
    assert (one, three, region) == ("ND_a", ["ND_a", "ND_b", "ND_b"], "ND_b")
    assert server.dump() == before


def test_what_is_wrong_is_told(tmp_path, redis_server):
    redis = json.dumps({"address": redis_server().address})
    with pytest.raises(RuntimeError, match="knows no node at all"):
        template(tmp_path, f"lookup('openrtc.livekit.placement', 'daily', redis={redis})")
