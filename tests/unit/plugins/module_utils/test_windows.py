"""When windows are open, on days on which the clocks change, too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _windows
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError

VIENNA = "Europe/Vienna"


def parse(given: object) -> tuple[_windows.Window, ...]:
    return _windows.parse(given, ZoneInfo)


def at(text: str, zone: str = VIENNA, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def is_open(window: object, text: str, zone: str = VIENNA, fold: int = 0) -> bool:
    return _windows.is_open(parse(window), at(text, zone, fold))


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_without_a_window_it_is_always_open():
    assert parse(None) == parse("") == parse([]) == ()
    assert _windows.is_open((), 0)
    assert _windows.closes((), 0) is None
    assert _windows.opens((), 0) is None


def test_a_window_is_open_from_its_begin_until_just_before_its_end():
    window = "09:00-17:00 Europe/Vienna"
    assert [is_open(window, f"2026-11-24T{time}") for time in ("08:59:59", "09:00", "16:59:59", "17:00")] == [
        *(False, True, True, False)
    ]


def test_a_window_past_midnight_belongs_to_the_day_on_which_it_opens():
    window = "Fri 23:00-05:30 Europe/Vienna"
    # the 27th is a Friday
    assert not is_open(window, "2026-11-27T01:00")
    assert is_open(window, "2026-11-27T23:00")
    assert is_open(window, "2026-11-28T05:29")
    assert not is_open(window, "2026-11-28T05:30")
    assert not is_open(window, "2026-11-28T23:30")


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ("Mon..Fri", "01234"),
        ("Sat,Sun", "56"),
        ("sat, SUN", "56"),
        ("Fri..Mon", "0456"),
        ("Wednesday", "2"),
        ("Mon,Wed..Thu", "023"),
        ("Tue..Tue", "1"),
    ],
)
def test_days_are_named_one_by_one_or_from_one_to_another(days, expected):
    (window,) = parse(f"{days} 01:00-02:00")
    assert sorted(window.days) == [int(day) for day in expected]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("22:00", "'22:00', which is no window"),
        ("22-06", "which is no window"),
        ("Foo 22:00-06:00", "the day 'Foo'"),
        ("Mon.. 22:00-06:00", "the day ''"),
        ("22:60-06:00", "the time 22:60"),
        ("22:00-24:01", "the time 24:01"),
        ("24:00-06:00", "no day begins at 24:00"),
        ("06:00-06:00", "it ends when it begins. Write 00:00-24:00 for the whole day."),
        (1320, "1320, which is no window"),
        (["22:00-06:00", None], "None, which is no window"),
        ({"begin": "22:00"}, "which is no window"),
    ],
)
def test_what_is_no_window_is_named_with_its_setting_and_a_remedy(given, says):
    with pytest.raises(LabError) as raised:
        _windows.parse(given, ZoneInfo, "lab_window")
    assert str(raised.value).startswith("lab_window has ")
    assert says in str(raised.value)
    assert raised.value.remedy


def test_a_zone_that_nobody_knows_is_named_with_its_window():
    def zone(name: str) -> ZoneInfo:
        raise LabError(f"No zone {name}.", "Correct it.")

    with pytest.raises(LabError, match=r"^lab_window has '01:00-02:00 Mars': No zone Mars\. Correct it\.$"):
        _windows.parse("01:00-02:00 Mars", zone)


def test_a_begin_that_the_clocks_leave_out_is_the_first_time_after_it():
    window = "02:30-05:00 Europe/Vienna"
    # at 02:00 it becomes 03:00
    assert not is_open(window, "2026-03-29T01:59:59")
    assert is_open(window, "2026-03-29T03:00")
    assert _windows.opens(parse(window), at("2026-03-29T00:00")) == at("2026-03-29T03:00")


def test_an_end_that_the_clocks_leave_out_is_the_first_time_after_it():
    windows = parse("23:00-02:30 Europe/Vienna")
    assert _windows.closes(windows, at("2026-03-29T01:00")) == at("2026-03-29T03:00")


def test_a_window_that_the_clocks_leave_out_does_not_open_that_day():
    windows = parse("02:10-02:50 Europe/Vienna")
    assert _windows.opens(windows, at("2026-03-29T00:00")) == at("2026-03-30T02:10")


def test_of_an_hour_that_comes_twice_both_are_inside():
    window = "22:00-02:30 Europe/Vienna"
    assert [is_open(window, f"2026-10-25T{time}", fold=fold) for time, fold in (("02:45", 0), ("02:29", 1))] == [
        *(True, True)
    ]
    assert not is_open(window, "2026-10-25T02:30", fold=1)
    window = "02:30-05:00 Europe/Vienna"
    assert is_open(window, "2026-10-25T02:30", fold=0)
    assert is_open(window, "2026-10-25T02:10", fold=1)


def test_a_window_that_ends_where_an_hour_begins_to_come_twice_ends_the_first_time():
    windows = parse("22:00-02:00 Europe/Vienna")
    assert _windows.closes(windows, at("2026-10-25T01:00")) == at("2026-10-25T02:00", fold=0)


def test_clocks_that_are_put_back_by_half_an_hour_are_understood():
    zone = "Australia/Lord_Howe"
    window = f"01:45-03:00 {zone}"
    # at 02:00 it becomes 01:30
    assert is_open(window, "2026-04-05T01:40", zone, fold=1)
    assert not is_open(window, "2026-04-05T01:40", zone, fold=0)


def test_windows_that_touch_or_overlap_close_together():
    windows = parse(["22:00-02:00 UTC", "02:00-04:00 UTC", "Wed 03:30-05:00 UTC", "06:00-07:00 UTC"])
    assert _windows.closes(windows, at("2026-11-24T23:00", "UTC")) == at("2026-11-25T05:00", "UTC")
    assert _windows.closes(windows, at("2026-11-25T23:00", "UTC")) == at("2026-11-26T04:00", "UTC")


def test_windows_that_leave_no_time_out_never_close():
    for windows in (parse("00:00-24:00 Europe/Vienna"), parse(["20:00-08:00", "08:00-20:00"])):
        for day in ("2026-03-28", "2026-10-24", "2026-11-24"):
            assert _windows.closes(windows, at(f"{day}T12:00")) is None
            assert _windows.opens(windows, at(f"{day}T12:00")) is None


def test_while_none_is_open_it_closes_when_the_next_one_does():
    windows = parse(["22:00-06:00 UTC", "06:00-06:30 UTC"])
    now = at("2026-11-24T21:00", "UTC")
    assert _windows.opens(windows, now) == at("2026-11-24T22:00", "UTC")
    assert _windows.closes(windows, now) == at("2026-11-25T06:30", "UTC")


def test_a_window_without_a_zone_is_in_the_controllers(in_new_york):
    windows = parse("Mon..Fri 02:30-05:00")
    assert _windows.is_open(windows, at("2026-11-24T03:00", "America/New_York"))
    assert not _windows.is_open(windows, at("2026-11-24T03:00", "UTC"))
    # its clocks leave 02:00 to 03:00 out on a Sunday
    windows = parse("02:30-05:00")
    assert _windows.opens(windows, at("2026-03-08T00:00", "America/New_York")) == at(
        "2026-03-08T03:00", "America/New_York"
    )
    assert _windows.is_open(windows, at("2026-11-01T02:30", "America/New_York"))


def test_moments_are_told_in_the_controllers_time(in_new_york):
    assert _windows.told(at("2026-11-24T23:00", "UTC")) == "Tue 2026-11-24 18:00 EST"
