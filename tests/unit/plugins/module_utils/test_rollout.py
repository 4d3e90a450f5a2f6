"""What is kept of a rollout over nights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _rollout, _transaction
from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._rollout import Ending, Record
from ansible_collections.homelab.nixos.plugins.module_utils._state import State

STOPPED = Record("stopped", "web ended badly.", ("critical",), "5d6e7f8", "20261122T020000Z-7f3a", 1763777647)
SOAKING = Record("soaking", "dev soaks.", (), "5d6e7f8", "20261122T020000Z-7f3a", 1763777647)


def test_a_critical_stage_that_was_stopped_stays_closed_and_the_inputs_as_they_are():
    standing = _rollout.standing(STOPPED, "5d6e7f8", resume=False, soak=0)
    assert not standing.may_update
    assert list(standing.closed) == ["critical"]
    for words in ("2025-11-22 02:14:07 UTC", "20261122T020000Z-7f3a", "web ended badly.", "-e lab_resume=true"):
        assert words in standing.closed["critical"]
        assert words in standing.reason


def test_it_goes_on_when_somebody_commits_or_says_so():
    for revision, resume in (("0a1b2c3", False), ("5d6e7f8", True)):
        standing = _rollout.standing(STOPPED, revision, resume=resume, soak=0)
        assert standing == _rollout.Standing()


def test_while_a_lock_soaks_it_stays_and_no_longer_than_that_is_wanted():
    assert not _rollout.standing(SOAKING, "5d6e7f8", resume=False, soak=60).may_update
    assert _rollout.standing(SOAKING, "5d6e7f8", resume=False, soak=0).may_update
    assert not _rollout.standing(SOAKING, "5d6e7f8", resume=False, soak=60).closed


def test_a_stop_outlives_nights_in_which_nothing_happens_and_ends_with_its_reason():
    quiet = Ending("20261123T020000Z-0000", "5d6e7f8")
    kept = _rollout.ended(STOPPED, quiet, 1763864047, ["web"], [], resume=False)
    assert kept == Record(**{**vars(STOPPED), "current": {"web": 1763864047}})
    moved = Ending("20261123T020000Z-0000", "0a1b2c3")
    assert _rollout.ended(STOPPED, moved, 1763864047, [], [], resume=False).status == "done"
    assert _rollout.ended(STOPPED, quiet, 1763864047, [], [], resume=True).status == "done"


def test_a_night_that_stops_says_so_whatever_was_before():
    ending = Ending("b", "0a1b2c3", "dns ended badly.", ("critical",), {"critical": "dev soaks."})
    for before in (Record(), STOPPED, SOAKING):
        after = _rollout.ended(before, ending, 7, [], [], resume=True)
        assert (after.status, after.reason, after.stages, after.revision) == (
            "stopped",
            "dns ended badly.",
            ("critical",),
            "0a1b2c3",
        )
    waits = Ending("b", "0a1b2c3", soaking={"critical": "dev soaks."})
    assert _rollout.ended(Record(), waits, 7, [], [], resume=False).status == "soaking"


def test_hosts_are_remembered_from_their_first_night_on():
    before = Record(current={"web": 1, "laptop": 2, "gone": 3})
    after = _rollout.ended(before, Ending("b", "r"), 9, ["web", "laptop", "new"], ["web"], resume=False)
    assert after.current == {"web": 9, "laptop": 2, "new": 9, "gone": 3}


def test_what_was_written_is_what_is_read(tmp_path: Path):
    state = State(str(tmp_path))
    assert state.rollout("/etc/nixos") == Record()
    state.write_rollout("/etc/nixos", Record(**{**vars(STOPPED), "current": {"web": 9}}))
    assert state.rollout("/etc/nixos") == Record(**{**vars(STOPPED), "current": {"web": 9}})
    assert state.rollout("/srv/other") == Record()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 2}',
        _rollout.dump(STOPPED).replace('"stopped"', '"paused"'),
        _rollout.dump(STOPPED).replace('["critical"]', "[3]"),
        _rollout.dump(STOPPED).replace("{}", '{"web": "today"}'),
        _rollout.dump(STOPPED).replace('"time"', '"when"'),
        "[" * 100_000,
    ],
)
def test_a_torn_record_is_an_error_and_never_a_rollout_that_may_go_on(text: str, tmp_path: Path):
    state = State(str(tmp_path))
    Path(state.path(_rollout.file_name(os.path.realpath("/etc/nixos")))).write_text(text)
    with pytest.raises(Unreadable, match="it is not known whether the rollout of /etc/nixos was stopped"):
        state.rollout("/etc/nixos")


def test_a_second_stop_does_not_open_what_the_first_has_closed():
    ending = Ending("b", "5d6e7f8", "nas ended badly.", ("infra",))
    assert _rollout.ended(STOPPED, ending, 7, [], [], resume=False).stages == ("critical", "infra")
    assert _rollout.ended(STOPPED, ending, 7, [], [], resume=True).stages == ("infra",)


def test_a_night_of_some_hosts_does_not_end_a_soak():
    some = Ending("b", "5d6e7f8", whole=False)
    assert _rollout.ended(SOAKING, some, 7, [], [], resume=False).status == "soaking"
    assert _rollout.ended(SOAKING, Ending("b", "5d6e7f8"), 7, [], [], resume=False).status == "done"
    assert _rollout.ended(Record(), some, 7, [], [], resume=False).status == "done"


def test_a_host_that_stays_pending_has_been_well_since_its_first_night(tmp_path: Path):
    state = State(str(tmp_path))

    def night(outcome: str, now: int) -> object:
        state.write(transaction(now))
        state.close(outcome, "", now)
        return (state.last() or {}).get("pending_since")

    assert [night("pending", now) for now in (10, 20, 30)] == [10, 10, 10]
    assert night("updated", 40) is None
    assert night("pending", 50) == 50


def transaction(now: int) -> _transaction.Transaction:
    return _transaction.take(
        None,
        controller="c",
        controller_name="c",
        run_id="a",
        process=None,
        now=now,
        seconds=60,
        boot_id="b",
        dead_run=None,
    )
