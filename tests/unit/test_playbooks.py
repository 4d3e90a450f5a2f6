"""What can be said of the playbooks without running them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

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
    assert any("Take the hosts of this batch" in task or "Let the hosts of this batch begin" in task for task in every)
    assert all(task.endswith("TAGS: [always]") for task in every)
    assert tasks("--tags", "anything") == tasks("--skip-tags", "anything") == every


def test_what_a_night_includes_as_it_goes_has_no_tags_of_its_own():
    """Its tasks are not listed; they have the tags of their play, which are those of the test above."""
    included = [ROOT / f"roles/update/tasks/{name}.yml" for name in ("round", "main", "reboot", "note")]
    rollout = (ROOT / "roles/update/tasks/rollout.yml").read_text()
    everything = rollout + "".join(file.read_text() for file in included)
    assert set(re.findall(r"include_tasks: (\S+)", everything)) == {file.name for file in included}
    assert [file.name for file in included if "tags:" in file.read_text()] == []


def test_what_status_is_wanted_for_is_read_before_any_host_is_asked_and_never_again():
    (play,) = yaml.safe_load((ROOT / "playbooks/status.yml").read_text())
    first, *others = play.pop("tasks")
    wanted = ("lab_since", "lab_format", "lab_query", "lab_output")
    assert first["homelab.nixos.lab_status"]["state"] == "check"
    assert all(variable in str(first) for variable in wanted)
    assert not [variable for variable in wanted if variable in f"{play} {others}"]
