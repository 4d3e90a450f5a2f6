"""A host that is its own controller and flake host: it updates the others, then itself, and ends that after a boot.

Nights run on that guest, in a unit of their own as a timer would start them; nobody outside helps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.controller import Controller
from tests.integration.fleet import Fleet, Host, until
from tests.lab import Lab

pytestmark = pytest.mark.lab

BUILDER = "builder"
QUICK: dict[str, Any] = {
    "lab_batch": 2,
    "lab_settle": 4,
    "lab_confirm_timeout": 30,
    "lab_activation_timeout": 120,
    "lab_boot_confirm_timeout": 90,
    "lab_reboot_timeout": 120,
}
STATE = "/var/lib/lab-auto-update"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab.temporary(2, prefix="own") as lab:
        yield Fleet(lab)


@pytest.fixture(scope="module")
def controller(fleet: Fleet) -> Controller:
    return Controller(fleet.lab, BUILDER)


def wait(fleet: Fleet, condition: Callable[[], bool], what: str) -> None:
    """Wait for something that the controller does by itself; if it does not, show what it said."""
    try:
        until(condition, 240, what, 0.5)
    except AssertionError as error:
        said = fleet.lab.journal(BUILDER, "--unit=lab-auto-update-*", "--lines=80")
        raise AssertionError(f"{error}\n{said}") from None


def ended(fleet: Fleet, controller: Controller, run_id: str) -> dict[str, Any]:
    """Wait for the end of a run on its controller, by that one's own record."""
    wait(fleet, lambda: controller.last().get("run_id") == run_id, f"run {run_id} ends")
    return dict(controller.last())


def settled_down(fleet: Fleet, boots: int) -> Host:
    """Wait until the controller has begun that many boots and answers, and look at it."""
    wait(fleet, lambda: fleet.lab.boots(BUILDER) == boots, f"boot {boots} begins")
    fleet.lab.wait_ready([BUILDER])
    return fleet.look(BUILDER)


def test_it_updates_the_others_then_itself_and_its_record_and_the_next_run_agree(fleet: Fleet, controller: Controller):
    lab = fleet.lab
    lab.move()
    lab.fault(BUILDER, "kernel-changed")
    # one that ends badly does not keep the controller from its reboot
    lab.fault("dev", "unit-fails")
    before, boots = fleet.look(BUILDER), lab.boots(BUILDER)

    night = controller.night(**QUICK)
    assert night.rc == 2, night.output
    assert night.outcomes == {"dev": "rolled_back", "web": "updated", BUILDER: "pending"}, night.output
    assert "reboots when the night has closed: kernel" in night.reason(BUILDER)
    settled_down(fleet, boots + 1)
    run_id = night.output.split("Night ")[1].split(",")[0]
    record = ended(fleet, controller, run_id)
    assert (record["outcome"], record["from"]) == ("updated", before.current), record

    target = fleet.target(BUILDER)
    assert fleet.look(BUILDER).is_on(target) and target != before.current
    assert fleet.link(BUILDER, "/run/booted-system") == target
    assert fleet.link(BUILDER, "/nix/var/nix/gcroots/lab-auto-update/proven") == target
    assert fleet.look("web").is_on(fleet.target("web"))
    assert fleet.leftovers(BUILDER) == ""
    left = lab.run(BUILDER, ["ls", "-A", STATE], check=True).stdout.split()
    # of a host and of a controller, and nothing of a change
    assert {name for name in left if not name.startswith("rollout-")} <= {"last.json", "lock", "log.json", "nights"}
    # what the settings are is nobody's but root's
    assert "lab_boot_confirm_timeout" not in lab.journal(BUILDER, "--boot=-1", "--unit=night.service")

    lab.fault("dev")
    again = controller.night(**QUICK)
    assert again.rc == 0, again.output
    assert again.outcomes == {"dev": "updated", "web": "unchanged", BUILDER: "unchanged"}, again.output
    assert lab.boots(BUILDER) == boots + 1


@pytest.mark.soak
def test_it_goes_back_from_a_system_in_which_it_reaches_nobody_and_does_not_try_that_again(
    fleet: Fleet, controller: Controller
):
    """With a connection to itself that needs no network, only other hosts can tell."""
    lab = fleet.lab
    before, boots = fleet.look(BUILDER), lab.boots(BUILDER)
    lab.fault(BUILDER, "kernel-changed=6.12.77", "network-lost-after-boot")
    target = fleet.target(BUILDER)

    night = controller.night(**QUICK)
    assert (night.rc, night.outcomes[BUILDER]) == (0, "pending"), night.output
    run_id = night.output.split("Night ")[1].split(",")[0]
    # into the new system, and out of it
    after = settled_down(fleet, boots + 2)
    record = ended(fleet, controller, run_id)
    assert record["outcome"] == "rolled_back"
    assert "cannot reach dev, web any more" in record["reason"]
    assert after.is_on(before.current)
    assert fleet.link(BUILDER, "/run/booted-system") == before.current
    assert fleet.leftovers(BUILDER) == ""
    assert target in fleet.failed_systems(BUILDER)

    again = controller.night(**QUICK)
    assert (again.rc, again.outcomes[BUILDER]) == (0, "held"), again.output
    assert run_id in again.reason(BUILDER)
    assert fleet.look(BUILDER) == after
    lab.fault(BUILDER)


@pytest.mark.soak
def test_where_nothing_can_finish_its_night_the_boot_guard_takes_it_back(fleet: Fleet, controller: Controller):
    lab = fleet.lab
    before, boots = fleet.look(BUILDER), lab.boots(BUILDER)
    lab.fault(BUILDER, "kernel-changed=6.12.78", "emergency-mode")
    # by ssh to itself, as any other host
    controller.inventory(ansible_host=lab.settings()["hosts"][BUILDER]["address"])
    night = controller.night(**QUICK)
    controller.inventory()
    assert (night.rc, night.outcomes[BUILDER]) == (0, "pending"), night.output
    run_id = night.output.split("Night ")[1].split(",")[0]
    after = settled_down(fleet, boots + 2)
    # the note is taken up in the old system, which only has to say what it sees
    assert ended(fleet, controller, run_id)["outcome"] == "rolled_back"
    assert after.is_on(before.current)
    # its systemd is another one now, so it reboots again
    lab.fault(BUILDER, "systemd-changed")
    again = controller.night(**QUICK)
    assert (again.rc, again.outcomes[BUILDER]) == (0, "pending"), again.output
    run_id = again.output.split("Night ")[1].split(",")[0]
    assert ended(fleet, controller, run_id)["outcome"] == "updated"
