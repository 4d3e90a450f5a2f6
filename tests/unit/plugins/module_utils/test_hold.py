"""Hosts that their owners hold."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _hold
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError


def now(text: str) -> datetime:
    """A moment in the controller's own time."""
    return datetime.fromisoformat(text).astimezone()


@pytest.mark.parametrize("given", [None, "", {}])
def test_a_host_without_a_hold_is_not_held(given):
    assert _hold.parse(given) is None


def test_a_hold_without_an_end_has_none():
    for given in (
        "The disks are  new",
        {"reason": "The disks are new."},
        {"reason": "The disks are new", "until": None},
    ):
        hold = _hold.parse(given)
        assert hold is not None
        check = _hold.judge(hold, now("2999-01-01"))
        assert (check.name, check.status, check.message) == ("hold:inventory", "fail", "It is held: The disks are new.")


@pytest.mark.parametrize("until", ["2026-12-24", date(2026, 12, 24), datetime(2026, 12, 24)])
def test_the_day_on_which_it_ends_is_the_first_on_which_it_is_not_held(until):
    hold = _hold.parse({"reason": "Holidays", "until": until})
    assert hold is not None
    assert _hold.judge(hold, now("2026-12-23T23:59:59")).message == "It is held until 2026-12-24: Holidays."
    assert _hold.judge(hold, now("2026-12-24T00:00:00")).status == "ok"


@pytest.mark.parametrize(
    "until", ["2026-12-24T18:00:00Z", "2026-12-24 18:00+00:00", datetime(2026, 12, 24, 18, tzinfo=UTC)]
)
def test_a_time_counts_where_there_is_one(until):
    hold = _hold.parse({"reason": "Holidays", "until": until})
    assert hold is not None
    assert _hold.judge(hold, datetime(2026, 12, 24, 17, 59, tzinfo=UTC)).status == "fail"
    assert _hold.judge(hold, datetime(2026, 12, 24, 18, 0, tzinfo=UTC)).status == "ok"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"until": "2026-12-24"}, "lab_hold has no reason"),
        ({"reason": "  "}, "lab_hold has no reason"),
        ({"reason": ["x"]}, "lab_hold has no reason"),
        ("  ", "lab_hold has no reason"),
        ({"reason": "x", "untill": "2026-12-24"}, "lab_hold has untill"),
        ({"reason": "x", "until": "Christmas"}, "lab_hold is until 'Christmas', which is no date"),
        ({"reason": "x", "until": "24.12.2026"}, "no date"),
        ({"reason": "x", "until": 20261224}, "no date"),
        ({"reason": "x", "until": "20261224"}, "no date"),
        ({"reason": "x", "until": ""}, "no date"),
        (True, "lab_hold is True"),
        (["x"], "lab_hold is ['x']"),
    ],
)
def test_a_hold_that_is_none_is_named_and_never_taken_for_nobodys(given, says):
    with pytest.raises(LabError) as raised:
        _hold.parse(given)
    assert says in str(raised.value)
    assert raised.value.remedy
