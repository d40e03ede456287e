# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup token, in a template as users write it."""
from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest
from livekit import api as livekit_api

KEY, SECRET = "devkey", "secretsecretsecretsecretsecretsecret"


def template(tmp_path, expression):
    """The value of a Jinja expression. One process, so tests put several lookups into one."""
    arguments = {"content": "{{ (" + expression + ") | to_json }}", "dest": str(tmp_path / "value"), "mode": "0600"}
    done = subprocess.run(
        [str(pathlib.Path(sys.executable).with_name("ansible")), "-i", "localhost,", "-c", "local", "localhost", "-m", "ansible.builtin.copy",
         "-a", json.dumps(arguments), "-e", json.dumps({"key": KEY, "secret": SECRET})],
        capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": next(p for p in sys.path if p.endswith("build/dev")), "ANSIBLE_NOCOLOR": "1",
             "ANSIBLE_HOME": str(tmp_path / "home"), "ANSIBLE_PYTHON_INTERPRETER": sys.executable, "LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET},
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return json.loads((tmp_path / "value").read_text())


def claims(token):
    return livekit_api.TokenVerifier(KEY, SECRET).verify(token)


def test_tokens(tmp_path):
    join, watchers, from_environment = template(tmp_path, """[
        lookup('openrtc.livekit.token', room='daily', identity='alice', name='Alice', key=key, secret=secret),
        query('openrtc.livekit.token', 'a', 'b', room='daily', ttl=60, key=key, secret=secret, grants={'room_join': true, 'can_publish': false}),
        lookup('openrtc.livekit.token', grants={'room_list': true}),
    ]""")
    got = claims(join)
    assert (got.identity, got.name, got.video.room, got.video.room_join, got.video.can_publish) == ("alice", "Alice", "daily", True, True)
    assert [(c.identity, c.video.can_publish) for c in map(claims, watchers)] == [("a", False), ("b", False)]
    assert claims(from_environment).video.room_list


def test_what_is_wrong_is_told_without_the_secret(tmp_path):
    with pytest.raises(RuntimeError, match="there is no grant fly") as caught:
        template(tmp_path, "lookup('openrtc.livekit.token', room='r', identity='a', key=key, secret=secret, grants={'fly': true})")
    assert SECRET not in str(caught.value)
