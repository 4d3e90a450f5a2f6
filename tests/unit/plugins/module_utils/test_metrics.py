"""The file for the textfile collector, and that alerts, dashboard and page speak of what is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from ansible_collections.homelab.nixos.plugins.module_utils import (
    _alerts,
    _artifacts,
    _gates,
    _health,
    _hold,
    _metrics,
    _space,
    _systems,
    _transaction,
)
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import Word, outcome
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[4]
SYSTEM = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
BEGAN = 1795312800
END = BEGAN + 600
DAY = 86400


def host(word: str, **change: Any) -> dict[str, Any]:
    plain = {"outcome": word, "reason": "", "before": SYSTEM, "after": SYSTEM, "rebooted": False, "durations": {}}
    return {**plain, **change}


def night(hosts: Mapping[str, Any], **change: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "run_id": "20261122T020000Z-7f3a",
        "dry_run": False,
        "failed": False,
        "failure": "",
        "began": BEGAN,
        "durations": {"update": 1.9, "build": 41.8, "total": 600.0},
        "outcomes": {word: [name for name in hosts if hosts[name]["outcome"] == word] for word in get_args(Word)},
        "hosts": dict(hosts),
        "inputs": [],
        "lock_hash": "9f44",
        **change,
    }


def moved(path: str, before: int | None, after: int | None) -> dict[str, Any]:
    sides = {"before": before, "after": after}
    return {"path": path, **{side: when and {"last_modified": when} for side, when in sides.items()}}


def look(**change: Any) -> dict[str, Any]:
    """What nixos_info says of a host that is well."""
    quiet = {"last": None, "deferrals": None, "transaction": None, "proven_since": None}
    return {"reboot_required": False, "reboot_reasons": [], **quiet, **change}


SPANS = [
    {"step": "probe", "began": BEGAN + 1, "seconds": 0.5},
    {"step": "activation", "began": BEGAN + 100, "seconds": 20},
    {"step": "verification", "began": BEGAN + 120, "seconds": 5.5},
    {"step": "verification", "began": BEGAN + 200, "seconds": 4},
]
UPDATED = host("updated", rebooted=True, durations={"copy": 3.2, "activation": 2.9, "reboot": 31.4}, spans=SPANS)
# with each family in it
FULL_NIGHT = night(
    {
        "web": UPDATED,
        "nas": host("rolled_back", reason="x", durations={"copy": 1.0, "activation": 2.0, "rollback": 4.0}),
        "dns": host("deferred", reason="kim (pts/0) is logged in."),
        "laptop": host("unreachable", before=None, after=None),
    },
    inputs=[moved("nixpkgs", BEGAN - 9 * DAY, BEGAN - DAY)],
)
FULL_LOOKS = {
    "web": look(proven_since=END - 300),
    "nas": look(reboot_required=True, reboot_reasons=["kernel", "switch-inhibitor dbus"]),
    "dns": look(transaction={"run_id": "other", "since": BEGAN - 8 * 3600}),
}
FULL = _metrics.text([FULL_NIGHT], FULL_LOOKS)

Read = dict[str, dict[tuple[str, ...], float]]


def read(text: str) -> Read:
    """All samples, by name and values of labels, as another program reads them; each is there once."""
    found: Read = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge"
        for sample in family.samples:
            names = _metrics.FAMILIES[sample.name].labels
            assert set(sample.labels) == set(names) and sample.timestamp is None
            samples = found.setdefault(sample.name, {})
            labels = tuple(sample.labels[name] for name in names)
            assert labels not in samples
            samples[labels] = sample.value
    return found


def told(*nights: Mapping[str, Any], looks: Mapping[str, Any] | None = None, **change: Any) -> Read:
    return read(_metrics.text(nights, looks or {}, **change))


def of(found: Read, name: str) -> dict[tuple[str, ...], float]:
    return found.get(f"lab_auto_update_{name}", {})


def test_each_family_is_told_and_has_its_help_and_type_before_it():
    assert set(read(FULL)) == set(_metrics.FAMILIES)
    lines = FULL.splitlines()
    for name, family in _metrics.FAMILIES.items():
        first = next(number for number, line in enumerate(lines) if re.match(rf"{name}[ {{]", line))
        assert lines[first - 2 : first] == [f"# HELP {name} {family.help}", f"# TYPE {name} gauge"]
    assert FULL.endswith("\n") and "\n\n" not in FULL


def test_names_are_as_prometheus_wants_them():
    for name, family in _metrics.FAMILIES.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name) and not name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert ("timestamp" in name or "duration" in name) == name.endswith("_seconds")
        # the scrape has these for the controller
        assert not {"instance", "job"} & set(family.labels)


def test_the_reboot_is_that_of_the_communitys_scripts_for_each_host():
    assert "# HELP node_reboot_required Node reboot is required for software updates.\n" in FULL
    assert read(FULL)["node_reboot_required"] == {("web",): 0, ("nas",): 1, ("dns",): 0}
    reasons = of(read(FULL), "host_reboot_reason")
    assert reasons == {("nas", "kernel"): 1, ("nas", "switch-inhibitor"): 1}


def test_the_reasons_of_a_reboot_are_those_that_there_are():
    old = _systems.Parts(inhibitors={"dbus": "a"})
    new = _systems.Parts("a", "b", "c", "d", "e", "f", {"dbus": "b"})
    reasons = _systems.reboot_reasons(old, old, new)
    assert {reason.partition(" ")[0] for reason in reasons} == _metrics._REBOOT_REASONS


def test_the_order_is_always_the_same():
    turned = {**FULL_NIGHT, "hosts": dict(reversed(FULL_NIGHT["hosts"].items()))}
    assert _metrics.text([turned], dict(reversed(FULL_LOOKS.items()))) == FULL


def test_a_host_has_one_outcome_of_ten():
    found = of(read(FULL), "host_outcome")
    assert len(found) == 4 * len(get_args(Word))
    assert {labels for labels, value in found.items() if value} == {
        *(("web", "updated"), ("nas", "rolled_back"), ("dns", "deferred"), ("laptop", "unreachable"))
    }


def test_the_run_says_when_it_was_and_how_it_ended():
    found = told(night({}, failed=True), night({}, began=BEGAN + DAY, run_id="b"))
    assert of(found, "run_info") == {("b",): 1}
    assert of(found, "run_start_timestamp_seconds") == {(): BEGAN + DAY}
    assert of(found, "run_end_timestamp_seconds") == {(): END + DAY}
    assert of(found, "run_success") == {(): 1}
    assert of(found, "run_duration_seconds") == {(): 600}
    assert of(found, "run_step_duration_seconds") == {("update",): 1.9, ("build",): 41.8}


def test_a_run_that_failed_keeps_the_last_success_of_a_former_one():
    found = told(night({}), night({}, began=BEGAN + DAY, failed=True))
    assert of(found, "run_success") == {(): 0}
    assert of(found, "run_last_success_timestamp_seconds") == {(): END}
    assert of(told(night({}, failed=True)), "run_last_success_timestamp_seconds") == {}


def test_a_dry_run_is_no_night():
    dry = night({"web": host("unchanged")}, began=BEGAN + DAY, dry_run=True)
    assert _metrics.text([FULL_NIGHT, dry], FULL_LOOKS) == FULL
    assert _metrics.text([dry], {}) == _metrics.text([], {}) == ""


@pytest.mark.parametrize("word", get_args(Word))
def test_only_a_host_that_runs_what_it_should_has_succeeded(word: str):
    found = of(told(night({"web": host(word)})), "host_last_success_timestamp_seconds")
    assert found == ({("web",): END} if word in ("updated", "pending", "unchanged") else {})


def test_a_success_lasts_from_night_to_night_or_in_the_memory_of_the_host():
    bad = night({"web": host("rolled_back")}, began=BEGAN + DAY)
    name = "host_last_success_timestamp_seconds"
    assert of(told(night({"web": host("unchanged")}), bad), name) == {("web",): END}
    remembered = {"web": look(last={"outcome": "updated", "ended": BEGAN - 1})}
    assert of(told(bad, looks=remembered), name) == {("web",): BEGAN - 1}
    assert of(told(night({"web": host("unchanged")}), bad, looks=remembered), name) == {("web",): END}
    for last in ({"outcome": "rolled_back", "ended": BEGAN}, {"version": 1, "torn": "x"}, ["updated"], "updated"):
        assert of(told(bad, looks={"web": look(last=last)}), name) == {}


@pytest.mark.parametrize("when", [END + DAY + 1, -1, "1795312800", True, None, [], float("nan"), float("inf"), 10**400])
def test_no_time_is_believed_that_is_none_or_still_to_come(when: object):
    looks = {
        "web": look(
            last={"outcome": "updated", "ended": when}, proven_since=when, transaction={"run_id": "x", "since": when}
        )
    }
    found = told(night({"web": host("failed")}, began=BEGAN + DAY), looks=looks)
    for name in ("last_success", "proven_since", "claimed_since"):
        assert of(found, f"host_{name}_timestamp_seconds") == {}
    assert of(found, "host_claimed") == {("web",): 1}


def test_phases_take_what_was_noted_of_them():
    found = of(read(FULL), "host_phase_duration_seconds")
    web = {phase: seconds for (name, phase), seconds in found.items() if name == "web"}
    # where the night has spans they are more exact
    assert web == {"probe": 0.5, "copy": 3.2, "activation": 20, "verification": 9.5, "reboot": 31.4}
    assert {phase for name, phase in found if name == "nas"} == {"copy", "activation", "rollback"}


def test_a_phase_has_succeeded_where_that_was_seen():
    found = of(read(FULL), "host_phase_last_success_timestamp_seconds")
    web = {phase: when for (name, phase), when in found.items() if name == "web"}
    assert web == {
        "probe": BEGAN + 1.5,
        "copy": END,
        "activation": BEGAN + 120,
        "verification": BEGAN + 204,
        "reboot": END,
    }
    # its new system was activated, and nobody can say how far that was well
    assert {phase for name, phase in found if name == "nas"} == {"probe", "copy", "rollback"}
    assert {phase for name, phase in found if name == "laptop"} == set()
    later = told(FULL_NIGHT, night({"web": host("rolled_back", durations={"activation": 1.0})}, began=BEGAN + DAY))
    assert of(later, "host_phase_last_success_timestamp_seconds")["web", "activation"] == BEGAN + 120
    assert of(later, "host_phase_last_success_timestamp_seconds")["web", "probe"] == END + DAY


def test_a_host_was_seen_when_it_was_looked_at():
    name = "host_last_seen_timestamp_seconds"
    assert of(read(FULL), name) == {("web",): END, ("nas",): END, ("dns",): END}
    gone = night({"web": host("unreachable", before=None)}, began=BEGAN + DAY)
    assert of(told(FULL_NIGHT, gone), name) == {("web",): END}


def test_the_hosts_are_those_of_the_night_unless_they_are_named():
    limited = night({"web": host("unchanged")}, began=BEGAN + DAY)
    assert {name for name, _ in of(told(FULL_NIGHT, limited), "host_outcome")} == {"web"}
    found = of(told(FULL_NIGHT, limited, hosts=["web", "nas", "new"]), "host_outcome")
    assert {labels for labels, value in found.items() if value} == {("web", "unchanged"), ("nas", "rolled_back")}
    # what was seen of it in its own newest night holds
    looks = {"dns": look(transaction={"run_id": FULL_NIGHT["run_id"], "since": BEGAN}, reboot_required=True)}
    kept = told(FULL_NIGHT, {**limited, "run_id": "limited"}, looks=looks, hosts=["web", "dns"])
    assert of(kept, "host_claimed") == {("dns",): 0}
    assert of(kept, "host_deferred_nights") == {("dns", "sessions"): 1}
    assert kept["node_reboot_required"] == {("dns",): 1}


def test_inputs_are_as_old_as_what_is_locked():
    name = "input_last_modified_timestamp_seconds"
    first = night({}, inputs=[moved("nixpkgs", 100, 200), moved("old", 50, 60), moved("new", None, 70)])
    assert of(told(first), name) == {("nixpkgs",): 200, ("old",): 60, ("new",): 70}
    second = night({}, inputs=[moved("nixpkgs", 200, 300), moved("old", 60, None)])
    assert of(told(first, second), name) == {("nixpkgs",): 300, ("new",): 70}
    # they would have gone back in time, and were not adopted
    refused = night({}, inputs=[moved("nixpkgs", 200, 150)], lock_hash=None)
    assert of(told(first, refused), name)["nixpkgs",] == 200


@pytest.mark.parametrize(
    ("word", "transaction", "claimed", "since"),
    [
        ("updated", None, 0, None),
        # as it was looked at when it was proven, just before it was released
        ("updated", {"run_id": "20261122T020000Z-7f3a", "since": BEGAN}, 0, None),
        ("deferred", {"run_id": "other", "since": BEGAN - 5}, 1, BEGAN - 5),
        ("deferred", {"torn": "It is empty."}, 1, None),
        ("lost", {"run_id": "20261122T020000Z-7f3a", "since": BEGAN + 9}, 1, BEGAN + 9),
        ("rollback_failed", {"run_id": "20261122T020000Z-7f3a", "since": BEGAN + 9}, 1, BEGAN + 9),
        # nobody looked again since it was claimed
        ("lost", None, None, None),
    ],
)
def test_a_claim_is_one_that_is_still_there_when_the_night_has_closed(
    word: str, transaction: object, claimed: int | None, since: int | None
):
    found = told(night({"web": host(word)}), looks={"web": look(transaction=transaction)})
    assert of(found, "host_claimed") == ({} if claimed is None else {("web",): claimed})
    assert of(found, "host_claimed_since_timestamp_seconds") == ({} if since is None else {("web",): since})


def test_a_pending_reboot_is_required_whatever_was_seen_before():
    for looks in ({}, {"web": look()}):
        assert told(night({"web": host("pending")}), looks=looks)["node_reboot_required"] == {("web",): 1}
    assert "node_reboot_required" not in told(night({"web": host("updated")}))


@pytest.mark.parametrize(
    ("word", "before", "nights"),
    [
        ("deferred", None, 1),
        ("deferred", {"nights": 3, "run_id": "former"}, 4),
        # asked after it was counted
        ("deferred", {"nights": 3, "run_id": "20261122T020000Z-7f3a"}, 3),
        ("pending", {"nights": 3, "run_id": "20261122T020000Z-7f3a"}, 3),
        ("unchanged", {"nights": 3, "run_id": "former"}, None),
        # neither went on nor ended
        ("held", {"nights": 3, "run_id": "former"}, 3),
        ("held", {"nights": "3", "run_id": "former"}, None),
        ("held", ["3"], None),
    ],
)
def test_nights_in_which_a_host_was_left_alone_are_a_row(word: str, before: Any, nights: int | None):
    if isinstance(before, dict):
        before = {"since": 1, "reason": "Drift: x.", **before}
    own = host(word, reason="Drift: its profile is another system.")
    found = of(told(night({"web": own}), looks={"web": look(deferrals=before)}), "host_deferred_nights")
    assert found == ({} if nights is None else {("web", "drift"): nights})


def complaints() -> dict[str, str]:
    """The very sentences with which hosts are deferred, by the kind of their check or our own word for it."""
    session = _gates.Session("3", "kim", "user", "active", terminal="pts/0")
    inhibitor = json.dumps({"data": [[["shutdown", "backup", "It runs", "block", 0, 7]]]})
    unit = "Id=restic.service\nActiveState=active\n"
    checks = [
        *_health.disk("/", "Mounted Use% IUse%\n/ 95% 95%", 90, 90),
        *_health.boot("/boot", "Mounted Avail\n/boot 5", 100),
        *_health.systemd("starting", [], ())[:1],
        *_health.systemd("degraded", ["x.service"], ())[1:],
        *_health.services(["x"], "ActiveState=inactive\nSubState=dead"),
        *_health.uptime("60.0 1", "1 (systemd) S " + " ".join(["0"] * 18) + " 100", 100, 30),
        *_health.memory("MemAvailable: 2048 kB", 100),
        *_health.clock("no"),
        *_gates.sessions([session], 30),
        *_gates.sessions([session, session], 30),
        *_gates.inhibitors(inhibitor),
        *_gates.busy(["restic.service"], unit),
        *_gates.updater(["restic.service"], unit),
        *_gates.hold("/var/lib/lab-auto-update/hold", True, "Holidays"),
        _hold.judge(_hold.Hold("Holidays."), datetime.now().astimezone()),
        _hold.judge(_hold.Hold("Holidays.", datetime.now().astimezone() + timedelta(9)), datetime.now().astimezone()),
        _alerts.judge(["DiskFull"], []),
        _alerts.untold("http://monitoring", "it answers 500."),
        _health.unknown("disk:/", "at most 90 %", "df printed ''."),
    ]
    assert all(check.status != "ok" for check in checks)
    return {check.message: check.kind for check in checks}


@pytest.mark.parametrize(("reason", "kind"), complaints().items())
def test_a_reason_is_told_by_the_check_that_complained(reason: str, kind: str):
    assert _metrics.complaint(reason) == kind
    assert _metrics.complaint(f"{reason} Something else.") == kind


def other_complaints() -> dict[str, str]:
    held = _transaction.Held(_transaction.Transaction("a", "a", "r", None, 1, 99, "claimed", "b"), 5)
    look = {"systems": {"current": SYSTEM, "profile": SYSTEM, "boot_default": SYSTEM}, "drift": [], "boot_id": "a"}
    well = {"probe": {**look, "reboot_required": True}, "gate": {"healthy": True}}
    last = {"controller": "b", "controller_name": "b", "run_id": "q", "since": 5, "outcome": "updated"}

    def between(**seen: Any) -> str:
        return outcome(
            {**well, "claim": {"changed": True}, "look_again": {**look, "boot_id": "b", **seen}}, SYSTEM
        ).reason

    with pytest.raises(_space.NoSpace) as raised:
        _space.check(_space.Need(10**9, 5), _space.FileSystem(4096, 0, 9, 9, 9), "the new system", "The store")
    return {
        str(held): "claim",
        between(): "claim",
        between(last=last): "claim",
        outcome({**well, "claim": {"failed": True}}, SYSTEM).reason: "claim",
        outcome({**well, "settle": {"failed": True, "msg": "No."}}, SYSTEM).reason: "claim",
        outcome(
            {"probe": {**look, "drift": ["its profile is another"]}, "gate": {"healthy": True}}, SYSTEM
        ).reason: "drift",
        outcome({"probe": {"failed": True, "msg": "No Python."}}, SYSTEM).reason: "unseen",
        str(raised.value): "space",
        "The check backup: port 22 of nas is closed.": "check",
        "Its window is not open, the next opens tomorrow (22:00-06:00).": "window",
        "": "other",
        "It can only be updated with a reboot. kim is logged in.": "sessions",
    }


@pytest.mark.parametrize(("reason", "kind"), other_complaints().items())
def test_a_reason_that_is_no_check_has_a_word_of_ours(reason: str, kind: str):
    assert _metrics.complaint(reason) == kind


def test_there_is_a_reason_for_each_kind_of_check():
    assert set(_health.KINDS) <= set(_metrics.REASONS)
    assert {*complaints().values(), *other_complaints().values()} == set(_metrics.REASONS)


HOSTILE = 'a"} 1\nnode_reboot_required{host="b"} 0\\\r\x00\u2028}'


@given(st.text(), st.text())
def test_whatever_others_are_called_is_one_label(one: str, other: str):
    """Also what the text format, UTF-8 or a line cannot hold."""
    plain = {each.encode("utf-8", "replace").decode() for each in (one, other, HOSTILE)}
    inputs = [moved(each, None, 5) for each in (one, other, HOSTILE)]
    hosts = {each: host("updated") for each in (one, other, HOSTILE)}
    found = told(night(hosts, inputs=inputs), looks={each: look(reboot_reasons=[other]) for each in hosts})
    assert {labels[0] for labels in of(found, "input_last_modified_timestamp_seconds")} == plain
    assert set(found["node_reboot_required"]) == {(each,) for each in plain}
    assert {reason for _, reason in of(found, "host_reboot_reason")} <= {*_metrics._REBOOT_REASONS, "other"}


@pytest.mark.parametrize(
    "answer", [None, [], "x", {}, {"last": 1, "reboot_reasons": 7, "transaction": "x", "deferrals": 2}]
)
def test_a_host_that_talks_nonsense_spoils_nothing(answer: Any):
    found = told(FULL_NIGHT, looks={**FULL_LOOKS, "web": answer})
    assert of(found, "host_outcome") == of(read(FULL), "host_outcome")


def test_it_takes_what_a_night_hands_on():
    nights = {
        "web": {
            "outcome": "updated",
            "reason": "",
            "evidence": {
                "probe": {"systems": {"current": SYSTEM}},
                "activation": {"durations": {"test": 2.1}},
                "reboot": {"rebooted": True, "elapsed": 31.4},
            },
        }
    }
    locked = {"url": "x", "rev": "1", "last_modified": 5, "nar_hash": "y"}
    prepare = {"inputs": [{"path": "nixpkgs", "before": None, "after": locked}], "lock_hash": "9f"}
    handed = _artifacts.artifacts(
        nights, prepare, run_id="a", began=BEGAN, seconds=72.4, dry_run=False, failure="It failed."
    )
    found = told(handed)
    assert of(found, "host_phase_duration_seconds") == {("web", "activation"): 2.1, ("web", "reboot"): 31.4}
    assert of(found, "input_last_modified_timestamp_seconds") == {("nixpkgs",): 5}
    assert of(found, "run_success") == {(): 0}


# ---- alerts, dashboard, page ------------------------------------------------------------------------------------
ALERTS = yaml.safe_load((ROOT / "monitoring/alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
ALERT_TESTS = yaml.safe_load((ROOT / "tests/monitoring/alerts.yml").read_text())
DASHBOARD = json.loads((ROOT / "monitoring/dashboard.json").read_text())
PAGE = (ROOT / "docs/monitoring.md").read_text()
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {f"{panel['title']}: {one['refId']}": one["expr"] for panel in PANELS for one in panel["targets"]}
EXPRESSIONS = {**{rule["alert"]: rule["expr"] for rule in RULES}, **QUERIES}
# the functions, operators and keywords of PromQL that they have; anything else would be a metric or a label
PROMQL = {
    *("absent", "and", "by", "count", "group", "max", "max_over_time", "min_over_time", "offset", "on", "or", "sum"),
    *("time", "unless", "without"),
}
ADDED_BY_THE_SCRAPE = {"instance", "job"}


def selectors(expression: str) -> dict[str, set[str]]:
    """The metrics of an expression, each with the labels by which it is selected."""
    found: dict[str, set[str]] = {}
    for name, matchers in re.findall(r"\b((?:lab|node)_\w+)(?:\{([^}]*)\})?", expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
    return found


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_an_expression_asks_for_metrics_and_labels_that_there_are(expression: str):
    asked = selectors(expression)
    assert asked and set(asked) <= set(_metrics.FAMILIES)
    labels = ADDED_BY_THE_SCRAPE.union(*(_metrics.FAMILIES[name].labels for name in asked))
    for name, selected in asked.items():
        assert selected <= {*_metrics.FAMILIES[name].labels, *ADDED_BY_THE_SCRAPE}
    bare = re.sub(r'"[^"]*"|\[[^]]*\]|\b\d+\w*', "", expression)
    assert set(re.findall(r"\b[a-z_]+\b", bare)) - set(asked) - labels <= PROMQL


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_an_expression_speaks_of_words_that_there_are(expression: str):
    words = {"outcome": set(get_args(Word)), "phase": set(_metrics.PHASES), "reason": set(_metrics.REASONS)}
    for label, values in re.findall(r'\b(outcome|phase|reason)=~?"([^"$]*)"', expression):
        assert set(values.split("|")) <= words[label]


def test_each_metric_is_on_the_dashboard():
    assert set().union(*map(selectors, QUERIES.values())) == set(_metrics.FAMILIES)


def test_each_panel_has_a_query_of_the_datasource_that_is_chosen_a_place_and_an_explanation():
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    assert variables["host"]["datasource"] == chosen
    assert len(PANELS) >= 10
    places: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["datasource"] == chosen and panel["targets"] and panel["title"] and panel["description"]
        assert all(target["datasource"] == chosen for target in panel["targets"])
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & places and at["x"] + at["w"] <= 24
        places |= cells
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identities)) == len(identities)
    # a dashboard that is imported has no identity of another one's
    assert DASHBOARD["id"] is None


def test_nothing_on_the_dashboard_is_fetched_from_elsewhere():
    assert not re.search(r"https?://", json.dumps(DASHBOARD))


def test_an_alert_says_what_is_wrong_how_bad_that_is_and_what_to_do():
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 6
    playbooks = {file.name for file in (ROOT / "playbooks").glob("*.yml")} | {"nightly.yml"}
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
        named = re.findall(r"(?:playbooks/)?(\w+\.yml)", rule["annotations"]["description"])
        assert named or "systemctl" in rule["annotations"]["description"]
        assert set(named) <= playbooks
        for label in re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])):
            known = {label for name in selectors(rule["expr"]) for label in _metrics.FAMILIES[name].labels}
            assert label in known | ADDED_BY_THE_SCRAPE


def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not():
    fires: dict[str, set[bool]] = {rule["alert"]: set() for rule in RULES}
    for test in ALERT_TESTS["tests"]:
        for case in test["alert_rule_test"]:
            fires[case["alertname"]].add(bool(case["exp_alerts"]))
    assert fires == {rule["alert"]: {True, False} for rule in RULES}


def test_the_series_of_the_tests_of_alerts_are_metrics_that_there_are():
    for test in ALERT_TESTS["tests"]:
        for series in test["input_series"]:
            ((name, labels),) = selectors(series["series"]).items()
            assert labels == {*_metrics.FAMILIES[name].labels, *ADDED_BY_THE_SCRAPE}


def test_the_page_has_each_metric_with_its_labels_and_each_alert():
    rows = dict(re.findall(r"^\| `((?:lab|node)_\w+)` \| ([^|]*)\|", PAGE, re.MULTILINE))
    assert {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows.items()} == {
        name: family.labels for name, family in _metrics.FAMILIES.items()
    }
    named = dict(re.findall(r"^\| `(Lab\w+)` \| (\w+) \|", PAGE, re.MULTILINE))
    assert named == {rule["alert"]: rule["labels"]["severity"] for rule in RULES}
    assert set(re.findall(r"`([a-z_]+)`", PAGE.split("reasons of deferrals")[1].split("\n\n")[0])) == set(
        _metrics.REASONS
    )
    assert _metrics.FILE in PAGE and _metrics.FILE.endswith(".prom")
