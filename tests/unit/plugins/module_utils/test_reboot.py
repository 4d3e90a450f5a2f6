"""Waiting through a reboot, with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _reboot
from ansible_collections.homelab.nixos.plugins.module_utils._reboot import Reboot, Seen

OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
BEFORE = Seen("11111111-1111-1111-1111-111111111111", OLD)
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
    reboot = wait(None, Seen(AFTER.boot_id, OLD))
    assert (reboot.rebooted, reboot.failed) == (True, True)
    assert OLD in reboot.msg


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
