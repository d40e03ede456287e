#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: component
short_description: Packages, user, directories, files and systemd units of one component in one call
version_added: 0.1.0
author: openrtc.livekit contributors (@openrtc)
description:
  - Brings everything one component needs on a host to the wanted state in a single task, and touches only what differs.
  - Templates are rendered on the control machine; the host gets finished contents, has them validated by the product itself
    and moves them into place atomically. When one file fails its validation, all files of the call are put back.
  - What must be restarted or reloaded is decided by comparison with what runs, not only with what this run changed. A unit that was
    started (or last loaded by this module) before one of its files was written is reloaded or restarted, so that a run that died between
    writing and restarting is completed by the next one.
  - Refuses to restart, reload or stop a unit C(livekit-server@N). A node is only ever replaced by starting another beside it.
  - Where systemd does not run (an image being built), units are enabled by their links, nothing is started, and RV(notes) says so.
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: No diff for files marked O(files[].secret) or O(templates[].secret).
  platform:
    platforms: debian
    support: full
options:
  name:
    description: Name of the component, used in messages and for the record of what its units have loaded.
    type: str
    required: true
  packages:
    description:
      - Debian packages that must be installed. Nothing is upgraded.
      - While they are installed no service is started; the units start afterwards, with the configuration of this call.
    type: list
    elements: str
    default: []
  user:
    description: System user and group of the component, created when missing.
    type: dict
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      group:
        description: Primary group, created when missing. Defaults to the name of the user.
        type: str
      groups:
        description: Supplementary groups the user must be in. They must exist; others are left alone.
        type: list
        elements: str
        default: []
      home:
        description: Home directory (written into the user database, not created).
        type: str
        default: /nonexistent
      shell:
        description: Login shell.
        type: str
        default: /usr/sbin/nologin
  directories:
    description: Directories that must exist.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path. Missing parents are created with mode V(0755).
        type: str
        required: true
      mode:
        description: Permissions, as a quoted octal number.
        type: str
        default: '0755'
      owner:
        description: Owning user; left alone when not given.
        type: str
      group:
        description: Owning group; left alone when not given.
        type: str
  files:
    description: Files with given contents, in the order in which they have to be in place for each other's validation.
    type: list
    elements: dict
    default: []
    suboptions:
      dest:
        description: Absolute path on the host. A symbolic link is followed.
        type: str
        required: true
      src:
        description: File on the control machine (in the role's C(files) directory, or an absolute path) whose text is the content.
        type: str
      content:
        description: The content.
        type: str
      secret_content:
        description: The content of a secret file. The control machine fills it in from O(files[].content) when O(files[].secret) is true.
        type: str
      mode:
        description: Permissions, as a quoted octal number.
        type: str
        default: '0644'
      owner:
        description: Owning user; left alone when not given.
        type: str
      group:
        description: Owning group; left alone when not given.
        type: str
      validate:
        description:
          - Command that checks the content before it is put in place; C(%s) stands for the path of a temporary file in the same directory.
          - Run without a shell.
        type: str
      secret:
        description: Whether the content is secret. Then there is no diff of it and the validation's output is not shown.
        type: bool
        default: false
      state:
        description: V(absent) removes the file.
        type: str
        choices: [present, absent]
        default: present
      force:
        description: With V(false) an existing file keeps its content (a seed for files a product rewrites itself); owner and mode are still ensured.
        type: bool
        default: true
      reload:
        description: Units that have to be reloaded when this file changed.
        type: list
        elements: str
        default: []
      restart:
        description: Units that have to be restarted when this file changed.
        type: list
        elements: str
        default: []
  templates:
    description: Like O(files), with Jinja templates of the role as their source. Handled on the control machine.
    type: list
    elements: dict
    default: []
    suboptions:
      src:
        description: Template in the role's C(templates) directory, with the environment of M(ansible.builtin.template).
        type: str
        required: true
      vars:
        description: Extra variables for this template.
        type: dict
        default: {}
      dest:
        description: See O(files[].dest).
        type: str
        required: true
      mode:
        description: See O(files[].mode).
        type: str
        default: '0644'
      owner:
        description: See O(files[].owner).
        type: str
      group:
        description: See O(files[].group).
        type: str
      validate:
        description: See O(files[].validate).
        type: str
      secret:
        description: See O(files[].secret).
        type: bool
        default: false
      state:
        description: See O(files[].state).
        type: str
        choices: [present, absent]
        default: present
      force:
        description: See O(files[].force).
        type: bool
        default: true
      reload:
        description: See O(files[].reload).
        type: list
        elements: str
        default: []
      restart:
        description: See O(files[].restart).
        type: list
        elements: str
        default: []
  units:
    description: Systemd units and the state they must have. Handled in this order, after all files are in place.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the unit; C(.service) may be left out.
        type: str
        required: true
      enabled:
        description: Whether the unit starts at boot; left alone when not given.
        type: bool
      state:
        description: Whether the unit runs; left alone when not given.
        type: str
        choices: [started, stopped]
      check:
        description:
          - Read-only command, run without a shell while the unit is active, that compares the running process with its files. It is run in
            check mode too.
          - Exit code 0 means they agree, 1 that the unit must be reloaded; any other fails the task.
        type: str
  gates:
    description:
      - Proofs over TCP or a Unix socket that the component answers, tried after all units are in their state until they succeed.
      - A gate that does not succeed in time fails the task. Skipped in check mode and where systemd does not run.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: Address to connect to.
        type: str
        default: 127.0.0.1
      port:
        description: TCP port.
        type: int
      path:
        description: Unix socket, instead of a port.
        type: str
      send:
        description: Text to send after connecting. C(\\n) and C(\\r) are the usual escapes of a YAML string in double quotes.
        type: str
      expect:
        description: Regular expression the answer must match.
        type: str
      timeout:
        description: Seconds until the gate fails.
        type: float
        default: 20
  record_dir:
    description: Directory of the record of what the units have loaded. It must not survive a reboot.
    type: path
    default: /run/openrtc-livekit
notes:
  - The record in O(record_dir) holds modification times only, no content.
"""

EXAMPLES = r"""
- name: Exporter in one task
  openrtc.livekit.component:
    name: exporter
    packages: [prometheus-node-exporter]
    user:
      name: exporter
    directories:
      - path: /etc/exporter
        mode: '0750'
        owner: root
        group: exporter
    templates:
      - src: exporter.yml.j2
        dest: /etc/exporter/exporter.yml
        mode: '0640'
        group: exporter
        validate: exporter --check %s
        reload: [exporter]
    files:
      - src: exporter.service
        dest: /etc/systemd/system/exporter.service
        restart: [exporter]
    units:
      - name: exporter
        enabled: true
        state: started
    gates:
      - port: 9100
"""

RETURN = r"""
changes:
  description: What was changed (or would be, in check mode), in order, one line each.
  type: list
  elements: str
  returned: always
  sample: ["file /etc/haproxy/haproxy.cfg: content", "reload haproxy.service"]
started:
  description: Units that were started.
  type: list
  elements: str
  returned: always
stopped:
  description: Units that were stopped.
  type: list
  elements: str
  returned: always
restarted:
  description: Units that were restarted.
  type: list
  elements: str
  returned: always
reloaded:
  description: Units that were reloaded.
  type: list
  elements: str
  returned: always
installed:
  description: Packages that were installed.
  type: list
  elements: str
  returned: always
notes:
  description: What was left out and why, such as starting units where systemd does not run.
  type: list
  elements: str
  returned: always
"""

import contextlib
import fnmatch
import grp
import json
import os
import pwd
import re
import shlex
import shutil
import socket
import stat
import tempfile
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule

# A running node holds calls. It is replaced by another one beside it, never restarted, and never sent a signal from here.
NODE_UNITS = ("livekit-server@*", "livekit-server.service")
UNIT_PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,InvocationID,ActiveEnterTimestampMonotonic,CanReload,Result"
)
UNIT_DIRS = ("/etc/systemd/system/", "/run/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/", "/usr/local/lib/systemd/system/")
RUNNING = ("active", "reloading")
POLICY = "/usr/sbin/policy-rc.d"
POLICY_MARK = "# openrtc.livekit.component: no service starts while packages are being installed"


class Failure(Exception):
    """What was tried, on what, what came back; becomes fail_json."""

    def __init__(self, msg: str, **fields: t.Any) -> None:
        self.fields = fields
        super().__init__(msg)


def unit_name(name: str) -> str:
    """The full name of a unit: haproxy -> haproxy.service."""
    return name if re.search(r"\.(service|socket|timer|path|target|mount|slice)$", name) else f"{name}.service"


def is_node(name: str) -> bool:
    """Whether a unit is a LiveKit node, which nothing here may stop, reload or restart."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in NODE_UNITS)


def parse_show(text: str, names: t.Sequence[str]) -> dict[str, dict[str, str]]:
    """The output of systemctl show for several units: blocks in the order of the arguments."""
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in text.strip().split("\n\n")]
    if len(blocks) != len(names):
        raise Failure(f"systemctl show answered for {len(blocks)} units instead of {len(names)}: {', '.join(names)}")
    return dict(zip(names, blocks))


def stale(files: t.Mapping[str, int], unit: t.Mapping[str, str], record: t.Mapping[str, t.Any], now: float, monotonic: float) -> list[str]:
    """Paths the running unit has not loaded yet.

    files: {path: mtime in ns} of what this unit loads; record: what was noted when this module last acted on the unit
    ({invocation, files}); now/monotonic: both clocks at the same moment. A file in the record of the same invocation must have the noted
    mtime; any other must be older than the start of the unit (its monotonic start time taken to the wall clock of today, so that a clock
    set after boot does no harm).
    """
    same = record.get("invocation") == unit.get("InvocationID") and bool(unit.get("InvocationID"))
    noted = record.get("files", {}) if same else {}
    try:
        started = now - (monotonic - int(unit.get("ActiveEnterTimestampMonotonic", "0")) / 1e6)
    except ValueError:
        started = now
    return [path for path, mtime in sorted(files.items()) if (noted[path] != mtime if path in noted else mtime / 1e9 > started)]


class Component:
    """One run over one component."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.p = module.params
        self.check = module.check_mode
        self.changes: list[str] = []
        self.notes: list[str] = []
        self.done: dict[str, list[str]] = {"started": [], "stopped": [], "restarted": [], "reloaded": [], "installed": []}
        self.diffs: list[dict[str, str]] = []
        self.before: list[str] = []  # the state part of the diff: lines before and after
        self.after: list[str] = []
        self.undo: list[t.Callable[[], None]] = []
        self.want_reload: dict[str, list[str]] = {}  # unit -> why
        self.want_restart: dict[str, list[str]] = {}
        self.loads: dict[str, dict[str, str]] = {}  # unit -> {path: "reload" | "restart"} of files it has loaded when it is up to date
        self.unit_file_changed = False
        self.systemd = os.path.isdir("/run/systemd/system")
        self.systemctl = module.get_bin_path("systemctl") if (self.p["units"] or self._triggers()) else None
        self.record_path = os.path.join(self.p["record_dir"], re.sub(r"[^A-Za-z0-9_.@-]", "_", self.p["name"]) + ".json")

    # -- small helpers -------------------------------------------------------------------------------------------------------------
    def _triggers(self) -> set[str]:
        return {unit_name(u) for f in self.p["files"] for u in [*f["reload"], *f["restart"]]}

    def note_change(self, what: str, before: str | None = None, after: str | None = None) -> None:
        self.changes.append(what)
        if before is not None:
            self.before.append(before)
        if after is not None:
            self.after.append(after)

    def run(self, *argv: str, ok: t.Container[int] = (0,), env: dict[str, str] | None = None) -> str:
        rc, out, err = self.module.run_command(list(argv), environ_update=env)
        if rc not in ok:
            raise Failure(f"{shlex.join(argv)} failed ({rc}): {(err or out).strip()[-2000:]}", rc=rc)
        return out

    def uid(self, owner: str | None) -> int | None:
        """A user's number; None when not asked for or (check mode before the package is there) not known yet."""
        return self._id(owner, "user", lambda n: pwd.getpwnam(n).pw_uid)

    def gid(self, group: str | None) -> int | None:
        return self._id(group, "group", lambda n: grp.getgrnam(n).gr_gid)

    def _id(self, name: str | None, what: str, lookup: t.Callable[[str], int]) -> int | None:
        if name is None:
            return None
        if name.isdigit():
            return int(name)
        try:
            return lookup(name)
        except KeyError:
            if self.check:
                return -1
            raise Failure(f"{what} {name} does not exist on this host; give it in 'user', or the package that brings it in 'packages'") from None

    @staticmethod
    def content(item: dict[str, t.Any]) -> str | None:
        return item["secret_content"] if item["secret_content"] is not None else item["content"]

    @staticmethod
    def octal(mode: str) -> int:
        try:
            return int(mode, 8)
        except ValueError:
            raise Failure(f"mode {mode!r} is not an octal number; write it quoted, like '0640'") from None

    # -- the steps -----------------------------------------------------------------------------------------------------------------
    def guard(self) -> None:
        """Everything that can be refused before anything is touched."""
        for name in sorted(self._triggers()):
            if is_node(name):
                raise Failure(f"refusing to reload or restart {name}: it holds calls. A node is replaced by starting another beside it "
                              "(openrtc.livekit.generation), never restarted")
        for unit in self.p["units"]:
            unit["name"] = unit_name(unit["name"])
            if unit["state"] == "stopped" and is_node(unit["name"]):
                raise Failure(f"refusing to stop {unit['name']} from here: draining a node is the job of openrtc.livekit.generation")
        seen: set[str] = set()
        for item in self.p["files"]:
            if item["src"] is not None:
                raise Failure(f"{item['dest']}: 'src' is resolved on the control machine; call the module as a task, not directly")
            if item["state"] == "present" and self.content(item) is None:
                raise Failure(f"{item['dest']}: no content given")
            if item["validate"] and "%s" not in item["validate"]:
                raise Failure(f"{item['dest']}: validate must contain %s, got: {item['validate']}")
            if not os.path.isabs(item["dest"]):
                raise Failure(f"{item['dest']}: not an absolute path")
            if item["dest"] in seen:
                raise Failure(f"{item['dest']} is given twice")
            seen.add(item["dest"])
            self.octal(item["mode"])
        for directory in self.p["directories"]:
            self.octal(directory["mode"])

    def packages(self) -> None:
        wanted = list(dict.fromkeys(self.p["packages"]))
        if not wanted:
            return
        query = self.module.get_bin_path("dpkg-query")
        if not query:
            raise Failure(f"packages {', '.join(wanted)}: this host has no dpkg; install them another way and give packages: []")
        out = self.run(query, "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted, ok=(0, 1))
        have = {line.split()[0] for line in out.splitlines() if line.endswith(" installed")}
        missing = [p for p in wanted if p not in have]
        if not missing:
            return
        self.note_change(f"install {' '.join(missing)}", None, f"packages: {' '.join(missing)}")
        self.done["installed"] = missing
        if self.check:
            return
        argv = ["apt-get", "-y", "-q", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
                "-o", "DPkg::Lock::Timeout=120", "install", *missing]
        env = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        with self._no_starts():
            rc, out, err = self.module.run_command(argv, environ_update=env)
            if rc != 0:  # no or old package lists
                self.run("apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", "update", env=env)
                self.run(*argv, env=env)

    @contextlib.contextmanager
    def _no_starts(self) -> t.Iterator[None]:
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

    def user(self) -> None:
        user = self.p["user"]
        if not user:
            return
        name, group = user["name"], user["group"] or user["name"]
        try:
            grp.getgrnam(group)
        except KeyError:
            self.note_change(f"group {group}: create", None, f"group: {group}")
            if not self.check:
                self.run("groupadd", "--system", group)
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            self.note_change(f"user {name}: create", None, f"user: {name}")
            if not self.check:
                self.run("useradd", "--system", "--no-create-home", "--no-user-group", "--gid", group, "--home-dir", user["home"],
                         "--shell", user["shell"], name)
            entry = None
        primary = grp.getgrgid(entry.pw_gid).gr_name if entry else group
        missing = [g for g in user["groups"] if g != primary and name not in self._members(g)]
        if missing:
            self.note_change(f"user {name}: add to {', '.join(missing)}", None, f"user {name} in: {', '.join(missing)}")
            if not self.check:
                self.run("usermod", "-a", "-G", ",".join(missing), name)

    def _members(self, group: str) -> list[str]:
        try:
            return grp.getgrnam(group).gr_mem
        except KeyError:
            if self.check:
                return []
            raise Failure(f"group {group} does not exist on this host") from None

    def _parents(self, path: str) -> None:
        """Missing parent directories, outermost first."""
        missing = []
        while not os.path.isdir(path):
            if os.path.lexists(path):
                raise Failure(f"{path} exists and is not a directory")
            missing.append(path)
            path = os.path.dirname(path)
        for folder in reversed(missing):
            if any(c.startswith(f"directory {folder}: ") for c in self.changes):
                continue
            self.note_change(f"directory {folder}: create", None, f"directory {folder}")
            if not self.check:
                os.mkdir(folder, 0o755)
                os.chmod(folder, 0o755)

    def directories(self) -> None:
        for item in self.p["directories"]:
            path = item["path"].rstrip("/") or "/"
            mode = self.octal(item["mode"])
            if not os.path.isdir(path):
                self._parents(os.path.dirname(path))
                if os.path.lexists(path):
                    raise Failure(f"{path} exists and is not a directory")
                self.note_change(f"directory {path}: create", None, f"directory {path} {item['mode']}")
                if self.check:
                    continue
                os.mkdir(path, 0o700)
                self._own(path, item)
                os.chmod(path, mode)
                continue
            self._attributes("directory", path, item)

    def _own(self, path: str, item: dict[str, t.Any]) -> None:
        uid, gid = self.uid(item["owner"]), self.gid(item["group"])
        if uid is not None or gid is not None:
            os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)

    def _attributes(self, kind: str, path: str, item: dict[str, t.Any]) -> bool:
        """Owner, group and mode of something that exists."""
        st = os.stat(path)
        uid, gid, mode = self.uid(item["owner"]), self.gid(item["group"]), self.octal(item["mode"])
        wrong = []
        if (uid is not None and uid != st.st_uid) or (gid is not None and gid != st.st_gid):
            wrong.append("owner")
        if stat.S_IMODE(st.st_mode) != mode:
            wrong.append("mode")
        if not wrong:
            return False
        self.note_change(
            f"{kind} {path}: {' and '.join(wrong)}",
            f"{kind} {path} {st.st_uid}:{st.st_gid} {stat.S_IMODE(st.st_mode):04o}",
            f"{kind} {path} {st.st_uid if uid is None else item['owner']}:{st.st_gid if gid is None else item['group']} {mode:04o}",
        )
        if not self.check:
            self._own(path, item)
            os.chmod(path, mode)
        return True

    def files(self) -> None:
        unlanded = False  # check mode: a changed file is not in place, so a later file cannot be validated against it
        for item in self.p["files"]:
            path = os.path.realpath(item["dest"])
            try:
                with open(path, "rb") as f:
                    old: bytes | None = f.read()
            except FileNotFoundError:
                old = None
            except IsADirectoryError:
                raise Failure(f"{path} is a directory, not a file") from None
            if item["state"] == "absent":
                changed = self._remove(item, item["dest"], old)
            else:
                new = (self.content(item) or "").encode("utf-8")
                if old is not None and (old == new or not item["force"]):
                    changed = False
                    self._attributes("file", path, item)
                else:
                    if not (self.check and (unlanded or self.changes)):
                        self._validate(item, path, new)
                    self._land(item, path, old, new)
                    changed = unlanded = True
            self._consequences(item, path, changed)

    def _difference(self, item: dict[str, t.Any], path: str, old: bytes | None, new: bytes | None) -> None:
        if item["secret"]:
            return
        self.diffs.append({
            "before_header": path, "after_header": path,
            "before": "" if old is None else old.decode("utf-8", "replace"), "after": "" if new is None else new.decode("utf-8", "replace"),
        })

    def _remove(self, item: dict[str, t.Any], path: str, old: bytes | None) -> bool:
        if not os.path.lexists(path):
            return False
        self.note_change(f"file {path}: remove", f"file {path}", None)
        self._difference(item, path, old, None)
        if not self.check:
            if os.path.islink(path):
                target = os.readlink(path)
                self.undo.append(lambda: os.symlink(target, path))
            else:
                st = os.stat(path)
                self.undo.append(lambda: self._put_back(path, old or b"", st))
            os.unlink(path)
        return True

    def _temporary(self, path: str, data: bytes, mode: int) -> str:
        """A file beside the target, with an ending that products which look at names accept."""
        base, ext = os.path.splitext(os.path.basename(path))
        fd, name = tempfile.mkstemp(prefix=f".{base}.", suffix=ext, dir=os.path.dirname(path))
        with os.fdopen(fd, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(name, mode)
        return name

    def _validate(self, item: dict[str, t.Any], path: str, data: bytes) -> None:
        if not item["validate"]:
            return
        if self.check and (not os.path.isdir(os.path.dirname(path)) or not shutil.which(shlex.split(item["validate"])[0])):
            return
        if not self.check:
            self._parents(os.path.dirname(path))
        name = self._temporary(path, data, 0o600)
        try:
            argv = [arg.replace("%s", name) for arg in shlex.split(item["validate"])]
            try:
                rc, out, err = self.module.run_command(argv, handle_exceptions=False)
            except OSError as exc:
                raise Failure(f"{path} could not be validated: {argv[0]}: {exc.strerror}", file=path) from exc
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        if rc != 0:
            said = "its output is withheld because the file is secret" if item["secret"] else (err + out).replace(name, path).strip()[-3000:]
            raise Failure(f"{path} was refused by '{item['validate']}' ({rc}), nothing of this call's files was kept: {said}", file=path, rc=rc)

    def _put_back(self, path: str, data: bytes, st: os.stat_result) -> None:
        name = self._temporary(path, data, stat.S_IMODE(st.st_mode))
        with contextlib.suppress(PermissionError):
            os.chown(name, st.st_uid, st.st_gid)
        os.utime(name, ns=(st.st_atime_ns, st.st_mtime_ns))
        os.replace(name, path)

    def _land(self, item: dict[str, t.Any], path: str, old: bytes | None, new: bytes) -> None:
        self.note_change(f"file {path}: {'create' if old is None else 'content'}")
        self._difference(item, path, old, new)
        if self.check:
            if not os.path.isdir(os.path.dirname(path)):
                self._parents(os.path.dirname(path))
            return
        self._parents(os.path.dirname(path))
        st = os.stat(path) if old is not None else None
        name = self._temporary(path, new, 0o600)
        try:
            if st is not None:
                with contextlib.suppress(PermissionError):
                    os.chown(name, st.st_uid, st.st_gid)
            self._own(name, item)
            os.chmod(name, self.octal(item["mode"]))
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        if st is None:
            self.undo.append(lambda: os.unlink(path))
        else:
            self.undo.append(lambda: self._put_back(path, old or b"", st))

    def _consequences(self, item: dict[str, t.Any], path: str, changed: bool) -> None:
        """Which units have to know."""
        for how, wants in (("reload", self.want_reload), ("restart", self.want_restart)):
            for unit in map(unit_name, item[how]):
                if changed:
                    wants.setdefault(unit, []).append(path)
                elif item["state"] == "present" and item["force"]:
                    self.loads.setdefault(unit, {})[path] = how
                if changed and item["state"] == "present" and item["force"]:
                    self.loads.setdefault(unit, {})[path] = how
        if changed and item["dest"].startswith(UNIT_DIRS):
            self.unit_file_changed = True

    def rollback(self) -> None:
        for step in reversed(self.undo):
            with contextlib.suppress(OSError):
                step()
        self.undo = []

    # -- systemd -------------------------------------------------------------------------------------------------------------------
    def show(self, names: t.Sequence[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        return parse_show(self.run(self.systemctl or "systemctl", "show", "--no-pager", "-p", UNIT_PROPERTIES, "--", *names), names)

    def units(self) -> None:
        names = list(dict.fromkeys([u["name"] for u in self.p["units"]] + sorted(self._triggers())))
        if not names and not self.unit_file_changed:
            return
        if not self.systemd:
            self._offline()
            return
        if not self.systemctl:
            self.systemctl = self.module.get_bin_path("systemctl", required=True)
        state = self.show(names)
        if self.unit_file_changed or any(s.get("NeedDaemonReload") == "yes" for s in state.values()):
            self.note_change("daemon-reload")
            if not self.check:
                self.run(self.systemctl, "daemon-reload")
                state = self.show(names)
        self._enable(state)
        record = self._record()
        acted = self._act(names, state, record)
        if acted and not self.check:
            state = self.show(names)
        self._write_record(state, record)

    def _offline(self) -> None:
        if not self.systemctl:
            self.notes.append("systemd is not installed here: units were neither enabled nor started")
            return
        for unit in self.p["units"]:
            if unit["enabled"] is None:
                continue
            now = self.run(self.systemctl, "--root=/", "is-enabled", "--", unit["name"], ok=range(0, 256)).strip()
            self._enable_one(unit, now, "--root=/")
        self.notes.append("systemd is not running here: units were enabled by their links, none was started or reloaded")

    def _enable(self, state: dict[str, dict[str, str]]) -> None:
        for unit in self.p["units"]:
            if unit["enabled"] is not None:
                self._enable_one(unit, state[unit["name"]].get("UnitFileState", ""))

    def _enable_one(self, unit: dict[str, t.Any], now: str, *options: str) -> None:
        name, verb = unit["name"], "enable" if unit["enabled"] else "disable"
        if (now in ("enabled", "static", "alias", "generated")) if unit["enabled"] else (now not in ("enabled", "enabled-runtime", "linked")):
            return
        self.note_change(f"{verb} {name}", f"unit {name}: {now or 'unknown'}", f"unit {name}: {verb}d")
        if self.check:
            return
        if now.startswith("masked") and unit["enabled"]:
            self.run(self.systemctl or "systemctl", *options, "unmask", "--", name)
        self.run(self.systemctl or "systemctl", *options, "-q", verb, "--", name)

    def _record(self) -> dict[str, t.Any]:
        try:
            with open(self.record_path, encoding="utf-8") as f:
                found = json.load(f)
            return found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            return {}

    def _mtimes(self, unit: str) -> dict[str, int]:
        out = {}
        for path in self.loads.get(unit, {}):
            with contextlib.suppress(FileNotFoundError):
                out[path] = os.stat(path).st_mtime_ns
        return out

    def _act(self, names: t.Sequence[str], state: dict[str, dict[str, str]], record: dict[str, t.Any]) -> bool:
        wanted = {u["name"]: u["state"] for u in self.p["units"]}
        now, monotonic = time.time(), time.monotonic()
        acted = False
        for name in names:
            unit, want = state[name], wanted.get(name)
            active = unit.get("ActiveState", "inactive")
            if want == "stopped":
                if active not in ("inactive", "failed"):
                    self._do("stop", name, active, "stopped", [])
                    acted = True
                continue
            if active not in RUNNING:
                if want == "started":
                    # "activating" may be a start under way or the pause before an automatic restart; after a change only a restart is right.
                    verb = "restart" if active == "activating" and (name in self.want_restart or name in self.want_reload) else "start"
                    self._do(verb, name, active, "started", [])
                    acted = True
                continue
            if is_node(name):
                continue
            behind = stale(self._mtimes(name), unit, record.get(name, {}), now, monotonic)
            how = self.loads.get(name, {})
            restart = [*self.want_restart.get(name, []), *(p for p in behind if how.get(p) == "restart")]
            reload = [*self.want_reload.get(name, []), *(p for p in behind if how.get(p) == "reload")]
            if restart:
                self._do("restart", name, active, "restarted", restart)
                acted = True
            elif reload:
                if unit.get("CanReload") == "no" and not self.check:
                    raise Failure(f"{name} cannot be reloaded (it has no ExecReload=), but {', '.join(reload)} changed; "
                                  "declare 'restart' for these files")
                self._do("reload", name, active, "reloaded", reload)
                acted = True
            else:
                acted = self._check(name, active) or acted
        return acted

    def _check(self, name: str, active: str) -> bool:
        """Reload a unit that says itself that it does not run what its files say."""
        command = next((u["check"] for u in self.p["units"] if u["name"] == name and u["check"]), None)
        if command is None or is_node(name):
            return False
        argv = shlex.split(command)
        if self.check and not all(os.path.exists(arg) for arg in argv if arg.startswith("/")):
            return False
        rc, out, err = self.module.run_command(argv)
        if rc == 0:
            return False
        if rc != 1:
            raise Failure(f"{name}: '{command}' could not tell what is running ({rc}): {(err or out).strip()[-1000:]}", unit=name, rc=rc)
        self._do("reload", name, active, "reloaded", out.strip().splitlines()[:20])
        return True

    def _do(self, verb: str, name: str, active: str, done: str, why: list[str]) -> None:
        why = list(dict.fromkeys(why))
        after = {"start": "active", "stop": "inactive"}.get(verb, f"active, {done}")
        self.note_change(f"{verb} {name}" + (f" (it has not loaded {', '.join(why)})" if why else ""), f"unit {name}: {active}", f"unit {name}: {after}")
        self.done[done].append(name)
        if self.check:
            return
        if verb in ("start", "restart") and active == "failed":
            self.module.run_command([self.systemctl, "reset-failed", "--", name])
        rc, out, err = self.module.run_command([self.systemctl, verb, "--", name])
        if rc != 0:
            said = self._journal(name)
            raise Failure(f"systemctl {verb} {name} failed ({rc}): {(err or out).strip()} {said}".rstrip(), unit=name, rc=rc)

    def _journal(self, name: str) -> str:
        """The last words of a unit, for the message of a failure."""
        journalctl = self.module.get_bin_path("journalctl")
        if not journalctl:
            return ""
        rc, out, err = self.module.run_command([journalctl, "-q", "--no-pager", "-o", "cat", "-n", "15", "-u", name])
        return f"Its last log lines: {out.strip()}" if rc == 0 and out.strip() else ""

    def _write_record(self, state: dict[str, dict[str, str]], old: dict[str, t.Any]) -> None:
        """Note what each running unit has loaded by now."""
        if self.check or not self.loads:
            return
        new = {
            name: {"invocation": state[name].get("InvocationID", ""), "files": self._mtimes(name)}
            for name in self.loads if state.get(name, {}).get("ActiveState") in RUNNING
        }
        if new == old:
            return
        os.makedirs(self.p["record_dir"], mode=0o700, exist_ok=True)
        name = self._temporary(self.record_path, json.dumps(new, sort_keys=True).encode(), 0o600)
        os.replace(name, self.record_path)

    # -- gates ---------------------------------------------------------------------------------------------------------------------
    def gates(self) -> None:
        if self.check or not self.systemd:
            return
        for gate in self.p["gates"]:
            where = gate["path"] or f"{gate['host']}:{gate['port']}"
            end, said = time.monotonic() + gate["timeout"], "no answer"
            while True:
                try:
                    said = self._ask(gate)
                    if not gate["expect"] or re.search(gate["expect"], said):
                        break
                    said = f"it answered {said[:200]!r}, expected {gate['expect']!r}"
                except OSError as err:
                    said = str(err)
                if time.monotonic() > end:
                    journal = " ".join(self._journal(u["name"]) for u in self.p["units"] if u["state"] == "started")
                    raise Failure(f"{self.p['name']} did not pass its gate at {where} within {gate['timeout']:g} s: {said}. {journal}".rstrip(), gate=where)
                time.sleep(0.1)

    @staticmethod
    def _ask(gate: dict[str, t.Any]) -> str:
        if gate["path"]:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(2)
            target: t.Any = gate["path"]
        else:
            family = socket.AF_INET6 if ":" in gate["host"] else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.settimeout(2)
            target = (gate["host"], gate["port"])
        with sock:
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

    # -- all ---------------------------------------------------------------------------------------------------------------------
    def result(self) -> dict[str, t.Any]:
        diff: list[dict[str, str]] = list(self.diffs)
        if self.before or self.after:
            header = f"{self.p['name']} (state)"
            diff.append({"before_header": header, "after_header": header,
                         "before": "".join(f"{line}\n" for line in self.before), "after": "".join(f"{line}\n" for line in self.after)})
        out: dict[str, t.Any] = {"changed": bool(self.changes), "changes": self.changes, "notes": self.notes, **self.done}
        if self.module._diff:
            out["diff"] = diff
        return out

    def apply(self) -> dict[str, t.Any]:
        self.guard()
        self.packages()
        self.user()
        self.directories()
        try:
            self.files()
        except BaseException:
            self.rollback()
            raise
        self.units()
        self.gates()
        return self.result()


def main() -> None:
    lists = {"type": "list", "elements": "str", "default": []}
    file_spec = {
        "dest": {"type": "str", "required": True},
        "src": {"type": "str"},
        "content": {"type": "str"},
        "secret_content": {"type": "str", "no_log": True},
        "mode": {"type": "str", "default": "0644"},
        "owner": {"type": "str"},
        "group": {"type": "str"},
        "validate": {"type": "str"},
        "secret": {"type": "bool", "default": False, "no_log": False},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "force": {"type": "bool", "default": True},
        "reload": lists,
        "restart": lists,
    }
    template_spec = {k: v for k, v in file_spec.items() if k not in ("content", "secret_content")}
    template_spec.update(src={"type": "str", "required": True}, vars={"type": "dict", "default": {}})
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "packages": lists,
            "user": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "group": {"type": "str"},
                    "groups": lists,
                    "home": {"type": "str", "default": "/nonexistent"},
                    "shell": {"type": "str", "default": "/usr/sbin/nologin"},
                },
            },
            "directories": {
                "type": "list", "elements": "dict", "default": [],
                "options": {
                    "path": {"type": "str", "required": True},
                    "mode": {"type": "str", "default": "0755"},
                    "owner": {"type": "str"},
                    "group": {"type": "str"},
                },
            },
            "files": {"type": "list", "elements": "dict", "default": [], "options": file_spec},
            "templates": {"type": "list", "elements": "dict", "default": [], "options": template_spec},
            "units": {
                "type": "list", "elements": "dict", "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "enabled": {"type": "bool"},
                    "state": {"type": "str", "choices": ["started", "stopped"]},
                    "check": {"type": "str"},
                },
            },
            "gates": {
                "type": "list", "elements": "dict", "default": [],
                "options": {
                    "host": {"type": "str", "default": "127.0.0.1"},
                    "port": {"type": "int"},
                    "path": {"type": "str"},
                    "send": {"type": "str"},
                    "expect": {"type": "str"},
                    "timeout": {"type": "float", "default": 20},
                },
                "mutually_exclusive": [("port", "path")],
                "required_one_of": [("port", "path")],
            },
            "record_dir": {"type": "path", "default": "/run/openrtc-livekit"},
        },
        supports_check_mode=True,
    )
    if module.params["templates"]:
        module.fail_json(msg="templates are rendered on the control machine; call openrtc.livekit.component as a task, not directly")
    component = Component(module)
    try:
        module.exit_json(**component.apply())
    except Failure as err:
        module.fail_json(msg=str(err), changes=component.changes, notes=component.notes, **err.fields)
    except OSError as err:
        module.fail_json(msg=f"{component.p['name']}: {err}", changes=component.changes, notes=component.notes)


if __name__ == "__main__":
    main()
