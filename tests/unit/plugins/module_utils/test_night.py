"""A night, read from its result."""

from __future__ import annotations

import datetime
import json
import shlex
from typing import Any, get_args

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible_collections.homelab.nixos.plugins.module_utils import _artifacts, _night
from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import BAD, Word

from tests import nights
from tests.unit.plugins.module_utils.test_artifacts import NIGHTS, PREPARE


def of(*words: str, **change: Any) -> _night.Night:
    return _night.read(
        nights.night({f"h{place}": nights.host(f"h{place}", word) for place, word in enumerate(words)}, **change)
    )


def test_it_reads_what_the_artifacts_of_a_night_are():
    made = _artifacts.artifacts(
        NIGHTS, PREPARE, run_id="20261122T020000Z-7f3a", began=1, seconds=72.4, dry_run=False, failure="Ended badly."
    )
    night = _night.read(json.loads(json.dumps(made)))
    assert [host.name for host in night.hosts] == ["dev", "dns", "nas", "web"]
    assert (night.verdict, night.seconds, night.hosts[3].rebooted) == ("bad", 72.4, True)
    assert _night.packages(night) == {"hello 1.0 → 1.1": ["web"]}
    assert _night.change(night.hosts[3]) == "web-26.05.1 6gdlyhm → web-26.05.2 xnpa2vc"
    assert _night.took(night.hosts[3].spans, night.hosts[3].durations) == "copy 3.4 s, verification 2.0 s"


@pytest.mark.parametrize("word", get_args(Word))
def test_the_verdict_is_the_worst_of_what_the_hosts_say(word: Word):
    wanted = "bad" if word in BAD else "good" if word in ("updated", "unchanged") else "mixed"
    assert of("updated", word, failed=False).verdict == wanted


def test_a_run_that_failed_or_does_not_say_that_it_did_not_is_bad():
    assert of("unchanged", failed=True).verdict == "bad"
    assert of("unchanged", failed=None).verdict == "bad"
    assert of("unchanged", failed=0).verdict == "bad"
    assert of().verdict == "mixed"


def test_a_laptop_that_is_off_makes_no_night_worse_and_is_mentioned():
    result = nights.night({"web": nights.host("web", "updated"), "laptop": nights.host("laptop", "unreachable")})
    night = _night.read(result, optional=["laptop"])
    assert (night.verdict, _night.left_to_do(night)) == ("good", [])
    assert _night.headline(night) == "All that answered run what they should, 1 of 2 hosts. Off: laptop."
    assert _night.read(result).verdict == "mixed"


@pytest.mark.parametrize(
    ("night", "headline"),
    [
        (of("unchanged"), "The host runs what it should."),
        (of("updated", "unchanged"), "All 2 hosts run what they should."),
        (of("updated", "lost"), "1 of 2 hosts ended badly: h1 lost."),
        (of("held", "pending"), "No host ended badly, and 2 of 2 hosts are left to do: h0 held, h1 pending."),
        (of("held", "updated"), "No host ended badly, and 1 of 2 hosts is left to do: h0 held."),
        (of("held", failed=True, failure="Nothing could be\nprepared."), "Nothing could be�prepared."),
        (of("held", failed=True, failure=""), "The run failed, and did not say why."),
        (of("unchanged", dry_run=True), "Nothing was changed on 1 host."),
        (of(), "No host took part."),
        (of(*["lost"] * 4), "4 of 4 hosts ended badly: h0 lost, h1 lost, h2 lost, h3 lost."),
        (of(*["lost"] * 5), "5 of 5 hosts ended badly: h0 lost, h1 lost, h2 lost and 2 more."),
    ],
)
def test_the_headline_says_the_worst_there_is(night: _night.Night, headline: str):
    assert _night.headline(night) == headline


def test_the_subject_says_the_verdict_first_and_is_one_line():
    assert _night.subject(of("updated", "updated", "unchanged"), "home") == (
        "[home] Good night of 2026-11-22: 2 updated, 1 unchanged"
    )
    assert _night.subject(of("updated", "lost")) == "Bad night of 2026-11-22: h1 lost; 1 updated"
    assert _night.subject(of("pending")) == "Mixed night of 2026-11-22: 1 pending"
    assert _night.subject(of("held", failed=True, failure="Nothing was built.")).endswith(": Nothing was built.")
    assert _night.subject(of("unchanged", dry_run=True)) == "Good dry run of 2026-11-22: 1 unchanged"
    east = datetime.timezone(datetime.timedelta(hours=-3))
    assert _night.subject(of("pending"), zone=east) == "Mixed night of 2026-11-21: 1 pending"
    host = {"a\r\nBcc: all@example.org": nights.host("x", "lost")}
    assert not set("\r\n") & set(_night.subject(_night.read(nights.night(host)), "home\n"))


@pytest.mark.parametrize("word", get_args(Word))
def test_each_outcome_that_wants_something_has_a_command_for_that_host_and_no_other_has(word: Word):
    night = of(word)
    told = _night.commands(night.hosts, night)
    assert bool(told) == (word not in ("updated", "unchanged"))
    for command in told:
        argv = shlex.split(command.line)
        if command.host:
            assert (command.host, argv[0]) == ("h0", "journalctl")
        else:
            assert argv[0] == "ansible-playbook"
            assert (nights.ROOT / argv[1]).exists()
            assert argv[2:4] == ["--limit", "h0"]


def test_the_next_command_is_the_one_that_the_outcome_asks_for():
    def first(word: str) -> str:
        night = of(word)
        return _night.commands(night.hosts, night, "lab-auto-update {}")[0].line

    assert first("rollback_failed") == "lab-auto-update rollback --limit h0"
    assert first("lost") == "lab-auto-update health --limit h0"
    assert first("rolled_back") == "journalctl --unit='lab-auto-update-*' --since=@1795312800 --no-pager"
    assert first("failed") == "lab-auto-update nightly --limit h0"


def test_a_run_that_failed_without_a_bad_host_has_a_command_of_its_own():
    assert [command.line for command in _night.of_the_run(of("held", failed=True))] == [
        "ansible-playbook playbooks/nightly.yml"
    ]
    assert _night.of_the_run(of("lost")) == []
    assert _night.of_the_run(of("held")) == []


@pytest.mark.parametrize(
    "name",
    [
        "web",
        "web.example.org",
        "::1",
        "-x",
        "a,b",
        "a b",
        "!web",
        "&web",
        "~w.*",
        "@/etc/passwd",
        "w[1:3]",
        "a'b$(id)`",
        "é→",
        "\n",
    ],
)
def test_a_limit_is_this_host_for_ansible_and_one_word_for_the_shell(name: str):
    inventory = InventoryManager(DataLoader(), sources=["localhost,"])
    for each in {name, "web2", "b", f"{name}x", f"x{name}"}:
        inventory.add_host(each)
    inventory.reconcile_inventory()
    [word] = shlex.split(_night.limit([name]))
    assert not word.startswith(("-", "@"))
    inventory.subset(word)
    assert [host.name for host in inventory.list_hosts("all")] == [name]


def test_hosts_that_are_left_for_one_reason_are_told_together():
    told = _night.left_to_do(of("held", "updated", "held", "pending"))
    assert [[host.name for host in hosts] for hosts in told] == [["h0", "h2"], ["h3"]]
    night = of("held", "held")
    assert _night.commands(night.hosts, night)[0].line.endswith("--limit h0,h1 --check --diff")


def test_what_a_host_was_to_get_is_not_told_as_changed():
    night = of("updated", "rolled_back")
    assert set(_night.packages(night)["hello 1.0 → 1.1"]) == {"h0"}
    bad = night.hosts[0]
    assert _night.tried(bad).startswith("It was to get: hello 1.0 → 1.1;")
    assert (_night.closure(bad, night), _night.closure(night.hosts[1], night)) == ("", "+12.6 MiB")


def test_of_a_host_that_is_away_nobody_says_what_it_runs_now():
    lost, gone, held = of("lost", "unreachable", "held").hosts
    assert _night.change(lost) == "last seen on h0-26.05.1 6gdlyhm"
    assert _night.change(gone) == "not seen"
    assert _night.change(held) == "still h2-26.05.1 6gdlyhm"


def test_the_trend_counts_this_night_and_no_dry_run_and_says_what_it_cannot_read():
    former = [
        nights.night({"web": nights.host("web", "updated")}, 4),
        {**nights.night({"web": nights.host("web", "updated")}, 3), "dry_run": True},
        {**nights.night({"web": nights.host("web", "lost")}, 2), "version": 2},
        nights.night({"web": nights.host("web", "lost")}, 1),
    ]
    tonight = _night.read(nights.night({"web": nights.host("web", "failed")}))
    again = nights.night({"web": nights.host("web", "failed")})
    trend = _night.trend(tonight, [*former, again])
    assert [night.run_id[-1] for night in trend.nights] == ["0", "1", "4"]
    assert (trend.good, trend.reboots, trend.streak("web"), trend.streak("nas")) == (1, 2, 2, 0)
    assert trend.missing == (
        "A night is missing here: The result of a night has version 2, and only version 1 is understood.",
    )
    assert len(trend.newest(2).nights) == 2


def test_of_many_results_that_cannot_be_read_some_are_told_and_all_are_counted():
    missing = _night.read_all([{"version": number} for number in range(2, 12)] + [[]])[1]  # type: ignore[list-item]
    assert missing[0] == "A night is missing here: The result of a night is [], which is no mapping."
    assert len(missing) == 4
    assert missing[3] == "And 8 more."


@pytest.mark.parametrize(
    "change",
    [
        {"version": None},
        {"run_id": "../x"},
        {"began": None},
        {"began": -1},
        {"began": float("nan")},
        {"began": 1e300},
        {"hosts": None},
        {"hosts": {"web": None}},
        {"hosts": {"web": {"outcome": "well"}}},
        {"hosts": {"web": nights.host("web", "updated", reason=1)}},
        {"hosts": {"web": nights.host("web", "updated", spans=[{"step": "copy", "began": 1, "seconds": -1}])}},
        {"hosts": {"web": nights.host("web", "updated", changes="hello")}},
        {"inputs": [None]},
        {"durations": {"total": "long"}},
        {"spans": 3},
    ],
)
def test_what_is_no_result_of_a_night_is_refused_with_a_sentence(change: dict[str, Any]):
    with pytest.raises(Unreadable, match=r".\.$"):
        _night.read({**nights.of_all_words(), **change})


def test_steps_that_are_made_twice_are_added_and_without_times_the_durations_stand_in():
    spans = [_night.Span("copy", 5, 2.5), _night.Span("probe", 1, 1), _night.Span("copy", 9, 65)]
    assert _night.took(spans, {}) == "copy 1 min 8 s, probe 1.0 s"
    assert _night.took([], {"reboot": 31.4}) == "reboot 31 s"
    assert _night.took([], {}) == "no step was timed"


def test_a_page_has_the_name_of_its_run_and_no_index_is_overwritten():
    assert _night.page_name("index") == "night-index.html"
    with pytest.raises(Unreadable):
        _night.page_name("../../etc/passwd")
