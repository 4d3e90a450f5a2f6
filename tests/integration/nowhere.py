"""Hosts that are nowhere, for what has to happen before any is contacted: an ssh that notes each call."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.integration.fleet import Running

# `stay` beside the log: then nobody is ever let in nor turned away
SSH = """#!/bin/sh
echo "$@" >> {calls}
test ! -e {stay} || exec sleep 600
exit 255
"""


class Nowhere:
    """An inventory of such hosts, and runs on it; each run may have an environment of its own."""

    def __init__(self, directory: Path, hosts: Mapping[str, Mapping[str, Any]], **variables: Any) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.calls = directory / "calls"
        self._stay = directory / "stay"
        self.inventory = directory / "hosts.json"
        ssh = directory / "ssh"
        ssh.write_text(SSH.format(calls=self.calls, stay=self._stay))
        ssh.chmod(0o755)
        everybody = {
            "ansible_host": "192.0.2.1",
            "ansible_ssh_executable": str(ssh),
            "ansible_control_path_dir": str(directory / "cp"),
            "lab_state_directory": str(self.state),
        }
        self.inventory.write_text(json.dumps({"all": {"vars": everybody | variables, "hosts": hosts}}))

    def begin(self, playbook: str, *arguments: str, **environment: str) -> Running:
        """Start C(ansible-playbook) on these hosts."""
        return Running(self.command(playbook, *arguments), {**os.environ, "ANSIBLE_NOCOLOR": "1", **environment})

    def command(self, playbook: str, *arguments: str) -> list[str]:
        """The words of that."""
        program = str(Path(sys.executable).parent / "ansible-playbook")
        return [program, playbook, "-i", str(self.inventory), *arguments]

    def hang(self, whether: bool = True) -> None:
        """From now on ssh hangs, or fails at once."""
        if whether:
            self._stay.touch()
        else:
            self._stay.unlink(missing_ok=True)

    def contacts(self) -> int:
        """How often anybody tried to reach a host."""
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0

    def run(self) -> dict[str, Any] | None:
        """The note of the run that is going on."""
        try:
            return dict(json.loads((self.state / "run.json").read_text()))
        except FileNotFoundError:
            return None
