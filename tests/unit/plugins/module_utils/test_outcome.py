"""Outcomes: pessimistic until proven."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _outcome

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"


def look(system: str, reasons: tuple[str, ...] = (), **systems: str) -> dict[str, object]:
    return {
        "systems": {"current": system, "profile": system, "boot_default": system, "booted": system, **systems},
        "drift": [],
        "reboot_required": bool(reasons),
        "reboot_reasons": list(reasons),
    }


WELL = {"healthy": True}
ILL = {"failed": True, "healthy": False, "checks": [{"name": "disk"}], "msg": "The disk is full."}
LOST = {"failed": True, "connection_lost": True, "msg": "No route to host"}
SKIPPED = {"skipped": True, "changed": False}
READY = {"probe": look(OLD), "gate": WELL, "prepare": {"systems": {"web": NEW}}, "copy": {"changed": True}}
CLAIMED = {**READY, "claim": {"changed": True}}
BEGUN = {**CLAIMED, "look_again": look(OLD), "gate_again": WELL}
ACTIVATED = {**BEGUN, "activation": {"changed": True, "activated": True, "ending": "ok"}, "verification": WELL}
COMMITTED = {**ACTIVATED, "commit": {"changed": True}}
BROKEN = {
    **BEGUN,
    "activation": {"changed": True, "failed": True, "ending": "units_failed", "msg": "Units failed: web.service."},
}


def word(evidence: dict[str, object], **options: Any) -> str:
    return _outcome.outcome(evidence, NEW, **options).word


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ({}, "unreachable"),
        ({"probe": LOST}, "unreachable"),
        ({"probe": {"unreachable": True, "msg": "timed out"}}, "unreachable"),
        ({"probe": {"failed": True, "msg": "no Python"}}, "deferred"),
        ({"probe": look(OLD)}, "deferred"),
        ({"probe": look(OLD), "gate": LOST}, "unreachable"),
        ({**READY, "gate": ILL}, "deferred"),
        ({**READY, "probe": {**look(OLD), "drift": ["the boot default is another"]}}, "deferred"),
        ({**READY, "prepare": {"failed": True, "msg": "error: no such input"}}, "held"),
        ({**READY, "probe": look(NEW)}, "unchanged"),
        ({**READY, "copy": {"failed": True, "msg": "no such cache"}}, "failed"),
        ({**READY, "copy": {"failed": True, "no_space": True, "msg": "no room"}}, "deferred"),
        ({**READY, "copy": LOST}, "failed"),
        (READY, "held"),
        ({**READY, "settle": {"failed": True, "held_by": {"run_id": "b"}, "msg": "It is held by b."}}, "deferred"),
        ({**READY, "settle": {"failed": True, "msg": "torn"}}, "deferred"),
        ({**READY, "settle": {"failed": True, "outcome": "rollback_failed", "msg": "not back"}}, "rollback_failed"),
        ({**READY, "settle": LOST}, "lost"),
        ({**READY, "settle": {"changed": True, "outcome": "rolled_back"}}, "held"),
        ({**READY, "claim": {"failed": True, "held_by": {"run_id": "b"}, "msg": "It is held by b."}}, "deferred"),
        ({**READY, "claim": LOST}, "failed"),
        ({**CLAIMED, "look_again": LOST}, "failed"),
        ({**CLAIMED, "look_again": look(NEW)}, "deferred"),
        ({**CLAIMED, "look_again": {**look(OLD), "boot_id": "another"}}, "deferred"),
        ({**BEGUN, "gate_again": ILL}, "deferred"),
        ({**BEGUN, "gate_again": LOST}, "failed"),
        ({**BEGUN, "activation": {"failed": True, "ending": "not_begun", "msg": "not on this host"}}, "failed"),
        ({**BEGUN, "activation": {"failed": True, "ending": "unknown", "changed": True, "msg": "gone"}}, "lost"),
        ({**BEGUN, "activation": {"failed": True, "msg": "MODULE FAILURE"}}, "lost"),
        ({**BEGUN, "activation": {"failed": True, "changed": False, "ending": "reboot_needed", "msg": "."}}, "held"),
        ({**BEGUN, "activation": LOST}, "lost"),
        (BROKEN, "lost"),
        (ACTIVATED, "lost"),
        (COMMITTED, "lost"),
        ({**COMMITTED, "proof": LOST}, "lost"),
        ({**COMMITTED, "proof": look(OLD)}, "lost"),
        ({**COMMITTED, "proof": look(NEW, boot_default=OLD)}, "lost"),
        ({**COMMITTED, "reboot": SKIPPED, "proof": look(NEW)}, "updated"),
        ({**COMMITTED, "proof": look(NEW, ("kernel",))}, "pending"),
        ({**COMMITTED, "verification": ILL, "proof": look(NEW)}, "lost"),
        ({**COMMITTED, "verification": SKIPPED, "proof": look(NEW)}, "lost"),
        ({**COMMITTED, "reboot": {"rebooted": False, "msg": "never went down"}, "proof": look(NEW)}, "pending"),
        ({**COMMITTED, "reboot": {"rebooted": True}, "proof": look(NEW, booted=OLD)}, "lost"),
        ({**COMMITTED, "reboot": {"rebooted": True}, "reboot_verification": ILL, "proof": look(NEW)}, "lost"),
        ({**COMMITTED, "reboot": {"rebooted": True}, "reboot_verification": WELL, "proof": look(NEW)}, "updated"),
        ({**COMMITTED, "proof": look(NEW), "goodbye": {"failed": True, "msg": "timed out"}}, "lost"),
        ({**COMMITTED, "reboot": {"failed": True, "connection_lost": True, "msg": "did not answer"}}, "lost"),
        ({**BROKEN, "rollback": LOST}, "rollback_failed"),
        ({**BEGUN, "activation": LOST, "rollback": LOST}, "lost"),
        ({**BROKEN, "rollback": {"failed": True, "msg": "activate failed"}}, "rollback_failed"),
        ({**BROKEN, "rollback": {"changed": True}}, "rollback_failed"),
        ({**BROKEN, "rollback": {}, "rollback_verification": WELL, "rollback_proof": look(OLD)}, "lost"),
        (
            {**BROKEN, "rollback": {"changed": True}, "rollback_verification": WELL, "rollback_proof": look(OLD)},
            "rolled_back",
        ),
        (
            {**BROKEN, "rollback": {"changed": True}, "rollback_verification": ILL, "rollback_proof": look(OLD)},
            "rolled_back",
        ),
        (
            {**BROKEN, "rollback": {"changed": True}, "rollback_verification": WELL, "rollback_proof": look(NEW)},
            "rollback_failed",
        ),
    ],
)
def test_the_outcome_is_what_was_seen(evidence, expected):
    assert word(evidence) == expected


def test_a_host_with_the_target_and_a_reboot_due_goes_on_to_the_rollout():
    told = _outcome.outcome({**READY, "probe": look(NEW, ("kernel",))}, NEW)
    assert not told.decided


def test_a_host_without_room_is_deferred_with_both_figures():
    words = "The store of web has no room for web-1: 2.0 GiB are needed and 1.0 GiB are free. Make room there."
    told = _outcome.outcome({**READY, "copy": {"failed": True, "no_space": True, "msg": words}}, NEW)
    assert (told.word, told.reason, told.decided) == ("deferred", words, True)


def test_a_host_whose_turn_did_not_come_is_not_decided():
    assert not _outcome.outcome(READY, NEW).decided


BACK = {**BROKEN, "rollback": {"changed": True}, "rollback_verification": WELL, "rollback_proof": look(OLD)}


def test_a_system_that_failed_is_remembered_only_when_the_old_one_is_well_under_the_same_checks():
    assert _outcome.outcome(BACK, NEW).remember
    ill = _outcome.outcome({**BACK, "rollback_verification": ILL}, NEW)
    assert not ill.remember
    assert "Not caused by the update" in ill.reason
    unasked = _outcome.outcome({**BACK, "rollback_verification": LOST}, NEW)
    assert not unasked.remember
    assert "could not be told: No route to host" in unasked.reason
    for evidence in ({**BACK, "rollback_proof": look(NEW)}, {**BROKEN, "rollback": LOST}, {**BEGUN, "gate_again": ILL}):
        assert not _outcome.outcome(evidence, NEW).remember


def test_a_system_that_failed_here_is_held_until_it_changes_or_a_person_says_so():
    failed = {"reason": "Units failed: web.service.", "run_id": "20261121T020000Z-7f3a", "time": 1}
    evidence = {**READY, "probe": {**look(OLD), "failed_systems": {NEW: failed}}}
    told = _outcome.outcome(evidence, NEW)
    assert (told.word, told.decided) == ("held", True)
    assert "Units failed: web.service." in told.reason
    assert "20261121T020000Z-7f3a" in told.reason
    assert not _outcome.outcome(evidence, NEW, retry_failed=True).decided
    assert not _outcome.outcome(evidence, NEW.replace("xnpa", "anpa")).decided


def test_a_boot_that_is_tried_first_ends_as_updated_only_after_the_boot_default_moved():
    inhibited = {"changed": False, "ending": "reboot_needed", "activated": False}
    booted = {
        **BEGUN,
        "activation": inhibited,
        "boot_once": {"changed": True},
        "reboot": {"rebooted": True},
        "reboot_verification": WELL,
    }
    assert _outcome.must_be_put_back(booted, NEW)
    assert word({**booted, "proof": look(NEW, boot_default=OLD)}) != "updated"
    done = {**booted, "commit_booted": {"changed": True}, "proof": look(NEW)}
    assert word(done) == "updated"
    assert not _outcome.must_be_put_back(done, NEW)


def test_a_host_that_reboots_after_the_night_is_pending_and_nothing_of_it_is_put_back():
    later = {**ACTIVATED, "boot_once": {"changed": True}, "reboot": {"later": True, "rebooted": False}}
    told = _outcome.outcome(later, NEW)
    assert (told.word, told.bad, told.remember) == ("pending", False, False)
    assert "when the night has closed" in told.reason
    assert _outcome.reboots_later(later, NEW) == NEW
    # the activation may be what only a reboot can make
    refused = {"failed": True, "changed": False, "ending": "reboot_needed", "reboot_reasons": ["inhibitor"]}
    assert word({**BEGUN, "activation": refused, "reboot": later["reboot"]}) == "pending"
    # what fails after that takes the host back
    failed = {**later, "goodbye": LOST}
    assert word(failed) == "lost"
    back = {**later, "proof": ILL, "rollback": {"changed": True, "system": OLD}, "rollback_proof": look(OLD)}
    assert word(back) == "rolled_back"
    assert _outcome.reboots_later(back, NEW) is None
    assert _outcome.reboots_later({**back, "rollback_reboot": {"later": True}}, NEW) == OLD


def test_what_a_boot_after_the_night_showed_ends_it_as_in_the_night():
    booted = {**ACTIVATED, "boot_once": {"changed": True}, "reboot": {"rebooted": True}, "reboot_verification": WELL}
    assert word({**booted, "commit_booted": {"changed": True}, "proof": look(NEW)}) == "updated"
    ill = {**booted, "reboot_verification": ILL, "rollback": {"system": OLD}, "rollback_proof": look(OLD, ("kernel",))}
    told = _outcome.outcome({**ill, "rollback_verification": WELL}, NEW)
    assert (told.word, told.remember) == ("rolled_back", True)


def test_a_host_that_could_not_be_released_is_updated_all_the_same():
    assert word({**COMMITTED, "proof": look(NEW), "release": LOST}) == "updated"


def test_drift_can_be_adopted():
    drifted = {**READY, "probe": {**look(OLD), "drift": ["the boot default is another"]}}
    assert word(drifted, adopt_drift=True) == "held"
    assert "Drift" in _outcome.outcome(drifted, NEW).reason


def test_a_dry_run_never_claims_an_update():
    assert word({**BEGUN, "activation": {"changed": True}}, dry_run=True) == "unchanged"
    assert word({**BEGUN, "activation": {"changed": True, "failed": True, "msg": "."}}, dry_run=True) == "failed"


def test_the_reason_is_that_of_the_first_step_that_failed():
    assert _outcome.outcome({**BROKEN, "rollback": LOST}, NEW).reason.startswith("Units failed: web.service.")


def test_a_host_without_a_target_is_never_touched():
    told = _outcome.outcome({**READY, "prepare": {"systems": {}}}, None)
    assert (told.word, told.decided) == ("held", True)


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (BEGUN, False),
        ({**BEGUN, "activation": {"failed": True, "changed": False, "ending": "not_begun"}}, False),
        ({**BEGUN, "activation": {"failed": True, "changed": False, "ending": "reboot_needed"}}, False),
        ({**BEGUN, "activation": {"failed": True, "changed": True, "ending": "unknown"}}, True),
        ({**BEGUN, "activation": {"failed": True, "msg": "MODULE FAILURE"}}, True),
        ({**BEGUN, "activation": LOST}, True),
        (BROKEN, True),
        ({**BEGUN, "activation": {"changed": False, "ending": "reboot_needed"}, "commit": {"failed": True}}, True),
    ],
)
def test_what_may_run_something_else_is_put_back(evidence, expected):
    assert _outcome.must_be_put_back(evidence, NEW) is expected


def test_a_host_that_had_the_target_before_is_not_put_back_to_it_and_its_reboot_into_something_else_is_a_failure():
    pending = {**CLAIMED, "probe": look(NEW, ("kernel",)), "look_again": look(NEW, ("kernel",)), "gate_again": WELL}
    fell_back = {
        **pending,
        "activation": {"changed": False, "ending": "ok"},
        "commit": {"changed": False},
        "reboot": {"rebooted": True, "failed": True, "msg": "Booted another system."},
    }
    assert not _outcome.must_be_put_back(fell_back, NEW)
    assert word(fell_back) == "failed"
    assert word({**fell_back, "reboot": LOST}) == "lost"


def test_a_host_that_runs_the_target_already_goes_back_to_what_it_booted_once_a_boot_has_led_away_from_that():
    due = look(NEW, ("kernel",), booted=OLD)
    begun = {
        **CLAIMED,
        "probe": due,
        "look_again": due,
        "gate_again": WELL,
        "activation": {"changed": False, "ending": "ok"},
    }
    assert not _outcome.must_be_put_back({**begun, "verification": ILL}, NEW)
    assert word({**begun, "verification": ILL}) == "failed"
    booted = {**begun, "reboot": {"rebooted": True, "failed": True, "msg": "Nobody could be reached."}}
    assert _outcome.must_be_put_back(booted, NEW)
    assert _outcome.must_be_put_back({**begun, "reboot": LOST}, NEW)
    back = {**booted, "rollback": {"changed": True}, "rollback_verification": WELL, "rollback_proof": look(OLD)}
    assert word(back) == "rolled_back"
    assert word({**back, "rollback_proof": look(NEW)}) == "rollback_failed"


def test_a_host_that_went_away_in_the_reboot_that_was_to_bring_its_system_is_lost_though_nothing_was_activated():
    inhibited = {"changed": False, "ending": "reboot_needed"}
    assert word({**BEGUN, "activation": inhibited, "commit": {"changed": True}, "reboot": LOST}) == "lost"


def test_the_bad_words_are_those_of_the_design():
    assert {"failed", "rolled_back", "rollback_failed", "lost"} == _outcome.BAD


def test_a_host_that_somebody_else_changed_meanwhile_is_told_with_their_name() -> None:
    last = {"controller": "c", "controller_name": "nas", "run_id": "r2", "since": 0, "outcome": "updated"}
    filler = "Task failed: Action failed: Unknown error."
    seen = {**CLAIMED, "look_again": {**look(NEW), "last": last, "failed": True, "msg": filler}}
    assert "nas (controller c), run r2, since 1970-01-01 00:00:00 UTC" in _outcome.outcome(seen, NEW).reason
    by_hand = {**seen, "probe": {**look(OLD), "last": last}}
    assert _outcome.outcome(by_hand, NEW).reason.startswith("Somebody else changed")


def test_a_proof_that_fails_tells_what_was_seen() -> None:
    proof = {**look(OLD), "failed": True, "msg": "Task failed: Action failed: Unknown error."}
    told = _outcome.outcome({**COMMITTED, "proof": proof}, NEW)
    assert told.reason == f"It runs {OLD}, its profile is {OLD}, its boot default is {OLD}."


def test_a_host_whose_own_system_does_not_build_has_failed_while_the_others_go_on():
    why = "Its system did not build: boom."
    evidence = {**READY, "prepare": {"systems": {"web": NEW}}}
    told = _outcome.outcome(evidence, None, build_failure=why)
    assert (told.word, told.reason, told.bad, told.decided) == ("failed", why, True, True)
    # it was not touched, and would not have been
    assert _outcome.outcome({**evidence, "gate": ILL}, None, build_failure=why).word == "deferred"
    # where nothing was adopted, nobody's system is there
    assert _outcome.outcome({**evidence, "prepare": {"failed": True}}, None, build_failure=why).word == "held"


BLIND = {"results": [LOST, LOST]}
SEEING = {"results": [LOST, {"failed": True, "msg": "This host does not run NixOS."}]}
KEPT = {"failed": True, "healthy": False, "msg": "ada is logged in."}


def test_whom_the_breaker_keeps_from_its_turn_is_held_with_its_reason():
    told = _outcome.outcome({**READY, "admission": {"verdict": "held", "reason": "Stopped: 1 of 3."}}, NEW)
    assert (told.word, told.reason, told.decided) == ("held", "Stopped: 1 of 3.", True)
    for verdict in ("waits", "begins", ""):
        assert not _outcome.outcome({**READY, "admission": {"verdict": verdict, "reason": ""}}, NEW).decided


def test_a_host_of_a_closed_stage_is_held_unless_there_is_nothing_to_do():
    told = _outcome.outcome(READY, NEW, closed="It soaks.")
    assert (told.word, told.reason, told.decided) == ("held", "It soaks.", True)
    assert word({**READY, "probe": look(NEW)}, closed="It soaks.") == "unchanged"
    assert word({**READY, "gate": ILL}, closed="It soaks.") == "deferred"


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ({**READY, "claim": LOST}, "held"),
        ({**CLAIMED, "look_again": LOST}, "held"),
        ({**BEGUN, "activation": LOST}, "lost"),
        ({**BEGUN, "activation": LOST, "rollback": LOST}, "lost"),
        (
            {
                **BEGUN,
                "activation": {**LOST, "changed": True},
                "rollback": {"changed": True},
                "rollback_verification": WELL,
            }
            | {"rollback_proof": look(OLD)},
            "rolled_back",
        ),
        ({**COMMITTED, "proof": look(NEW), "goodbye": {"failed": True}}, "lost"),
    ],
)
def test_what_a_blind_controller_saw_is_unconfirmed_and_says_nothing_of_the_update(evidence, expected):
    told = _outcome.outcome({**evidence, "witness": BLIND}, NEW)
    assert (told.word, told.counted, told.remember) == (expected, False, False)
    assert "could reach nobody" in told.reason
    seeing = _outcome.outcome({**evidence, "witness": SEEING}, NEW)
    assert seeing.counted
    assert "could reach nobody" not in seeing.reason


def test_a_host_that_came_through_a_blind_moment_is_called_what_it_is():
    made = {**COMMITTED, "proof": look(NEW), "witness": BLIND}
    assert _outcome.outcome(made, NEW) == _outcome.Outcome("updated")


def test_a_gate_between_switch_and_reboot_makes_it_pending_and_says_why():
    told = _outcome.outcome({**ACTIVATED, "reboot_gate": KEPT, "commit": {}, "proof": look(NEW, ("kernel",))}, NEW)
    assert (told.word, told.deferral) == ("pending", True)
    assert told.reason == "ada is logged in. A reboot is due: kernel."
    assert not _outcome.outcome({**COMMITTED, "proof": look(NEW, ("kernel",))}, NEW).deferral


def test_a_gate_before_a_switch_that_only_a_reboot_can_make_leaves_the_host_untouched():
    refused = {"failed": False, "changed": False, "activated": False, "ending": "reboot_needed"}
    made = {**BEGUN, "activation": refused, "reboot_gate": KEPT}
    told = _outcome.outcome(made, NEW)
    assert (told.word, told.deferral) == ("deferred", True)
    assert "ada is logged in." in told.reason
    assert not _outcome.must_be_put_back(made, NEW)


def test_a_gate_that_kept_a_reboot_is_not_what_is_said_of_a_later_failure():
    made = {**ACTIVATED, "reboot_gate": KEPT, "commit": {"failed": True, "msg": "The boot loader failed."}}
    made |= {"rollback": {"changed": True}, "rollback_verification": WELL, "rollback_proof": look(OLD)}
    told = _outcome.outcome(made, NEW)
    assert (told.word, told.reason, told.remember) == ("rolled_back", "The boot loader failed.", False)


def test_a_machine_that_a_host_takes_down_and_that_does_not_come_back_is_that_hosts_failure():
    members = {"failed": True, "results": [{"item": "vm1", "failed": False}, {"item": "vm2", **LOST}]}
    made = {**COMMITTED, "reboot": {"rebooted": True}, "reboot_verification": WELL, "reboot_members": members}
    made |= {"rollback": {"changed": True}, "rollback_verification": WELL, "rollback_proof": look(OLD)}
    told = _outcome.outcome(made, NEW)
    assert (told.word, told.reason, told.remember) == ("rolled_back", "vm2: No route to host", True)
    assert not _outcome.went_away(made)


def test_a_host_whose_machine_was_rebooted_below_it_is_the_one_that_was_looked_at():
    made = {**CLAIMED, "look_again": {**look(OLD, booted=NEW), "boot_id": "another"}, "gate_again": WELL}
    assert word(made) == "deferred"
    assert word(made, rebooted_below=True) == "failed"  # nothing was activated yet


def test_only_what_happens_in_its_turn_makes_a_host_one_that_went_away():
    assert _outcome.went_away({**READY, "claim": LOST})
    assert _outcome.went_away({**COMMITTED, "goodbye": {"failed": True, "msg": "timed out"}})
    assert not _outcome.went_away({"probe": LOST})
    assert not _outcome.went_away(BROKEN)
