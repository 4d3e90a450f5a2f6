"""What the unit that finishes a night runs, and when it runs nothing: the script itself, on a root of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "nix" / "resume.sh"
THIS_BOOT = "11111111-1111-4111-8111-111111111111"
OLD_BOOT = "00000000-0000-4000-8000-000000000000"
RUN = "20261122T020000Z-7f3a"
STATE = "var/lib/lab-auto-update"
TRANSACTION = {"version": 1, "run_id": RUN, "step": "reboot", "boot_id": OLD_BOOT}


class Host:
    def __init__(self, root: Path) -> None:
        self.state = root / STATE
        self.state.mkdir(parents=True)
        self.record = root / "record"
        self.root = root
        boot_id = root / "proc/sys/kernel/random/boot_id"
        boot_id.parent.mkdir(parents=True)
        boot_id.write_text(f"{THIS_BOOT}\n")
        self.program = root / "program"
        self.runs("")
        self.transaction()
        self.note()

    def runs(self, more: str) -> None:
        self.program.write_text(f'#!/bin/bash\nprintf "%s|" "$@" "$GIVEN" >> {self.record}\n{more}\n')
        self.program.chmod(0o755)

    def transaction(self, **changes: object) -> None:
        (self.state / "transaction.json").write_text(json.dumps({**TRANSACTION, **changes}))

    def note(self, **changes: object) -> None:
        argv = [str(self.program), "a b", "$(reboot)", "*"]
        left = {"version": 1, "run_id": RUN, "argv": argv, "environment": {"GIVEN": "x y $z"}, "night": {}}
        (self.state / "resume.json").write_text(json.dumps({**left, **changes}))

    def boot(self, words: str = "") -> str:
        """Boot, and return what was said; C(words) are those of a program that complains."""
        done = subprocess.run(
            ["bash", SCRIPT],
            env={"PATH": os.environ["PATH"], "RESUME_ROOT": str(self.root)},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        # a failed unit of ours would keep the host from every night to come
        assert done.returncode == 0
        assert words in done.stderr if words else done.stderr == ""
        return done.stdout

    @property
    def ran(self) -> str:
        return self.record.read_text() if self.record.exists() else ""

    @property
    def left(self) -> set[str]:
        return {path.name for path in self.state.iterdir()} - {"transaction.json"}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_what_was_left_runs_once_word_by_word(host: Host):
    assert f"Finishing run {RUN}." in host.boot()
    assert host.ran == "a b|$(reboot)|*|x y $z|"
    assert host.left == {"resuming.json"}
    assert host.boot() == ""
    assert host.ran.count("|") == 4


def test_what_fails_is_told_and_left_to_others(host: Host):
    host.runs("exit 3")
    assert "ended with exit code 3; the boot guard or the next run" in host.boot()
    assert host.left == {"resuming.json"}


def test_without_a_note_nothing_is_done(host: Host):
    (host.state / "resume.json").unlink()
    assert (host.boot(), host.ran) == ("", "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run_id": "another"}, "but run another has the host now"),
        ({"step": "rollback"}, "is at step rollback"),
        ({"step": "commit"}, "is at step commit"),
        # taken back, or confirmed by somebody
        ({"step": "reboot_verification"}, "is at step reboot_verification"),
        # it is still to be rebooted
        ({"boot_id": THIS_BOOT}, ""),
        ({"version": 2}, "no transaction of it can be read"),
        ({"step": 7}, "no transaction of it can be read"),
    ],
)
def test_only_the_boot_that_the_run_was_waiting_for_is_finished(host: Host, changes: dict, words: str):
    host.transaction(**changes)
    assert words in host.boot()
    assert (host.ran, host.left) == ("", {"resume.json"})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2, "run_id": "x"}', '{"version": 1, "run_id": 7}'])
def test_a_note_that_cannot_be_read_is_named_and_left(host: Host, text: str):
    (host.state / "resume.json").write_text(text)
    assert "cannot be read; the next run settles" in host.boot()
    assert host.ran == ""


def test_without_a_transaction_nobody_is_to_be_finished(host: Host):
    (host.state / "transaction.json").unlink()
    assert "no transaction of it can be read" in host.boot()
    assert host.ran == ""


def test_a_note_that_cannot_be_taken_is_not_run_for_it_might_run_again(host: Host):
    (host.state / "resuming.json").mkdir()
    (host.state / "resuming.json/in-the-way").touch()
    assert "cannot be taken" in host.boot(words="mv: ")
    assert host.ran == ""
