"""nixos_info, lab_health_check, nixos_rebuild and nixos_reboot, against real guests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT, Module
from tests.lab import Lab

pytestmark = pytest.mark.lab

HOST = "web"
CURRENT, PROFILE = "/run/current-system", "/nix/var/nix/profiles/system"


def system(lab: Lab, link: str = CURRENT) -> str:
    return lab.run(HOST, ["readlink", "-f", link], check=True).stdout.strip()


def boot_default(lab: Lab) -> str:
    """Read as the loader does, and not by the code under test."""
    text = (
        'entry=$(sed -n "s/^default *//p" /boot/loader/loader.conf); grep -o "init=[^ ]*" /boot/loader/entries/$entry'
    )
    return lab.run(HOST, ["sh", "-c", text], check=True).stdout.strip().removeprefix("init=").removesuffix("/init")


def boot_id(lab: Lab) -> str:
    return lab.run(HOST, ["cat", "/proc/sys/kernel/random/boot_id"], check=True).stdout


@pytest.fixture
def healed(lab: Lab) -> Iterator[None]:
    """Afterwards the host's next system has no faults, and the host has no failed unit."""
    yield
    lab.fault(HOST)
    lab.run(HOST, ["systemctl", "restart", "web.service"])
    lab.run(HOST, ["systemctl", "reset-failed"])


def next_system(lab: Lab, *faults: str) -> str:
    """A new system that is on the host, and is not what it runs."""
    lab.fault(HOST, *faults)
    lab.move()
    lab.update()
    return lab.build(HOST)


def test_info_tells_what_the_host_itself_shows(lab: Lab, module: Module):
    info = module(HOST, "nixos_info", {})
    assert info["systems"]["current"] == system(lab)
    assert info["systems"]["booted"] == system(lab, "/run/booted-system")
    assert info["systems"]["profile"] == system(lab, PROFILE)
    assert info["systems"]["boot_default"] == boot_default(lab)
    assert info["boot_id"] == boot_id(lab).strip()
    assert info["boot_loader"] == "systemd-boot"
    assert info["drift"] == []
    assert not info["reboot_required"]
    assert info["generations"][0]["system"] == system(lab, PROFILE)


def test_a_healthy_host_is_healthy_and_a_required_service_that_is_down_makes_it_fail(lab: Lab, module: Module):
    wanted = {"services": ["web.service"]}
    assert module(HOST, "lab_health_check", wanted)["healthy"]
    lab.run(HOST, ["systemctl", "stop", "web.service"], check=True)
    try:
        result = module(HOST, "lab_health_check", wanted)
    finally:
        lab.run(HOST, ["systemctl", "start", "web.service"], check=True)
    assert result["failed"]
    assert not result["healthy"]
    assert result["msg"] == "The service web.service is inactive (dead)."


def test_a_full_disk_makes_that_host_fail_and_nothing_else(lab: Lab, module: Module):
    lab.run(HOST, ["mkdir", "-p", "/srv/small"], check=True)
    lab.run(HOST, ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/srv/small"], check=True)
    try:
        wanted = {"mounts": ["/", "/srv/small"]}
        assert module(HOST, "lab_health_check", wanted)["healthy"]
        lab.run(HOST, ["dd", "if=/dev/zero", "of=/srv/small/data", "bs=1k", "count=980"], check=True)
        failed = [check for check in module(HOST, "lab_health_check", wanted)["checks"] if check["status"] != "ok"]
    finally:
        lab.run(HOST, ["umount", "/srv/small"], check=True)
    assert [check["name"] for check in failed if check["level"] == "required"] == ["disk:/srv/small"]


def test_a_young_host_fails_the_uptime_that_a_gate_asks_for(lab: Lab, module: Module):
    result = module(HOST, "lab_health_check", {"min_uptime": 100000})
    assert [
        check["name"] for check in result["checks"] if check["level"] == "required" and check["status"] != "ok"
    ] == ["uptime"]


def test_a_question_that_hangs_has_an_end_and_is_a_failed_check(lab: Lab, module: Module):
    lab.run(HOST, ["mkdir", "-p", "/run/wrappers/bin"], check=True)
    lab.run(
        HOST, ["sh", "-c", "printf '#!/bin/sh\\nsleep 600\\n' > /run/wrappers/bin/df; chmod +x /run/wrappers/bin/df"]
    )
    try:
        result = module(HOST, "lab_health_check", {"timeout": 1})
    finally:
        lab.run(HOST, ["rm", "/run/wrappers/bin/df"], check=True)
    status = {check["name"]: check["status"] for check in result["checks"]}
    assert status["disk:/"] == "unknown"
    assert not result["healthy"]


def test_a_dry_run_tells_units_and_packages_and_changes_nothing(lab: Lab, module: Module):
    target = next_system(lab)
    before = system(lab), system(lab, PROFILE), boot_default(lab)
    result = module(HOST, "nixos_rebuild", {"action": "switch", "system": target}, check=True)
    assert result["changed"]
    assert "nginx" in [package["name"] for package in result["packages"]["changed"]]
    assert "web.service" in result["units"]["stopped"]
    assert "web.service" in result["units"]["started"]
    assert "web.service" in result["diff"]["prepared"]
    assert (system(lab), system(lab, PROFILE), boot_default(lab)) == before


def test_test_activates_and_boot_makes_it_the_default_and_both_do_it_once(lab: Lab, module: Module):
    target = next_system(lab)
    old = system(lab)

    tested = module(HOST, "nixos_rebuild", {"action": "test", "system": target})
    assert tested["changed"], tested
    assert tested["activated"]
    assert tested["before"]["system"] == old
    assert "web.service" in tested["units"]["started"]
    assert system(lab) == target
    assert (system(lab, PROFILE), boot_default(lab)) == (old, old)
    assert not module(HOST, "nixos_rebuild", {"action": "test", "system": target})["changed"]
    # nobody confirms it any more, and nothing waits for that
    units = lab.run(HOST, ["systemctl", "list-units", "--all", "--plain", "--no-legend", "lab-auto-update-*"]).stdout
    assert "revert" not in units
    assert lab.read(HOST, "/var/lib/lab-auto-update/transaction.json") is None

    boot = module(HOST, "nixos_rebuild", {"action": "boot", "system": target})
    assert boot["changed"], boot
    assert boot["boot_default"]
    assert (system(lab, PROFILE), boot_default(lab)) == (target, target)
    assert not module(HOST, "nixos_rebuild", {"action": "boot", "system": target})["changed"]


def test_a_host_that_builds_its_own_system_switches_to_it(lab: Lab, module: Module):
    lab.move()
    lab.update()
    attribute = "nixosConfigurations.builder.config.system.build.toplevel"
    done = module("builder", "nixos_rebuild", {"flake": "/etc/nixos", "attribute": attribute})
    assert not done["failed"], done
    assert done["changed"]
    links = lab.run("builder", ["readlink", "-f", CURRENT, PROFILE], check=True).stdout.split()
    assert links == [done["system"]] * 2
    again = module("builder", "nixos_rebuild", {"flake": "/etc/nixos", "attribute": attribute})
    assert (again["failed"], again["changed"]) == (False, False)


@pytest.mark.parametrize(
    ("fault", "ending", "words"),
    [
        ("unit-fails", "units_failed", "web.service"),
        pytest.param("activate-fails", "activate_failed", "activate script", marks=pytest.mark.soak),
    ],
)
def test_a_system_that_does_not_activate_never_becomes_the_boot_default(
    lab: Lab, module: Module, healed: None, fault: str, ending: str, words: str
):
    old = system(lab)
    target = next_system(lab, fault)
    result = module(HOST, "nixos_rebuild", {"system": target})
    assert result["failed"]
    assert result["ending"] == ending
    assert words in result["msg"]
    assert (system(lab, PROFILE), boot_default(lab)) == (old, old)
    back = module(HOST, "nixos_rebuild", {"system": old})
    assert back["activated"], back
    assert system(lab) == old


def test_inhibitors_refuse_a_switch_and_nothing_was_touched(lab: Lab, module: Module, healed: None):
    old = system(lab)
    target = next_system(lab, "inhibitor")
    result = module(HOST, "nixos_rebuild", {"system": target})
    assert result["failed"]
    assert (result["ending"], result["changed"]) == ("reboot_needed", False)
    assert any(reason.startswith("switch-inhibitor ") for reason in result["reboot_reasons"])
    assert (system(lab), system(lab, PROFILE), boot_default(lab)) == (old, old, old)


def test_a_boot_loader_that_says_it_went_well_is_not_believed(lab: Lab, module: Module, healed: None):
    old = system(lab)
    target = next_system(lab, "esp-full")
    result = module(HOST, "nixos_rebuild", {"action": "boot", "system": target})
    assert result["failed"]
    assert "is /boot full?" in result["msg"]
    assert (system(lab, PROFILE), boot_default(lab)) == (old, old)


@pytest.mark.soak
def test_an_activation_that_hangs_is_stopped_at_its_time_out(lab: Lab, module: Module, healed: None):
    old = system(lab)
    target = next_system(lab, "activation-hangs")
    result = module(HOST, "nixos_rebuild", {"action": "test", "system": target, "timeout": 5})
    assert result["ending"] == "timed_out", result
    assert result["failed"]
    assert boot_default(lab) == old
    module(HOST, "nixos_rebuild", {"system": old})
    assert system(lab) == old


@pytest.mark.soak
def test_units_that_were_failed_before_are_not_blamed_on_the_activation(lab: Lab, module: Module, healed: None):
    lab.run(HOST, ["systemd-run", "--unit=broken-before", "--quiet", "false"], check=True)
    assert "broken-before.service" in module(HOST, "nixos_info", {})["failed_units"]
    result = module(HOST, "nixos_rebuild", {"system": next_system(lab)})
    assert result["activated"], result
    assert not result.get("failed")


def test_a_reboot_is_proven_by_the_boot_id_and_the_booted_system(lab: Lab, module: Module, healed: None):
    target = next_system(lab, "kernel-changed")
    switched = module(HOST, "nixos_rebuild", {"system": target})
    assert set(switched["durations"]) == {"test", "boot"}
    assert "kernel" in switched["reboot_reasons"]
    assert (system(lab), system(lab, PROFILE), boot_default(lab)) == (target, target, target)
    before = boot_id(lab)
    result = module(HOST, "nixos_reboot", {"expected_system": target, "delay": 0, "timeout": 60})
    assert result["rebooted"], result
    assert result["boot_id_before"] == before.strip()
    assert result["boot_id_after"] == boot_id(lab).strip() != before.strip()
    assert result["booted_system"] == target == system(lab, "/run/booted-system")
    assert not module(HOST, "nixos_info", {})["reboot_required"]


def test_a_host_that_would_boot_something_else_is_not_rebooted(lab: Lab, module: Module):
    before = boot_id(lab)
    other = next_system(lab)
    result = module(HOST, "nixos_reboot", {"expected_system": other, "delay": 0})
    assert result["failed"]
    assert not result["rebooted"]
    assert "its boot default is" in result["msg"]
    assert boot_id(lab) == before


def test_a_lost_connection_is_a_failed_result(lab: Lab, module: Module):
    lab.stop("dev")
    try:
        result = module("dev", "nixos_info", {})
    finally:
        lab.start("dev", wait=True)
    assert result["failed"]
    assert result["connection_lost"]
    assert not result.get("unreachable")


def test_the_bare_module_refuses_to_switch(lab: Lab):
    """`library` alone finds the module and not its action plugin."""
    env = {
        **os.environ,
        "ANSIBLE_ACTION_PLUGINS": "/nowhere",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(lab.directory / "cp"),
    }
    ansible = Path(sys.executable).parent / "ansible"
    done = subprocess.run(
        [ansible, HOST, "-i", lab.inventory, "-m", "nixos_rebuild", "-a", f"action=test system={system(lab)}"],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "without the action plugin" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"system": "/nix/store/../../etc"}, "not a store path"),
        ({"system": "/nix/store/00000000000000000000000000000000-nowhere"}, "is not on this host"),
        ({"flake": "/etc/nixos", "attribute": "x", "system": "/nix/store/x"}, "mutually exclusive"),
        ({"system": "/nix/store/00000000000000000000000000000000-x", "timeout": 0}, "timeout is 0"),
        ({"system": "/nix/store/00000000000000000000000000000000-x", "specialisation": "../x"}, "specialisation is"),
    ],
)
def test_bad_input_is_named_and_nothing_is_touched(lab: Lab, module: Module, args: dict, words: str):
    before = system(lab), system(lab, PROFILE), boot_default(lab)
    result = module(HOST, "nixos_rebuild", args)
    assert result["failed"]
    assert words in result["msg"]
    assert (system(lab), system(lab, PROFILE), boot_default(lab)) == before


@pytest.mark.soak
def test_a_system_that_does_not_boot_is_waited_for_no_longer_than_was_said(lab: Lab, module: Module):
    """The last one: it leaves the host without a system that boots."""
    target = next_system(lab, "boot-fails")
    module(HOST, "nixos_rebuild", {"action": "boot", "system": target})
    result = module(HOST, "nixos_reboot", {"expected_system": target, "delay": 0, "timeout": 10})
    assert result["failed"]
    assert result["connection_lost"]
    assert not result["rebooted"]
    assert result["elapsed"] < 40
    assert not lab.run(HOST, ["true"]).stdout
