"""What AWX keeps of a night."""

from __future__ import annotations

import json
from typing import Any, get_args

from ansible_collections.homelab.nixos.plugins.module_utils import _artifacts
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import Word

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
SEEN = {"probe": {"systems": {"current": OLD}}}
NIGHTS: dict[str, dict[str, Any]] = {
    "web": {
        "outcome": "updated",
        "reason": "",
        "evidence": {
            **SEEN,
            "copy": {"durations": {"total": 3.2}, "span": {"began": 1795312830.2, "seconds": 3.4}},
            "activation": {
                "durations": {"test": 2.1, "boot": 0.8},
                "packages": {
                    "changed": [{"name": "hello", "before": ["1.0"], "after": ["1.1"]}],
                    "closure_delta": 13_212_057,
                },
            },
            "reboot": {"rebooted": True, "elapsed": 31.4},
            "reboot_verification": {"span": {"began": 1795312870.0, "seconds": 2.0}},
            "proof": {"systems": {"current": NEW}, "span": {"began": 1795312873.0, "seconds": 0.4}},
        },
    },
    "dev": {
        "outcome": "rolled_back",
        "reason": "Its unit web.service failed; see https://me:hunter2@git.example/log?token=hunter2.",
        "evidence": {
            **SEEN,
            "copy": {"skipped": True},
            "activation": {"durations": {"test": 2.1}},
            "rollback": {"durations": {"rollback": 4.0}},
            "rollback_proof": {"systems": {"current": OLD}},
        },
    },
    "nas": {"outcome": "unreachable", "reason": "No route to host.", "evidence": {"probe": {"failed": True}}},
    "dns": {"outcome": "unreachable", "reason": "It was never looked at.", "evidence": {}},
}
LOCKED = {
    "url": "git+https://hunter2@git.example/x",
    "rev": "1a2b",
    "last_modified": 1795204545,
    "nar_hash": "sha256-x",
}
PREPARE = {
    "inputs": [
        {"path": "nixpkgs", "before": {**LOCKED, "more": 1}, "after": {**LOCKED, "rev": None}, "compare": "https://x"},
        {"path": "gone", "before": LOCKED, "after": None, "compare": None},
    ],
    "lock_hash": "9f44",
    "durations": {"update": 1.9, "build": 41.8, "total": 44.1},
    "span": {"began": 1795312802.0, "seconds": 45.0},
    "systems": {"web": NEW},
}


def artifacts(**change: Any) -> dict[str, Any]:
    given = {"run_id": "20261122T020000Z-7f3a", "began": 1795312800.25, "seconds": 72.44, "dry_run": False}
    return _artifacts.artifacts(
        change.pop("nights", NIGHTS), change.pop("prepare", PREPARE), **{**given, "failure": "", **change}
    )


def test_each_host_is_in_the_list_of_its_outcome_and_all_lists_are_there():
    lists = artifacts()["outcomes"]
    assert list(lists) == list(get_args(Word))
    assert {word: hosts for word, hosts in lists.items() if hosts} == {
        "updated": ["web"],
        "rolled_back": ["dev"],
        "unreachable": ["dns", "nas"],
    }


def test_a_host_says_where_it_came_from_where_it_is_and_how_long_that_took():
    hosts = artifacts()["hosts"]
    assert list(hosts) == ["dev", "dns", "nas", "web"]
    assert hosts["web"] == {
        "outcome": "updated",
        "reason": "",
        "before": OLD,
        "after": NEW,
        "rebooted": True,
        "changes": ["hello 1.0 → 1.1"],
        "closure_delta": 13_212_057,
        "durations": {"copy": 3.2, "activation": 2.9, "reboot": 31.4},
        "spans": [
            {"step": "copy", "began": 1795312830.2, "seconds": 3.4},
            {"step": "verification", "began": 1795312870.0, "seconds": 2.0},
        ],
    }
    assert (hosts["dev"]["before"], hosts["dev"]["after"]) == (OLD, OLD)
    assert hosts["dev"]["durations"] == {"activation": 2.1, "rollback": 4.0}
    assert (hosts["dev"]["changes"], hosts["dev"]["closure_delta"]) == ([], None)
    assert (hosts["nas"]["before"], hosts["nas"]["after"], hosts["nas"]["durations"]) == (None, None, {})


def test_a_host_was_seen_last_where_the_last_of_its_steps_left_it():
    activated = {**SEEN, "activation": {"activated": True, "after": {"system": NEW}}}
    refused = {**SEEN, "activation": {"activated": False, "after": {"system": NEW}}}
    put_back = {**activated, "rollback": {"activated": True, "system": OLD}}
    stuck = {**activated, "rollback": {"activated": False, "system": OLD}}
    for evidence, system in ((activated, NEW), (refused, OLD), (put_back, OLD), (stuck, NEW), (SEEN, OLD), ({}, None)):
        told = artifacts(nights={"web": {"outcome": "lost", "reason": "", "evidence": evidence}})
        assert told["hosts"]["web"]["after"] == system


def test_the_inputs_are_what_they_were_and_what_they_are():
    told = artifacts()
    assert [each["path"] for each in told["inputs"]] == ["nixpkgs", "gone"]
    assert told["inputs"][0]["before"]["rev"] == "1a2b"
    assert set(told["inputs"][0]["before"]) == {"url", "rev", "last_modified", "nar_hash"}
    assert told["inputs"][1]["after"] is None
    assert [each["compare"] for each in told["inputs"]] == ["https://x", None]
    assert told["lock_hash"] == "9f44"


def test_the_run_says_who_it_was_how_long_it_took_and_how_it_ended():
    told = artifacts(failure="Ended badly: dev (rolled_back).", dry_run=True)
    wanted = ("version", "run_id", "dry_run", "failed", "failure", "began")
    assert [told[name] for name in wanted] == [
        *(1, "20261122T020000Z-7f3a", True, True, "Ended badly: dev (rolled_back).", 1795312800)
    ]
    assert told["durations"] == {"update": 1.9, "build": 41.8, "total": 72.4}
    assert not artifacts()["failed"]


def test_the_whole_night_has_the_time_of_its_inputs_and_of_its_builds_after_them():
    assert artifacts()["spans"] == [
        {"step": "update", "began": 1795312802.0, "seconds": 1.9},
        {"step": "build", "began": 1795312803.9, "seconds": 41.8},
    ]
    assert artifacts(prepare={"failed": True})["spans"] == []


def test_what_each_host_said_last_is_known_with_the_count_of_now():
    known = _artifacts.knowledge(NIGHTS, {"web": {"deferrals": None}, "dev": {"failed": True}})
    assert known == {
        "web": {**NIGHTS["web"]["evidence"]["proof"], "deferrals": None},
        "dev": {"systems": {"current": OLD}},
    }


def test_no_secret_is_told():
    told = json.dumps(artifacts(failure="https://me:hunter2@git.example could not be fetched."))
    assert "hunter2" not in told
    assert "https://***@git.example/log?token=***" in told


def test_they_are_plain_values_also_when_nothing_was_prepared_and_of_ansibles_own_types():
    class Word(str):
        pass

    night = {"outcome": Word("failed"), "reason": Word("No.")}
    told = artifacts(nights={Word("web"): night}, prepare={"failed": True, "msg": "No."})
    assert json.loads(json.dumps(told)) == told
    assert (told["inputs"], told["lock_hash"], told["durations"]) == ([], None, {"total": 72.4})
    assert type(told["hosts"]["web"]["reason"]) is str
    assert {type(key) for key in told["hosts"]} == {str}
