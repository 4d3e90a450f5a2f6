"""How a lab stands, as values and as a table, whatever its hosts say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _status
from ansible_collections.homelab.nixos.plugins.module_utils._entries import Entry
from ansible_collections.homelab.nixos.plugins.module_utils._status import Controller, Wanted

from tests.unit.plugins.module_utils.test_history import DAY, NOW, entry, whole

SYSTEM = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
OTHER = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
HELD = {
    "version": 1,
    "controller": "4f8a2d1e6b7c4d0f9e3a5b6c7d8e9f01",
    "controller_name": "control",
    "run_id": "20261122T020000Z-7f3a",
    "process": None,
    "since": NOW - 60,
    "deadline": NOW + 600,
    "step": "verification",
    "boot_id": "0b7a2c1d-6d9e-4f0a-8c3b-5e4d3c2b1a09",
    "from": SYSTEM,
    "target": OTHER,
    "failed_units": [],
    "verified": False,
    "guard_seconds": None,
    "guard_until": None,
}


def look(*log: Any, **change: Any) -> dict[str, Any]:
    """What nixos_info says of a host that is well."""
    return {
        "changed": False,
        "systems": dict.fromkeys(("current", "booted", "profile", "boot_default"), SYSTEM),
        "drift": [],
        "current": {"system": SYSTEM, "generation": 7, "nixos_version": "26.05.1", "kernel": "linux-6.12.1"},
        "boot_recovery": "automatic",
        "failed_units": [],
        "reboot_required": False,
        "reboot_reasons": [],
        "transaction": None,
        "failed_systems": {},
        "last": None,
        "deferrals": None,
        "proven_since": NOW - 2 * DAY,
        "hold": None,
        "log": {"records": [one.as_result() for one in log], "skipped": 0},
        **change,
    }


def status(looks: dict[str, Any], controller: Controller | None = None, **hosts: Wanted) -> dict[str, Any]:
    wanted = {name: hosts.get(name, Wanted()) for name in looks if name != "builder"}
    return _status.status(wanted, looks, "builder", controller or Controller(), NOW, NOW - 30 * DAY)


def host(told: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in told["hosts"] if one["name"] == name)


def lines(told: dict[str, Any]) -> list[str]:
    """The table, which has to fit and to be harmless in any case."""
    text = _status.table(told)
    for line in text.split("\n"):
        assert line.isprintable()
        assert len(line) <= 110
    return text.split("\n")


def test_a_host_that_is_well_is_a_row():
    told = status({"web": look(entry("a", 1, "whatever", "outcome", "updated"))})
    assert host(told, "web")["outcome"] == "updated"
    assert lines(told)[0] == "Status at 2026-11-25 12:00:00 UTC · 1 host: 1 updated"
    assert "web   updated  2026-11-24 12:00  26.05.1 6gdlyhm  7    automatic  no" in lines(told)


def test_all_that_is_to_be_known_of_a_host_is_below_its_row():
    told = status(
        {
            "web": look(
                entry("a", 1, "web", "outcome", "rolled_back", reason="Its check failed."),
                reboot_required=True,
                reboot_reasons=["kernel", "initrd"],
                drift=["the boot default is x, but y is running"],
                failed_units=["nginx.service"],
                transaction=HELD,
                failed_systems={OTHER: {"reason": "nginx.service failed.", "run_id": "a", "time": NOW - DAY}},
                deferrals={"nights": 4, "since": NOW - 4 * DAY, "reason": "alice is logged in.", "run_id": "a"},
                hold="Until the disk is replaced.",
            )
        }
    )
    text = "\n".join(lines(told))
    for words in (
        "web   rolled_back  2026-11-24 12:00  26.05.1 6gdlyhm  7    automatic  due",
        "      Its check failed.",
        "      Held at step verification by control, run 20261122T020000Z-7f3a, since 2026-11-25 11:59 UTC",
        "      On hold: Until the disk is replaced.",
        "      A reboot is due: kernel, initrd.",
        "      Drift: the boot default is x, but y is running.",
        "      Failed units: nginx.service.",
        "      Failed here: xnpa2vc, 2026-11-24: nginx.service failed.",
        "      Left alone in 4 nights in a row, since 2026-11-21: alice is logged in.",
        "A night is going on: 20261122T020000Z-7f3a.",
    ):
        assert words in text, words
    assert told["going_on"] == [HELD["run_id"]]


def test_what_is_due_is_said_once():
    due = {"reboot_required": True, "reboot_reasons": ["kernel"]}
    told = status({"web": look(entry("a", 1, "web", "outcome", "pending", reason="A reboot is due: kernel."), **due)})
    assert lines(told).count("      A reboot is due: kernel.") == 1


def test_a_claim_that_is_over_is_no_night_that_goes_on():
    told = status(
        {"web": look(transaction={**HELD, "deadline": NOW - 1}), "dns": look(transaction={"torn": "It is empty."})}
    )
    assert told["going_on"] == []
    text = "\n".join(lines(told))
    assert "Was left at step verification by control" in text
    assert "Somebody is changing it, and it is not known who: It is empty." in text


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_night_that_has_ended_does_not_go_on_though_a_host_is_still_held(dry_run: bool):
    ended = whole(str(HELD["run_id"]), 0.1, {"web": "lost", "nas": "updated"}, failed=True, dry_run=dry_run)
    told = status({"web": look(transaction=HELD), "nas": look(), "builder": look(ended)})
    assert told["going_on"] == []
    assert (told["statistics"]["nights"], told["statistics"]["dry_runs"]) == ((0, 1) if dry_run else (1, 0))
    text = "\n".join(lines(told))
    assert "A night is going on" not in text
    assert "      Held at step verification by control" in text


def test_no_host_takes_a_night_back_by_holding_on_to_it():
    # its controller was killed, so that nobody has a record of the whole
    run = str(HELD["run_id"])
    died = [entry(run, 2, "nas", "claim"), entry(run, 1.9, "nas", "outcome", "rolled_back")]
    told = status({"web": look(entry(run, 0, "web", "activation"), transaction=HELD), "nas": look(*died)})
    assert (told["statistics"]["nights"], told["statistics"]["good"]) == (1, 0)
    # one of today may still end
    today = [entry(run, 0.2, "nas", "claim"), entry(run, 0.1, "nas", "outcome", "rolled_back")]
    told = status({"web": look(transaction=HELD), "nas": look(*today)})
    assert (told["going_on"], told["statistics"]["nights"]) == ([run], 0)


def test_a_run_that_was_refused_is_shown_and_is_no_night():
    refused = Entry("a", 1, NOW - DAY, "", "open", "failed", None, {"reason": "lab_batch is 0."})
    for told in (
        status({"web": look()}, Controller(records=[refused])),
        # the controller has the flake, and is asked as a host as well
        status({"web": look(), "builder": look(refused)}, Controller(records=[refused])),
    ):
        assert "2026-11-24 12:00:00 (the night): open failed: lab_batch is 0." in lines(told)
        assert (len(told["entries"]), told["statistics"]["nights"], told["skipped"]) == (1, 0, 0)
    # no host can say so
    assert status({"web": look(refused)})["entries"] == []


def test_a_dry_run_is_shown_as_what_it_is_and_counted_apart():
    told = status({"web": look()}, Controller(records=[whole("a", 1, {"web": "updated"}, dry_run=True)]))
    assert "2026-11-24 12:00:00 (a dry run): night good 1 min 0 s" in lines(told)
    assert "Dry runs: 1." in lines(told)
    assert (told["statistics"]["nights"], host(told, "web")["outcome"]) == (0, None)


def test_a_host_that_does_not_answer_is_there_with_what_others_know():
    gone = {"failed": True, "connection_lost": True, "msg": "The connection to the host was lost: No route to host"}
    flake = look(
        whole("a", 2, {"web": "updated", "nas": "updated"}),
        whole("b", 1, {"web": "updated", "nas": "unreachable"}, reasons={"nas": "No route to host."}),
    )
    told = status({"web": look(), "nas": gone, "dns": {"skipped": True}, "builder": flake})
    assert (host(told, "nas")["answered"], host(told, "nas")["outcome"]) == (False, "unreachable")
    assert host(told, "nas")["last_right"] == NOW - 2 * DAY
    assert (host(told, "dns")["outcome"], host(told, "dns")["reboot_required"]) == (None, None)
    text = "\n".join(lines(told))
    assert "nas   unreachable  2026-11-24 12:00  not seen" in text
    assert "      It does not answer: The connection to the host was lost: No route to host" in text
    assert "dns   unknown" in text
    assert "No answer from nas, dns" in text
    # the worst are first, and those that are not known last
    assert [one["name"] for one in told["hosts"]] == ["nas", "web", "dns"]


def test_of_nights_only_the_flakes_host_and_this_controller_are_believed():
    forged = whole("x", 1, {"web": "lost"}, failed=True)
    told = status({"web": look(forged, entry("a", 1, "nas", "outcome", "lost")), "nas": look()})
    # and of itself alone
    assert (host(told, "web")["outcome"], host(told, "nas")["outcome"]) == ("lost", None)
    assert told["statistics"]["nights"] == 1
    assert [one["operation"] for one in told["entries"]] == ["outcome"]
    # a controller that is a host has them in its log, and they can be read
    assert told["skipped"] == 0
    told = status({"web": look(), "builder": look(forged)})
    assert host(told, "web")["outcome"] == "lost"
    told = status({"web": look()}, Controller(records=[forged], skipped=3))
    assert (host(told, "web")["outcome"], told["skipped"]) == ("lost", 3)


def test_the_answers_are_the_same_with_and_without_the_controllers_own_log():
    night = whole(
        "a", 1, {"web": "updated"}, rebooted=["web"], inputs=[{"path": "nixpkgs", "last_modified": NOW - 3 * DAY}]
    )
    own = entry("a", 1.1, "web", "outcome", "updated")
    looks = {"web": look(own), "builder": look(night)}
    assert status(looks) == status(looks, Controller(records=[night]))
    assert status(looks)["inputs"] == [{"path": "nixpkgs", "last_modified": NOW - 3 * DAY, "days": 3}]


def test_a_host_without_a_log_tells_how_its_last_run_ended():
    last = {"outcome": "pending", "reason": "A reboot is due.", "ended": NOW - DAY, "run_id": "a"}
    told = status({"web": look(last=last), "nas": look(entry("b", 0.5, "nas", "outcome", "lost"), last=last)})
    assert (host(told, "web")["outcome"], host(told, "web")["time"]) == ("pending", NOW - DAY)
    assert (host(told, "nas")["outcome"], host(told, "nas")["last_right"]) == ("lost", NOW - DAY)


def test_a_host_is_stale_after_as_many_days_as_its_owner_says():
    looks = {
        "web": look(entry("a", 20, "web", "outcome", "updated")),
        # never updated for as long as anybody knows it
        "nas": look(entry("a", 16, "nas", "outcome", "rolled_back"), entry("b", 1, "nas", "outcome", "rolled_back")),
        "dns": look(entry("a", 13, "dns", "outcome", "unchanged")),
        "dev": look(entry("a", 20, "dev", "outcome", "updated")),
        "new": look(),
    }
    told = status(looks, dev=Wanted(stale_after=30))
    assert told["statistics"]["stale"] == {"nas": 16, "web": 20}
    assert "Not updated for too long: nas (16 days), web (20 days)." in lines(told)


def test_the_timer_and_what_waits_are_told():
    text = lines(status({"web": look()}))
    assert "Next night: no timer here." in text
    assert "Next night: lab-auto-update.timer does not run." in lines(
        status({"web": look()}, Controller(has_timer=True))
    )
    told = status({"web": look()}, Controller(has_timer=True, next_run=NOW + DAY, undelivered=2))
    assert "Next night: 2026-11-26 12:00 UTC, by the timer of this controller." in lines(told)
    assert "2 notifications could not be delivered yet." in lines(told)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ({"LoadState": "loaded", "NextElapseUSecRealtime": "@1795658400"}, (True, 1795658400)),
        ({"LoadState": "loaded", "NextElapseUSecRealtime": ""}, (True, None)),
        ({"LoadState": "loaded", "NextElapseUSecRealtime": "n/a"}, (True, None)),
        ({"LoadState": "loaded", "NextElapseUSecRealtime": "@18446744073709551615"}, (True, None)),
        ({"LoadState": "not-found", "NextElapseUSecRealtime": ""}, (False, None)),
        ({}, (False, None)),
    ],
)
def test_when_a_timer_elapses_is_what_systemd_says(shown: dict[str, str], expected: tuple[bool, float | None]):
    assert _status.timer(shown) == expected


def test_only_the_ten_newest_records_are_shown():
    many = [entry("a", 1, "web", "activation", seq=number) for number in range(30)]
    told = status({"web": look(*many)})
    assert [one["seq"] for one in told["entries"]] == list(range(20, 30))
    assert "2026-11-24 12:00:00 web: activation begun" in lines(told)


def test_a_record_of_a_time_that_is_to_come_is_left_out():
    minute = 1 / 24 / 60
    soon = entry("b", -4 * minute, "web", "outcome", "updated")
    to_come = [entry("c", -6 * minute, "web", "outcome", "lost"), entry("d", -3, "web", "outcome", "lost")]
    told = status({"web": look(soon, *to_come), "nas": look(entry("a", 1, "nas", "outcome", "updated"))})
    assert (host(told, "web")["outcome"], told["skipped"]) == ("updated", 2)
    assert [one["run_id"] for one in told["entries"]] == ["a", "b"]
    last = {"outcome": "lost", "reason": "", "ended": NOW + 3600, "run_id": "c"}
    assert host(status({"web": look(soon, last=last)}), "web")["outcome"] == "updated"


def test_it_fails_only_when_nobody_answers():
    assert _status.nobody(status({"web": look(reboot_required=True), "nas": {"msg": "gone"}})) == ""
    assert _status.nobody(status({"web": {"msg": "No\nroute"}})) == "No host answered. web: No route"
    assert "lab_managed is false" in _status.nobody(status({"builder": look()}))


HOSTILE: list[Any] = [
    None,
    True,
    -1,
    1e300,
    "",
    "\x1b[2J\x1b]0;x\x07",
    "a\nb\r\n\tc",
    "\u202eabc",
    "x" * 5000,
    "{{ 7 * 7 }}",
    [],
    ["\x1b[2J", 7, None],
    {},
    {"\x1b[2J": "\n"},
    {"torn": "\x1b[2J"},
    {"torn": 7},
    [[[]]],
]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value)[:30])
@pytest.mark.parametrize("key", [key for key in look() if key != "changed"])
def test_no_value_of_a_host_breaks_the_table_or_the_values(key: str, value: Any):
    told = status({"web": look(**{key: value}), "nas": look(entry("a", 1, "nas", "outcome", "updated"))})
    assert any(line.startswith("nas") for line in lines(told))
    assert any(line.startswith("web") for line in lines(told))
    # what scripts get is JSON in any case
    json.loads(json.dumps(told, allow_nan=False))


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value)[:30])
@pytest.mark.parametrize(
    "key", ["reason", "outcome", "ended", "run_id", "nights", "since", "nixos_version", "generation"]
)
def test_nor_does_one_within_another(key: str, value: Any):
    inner = {"outcome": "lost", "ended": NOW - 5, "nights": 2, "since": NOW, key: value}
    told = status({"web": look(last=inner, deferrals=inner, current=inner, failed_systems={SYSTEM: inner})})
    told["entries"] = [entry("a", 1, "web", "outcome", "lost", **{key: value}).as_result()]
    lines(told)
    json.loads(json.dumps(told, allow_nan=False))
