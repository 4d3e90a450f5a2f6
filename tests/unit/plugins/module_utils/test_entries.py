"""Records of the log, read back: what is none is counted, and never an end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._entries import Entry, records, worth_telling

NOON = 1795608000


NO_VALUES: dict[str, tuple[Any, ...]] = {
    "version": (0, 2, "1", True, None),
    "run_id": (None, 7, "a b", "x" * 65, "../x"),
    "time": (None, NOON, "", "2026-11-25", "2026-13-25T12:00:00Z", "2026-11-25T12:00:00+01:00"),
    "host": (None, 7, "x" * 256, "a\x1b[2J", "a\nb"),
    "operation": (None, "", "out come", "OUTCOME", "x" * 41),
    "status": (None, "", ["updated"], "\u202eupdated"),
    "seconds": ("1", -1, True, 1e300, []),
    "seq": (None, "1", -1, False, float("inf")),
    "details": (None, [], "x"),
}


def record(**change: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "run_id": "20261125T020000Z-7f3a",
        "seq": 7,
        "time": "2026-11-25T12:00:00.000Z",
        "host": "web",
        "operation": "outcome",
        "status": "updated",
        "seconds": 1.5,
        "details": {"reason": "", "rebooted": True},
        **change,
    }


def entry(number: int, operation: str, run: int = 1, status: str = "begun") -> Entry:
    return Entry(f"run-{run}", number, NOON + number, "web", operation, status, None, {})


def test_a_record_is_read_and_told_as_it_was_written():
    found, skipped = records([json.dumps(record()) + "\n", "", "\n"])
    assert skipped == 0
    (one,) = found
    assert (one.run_id, one.seq, one.time, one.seconds) == ("20261125T020000Z-7f3a", 7, NOON, 1.5)
    assert one.as_result() == record()
    # what has come through a result of Ansible's is read alike
    assert records([record()]) == (found, 0)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        json.dumps(record())[:-9],
        "\0" * 300,
        "[]",
        "null",
        "7",
        "[" * 100_000,
        json.dumps(record(details={"deep": 1})).replace("1}", "[" * 100_000),
        json.dumps(record(details={"much": "x" * (1 << 20)})),
        json.dumps(record(details={"half": "\ud800"})),
        json.dumps(record(details={"none": float("nan")})),
        *(json.dumps(record(**{key: value})) for key, values in NO_VALUES.items() for value in values),
        json.dumps({key: value for key, value in record().items() if key != "details"}),
        json.dumps(record(seq=1)).replace('"seq": 1', f'"seq": {"9" * 5000}'),
        17,
        None,
    ],
    ids=lambda line: ascii(line)[:60],
)
def test_what_is_no_record_is_counted_and_those_around_it_are_read(line: object):
    found, skipped = records([json.dumps(record(seq=1)), line, json.dumps(record(seq=2))])
    assert [one.seq for one in found] == [1, 2]
    assert skipped == 1


def test_a_host_tells_how_its_runs_ended_and_what_is_newest():
    ended = [entry(1, "claim"), entry(2, "activation"), entry(3, "outcome", status="updated")]
    left = [entry(10, "claim", 2), entry(11, "activation", 2)]
    assert worth_telling([*ended, *left], 0, 0) == [ended[2], left[0]]
    assert worth_telling([*left, *ended], 0, 1) == [ended[2], left[0], left[1]]
    assert worth_telling([*ended, *left], 0, 99) == [*ended, *left]
    assert worth_telling([], 0, 10) == []


def test_how_the_last_run_ended_is_told_however_long_ago():
    old = [entry(1, "outcome", 1, "updated"), entry(2, "outcome", 2, "rolled_back"), entry(3, "claim", 3)]
    assert worth_telling(old, NOON + 100, 0) == [old[1]]
