"""The log on a real file system: many writers, rotation, no room, torn lines, and a journal that is there or is not."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _log
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._log import Log
from ansible_collections.homelab.nixos.plugins.module_utils._record import Record

from .conftest import Journal

NOW = 1795312800.1234
RECORD = Record("run-1", NOW, "web", "outcome", "updated", 12.34, {"reason": "", "rebooted": True})
WRITERS, RECORDS = 8, 10_000


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(str(tmp_path / "lab-auto-update.log"), str(tmp_path / "state"))


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_record_is_a_line_with_all_that_it_says(log: Log):
    log.write(RECORD)
    assert lines(log.path) == [
        {
            "version": 1,
            "run_id": "run-1",
            "seq": 1,
            "time": "2026-11-22T02:00:00.123Z",
            "host": "web",
            "operation": "outcome",
            "status": "updated",
            "seconds": 12.3,
            "details": {"reason": "", "rebooted": True},
        }
    ]
    assert os.stat(log.path).st_mode & 0o777 == 0o644


def test_records_of_a_run_are_counted_whoever_writes_them(log: Log):
    for run_id in ("run-1", "run-1", "run-2"):
        Log(log.path, log.directory).write(Record(run_id, NOW, "web", "claim", "begun"))
    assert [one["seq"] for one in lines(log.path)] == [1, 2, 1]


def test_whatever_others_say_is_on_one_line_and_has_an_end(log: Log):
    words = 'a\nb\r\u2028"}\x1b[31m' + "x" * 10_000
    log.write(Record("run-1", NOW, "web", "outcome", "failed", details={"reason": words}))
    text = Path(log.path).read_text()
    assert text.isascii()
    assert text.count("\n") == 1
    reason = json.loads(text)["details"]["reason"]
    assert reason.startswith('a\nb\r\u2028"}\x1b[31mxxx')
    assert len(reason) == 4096


def test_no_secret_is_in_a_record(log: Log, journal: Journal):
    log.write(Record("run-1", NOW, "web", "outcome", "failed", details={"reason": "https://kim:hunter2@example.org"}))
    journal.close()
    assert "hunter2" not in Path(log.path).read_text()
    assert b"hunter2" not in b"".join(journal.entries)


def test_the_journal_has_each_record_with_its_fields(log: Log, journal: Journal):
    log.write(Record("run-1", NOW, "web", "outcome", "rolled_back", details={"reason": "two\nlines"}))
    journal.close()
    (entry,) = journal.entries
    message = b"web: outcome: rolled_back: two\nlines"
    # what has several lines comes with its length
    assert entry.startswith(b"MESSAGE\n" + len(message).to_bytes(8, "little") + message + b"\n")
    for field in ("PRIORITY=4", "LAB_RUN_ID=run-1", "LAB_SEQ=1", "LAB_HOST=web", "LAB_STATUS=rolled_back"):
        assert f"\n{field}\n".encode() in entry
    record = next(line for line in entry.split(b"\n") if line.startswith(b"LAB_RECORD="))
    assert [json.loads(record.removeprefix(b"LAB_RECORD="))] == lines(log.path)


def test_without_a_journal_the_file_has_the_record_and_only_what_is_wrong_is_told(
    log: Log, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(_log, "JOURNAL", str(tmp_path / "none"))
    log.write(RECORD)
    assert len(lines(log.path)) == 1
    # a container has none
    assert log.warnings == []
    log.path = "/dev/full"
    with pytest.raises(LabError, match="The journal has no record of it, either: No such file or directory"):
        log.write(RECORD)
    (tmp_path / "deaf").touch()
    monkeypatch.setattr(_log, "JOURNAL", str(tmp_path / "deaf"))
    log.path = str(tmp_path / "lab-auto-update.log")
    log.warnings.clear()
    log.write(RECORD)
    assert log.warnings == ["The journal could not be told of outcome: Connection refused."]


def test_a_file_that_is_full_is_told_and_the_journal_has_the_record(log: Log, journal: Journal):
    log.path = "/dev/full"
    with pytest.raises(LabError, match=r"/dev/full cannot be written: No space left on device\."):
        log.write(RECORD)
    log.note(RECORD)
    assert log.warnings == ["/dev/full cannot be written: No space left on device. The journal has the record."]
    journal.close()
    assert [b"LAB_SEQ=1\n" in journal.entries[0], b"LAB_SEQ=2\n" in journal.entries[1]] == [True, True]


def test_a_record_that_has_room_in_part_leaves_nothing_of_it(log: Log):
    log.write(RECORD)
    size = os.stat(log.path).st_size

    def write_with_little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, size + 20))
        try:
            log.write(RECORD)
        except LabError as error:
            os._exit(0 if "20 of " in str(error) else 2)
        os._exit(1)

    child = multiprocessing.get_context("fork").Process(target=write_with_little_room)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert os.stat(log.path).st_size == size
    log.write(RECORD)
    assert [one["seq"] for one in lines(log.path)] == [1, 3]


def test_a_pipe_in_the_place_of_the_file_swallows_no_record_and_holds_nobody_up(log: Log):
    os.mkfifo(log.path)
    with pytest.raises(LabError, match="it is a pipe, and no file"):
        log.write(RECORD)


def test_a_line_that_was_torn_by_a_power_cut_tears_no_other(log: Log):
    Path(log.path).write_text('{"version": 1, "run_')
    log.write(RECORD)
    torn, whole = Path(log.path).read_text().splitlines()
    assert torn == '{"version": 1, "run_'
    assert json.loads(whole)["seq"] == 1


def test_a_counter_that_cannot_be_read_starts_again(log: Log):
    log.write(RECORD)
    for torn in (
        "",
        "{",
        "[]",
        '{"run_id": "run-1", "seq": Infinity}',
        '{"run_id": "run-1", "seq": -7}',
        '{"run_id": "run-1"}',
        '{"run_id": "run-1", "seq": "x"}',
        "[" * 100_000,
    ):
        (Path(log.directory) / "log.json").write_text(torn)
        log.write(RECORD)
        assert lines(log.path)[-1]["seq"] == 1


def write_many(log: Log, writer: int) -> None:
    for number in range(RECORDS):
        log.write(Record("run-1", NOW, f"writer-{writer}", "claim", "begun", details={"number": number}))


def test_eight_writers_lose_and_tear_no_record_while_the_log_is_rotated_twice(log: Log):
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write_many, args=(log, writer)) for writer in range(WRITERS)]
    for writer in writers:
        writer.start()
    rotated = []
    for number in (1, 2):
        # as logrotate does it, with `create`, while they are at it
        while not os.path.exists(log.path) or os.stat(log.path).st_size < 2_000_000:
            assert any(writer.is_alive() for writer in writers)
        rotated.append(f"{log.path}.{number}")
        os.rename(log.path, rotated[-1])
        os.close(os.open(log.path, os.O_CREAT | os.O_WRONLY, 0o644))
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    parts = [lines(path) for path in (*rotated, log.path)]
    assert all(len(part) > 1000 for part in parts)
    found = [record for part in parts for record in part]
    assert sorted((record["host"], record["details"]["number"]) for record in found) == sorted(
        (f"writer-{writer}", number) for writer in range(WRITERS) for number in range(RECORDS)
    )
    assert sorted(record["seq"] for record in found) == list(range(1, WRITERS * RECORDS + 1))
