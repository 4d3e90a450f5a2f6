"""The files that a host keeps, on a real file system: raced for by processes, killed, torn, gone."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import random
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _state, _transaction
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._resume import Note
from ansible_collections.homelab.nixos.plugins.module_utils._state import Deferrals, FailedSystem, State
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import Held, Torn, Transaction

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
NOW = 1795312800
CLAIMED = Transaction("tower", "tower", "run-1", None, NOW, NOW + 600, "claimed", "boot-1")
ACTIVATING = replace(CLAIMED, step="activation", origin=OLD, target=NEW, failed_units=("flaky.service",) * 50)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(str(tmp_path / "var" / "lab"))


def names(state: State) -> set[str]:
    # what is told of them is not among them
    return set(os.listdir(state.directory)) - {"log.json", "lab-auto-update.log"}


def test_a_host_without_the_directory_is_nobodys(state: State):
    assert state.transaction() is None
    assert state.last() is None
    assert state.failed_systems() == {}
    assert state.deferrals() is None
    assert not state.guard_acted("run-1")
    assert not os.path.exists(state.directory)


def test_what_is_written_is_read_and_its_directory_is_made(state: State):
    mask = os.umask(0o077)
    try:
        state.write(ACTIVATING)
    finally:
        os.umask(mask)
    assert state.transaction() == ACTIVATING
    assert names(state) == {"lock", "transaction.json"}
    for path, mode in ((state.directory, 0o755), (state.path("transaction.json"), 0o644)):
        assert stat.S_IMODE(os.stat(path).st_mode) == mode


def test_the_end_of_a_transaction_is_kept_and_the_host_is_nobodys(state: State):
    state.write(ACTIVATING)
    state.close("rolled_back", "web.service is failed.", NOW + 60.5)
    assert state.transaction() is None
    ending = {"outcome": "rolled_back", "reason": "web.service is failed.", "ended": NOW + 60}
    assert state.last() == ACTIVATING.as_result() | ending
    with pytest.raises(LabError, match="nothing to end"):
        state.close("updated", "", NOW)
    assert (state.last() or {})["outcome"] == "rolled_back"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "it is empty"),
        (b"\0" * 4096, "it is empty"),
        (_transaction.dump(ACTIVATING).encode()[:200], "it is not JSON"),
        (b"\xff\xfe\x00garbage", "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (_transaction.dump(ACTIVATING).replace('"version": 1', '"version": 2').encode(), "it has version 2"),
        (_transaction.dump(ACTIVATING).replace(str(NOW), '"soon"').encode(), "since is 'soon'"),
        (b"[" * 3_000_000, "it is not JSON"),
    ],
)
def test_a_torn_note_is_somebodys_and_is_named_and_kept_when_it_is_ended(state: State, text: bytes, words: str):
    state.write(CLAIMED)
    Path(state.path("transaction.json")).write_bytes(text)
    found = state.transaction()
    assert isinstance(found, Torn)
    assert found.reason.startswith(f"{state.directory}/transaction.json cannot be used: ")
    assert words in found.reason
    state.close("rolled_back", "It was torn.", NOW)
    assert state.transaction() is None
    last = state.last()
    assert last is not None
    assert (last["outcome"], last["torn"]) == ("rolled_back", text.decode("utf-8", "replace")[:4096])


def test_a_note_that_is_no_file_is_somebodys(state: State):
    os.makedirs(state.path("transaction.json"))
    found = state.transaction()
    assert isinstance(found, Torn)
    assert "transaction.json cannot be read: Is a directory" in found.reason


def test_a_last_transaction_that_cannot_be_read_stops_nobody(state: State):
    state.write(CLAIMED)
    Path(state.path("last.json")).write_text("{")
    assert state.last() is None
    state.close("unchanged", "", NOW)
    assert (state.last() or {})["outcome"] == "unchanged"


def test_failed_systems_are_kept_by_system_the_newest_ones(state: State):
    state.remember_failed(NEW, "web.service is failed.", "run-1", NOW)
    state.remember_failed(OLD, "unconfirmed", "run-2", NOW + 1)
    state.remember_failed(NEW, "again", "run-3", NOW + 2)
    assert state.failed_systems() == {
        OLD: FailedSystem("unconfirmed", "run-2", NOW + 1),
        NEW: FailedSystem("again", "run-3", NOW + 2),
    }
    state.forget_failed(OLD)
    state.forget_failed(OLD)
    assert list(state.failed_systems()) == [NEW]
    for number in range(25):
        state.remember_failed(f"{OLD}-{number}", "no", "run-4", NOW + number)
    assert list(state.failed_systems()) == [f"{OLD}-{number}" for number in range(5, 25)]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 2, "systems": {}}', '{"version": 1, "systems": {"x": {"reason": 1}}}', "\0\0"]
)
def test_failed_systems_that_cannot_be_told_are_an_error_with_a_remedy(state: State, text: str):
    state.remember_failed(NEW, "no", "run-1", NOW)
    path = Path(state.path("failed.json"))
    path.write_text(text)
    for call in (state.failed_systems, lambda: state.remember_failed(OLD, "no", "run-2", NOW)):
        with pytest.raises(Unreadable) as raised:
            call()
        assert str(path) in raised.value.what
        assert f"rm {path}" in raised.value.remedy
    assert path.read_text() == text


def test_nights_in_which_the_host_was_left_alone_are_counted_once_each(state: State):
    assert state.deferrals() is None
    state.clear_deferrals()
    assert state.defer("kim is logged in.", "run-1", NOW + 0.5) == Deferrals(1, NOW, "kim is logged in.", "run-1")
    assert state.defer("A backup runs.", "run-1", NOW + 60) == Deferrals(1, NOW, "kim is logged in.", "run-1")
    assert state.defer("A backup runs.", "run-2", NOW + 86400) == Deferrals(2, NOW, "A backup runs.", "run-2")
    assert state.deferrals() == Deferrals(2, NOW, "A backup runs.", "run-2")
    state.clear_deferrals()
    assert state.deferrals() is None
    assert names(state) == {"lock"}


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"[]", b"null", b"\0\0", b"\xff\xfe", b"[" * 100_000),
        b'{"version": 1, "nights": 2, "since": 1, "reason": "x"}',
        b'{"version": 2, "nights": 2, "since": 1, "reason": "x", "run_id": "run-1"}',
        b'{"version": 1, "nights": true, "since": 1, "reason": "x", "run_id": "run-1"}',
        b'{"version": 1, "nights": "2", "since": 1, "reason": "x", "run_id": "run-1"}',
    ],
)
def test_a_count_that_is_torn_starts_again_and_stops_nobody(state: State, text: bytes):
    state.defer("kim is logged in.", "run-1", NOW)
    Path(state.path("deferrals.json")).write_bytes(text)
    assert state.deferrals() is None
    assert state.defer("kim is logged in.", "run-2", NOW) == Deferrals(1, NOW, "kim is logged in.", "run-2")
    assert state.deferrals() == Deferrals(1, NOW, "kim is logged in.", "run-2")


def test_the_boot_guard_has_acted_for_the_run_that_it_names(state: State):
    state.write(CLAIMED)
    Path(state.path("boot-guard")).write_text("run-1\n")
    assert state.guard_acted("run-1")
    assert not state.guard_acted("run-2")


def test_what_is_left_for_a_boot_is_roots_alone_and_goes_with_the_transaction(state: State):
    state.write(replace(ACTIVATING, step="reboot"))
    assert not state.is_left("run-1")
    state.leave(Note("run-1", ("/bin/true",), {}, {"secret": "x"}))
    assert stat.S_IMODE(os.stat(state.path("resume.json")).st_mode) == 0o600
    assert state.is_left("run-1") and not state.is_left("run-2")
    # as the boot does when it begins with it
    os.rename(state.path("resume.json"), state.path("resuming.json"))
    assert state.is_left("run-1")
    state.leave(Note("run-1", ("/bin/true",), {}, {}))
    assert names(state) == {"lock", "transaction.json", "resume.json"}
    os.rename(state.path("resume.json"), state.path("resuming.json"))
    state.close("updated", "", NOW)
    assert names(state) == {"lock", "last.json"}
    Path(state.path("resume.json")).write_text("{")
    assert not state.is_left("run-1")


def test_a_directory_that_cannot_be_written_is_named_with_a_remedy(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError) as raised:
        State(str(tmp_path / "file" / "lab")).write(CLAIMED)
    assert f"{tmp_path}/file/lab/lock cannot be written: " in raised.value.what


def test_a_full_disk_leaves_the_old_note(state: State, monkeypatch: pytest.MonkeyPatch):
    state.write(CLAIMED)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(LabError, match=r"transaction\.json cannot be written: No space left on device"):
            state.write(ACTIVATING)
    assert state.transaction() == CLAIMED
    assert names(state) == {"lock", "transaction.json"}


def test_a_lock_that_is_never_free_is_waited_for_no_longer_than_said(state: State, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_state, "_LOCK_SECONDS", 0.2)
    with state.locked(), state.locked():
        began = time.monotonic()
        with pytest.raises(LabError) as raised:
            State(state.directory).write(CLAIMED)
        assert 0.2 <= time.monotonic() - began < 2
    assert f"{state.directory}/lock was locked by another process" in raised.value.what
    State(state.directory).write(CLAIMED)


def test_a_lock_file_that_was_removed_meanwhile_locks_nothing(state: State, monkeypatch: pytest.MonkeyPatch):
    state.write(CLAIMED)
    real, calls = fcntl.flock, iter([True])

    def removed_at_the_last_moment(descriptor: int, how: int) -> None:
        if next(calls, False):
            os.unlink(state.path("lock"))
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", removed_at_the_last_moment)
    monkeypatch.setattr(_state, "_LOCK_SECONDS", 0.2)
    with state.locked(), pytest.raises(LabError, match="was locked by another process"):
        State(state.directory).write(ACTIVATING)
    assert state.transaction() == CLAIMED


def test_a_published_file_may_be_read_by_all_and_leaves_nothing_else(tmp_path: Path):
    mask = os.umask(0o077)
    try:
        for text in ("first\n", "second: ✓\n"):
            _state.publish(str(tmp_path / "lab.prom"), text)
    finally:
        os.umask(mask)
    assert (tmp_path / "lab.prom").read_text() == "second: ✓\n"
    assert stat.S_IMODE((tmp_path / "lab.prom").stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["lab.prom"]


def test_a_published_file_takes_the_place_of_a_link_and_not_of_what_it_leads_to(tmp_path: Path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "lab.prom").symlink_to("precious")
    _state.publish(str(tmp_path / "lab.prom"), "ours")
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "lab.prom").is_symlink()


def test_a_file_that_cannot_be_published_stays_as_it_is_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(LabError, match=r"no/lab\.prom cannot be written: No such file or directory\. See that its dir"):
        _state.publish(str(tmp_path / "no" / "lab.prom"), "x")
    assert os.listdir(tmp_path) == []
    _state.publish(str(tmp_path / "lab.prom"), "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LabError, match=r"lab\.prom cannot be written: No space left on device"):
        _state.publish(str(tmp_path / "lab.prom"), "new")
    assert (tmp_path / "lab.prom").read_text() == "old"
    assert os.listdir(tmp_path) == ["lab.prom"]


# ---- processes ------------------------------------------------------------------------------------------------------
fork = multiprocessing.get_context("fork")
RUNS, ROUNDS = 50, 20


def contend(directory: str, number: int, barrier: Barrier, results: Any) -> None:
    """One run of fifty: take what all take at the same moment, say whether it was won, and let go of it."""
    state = State(directory)
    for turn in range(ROUNDS):
        barrier.wait(60)
        try:
            with state.locked():
                now = time.time()
                state.write(
                    _transaction.take(
                        state.transaction(),
                        controller=f"controller-{number}",
                        controller_name=f"controller-{number}",
                        run_id=f"run-{turn}",
                        process=None,
                        now=now,
                        seconds=600,
                        boot_id="boot-1",
                    )
                )
            word = "won"
        except Held as error:
            word = error.data["held_by"]["controller"]  # type: ignore[index]
        except Exception as error:
            word = repr(error)
        barrier.wait(60)
        if word == "won":
            state.close("unchanged", "", now)
        results.put((turn, number, word))


def test_of_fifty_processes_that_take_a_host_at_once_exactly_one_wins_each_time(state: State):
    barrier, results = fork.Barrier(RUNS), fork.Queue()
    processes = [
        fork.Process(target=contend, args=(state.directory, number, barrier, results), daemon=True)
        for number in range(RUNS)
    ]
    for process in processes:
        process.start()
    told = [results.get(timeout=60) for _ in range(RUNS * ROUNDS)]
    for process in processes:
        process.join(60)
    for turn in range(ROUNDS):
        words = {number: word for each, number, word in told if each == turn}
        winners = [number for number, word in words.items() if word == "won"]
        assert len(winners) == 1, words
        # and all others were told who it is
        assert set(words.values()) == {"won", f"controller-{winners[0]}"}


def child(work: Callable[[], None]) -> int:
    """Fork, do C(work) there, and return the pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def killed_at(work: Callable[[], None], line: int) -> bool:
    """Do C(work) in a process that kills itself before its Nth line in _state.py; whether it came to that."""
    file = _state.__file__

    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal line
        if frame.f_code.co_filename == file and event == "line":
            line -= 1
            if line < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    def traced() -> None:
        sys.settrace(trace)
        work()

    return os.WIFSIGNALED(os.waitpid(child(traced), 0)[1])


JSON = {"transaction.json", "last.json", "failed.json"}
FILES = {"lock", *JSON, *(f"{name}.new" for name in JSON)}


def every_line(work: Callable[[], None], prepare: Callable[[], None]) -> Iterator[None]:
    line = 0
    while True:
        prepare()
        if not killed_at(work, line):
            break
        yield
        line += 1
    assert line > 20


def test_a_writer_that_is_killed_at_any_line_leaves_the_old_file_or_the_new_one(state: State):
    seen = []
    for _ in every_line(lambda: State(state.directory).write(ACTIVATING), lambda: state.write(CLAIMED)):
        found = state.transaction()
        assert found in (CLAIMED, ACTIVATING)
        seen.append(found)
        assert names(state) <= FILES
    # both were met, and never the old one after the new one
    assert CLAIMED in seen and seen[-1] == ACTIVATING and seen == sorted(seen, key=lambda each: each == ACTIVATING)


def test_an_end_that_is_killed_at_any_line_leaves_an_open_transaction_or_an_ended_one(state: State):
    def prepare() -> None:
        state.write(ACTIVATING)
        state.close("unchanged", "", NOW)
        state.write(ACTIVATING)

    seen = set()
    for _ in every_line(lambda: State(state.directory).close("updated", "", NOW), prepare):
        last = state.last()
        assert last is not None
        seen.add((state.transaction() == ACTIVATING, last["outcome"]))
        assert state.transaction() in (None, ACTIVATING)
    assert seen == {(True, "unchanged"), (True, "updated"), (False, "updated")}


def test_a_memory_that_is_killed_at_any_line_has_the_old_systems_or_the_new_ones(state: State):
    def prepare() -> None:
        state.forget_failed(NEW)
        state.remember_failed(OLD, "no", "run-1", NOW)

    seen = set()
    work = State(state.directory).remember_failed
    for _ in every_line(lambda: work(NEW, "no", "run-2", NOW), prepare):
        seen.add(tuple(state.failed_systems()))
    assert seen == {(OLD,), (OLD, NEW)}


def test_a_writer_that_is_killed_at_any_moment_leaves_whole_files(state: State):
    """Within a call of the operating system too; the seed is part of what is told when it fails."""
    seed = int.from_bytes(os.urandom(4))
    moments = random.Random(seed)
    state.write(CLAIMED)

    def write_for_ever() -> None:
        mine = State(state.directory)
        while True:
            mine.write(ACTIVATING)
            mine.write(CLAIMED)

    for number in range(200):
        # one file is renamed over the other: its inode tells that the child is at it
        before = os.stat(state.path("transaction.json")).st_ino
        pid = child(write_for_ever)
        end = time.monotonic() + 10
        while os.stat(state.path("transaction.json")).st_ino == before and time.monotonic() < end:
            pass
        time.sleep(moments.uniform(0, 0.003))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert state.transaction() in (CLAIMED, ACTIVATING), f"seed {seed}, round {number}"
        assert names(state) <= FILES, f"seed {seed}, round {number}"
    state.write(CLAIMED)
    assert names(state) == {"lock", "transaction.json"}


def test_the_file_can_be_read_line_by_line_by_a_shell(state: State):
    """The boot guard has no Python."""
    state.write(ACTIVATING)
    lines = Path(state.path("transaction.json")).read_text().splitlines()
    assert [line for line in lines if line.startswith('  "from": ')] == [f'  "from": "{OLD}",']
    assert json.loads("\n".join(lines)) == ACTIVATING.as_result()


def test_a_published_file_is_never_seen_in_part(tmp_path: Path):
    """By a reader that asks ten thousand times while several processes write it, over and over."""
    path = str(tmp_path / "lab.prom")
    texts = [f"{number}\n" * length for number, length in ((1, 20_000), (2, 10), (3, 70_000))]
    _state.publish(path, texts[0])

    def write() -> None:
        for number in range(10**9):
            _state.publish(path, texts[number % len(texts)])

    writers = [child(write) for _ in range(3)]
    try:
        seen = {Path(path).read_text() for _ in range(10_000)}
    finally:
        for writer in writers:
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
    assert seen <= set(texts) and len(seen) > 1
    # what killed writers leave is nothing that the collector would read
    assert all(name == "lab.prom" or not name.endswith(".prom") for name in os.listdir(tmp_path))
