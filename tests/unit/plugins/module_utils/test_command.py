"""The door to processes: what a program reads."""

import os
import pwd
import subprocess
from typing import Any, cast

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._command import door
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError


class Module:
    """Runs programs as AnsibleModule does: without data of their own, they read what it reads."""

    def run_command(self, argv: list[str], **_more: Any) -> tuple[int, bytes, bytes]:
        self.environment = _more["environ_update"]
        done = subprocess.run(argv, cwd=_more["cwd"], capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("data", ["", "one\ntwo\n", "x" * 1_000_000])
def test_a_program_reads_what_it_is_given_and_no_more(data: str) -> None:
    run = door(cast(Any, Module()))
    assert run(["cat"], data=data).stdout == data
    # and the next one reads nothing of it
    assert run(["head", "--bytes=1"], data="z").stdout == "z"


def test_a_program_has_a_home_where_a_unit_of_systemd_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Module()
    monkeypatch.delenv("HOME")
    door(cast(Any, module))(["true"])
    assert module.environment["HOME"] == pwd.getpwuid(os.getuid()).pw_dir
    door(cast(Any, module))(["true"], env={"HOME": "/elsewhere"})
    assert module.environment["HOME"] == "/elsewhere"


def test_a_program_starts_where_no_relative_path_means_anything() -> None:
    run = door(cast(Any, Module()))
    assert run(["pwd"]).stdout == "/\n"
    assert run(["pwd"], cwd="/usr").stdout == "/usr\n"


def test_a_program_that_ends_without_reading_is_told_as_it_ended() -> None:
    done = door(cast(Any, Module()))(["false"], data="x" * 1_000_000)
    assert (done.rc, done.timed_out) == (1, False)


@pytest.mark.parametrize("word", ["a\0b", "a\ud800b"])
def test_a_word_that_no_program_can_be_given_is_told_in_a_sentence(word: str) -> None:
    with pytest.raises(LabError, match=r"echo cannot be given such words: .*has neither NUL nor half a character"):
        door(cast(Any, Module()))(["echo", word])
