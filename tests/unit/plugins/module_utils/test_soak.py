"""A stage begins when the earlier ones have shown, for long enough, that it may."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.nixos.plugins.filter import soak as soak_filter

STAGES = ["dev", "infra", "critical"]
NOW = 1795372800  # 2026-11-22 18:40 UTC
HOUR = 3600


def host(name: str, stage: str, outcome: str = "updated", hours: float | None = 24, **how: Any) -> dict[str, Any]:
    """One that has been well on its target for so many hours; C(None) is not on it."""
    since = None if hours is None else NOW - hours * HOUR
    return {"name": name, "stage": stage, "outcome": outcome, "on_target": hours is not None, "since": since, **how}


def due(name: str, stage: str, **how: Any) -> dict[str, Any]:
    return host(name, stage, "", None, **how)


def soaked(*hosts: dict[str, Any], hours: float = 12) -> dict[str, Any]:
    """The verdict; its reason is that of the stages that are closed, where there are any."""
    told = soak_filter.soak(hosts, STAGES, hours * HOUR, NOW)
    reason = told.pop("reason")
    assert set(told["closed"].values()) <= {reason}
    assert (told["state"] == "passed") == (reason == "")
    return told


def test_hosts_of_the_last_stage_that_are_due_close_nothing_and_are_told():
    """The night before has let them wait, and the lock must not move on before their turn has come."""
    told = soak_filter.soak([host("dev1", "dev"), due("dns", "critical")], STAGES, HOUR, NOW)
    assert (told["state"], told["closed"]) == ("due", {})
    assert told["reason"] == "Stage critical comes first: dns does not run yet what the lock gives it."


def test_a_stage_that_soaked_opens_the_next_and_no_further():
    told = soaked(host("dev1", "dev"), due("web", "infra"), due("dns", "critical"), due("laptop", ""))
    why = "Stage infra comes first: web does not run yet what the lock gives it."
    assert told == {"state": "due", "closed": {"critical": why, "": why}}


def test_while_time_alone_is_missing_it_soaks_and_says_since_when_and_until_when():
    told = soaked(host("dev1", "dev"), host("dev2", "dev", hours=11), due("web", "infra"), due("dns", "critical"))
    why = "Stage dev soaks until 2026-11-22 19:40:00 UTC: dev2 was verified at 2026-11-22 07:40:00 UTC."
    assert told == {"state": "soaking", "closed": {"infra": why, "critical": why}}


def test_the_soak_is_over_on_the_second():
    fleet = (host("dev1", "dev", hours=12), due("web", "infra"))
    assert soaked(*fleet)["closed"] == {}
    assert soaked(*fleet, hours=12 + 1 / HOUR)["state"] == "soaking"


@pytest.mark.parametrize("outcome", ["failed", "rolled_back", "rollback_failed", "lost", "held"])
def test_a_host_that_did_not_pass_closes_all_that_follow_and_is_named(outcome: str):
    told = soaked(host("dev1", "dev"), host("dev2", "dev", outcome, None), due("dns", "critical"))
    assert told == {"state": "failed", "closed": {"critical": f"Stage dev did not pass: dev2 ended {outcome}."}}


def test_a_host_that_ended_badly_did_not_pass_though_it_is_on_its_target():
    assert soaked(host("dev1", "dev", "lost"), due("web", "infra"))["state"] == "failed"


def test_a_host_that_did_not_pass_counts_for_more_than_one_that_soaks_or_is_due():
    fleet = (host("dev1", "dev", hours=1), due("dev2", "dev"), host("dev3", "dev", "failed", None), due("web", "infra"))
    assert soaked(*fleet)["state"] == "failed"
    assert soaked(*fleet[:2], fleet[3])["state"] == "due"


@pytest.mark.parametrize("outcome", ["unreachable", "deferred"])
def test_an_absent_host_keeps_nobody_but_a_stage_of_absent_hosts_proves_nothing(outcome: str):
    absent = host("dev2", "dev", outcome, None)
    assert soaked(host("dev1", "dev"), absent, due("web", "infra"))["closed"] == {}
    told = soaked(absent, due("web", "infra"))
    assert (told["state"], list(told["closed"])) == ("failed", ["infra"])
    assert "Stage dev has shown nothing tonight: dev2 could not be reached" in told["closed"]["infra"]


def test_a_stage_without_any_host_keeps_nobody():
    assert soaked(host("web", "infra"), due("dns", "critical"))["closed"] == {}


def test_a_system_of_which_nobody_knows_since_when_it_was_well_did_not_pass():
    told = soaked({**host("dev1", "dev"), "since": None}, due("web", "infra"))
    assert told["state"] == "failed"
    assert "nobody has noted when the system of dev1 was verified" in told["closed"]["infra"]


def test_without_a_soak_time_a_stage_still_has_to_pass():
    assert soaked(host("dev1", "dev", hours=0), due("web", "infra"), hours=0)["closed"] == {}
    assert soaked(host("dev1", "dev", "rolled_back", None), due("web", "infra"), hours=0)["state"] == "failed"


def test_when_it_is_everywhere_it_has_passed_and_nobody_waits_for_the_last_to_soak():
    fleet = (host("dev1", "dev"), host("web", "infra", hours=1))
    assert soaked(*fleet) == {"state": "passed", "closed": {}}
    assert soaked(host("dev1", "dev"), due("web", "infra")) == {"state": "due", "closed": {}}
    assert soaked() == {"state": "passed", "closed": {}}


def test_hosts_that_come_last_keep_no_stage_and_wait_for_all_whichever_is_their_own():
    builder = due("builder", "dev", last=True)
    assert soaked(host("dev1", "dev"), builder, host("web", "infra")) == {"state": "due", "closed": {}}
    assert list(soaked(host("dev1", "dev", hours=1), builder)["closed"]) == [""]


def test_an_unknown_stage_and_a_time_that_is_none_are_refused():
    with pytest.raises(AnsibleFilterError, match="lab_stage of web is 'infar'"):
        soaked(host("web", "infar"))
    with pytest.raises(AnsibleFilterError, match="lab_soak is 'long'"):
        soak_filter.soak([], STAGES, "long", NOW)
