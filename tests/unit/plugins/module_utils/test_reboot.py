"""Waiting through a reboot, with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _reboot
from ansible_collections.homelab.nixos.plugins.module_utils._reboot import Attempt, Reboot, Seen

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
BEFORE = Seen("11111111-1111-1111-1111-111111111111", OLD)
OTHER = "/nix/store/0c5m8vzkdvbcw6bmpzgkrx1n1hq8y6rl-nixos-system-web-26.05.0"
AFTER = Seen("22222222-2222-2222-2222-222222222222", NEW)


def wait(*answers: Seen | None) -> Reboot:
    """The last answer is given for ever."""
    now = 0.0
    given: Iterator[Seen | None] = iter(answers)
    last: list[Seen | None] = [None]

    def look() -> Seen | None:
        last[0] = next(given, last[0])
        return last[0]

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    return _reboot.wait(look, BEFORE, NEW, timeout=60, clock=lambda: now, sleep=sleep)


def test_a_new_boot_of_the_expected_system_is_a_reboot():
    reboot = wait(BEFORE, None, None, AFTER)
    assert (reboot.rebooted, reboot.failed, reboot.connection_lost) == (True, False, False)
    assert (reboot.boot_id_after, reboot.booted_system, reboot.elapsed) == (AFTER.boot_id, NEW, 3)


def test_a_host_that_answers_with_its_old_boot_has_not_rebooted():
    reboot = wait(BEFORE)
    assert (reboot.rebooted, reboot.failed, reboot.connection_lost) == (False, True, False)
    assert "it never went down" in reboot.msg


def test_an_old_boot_that_runs_the_new_system_is_no_reboot_either():
    assert not wait(Seen(BEFORE.boot_id, NEW)).rebooted


def test_a_host_that_boots_something_else_is_a_failure_that_names_it():
    reboot = wait(None, Seen(AFTER.boot_id, OTHER))
    assert (reboot.rebooted, reboot.failed, reboot.went_back) == (True, True, False)
    assert reboot.msg == f"Booted {OTHER}: the boot loader fell back, or was told otherwise, and not {NEW}."


def test_a_host_that_went_back_is_told_from_one_that_went_astray():
    reboot = wait(None, Seen(AFTER.boot_id, OLD))
    assert (reboot.rebooted, reboot.failed, reboot.went_back) == (True, True, True)
    assert reboot.msg.startswith(f"Booted {OLD}, the system from before: the boot loader or the boot guard went back")


def test_a_host_that_does_not_come_back_is_lost_and_waited_for_no_longer_than_said():
    reboot = wait(BEFORE, None)
    assert (reboot.rebooted, reboot.failed, reboot.connection_lost, reboot.elapsed) == (False, True, True, 60)


@pytest.mark.parametrize(
    "text",
    [
        "",
        _reboot.QUESTION,
        f"lab-boot-id=\nlab-booted={NEW}\n",
        f"lab-boot-id={AFTER.boot_id}\nlab-booted=\n",
        f"lab-boot-id={AFTER.boot_id}\nlab-booted=/run/booted-system\n",
    ],
)
def test_a_shell_that_is_half_up_does_not_answer(text):
    assert _reboot.answer(text) is None


def test_an_answer_with_a_banner_before_it_is_an_answer():
    assert _reboot.answer(f"Welcome!\nlab-boot-id={AFTER.boot_id}\nlab-booted={NEW}\n") == AFTER


# ---- confirmation ---------------------------------------------------------------------------------------------------
BOOTED = wait(None, AFTER)


def confirm(*attempts: Attempt, then: Seen | None = AFTER) -> tuple[Reboot, int]:
    """The last attempt is repeated for ever, each takes two seconds; also returns how many were made."""
    now, made = 0.0, 0
    given = iter(attempts)
    last = attempts[0]

    def attempt() -> Attempt:
        nonlocal now, made, last
        now += 2
        made += 1
        last = next(given, last)
        return last

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    done = _reboot.confirm(attempt, lambda: then, BEFORE, BOOTED, timeout=30, clock=lambda: now, sleep=sleep)
    return done, made


def test_a_boot_that_is_confirmed_is_well_also_at_the_second_attempt():
    for attempts in ([Attempt()], [Attempt("sudo is not ready."), Attempt()]):
        reboot, made = confirm(*attempts)
        assert (reboot.confirmed, reboot.failed, reboot.booted_system, made) == (True, False, NEW, len(attempts))
    assert reboot.elapsed == BOOTED.elapsed + 5


def test_a_boot_that_is_never_confirmed_fails_with_the_last_words_and_no_later_than_said():
    reboot, made = confirm(Attempt("sudo: command not found"))
    assert (reboot.rebooted, reboot.confirmed, reboot.failed, reboot.connection_lost) == (True, False, True, False)
    assert made == 11
    assert "could not be confirmed: sudo: command not found." in reboot.msg
    assert (reboot.booted_system, reboot.went_back) == (NEW, False)


def test_a_host_that_is_somebody_elses_by_now_is_left_alone_at_once():
    reboot, made = confirm(Attempt("Run 1 does not hold this host.", final=True))
    assert (reboot.failed, made) == (True, 1)


def test_a_host_that_the_guard_has_put_back_meanwhile_is_told_as_it_is_now_and_not_confirmed_any_more():
    last = Seen("33333333-3333-3333-3333-333333333333", OLD)
    reboot, made = confirm(Attempt("no answer"), Attempt(), then=last)
    assert made == 1
    assert (reboot.boot_id_after, reboot.booted_system, reboot.went_back) == (last.boot_id, OLD, True)
    assert (reboot.rebooted, reboot.failed, reboot.confirmed) == (True, True, False)
    assert "It has rebooted since then." in reboot.msg


def test_a_host_that_is_gone_after_its_boot_is_lost():
    reboot, _made = confirm(Attempt("no answer"), then=None)
    assert (reboot.rebooted, reboot.failed, reboot.connection_lost, reboot.went_back) == (True, True, True, False)
    assert reboot.booted_system == NEW


def test_a_reboot_that_did_not_happen_is_neither_confirmed_nor_gone_back():
    for reboot in (_reboot.not_begun("No."), wait(BEFORE, None), wait(BEFORE)):
        assert (reboot.confirmed, reboot.went_back) == (False, False)
