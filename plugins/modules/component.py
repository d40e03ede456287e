#!/usr/bin/python
# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: component
short_description: Packages, user, directories, files and systemd units or containers of one component in one call
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
  - A component may run in containers instead, as O(projects) of Docker Compose. They are compared with their files in the same way; what has to be
    brought up is handed to M(community.docker.docker_compose_v2), once, before the gates.
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
      tree:
        description:
          - Directory of Python sources on the control machine. The content is a zip archive of its C(*.py) files below a folder of the
            directory's name, always the same archive for the same sources, from which Python can import.
        type: path
      exclude:
        description: Patterns of paths below O(files[].tree) to leave out, such as V(component/*).
        type: list
        elements: str
        default: []
      content:
        description: The content.
        type: str
      encoding:
        description: How the content is written. The diff of one in V(base64) only tells that it differs.
        type: str
        choices: [text, base64]
        default: text
      secret_content:
        description: The content of a secret file. The control machine fills it in from O(files[].content) when O(files[].secret) is true.
        type: str
      numbers:
        description: Replace C(@uid:NAME@) and C(@gid:NAME@) by the numbers of the host's user or group of that name, for containers.
        type: bool
        default: false
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
        description:
          With V(false) an existing file keeps its content (a seed for files a product rewrites itself); owner and mode are still ensured.
        type: bool
        default: true
      reload:
        description: Units that have to be reloaded when this file changed; a project of O(projects) is named with C(.project) behind it.
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
  images:
    description: Images that Docker must have. One that it has already is left as it is.
    type: list
    elements: str
    default: []
  archive_dir:
    description: Directory on the host with archives of images; when it is given, no registry is asked.
    type: path
  docker_socket:
    description: Socket of the Docker daemon.
    type: path
    default: /var/run/docker.sock
  projects:
    description: Projects of Docker Compose that must run what their files say. Handled after the units.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the project.
        type: str
        required: true
      file:
        description: Its Compose file on the host, the only one in its directory. Every service needs the label C(openrtc.livekit.component).
        type: str
        required: true
      prepare:
        description: Command, run without a shell on the host before the project is brought up.
        type: str
      reload:
        description: Command, run without a shell on the host, by which the running project takes in its files that are to be reloaded.
        type: str
      check:
        description: See O(units[].check).
        type: str
  projects_up:
    description: Names of projects that were brought up since the module ran first. Set by the control machine.
    type: list
    elements: str
    default: []
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
      - tree: "{{ role_path }}/files/exporter_plugins"
        dest: /usr/local/lib/exporter/plugins.zip
        exclude: [tests/*]
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
behind:
  description: Projects that have to be brought up. The task itself has done so when it returns, so this is only of use in check mode.
  type: list
  elements: dict
  returned: always
notes:
  description: What was left out and why, such as starting units where systemd does not run.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.openrtc.livekit.plugins.module_utils.fleet.component import Failure, Run, apply

NAMES = {"type": "list", "elements": "str", "default": []}
USER = {
    "name": {"type": "str", "required": True},
    "group": {"type": "str"},
    "groups": NAMES,
    "home": {"type": "str", "default": "/nonexistent"},
    "shell": {"type": "str", "default": "/usr/sbin/nologin"},
}
DIRECTORY = {
    "path": {"type": "str", "required": True},
    "mode": {"type": "str", "default": "0755"},
    "owner": {"type": "str"},
    "group": {"type": "str"},
}
FILE = {
    "dest": {"type": "str", "required": True},
    "src": {"type": "str"},
    "tree": {"type": "path"},
    "exclude": NAMES,
    "content": {"type": "str"},
    "encoding": {"type": "str", "choices": ["text", "base64"], "default": "text"},
    "secret_content": {"type": "str", "no_log": True},
    "numbers": {"type": "bool", "default": False},
    "mode": {"type": "str", "default": "0644"},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "validate": {"type": "str"},
    "secret": {"type": "bool", "default": False, "no_log": False},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "force": {"type": "bool", "default": True},
    "reload": NAMES,
    "restart": NAMES,
}
TEMPLATE = {
    **{k: v for k, v in FILE.items() if k not in ("tree", "exclude", "content", "secret_content", "encoding", "numbers")},
    "src": {"type": "str", "required": True},
    "vars": {"type": "dict", "default": {}},
}
UNIT = {
    "name": {"type": "str", "required": True},
    "enabled": {"type": "bool"},
    "state": {"type": "str", "choices": ["started", "stopped"]},
    "check": {"type": "str"},
}
PROJECT = {
    "name": {"type": "str", "required": True},
    "file": {"type": "str", "required": True},
    "prepare": {"type": "str"},
    "reload": {"type": "str"},
    "check": {"type": "str"},
}
GATE = {
    "host": {"type": "str", "default": "127.0.0.1"},
    "port": {"type": "int"},
    "path": {"type": "str"},
    "send": {"type": "str"},
    "expect": {"type": "str"},
    "timeout": {"type": "float", "default": 20},
}


def main() -> None:
    dicts = {"type": "list", "elements": "dict", "default": []}
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "packages": NAMES,
            "user": {"type": "dict", "options": USER},
            "directories": {**dicts, "options": DIRECTORY},
            "files": {**dicts, "options": FILE},
            "templates": {**dicts, "options": TEMPLATE},
            "units": {**dicts, "options": UNIT},
            "images": NAMES,
            "archive_dir": {"type": "path"},
            "docker_socket": {"type": "path", "default": "/var/run/docker.sock"},
            "projects": {**dicts, "options": PROJECT},
            "projects_up": NAMES,
            "gates": {**dicts, "options": GATE, "mutually_exclusive": [("port", "path")], "required_one_of": [("port", "path")]},
            "record_dir": {"type": "path", "default": "/run/openrtc-livekit"},
        },
        supports_check_mode=True,
    )
    if module.params["templates"]:
        module.fail_json(msg="templates are rendered on the control machine; call openrtc.livekit.component as a task, not directly")
    run = Run(module.params, module.check_mode, module.run_command, module.get_bin_path)
    try:
        apply(run)
    except Failure as err:
        module.fail_json(msg=str(err), changes=run.changes, notes=run.notes, **err.fields)
    except OSError as err:
        module.fail_json(msg=f"{run.p['name']}: {err}", changes=run.changes, notes=run.notes)
    for item in module.params["files"]:
        if item["encoding"] == "base64":
            item["content"] = "(binary)"  # the result repeats the arguments; nobody reads this one
    module.exit_json(**run.result(), **({"diff": run.diff()} if module._diff else {}))


if __name__ == "__main__":
    main()
