"""Staged by results: a lock that soaks over nights, a machine that takes others down, an update that cannot wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.fleet import Fleet, until, untouched, window_in
from tests.lab import Lab

pytestmark = pytest.mark.lab

HOSTS = ("dev", "web", "nas")
STAGES = {"dev": "development", "web": "infrastructure", "nas": "critical"}
# waits as short as three busy guests on two cores allow
QUICK = {
    "lab_settle": 6,
    "lab_activation_timeout": 120,
    "lab_confirm_timeout": 20,
    "lab_reboot_timeout": 60,
    "lab_boot_confirm_timeout": 50,
}
AN_HOUR = 3600


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab.temporary(3, prefix="stages") as lab:
        fleet = Fleet(lab)
        own(fleet)
        yield fleet


def own(fleet: Fleet, **hosts: dict[str, Any]) -> None:
    fleet.says(QUICK, {host: {"lab_stage": stage, **hosts.get(host, {})} for host, stage in STAGES.items()})


def test_a_stage_begins_when_the_one_before_has_been_well_with_the_same_lock_for_long_enough(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
):
    # the controller is some hours behind the hosts
    monkeypatch.setenv("TZ", "America/New_York")
    fleet.lab.move()
    before = fleet.looks()
    first = fleet.night(lab_soak=AN_HOUR)
    assert (first.rc, first.outcomes) == (0, {"dev": "updated", "web": "held", "nas": "held"})
    assert "development" in first.reason("web")
    assert untouched(before, fleet.looks(), ("web", "nas"))

    # the inputs move on, and the lock does not
    locked = fleet.locked()
    fleet.lab.move()
    before = fleet.looks()
    second = fleet.night(lab_soak=AN_HOUR)
    assert (second.rc, second.outcomes) == (0, {"dev": "unchanged", "web": "held", "nas": "held"})
    assert "soaks until" in second.reason("web")
    assert "The inputs are left alone" in second.output
    assert fleet.locked() == locked
    assert fleet.looks() == before

    # it has soaked: what is kept on the hosts says so, whichever controller asks
    third = fleet.night(lab_soak=1, lab_controller="another")
    assert (third.rc, third.outcomes) == (0, {"dev": "unchanged", "web": "updated", "nas": "held"})
    fourth = fleet.night(lab_soak=1)
    assert (fourth.rc, fourth.outcomes) == (0, {"dev": "unchanged", "web": "unchanged", "nas": "updated"})
    assert fleet.locked() == locked
    targets, after = fleet.targets(), fleet.looks()
    assert all(after[host].is_on(targets[host]) for host in HOSTS)


def test_an_emergency_waits_for_no_window_and_no_soak(fleet: Fleet):
    # the lock of the nights before is everywhere, so the next one may come
    locked, window = fleet.locked(), window_in(3)
    own(fleet, web={"lab_window": window})
    night = fleet.night(lab_soak=AN_HOUR)
    assert (night.rc, night.outcomes) == (0, {"dev": "updated", "web": "deferred", "nas": "held"})
    assert window[:5] in night.reason("web")
    assert fleet.locked() != locked

    fleet.lab.move("tools")
    fleet.lab.move()
    inputs = fleet.lab.run("builder", ["cat", "/etc/nixos/flake.lock"], check=True).stdout
    emergency = fleet.begin(playbook="playbooks/emergency.yml", lab_inputs=["tools"]).wait()
    assert (emergency.rc, emergency.outcomes) == (0, dict.fromkeys(HOSTS, "updated"))
    assert "Input tools " in emergency.output
    assert "Input packages " not in emergency.output
    assert fleet.lab.run("builder", ["cat", "/etc/nixos/flake.lock"], check=True).stdout != inputs
    own(fleet)


@contextmanager
def goes_down_with(fleet: Fleet, guest: str, hypervisor: str, *, comes_back: bool) -> Iterator[None]:
    """A machine is off as soon as the one that it runs on boots anew, and back a little later, if at all."""
    failures: list[BaseException] = []
    boots = fleet.lab.boots(hypervisor)

    def follow() -> None:
        try:
            until(lambda: fleet.lab.boots(hypervisor) > boots, 400, f"{hypervisor} reboots", 0.05)
            fleet.lab.stop(guest)
            until(lambda: fleet.answers(hypervisor), 60, f"{hypervisor} is back")
            if comes_back:
                fleet.lab.start(guest)
        except BaseException as error:  # told by the test, below
            failures.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    yield
    thread.join()
    assert not failures, failures


def test_a_machine_that_takes_another_down_waits_for_it_and_that_one_is_updated_all_the_same(fleet: Fleet):
    fleet.lab.move()
    own(fleet, nas={"lab_hypervisor_of": ["web"], "lab_stage": "infrastructure"})
    fleet.lab.fault("nas", "kernel-changed")
    before = fleet.looks()
    with goes_down_with(fleet, "web", "nas", comes_back=True):
        night = fleet.night(lab_batch=3)
    assert (night.rc, night.outcomes) == (0, dict.fromkeys(HOSTS, "updated"))
    # never in one batch
    assert "nas + web" not in night.output and "web + nas" not in night.output
    targets, after = fleet.targets(), fleet.looks()
    assert all(after[host].is_on(targets[host]) for host in HOSTS)
    assert {host for host in HOSTS if after[host].boot_id != before[host].boot_id} == {"nas", "web"}


@pytest.mark.soak
def test_a_machine_whose_guest_does_not_come_back_is_put_back(fleet: Fleet):
    fleet.lab.move()
    own(fleet, nas={"lab_hypervisor_of": ["web"], "lab_stage": "infrastructure"})
    fleet.lab.fault("nas", "kernel-changed=6.13")
    before = fleet.looks()
    with goes_down_with(fleet, "web", "nas", comes_back=False):
        night = fleet.night()
    fleet.lab.start("web", wait=True)
    assert night.rc == 2, night.output
    assert night.outcomes == {"dev": "updated", "nas": "rolled_back", "web": "held"}
    assert "web" in night.reason("nas")
    assert "nas" in night.reason("web")
    after = fleet.looks()
    assert after["nas"].is_on(before["nas"].current)
    assert after["web"].is_on(before["web"].current)
