"""Our code on a host without Ansible's: what is sent there, and what comes back."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable
from ansible_collections.homelab.nixos.plugins.plugin_utils import _bare
from ansible_collections.homelab.nixos.plugins.plugin_utils._bare_host import BEGIN, END

from tests.unit.plugins.plugin_utils.test_orders import ORDERS

WANTED = {"target": None, "hold_file": "/none", "log": {"since": 0, "newest": 10}}


def test_what_is_sent_answers_where_there_is_no_ansible(tmp_path: Path):
    # a Python of its own, that sees neither this one's packages nor this directory
    bare = subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=False)
    assert bare.returncode == 0
    python = str(tmp_path / "bare/bin/python")
    assert (
        subprocess.run([python, "-I", "-c", "import ansible"], stderr=subprocess.DEVNULL, check=False).returncode != 0
    )
    done = subprocess.run(
        shlex.split(_bare.command(python)), input=_bare.question(WANTED), capture_output=True, timeout=60, check=False
    )
    assert done.stderr == b""
    answer = _bare.answer(done.stdout.decode())
    # this machine is no NixOS, and says so
    assert answer["failed"] is True
    assert "does not run NixOS" in answer["msg"]
    assert set(answer["log"]) == {"records", "skipped"}


def test_nothing_but_what_is_needed_is_sent():
    with zipfile.ZipFile(BytesIO(_bare.question(WANTED).partition(b"\n")[2])) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist() if archive.getinfo(name).file_size}
    assert {"_info.py", "_state.py", "_process.py", "_bare_host.py"} <= names
    assert not {"_module.py", "_bare.py", "_night.py", "_outcome.py", "_metrics.py"} & names


@pytest.mark.parametrize(
    "said", ["", "{}\n", f"Welcome!\n{BEGIN}{END}", f"{BEGIN}[]{END}", f"{BEGIN}{{", f"{BEGIN}7{END}"]
)
def test_what_is_no_answer_is_none(said: str):
    with pytest.raises(Unreadable, match="gave no answer"):
        _bare.answer(said)


def test_an_answer_is_no_order():
    orders = {**ORDERS, "ansible_facts": {"discovered_interpreter_python": "/tmp/evil", "lab_output": "/etc/passwd"}}
    assert _bare.answer(f"{BEGIN}{json.dumps({'changed': False, **orders})}{END}") == {"changed": False}


def test_an_answer_is_found_among_what_a_login_shell_says():
    assert _bare.answer(f"Welcome!\n{BEGIN}{json.dumps({'changed': False})}{END}\nBye\n") == {"changed": False}
