# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs in a LiveKit container beside livekit-server: a small init as PID 1, and the command that kills the node from inside.

Both are shell, as the official image has one. Compose and Kubernetes share them.

Why an init: a container runtime that is restarted while a container stops sends SIGTERM once more, and a second SIGTERM makes
livekit-server end every call for good. And SIGKILL from inside the container works only because the node is not PID 1.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import typing as t

SERVER = "/livekit-server"  # in the official image
PROCESS = "livekit-server"  # as the kernel calls it

# `trap ''` comes before the look at `told`: what arrives after it is lost, and what arrived before it has told. Not before the node is there:
# it would be born deaf to SIGTERM.
INIT = """\
# Passes on the first signal as one SIGTERM and swallows all others; ends as the node ends.
node= asked= told=
tell() {
    [ -n "$node" ] || return 0
    trap '' TERM INT QUIT HUP
    [ -z "$told" ] || return 0
    told=yes
    kill -TERM "$node"
}
leave() {
    asked=yes
    tell
}
trap leave TERM INT QUIT HUP
"$@" &
node=$!
[ -z "$asked" ] || tell
while :; do
    wait "$node"
    status=$?
    kill -0 "$node" 2>/dev/null || exit "$status"
done
"""

# Nothing but the shell's own words, so that it works in any image that has a shell.
FENCE = f"""\
found=1
for proc in /proc/[0-9]*; do
    read -r name <"$proc/comm" || continue
    [ "$name" = {PROCESS} ] && kill -KILL "${{proc#/proc/}}" && found=0
done 2>/dev/null
exit "$found"
"""


def command(*arguments: str) -> list[str]:
    """The container's command line: the init with the server under it."""
    return ["sh", "-c", INIT, "init", SERVER, *arguments]


def fence_command() -> list[str]:
    """To be run inside the container (kubectl exec, docker exec): SIGKILL for the node. Ends with 1 where no node runs."""
    return ["sh", "-c", FENCE]


__all__: t.Final = ["FENCE", "INIT", "PROCESS", "SERVER", "command", "fence_command"]
