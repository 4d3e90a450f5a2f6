"""The order of the rollout."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.nixos.plugins.filter import plan as plan_filter
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._plan import Batch, Host, bounds, describe, plan


def hosts(**stages: str) -> list[Host]:
    return [Host(name, stage) for name, stage in stages.items()]


def needs(name: str, setting: str, other: str) -> Host:
    return Host.of({"name": name, setting: [other]})


def names(*planned: Any, **how: Any) -> list[list[str]]:
    # as many may end badly as there are, unless a test is about that
    return [list(batch.hosts) for batch in plan(*planned, **{"max_bad": 1000, **how})]


def test_stages_follow_their_order_and_hosts_that_of_the_inventory():
    fleet = hosts(dns="critical", web="infra", dev="dev", nas="infra", laptop="")
    assert names(fleet, ["dev", "infra", "critical"], 2) == [["dev"], ["web", "nas"], ["dns"], ["laptop"]]


def test_a_batch_is_never_larger_than_said_and_never_holds_two_stages():
    assert names(hosts(a="x", b="x", c="x", d="y"), ["x", "y"], 2) == [["a", "b"], ["c"], ["d"]]


def test_a_host_never_goes_with_one_that_it_needs_and_goes_after_it():
    fleet = [Host("web", depends_on=("nas",)), Host("mail"), Host("nas", depends_on=("dns",)), Host("dns")]
    assert names(fleet, batch=4) == [["mail", "dns"], ["nas"], ["web"]]


def test_what_a_host_needs_by_way_of_another_stage_or_of_a_host_that_is_not_in_this_night_counts():
    fleet = [Host("web", "x", depends_on=("db",)), Host("nas", "x"), Host("db", "y", depends_on=("nas",))]
    assert names(fleet, ["x", "y"], 4) == [["nas"], ["web"], ["db"]]
    without = [host for host in fleet if host.name != "db"]
    assert names(without, ["x", "y"], 4, others=[fleet[2]]) == [["nas"], ["web"]]


def test_across_stages_the_order_of_the_stages_wins():
    fleet = [Host("nas", "critical"), Host("web", "dev", depends_on=("nas",))]
    assert names(fleet, ["dev", "critical"], 2) == [["web"], ["nas"]]


def test_machines_and_the_one_they_run_on_never_go_together():
    fleet = [Host("vm1"), Host("vm2"), Host("pve", hypervisor_of=("guests",))]
    assert names(fleet, batch=3, groups={"guests": ["vm1", "vm2"]}) == [["pve"], ["vm1", "vm2"]]


def test_two_that_are_never_to_go_together_do_not():
    fleet = [Host("dns1"), Host("dns2"), Host("web"), Host("dns3")]
    apart = {"never_together": [["resolvers", "dns3"]], "groups": {"resolvers": ["dns1", "dns2"]}}
    assert names(fleet, batch=4, **apart) == [["dns1", "web"], ["dns2"], ["dns3"]]


def test_canaries_go_first_in_their_stage_each_alone_and_before_what_they_need():
    fleet = [Host("a", "x"), Host("b", "x"), Host("c", "x", True, depends_on=("a",)), Host("d", "x", True)]
    planned = plan(fleet, ["x"], 2, max_bad=2)
    assert [(batch.hosts, batch.canary) for batch in planned] == [
        (("c",), True),
        (("d",), True),
        (("a", "b"), False),
    ]


def test_the_window_that_closes_first_goes_first_but_not_before_what_its_host_needs():
    fleet = [Host("a"), Host("b", window_closes=900.0), Host("c", window_closes=600.0, depends_on=("d",)), Host("d")]
    assert names(fleet) == [["b"], ["a"], ["d"], ["c"]]


def test_the_flake_host_and_the_controller_come_after_everything_each_alone():
    fleet = [Host("builder", "x", last=True), Host("controller", last=True), Host("web", "y"), Host("nas")]
    planned = plan(fleet, ["x", "y"], 4, max_bad=4)
    assert [(batch.hosts, batch.last) for batch in planned] == [
        (("web",), False),
        (("nas",), False),
        (("builder",), True),
        (("controller",), True),
    ]


@pytest.mark.parametrize(
    ("batch", "size"), [(3, 3), ("3", 3), (" 3 ", 3), ("25%", 2), ("1%", 1), ({"x": "50%"}, 5), ({"y": 4}, 1), ({}, 1)]
)
def test_a_batch_is_a_number_or_a_percentage_of_its_stage_or_one_of_these_by_stage(batch: object, size: int):
    fleet = hosts(**{f"host{number}": "x" for number in range(10)}, other="y")
    assert len(plan(fleet, ["x", "y"], batch, max_bad=1000)[0].hosts) == size


@pytest.mark.parametrize(
    ("max_bad", "critical", "size"),
    [(0, [], 1), (1, [], 2), ("2", [], 3), ("20%", [], 3), ({"x": 2, "all": 9}, [], 3), (5, ["x"], 1)],
)
def test_a_batch_is_never_larger_than_the_breaker_would_let_in_at_once(max_bad: object, critical: list[str], size: int):
    fleet = hosts(**{f"host{number}": "x" for number in range(10)})
    assert len(plan(fleet, ["x"], 10, max_bad, critical)[0].hosts) == size


@pytest.mark.parametrize(
    ("max_bad", "run", "each"),
    [
        (2, 2, {"x": 2, "y": 2, "": 2}),
        ("10%", 3, {"x": 3, "y": 3, "": 3}),
        ({"all": 4, "x": 2}, 4, {"x": 2, "y": 4, "": 4}),
        # without a bound for all, the others have what everybody has
        ({"x": 3}, 3, {"x": 3, "y": 1, "": 1}),
        ({"x": "50%", "y": 0}, 10, {"x": 10, "y": 0, "": 1}),
        ({}, 1, {"x": 1, "y": 1, "": 1}),
    ],
)
def test_how_many_may_end_badly_in_the_run_and_in_each_stage(max_bad: object, run: int, each: dict[str, int]):
    found = bounds(max_bad, [], ["x", "y"], {"x": 20, "y": 5, "": 5})
    assert found.run.hosts == run
    assert {stage: bound.hosts for stage, bound in found.stages.items()} == each


def test_in_a_critical_stage_nobody_may_end_badly_whatever_else_is_said():
    found = bounds({"x": 5, "all": 5}, ["x"], ["x", "y"], {"x": 9, "y": 9})
    assert (found.of("x"), found.of("y")) == (0, 5)


def test_each_host_comes_with_all_that_it_needs_and_the_worst_case_of_its_turn():
    fleet = [Host("nas", seconds=60, comes=False), Host("db", depends_on=("nas",), seconds=30), Host("dns", seconds=90)]
    fleet.append(Host("web", depends_on=("outside", "db", "dns"), seconds=10))
    planned = plan(fleet, batch=4, max_bad=4, others=[Host("outside")])
    assert [batch.as_result() for batch in planned] == [
        {
            "stage": "",
            "hosts": ["db", "dns"],
            "canary": False,
            "last": False,
            "seconds": 90,
            "turns": {"db": 30, "dns": 90},
            "providers": {"db": ["nas"], "dns": []},
        },
        {
            "stage": "",
            "hosts": ["web"],
            "canary": False,
            "last": False,
            "seconds": 10,
            "turns": {"web": 10},
            "providers": {"web": ["nas", "db", "dns"]},
        },
    ]
    assert [Batch.of(batch.as_result()) for batch in planned] == planned


def test_no_hosts_are_no_plan_unless_nobody_has_to_come():
    for fleet in ([], [Host("web", comes=False)]):
        with pytest.raises(LabError, match="There is no host to plan"):
            plan(fleet)
        assert plan(fleet, allow_empty=True) == []


def test_a_group_that_has_the_host_itself_means_the_others():
    fleet = [Host("nas", depends_on=("infra",)), Host("dns"), Host("pve", hypervisor_of=("all",))]
    groups = {"infra": ["nas", "dns"], "all": ["nas", "dns", "pve"]}
    assert names(fleet, batch=3, groups=groups) == [["pve"], ["dns"], ["nas"]]


@pytest.mark.parametrize(
    ("fleet", "said"),
    [
        (
            [Host("web", depends_on=("nas",)), Host("nas", depends_on=("dns",)), Host("dns", depends_on=("web",))],
            {"web needs nas", "nas needs dns", "dns needs web"},
        ),
        (
            [Host("pve", hypervisor_of=("dns",), depends_on=("dns",)), Host("dns")],
            {"pve needs dns", "dns runs on pve"},
        ),
    ],
)
def test_a_circle_is_refused_and_its_hosts_are_named(fleet: list[Host], said: set[str]):
    with pytest.raises(LabError) as refused:
        plan([*fleet, Host("other")])
    what = refused.value.what
    assert set(what.rstrip(".").split("circle: ")[1].split(", ")) == said
    assert what.startswith("lab_depends_on and lab_hypervisor_of" if "runs on" in what else "lab_depends_on leads")


def test_a_circle_by_way_of_a_host_that_is_not_in_this_night_is_one():
    with pytest.raises(LabError, match="circle"):
        plan([Host("web", depends_on=("nas",))], others=[Host("nas", depends_on=("web",))])


@pytest.mark.parametrize("setting", ["depends_on", "hypervisor_of"])
def test_an_unknown_name_is_named_with_its_host_and_setting(setting: str):
    for wrong, remedy in (("nass", "Did you mean nas?"), ("printer", "Correct it, or add the host to the inventory.")):
        with pytest.raises(LabError) as refused:
            plan([needs("web", setting, wrong), Host("nas")])
        assert refused.value.what.startswith(f"lab_{setting} of web names {wrong!r}, which is neither")
        assert refused.value.remedy == remedy


@pytest.mark.parametrize("setting", ["depends_on", "hypervisor_of"])
def test_a_host_that_needs_itself_is_refused(setting: str):
    with pytest.raises(LabError, match=f"lab_{setting} of web names web itself"):
        plan([needs("web", setting, "web")])


def test_an_unknown_name_in_never_together_is_refused_with_a_suggestion():
    with pytest.raises(LabError, match=r"lab_never_together names 'dsn', which is .* Did you mean dns\?"):
        plan([Host("dns")], never_together=[["dsn", "dns"]])


@pytest.mark.parametrize("wrong", [["dns", "nas"], "dns", 3, [{"dns": "nas"}], [[1, 2]]])
def test_never_together_that_is_no_list_of_lists_is_refused(wrong: object):
    with pytest.raises(LabError, match="lab_never_together"):
        plan([Host("dns"), Host("nas")], never_together=wrong)


def test_an_unknown_stage_is_named_with_its_host():
    said = r"lab_stage of web is 'infar', which lab_stages \(dev, infra\) does not name\. Did you mean infra\?"
    with pytest.raises(LabError, match=said):
        plan(hosts(web="infar"), ["dev", "infra"])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"critical_stages": ["criticla"]}, r"lab_critical_stages is 'criticla', which lab_stages .* mean critical\?"),
        ({"batch": {"deb": 2}}, r"A stage of lab_batch is 'deb', .* Did you mean dev\?"),
        ({"max_bad": {"al": 2}}, "A stage of lab_max_bad is 'al'"),
        # that is a bound for the run, and there is no batch of the run
        ({"batch": {"all": 2}}, "A stage of lab_batch is 'all'"),
    ],
)
def test_an_unknown_stage_in_a_setting_is_refused(how: dict[str, Any], said: str):
    with pytest.raises(LabError, match=said):
        plan(hosts(web="dev"), ["dev", "critical"], **how)


@pytest.mark.parametrize("wrong", [0, -1, "0", "0%", "101%", "many", "", 1.5, "1.5", True, None, [2], {"dev": 0}])
def test_a_number_of_hosts_that_is_none_is_refused(wrong: object):
    with pytest.raises(LabError, match=r"lab_batch( of dev)? is .*It is a number of hosts, at least 1"):
        plan(hosts(web="dev"), ["dev"], wrong)


@pytest.mark.parametrize("wrong", [-1, "-1", "101%", "few", 0.5, False, None, {"dev": -1}, {"all": "x"}])
def test_a_bound_that_is_none_is_refused(wrong: object):
    with pytest.raises(LabError, match=r"lab_max_bad( of \w+)? is .*It is a number of hosts, at least 0"):
        plan(hosts(web="dev"), ["dev"], 1, wrong)


def test_a_host_that_is_named_twice_is_refused():
    with pytest.raises(LabError, match="twice: web"):
        plan([Host("web"), Host("web")])


def test_settings_may_be_as_a_person_or_a_survey_has_typed_them():
    typed = {"name": "web", "canary": "yes", "depends_on": "nas, dns", "seconds": "60", "window_closes": "900"}
    assert Host.of(typed) == Host("web", "", True, ("nas", "dns"), (), 60, 900.0)
    assert Host.of({"name": "web", "stage": None, "depends_on": None, "window_closes": None}) == Host("web")


@pytest.mark.parametrize("wrong", [{"name": ""}, {"canary": "maybe"}, {"seconds": "long"}, {"depends_on": 3}])
def test_a_host_that_cannot_be_read_is_refused(wrong: dict[str, object]):
    with pytest.raises(LabError):
        Host.of({"name": "web", **wrong})


def test_the_plan_is_told_with_a_line_for_each_batch():
    fleet = [Host("dev1", "dev", canary=True), Host("dev2", "dev"), Host("dev3", "dev"), Host("laptop")]
    assert describe(plan([*fleet, Host("builder", "dev", last=True)], ["dev"], 2)).splitlines() == [
        "STAGE  BATCH  AT ONCE  HOSTS",
        "dev    1      canary   dev1",
        "dev    2      2        dev2 + dev3",
        "-      3      1        laptop",
        "dev    4      last     builder",
    ]
    assert describe([]) == "No host has a turn."


def test_the_filter_says_what_is_wrong_in_one_sentence():
    with pytest.raises(AnsibleFilterError, match="web names 'nsa'"):
        plan_filter.plan([{"name": "web", "depends_on": ["nsa"]}])
    with pytest.raises(AnsibleFilterError, match="There is no host to plan"):
        plan_filter.plan([])
    assert plan_filter.plan([], allow_empty=True) == []
    told = plan_filter.plan([{"name": "web"}], as_text=True)
    assert isinstance(told, str) and told.splitlines()[1] == "-      1      1        web"


@pytest.mark.parametrize("batch", [1, "10%"])
def test_a_thousand_hosts_with_three_thousand_dependencies_are_planned_in_under_a_second(batch: object):
    source = random.Random(5)
    stages = ["dev", "infra", "critical"]
    fleet: list[dict[str, Any]] = [
        {
            "name": f"host{number}",
            "stage": source.choice(stages),
            "depends_on": [f"host{other}" for other in source.sample(range(number), min(3, number))],
            "seconds": 600,
        }
        for number in range(1003)
    ]
    source.shuffle(fleet)
    assert sum(len(host["depends_on"]) for host in fleet) >= 3000
    groups = {"all": [host["name"] for host in fleet]}
    took = []
    for _ in range(3):
        began = time.perf_counter()
        planned: Any = plan_filter.plan(fleet, stages, batch, max_bad="10%", groups=groups)
        took.append(time.perf_counter() - began)
    assert sum(len(each["hosts"]) for each in planned) == 1003
    assert min(took) < 1
