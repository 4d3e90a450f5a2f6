"""Who begins, who waits, who is left alone; and when nobody begins any more."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.nixos.plugins.filter import breaker as breaker_filter
from ansible_collections.homelab.nixos.plugins.filter import plan as plan_filter
from ansible_collections.homelab.nixos.plugins.filter import stop as stop_filter

STAGES = ["dev", "infra", "critical"]
FLEET: list[dict[str, Any]] = [
    {"name": "dev1", "stage": "dev", "canary": True, "seconds": 600},
    {"name": "dev2", "stage": "dev", "seconds": 600},
    {"name": "dev3", "stage": "dev", "seconds": 900},
    {"name": "nas", "stage": "infra", "seconds": 600},
    {"name": "web", "stage": "infra", "depends_on": ["nas"], "seconds": 600},
    {"name": "mail", "stage": "infra", "depends_on": ["web"], "seconds": 600},
    {"name": "dns", "stage": "critical", "seconds": 600},
    {"name": "builder", "stage": "infra", "last": True, "seconds": 600},
]
UPDATED = {"outcome": "updated", "began": True, "counted": True}
BAD = {"outcome": "rolled_back", "began": True, "counted": True}
NIGHT = 1795372800  # 2026-11-22 18:40 UTC


def planned(fleet: list[dict[str, Any]] = FLEET, **how: Any) -> Any:
    return plan_filter.plan(fleet, **{"stages": STAGES, "batch": 9, "max_bad": 9, **how})


def verdicts(*hosts: str, plan: Any = None, **how: Any) -> dict[str, str]:
    told = breaker_filter.breaker(hosts, plan or planned(), **{"stages": STAGES, "now": NIGHT, **how})
    return {host: each["verdict"] for host, each in told.items()}


def reason(host: str, **how: Any) -> str:
    told = breaker_filter.breaker([host], planned(), **{"stages": STAGES, "now": NIGHT, **how})
    assert told[host]["verdict"] == "held"
    return told[host]["reason"]


def stopped(ended: dict[str, Any], **how: Any) -> dict[str, Any]:
    return stop_filter.stop(planned(), ended, **{"stages": STAGES, "max_bad": 9, **how})


def test_a_round_has_as_many_as_may_still_end_badly_and_one():
    fleet = [{"name": name} for name in "abcdefgh"]
    plan = plan_filter.plan(fleet, batch=9, max_bad=9)
    for max_bad, begin in ((0, 1), (1, 2), (2, 3), ("25%", 3)):
        told = verdicts(*"abcdefgh", plan=plan, max_bad=max_bad)
        assert list(told.values()) == ["begins"] * begin + ["waits"] * (8 - begin)
    # one of them has ended badly in the meantime
    told = verdicts(*"abcdefgh", plan=plan, max_bad=2, ended={"a": UPDATED, "b": BAD, "c": UPDATED})
    assert told == {"d": "begins", "e": "begins", "f": "waits", "g": "waits", "h": "waits"}


def test_a_round_has_no_more_than_its_stage_and_the_run_allow():
    fleet = [{"name": name, "stage": "dev" if name in "ab" else "infra"} for name in "abcdefgh"]
    plan = plan_filter.plan(fleet, stages=STAGES, batch=9, max_bad=9)
    ended = {"a": UPDATED, "b": BAD}
    for max_bad, begin in (({"all": 3, "infra": 1}, 2), ({"all": 2, "infra": 9}, 2), ({"all": 9, "infra": 9}, 6)):
        told = verdicts(*"cdefgh", plan=plan, max_bad=max_bad, ended=ended)
        assert list(told.values()).count("begins") == begin


def test_in_a_critical_stage_one_goes_at_a_time():
    fleet = [{"name": name, "stage": "critical"} for name in "abc"]
    plan = plan_filter.plan(fleet, stages=STAGES, batch=9, max_bad=9)
    told = verdicts(*"abc", plan=plan, max_bad=9, critical_stages=["critical"])
    assert told == {"a": "begins", "b": "waits", "c": "waits"}


def test_hosts_that_have_ended_are_not_judged_again():
    assert verdicts("dev2", "dev3", ended={"dev2": UPDATED}) == {"dev3": "begins"}
    assert verdicts("dev2", ended={"dev2": BAD}) == {}


def test_the_bound_of_the_run_stops_everything_and_the_reason_counts_and_names():
    ended = {"dev2": BAD, "nas": {**BAD, "outcome": "failed"}}
    said = "Stopped: 2 of 8 hosts ended badly (dev2, nas), lab_max_bad is 2."
    assert reason("dns", ended=ended, max_bad=2) == said
    assert reason("dns", ended=ended, max_bad="25%") == said[:-2] + "25%, which is 2 of 8."
    assert stopped(ended, max_bad=2) == {"stage": "infra", "reason": said, "critical": False, "critical_stages": []}
    assert stopped(ended, max_bad=3) == {}


@pytest.mark.parametrize("max_bad", [0, 1])
def test_with_a_bound_of_none_or_one_the_first_stops(max_bad: int):
    assert reason("dns", ended={"dev2": BAD}, max_bad=max_bad).startswith("Stopped: 1 of 8 hosts ended badly (dev2)")
    assert verdicts("dns", max_bad=max_bad) == {"dns": "begins"}


def test_the_bound_of_a_stage_stops_everything():
    how: dict[str, Any] = {"ended": {"dev2": BAD, "nas": BAD}, "max_bad": {"all": 5, "infra": 1}}
    said = "Stopped: 1 of 4 hosts of stage infra ended badly (nas), lab_max_bad is 1 there."
    assert reason("dns", **how) == said
    assert stopped(**how)["stage"] == "infra"
    assert stopped({"dev2": BAD}, max_bad={"all": 5, "infra": 1}) == {}


def test_a_canary_that_ended_badly_stops_everything():
    assert reason("dev2", ended={"dev1": BAD}, max_bad=9) == "Stopped: the canary dev1 ended badly (rolled_back)."
    assert reason("dns", ended={"dev1": BAD}, max_bad=9) == "Stopped: the canary dev1 ended badly (rolled_back)."
    assert verdicts("dev2", ended={"dev1": UPDATED}, max_bad=9) == {"dev2": "begins"}


def test_the_first_of_a_critical_stage_that_ends_badly_stops_everything():
    how: dict[str, Any] = {"ended": {"nas": BAD}, "max_bad": 9, "critical_stages": ["infra"]}
    assert reason("dns", **how) == "Stopped: nas ended badly (rolled_back), and its stage infra is critical."
    assert stopped(**how)["critical_stages"] == ["infra"]


@pytest.mark.parametrize("how", [{"began": False}, {"counted": False}, {"outcome": "deferred"}, {"outcome": "held"}])
def test_what_did_not_begin_or_was_not_seen_or_is_not_bad_does_not_stop(how: dict[str, Any]):
    ended = {"dev1": {**BAD, **how}, "dev2": {**BAD, **how}}
    assert stopped(ended, max_bad=1, critical_stages=["dev"]) == {}
    assert verdicts("nas", ended=ended, max_bad=1) == {"nas": "begins"}


def test_an_outcome_of_which_nobody_said_more_is_counted():
    assert stopped({"dev2": {"outcome": "lost"}}, max_bad=1)["stage"] == "dev"


@pytest.mark.parametrize("outcome", ["failed", "rolled_back", "rollback_failed", "lost"])
def test_a_provider_that_ended_badly_holds_those_that_need_it_and_nobody_else(outcome: str):
    # counted or not
    how: dict[str, Any] = {"ended": {"nas": {**BAD, "outcome": outcome, "counted": False}}, "max_bad": 9}
    assert reason("web", **how) == reason("mail", **how) == f"It needs nas, which ended badly ({outcome})."
    assert verdicts("dns", **how) == {"dns": "begins"}


def test_a_provider_that_did_not_begin_holds_nobody_unless_it_is_lost():
    failed, lost = ({"nas": {"outcome": outcome, "began": False}} for outcome in ("failed", "lost"))
    assert verdicts("web", ended=failed) == {"web": "begins"}
    assert reason("web", ended=lost) == "It needs nas, which ended badly (lost)."


def test_a_provider_in_trouble_holds_those_that_need_it_and_nobody_else():
    how: dict[str, Any] = {"trouble": {"nas": "nfs-server.service is failed."}}
    assert reason("web", **how) == "It needs nas, which is in trouble: nfs-server.service is failed."
    assert reason("mail", **how) == reason("web", **how)
    assert verdicts("dns", **how) == {"dns": "begins"}
    assert verdicts("nas", **how) == {"nas": "begins"}


def test_a_host_whose_worst_case_does_not_fit_is_held_and_the_others_begin():
    # dev2 may take 10 minutes, dev3 15
    assert verdicts("dev2", "dev3", ends=NIGHT + 700) == {"dev2": "begins", "dev3": "held"}
    assert reason("dev3", ends=NIGHT + 700) == (
        "out of time: its turn may take until 2026-11-22 18:55:00 UTC, and the night ends at 2026-11-22 18:51:40 UTC."
    )
    assert verdicts("dev2", "dev3", ends=NIGHT + 900) == {"dev2": "begins", "dev3": "begins"}
    assert verdicts("dev2", "dev3", ends=0) == {"dev2": "begins", "dev3": "begins"}


def test_a_closed_stage_is_held_with_its_reason_and_what_comes_last_is_after_all_stages():
    closed = {"critical": "Stopped since yesterday."}
    assert reason("dns", closed_stages=closed) == "Stopped since yesterday."
    assert verdicts("builder", closed_stages=closed) == {"builder": "begins"}
    assert reason("builder", closed_stages={"": "dev soaks."}) == "dev soaks."
    assert reason("builder", closed_stages={"infra": "Stopped."}) == "Stopped."


def test_those_that_are_held_take_no_place_in_a_round():
    plan = planned([{"name": "a"}, {"name": "b", "seconds": 900}, {"name": "c"}, {"name": "d"}])
    told = verdicts(*"abcd", plan=plan, max_bad=1, ends=NIGHT + 100)
    assert told == {"a": "begins", "b": "held", "c": "begins", "d": "waits"}


def test_a_stop_is_critical_where_it_keeps_a_critical_stage_from_its_turn():
    every = {host["name"]: {"outcome": "held", "began": False} for host in FLEET}
    ended = {**every, "dev1": UPDATED, "dev2": BAD}
    how: dict[str, Any] = {"max_bad": 1, "critical_stages": ["critical"]}
    for known in (ended, {"dev2": BAD}):
        assert stopped(known, **how)["critical_stages"] == ["critical"]
        assert stopped(known, **how)["critical"] is True
        assert stopped(known, **how)["stage"] == "dev"
    # its turn had come before
    assert stopped({**ended, "dns": UPDATED}, **how)["critical"] is False
    # and this one had none tonight anyhow
    assert stopped(ended, closed_stages={"critical": "dev soaks."}, **how)["critical"] is False


def test_a_question_about_hosts_of_several_batches_or_of_none_is_refused():
    for hosts in (["dev1", "dev2"], ["printer"], ["dev2", "printer"]):
        with pytest.raises(AnsibleFilterError, match="not of one batch"):
            breaker_filter.breaker(hosts, planned(), now=NIGHT)


def test_a_plan_that_is_none_is_refused():
    with pytest.raises(AnsibleFilterError, match="no batch of a plan"):
        breaker_filter.breaker(["a"], [{"hosts": ["a"]}], now=NIGHT)
    with pytest.raises(AnsibleFilterError, match="The plan is None"):
        breaker_filter.breaker(["a"], [{"hosts": ["a"], "turns": {}, "providers": {}}], now=NIGHT)
    with pytest.raises(AnsibleFilterError, match="lab_max_bad is 'few'"):
        stop_filter.stop(planned(), {}, max_bad="few")
