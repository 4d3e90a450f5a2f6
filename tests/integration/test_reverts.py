"""A host that nobody can reach puts itself back: new systems without ssh, network, sudo or Python; with and without us.

All hosts suffer at once, each from something else. The boot default is read as the loader reads it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.fleet import Fleet, until
from tests.lab import Lab

pytestmark = pytest.mark.lab

FAULTS = {
    "dev": "sshd-broken",
    "web": "network-lost",
    "nas": "firewall-drops-ssh",
    "dns": "python-broken",
    "host5": "python-gone",
}
CONFIRM = 20
# all hosts at once, and waits as short as five busy guests on two cores allow
QUICK: dict[str, Any] = {
    "lab_stages": [],
    "lab_stage": "",
    "lab_batch": len(FAULTS),
    "lab_settle": 4,
    "lab_confirm_timeout": CONFIRM,
    "lab_activation_timeout": 120,
    "lab_require_python": False,
}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab.temporary(len(FAULTS), prefix="reverts") as lab:
        yield Fleet(lab)


class Watch:
    """Looks from outside, many times a second, at what hosts would boot; the profile and the loader never may move."""

    def __init__(self, fleet: Fleet) -> None:
        self.moved: set[str] = set()
        self._fleet, self._end = fleet, threading.Event()
        self._before = {host: self._look(host) for host in fleet.hosts}
        self._thread = threading.Thread(target=self._run)

    def _look(self, host: str) -> tuple[str | None, str | None]:
        lab = self._fleet.lab
        return lab.read(host, "/boot/loader/loader.conf"), self._fleet.link(host, "/nix/var/nix/profiles/system")

    def _run(self) -> None:
        while not self._end.wait(0.05):
            self.moved |= {host for host, seen in self._before.items() if self._look(host) != seen}

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def test_a_new_system_that_locks_us_out_is_rolled_back_and_never_was_the_boot_default(fleet: Fleet):
    fleet.lab.move()
    fleet.faults(**FAULTS)
    before = fleet.looks()
    with Watch(fleet) as watch:
        night = fleet.night(**QUICK)
    assert night.rc == 2, night.output
    assert night.outcomes == dict.fromkeys(FAULTS, "rolled_back")
    assert fleet.looks() == before
    assert not watch.moved
    for host in FAULTS:
        assert fleet.transaction(host) is None
        assert fleet.last(host)["outcome"] == "rolled_back"
        # what failed to be reached is not tried again
        assert fleet.target(host) in (fleet.lab.read(host, "/var/lib/lab-auto-update/failed.json") or "")


def test_it_puts_itself_back_with_the_controller_dead_and_a_power_cut_lands_on_the_old_system(fleet: Fleet):
    fleet.lab.move()
    fleet.faults(**{host: (fault, "slow-activation=8") for host, fault in FAULTS.items()})
    before = fleet.looks()
    with Watch(fleet) as watch:
        run = fleet.begin(**QUICK)
        until(lambda: all(fleet.step(host) == "activation" for host in FAULTS), 240, "all are being activated", 0.02)
        run.kill()
        # the time counts from the end of the activation, which is when the new system is the running one
        targets = {host: fleet.transaction(host)["target"] for host in FAULTS}  # type: ignore[index]
        began = time.monotonic()
        for host in FAULTS:
            running = lambda host=host: fleet.link(host, "/run/current-system") == targets[host]  # noqa: E731
            until(running, 60, f"{host} is activated", 0.02)
        ended = time.monotonic()
        # one of them loses its power just now, while nobody can reach it
        fleet.lab.stop("web")
        fleet.lab.start("web", wait=True)
        assert fleet.look("web").is_on(before["web"].current)
        for host in FAULTS:
            until(lambda host=host: fleet.answers(host), ended + CONFIRM + 30 - time.monotonic(), f"{host} answers")  # type: ignore[misc]
            on_old = lambda host=host: fleet.look(host).current == before[host].current  # noqa: E731
            until(on_old, ended + CONFIRM + 30 - time.monotonic(), f"{host} is on its old system")
    print(f"all of them were activated within {ended - began:.1f} s")
    assert not watch.moved
    assert all(fleet.look(host).is_on(before[host].current) for host in FAULTS)

    fleet.faults()
    night = fleet.night(**QUICK)
    assert (night.rc, night.outcomes) == (0, dict.fromkeys(FAULTS, "updated"))
    for host in FAULTS:
        assert fleet.look(host).is_on(fleet.target(host))
        assert fleet.transaction(host) is None


def test_a_new_system_without_sudo_is_put_back_by_the_host_itself(fleet: Fleet):
    """Only somebody who needs sudo can notice that it is gone; root, as whom the nights log in, does without."""
    fleet.faults(dev="sudo-gone")
    target = fleet.lab.build("dev")
    before = fleet.look("dev")
    arguments = f"system={target} timeout=60 settle=2 confirm_timeout={CONFIRM}"
    run = fleet.begin_module("dev", "nixos_rebuild", arguments, "--become", ansible_user="admin")
    until(lambda: fleet.link("dev", "/run/current-system") == target, 120, "it is activated", 0.02)
    activated = time.monotonic()
    until(lambda: fleet.look("dev").current == before.current, CONFIRM + 30, "it is back")
    print(f"back {time.monotonic() - activated:.1f} s after it was activated")
    done = run.wait()
    assert done.rc == 2
    assert "could not be confirmed" in " ".join(done.output.split())
    assert fleet.look("dev") == before
    assert fleet.last("dev")["outcome"] == "rolled_back"
