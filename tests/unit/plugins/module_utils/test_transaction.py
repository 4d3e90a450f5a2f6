"""Who may hold a host, what is read of its note, and what a dead holder's note means."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _transaction
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._systems import Systems
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import (
    STEPS,
    ClaimLost,
    Held,
    Process,
    Torn,
    Transaction,
    Unsettled,
    held_sentence,
    is_over,
    parse,
    renew,
    settle,
    take,
)

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
BOOT, NEXT_BOOT = "5c5b9cf9-0a3c-4a57-9b1e-1f2d8a1c2b3d", "0b7a2c1d-6d9e-4f0a-8c3b-5e4d3c2b1a09"
NOW = 1795312800  # 2026-11-22 02:00:00 UTC

US: dict[str, Any] = {"controller": "3f0a8d5f6a8f4e0c9d0b2f4f7a1c6e5d", "run_id": "20261122T020000Z-7f3a"}
THEM: dict[str, Any] = {"controller": "laptop", "run_id": "20261122T015500Z-a1b2"}
OURS = Transaction(
    **US,
    controller_name="controller",
    process=Process(4711, 885421, BOOT, 4026531836),
    since=NOW,
    deadline=NOW + 600,
    step="activation",
    boot_id=BOOT,
    origin=OLD,
    target=NEW,
    failed_units=("flaky.service",),
    guard_until=812.5,
)


def taking(found: Transaction | Torn | None, **changes) -> Transaction:
    defaults: dict[str, Any] = {
        **US,
        "controller_name": "controller",
        "process": None,
        "now": NOW,
        "seconds": 600,
        "boot_id": BOOT,
    }
    return take(found, **{**defaults, **changes})


def test_a_free_host_is_taken_until_the_bound_of_the_next_step():
    taken = taking(None)
    assert (taken.controller, taken.run_id, taken.step) == (US["controller"], US["run_id"], "claimed")
    assert (taken.since, taken.deadline, taken.boot_id) == (NOW, NOW + 600, BOOT)
    assert (taken.origin, taken.target, taken.verified) == (None, None, False)


def test_taking_again_gives_the_time_asked_for_and_never_less_than_before():
    assert taking(OURS, now=NOW + 10).deadline == NOW + 610
    assert taking(OURS, seconds=10).deadline == OURS.deadline
    assert taking(OURS, now=NOW + 1000).deadline == NOW + 1600
    assert replace(taking(OURS, now=NOW + 1000), deadline=OURS.deadline) == OURS


def test_another_runs_host_is_held_and_it_is_told_by_whom_and_since_when():
    with pytest.raises(Held) as raised:
        taking(OURS, **THEM, now=NOW + 300)
    assert raised.value.data["held_by"] == OURS.as_result()
    assert str(raised.value).startswith(
        "Another run is changing this host. It is held by controller (controller 3f0a8d5f6a8f4e0c9d0b2f4f7a1c6e5d), "
        "run 20261122T020000Z-7f3a, since 2026-11-22 02:00:00 UTC, until 2026-11-22 02:10:00 UTC at most."
    )


@pytest.mark.parametrize("who", [{"run_id": "another"}, {"controller": "another"}])
def test_the_holder_is_a_run_of_a_controller_and_not_one_of_both(who: dict[str, Any]):
    with pytest.raises(Held):
        taking(OURS, **who)
    with pytest.raises(ClaimLost) as raised:
        renew(OURS, **{**US, **who}, now=NOW, seconds=60, boot_id=BOOT)
    assert held_sentence(OURS, NOW) in str(raised.value)


@pytest.mark.parametrize("when", [NOW + 600, NOW + 86400, NOW - 10 * 365 * 86400])
def test_a_host_whose_holder_has_no_time_left_is_settled_before_it_is_taken(when: int):
    """The last of these: the clock of the host was far ahead when the note was written."""
    with pytest.raises(Unsettled) as raised:
        taking(OURS, **THEM, now=when)
    assert raised.value.data["transaction"] == OURS.as_result()
    assert "has left this host at step activation. It was held by controller" in str(raised.value)
    assert "state=settled" in raised.value.remedy


def test_what_cannot_be_read_is_somebodys():
    torn = Torn("/var/lib/lab-auto-update/transaction.json cannot be used: it is empty.")
    with pytest.raises(Unsettled) as unsettled:
        taking(torn)
    with pytest.raises(ClaimLost) as lost:
        renew(torn, **US, now=NOW, seconds=60, boot_id=BOOT)
    assert torn.reason in str(unsettled.value)
    assert torn.reason in str(lost.value)


def test_only_the_controller_of_a_run_can_know_that_it_is_dead():
    with pytest.raises(Unsettled) as raised:
        taking(OURS, run_id="next", dead_run=US["run_id"])
    assert "It was held by" in str(raised.value)
    with pytest.raises(Held):
        taking(OURS, **THEM, dead_run=US["run_id"])
    with pytest.raises(Held):
        taking(OURS, run_id="next", dead_run="some other run")


def test_renewing_moves_the_deadline_and_names_the_boot_only_with_a_step():
    longer = renew(OURS, **US, now=NOW + 5, seconds=60, boot_id=NEXT_BOOT)
    assert longer == replace(OURS, deadline=NOW + 65)
    rebooted = renew(
        OURS, **US, now=NOW, seconds=60, boot_id=NEXT_BOOT, step="reboot_verification", guard_until=99.5, verified=True
    )
    assert (rebooted.step, rebooted.boot_id, rebooted.guard_until) == ("reboot_verification", NEXT_BOOT, 99.5)
    assert rebooted.verified
    with pytest.raises(ClaimLost, match="Nobody holds it"):
        renew(None, **US, now=NOW, seconds=60, boot_id=BOOT)


def test_time_that_is_none_or_has_no_end_is_refused():
    for seconds in (0, -1, 86401, float("inf"), float("nan")):
        with pytest.raises(LabError, match="seconds is"):
            taking(None, seconds=seconds)
    assert not is_over(taking(None, seconds=86400), NOW, None)


@pytest.mark.parametrize(
    "who", [{"controller": ""}, {"controller": "a b"}, {"controller": "x" * 65}, {"run_id": "a/b"}, {"run_id": ""}]
)
def test_ids_that_are_none_are_refused(who: dict[str, Any]):
    with pytest.raises(LabError):
        taking(None, **who)


def test_the_file_has_a_line_for_each_field_and_the_names_of_the_protocol():
    text = _transaction.dump(OURS)
    assert parse(text) == OURS
    assert text.splitlines()[0] == "{"
    assert f'  "from": "{OLD}",' in text.splitlines()
    assert len(text.splitlines()) == len(json.loads(text)) + 2


@pytest.mark.parametrize("cut", range(0, 600, 7))
def test_a_file_that_ends_early_is_never_read_as_one(cut: int):
    text = _transaction.dump(OURS).rstrip()
    assert len(text) > 600
    with pytest.raises(Unreadable):
        parse(text[:cut])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version 2"),
        ({"version": True}, "version True"),
        ({"version": None}, "version None"),
        ({"surprise": 1}, "'surprise'"),
        ({"step": "dancing"}, "step is 'dancing'"),
        ({"step": ["claimed"]}, "step is"),
        ({"deadline": "tomorrow"}, "deadline is 'tomorrow'"),
        ({"deadline": True}, "deadline is True"),
        ({"deadline": 10**30}, "deadline is"),
        ({"since": -1}, "since is -1"),
        ({"from": "/etc"}, "from is '/etc'"),
        ({"target": 7}, "target is 7"),
        ({"process": {"pid": 1}}, "process is not"),
        ({"process": []}, "process is not"),
        ({"failed_units": "a.service"}, "failed_units is"),
        ({"failed_units": [1]}, "failed_units is"),
        ({"verified": "yes"}, "verified is 'yes'"),
        ({"guard_until": float("nan")}, "guard_until is nan"),
        ({"guard_seconds": 1.5}, "guard_seconds is 1.5"),
        ({"controller": "a\nb"}, "which is not the id of one"),
        ({"controller_name": "\ud800"}, "controller_name is"),
    ],
)
def test_a_file_with_anything_else_in_it_is_named_and_not_used(change: dict, words: str):
    with pytest.raises(Unreadable) as raised:
        parse(json.dumps({**OURS.as_result(), **change}))
    assert words in raised.value.what
    assert raised.value.what.isascii()


@pytest.mark.parametrize("text", ["", "\0\0\0", " \n", "null", "[]", "7", '"x"', "{", "{}", "[" * 100000, "1" * 5000])
def test_a_file_that_is_something_else_altogether_is_unreadable(text: str):
    with pytest.raises(Unreadable):
        parse(text)


@pytest.mark.parametrize("missing", OURS.as_result())
def test_a_file_that_lacks_anything_is_unreadable(missing: str):
    data = OURS.as_result()
    del data[missing]
    with pytest.raises(Unreadable):
        parse(json.dumps(data))


ON_OLD, ON_NEW = Systems(OLD, OLD, OLD, OLD), Systems(NEW, NEW, NEW, NEW)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("verified", [False, True])
def test_whatever_a_dead_run_left_there_is_one_thing_to_do(step: _transaction.Step, verified: bool):
    left = replace(OURS, step=step, verified=verified)
    if step == "claimed":
        assert {settle(left, systems) for systems in (ON_OLD, ON_NEW, Systems(None, None, None, None))} == {"untouched"}
        return
    assert settle(left, ON_OLD) == "reverted"
    good = "finish" if verified and step != "rollback" else "put_back"
    assert settle(left, ON_NEW) == good
    # live, and the boot default still the old one
    assert settle(left, Systems(NEW, OLD, OLD, OLD)) == good
    # back on the old one by the revert, and the boot default already the new one
    assert settle(left, Systems(OLD, OLD, NEW, NEW)) == "put_back"
    assert settle(left, Systems(OLD, OLD, OLD, None)) == "put_back"


def test_what_is_not_known_does_not_look_like_agreement():
    nowhere = Systems(None, None, None, None)
    assert settle(replace(OURS, origin=None, target=None, verified=True), nowhere) == "put_back"


def test_a_verified_system_that_is_also_the_one_before_is_finished():
    """The boot default alone was to be moved."""
    assert settle(replace(OURS, origin=NEW, verified=True), ON_NEW) == "finish"
