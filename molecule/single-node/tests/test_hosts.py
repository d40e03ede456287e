# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is true of every host."""
from __future__ import annotations


def test_nothing_failed(host) -> None:
    assert host.run("systemctl --failed --plain --no-legend").stdout == ""
