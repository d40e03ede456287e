# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One component of a host: packages, images, user, directories, files, units, projects and gates, in this order.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

from . import gates, guard, packages, paths, projects, users
from .files import Files
from .run import Failure, Run
from .units import Units

__all__ = ["Failure", "Run", "apply"]


def apply(run: Run) -> None:
    """Bring the component into the wanted state; what was done is in `run`, also when this ends with an exception."""
    guard.refuse(run.p)
    units = Units(run)
    packages.install(run)
    projects.images(run)
    users.ensure(run)
    paths.directories(run)
    wants = Files(run).apply()
    units.apply(wants)
    projects.Projects(run).apply(wants)
    if not run.behind:
        gates.prove(run)
