# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian packages of a component: install what is missing, upgrade nothing, let no service start meanwhile.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import contextlib
import os
import typing as t

from .run import Failure, Run

POLICY = "/usr/sbin/policy-rc.d"
POLICY_MARK = "# openrtc.livekit.component: no service starts while packages are being installed"
INSTALL = (
    "apt-get", "-y", "-q", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
    "-o", "DPkg::Lock::Timeout=120", "install",
)


def install(run: Run) -> None:
    wanted = list(dict.fromkeys(run.p["packages"]))
    if not wanted:
        return
    query = run.get_bin_path("dpkg-query")
    if not query:
        raise Failure(f"packages {', '.join(wanted)}: this host has no dpkg; install them another way and give packages: []")
    out = run.command(query, "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted, ok=(0, 1))
    have = {line.split()[0] for line in out.splitlines() if line.endswith(" installed")}
    missing = [p for p in wanted if p not in have]
    if not missing:
        return
    run.note_change(f"install {' '.join(missing)}", None, f"packages: {' '.join(missing)}")
    run.done["installed"] = missing
    if not run.check:
        _apt_get(run, missing)


def _apt_get(run: Run, names: list[str]) -> None:
    env = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    with _no_starts():
        if run.run_command([*INSTALL, *names], environ_update=env)[0] != 0:  # no or old package lists
            run.command("apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", "update", env=env)
            run.command(*INSTALL, *names, env=env)


@contextlib.contextmanager
def _no_starts() -> t.Iterator[None]:
    """Debian's packages start their services while being installed; ours must start with our configuration only."""
    ours = True
    with contextlib.suppress(FileNotFoundError):
        with open(POLICY, encoding="utf-8", errors="replace") as f:
            ours = POLICY_MARK in f.read()
    if ours:
        with open(POLICY, "w", encoding="utf-8") as f:
            f.write(f"#!/bin/sh\n{POLICY_MARK}\nexit 101\n")
        os.chmod(POLICY, 0o755)
    try:
        yield
    finally:
        if ours:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(POLICY)
