# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An inventory folder of what adoption found: files as text, secrets apart. Pure.

Note that this module util is PRIVATE to the collection.
"""
from __future__ import annotations

import dataclasses
import re
import typing as t

from ..config import plain, to_yaml
from .found import Found, Row, ordered

VAULT = "livekit_vault_"  # + what it is: variables in the file of secrets
TEMPLATES = ("livekit_haproxy_extra",)  # written by us, to be templated
SECRET_LEAVES = ("password", "sentinel_password", "secret", "credential", "private_key", "certificate")
NAMES = ("kubernetes_tls_secret",)  # of a Secret, which is none
CONNECTION = ("ansible_host", "ansible_port", "ansible_user", "ansible_connection", "ansible_python_interpreter", "livekit_address")
GROUPS = {"compose": ("livekit_balancer", "livekit_server"), "kubernetes": ("livekit_server",)}
MADE = "{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/stats', chars=['ascii_letters', 'digits'], length=32) }}"
_BRACES = re.compile(r'(^|: |- )("(?:[^"\\]|\\.)*(?:\{\{|\{%|\{#)(?:[^"\\]|\\.)*")$', re.M)
_REFERENCE = re.compile(rf'"\{{\{{ {VAULT}\w+ \}}\}}"')


@dataclasses.dataclass(frozen=True)
class File:
    """One file of the folder. secret: mode 0600, never shown."""

    path: str
    content: str
    secret: bool = False

    def as_dict(self) -> dict[str, t.Any]:
        return dataclasses.asdict(self)


def split(variables: t.Mapping[str, t.Any]) -> tuple[dict[str, t.Any], dict[str, t.Any]]:
    """(variables for everybody's eyes, secrets): a secret in a section is a reference to a variable of its own."""
    open_ones: dict[str, t.Any] = {}
    secrets: dict[str, t.Any] = {}
    for name, value in plain(variables).items():
        if name == "livekit_keys":
            secrets[name] = value
        else:
            open_ones[name] = _split(value, name.removeprefix("livekit_"), secrets)
    return open_ones, secrets


def _split(value: t.Any, path: str, secrets: dict[str, t.Any]) -> t.Any:
    if isinstance(value, dict):
        out = {}
        for name, inner in value.items():
            label = f"{path}_{name}"
            if name in SECRET_LEAVES and inner and isinstance(inner, str) and label not in NAMES:
                secrets[VAULT + _word(label)] = inner
                out[name] = f"{{{{ {VAULT}{_word(label)} }}}}"
            else:
                out[name] = _split(inner, label, secrets)
        return out
    if isinstance(value, list):
        return [_split(inner, f"{path}_{number}", secrets) for number, inner in enumerate(value, 1)]
    return value


def _word(path: str) -> str:
    return re.sub(r"\W+", "_", path)


def yaml(variables: t.Mapping[str, t.Any]) -> str:
    """The variables as YAML that Ansible reads back as they are: braces in a value are no template, but for our own references."""
    out = ""
    for name, value in variables.items():
        if name in TEMPLATES:
            out += f"{name}: |\n" + "".join(f"  {line}\n" if line else "\n" for line in str(value).splitlines())
        else:
            out += _BRACES.sub(lambda m: m[0] if _REFERENCE.fullmatch(m[2]) else f"{m[1]}!unsafe {m[2]}", to_yaml({name: value}))
    return out


def files(found: Found, host: str, connection: t.Mapping[str, t.Any], origin: str) -> list[File]:
    """hosts.yml, group_vars and what became of every setting. connection: how the host is reached, from the present inventory; origin: in words."""
    open_ones, secrets = split(found.variables)
    target = found.variables["livekit_target"]
    mine = {name: str(connection[name]) for name in CONNECTION if connection.get(name)}
    for name in ("livekit_node_ip", "livekit_region"):
        if name in open_ones:
            mine[name] = open_ones.pop(name)
    if target == "kubernetes":
        mine = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    groups = {name: {"hosts": {host: None}} for name in GROUPS[target]}
    hosts = to_yaml({"all": {"children": groups, "hosts": {host: mine}}}).replace(": null\n", ":\n")
    head = f"---\n# Adopted from {origin}.\n"
    passwords = f'livekit_haproxy_stats_password: "{MADE}"\n'
    note = ("# livekit_keys and the variables livekit_vault_* are in vault.yml beside this file: commit it encrypted only.\n"
            "# Passwords of the collection's own are made on first use and kept in .secrets beside this inventory: never commit it.\n")
    vault = "---\n# Secrets. Encrypt this file before it is stored anywhere: ansible-vault encrypt vault.yml\n"
    return [File("hosts.yml", head + hosts), File("group_vars/all/main.yml", head + note + yaml(open_ones) + passwords),
            File("group_vars/all/vault.yml", vault + yaml(secrets), secret=True), File("ADOPTED.md", markdown(found.rows, origin)),
            File(".gitignore", "/.secrets/\n/group_vars/all/vault.yml\n")]


def markdown(rows: t.Iterable[Row], origin: str) -> str:
    """What became of every setting, to keep."""
    lines = [f"# Adopted from {origin}", "", "| what | setting | value | variable | why, and what to do |", "|---|---|---|---|---|"]
    for row in ordered(rows):
        cells = (row.what, row.source, row.value, row.to, row.note)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
