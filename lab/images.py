#!/usr/bin/env python3
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the lab's host images: Debian with systemd, Python and fresh package lists.

A root file system comes, in this order, from the cache, from a container registry (if one answers quickly) or from
debootstrap. The result is one image with one layer, `openrtc-lab:<image>`, and a tarball in the cache, so that a clean
checkout or an emptied Docker starts warm. Package lists older than a day are brought up to date, because a role's
installation would otherwise look for packages which the archive has replaced.

Safe to kill and to run again; two runs at a time wait for each other. Only the standard library is used.
"""
from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

from common import LabError, cache_dir, locked, run, say

REPOSITORY = "openrtc-lab"
LABEL = "openrtc.lab"
RECIPE = "1"  # raise it when PROVISION changes: older images are then made anew
FRESH_FOR = 24 * 3600  # seconds package lists are good for
MIRROR = os.environ.get("OPENRTC_DEBIAN_MIRROR", "http://deb.debian.org/debian")
SECURITY = os.environ.get("OPENRTC_DEBIAN_SECURITY_MIRROR", "http://deb.debian.org/debian-security")
REGISTRY = "https://registry-1.docker.io/v2/"

PACKAGES = (
    "systemd systemd-sysv dbus python3 python3-apt procps iproute2 iputils-ping ca-certificates kmod less"
).split()

# Runs inside a container of the plain root file system. force-unsafe-io: a lab host need not survive a power cut.
PROVISION = """
set -eu
export DEBIAN_FRONTEND=noninteractive
printf 'force-unsafe-io\\n' >/etc/dpkg/dpkg.cfg.d/lab
printf 'Acquire::Languages "none";\\n' >/etc/apt/apt.conf.d/90lab
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 0755 /usr/sbin/policy-rc.d
rm -f /etc/apt/apt.conf.d/docker-* /etc/apt/sources.list.d/debian.sources
cat >/etc/apt/sources.list <<END
deb {mirror} {suite} main
deb {mirror} {suite}-updates main
deb {security} {suite}-security main
END
apt-get -qq update
apt-get -qq -y dist-upgrade
apt-get -qq -y install --no-install-recommends {packages}
apt-get clean
rm -f /usr/sbin/policy-rc.d
systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer console-getty.service getty.target \\
    systemd-networkd.service systemd-resolved.service systemd-udevd.service systemd-firstboot.service
systemctl set-default --quiet multi-user.target
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id
"""

REFRESH = """
set -eu
apt-get -qq update
apt-get -qq -y dist-upgrade
apt-get clean
: >/etc/machine-id
"""


@dataclasses.dataclass(frozen=True)
class Image:
    name: str
    suite: str

    @property
    def tag(self) -> str:
        return f"{REPOSITORY}:{self.name}"

    @property
    def upstream(self) -> str:
        return f"debian:{self.suite}-slim"


IMAGES = {image.name: image for image in (Image("debian12", "bookworm"), Image("debian13", "trixie"))}


def docker(*arguments: str, quiet: bool = False, timeout: float | None = None, note: str = "") -> subprocess.CompletedProcess[str]:
    return run("docker", *arguments, quiet=quiet, timeout=timeout, note=note)


def image_label(image: Image, name: str) -> str:
    template = f'{{{{ index .Config.Labels "openrtc.lab.{name}" }}}}'
    return docker("image", "inspect", "--format", template, image.tag, quiet=True).stdout.strip()


def stale(image: Image) -> bool:
    made = image_label(image, "updated")
    return not made.isdigit() or time.time() - int(made) > FRESH_FOR


def registry_answers() -> bool:
    """Whether a pull has a chance: Docker Hub says 401 to strangers, anything else is no registry."""
    try:
        urllib.request.urlopen(REGISTRY, timeout=4).close()
    except urllib.error.HTTPError as exc:
        return exc.code == 401
    except (OSError, ValueError):
        return False
    return True


def tarball(image: Image) -> pathlib.Path:
    return cache_dir() / "images" / f"{image.name}-{RECIPE}.tar"


def import_root(image: Image, source: pathlib.Path, tag: str, updated: int) -> None:
    changes = [
        "ENV container=docker",
        'CMD ["/sbin/init"]',
        f"LABEL {LABEL}.recipe={RECIPE}",
        f"LABEL {LABEL}.updated={updated}",
    ]
    docker("import", *[x for change in changes for x in ("--change", change)], str(source), tag)


def base_root(image: Image, work: pathlib.Path) -> str:
    """The tag of an image with a plain Debian root file system."""
    if docker("image", "inspect", image.upstream, quiet=True).returncode == 0:
        return image.upstream
    if registry_answers():
        say(f"{image.name}: pulling {image.upstream} (usually 10-30 s)")
        if docker("pull", "--quiet", image.upstream, quiet=True, timeout=300, note=image.name).returncode == 0:
            return image.upstream
        say(f"{image.name}: the pull failed, making it from packages instead")
    say(f"{image.name}: debootstrap of {image.suite} from {MIRROR} (usually 30-60 s)")
    debootstrap(image, work / "root")
    base = f"{REPOSITORY}-base:{image.name}"
    archive = work / "root.tar"
    as_root("tar", "-C", str(work / "root"), "-c", "-f", str(archive), ".")
    import_root(image, archive, base, 0)
    as_root("rm", "-rf", "--one-file-system", str(work / "root"))
    as_root("rm", "-f", str(archive))
    return base


def as_root(*command: str, note: str = "") -> None:
    prefix = [] if os.getuid() == 0 else ["sudo", "-n"]
    if prefix and (not shutil.which("sudo") or run("sudo", "-n", "true", quiet=True).returncode):
        raise LabError(
            f"root is needed for {command[0]} because no container registry answers and there is no image in {cache_dir() / 'images'};\n"
            "  run this script as root, allow sudo without a password,\n  or copy an image tarball of another machine there"
        )
    # debootstrap lives in sbin, which an ordinary user's PATH lacks.
    run(*prefix, *command, env={"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C"}, note=note)


def debootstrap(image: Image, root: pathlib.Path) -> None:
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    # The archive behind a proxy or a far mirror loses a download now and then: what has arrived is kept for another try.
    packages = root.parent / "packages"
    packages.mkdir(exist_ok=True)
    options = ["--variant=minbase", f"--cache-dir={packages}"]
    if os.path.exists(keyring):
        options.append(f"--keyring={keyring}")
    for attempts_left in (2, 1, 0):
        try:
            # A mount namespace of its own: whatever debootstrap mounts goes away with it, even if it is killed.
            as_root("unshare", "--mount", "--propagation", "private", "debootstrap", *options, image.suite, str(root), MIRROR, note=image.name)
            return
        except LabError as exc:
            if not attempts_left:
                raise
            say(f"{image.name}: {str(exc).splitlines()[-1].strip()}; trying again")
            as_root("rm", "-rf", "--one-file-system", str(root))


def provision(image: Image, base: str, script: str) -> None:
    """Run the script in a container of base and make its file system the lab image and the cached tarball."""
    name = f"openrtc-lab-image-{image.name}"
    docker("rm", "-f", name, quiet=True)
    partial = tarball(image).with_suffix(".partial")
    try:
        docker("run", "--name", name, "--label", f"{LABEL}=images", "--security-opt", "seccomp=unconfined", base, "sh", "-c", script, note=image.name)
        updated = int(time.time())
        docker("export", "--output", str(partial), name)
        import_root(image, partial, image.tag, updated)
        os.utime(partial, (updated, updated))
        partial.replace(tarball(image))
    finally:
        docker("rm", "-f", name, quiet=True)
        partial.unlink(missing_ok=True)


def build(image: Image) -> None:
    work = cache_dir() / "images" / f"work-{image.name}"
    if work.exists():
        as_root("rm", "-rf", "--one-file-system", str(work))
    work.mkdir(parents=True)
    base = base_root(image, work)
    say(f"{image.name}: installing {' '.join(PACKAGES[:4])} … (usually 20-40 s)")
    provision(image, base, PROVISION.format(mirror=MIRROR, security=SECURITY, suite=image.suite, packages=" ".join(PACKAGES)))
    if base.startswith(REPOSITORY):
        docker("rmi", base, quiet=True)
    as_root("rm", "-rf", "--one-file-system", str(work))


def ensure(image: Image) -> bool:
    """Make the image if it is missing, refresh it if it is old; True if anything was done."""
    changed = False
    if image_label(image, "recipe") != RECIPE:
        changed = True
        cached = tarball(image)
        if cached.exists():
            say(f"{image.name}: loading {cached} (usually 5 s)")
            import_root(image, cached, image.tag, int(cached.stat().st_mtime))
        else:
            build(image)
    if stale(image):
        changed = True
        say(f"{image.name}: package lists are older than a day, refreshing (usually 15 s)")
        try:
            provision(image, image.tag, REFRESH)
        except LabError as exc:
            say(f"{image.name}: could not refresh, going on with the old lists: {exc}")
    return changed


def missing(image: Image) -> bool:
    return image_label(image, "recipe") != RECIPE or stale(image)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", nargs="*", metavar="image", help=f"any of {', '.join(IMAGES)} (default: all)")
    parser.add_argument("--check", action="store_true", help="make nothing; exit 1 if there is something to make")
    arguments = parser.parse_args()
    unknown = set(arguments.images) - set(IMAGES)
    if unknown:
        parser.error(f"unknown image {', '.join(sorted(unknown))}; there are {', '.join(IMAGES)}")
    wanted = [IMAGES[name] for name in sorted(set(arguments.images or IMAGES))]
    try:
        docker("version", timeout=20)
        if arguments.check:
            return int(any(missing(image) for image in wanted))
        if not any(missing(image) for image in wanted):
            say(f"{', '.join(image.name for image in wanted)}: ready")
            return 0
        with locked(cache_dir() / "images"):
            for image in wanted:
                started = time.monotonic()
                if ensure(image):
                    say(f"{image.name}: done in {time.monotonic() - started:.0f} s")
            # What a killed run or a refresh left without a name; the label keeps images of others out of it.
            docker("image", "prune", "--force", "--filter", f"label={LABEL}.recipe", quiet=True)
    except LabError as exc:
        print(f"images: ERROR: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
