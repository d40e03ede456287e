# Copyright: openrtc.livekit contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of this repository that no ready-made linter knows. `python scripts/rules.py RULE` prints what breaks it and exits 1.

argument-specs  a role's meta/argument_specs.yml says what its defaults/main.yml does, and its README exists
action-groups   meta/runtime.yml lists every module in the group `all`
words           nothing restarts a livekit-server or names the machine it was written on, nothing is left open
headers         every Python file carries the licence header and the annotations import
archive         the built archive contains tracked files only, all the collection needs, and nothing private
"""
from __future__ import annotations

import glob
import os
import re
import subprocess
import sys
import tarfile
import typing as t

import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def tracked() -> list[str]:
    out = subprocess.run(["scripts/tracked"], check=True, capture_output=True, cwd=ROOT).stdout
    return [name for name in out.decode().split("\0") if name]


def load(path: str) -> t.Any:
    with open(path, encoding="utf-8") as handle:
        return yaml.safe_load(handle)


def read(path: str) -> str | None:
    """The text of a file; None where it is not text."""
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read()
    except (UnicodeDecodeError, IsADirectoryError):
        return None


TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "path": (str,), "raw": (object,), "int": (int,), "float": (int, float), "bool": (bool,), "list": (list,), "dict": (dict,),
}


def default_problems(where: str, name: str, option: dict[str, t.Any], value: t.Any) -> t.Iterator[str]:
    """What is wrong between one variable's default and its option."""
    if option.get("required"):
        yield f"{where}: {name} is required and has a default; one of the two is wrong"
    elif option.get("default") != value or type(option.get("default")) is not type(value):
        yield f"{where}: {name} defaults to {value!r} in defaults/main.yml and to {option.get('default')!r} in argument_specs.yml"
    templated = isinstance(value, str) and "{{" in value
    if value is None or templated:
        return
    kinds = TYPES.get(option.get("type", "str"), (object,))
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds and object not in kinds):
        yield f"{where}: the default of {name}, {value!r}, is not of its type {option.get('type', 'str')}"
    for one in value if isinstance(value, list) else [value]:
        if option.get("choices") and one not in option["choices"]:
            yield f"{where}: the default of {name}, {one!r}, is none of its choices"


def argument_specs() -> t.Iterator[str]:
    for role in sorted(glob.glob("roles/*")):
        if not os.path.isdir(role) or not any(name.startswith(f"{role}/") for name in tracked()):
            continue
        name = os.path.basename(role)
        for needed in ("README.md", "meta/main.yml", "meta/argument_specs.yml", "defaults/main.yml"):
            if not os.path.exists(f"{role}/{needed}"):
                yield f"{role}: {needed} is missing"
        if not os.path.exists(f"{role}/meta/argument_specs.yml"):
            continue
        entries = (load(f"{role}/meta/argument_specs.yml") or {}).get("argument_specs", {})
        options: dict[str, t.Any] = {}
        for entry in entries.values():
            options.update(entry.get("options") or {})
        defaults = (load(f"{role}/defaults/main.yml") if os.path.exists(f"{role}/defaults/main.yml") else None) or {}
        for key in options:
            if name != "model" and not key.startswith(f"livekit_{name}_"):
                yield f"{role}: {key} is not called livekit_{name}_*; shared variables belong to the role model"
            if key not in defaults and not options[key].get("required"):
                yield f"{role}: {key} is optional and has no value in defaults/main.yml"
        for key, value in defaults.items():
            if key.startswith("__"):
                yield f"{role}: {key} is internal and belongs in vars/main.yml"
            elif key not in options:
                yield f"{role}: {key} of defaults/main.yml is not in argument_specs.yml"
            else:
                yield from default_problems(role, key, options[key], value)


def action_groups() -> t.Iterator[str]:
    listed = load("meta/runtime.yml")["action_groups"]["all"]
    have = sorted(os.path.basename(path)[:-3] for path in glob.glob("plugins/modules/*.py") if not path.endswith("__init__.py"))
    for name in have:
        if name not in listed:
            yield f"meta/runtime.yml: action group all lacks the module {name}"
    for name in listed:
        if name not in have:
            yield f"meta/runtime.yml: action group all lists {name}, which is no module"
    if listed != sorted(listed):
        yield "meta/runtime.yml: action group all is not sorted"


# Brackets keep these patterns from finding themselves.
RESTART = re.compile(
    r"systemctl\s+(--\S+\s+)*(try-)?(reload-or-)?restar[t]\b[^\n]*livekit-server|\.restar[t]\b[^\n]*livekit-server@|RestartUni[t]\b[^\n]*livekit-server"
)
RESTARTED = re.compile(r"state:\s*['\"]?(restarte[d])\b")
MACHINE = re.compile(r"(?:^|[^A-Za-z0-9_.])/(?:wor[k]|far[m]|roo[t])/", re.M)
OPEN = re.compile(r"\b(?:TOD[O]|FIXM[E]|XX[X])\b|NotImplementedErro[r]")


def words() -> t.Iterator[str]:
    for path in tracked():
        text = read(path)
        if text is None or path in ("LICENSE", "requirements.lock"):
            continue
        for pattern, why in (
            (MACHINE, "a path of one machine"),
            (OPEN, "left open; finish it or write it down as an issue"),
        ):
            for match in pattern.finditer(text):
                yield f"{path}:{text.count(chr(10), 0, match.start()) + 1}: {match.group().strip()!r}: {why}"
        if path.endswith((".md", ".rst")):
            continue  # prose may tell readers what not to do
        lines = text.splitlines()
        for number, line in enumerate(lines, 1):
            comment = line.lstrip().startswith("#")
            if RESTART.search(line) and not comment:
                yield f"{path}:{number}: restarts a livekit-server, which ends its calls: start a generation in a free slot instead"
            if RESTARTED.search(line) and any("livekit-server" in near for near in lines[max(0, number - 6):number + 5]):
                yield f"{path}:{number}: restarts a livekit-server, which ends its calls: start a generation in a free slot instead"


def headers() -> t.Iterator[str]:
    for path in tracked():
        text = read(path)
        if not text or not (path.endswith(".py") or text.startswith(("#!/usr/bin/python", "#!/usr/bin/env python"))):
            continue
        if "SPDX-License-Identifier: GPL-3.0-or-later" not in text[:800]:
            yield f"{path}: the licence header is missing"
        if "from __future__ import annotations" not in text:
            yield f"{path}: `from __future__ import annotations` is missing"


OUTSIDE = ("lab", "tests", "molecule", "scripts", "build", ".ci", ".git", ".config", ".secrets", ".tls", ".cache", ".ansible")


def archive() -> t.Iterator[str]:
    subprocess.run(["scripts/collection"], check=True, cwd=ROOT)
    (path,) = glob.glob("build/archive/openrtc-livekit-*.tar.gz")
    with tarfile.open(path) as tar:
        members = {member.name for member in tar if not member.isdir()} - {"MANIFEST.json", "FILES.json"}
    known = set(tracked())
    for name in sorted(members - known):
        yield f"{path}: contains {name}, which git does not track: add it to build_ignore in galaxy.yml"
    for name in sorted(members):
        if name.split("/")[0] in OUTSIDE:
            yield f"{path}: contains {name}, which users do not need: add it to build_ignore in galaxy.yml"
    for name in sorted(known - members):
        if name.split("/")[0] in ("plugins", "roles", "playbooks", "meta", "inventories", "extensions") and not name.startswith("extensions/molecule/"):
            yield f"{path}: lacks {name}"


RULES: dict[str, t.Callable[[], t.Iterator[str]]] = {
    "argument-specs": argument_specs, "action-groups": action_groups, "words": words, "headers": headers, "archive": archive,
}


def main() -> int:
    os.chdir(ROOT)
    problems = list(RULES[sys.argv[1]]())
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
