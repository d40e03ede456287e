# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the process of a slot runs: the one thing in which targets differ on a host. Everything else of a slot is in host.py.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import typing as t


@dataclasses.dataclass(frozen=True)
class Running:
    """What runs in one slot. Times are Unix seconds; None means not known or not there."""

    state: str = "inactive"  # in systemd's words, whatever runs it: inactive, activating, active, deactivating, failed
    pid: int | None = None  # the process whose end is the end of the node
    enabled: bool = False  # it starts at boot
    since: float | None = None
    state_since: float | None = None
    version: str | None = None  # of what runs, None where that cannot be told


class Runtime(t.Protocol):
    """Runs the nodes of one host. It executes and never decides; SlotHost asks it, and nobody else."""

    def look(self, numbers: t.Sequence[int]) -> dict[int, Running]:
        """What runs in these slots, and in others that are not free. A host that has no such runtime yet gives {}; FleetError when nobody can tell."""

    def state(self, n: int) -> str:
        ...

    def pid(self, n: int) -> int | None:
        ...

    def require(self, n: int, version: str) -> None:
        """Raises FleetError release_absent when slot n could not run this version."""

    def lay(self, n: int, generation: str, version: str) -> dict[str, str]:
        """Files, name to text, that the runtime itself needs in the slot's directory."""

    def link(self, folder: str, version: str) -> None:
        """Anything else it needs there."""

    def check(self, n: int) -> tuple[int, str, str]:
        """Let the release read the configuration of slot n and name its ports: (rc, stdout, stderr)."""

    def start(self, n: int) -> None:
        """Returns at once."""

    def stop(self, n: int) -> None:
        """The one SIGTERM for a node that runs; nothing may revive it afterwards. Returns at once."""

    def enable(self, n: int) -> None:
        ...

    def disable(self, n: int) -> None:
        ...

    def kill(self, n: int, pid: int | None = None) -> tuple[bool, str]:
        """SIGKILL for the node, only if its process is `pid` where that is given: (whether it was sent, why not)."""

    def clear(self, n: int) -> None:
        """Forget that the node in slot n failed."""

    def log(self, n: int, lines: int) -> list[str]:
        """The last lines that the node wrote."""

    def about(self) -> dict[str, t.Any]:
        """What an operator may want to know of the runtime itself, {} for nothing."""


class Shelf(t.Protocol):
    """What is kept of the generation in each slot of one host beside its process: files on a host, marks on objects in Kubernetes."""

    def facts(self, n: int) -> dict[str, t.Any]:
        """Fields of generation.Slot: generation, version, intact, exposed, gate, served_at, rolled_back, as far as there is something in slot n."""

    def marks(self, numbers: t.Iterable[int]) -> t.Any:
        """Something that differs as soon as the facts of a slot may do. Cheap: it is asked several times a second."""

    def set_gate(self, n: int, generation: str | None) -> None:
        """Record which generation passed its gates in slot n, so that balancers let callers in. None takes the mark away."""

    def write(self, n: int, generation: str, version: str, files: t.Mapping[str, str], link: t.Callable[[str], None]) -> None:
        """Lay down a generation in slot n, which must not run. link: puts into the fresh directory what is no text."""

    def config_text(self, n: int) -> str:
        """The configuration of slot n with its secrets masked, "" where it is not known."""

    def model(self, n: int) -> dict[str, t.Any]:
        """{model, served_at, rolled_back} that the generation in slot n was made from, {} where that is not known. It holds secrets."""

    def keys(self, n: int) -> dict[str, str]:
        """{name: secret} of the API keys that the node in slot n accepts; {} where that is not known."""
