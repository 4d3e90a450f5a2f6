# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Our own code on a host without Ansible's around it, for a question that many hosts are asked at once.

A module brings what Ansible needs to run it, and each host loads that first: more work than the question itself. Here
goes a zip of our files alone, over the same connection, as the same user, and nothing of it becomes a file there.
"""

from __future__ import annotations

import ast
import io
import json
import shlex
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable
from ansible_collections.homelab.nixos.plugins.plugin_utils._bare_host import BEGIN, END
from ansible_collections.homelab.nixos.plugins.plugin_utils._orders import without_orders

_PLUGINS = "ansible_collections.homelab.nixos.plugins"
_ROOT = Path(__file__).parents[1]
_MAIN = "_bare_host"
_START = (
    "import os,sys;question=sys.stdin.buffer.readline();memory=os.memfd_create('lab');"
    "open(memory,'wb',closefd=False).write(sys.stdin.buffer.read());sys.path.insert(0,f'/proc/self/fd/{memory}');"
    f"from {_PLUGINS}.plugin_utils import {_MAIN};{_MAIN}.main(question)"
)


def command(interpreter: str) -> str:
    """What a host's shell is to run."""
    return f"{shlex.quote(interpreter)} -I -c {shlex.quote(_START)}"


def question(params: Mapping[str, Any]) -> bytes:
    """What that reads: the options of nixos_info, and the code that answers."""
    return json.dumps(params).encode() + b"\n" + archive()


def answer(stdout: str) -> dict[str, Any]:
    """The result, of what that has written."""
    text = stdout.partition(BEGIN)[2].partition(END)[0]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("The host gave no answer.") from error
    if not isinstance(found, dict):
        raise Unreadable("The host gave no answer.")
    # there was no interpreter to be found out of here
    found.pop("ansible_facts", None)
    return without_orders(found)


@cache
def archive() -> bytes:
    """A zip of what runs there, and all of ours that it imports."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        names = _PLUGINS.split(".")
        packages = ["/".join(names[: count + 1]) for count in range(len(names))]
        for package in (*packages, *(f"{packages[-1]}/{each}" for each in ("module_utils", "plugin_utils"))):
            archive.writestr(f"{package}/__init__.py", "")
        for name in sorted(_needed(f"plugin_utils/{_MAIN}.py")):
            archive.writestr(f"{packages[-1]}/{name}", (_ROOT / name).read_bytes())
    return packed.getvalue()


def _needed(name: str) -> set[str]:
    """The files that C(name) imports, with itself."""
    found: set[str] = set()
    left = [name]
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += _imports((_ROOT / one).read_text(encoding="utf-8"))
    return found


def _imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{_PLUGINS}."):
            place = node.module.removeprefix(f"{_PLUGINS}.").replace(".", "/")
            files = [f"{place}.py"] if "/" in place else [f"{place}/{each.name}.py" for each in node.names]
            yield from (file for file in files if (_ROOT / file).exists())
