"""After a reboot: systems that lose the network, do not boot, or are not those that boot; and half-made boot defaults.

Every host suffers from something else, in the same night.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import test_silence
from tests.integration.fleet import Fleet, until
from tests.lab import Lab

pytestmark = pytest.mark.lab

QUICK: dict[str, Any] = {
    "lab_stages": [],
    "lab_stage": "",
    "lab_batch": 6,
    "lab_settle": 4,
    "lab_confirm_timeout": 30,
    "lab_activation_timeout": 120,
    "lab_boot_confirm_timeout": 25,
    "lab_reboot_timeout": 60,
}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab.temporary(6, prefix="reboots") as lab:
        yield Fleet(lab)


@pytest.mark.soak
def test_after_a_reboot_each_host_ends_where_its_grade_promises_and_its_boot_default_is_right(fleet: Fleet):
    lab = fleet.lab
    lab.move()
    fleet.faults(
        dev=("kernel-changed", "network-lost-after-boot"),
        web=("kernel-changed", "boot-fails"),
        nas="kernel-changed",
        dns="kernel-changed",
        host5="inhibitor",
        host6="init-interface-changed",
    )
    # its loader knows no entry for one boot only
    lab.firmware("dns", one_shot=False)
    before = fleet.looks()
    info = fleet.module("dns", "nixos_info")
    assert (info["one_shot"], info["boot_recovery"], info["boot_guard"]) == (False, "manual", True)
    info = fleet.module("nas", "nixos_info")
    assert (info["one_shot"], info["boot_recovery"]) == (True, "on_reset")
    # somebody at the console picks the old generation
    lab.choose("nas", "nixos-generation-1.conf")

    night = fleet.night(**QUICK)
    assert night.rc == 2, night.output
    assert night.outcomes == {
        "dev": "rolled_back",
        "web": "lost",
        "nas": "rolled_back",
        "dns": "updated",
        "host5": "updated",
        "host6": "updated",
    }
    after = {host: fleet.look(host) for host in fleet.hosts if host != "web"}
    for host in ("dns", "host5", "host6"):
        assert after[host].is_on(fleet.target(host)), host
        assert after[host].boot_id != before[host].boot_id
    for host in ("dev", "nas"):
        assert after[host].is_on(before[host].current), host
        assert after[host].boot_id != before[host].boot_id

    # graded `on_reset`: any reset brings it back, with the boot default that it had
    assert lab.status()["hosts"]["web"]["state"] == "hung"
    lab.stop("web")
    lab.start("web", wait=True)
    assert fleet.look("web").is_on(before["web"].current)
    assert fleet.transaction("web") is not None

    fleet.faults()
    second = fleet.night(**QUICK)
    assert second.rc == 0, second.output
    assert set(second.outcomes.values()) <= {"updated", "unchanged"}
    for host in fleet.hosts:
        assert fleet.look(host).is_on(fleet.target(host))
        assert fleet.transaction(host) is None
        links = lab.run(host, ["ls", "/nix/var/nix/profiles/system-profiles"]).stdout
        assert "lab-candidate" not in links


def test_a_boot_that_could_not_be_tried_first_is_taken_back_by_the_boot_guard(fleet: Fleet, tmp_path: Path):
    """Without an entry for one boot the default has to move before the reboot: the one named exception.

    Its alerts are silent meanwhile.
    """
    fleet.lab.firmware("dns", one_shot=False)
    fleet.faults(dns=("kernel-changed=6.12.77", "network-lost-after-boot"))
    before, boots = fleet.look("dns"), fleet.lab.boots("dns")
    with test_silence.running(tmp_path) as alertmanager:
        url = alertmanager.url.replace("://", "://me:c4n4ry@")
        night = fleet.night("--limit", "dns", "-vvv", **QUICK, lab_silence_url=url)
        silences = test_silence.silences(alertmanager)
    assert (night.rc, night.outcomes) == (2, {"dns": "rolled_back"}), night.output
    run = re.search(r"Night (\w+-\w+)", night.output)
    assert run is not None
    assert {one["comment"] for one in silences} == {f"dns reboots, in run {run[1]}"}
    assert {str(one["matchers"][0]["value"]) for one in silences} == {"dns(:[0-9]+)?"}
    assert {one["status"]["state"] for one in silences} == {"expired"}
    began, ended = (test_silence.moment(silences[0][end]) for end in ("startsAt", "endsAt"))
    # down, there and back: the boot guard has waited meanwhile
    assert ended - began > QUICK["lab_boot_confirm_timeout"]
    assert "c4n4ry" not in night.output
    assert fleet.look("dns").is_on(before.current)
    # into the new system, where nobody reached it, and out of it
    assert fleet.lab.boots("dns") == boots + 2
    fleet.faults()


@pytest.mark.soak
def test_a_host_whose_reboot_was_still_due_returns_to_the_system_that_it_booted_last(fleet: Fleet):
    fleet.faults(host6=("kernel-changed=6.12.79", "network-lost-after-boot"))
    before, boots = fleet.look("host6"), fleet.lab.boots("host6")
    first = fleet.night("--limit", "host6", **QUICK, lab_reboot="never")
    assert (first.rc, first.outcomes) == (0, {"host6": "pending"}), first.output
    target = fleet.target("host6")
    assert fleet.look("host6").is_on(target)
    # what never booted has not proven anything
    assert fleet.link("host6", "/nix/var/nix/gcroots/lab-auto-update/proven") != target

    second = fleet.night("--limit", "host6", **QUICK)
    assert (second.rc, second.outcomes) == (2, {"host6": "rolled_back"}), second.output
    assert fleet.look("host6").is_on(before.current)
    assert fleet.lab.boots("host6") == boots + 2
    assert target in fleet.failed_systems("host6")
    fleet.faults()


def test_a_profile_that_was_set_without_its_boot_loader_is_brought_in_line_by_the_next_run(fleet: Fleet):
    lab = fleet.lab
    fleet.faults(dev="slow-loader=15", web="slow-loader=15")
    lab.move()
    before = fleet.looks()
    run = fleet.begin("--limit", "dev,web", **QUICK)

    def set_without_boot(host: str) -> bool:
        moved = fleet.link(host, "/nix/var/nix/profiles/system") != profiles[host]
        return fleet.step(host) == "commit" and moved

    profiles = {host: fleet.link(host, "/nix/var/nix/profiles/system") for host in ("dev", "web")}
    for host in ("dev", "web"):
        until(lambda host=host: set_without_boot(host), 240, f"{host} has its new profile", 0.02)  # type: ignore[misc]
    # one loses its power at that moment, and boots the old system; of the other only the controller dies
    lab.stop("web")
    run.kill()
    lab.start("web", wait=True)
    assert fleet.look("web").boot_default == before["web"].current
    assert fleet.look("web").profile != before["web"].profile

    fleet.faults()
    night = fleet.night("--limit", "dev,web", **QUICK)
    assert night.rc == 0, night.output
    assert fleet.last("dev")["outcome"] == "updated"
    for host in ("dev", "web"):
        assert fleet.look(host).is_on(fleet.target(host))
        assert fleet.transaction(host) is None


def test_a_full_boot_file_system_is_noticed_before_anything_is_touched(fleet: Fleet):
    lab = fleet.lab
    fleet.faults(nas="kernel-changed=6.12.78")
    lab.run("nas", ["sh", "-c", "dd if=/dev/zero of=/boot/filler bs=1k || true"], check=True)
    before = fleet.look("nas")
    try:
        night = fleet.night("--limit", "nas", **QUICK, lab_min_boot_free=0)
    finally:
        lab.run("nas", ["rm", "-f", "/boot/filler"], check=True)
    assert (night.rc, night.outcomes) == (2, {"nas": "failed"}), night.output
    assert "bytes free" in night.reason("nas")
    assert fleet.look("nas") == before
    assert fleet.activations("nas", fleet.target("nas")) == 0
    assert fleet.target("nas") not in fleet.failed_systems("nas")
    fleet.faults()
