"""The log as it is found on a machine: rotated, compressed, torn, or not there."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _log_files
from ansible_collections.homelab.nixos.plugins.module_utils._log_files import read

from tests.unit.plugins.module_utils.test_entries import NOON, record

DAY = 86400


def lines(*numbers: int) -> str:
    return "".join(json.dumps(record(seq=number)) + "\n" for number in numbers)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Today's, yesterday's, and a compressed one of the day before."""
    path = tmp_path / "lab-auto-update.log"
    path.write_text(lines(5, 6))
    (tmp_path / "lab-auto-update.log.1").write_text(lines(3, 4))
    (tmp_path / "lab-auto-update.log.2.gz").write_bytes(gzip.compress(lines(1, 2).encode()))
    for days, file in enumerate([path, tmp_path / "lab-auto-update.log.1", tmp_path / "lab-auto-update.log.2.gz"]):
        os.utime(file, (NOON - days * DAY,) * 2)
    # somebody else's
    (tmp_path / "lab-auto-update.logbook").write_text(lines(7))
    (tmp_path / "lab-auto-update.log.d").mkdir()
    return path


def read_seqs(path: Path, since: float, newest: int = 0) -> list[int]:
    return sorted(one.seq for one in read(str(path), since, newest)[0])


def test_all_files_are_read_and_nothing_else(log: Path):
    assert read_seqs(log, 0) == [1, 2, 3, 4, 5, 6]
    (log.parent / "lab-auto-update.log-20261120.gz").write_bytes(gzip.compress(lines(0).encode()))
    assert read_seqs(log, 0) == [0, 1, 2, 3, 4, 5, 6]


def test_only_as_far_back_as_is_asked(log: Path):
    assert read_seqs(log, NOON - DAY / 2) == [5, 6]
    assert read_seqs(log, NOON - DAY) == [3, 4, 5, 6]
    # unless that is too few
    assert read_seqs(log, NOON + DAY, newest=1) == [5, 6]
    assert read_seqs(log, NOON + DAY, newest=3) == [3, 4, 5, 6]
    assert read_seqs(log, NOON + DAY) == []


def test_a_log_that_is_rotated_away_is_read_all_the_same(log: Path):
    log.unlink()
    assert read_seqs(log, 0) == [1, 2, 3, 4]


def test_what_is_torn_is_counted(log: Path):
    log.write_bytes(lines(5).encode() + b'{"version": 1, "run_\xff\n' + lines(6).encode() + b'{"versi')
    (log.parent / "lab-auto-update.log.2.gz").write_bytes(gzip.compress(lines(1, 2).encode())[:-20])
    (log.parent / "lab-auto-update.log.3.gz").write_bytes(b"no gzip at all")
    found, skipped = read(str(log), 0, 0)
    assert sorted(one.seq for one in found) == [3, 4, 5, 6]
    assert skipped == 4


def test_no_log_has_no_records(tmp_path: Path):
    assert read(str(tmp_path / "none" / "lab-auto-update.log"), 0, 10) == ([], 0)
    (tmp_path / "lab-auto-update.log").mkdir()
    assert read(str(tmp_path / "lab-auto-update.log"), 0, 10) == ([], 0)


def test_of_an_endless_log_the_end_is_read(log: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_log_files, "_MOST", 1000)
    log.write_text(lines(*range(100)))
    found, skipped = read(str(log), 0, 0)
    assert skipped == 0
    assert [one.seq for one in found] == list(range(100 - len(found), 100))
    assert 2 <= len(found) <= 5
