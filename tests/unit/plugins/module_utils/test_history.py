"""How the nights went, told from what several machines have written."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _history
from ansible_collections.homelab.nixos.plugins.module_utils._entries import Entry
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError

NOW = 1795608000
DAY = 86400


def entry(
    run: str, days: float, host: str, operation: str, status: str = "begun", seq: int = 1, **details: Any
) -> Entry:
    return Entry(run, seq, NOW - days * DAY, host, operation, status, None, details)


def whole(run: str, days: float, outcomes: dict[str, str], seconds: float | None = 60, **details: Any) -> Entry:
    """The record of a whole night."""
    told = {"failed": False, "dry_run": False, "outcomes": outcomes, **details}
    return Entry(run, 1, NOW - days * DAY, "", "night", "good", seconds, told)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("12h", 12 * 3600), ("30d", 30 * DAY), ("4w", 28 * DAY), (" 1d ", DAY), ("1h", 3600)],
)
def test_a_period_ends_now(given: str, seconds: int):
    assert _history.since(given, NOW) == NOW - seconds


@pytest.mark.parametrize("given", ["2026-11-01", datetime.date(2026, 11, 1)])
def test_a_day_begins_where_the_controller_is(given: object):
    assert _history.since(given, NOW) == datetime.datetime(2026, 11, 1).astimezone().timestamp()


@pytest.mark.parametrize(
    "given",
    [
        *("", "30", "d", "0d", "-1d", "30 d", "30m", "1e3d", "999999w", "\u0663d", "30d\n1d", "x" * 10_000),
        *("2026-13-01", "20261101", "2026-W44-1", "2027-01-01", "1969-01-01", "0001-01-01", None, 30, [], {}),
    ],
)
def test_what_is_no_time_is_refused_by_its_name(given: object):
    with pytest.raises(LabError, match=r"^lab_since is .{1,80}, which is no time .* Write it as 12h, 30d") as refused:
        _history.since(given, NOW)
    assert str(refused.value).isprintable()


def test_a_record_that_comes_twice_counts_once_and_of_two_of_a_night_the_first():
    mine = whole("a", 1, {"web": "updated"})
    same = whole("a", 1, {"web": "lost"})
    own = entry("a", 1.1, "web", "outcome", "updated", seq=4)
    assert _history.merged([mine, own], [own, same], [own]) == [own, mine]


def test_a_night_with_its_record_is_believed():
    records = [entry("a", 1, "web", "claim"), whole("a", 0.9, {"web": "lost"}, failed=True)]
    told = _history.statistics(records, 0, {})
    assert (told["nights"], told["good"], told["success_rate"], told["median_seconds"]) == (1, 0, 0.0, 60)
    assert _history.ends(records)["web"].word == "lost"
    # one that does not say so did not go well
    assert _history.statistics([whole("a", 1, {}, failed=None)], 0, {})["good"] == 0


@pytest.mark.parametrize(
    ("written", "good"),
    [
        ([("web", "claim", "begun"), ("web", "outcome", "updated")], True),
        ([("web", "outcome", "unchanged")], True),
        ([("web", "claim", "begun"), ("web", "activation", "begun")], False),
        ([("web", "claim", "begun"), ("web", "outcome", "updated"), ("nas", "claim", "begun")], False),
        ([("web", "claim", "begun"), ("web", "outcome", "rolled_back")], False),
    ],
)
def test_a_night_without_its_record_is_told_from_its_hosts(written: list[tuple[str, str, str]], good: bool):
    records = [entry("a", 1, *each, seq=number) for number, each in enumerate(written)]
    told = _history.statistics(records, 0, {})
    assert (told["nights"], told["good"]) == (1, int(good))
    assert told["median_seconds"] is None
    # nobody knows yet how one will end that goes on
    assert _history.statistics(records, 0, {}, ["a"])["nights"] == 0


def test_a_dry_run_is_no_night():
    records = [whole("a", 2, {"web": "updated"}), whole("b", 1, {"web": "unchanged"}, dry_run=True)]
    told = _history.statistics(records, 0, {})
    assert (told["nights"], told["dry_runs"]) == (1, 1)
    assert _history.ends(records)["web"].run_id == "a"


def test_reboots_and_reasons_are_counted_by_host_and_night():
    full = "/: 93% of its space in use, the limit is 90%."
    records = [
        whole("a", 3, {"web": "updated", "nas": "deferred"}, rebooted=["web"], reasons={"nas": full}),
        entry("a", 3, "web", "outcome", "updated", rebooted=True),
        entry("b", 2, "dns", "outcome", "updated", rebooted=True),
        whole(
            "c",
            1,
            {"nas": "deferred", "web": "deferred"},
            seconds=30,
            reasons={"nas": full, "web": "alice is logged in."},
        ),
        whole("d", 1, {"web": "deferred"}, seconds=None, reasons={"web": "\x1b[2J"}),
    ]
    told = _history.statistics(records, 0, {"nas": 20})
    assert told["reboots"] == 2
    assert told["deferrals"] == {"disk": 2, "sessions": 1, "other": 1}
    assert told["median_seconds"] == 45
    assert told["stale"] == {"nas": 20}
    assert _history.statistics(records, NOW - 2.5 * DAY, {})["nights"] == 3


def test_how_it_ended_for_a_host_is_what_was_told_last():
    records = _history.merged(
        [
            entry("a", 3, "web", "outcome", "updated", seq=9),
            whole("b", 2, {"web": "unreachable", "nas": "pending"}, reasons={"web": "No route to host."}),
            entry("b", 2.01, "nas", "outcome", "pending", reason="It reboots when the night has closed."),
            # its own controller, which came back after it had closed the night
            entry("b", 1.9, "nas", "outcome", "updated"),
        ]
    )
    ends = _history.ends(records)
    assert (ends["web"].word, ends["web"].reason) == ("unreachable", "No route to host.")
    assert (ends["nas"].word, ends["nas"].run_id) == ("updated", "b")
    assert _history.last_right(records) == {"web": NOW - 3 * DAY, "nas": NOW - 1.9 * DAY}


def test_the_age_of_an_input_is_that_of_the_night_that_moved_it_last():
    records = [
        whole("a", 3, {}, inputs=[{"path": "nixpkgs", "last_modified": 5}, {"path": "tools", "last_modified": 6}]),
        whole("b", 2, {}, inputs=[{"path": "nixpkgs", "last_modified": 7}]),
        whole("c", 1, {}, dry_run=True, inputs=[{"path": "nixpkgs", "last_modified": 8}]),
        whole("d", 1, {}, inputs=[{"path": "tools", "last_modified": 10**12}, {"path": 7}, "x", None]),
        whole("e", 1, {}, inputs="nixpkgs"),
    ]
    assert _history.inputs(records, NOW) == {"nixpkgs": 7, "tools": 6}


@pytest.mark.parametrize("value", [None, 7, "x", [], ["web"], {"web": None}, {"web": []}, {None: "x"}, [[]], [{}]])
def test_details_of_any_shape_are_no_end(value: Any):
    records = [
        whole("a", 1, value, reasons=value, rebooted=value, inputs=value, failure=value),
        whole("b", 1, {"web": "deferred"}, reasons=value, rebooted=value),
        entry("c", 1, "web", "outcome", "deferred", reason=value, rebooted=value),
        entry("d", 1, "web", "outcome", "no_such_word"),
    ]
    assert _history.statistics(records, 0, {})["nights"] == 4
    assert _history.ends(records)["web"].word == "deferred"
    _history.inputs(records, NOW)
