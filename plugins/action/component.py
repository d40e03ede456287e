# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control machine's half of the component module: it renders templates and reads files, the host does the rest."""
from __future__ import annotations

import base64
import fnmatch
import io
import os
import typing as t
import zipfile

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

MODULE = "openrtc.livekit.component"
COMPOSE = "community.docker.docker_compose_v2"
LISTS = ("changes", "notes", "started", "stopped", "restarted", "reloaded", "installed")  # of a result
# The same as ansible.builtin.template, so that a template behaves as its author expects.
OVERRIDES = {"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"}


def archive(tree: str, exclude: t.Sequence[str] = ()) -> bytes:
    """The Python files below `tree` as a zip with the tree's own name on top: the same bytes for the same files, whoever makes it."""
    found = {}
    for folder, dummy, names in os.walk(tree):
        for name in names:
            path = os.path.join(folder, name)
            below = os.path.relpath(path, tree)
            if name.endswith(".py") and not any(fnmatch.fnmatchcase(below, pattern) for pattern in exclude):
                found[below] = path
    if not found:
        raise AnsibleActionFail(f"files: there is no Python file in {tree}")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for below, path in sorted(found.items()):
            entry = zipfile.ZipInfo(f"{os.path.basename(os.path.normpath(tree))}/{below}", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o100644 << 16
            with open(path, "rb") as source:
                made.writestr(entry, source.read(), compresslevel=9)
    return out.getvalue()


class ActionModule(ActionBase):
    """Turns O(templates), O(files[].src) and O(files[].tree) of the control machine into plain contents, then runs the module.

    It runs once, and again after projects of Compose were brought up.
    """

    TRANSFERS_FILES = False

    def run(self, tmp: t.Any = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        del tmp
        args = dict(self._task.args)
        files = [self._file(item) for item in self._items(args, "files")]
        rendered = [self._template(item, task_vars) for item in self._items(args, "templates")]
        args.pop("templates", None)
        args["files"] = [*files, *rendered]
        done = self._execute_module(module_name=MODULE, module_args=args, task_vars=task_vars)
        if done.get("behind") and not done.get("failed") and not self._task.check_mode:
            done = self._up(done, args, task_vars)
        result.update(done)
        return result

    def _up(self, done: dict[str, t.Any], args: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """Bring up the projects that do not run what their files say, then let the module see that they do."""
        always = {"state": "present", "recreate": "always", "pull": "never", "remove_orphans": True, "wait": False,
                  "docker_host": f"unix://{args.get('docker_socket') or '/var/run/docker.sock'}"}
        for project in done["behind"]:
            folder, name = os.path.split(project["file"])
            said = self._execute_module(module_name=COMPOSE, task_vars=task_vars, module_args={
                "project_src": folder, "project_name": project["name"], "files": [name], **always})
            if said.get("failed"):
                return {**done, "failed": True, "msg": f"project {project['name']} could not be brought up: {said.get('msg')}", "actions": said.get("actions")}
        up = [project["name"] for project in done["behind"]]
        then = self._execute_module(module_name=MODULE, module_args={**args, "projects_up": up}, task_vars=task_vars)
        merged = {key: [*done[key], *then.get(key, [])] for key in LISTS if key in done}
        return {**then, **merged, "changed": True, "behind": [], **({"diff": done["diff"]} if "diff" in done else {})}

    @staticmethod
    def _items(args: dict[str, t.Any], option: str) -> list[dict[str, t.Any]]:
        items = args.get(option) or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise AnsibleActionFail(f"'{option}' must be a list of mappings, got: {type(items).__name__}")
        return [dict(item) for item in items]

    def _file(self, item: dict[str, t.Any]) -> dict[str, t.Any]:
        given = [option for option in ("src", "content", "tree") if item.get(option) is not None]
        if len(given) > 1:
            raise AnsibleActionFail(f"files: {item.get('dest')} has both '{given[0]}' and '{given[1]}'; give one of them")
        src, tree, exclude = item.pop("src", None), item.pop("tree", None), item.pop("exclude", None) or []
        if src is not None:
            item["content"] = self._read("files", src)
        elif tree is not None:
            item.update(content=base64.b64encode(archive(self._needle("files", tree), exclude)).decode(), encoding="base64")
        return self._guard(item)

    def _template(self, item: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        src, dest, extra = item.pop("src", None), item.get("dest"), item.pop("vars", None) or {}
        if not src or not dest:
            raise AnsibleActionFail(f"templates: an item needs 'src' and 'dest', got src={src} dest={dest}")
        path = self._needle("templates", src)
        variables = dict(task_vars)
        variables.setdefault("ansible_managed", "Ansible managed")
        variables.update(template_path=src, template_fullpath=path, template_destpath=dest)
        variables.update(extra)
        search = [*task_vars.get("ansible_search_path", []), self._loader.get_basedir(), os.path.dirname(path)]
        search = [folder for base in search for folder in (os.path.join(base, "templates"), base)]
        templar = self._templar.copy_with_new_env(searchpath=search, available_variables=variables)
        try:
            text = templar.template(trust_as_template(self._text(path)), escape_backslashes=False, overrides=OVERRIDES)
        except AnsibleError as err:
            raise AnsibleActionFail(f"templates: could not render {src} for {dest}: {err}") from err
        item["content"] = "" if text is None else str(text)
        return self._guard(item)

    @staticmethod
    def _guard(item: dict[str, t.Any]) -> dict[str, t.Any]:
        """Contents of secret files travel in an option that Ansible never prints."""
        if item.get("secret") and item.get("content") is not None:
            item["secret_content"] = item.pop("content")
        return item

    def _needle(self, folder: str, src: str) -> str:
        try:
            return self._find_needle(folder, src)
        except AnsibleError as err:
            raise AnsibleActionFail(f"could not find {src} in the role's {folder}: {err}") from err

    def _text(self, path: str) -> str:
        return self._loader.get_text_file_contents(path)

    def _read(self, folder: str, src: str) -> str:
        return self._text(self._needle(folder, src))
