# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's network: a bridge, and for each member a network, mount and host name of its own at the end of a cable."""
from __future__ import annotations

import pathlib
import re
import shutil

from common import LabError, run

from . import processes
from .layout import Lab, Member

# A node's own places, where programs have them hard-wired: bound over those of the machine, which never sees them.
OWN = {"var-lib": "/var/lib", "var-log": "/var/log", "run": "/run"}
# What a kubelet wants of the machine's settings. It is shown these values, so that it changes none.
WANTED = {
    "vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}
BRIDGED = pathlib.Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def rule(lab: Lab) -> list[str]:
    """Docker drops what is forwarded; where bridged frames count as that too, those of the lab must be let through."""
    return ["FORWARD", "-i", lab.bridge, "-o", lab.bridge, "-m", "comment", "--comment", f"openrtc lab {lab.name}", "-j", "ACCEPT"]


def rule_exists(lab: Lab) -> bool:
    return bool(shutil.which("iptables")) and run("iptables", "-w", "-C", *rule(lab), quiet=True).returncode == 0


def check(lab: Lab) -> None:
    """Before anything is made: nothing on this machine may have these addresses."""
    taken = run("ip", "-o", "-4", "route", "show").stdout
    for network in (lab.subnet, str(lab.pods).removesuffix("0/24")):
        if re.search(rf"^{re.escape(network)}", taken, re.MULTILINE):
            raise LabError(f"lab {lab.name}: this machine has a route to {network} already; choose another subnet with --subnet")


def create(lab: Lab) -> None:
    run("ip", "link", "add", lab.bridge, "type", "bridge")
    run("ip", "address", "add", f"{lab.machine}/24", "dev", lab.bridge)
    run("ip", "link", "set", lab.bridge, "up")
    if processes.read(BRIDGED).strip() == b"1" and not rule_exists(lab):
        run("iptables", "-w", "-I", *rule(lab))


def drop(link: str) -> None:
    """Remove an interface; a cable goes by itself with the other end's namespace, but some time later."""
    if pathlib.Path(f"/sys/class/net/{link}").exists():
        run("ip", "link", "delete", link, quiet=True)


def links(lab: Lab) -> list[str]:
    return [path.name for path in pathlib.Path("/sys/class/net").iterdir() if lab.tag in path.name]


def remove(lab: Lab) -> None:
    for link in links(lab):
        drop(link)
    while rule_exists(lab):
        run("iptables", "-w", "-D", *rule(lab))


def holder(member: Member) -> str:
    return f"{member.name}/holder"


def attach(member: Member) -> int:
    """Give a member its namespaces, cable, address and places; the process that holds them is returned."""
    lab = member.lab
    pid = processes.start(lab, holder(member), "unshare", "--net", "--mount", "--uts", "--propagation", "private", "sleep", "infinity")
    # It becomes sleep once it has its namespaces.
    processes.wait(lab, f"the namespaces of {member.name}", lambda: processes.read(f"/proc/{pid}/comm") == b"sleep\n", timeout=10, every=0.01)
    drop(member.link)
    run("ip", "link", "add", member.link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    run("ip", "link", "set", member.link, "master", lab.bridge, "up")
    run(*processes.inside(member, pid), "sh", "-ec", "\n".join(setup(member)))
    return pid


def setup(member: Member) -> list[str]:
    """Shell lines that make the inside of a member."""
    lab = member.lab
    places = "|".join(place.lstrip("/") for place in OWN.values())
    lines = [
        f"hostname {member.name}", "ip link set lo up", f"ip address add {member.address}/24 dev eth0", "ip link set eth0 up",
        f"ip route add default via {lab.machine}",
        # Copies of the machine's mounts, of Docker's containers say, would keep those alive after their end.
        f"awk '$2 ~ \"^/({places})/\" {{ print $2 }}' /proc/self/mounts | sort -r | xargs -r umount --lazy",
        "mount --make-rshared /",
    ]
    for name, place in OWN.items():
        lines += [f"mkdir -p {member.directory}/{name}", f"mount --bind {member.directory}/{name} {place}"]
    if member.number:
        lines.append("echo 1 >/proc/sys/net/ipv4/ip_forward")
        for number, (name, value) in enumerate(WANTED.items()):
            shown = member.directory / f"sysctl-{number}"
            lines += [f"echo {value} >{shown}", f"[ ! -e /proc/sys/{name} ] || mount --bind {shown} /proc/sys/{name}"]
    return lines


def connect(lab: Lab, holders: dict[str, int], new: list[Member]) -> None:
    """Routes to the pods of the new nodes, for everybody, and to all pods for the new ones."""
    for member in new:
        run("ip", "route", "replace", str(member.pods), "via", member.address)
    for here in (member for member in [lab.control, *lab.members] if member.name in holders):
        others = [there for there in lab.members if there != here and (there in new or here in new or not here.number)]
        lines = [f"ip route replace {there.pods} via {there.address}" for there in others]
        if lines:
            run(*processes.inside(here, holders[here.name]), "sh", "-ec", "\n".join(lines))
