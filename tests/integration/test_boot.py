"""A new system is booted once before it becomes the boot default, and what is not there is noticed; on real guests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import test_silence
from tests.integration.conftest import Module
from tests.lab import Lab

pytestmark = pytest.mark.lab

HOST = "dev"
CURRENT, BOOTED, PROFILE = "/run/current-system", "/run/booted-system", "/nix/var/nix/profiles/system"
CANDIDATE = "lab-candidate"
RUN = {"run_id": "night-1", "controller": "tower"}
FILL = "/boot/filler"


def system(lab: Lab, link: str = CURRENT) -> str:
    return lab.run(HOST, ["readlink", "-f", link], check=True).stdout.strip()


def boot_default(lab: Lab) -> str:
    """Read as the loader does, and not by the code under test."""
    text = (
        'entry=$(sed -n "s/^default *//p" /boot/loader/loader.conf); grep -o "init=[^ ]*" /boot/loader/entries/$entry'
    )
    return lab.run(HOST, ["sh", "-c", text], check=True).stdout.strip().removeprefix("init=").removesuffix("/init")


def boot_id(lab: Lab) -> str:
    return lab.run(HOST, ["cat", "/proc/sys/kernel/random/boot_id"], check=True).stdout.strip()


def candidate(lab: Lab) -> list[str]:
    """The links of the candidate profile, and the order to boot it next."""
    once = "/var/lib/firmware/efivars/LoaderEntryOneShot"
    text = f"cd /nix/var/nix/profiles && ls -d system-profiles/{CANDIDATE}*; cat {once}"
    return lab.run(HOST, ["sh", "-c", text]).stdout.split()


def standing(lab: Lab) -> tuple[str, ...]:
    """Everything that a refusal leaves as it was."""
    return system(lab), system(lab, PROFILE), boot_default(lab), boot_id(lab), *candidate(lab)


def next_system(lab: Lab, *faults: str) -> str:
    """A new system that is on the host, and is not what it runs."""
    lab.fault(HOST, *faults)
    lab.move()
    lab.update()
    return lab.build(HOST)


def boot_once(module: Module, target: str) -> dict[str, Any]:
    return module(HOST, "nixos_rebuild", {"action": "boot_once", "system": target})


@pytest.fixture
def origin(lab: Lab) -> Iterator[str]:
    """The system that the host runs and boots; afterwards it does so again, and nothing of a test is left."""
    before = system(lab)
    assert before == system(lab, PROFILE) == boot_default(lab)
    yield before
    # without the code under test: `boot` of a system that has the loader write its entries
    lab.firmware(HOST, one_shot=True)
    lab.fault(HOST)
    script = f"""
        rm -rf {FILL} /nix/var/nix/profiles/system-profiles /var/lib/lab-auto-update /var/lib/firmware/efivars
        [ $(readlink -f {PROFILE}) = {before} ] || nix-env --profile {PROFILE} --set {before}
        {before}/bin/switch-to-configuration boot
        [ $(readlink -f {CURRENT}) = {before} ] || {before}/bin/switch-to-configuration test
    """
    lab.run(HOST, ["sh", "-euc", script], check=True)
    if system(lab, BOOTED) != before:
        lab.stop(HOST)
        lab.start(HOST, wait=True)


def test_a_system_is_booted_once_and_a_power_cut_after_that_lands_on_the_old_one(lab: Lab, module: Module, origin: str):
    target = next_system(lab, "kernel-changed=7.1")
    info = module(HOST, "nixos_info", {"target": target})
    assert (info["one_shot"], info["boot_recovery"], info["passphrase_at_boot"]) == (True, "on_reset", False)
    assert 0 < info["boot_space"]["needed"] < info["boot_space"]["free"]
    assert info["next_boot"] == origin

    prepared = boot_once(module, target)
    assert not prepared["failed"], prepared
    assert (system(lab), system(lab, PROFILE), boot_default(lab)) == (origin, origin, origin)
    info = module(HOST, "nixos_info", {"target": target})
    assert (info["next_boot"], info["systems"]["boot_default"], info["drift"]) == (target, origin, [])
    # it is there now
    assert info["boot_space"]["needed"] == 0

    rebooted = module(HOST, "nixos_reboot", {"expected_system": target, "delay": 0, "timeout": 60})
    assert (rebooted["rebooted"], rebooted["went_back"], rebooted["confirmed"]) == (True, False, False), rebooted
    assert (system(lab, BOOTED), system(lab, PROFILE), boot_default(lab)) == (target, origin, origin)
    assert module(HOST, "nixos_info", {})["next_boot"] == origin

    lab.stop(HOST)
    lab.start(HOST, wait=True)
    assert (system(lab, BOOTED), system(lab), boot_default(lab)) == (origin, origin, origin)


def test_a_boot_that_is_confirmed_and_committed_leaves_no_candidate(
    lab: Lab, module: Module, origin: str, tmp_path: Path
):
    target = next_system(lab, "kernel-changed=7.2")
    assert not module(HOST, "lab_claim", {**RUN, "state": "taken"})["failed"]
    prepared = module(HOST, "nixos_rebuild", {**RUN, "action": "boot_once", "system": target})
    assert not prepared["failed"], prepared
    reboot = {**RUN, "expected_system": target, "delay": 0, "timeout": 60, "confirm_timeout": 77}
    with test_silence.running(tmp_path) as alertmanager:
        reboot["silence_url"] = alertmanager.url
        assert module(HOST, "nixos_reboot", reboot, check=True)["changed"]
        assert test_silence.silences(alertmanager) == []
        rebooted = module(HOST, "nixos_reboot", reboot)
        (silence,) = test_silence.silences(alertmanager)
    assert (rebooted["rebooted"], rebooted["confirmed"], rebooted["failed"]) == (True, True, False), rebooted
    assert (silence["status"]["state"], silence["comment"]) == ("expired", f"{HOST} reboots, in run night-1")
    assert "silenced" not in rebooted["warned"]
    note = json.loads(str(lab.read(HOST, "/var/lib/lab-auto-update/transaction.json")))
    assert (note["step"], note["boot_id"], note["guard_seconds"]) == ("reboot_verification", boot_id(lab), 77)
    assert boot_default(lab) == origin

    committed = module(HOST, "nixos_rebuild", {**RUN, "action": "boot", "system": target})
    assert not committed["failed"], committed
    assert (system(lab, PROFILE), boot_default(lab), candidate(lab)) == (target, target, [])
    entries = lab.run(HOST, ["ls", "/boot/loader/entries"], check=True).stdout
    assert CANDIDATE not in entries
    assert not module(HOST, "lab_claim", {**RUN, "state": "released", "outcome": "updated"})["failed"]


@pytest.mark.parametrize("reboots", [False, True])
def test_what_a_power_cut_has_taken_away_before_its_verification_never_becomes_the_boot_default(
    lab: Lab, module: Module, origin: str, reboots: bool
):
    target = next_system(lab, "kernel-changed=7.3")
    assert not module(HOST, "lab_claim", {**RUN, "state": "taken"})["failed"]
    if reboots:
        assert not module(HOST, "nixos_rebuild", {**RUN, "action": "boot_once", "system": target})["failed"]
        reboot = {**RUN, "expected_system": target, "delay": 0, "timeout": 60, "confirm_timeout": 77}
        assert module(HOST, "nixos_reboot", reboot)["confirmed"]
    else:
        assert module(HOST, "nixos_rebuild", {**RUN, "action": "test", "system": target})["activated"]
    assert system(lab) == target
    lab.stop(HOST)
    lab.start(HOST, wait=True)

    committed = module(HOST, "nixos_rebuild", {**RUN, "action": "boot", "system": target})
    assert committed["failed"]
    assert f"The running system is {origin}, and not {target}." in committed["msg"]
    assert (system(lab), system(lab, PROFILE), boot_default(lab)) == (origin, origin, origin)
    assert not module(HOST, "lab_claim", {**RUN, "state": "released", "outcome": "rolled_back"})["failed"]


def test_a_host_whose_boot_fell_back_is_told_from_one_that_booted_the_new_system(lab: Lab, module: Module, origin: str):
    target = next_system(lab)
    assert not boot_once(module, target)["failed"]
    # somebody at the console
    lab.choose(HOST, "nixos-generation-*")
    result = module(HOST, "nixos_reboot", {"expected_system": target, "delay": 0, "timeout": 60})
    assert (result["rebooted"], result["failed"], result["went_back"]) == (True, True, True), result
    assert result["booted_system"] == origin
    assert "the system from before" in result["msg"]


def test_a_boot_file_system_without_room_is_refused_before_anything(lab: Lab, module: Module, origin: str):
    target = next_system(lab, "kernel-changed=7.3")
    before = standing(lab)
    lab.run(HOST, ["dd", "if=/dev/zero", f"of={FILL}", "bs=64k"])
    space = module(HOST, "nixos_info", {"target": target})["boot_space"]
    assert space["needed"] > space["free"]
    result = boot_once(module, target)
    assert result["failed"]
    assert f"/boot has {space['free']} bytes free" in result["msg"]
    assert "configurationLimit" in result["msg"]
    assert standing(lab) == before


def test_a_boot_loader_that_wrote_nothing_is_noticed_and_nothing_is_left(lab: Lab, module: Module, origin: str):
    """The loader step is that of the system that the host runs."""
    silent = next_system(lab, "esp-full")
    script = f"""
        nix-env --profile {PROFILE} --set {silent}
        $(grep -o '/nix/store/[^ ]*install-systemd-boot.sh' {silent}/bin/switch-to-configuration | head -n 1) {silent}
        {silent}/bin/switch-to-configuration test
    """
    lab.run(HOST, ["sh", "-euc", script], check=True)
    before = standing(lab)
    assert before[:3] == (silent, silent, silent)
    target = next_system(lab)
    result = boot_once(module, target)
    assert result["failed"]
    assert "there is no entry for" in result["msg"]
    assert standing(lab) == before
    assert module(HOST, "nixos_info", {})["next_boot"] == silent


def test_a_boot_loader_that_cannot_boot_an_entry_once_is_not_asked_to(lab: Lab, module: Module, origin: str):
    lab.firmware(HOST, one_shot=False)
    info = module(HOST, "nixos_info", {})
    assert (info["one_shot"], info["boot_recovery"]) == (False, "manual")
    target = next_system(lab)
    before = standing(lab)
    result = boot_once(module, target)
    assert result["failed"]
    assert "cannot start an entry once" in result["msg"]
    assert standing(lab) == before


@pytest.mark.soak
def test_a_boot_that_cannot_be_confirmed_is_told_and_the_host_goes_back_by_itself(
    lab: Lab, module: Module, origin: str
):
    target = next_system(lab, "python-broken")
    assert not module(HOST, "lab_claim", {**RUN, "state": "taken"})["failed"]
    prepared = module(HOST, "nixos_rebuild", {**RUN, "action": "boot_once", "system": target, "require_python": False})
    assert not prepared["failed"], prepared
    result = module(
        HOST, "nixos_reboot", {**RUN, "expected_system": target, "delay": 0, "timeout": 60, "confirm_timeout": 10}
    )
    assert (result["rebooted"], result["failed"], result["confirmed"]) == (True, True, False), result
    end = time.monotonic() + 60
    while lab.run(HOST, ["readlink", "-f", BOOTED]).stdout.strip() != origin and time.monotonic() < end:
        time.sleep(0.5)
    lab.wait_ready([HOST])
    assert (system(lab, BOOTED), system(lab), system(lab, PROFILE), boot_default(lab)) == (origin,) * 4
