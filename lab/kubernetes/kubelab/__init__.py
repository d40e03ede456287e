# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small real Kubernetes on one machine: what lab/kubernetes/up and down are made of. Standard library only."""
from __future__ import annotations
