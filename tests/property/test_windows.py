"""Open or closed, next to looking at the clocks minute by minute, in weeks in which they change."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _windows
from hypothesis import given, settings
from hypothesis import strategies as st

# a Monday, in a week that ends with a change of the clocks; and one without
WEEKS = [
    ("Europe/Vienna", "2026-03-23"),
    ("Europe/Vienna", "2026-10-19"),
    ("America/New_York", "2026-03-02"),
    ("America/New_York", "2026-10-26"),
    ("Australia/Lord_Howe", "2026-03-30"),
    ("Australia/Lord_Howe", "2026-09-28"),
    ("Europe/Vienna", "2026-11-16"),
    ("UTC", "2026-11-16"),
]
NAMES = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAYS_BEFORE, DAYS = 3, 12

minutes = st.integers(0, 24 * 60 - 1) | st.integers(55, 200)
days = st.frozensets(st.integers(0, 6), min_size=1)
windows = st.lists(st.tuples(days | st.just(frozenset(range(7))), minutes, minutes), min_size=1, max_size=3)


@cache
def clocks(zone: str, monday: str) -> tuple[int, list[int]]:
    """When the first minute is, and what clocks show at each that follows, in minutes after the first midnight."""
    begin = int((datetime.fromisoformat(monday).replace(tzinfo=ZoneInfo(zone)) - timedelta(DAYS_BEFORE)).timestamp())
    shown = [datetime.fromtimestamp(begin + 60 * number, ZoneInfo(zone)) for number in range(DAYS * 24 * 60)]
    first = datetime.fromisoformat(monday) - timedelta(DAYS_BEFORE)
    return begin, [(one.replace(tzinfo=None) - first) // timedelta(minutes=1) for one in shown]


def by_looking(zone: str, monday: str, wanted: list[tuple[frozenset[int], int, int]]) -> list[bool]:
    _begin, shown = clocks(zone, monday)
    found = [False] * len(shown)
    first = datetime.fromisoformat(monday) - timedelta(DAYS_BEFORE)
    for number in range(-1, DAYS):
        midnight = number * 24 * 60
        for on, begin, end in wanted:
            if (first + timedelta(number)).weekday() not in on:
                continue
            opening = midnight + begin
            closing = midnight + end + (24 * 60 if end <= begin else 0)
            inside = [minute for minute, clock in enumerate(shown) if clock >= opening]
            before_its_end = [minute for minute, clock in enumerate(shown) if clock < closing]
            if inside and before_its_end:
                for minute in range(inside[0], before_its_end[-1] + 1):
                    found[minute] = True
    return found


def text(zone: str, window: tuple[frozenset[int], int, int]) -> str:
    on, begin, end = window
    named = ",".join(NAMES[day] for day in sorted(on))
    return f"{named} {begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02} {zone}".strip()


def agrees(week: tuple[str, str], wanted: list[tuple[frozenset[int], int, int]], named: str) -> None:
    zone, monday = week
    wanted = [(on, begin, end if end != begin else (end + 1) % (24 * 60)) for on, begin, end in wanted]
    begin, _shown = clocks(zone, monday)
    expected = by_looking(zone, monday, wanted)
    parsed = _windows.parse([text(named, window) for window in wanted], ZoneInfo)
    # every change of what was seen, the minutes around it, and some others
    changes = [minute for minute in range(1, len(expected)) if expected[minute] != expected[minute - 1]]
    near = {minute + step for minute in changes for step in (-1, 0)}
    looked = [minute for minute in sorted(near | set(range(0, len(expected), 397))) if minute < len(expected)]
    # beyond the edges, nobody has looked
    margin = 2 * 24 * 60
    for minute in looked:
        if margin <= minute < len(expected) - margin:
            now = begin + 60 * minute
            assert _windows.is_open(parsed, now) == expected[minute], datetime.fromtimestamp(now, ZoneInfo(zone))
            following = next((change for change in changes if change > minute), None)
            if following is not None and following < len(expected) - margin:
                change = _windows.closes(parsed, now) if expected[minute] else _windows.opens(parsed, now)
                assert change == begin + 60 * following


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(WEEKS), windows)
def test_windows_are_open_when_the_clocks_say_so(week, wanted):
    agrees(week, wanted, named=week[0])


@pytest.mark.parametrize("week", WEEKS[:6])
@settings(max_examples=5, deadline=None)
@given(wanted=windows)
def test_the_controllers_own_time_is_no_other(week, wanted):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", week[0])
        time.tzset()
        try:
            agrees(week, wanted, named="")
        finally:
            patch.undo()
            time.tzset()
