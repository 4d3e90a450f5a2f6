"""Jobs as AWX runs them: a private data directory for ansible-runner, with this clone as its project.

What AWX puts there is as its own code has it (awx/main/tasks/jobs.py): a shallow clone, an inventory that is a program,
answers of a survey among the extra variables, and an environment that overrides ansible.cfg.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.integration.fleet import ROOT

BIN = Path(sys.executable).parent
# how AWX has it: its own place first, then what the project's ansible.cfg says, then Ansible's defaults
COLLECTIONS = "/runner/requirements_collections:{cfg}:~/.ansible/collections:/usr/share/ansible/collections"


@dataclass(frozen=True)
class Job:
    """A job that has ended."""

    rc: int
    status: str
    stdout: str
    events: list[dict[str, Any]]

    @property
    def artifacts(self) -> dict[str, Any]:
        """What AWX keeps of it, and gives to the next job of a workflow."""
        # as awx/main/tasks/callback.py looks for it
        found = [event.get("event_data", {}).get("artifact_data") for event in self.events]
        return dict(next(filter(None, reversed(found)), {}))


class Tower:
    """A project, an inventory, and jobs; C(inventory) is what C(ansible-inventory --list) gives."""

    def __init__(self, directory: Path, inventory: Mapping[str, Any]) -> None:
        self.directory = directory
        self.project = directory / "project"
        self._check_out()
        (directory / "inventory").mkdir()
        hosts = directory / "inventory/hosts"
        hosts.write_text(f"#! /usr/bin/env python3\nprint({json.dumps(inventory)!r})\n")
        hosts.chmod(0o700)
        (directory / "env").mkdir()

    def _check_out(self) -> None:
        origin = self.directory / "origin"
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
            if name and (ROOT / name).exists() and name != ".venv":
                (origin / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, origin / name, follow_symlinks=False)
        who = ("-c", "user.name=owner", "-c", "user.email=owner@lab.example")
        for words in (("init", "--quiet"), ("add", "--all"), (*who, "commit", "--quiet", "--message=All")):
            subprocess.run(["git", *words], cwd=origin, check=True, timeout=60)
        clone = ["git", "clone", "--quiet", "--depth=1", "--single-branch", f"file://{origin}", str(self.project)]
        subprocess.run(clone, check=True, timeout=60)

    def job(
        self, name: str, playbook: str, *arguments: str, answers: Mapping[str, object], timeout: float = 600
    ) -> Job:
        """Run a job template to its end; C(answers) are those to its survey."""
        cfg = (self.project / "ansible.cfg").read_text()
        found = re.findall(r"^collections_path = (.*)$", cfg, re.MULTILINE)
        environment = {
            "ANSIBLE_COLLECTIONS_PATH": COLLECTIONS.format(cfg=found[0]),
            # no container finds the connections of another one
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.directory / f"cp{name}"),
            # what it would say in colours is looked for in its words
            "ANSIBLE_NOCOLOR": "1",
        }
        files = {"extravars": dict(answers), "envvars": environment, "settings": {"job_timeout": int(timeout)}}
        for file, content in files.items():
            (self.directory / "env" / file).write_text(yaml.safe_dump(content))
        (self.directory / "env/cmdline").write_text(" ".join(("-u", "root", *arguments)))
        words = [str(BIN / "ansible-runner"), "run", str(self.directory), "--quiet", "--playbook", playbook]
        mine = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        path = f"{BIN}:{mine['PATH']}"
        # from elsewhere, as its workers do
        subprocess.run(
            [*words, "--ident", name], cwd="/", env={**mine, "PATH": path}, check=False, timeout=timeout + 60
        )
        kept = self.directory / "artifacts" / name
        events = [json.loads(path.read_text()) for path in sorted((kept / "job_events").glob("*.json"), key=_number)]
        stdout = (kept / "stdout").read_text()
        print(stdout)
        return Job(int((kept / "rc").read_text()), (kept / "status").read_text(), stdout, events)


def as_text(value: object) -> str:
    """A value as a person types it into a survey, which knows nothing but text."""
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return json.dumps(value, indent=2)
        case dict():
            return yaml.safe_dump(value)
        case _:
            return str(value)


def _number(path: Path) -> int:
    return int(path.name.partition("-")[0])
