"""Who asks, and whether a process is dead: only what is certain counts. With real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import Process
from ansible_collections.homelab.nixos.plugins.plugin_utils import _controller

SLEEP = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen]:
    with subprocess.Popen(SLEEP) as process:
        yield process
        process.kill()


def recorded(pid: int) -> Process:
    found = _controller.process(pid)
    assert found is not None
    return found


def is_dead(process: Process, same_machine: bool = True) -> bool:
    return _controller.is_dead(asdict(process), same_machine=same_machine)


def test_a_process_is_dead_when_it_has_ended_and_not_before(sleeper: subprocess.Popen):
    process = recorded(sleeper.pid)
    assert process.pid == sleeper.pid
    assert not is_dead(process)
    sleeper.kill()
    # ended, and its parent has not asked for it yet
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{sleeper.pid}").exists()
    assert is_dead(process)
    sleeper.wait()
    assert is_dead(process)
    assert is_dead(process, same_machine=False)


def test_a_process_that_is_stopped_is_not_dead(sleeper: subprocess.Popen):
    process = recorded(sleeper.pid)
    sleeper.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED | os.WNOWAIT)
    assert not is_dead(process)


def test_another_process_with_the_same_pid_is_not_the_same(sleeper: subprocess.Popen):
    process = recorded(sleeper.pid)
    assert is_dead(replace(process, start=process.start - 1))


def test_nothing_is_known_of_the_processes_of_other_machines_and_containers(sleeper: subprocess.Popen):
    process = recorded(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    assert not is_dead(replace(process, pid_namespace=process.pid_namespace + 1))
    elsewhere = replace(process, boot_id="0b7a2c1d-6d9e-4f0a-8c3b-5e4d3c2b1a09")
    assert not is_dead(elsewhere, same_machine=False)
    # a reboot of this machine ended it
    assert is_dead(elsewhere, same_machine=True)


@pytest.mark.parametrize("what", [None, {}, {"pid": 1}, {"pid": "x", "start": 1, "boot_id": "b", "pid_namespace": 1}])
def test_a_process_that_is_none_is_not_certainly_dead(what: dict | None):
    assert not _controller.is_dead(what, same_machine=True)


@pytest.mark.parametrize("pid", [0, 2**31, 2**62])
def test_a_pid_that_is_none_is_not_certainly_dead(pid: int):
    assert not is_dead(replace(recorded(os.getpid()), pid=pid))


def test_the_processes_of_others_are_not_taken_for_dead():
    """Which is what they look like where /proc hides them: PID 1 is root's, and there is no stat to be seen."""
    init = recorded(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_controller, "_stat", lambda _pid: None)
        assert not is_dead(init)


def test_a_program_may_have_any_name(tmp_path: Path):
    program = tmp_path / ") R 1 (x"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "60"]) as process:
        try:
            assert not is_dead(recorded(process.pid))
        finally:
            process.kill()


def test_the_run_itself_is_named_and_not_the_worker_that_asks():
    code = (
        "from ansible_collections.homelab.nixos.plugins.plugin_utils import _controller;"
        "print(_controller.identity('tower').process['pid'])"
    )
    root = Path(__file__).parents[4]
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(root / "collections")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) == os.getpid()


def test_a_controller_is_its_machine_unless_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    machine_id = tmp_path / "machine-id"
    monkeypatch.setattr(_controller, "MACHINE_ID", str(machine_id))
    machine_id.write_text("3f0a8d5f6a8f4e0c9d0b2f4f7a1c6e5d\n")
    for unset in (None, ""):
        assert _controller.identity(unset).controller == "3f0a8d5f6a8f4e0c9d0b2f4f7a1c6e5d"
    assert _controller.identity("tower").controller == "tower"
    assert _controller.identity(7).controller == "7"
    assert _controller.identity("tower").name.isprintable()


@pytest.mark.parametrize("text", [None, "", "uninitialized\n", "3f0a\n"])
def test_a_machine_without_an_id_goes_by_its_host_name(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    machine_id = tmp_path / "machine-id"
    if text is not None:
        machine_id.write_text(text)
    monkeypatch.setattr(_controller, "MACHINE_ID", str(machine_id))
    assert _controller.identity().controller == _controller.name()
    assert _controller.identity("tower").controller == "tower"


@pytest.mark.parametrize("controller", ["a b", "x" * 65, "tür", "a\n", " "])
def test_a_name_that_is_none_is_refused_with_the_setting(controller: str):
    with pytest.raises(LabError, match="lab_controller"):
        _controller.identity(controller)
