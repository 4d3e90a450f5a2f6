"""Whatever hosts say and logs hold: the table fits and is harmless, and what is counted adds up."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _history, _status
from ansible_collections.homelab.nixos.plugins.module_utils._entries import Entry, records
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import BAD
from ansible_collections.homelab.nixos.plugins.module_utils._status import Controller, Wanted
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.test_entries import record
from tests.unit.plugins.module_utils.test_history import DAY, NOW
from tests.unit.plugins.module_utils.test_status import look

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
LOOKS = st.dictionaries(st.sampled_from(sorted(look())), VALUES, max_size=3)
FIELDS = st.dictionaries(st.sampled_from(sorted(record())), VALUES, max_size=2)
DETAILS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("failed", "dry_run", "reasons", "rebooted", "inputs", "reason", "failure"), VALUES),
        "outcomes": st.dictionaries(st.sampled_from(["web", "nas"]), st.sampled_from(_history.WORDS) | VALUES),
    },
)
ENTRIES = st.lists(
    st.builds(
        Entry,
        run_id=st.sampled_from(["", "a", "b", "c"]),
        seq=st.integers(0, 9),
        time=st.integers(0, 40 * DAY).map(lambda seconds: NOW - seconds),
        host=st.sampled_from(["web", "nas"]),
        operation=st.sampled_from(["claim", "activation", "outcome", "night"]),
        status=st.sampled_from([*_history.WORDS, "begun", "good"]),
        seconds=st.none() | st.floats(0, 1e6),
        details=DETAILS,
    ),
    max_size=6,
)


@settings(deadline=None)
@given(LOOKS, LOOKS, ENTRIES)
def test_no_host_breaks_what_is_shown_of_the_others(web: dict[str, Any], builder: dict[str, Any], own: list[Entry]):
    hosts = {"web": Wanted(), "nas": Wanted()}
    looks = {"web": {**look(), **web}, "nas": look(), "builder": {**look(), **builder}}
    told = _status.status(hosts, looks, "builder", Controller(records=own), NOW, NOW - 30 * DAY)
    lines = _status.table(told).split("\n")
    assert all(line.isprintable() and len(line) <= 110 for line in lines)
    assert {line.split()[0] for line in lines if line.startswith(("web ", "nas "))} == {"web", "nas"}
    json.loads(json.dumps(told))


@settings(deadline=None)
@given(st.lists(VALUES | FIELDS.map(lambda change: record(**change)) | st.text() | VALUES.map(json.dumps)))
def test_every_line_is_a_record_or_counted(lines: list[Any]):
    found, skipped = records(lines)
    blank = sum(isinstance(line, str) and not line.strip() for line in lines)
    assert len(found) + skipped + blank == len(lines)
    # what was read is read again
    assert records([one.as_result() for one in found]) == (found, 0)


@settings(deadline=None)
@given(ENTRIES)
def test_what_is_told_of_the_nights_adds_up(own: list[Entry]):
    merged = _history.merged(own, own[::-1])
    assert len(merged) <= len(own)
    told = _history.statistics(merged, 0, {})
    assert 0 <= told["good"] <= told["nights"]
    assert told["nights"] + told["dry_runs"] == len(
        {one.run_id for one in merged if one.run_id} & _history.nights(merged).keys()
    )
    for night in _history.nights(merged).values():
        if night.whole is None and set(night.outcomes.values()) & BAD:
            assert not night.good
