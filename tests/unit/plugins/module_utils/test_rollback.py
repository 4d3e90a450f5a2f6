"""How an emergency rollback is judged by what a host said, and what its script knows of the rest of the collection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import (
    _activation_unit,
    _boot_once,
    _info,
    _nix,
    _revert_units,
    _state,
)
from ansible_collections.homelab.nixos.plugins.module_utils._raw import last
from ansible_collections.homelab.nixos.plugins.module_utils._rollback import Standing, read_log, seen, standing

SCRIPT = (Path(__file__).parents[4] / "playbooks/files/rollback.sh").read_text()
RUN = "20261122T232857Z-c4d1"
OLD = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-nixos-system-web-26.05.1"
NEW = "/nix/store/xnpa2vcbpn07vxn8zls3gkgz7yf6l0yf-nixos-system-web-26.05.2"
UNREACHABLE = {"unreachable": True, "msg": "Failed to connect to the host via ssh: Connection refused"}
DONE = f"@run {RUN}\n@set_profile 0\n@set_boot 0\nactivating the configuration...\n@activation 0"


def entry(system: str, default: bool, number: int = 1) -> dict[str, object]:
    return {"id": f"nixos-generation-{number}.conf", "isDefault": default, "options": f"init={system}/init loglevel=4"}


def look(
    current: str = NEW,
    profile: str | None = None,
    default: str | None = None,
    *,
    system: str | None = OLD,
    boot: str = "b1",
    log: str = "",
    lines: str = "",
) -> dict[str, Any]:
    """What `look` prints on a host, as it is registered."""
    default = default or profile or current
    listed = [entry(NEW, default == NEW, 2), entry(OLD, default == OLD, 1)]
    words = [
        "Welcome to web!",
        f"@boot_id {boot}",
        f"@current {current}",
        f"@booted {current}",
        f"@profile {profile or current}",
        "@wanted /nix/var/nix/gcroots/lab-auto-update/proven",
        f"@system {system or ''}",
        *(["@ready yes"] if system else []),
        f"@generation 1 {OLD}",
        f"@generation 12 {NEW}",
        f"@bootctl_list {json.dumps(listed)}",
        *lines.splitlines(),
        *(f"@log {line}" for line in log.splitlines()),
        "@end ",
    ]
    return {"rc": 0, "stdout": "\r\n".join(words)}


def judge(reboot: bool = True, dry_run: bool = False, **evidence: Any) -> Standing:
    return standing(evidence, RUN, reboot, dry_run)


# ---- before ---------------------------------------------------------------------------------------------------------


def test_a_host_that_never_answered_is_unreachable():
    told = judge(look=UNREACHABLE)
    assert (told.outcome, told.bad, told.due) == ("unreachable", True, False)
    assert told.reason == "It did not answer: Failed to connect to the host via ssh: Connection refused."
    assert judge().outcome == "unreachable"


@pytest.mark.parametrize(
    "answer",
    [
        {"rc": 1, "stdout": "", "stderr": "sudo: a password is required\n", "failed": True},
        {"msg": "Timed out after 60 second(s).", "failed": True},
        # a shell that is half up
        {"rc": 0, "stdout": look()["stdout"].replace("@end", "")},
    ],
)
def test_a_host_that_did_not_say_all_of_it_is_not_touched(answer: dict[str, Any]):
    told = judge(look=answer)
    assert (told.outcome, told.due) == ("failed", False)


def test_where_nothing_is_to_go_to_its_generations_are_named():
    told = judge(look=look(system=None))
    assert (told.outcome, told.due) == ("failed", False)
    assert "gcroots/lab-auto-update/proven does not lead to a system of this host" in told.reason
    assert "12 (nixos-system-web-26.05.2 xnpa2vc), 1 (nixos-system-web-26.05.1 6gdlyhm)" in told.reason


def test_a_system_that_is_not_a_store_path_never_gets_near_a_shell():
    assert judge(look=look(system="/nix/store/../../tmp/x;reboot")).system is None


def test_a_host_that_runs_and_boots_it_is_unchanged():
    assert judge(look=look(OLD)).outcome == "unchanged"


@pytest.mark.parametrize("answer", [look(), look(OLD, NEW), look(OLD, OLD, NEW), look(NEW, OLD)])
def test_a_host_that_differs_in_anything_is_due(answer: dict[str, Any]):
    assert judge(look=answer).due
    dry = judge(look=answer, dry_run=True)
    assert (dry.outcome, dry.due) == ("unchanged", False)
    assert dry.reason.startswith("Dry run: it would go back")


def test_an_entry_for_the_next_boot_counts():
    once = "@bootctl_status Current Boot Loader:\n@bootctl_status   OneShot Entry: nixos-generation-2.conf\n"
    conf = "@loader_conf default nixos-generation-1.conf\n"
    answer = seen(look(OLD, lines=once + conf)["stdout"])
    assert answer is not None
    assert (answer.boot_default, answer.next_boot) == (OLD, NEW)
    assert judge(look=look(OLD, lines=once + conf)).due


@pytest.mark.parametrize(
    "lines",
    [
        f"@grub set default=0\n@grub menuentry x {{\n@grub   linux /x init={OLD}/init quiet\n@grub }}\n",
        f"@extlinux DEFAULT nixos-default\n@extlinux LABEL nixos-default\n@extlinux   APPEND init={OLD}/init quiet\n",
    ],
)
def test_other_boot_loaders_are_read_too(lines: str):
    text = look(OLD, lines=lines)["stdout"].replace("@bootctl_list", "@nothing")
    answer = seen(text)
    assert answer is not None
    assert answer.boot_default == OLD


# ---- after ----------------------------------------------------------------------------------------------------------


def after(again: Any, **options: Any) -> Standing:
    rounds = {"results": [UNREACHABLE, again]}
    return judge(look=look(), start={"rc": 0, "stdout": "@end "}, look_again=rounds, **options)


def test_what_was_told_to_go_back_is_a_failure_until_it_is_seen():
    told = judge(look=look(), start=UNREACHABLE)
    assert (told.outcome, told.bad) == ("rollback_failed", True)
    told = after(UNREACHABLE)
    assert told.outcome == "rollback_failed"
    assert "could not be looked at since: Failed to connect" in told.reason


def test_a_host_that_runs_and_boots_it_afterwards_is_rolled_back():
    told = after(look(OLD, log=DONE))
    assert (told.outcome, told.bad, told.reason) == ("rolled_back", False, "It runs this system and boots it.")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (look(NEW, log=DONE), "It runs nixos-system-web-26.05.2 xnpa2vc, and not nixos-system-web-26.05.1 6gdlyhm."),
        (look(OLD, NEW, OLD, log=DONE), "It has as its system profile nixos-system-web-26.05.2 xnpa2vc"),
        (look(OLD, OLD, NEW, log=DONE), "It boots nixos-system-web-26.05.2 xnpa2vc"),
        (look(OLD, log=DONE.replace("@activation 0", "@activation 2")), "The activate script"),
        (look(OLD, log=DONE.replace("@activation 0", "")), "The activation was not seen to end."),
        (look(OLD, NEW, log=DONE.replace("set_profile 0", "set_profile 1")), "nix-env could not set the profile"),
        (look(OLD, OLD, NEW, log=DONE.replace("set_boot 0", "set_boot 1")), "could not be installed (exit code 1)"),
        (look(NEW, OLD, log=DONE.replace("@activation 0", "@activation 124")), "did not end in time and was stopped"),
        # what an earlier run has left says nothing of this one
        (look(OLD, NEW, log=DONE.replace(RUN, "20261121T000000Z-0000")), "The rollback did not begin"),
    ],
)
def test_whatever_else_is_a_failure_with_its_reason(answer: dict[str, Any], sentence: str):
    told = after(answer)
    assert told.outcome == "rollback_failed"
    assert sentence in told.reason


def test_units_that_failed_are_named_and_no_failure():
    log = DONE.replace("@activation 0", "warning: the following units failed: a.service, b.service\n@activation 4")
    told = after(look(OLD, log=log))
    assert (told.outcome, told.reason) == ("rolled_back", "Units are failed: a.service, b.service.")


REFUSED = DONE.replace("@activation 0", "Pre-switch check 'switchInhibitors' failed\n@activation 1")


def test_a_system_that_was_booted_instead_is_rolled_back():
    told = after(look(OLD, boot="b2", log=REFUSED))
    assert told.outcome == "rolled_back"
    assert told.reason.startswith("It was rebooted into it. The new system inhibits a switch")


@pytest.mark.parametrize(
    ("reboot", "boot", "sentence"),
    [
        (False, "b1", "It boots this system: reboot it (lab_rollback_reboot is false)."),
        (True, "b1", "It boots this system, but was not seen to have rebooted."),
        (True, "b2", "It was rebooted, and booted another system."),
    ],
)
def test_a_system_that_waits_for_a_reboot_is_no_success(reboot: bool, boot: str, sentence: str):
    told = after(look(NEW, OLD, boot=boot, log=REFUSED), reboot=reboot)
    assert told.outcome == "rollback_failed"
    assert sentence in told.reason


def test_a_host_that_booted_meanwhile_has_forgotten_how_far_it_came():
    told = after(look(NEW, boot="b2"))
    assert told.outcome == "rollback_failed"
    assert told.reason.startswith("It booted before it was done. It runs nixos-system-web-26.05.2 xnpa2vc, and not")


def test_what_only_a_reboot_brings_is_told():
    told = after(look(OLD, log=DONE, lines="@reboot_due kernel\n@reboot_due initrd"))
    assert (told.outcome, told.reason) == ("rolled_back", "Only a reboot brings its kernel, initrd.")


def test_a_transaction_that_could_not_be_closed_is_told():
    assert after(look(OLD, log=DONE), close={"failed": False, "unreachable": False}) == after(look(OLD, log=DONE))
    told = after(look(OLD, log=DONE), close=UNREACHABLE)
    assert told.outcome == "rolled_back"
    assert "Its transaction is still open" in told.reason


# ---- reading --------------------------------------------------------------------------------------------------------


def test_the_last_round_of_a_loop_that_was_not_skipped_counts():
    assert last({"results": [{"rc": 1}, {"rc": 2}]}) == {"rc": 2}
    nothing: list[dict[str, Any] | None] = [
        None,
        {},
        {"skipped": True},
        {"results": []},
        {"results": [{"skipped": True}]},
    ]
    assert all(last(each) == {} for each in nothing)


def test_a_log_that_ends_in_the_middle_is_read_as_far_as_it_goes():
    log = read_log("\n".join(DONE.splitlines()[:3]), RUN)
    assert (log.set_profile, log.set_boot, log.activation) == (0, 0, None)


def test_the_script_uses_the_names_of_the_rest():
    assert f"roots={_nix.GC_ROOTS}\n" in SCRIPT
    assert f"{_nix.GC_ROOTS}/proven" == _nix.PROVEN_ROOT
    assert f"{_nix.GC_ROOTS}/from" == _nix.FROM_ROOT
    assert f"state={_state.DIRECTORY}\n" in SCRIPT
    assert f"$state/{_state.TRANSACTION}" in SCRIPT
    assert f"$state/{_state.LAST}" in SCRIPT
    assert f"$state/{_state.LOCK}\n" in SCRIPT
    assert f"units={_revert_units.DIRECTORY}\n" in SCRIPT
    assert f"revert={_revert_units.REVERT.removesuffix('.service')}\n" in SCRIPT
    assert f"for stage in {' '.join(_revert_units.STAGES)}; do" in SCRIPT
    assert {_revert_units.timer(stage) for stage in _revert_units.STAGES} == {
        f"{_revert_units.REVERT.removesuffix('.service')}-{stage}.timer" for stage in _revert_units.STAGES
    }
    assert f"activation={_revert_units.ACTIVATION}\n" in SCRIPT
    assert f"boot_step={_activation_unit.BOOT}\n" in SCRIPT
    assert f"boot_guard={_info.BOOT_GUARD}\n" in SCRIPT
    assert f"system-profiles/{_boot_once.CANDIDATE} " in SCRIPT
    assert f"run={_activation_unit.OUTPUT_DIR}\n" in SCRIPT
