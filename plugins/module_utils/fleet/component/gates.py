# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proofs over TCP or a Unix socket that a component answers.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import re
import socket
import time
import typing as t

from . import projects
from .run import Failure, Run
from .units import last_words


def prove(run: Run) -> None:
    if run.check or not run.systemd:
        return
    for gate in run.p["gates"]:
        _pass(run, gate)


def _pass(run: Run, gate: dict[str, t.Any]) -> None:
    """Try until it succeeds; a Failure when its time is over."""
    where = gate["path"] or f"{gate['host']}:{gate['port']}"
    end = time.monotonic() + gate["timeout"]
    while True:
        try:
            said = _ask(gate)
            if not gate["expect"] or re.search(gate["expect"], said):
                return
            said = f"it answered {said[:200]!r}, expected {gate['expect']!r}"
        except OSError as err:
            said = str(err)
        if time.monotonic() > end:
            journal = " ".join([*(last_words(run, u["name"]) for u in run.p["units"] if u["state"] == "started"),
                                *(projects.last_words(run, project["name"]) for project in run.p["projects"])])
            msg = f"{run.p['name']} did not pass its gate at {where} within {gate['timeout']:g} s: {said}. {journal}"
            raise Failure(msg.rstrip(), gate=where)
        time.sleep(0.1)


def _ask(gate: dict[str, t.Any]) -> str:
    if gate["path"]:
        family, target = socket.AF_UNIX, gate["path"]
    else:
        family, target = socket.AF_INET6 if ":" in gate["host"] else socket.AF_INET, (gate["host"], gate["port"])
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        sock.connect(target)
        if gate["send"]:
            sock.sendall(gate["send"].encode())
        data = b""
        while gate["expect"] and len(data) < 65536 and not re.search(gate["expect"], data.decode("utf-8", "replace")):
            chunk = sock.recv(4096)
            if not chunk:
                break
            data += chunk
        return data.decode("utf-8", "replace")
