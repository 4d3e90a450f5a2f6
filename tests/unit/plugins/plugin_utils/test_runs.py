"""One run at a time on a controller, and nobody is blocked by a run that is over. With real processes and files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _run_lock, _state
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._run_lock import Holder
from ansible_collections.homelab.nixos.plugins.plugin_utils import _controller, _runs

RUN = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]


@pytest.fixture
def other() -> Iterator[subprocess.Popen]:
    """The main process of another run, once it is one: its arguments are in /proc a moment after it was started."""
    with subprocess.Popen(RUN, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


@pytest.fixture
def mine() -> Holder:
    return replace(_runs.holder("mine", "", 1795312800, ""), process=_controller.process(os.getpid()))


def of(process: subprocess.Popen, mine: Holder, **changes: Any) -> Holder:
    return replace(mine, run_id="other", process=_controller.process(process.pid), log="/var/log/it", **changes)


def noted(directory: Path) -> str | None:
    try:
        return json.loads((directory / "run.json").read_text())["run_id"]
    except FileNotFoundError:
        return None


def test_a_second_run_is_refused_while_the_first_lives_and_goes_on_when_it_is_dead(
    tmp_path: Path, other: subprocess.Popen, mine: Holder
):
    directory = tmp_path / "not" / "yet"
    assert _runs.take(str(directory), of(other, mine)) == (str(directory / "run.json"), [])
    with pytest.raises(_run_lock.Busy, match=rf"run other of .* as process {other.pid}, .*Its log is /var/log/it\."):
        _runs.take(str(directory), mine)
    assert noted(directory) == "other"
    other.kill()
    other.wait()
    assert _runs.take(str(directory), mine) == (str(directory / "run.json"), [])
    assert noted(directory) == "mine"


def test_a_pid_that_another_process_has_by_now_blocks_nobody(tmp_path: Path, other: subprocess.Popen, mine: Holder):
    holder = of(other, mine)
    assert holder.process is not None
    _runs.take(str(tmp_path), replace(holder, process=replace(holder.process, start=holder.process.start - 1)))
    assert _runs.take(str(tmp_path), mine).warnings == []


def test_a_reboot_ends_a_run_of_this_machine_and_of_no_other(tmp_path: Path, other: subprocess.Popen, mine: Holder):
    holder = of(other, mine, machine=_controller.machine_id() or "none")
    assert holder.process is not None
    before = replace(holder, process=replace(holder.process, boot_id="0b7a2c1d-6d9e-4f0a-8c3b-5e4d3c2b1a09"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_controller, "machine_id", lambda: holder.machine)
        _runs.take(str(tmp_path), before)
        assert _runs.take(str(tmp_path), mine).warnings == []
    _runs.take(str(tmp_path / "shared"), replace(before, machine="another"))
    (warning,) = _runs.take(str(tmp_path / "shared"), mine).warnings
    assert "Another run may be going on" in warning
    assert "run other of" in warning


def test_a_run_in_another_container_is_warned_of_and_left_to_the_claims(
    tmp_path: Path, other: subprocess.Popen, mine: Holder
):
    holder = of(other, mine)
    assert holder.process is not None
    _runs.take(str(tmp_path), replace(holder, process=replace(holder.process, pid_namespace=1)))
    (warning,) = _runs.take(str(tmp_path), mine).warnings
    assert "only the claims on hosts keep the two apart" in warning
    # which does not let go of what is somebody else's by now
    assert _runs.let_go(str(tmp_path / "run.json"), "other") == []
    assert noted(tmp_path) == "mine"


def test_two_nights_of_one_process_follow_each_other(tmp_path: Path, mine: Holder):
    _runs.take(str(tmp_path), replace(mine, run_id="earlier"))
    assert _runs.take(str(tmp_path), mine).warnings == []


def test_the_end_of_a_run_leaves_nothing(tmp_path: Path, mine: Holder):
    lock = _runs.take(str(tmp_path), mine).lock
    assert noted(tmp_path) == "mine"
    assert _runs.let_go(lock, "mine") == []
    assert noted(tmp_path) is None
    assert _runs.let_go(lock, "mine") == []


@pytest.mark.parametrize("text", ["", "{", '{"version": 2}'])
def test_a_note_that_cannot_be_read_is_somebodys_unless_it_is_older_than_this_boot(
    text: str, tmp_path: Path, mine: Holder
):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(Unreadable, match=rf"nobody can tell whether another run .* remove it: rm {path}"):
        _runs.take(str(tmp_path), mine)
    assert path.read_text() == text
    booted = _controller.booted()
    assert booted is not None
    os.utime(path, (booted - 10, booted - 10))
    assert _runs.take(str(tmp_path), mine).warnings == []
    assert noted(tmp_path) == "mine"


def test_a_directory_that_nobody_chose_and_that_cannot_be_written_is_a_warning(
    tmp_path: Path, mine: Holder, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file" / "state")
    with pytest.raises(LabError, match=f"lab_state_directory is {nowhere}: let this user write"):
        _runs.take(nowhere, mine)
    monkeypatch.setattr(_controller, "state_directory", lambda _setting: nowhere)
    lock, (warning,) = _runs.take("", mine)
    assert lock == ""
    assert "Set lab_state_directory, or else only the claims on hosts keep two runs apart." in warning


def test_the_state_directory_is_that_of_the_setting_of_root_or_of_the_user(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert _controller.state_directory("~/state") == "/home/me/state"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert _controller.state_directory() == _state.DIRECTORY
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert _controller.state_directory() == "/home/me/.local/state/lab-auto-update"
    monkeypatch.setenv("XDG_STATE_HOME", "/srv/state")
    assert _controller.state_directory() == "/srv/state/lab-auto-update"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert _controller.state_directory() == "/home/me/.local/state/lab-auto-update"


def test_where_a_run_can_be_followed_is_its_output_or_its_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = tmp_path / "log"
    with log.open("w") as file, subprocess.Popen(["sleep", "60"], stdout=file) as process:
        assert _controller.output(process.pid) == str(log)
        found = os.stat(log)
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        monkeypatch.setenv("INVOCATION_ID", "0123")
        assert _controller.output(process.pid) == "journalctl _SYSTEMD_INVOCATION_ID=0123"
        process.kill()
    for nothing in (subprocess.PIPE, subprocess.DEVNULL):
        with subprocess.Popen(["sleep", "60"], stdout=nothing) as process:
            assert _controller.output(process.pid) == ""
            process.kill()
    assert _controller.output(2**22 + 1) == ""


def test_a_run_is_told_by_its_main_process(other: subprocess.Popen):
    holder = _runs.holder("mine", "tower", 1795312800.7, "/var/log/nightly.log")
    assert (holder.run_id, holder.controller, holder.began) == ("mine", "tower", 1795312800)
    assert holder.process == _controller.process(os.getppid())
    assert holder.log == "/var/log/nightly.log"
    assert _controller.command(other.pid) == RUN
    assert asdict(holder)["controller_name"] == _controller.name()
