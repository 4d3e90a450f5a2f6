"""When a host counts as manageable, and which lines its owner is given, by what was said on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _nix
from ansible_collections.homelab.nixos.plugins.module_utils._bootstrap import (
    ROOTED_PYTHON,
    SYSTEM_PYTHON,
    Owner,
    Report,
    report,
)

SCRIPT = (Path(__file__).parents[4] / "playbooks/files/bootstrap.sh").read_text()
STORED = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-python3-3.13.5"
UNREACHABLE = {"unreachable": True, "msg": "Failed to connect to the host via ssh: Connection refused"}
GREET = {"rc": 0, "stdout": "Welcome!\r\n@user root\r\n@groups root\r\n@end \r\n"}
ADMIN = {"rc": 0, "stdout": "@user admin\n@groups users wheel\n@end \n"}
MADE = {"rc": 0, "stdout": f"@changed yes\n@rooted_python 3.13.5 {STORED}\n@end \n"}
INFO = {"systems": {}, "boot_recovery": "on_reset", "drift": [], "boot_guard": True}
HEALTH = {"checks": [{"name": "updater", "status": "ok", "level": "required", "observed": "none", "message": "Well."}]}
OWNER = Owner("", "", False)


def look(**words: str) -> dict[str, Any]:
    """What `look` prints on a host without Python, as it is registered; C(words) are added, or stand in place."""
    said = {
        "uid": "0",
        "nixos": "26.05.1",
        "nix": "nix (Nix) 2.28.3",
        "systemd": "systemd 257 (257.6)",
        "store_free": " 20480",
        "trusted_users": "root ",
        "trusted_keys": "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY= ",
        "nixpkgs": "<nixpkgs>",
        **words,
    }
    return {"rc": 0, "stdout": "\r\n".join([*(f"@{key} {value}" for key, value in said.items()), "@end "])}


def judge(owner: Owner = OWNER, dry_run: bool = False, **evidence: Any) -> Report:
    return report({"greet": GREET, **evidence}, owner, dry_run)


# ---- hosts that are not to be had -----------------------------------------------------------------------------------
def test_a_host_that_does_not_answer_is_unreachable():
    assert judge(greet=UNREACHABLE).outcome == judge(greet={}).outcome == "unreachable"
    told = judge(look=UNREACHABLE)
    assert (told.outcome, told.due) == ("unreachable", False)
    assert told.reason == "It went away: Failed to connect to the host via ssh: Connection refused."


def test_a_machine_that_is_no_nixos_is_a_failure_unless_no_night_has_anything_to_do_with_it():
    debian = look(nixos="")
    assert judge(look=debian).outcome == "failed"
    told = judge(Owner("", "", False, needed=False), look=debian)
    assert (told.outcome, told.due, told.as_result()["bad"]) == ("left_alone", False, False)
    # a builder is looked at like any other
    assert judge(Owner("", "", False, needed=False), look=look()).outcome == "pending"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("No ED25519 host key is known for web.\r\nHost key verification failed.", "Set lab_bootstrap_host_keys to"),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\r\nHost key verification failed.",
            "forget the old key with ssh-keygen -R.",
        ),
    ],
)
def test_a_host_key_that_is_not_known_is_told_from_one_that_changed(words: str, remedy: str):
    told = judge(greet={"unreachable": True, "msg": f"Failed to connect to the host via ssh: {words}"})
    assert told.outcome == "unreachable"
    assert told.reason.startswith("Nobody could log in: Host key verification failed. ")
    assert remedy in told.reason


def test_a_user_who_may_not_become_root_is_told_so_with_what_sudo_said():
    refused = {"rc": 1, "stdout": "", "stderr": "sudo: a password is required\n", "failed": True}
    told = judge(greet=ADMIN, look=refused)
    assert (told.outcome, told.due) == ("failed", False)
    assert told.reason.startswith(
        "admin may log in, and cannot become root: sudo: a password is required. Give that user"
    )


def test_all_that_a_host_is_too_old_for_is_said_at_once():
    told = judge(look=look(nix="nix (Nix) 2.25.9", systemd="systemd 249 (249.7)"))
    assert (told.outcome, told.due) == ("failed", False)
    assert "It has Nix 2.25.9, and 2.26 or newer is needed" in told.reason
    assert "It has systemd 249, and 250 or newer is needed" in told.reason


@pytest.mark.parametrize(
    "words",
    [{"nix": "nix (Nix) 2.26.0"}, {"nix": "nix (Lix, like Nix) 2.91.1"}, {"systemd": "systemd 260~rc1 (260~rc1)"}],
)
def test_versions_are_compared_as_numbers(words: dict[str, str]):
    assert judge(look=look(**words)).due


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"nixos": ""}, "It is no NixOS"),
        ({"uid": "1000"}, "root becomes user 1000 there, and not root"),
        ({"nix": ""}, "It has Nix of an unknown version"),
    ],
)
def test_what_cannot_be_told_of_a_host_refuses_it(words: dict[str, str], sentence: str):
    told = judge(look=look(**words))
    assert (told.outcome, told.due) == ("failed", False)
    assert sentence in told.reason


def test_a_host_that_did_not_say_all_of_it_is_not_touched():
    torn = {"rc": 0, "stdout": look()["stdout"].replace("@end", "")}
    assert (judge(look=torn).outcome, judge(look=torn).due) == ("failed", False)


# ---- Python ---------------------------------------------------------------------------------------------------------
def test_a_python_of_the_system_needs_nothing_and_one_that_is_rooted_needs_the_inventory():
    told = judge(look=look(system_python="3.13.5"), info=INFO, health=HEALTH)
    assert (told.outcome, told.python, told.inventory, told.configuration) == ("manageable", SYSTEM_PYTHON, (), ())
    told = judge(look=look(rooted_python=f"3.13.5 {STORED}"), info=INFO, health=HEALTH)
    assert (told.outcome, told.python) == ("manageable", ROOTED_PYTHON)
    assert told.inventory == (f"ansible_python_interpreter: {ROOTED_PYTHON}", "lab_require_python: false")
    assert told.configuration == ("environment.systemPackages = [ pkgs.python3 ];",)


def test_what_the_inventory_has_already_is_not_asked_for_and_what_it_needs_no_more_is_said():
    owner = Owner(ROOTED_PYTHON, "", False)
    assert judge(owner, look=look(rooted_python=f"3.13.5 {STORED}")).inventory == ()
    told = judge(owner, look=look(system_python="3.13.5"))
    assert any("does not need ansible_python_interpreter" in sentence for sentence in told.found)


def test_a_python_in_the_store_is_taken_and_works_meanwhile():
    told = judge(look=look(store_python=f"3.13.5 {STORED}"))
    assert (told.due, told.take, told.python) == (True, STORED, f"{STORED}/bin/python3")
    dry = judge(dry_run=True, look=look(store_python=f"3.13.5 {STORED}"), info=INFO, health=HEALTH)
    assert (dry.outcome, dry.reason) == ("pending", f"Dry run: its Python would be {STORED}.")


def test_a_path_that_is_none_of_the_store_never_gets_near_a_shell():
    told = judge(look=look(store_python="3.13.5 /nix/store/../../tmp/x;reboot"))
    assert (told.take, told.python) == ("", "")


def test_a_python_that_was_made_is_the_interpreter_and_one_that_was_not_is_a_failure():
    told = judge(look=look(), python=MADE, info=INFO, health=HEALTH)
    assert (told.outcome, told.due, told.python) == ("manageable", False, ROOTED_PYTHON)
    stderr = "building…\nerror: unable to download 'https://user:secret@cache.example/x': Connection refused\n"
    told = judge(look=look(), python={"rc": 1, "stdout": "", "stderr": stderr, "failed": True})
    assert (told.outcome, told.due, told.python) == ("failed", False, "")
    assert "Its Python could not be had: error: unable to download" in told.reason
    assert "secret" not in told.reason
    # it came, and is none
    assert judge(look=look(), python={"rc": 0, "stdout": "@changed yes\n@end \n"}).outcome == "failed"


def test_nothing_is_built_where_there_is_no_room():
    told = judge(look=look(store_free="500"))
    assert (told.outcome, told.due) == ("failed", False)
    assert "500 MiB are free" in told.reason
    assert judge(look=look(store_free="500", store_python=f"3.13.5 {STORED}")).due


def test_a_dry_run_names_what_would_be_built():
    assert judge(dry_run=True, look=look()).reason == "Dry run: its Python would be that of <nixpkgs>."
    owner = Owner("", "github:NixOS/nixpkgs#python312", False)
    assert judge(owner, dry_run=True, look=look()).reason.endswith("that of github:NixOS/nixpkgs#python312.")


# ---- what only modules tell -----------------------------------------------------------------------------------------
def test_a_host_on_which_no_module_runs_is_not_manageable():
    told = judge(look=look(system_python="3.13.5"), info={"failed": True, "msg": "No module named 'fcntl'"})
    assert (told.outcome, told.reason) == (
        "failed",
        "Python is there, and a module that looks at the host fails: No module named 'fcntl'.",
    )


def test_what_a_night_would_stumble_over_is_said_with_the_line_that_helps():
    checks = [
        {"name": "updater", "status": "fail", "level": "required", "observed": "comin.service", "message": "Comin."},
        {"name": "disk:/", "status": "fail", "level": "required", "observed": "95 %", "message": "Full."},
        {"name": "clock", "status": "fail", "level": "wanted", "observed": "no", "message": "Late."},
    ]
    info = {**INFO, "boot_guard": False, "boot_recovery": "manual", "drift": ["It runs another system."]}
    told = judge(look=look(system_python="3.13.5"), info=info, health={"checks": checks, "msg": "Not well."})
    assert told.outcome == "manageable"
    said = "\n".join(told.found)
    for words in ("Comin.", "Full.", "It runs another system.", "only by a person at its console"):
        assert words in said
    assert "Late." not in said
    assert told.configuration == ("services.lab-auto-update-host.enable = true;", "services.comin.enable = false;")


@pytest.mark.parametrize(
    ("greet", "words", "pulls", "asked"),
    [
        (GREET, {}, False, False),
        (GREET, {}, True, True),
        (ADMIN, {}, False, True),
        (ADMIN, {"trusted_users": "root @wheel "}, False, False),
        (ADMIN, {"trusted_users": "root * "}, False, False),
        (ADMIN, {"trusted_keys": "cache.nixos.org-1:x= lab-1:y= "}, False, False),
    ],
)
def test_a_key_is_asked_for_where_what_is_brought_has_to_be_signed(
    greet: dict[str, Any], words: dict[str, str], pulls: bool, asked: bool
):
    told = judge(Owner("", "", pulls), greet=greet, look=look(system_python="3.13.5", **words))
    assert any("trusted-public-keys" in line for line in told.configuration) == asked


# ---- the script -----------------------------------------------------------------------------------------------------
def test_the_script_roots_it_where_the_inventory_finds_it():
    (roots,) = re.findall(r"^roots=(\S+)$", SCRIPT, re.MULTILINE)
    (root,) = re.findall(r"^root=\$roots/(\S+)$", SCRIPT, re.MULTILINE)
    assert f"{roots}/{root}" == _nix.PYTHON_ROOT
    assert "sys.version_info >= (3, 11)" in SCRIPT
