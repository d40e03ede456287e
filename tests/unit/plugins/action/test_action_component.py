# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action component: trees of Python sources become archives that Python imports, the same ones for the same sources."""
from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import types
import zipfile

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.openrtc.livekit.plugins.action import component as action


@pytest.fixture(name="tree")
def fixture_tree(tmp_path):
    tree = tmp_path / "package"
    (tree / "inner").mkdir(parents=True)
    (tree / "__init__.py").write_text("")
    (tree / "tool.py").write_text("from .inner import VALUE\nprint(VALUE)\n")
    (tree / "inner" / "__init__.py").write_text("VALUE = 42\n")
    (tree / "inner" / "notes.txt").write_text("no")
    (tree / "private").mkdir()
    (tree / "private" / "own.py").write_text("")
    return tree


def test_python_runs_from_the_archive(tree, tmp_path):
    (tmp_path / "a.zip").write_bytes(action.archive(str(tree)))
    path = {**os.environ, "PYTHONPATH": str(tmp_path / "a.zip")}
    done = subprocess.run([sys.executable, "-m", "package.tool"], env=path, capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"


def test_the_same_sources_give_the_same_archive(tree):
    first = action.archive(str(tree))
    for path in tree.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "tool.pyc").write_bytes(b"x")
    assert action.archive(f"{tree}/") == first
    (tree / "tool.py").write_text("")
    assert action.archive(str(tree)) != first


def test_only_sources_that_are_wanted(tree):
    names = zipfile.ZipFile(io.BytesIO(action.archive(str(tree), ["private/*"]))).namelist()
    assert names == ["package/__init__.py", "package/inner/__init__.py", "package/tool.py"]


def plugin(args, monkeypatch):
    sent = {}
    made = action.ActionModule(types.SimpleNamespace(args=args, async_val=0, check_mode=False, diff=False, action="component"), None, None,
                               types.SimpleNamespace(get_basedir=lambda: "/",
                                                     get_text_file_contents=lambda path: open(path, encoding="utf-8").read()), None, None)
    monkeypatch.setattr(action.ActionBase, "run", lambda self, tmp=None, task_vars=None: {})
    monkeypatch.setattr(made, "_find_needle", lambda folder, name: name)
    monkeypatch.setattr(made, "_execute_module", lambda module_name, module_args, task_vars: sent.update(module_args) or {})
    return made, sent


def test_the_module_gets_the_archive_as_base64(tree, monkeypatch):
    made, sent = plugin({"name": "x", "files": [{"tree": str(tree), "dest": "/a.zip", "exclude": ["private/*"], "restart": ["x"]}]}, monkeypatch)
    made.run()
    (item,) = sent["files"]
    assert item == {"dest": "/a.zip", "restart": ["x"], "encoding": "base64", "content": base64.b64encode(action.archive(str(tree), ["private/*"])).decode()}


def test_a_file_has_one_source(tree, monkeypatch):
    made, dummy = plugin({"name": "x", "files": [{"tree": str(tree), "content": "a", "dest": "/a.zip"}]}, monkeypatch)
    with pytest.raises(AnsibleActionFail, match="both 'content' and 'tree'"):
        made.run()
    with pytest.raises(AnsibleActionFail, match="no Python file"):
        action.archive(str(tree / "inner" / "nothing"))
