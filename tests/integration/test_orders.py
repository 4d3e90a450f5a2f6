"""Hosts that answer with orders for this controller: ansible-playbook on one whose Python says what it was told to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.homelab.nixos.plugins.plugin_utils._bare_host import BEGIN, END

from tests.integration.fleet import ROOT, Night, Running
from tests.unit.plugins.module_utils.test_status import look

# what it is given to run comes by its standard input, or as a file
PYTHON = """#!/bin/sh
test "$1" != -I || cat > /dev/null
cat {answer}
"""
DETOUR = {"host_name": "evil", "groups": [], "host_vars": {"ansible_connection": "local"}}


class Lab:
    """One host, web, which is this machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.secret = directory / "passwd"
        self.secret.write_text("root\n")
        python = directory / "python3"
        python.write_text(PYTHON.format(answer=directory / "answer"))
        python.chmod(0o755)
        variables = {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": str(python),
            "lab_state_directory": str(directory / "state"),
        }
        (directory / "hosts.json").write_text(json.dumps({"all": {"hosts": {"web": variables}}}))
        plays = [
            {"ansible.builtin.import_playbook": str(ROOT / "playbooks/status.yml")},
            {
                "hosts": "all",
                "gather_facts": False,
                "tasks": [{"ansible.builtin.debug": {"msg": "{{ inventory_hostname }} was there"}}],
            },
        ]
        (directory / "play.yml").write_text(yaml.safe_dump(plays))

    def status(self, pipelining: bool, answer: dict[str, Any], **variables: str) -> Night:
        said = json.dumps(answer)
        (self.directory / "answer").write_text(f"{BEGIN}{said}{END}\n" if pipelining else f"{said}\n")
        environment = {
            **os.environ,
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": str(pipelining),
            "ANSIBLE_LOCAL_TEMP": str(self.directory / "tmp"),
        }
        program = [str(ROOT / ".venv/bin/ansible-playbook"), str(self.directory / "play.yml")]
        options = ["-i", str(self.directory / "hosts.json"), "-e", json.dumps(variables)]
        return Running([*program, *options], environment).wait(120)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.mark.parametrize("pipelining", [True, False])
def test_no_host_chooses_the_file_that_status_writes_nor_what_is_in_it(lab: Lab, pipelining: bool):
    facts = {"lab_output": str(lab.secret), "lab_format": "json", "lab_query": "hosts[0].message", "lab_since": "never"}
    night = lab.status(pipelining, {**look(), "message": "evil", "ansible_facts": facts})
    assert night.rc == 0
    # it has answered
    assert "1 host: 1 unknown" in night.output
    assert "6gdlyhm" in night.output
    assert lab.secret.read_text() == "root\n"


def test_what_the_owner_wants_is_done(lab: Lab):
    night = lab.status(True, look(), lab_output=str(lab.secret), lab_query="hosts[?answered].name")
    assert night.rc == 0
    assert json.loads(lab.secret.read_text()) == ["web"]


def test_no_host_adds_another(lab: Lab):
    night = lab.status(True, {**look(), "changed": True, "add_host": DETOUR})
    assert night.rc == 0
    assert "web was there" in night.output
    assert "evil" not in night.output
