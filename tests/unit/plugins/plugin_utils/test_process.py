"""The controller's door to processes, with real ones."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.plugin_utils import _process

from tests.lab._system import start_time, wait_for


def test_an_answer_is_whole_and_secrets_are_taken_out_of_what_is_said():
    program = "import sys; print('ü $HOME'); sys.stderr.write('https://me:hunter2@host\\n'); sys.exit(3)"
    done = _process.run([sys.executable, "-c", program])
    assert (done.rc, done.stdout, done.stderr) == (3, "ü $HOME\n", "https://***@host\n")
    assert not done.timed_out


def test_a_program_sees_the_c_locale_and_where_nixos_has_programs():
    done = _process.run(["env"])
    lines = done.stdout.splitlines()
    assert "LC_ALL=C" in lines
    assert f"PATH={os.environ['PATH']}:/run/wrappers/bin:" in done.stdout


def test_a_program_that_takes_too_long_ends_with_all_that_it_started(tmp_path: Path):
    began = time.monotonic()
    script = f"sleep 100 & echo $! > {tmp_path}/pid; wait"
    done = _process.run(["sh", "-c", script], timeout=0.5)
    assert done.timed_out
    assert time.monotonic() - began < 5
    child = int((tmp_path / "pid").read_text())
    assert wait_for(lambda: start_time(child) is None, 5)


def test_a_program_that_is_not_here_is_named():
    assert not _process.found("no-such-program")
    with pytest.raises(LabError, match=r"no-such-program is not on this controller\. It is looked for in "):
        _process.run(["no-such-program"])


def test_a_word_that_no_program_can_be_given_is_told_in_a_sentence():
    with pytest.raises(LabError, match="echo cannot be given such words: embedded null byte"):
        _process.run(["echo", "a\0b"])
