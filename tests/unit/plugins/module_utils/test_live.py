"""What a run looks like while it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.homelab.nixos.plugins.module_utils import _live
from ansible_collections.homelab.nixos.plugins.module_utils._live import SURE, Host, State
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[4]
START = State(began=0.0, play="Roll out")
EVIL = "\x1b[2J\r\u202eover"


def tasks_of(found: Any) -> Iterator[dict[str, Any]]:
    for each in found if isinstance(found, list) else []:
        yield each
        for part in ("tasks", "block", "rescue", "always"):
            yield from tasks_of(each.get(part))


def tasks(*patterns: str) -> Iterator[dict[str, Any]]:
    for pattern in patterns:
        for file in sorted(ROOT.glob(pattern)):
            yield from tasks_of(yaml.safe_load(file.read_text()))


def step_of(task: dict[str, Any]) -> str:
    action = next((key for key in task if "." in key), "")
    args = task.get(action)
    return _live.step(action, args if isinstance(args, dict) else {}, task["name"], "delegate_to" in task)


# ---- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("Look at the host", "probe"),
        ("Settle what a run that ended in the middle has left", "settle"),
        ("Ask whether the host is healthy", "gate"),
        ("Update the inputs and build every system", "build"),
        ("Copy the new system to the host", "copy"),
        ("Let the host fetch its new system", "copy"),
        ("Claim the host, nobody else may change it now", "claim"),
        ("Ask again whether the host is healthy", "gate"),
        ("Activate the new system, and leave the boot default alone", "activate"),
        ("Verify the host with its new system", "verify"),
        ("Make the new system the boot default, unless its boot can be tried first", "commit"),
        ("Let the next boot, and no other, start the new system", "commit"),
        ("Reboot into the new system", "reboot"),
        ("Verify the host after its reboot", "verify"),
        ("Prove what the host runs and would boot", "verify"),
        ("Return to the system it came from", "rollback"),
        ("Verify the host with its old system", "verify"),
        ("Ask others whether it is the controller that sees nobody", "witness"),
        ("Release the host, and let it remember how this ended", "release"),
        ("Tell the host how its night ended, and count those in which it was left alone", "note"),
        ("Wait until the host answers, before the next batch begins", "wait"),
        ("Show how the night went", ""),
        ("Judge what is known of this host so far", ""),
    ],
)
def test_each_task_of_a_night_is_a_step(name: str, step: str):
    found = [step_of(task) for task in tasks("roles/update/tasks/*.yml") if task.get("name") == name]
    assert found and set(found) == {step}


def test_no_task_of_a_night_is_shown_by_its_name():
    named = [task for task in tasks("roles/update/tasks/*.yml") if any("." in key for key in task)]
    assert len(named) > 60
    assert [task["name"] for task in named if " " in step_of(task)] == []


def test_another_task_is_shown_by_its_name():
    assert _live.step("ansible.builtin.apt", {}, f"Install {EVIL}") == "Install \ufffd[2J\ufffd\ufffdover"


def test_the_tasks_that_sum_up_are_those_of_the_playbooks():
    shown = {task.get("name") for task in tasks("playbooks/*.yml", "roles/*/tasks/*.yml")}
    assert set(_live.SUMMARIES) <= shown


# ---- what happens ----------------------------------------------------------------------------------------------------


def test_a_step_is_shown_once_it_is_known_not_to_be_skipped():
    state = _live.begun(START, "web", "reboot", 10)
    assert _live.news(START, _live.believed(state, 10 + SURE / 2)) == []
    assert _live.news(START, _live.believed(state, 10 + SURE)) == [(10, "web", "reboot")]
    assert _live.news(START, _live.ended(state, "web", False, 11)) == [(10, "web", "reboot")]
    assert _live.news(START, _live.confirmed(state, "web")) == [(10, "web", "reboot")]
    assert _live.news(START, _live.believed(_live.ended(state, "web", True, 11), 20)) == []


def test_a_step_of_several_tasks_is_one_that_began_with_the_first():
    state = _live.ended(_live.begun(START, "web", "gate", 10), "web", False, 12)
    later = _live.ended(_live.begun(state, "web", "gate", 13), "web", False, 14)
    assert (later.hosts["web"].step, later.hosts["web"].since) == ("gate", 10)
    assert _live.news(state, later) == []


def test_a_task_that_is_no_step_changes_none():
    state = _live.ended(_live.begun(START, "web", "gate", 10), "web", False, 12)
    assert _live.ended(_live.begun(state, "web", "", 13), "web", False, 14).hosts["web"] == state.hosts["web"]


def test_what_runs_once_is_nobodys():
    state = _live.ended(_live.begun(START, "", "build", 10), "", False, 90)
    assert state.hosts == {}
    assert _live.news(START, state) == [(10, "", "build")]


def test_a_play_in_batches_counts_them():
    state = _live.opened(START, "Update", False, True)
    assert (state.play, state.batch) == ("Update", 1)
    assert _live.opened(state, "Update", False, True).batch == 2
    assert _live.opened(state, "Close", False, False).batch == 0


@pytest.mark.parametrize(
    ("night", "word"),
    [
        ({"outcome": "updated", "ended": True, "decided": True, "began": True}, "updated"),
        ({"outcome": "failed", "ended": True, "decided": False, "began": True}, "failed"),
        ({"outcome": "deferred", "ended": True, "decided": True, "began": False}, "deferred"),
        # its turn is still to come
        ({"outcome": "held", "ended": True, "decided": False, "began": False}, ""),
        ({"outcome": "lost", "ended": False, "decided": False, "began": False}, ""),
        ("nonsense", ""),
    ],
)
def test_an_outcome_is_shown_when_it_is_the_last_word(night: Any, word: str):
    assert _live.outcome({"lab_night": night})[0] == word


def test_a_host_that_nothing_was_done_with_has_no_part_in_the_night():
    # as the one that builds and is not updated itself
    state = _live.judged(
        _live.ended(_live.begun(START, "builder", "probe", 1), "builder", True, 2), "builder", "unreachable"
    )
    assert state.hosts["builder"].outcome == ""
    assert len(drawn(state)) == 1
    assert _live.judged(replace(state, hosts={"web": Host("probe")}), "web", "unreachable").hosts["web"].outcome


# ---- sentences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"msg": "It broke."}, "It broke."),
        ({"msg": ["one", 2]}, "one\n2"),
        ({"msg": "non-zero return code", "stderr": "why\n", "stdout": "more"}, "non-zero return code\nwhy\nmore"),
        ({"msg": "said: why", "module_stderr": "why"}, "said: why"),
        ({"censored": "hidden"}, "hidden"),
        ({"msg": EVIL}, "\ufffd[2J \ufffdover"),
        ({"rc": 1}, ""),
    ],
)
def test_a_failure_has_a_sentence(result: dict[str, Any], said: str):
    assert _live.sentence(result) == said


def test_further_lines_are_indented():
    assert _live.paragraph("web", "one\ntwo\x07") == "web: one\n  two\ufffd"
    assert _live.paragraph("web\n", "") == "web\ufffd: "


def test_texts_in_data_are_cleaned_wherever_they_are():
    assert _live.clean({"a\x1b": ["\x07", {"b": "\x1b"}, 3]}) == {"a\ufffd": ["\ufffd", {"b": "\ufffd"}, 3]}


def test_the_end_tells_who_failed_and_why():
    well = {"failures": 0, "unreachable": 0, "changed": 0}
    counted = {
        "dev": well,
        "nas": well | {"changed": 3},
        "web": well | {"failures": 1},
        "dns": well | {"unreachable": 1, "failures": 1},
    }
    # dev was rescued
    assert _live.recap(counted, {"web": "web: it broke", "dev": "dev: it broke"}) == [
        "web: it broke",
        "dns: unreachable",
        "Hosts: 1 well, 1 changed, 1 failed, 1 unreachable.",
    ]
    assert _live.recap(counted, {}, {"web", "dns"}) == ["Hosts: 1 well, 1 changed, 1 failed, 1 unreachable."]
    assert _live.recap({}, {}) == []


# ---- lines -----------------------------------------------------------------------------------------------------------


def drawn(state: State, width: int = 80, height: int = 22, now: float = 100) -> list[str]:
    return [line.text for line in _live.lines(state, width, height, now)]


def test_every_host_has_a_line_with_its_step_and_how_long_it_has_been_in_it():
    hosts = {
        "web": Host("activate", 58),
        "nas": Host("gate", 10, idle=90),
        "dns": Host("verify", 10, idle=90, outcome="rolled_back"),
        "dev": Host("gate", 10, "reboot", 100 - SURE),
    }
    state = replace(START, hosts=hosts, batch=2, batches=3, once=Host("build", 40), dry_run=True)
    assert drawn(state) == [
        "Roll out (dry run) · batch 2 of 3 · build 1:00 · 1:40",
        "web  activate     0:42",
        "nas  waits        0:10",
        "dns  rolled_back",
        "dev  reboot       0:02",
    ]
    assert [line.kind for line in _live.lines(state, 80, 22, 100)] == ["title", "busy", "idle", "bad", "busy"]


def test_a_pause_between_two_tasks_is_no_waiting():
    state = replace(START, hosts={"web": Host("gate", 90, idle=100 - SURE / 2)})
    assert drawn(state)[1] == "web  gate  0:10"


def test_where_not_all_have_room_the_busy_and_the_bad_are_shown_and_the_others_counted():
    hosts = {f"h{at:02}": Host("verify", 5, outcome="updated") for at in range(60)}
    hosts |= {"h07": Host("activate", 90), "h50": Host("reboot", 90), "h33": Host(outcome="lost")}
    shown = drawn(replace(START, hosts=hosts), height=5)
    assert [line.split()[:2] for line in shown[1:4]] == [["h07", "activate"], ["h33", "lost"], ["h50", "reboot"]]
    assert shown[4] == "and 57 others: 57 updated"
    assert drawn(replace(START, hosts=hosts), height=2)[1].startswith("60 others: 57 updated, ")
    assert len(drawn(replace(START, hosts=hosts), height=1)) == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (61.9, "1:01"), (3600, "1:00:00"), (90061, "25:01:01"), (-5, "0:00")]
)
def test_times_are_told_in_minutes_and_hours(seconds: float, text: str):
    assert _live.duration(seconds) == text


def test_a_terminal_that_became_narrower_has_wrapped_what_was_drawn():
    assert _live.rows_taken([40, 10, 0, 41], 40) == 5
    assert _live.rows_taken([40], 15) == 3
    assert _live.rows_taken([], 40) == 0


def test_wide_and_combining_letters_are_counted_as_they_are_shown():
    assert _live.columns("日本") == 4
    assert _live.columns("e\u0301") == 1
    assert _live.clipped("日本語", 5) == "日本…"
    assert _live.clipped("日本語", 4) == "日…"


@given(
    st.dictionaries(st.text(max_size=8), st.sampled_from([Host("gate", 1), Host(outcome=EVIL), Host("日" * 20, 2)])),
    st.integers(1, 60),
    st.integers(1, 12),
)
def test_no_line_is_ever_too_wide_and_never_are_there_too_many(hosts: dict[str, Host], width: int, height: int):
    lines = drawn(replace(START, hosts=hosts), width, height)
    assert 1 <= len(lines) <= height
    assert all(_live.columns(line) < width for line in lines)
    assert all(letter.isprintable() for line in lines for letter in line)
