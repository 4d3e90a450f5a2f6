"""What can be said of the playbooks without running them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tasks(*options: str) -> list[str]:
    """The tasks of a night that a command line leaves in, with their tags."""
    program = str(Path(sys.executable).parent / "ansible-playbook")
    argv = [program, "nightly.yml", "--list-tasks", *options]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return re.findall(r"^ {6}(\S.*)$", done.stdout, re.MULTILINE)


def test_no_tag_leaves_out_a_step_of_a_night():
    every = tasks()
    assert len(every) > 30
    assert any("Claim the host" in task for task in every)
    assert all(task.endswith("TAGS: [always]") for task in every)
    assert tasks("--tags", "anything") == tasks("--skip-tags", "anything") == every
