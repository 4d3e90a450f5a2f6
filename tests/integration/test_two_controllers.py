"""Two controllers on the same hosts: whole nights that begin together, and what the death of one means to the other.

Controllers are told apart by lab_controller and lab_state_directory, as two that share a machine are. One flake has one
update at a time, so that each has a clone of the flake where they are to meet at the hosts.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.fleet import Fleet, Night, Running, until
from tests.lab import Lab

pytestmark = pytest.mark.lab

HOSTS = ("dev", "web")
QUICK: dict[str, Any] = {
    "lab_stages": [],
    "lab_stage": "",
    "lab_batch": len(HOSTS),
    "lab_settle": 4,
    "lab_confirm_timeout": 30,
    "lab_activation_timeout": 60,
    "lab_boot_confirm_timeout": 20,
    "lab_reboot_timeout": 60,
}
# a clone for each, beside the flake that both could use
FLAKES = {"a": "/srv/flakes/a", "b": "/srv/flakes/b"}
HELD = re.compile(
    r"Another run is changing this host\. It is held by \S+ \(controller (?P<controller>\S+)\), run (?P<run>\S+), "
    r"since (?P<since>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC), until "
)

WAS_HELD = re.compile(
    r"Since the night began it was held by \S+ \(controller (?P<controller>\S+)\), run (?P<run>\S+), "
    r"since (?P<since>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC), which ended with updated\."
)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab.temporary(len(HOSTS), prefix="two") as lab:
        yield Fleet(lab)


def renew(fleet: Fleet, **faults: str) -> dict[str, str]:
    """Give every host a new system, by the flake and by the clones of it; returns the systems."""
    fleet.lab.move()
    fleet.faults(**faults)
    fleet.lab.update()
    for path in FLAKES.values():
        script = f"rm -rf {path} && git clone --quiet --no-hardlinks /etc/nixos {path}"
        fleet.lab.run("builder", ["sh", "-c", script], check=True)
    return {host: fleet.target(host) for host in HOSTS}


def begin(fleet: Fleet, controller: str, *arguments: str, flake: str | None = None, **settings: Any) -> Running:
    own = {
        "lab_controller": controller,
        "lab_flake": flake or FLAKES[controller],
        "lab_state_directory": str(fleet.lab.directory / "states" / controller),
    }
    return fleet.begin(*arguments, **(QUICK | own | settings))


def run_id(night: Night) -> str:
    found = re.search(r"Night (\S+), in this order", night.output)
    assert found, night.output
    return found[1]


def assert_changed_once(fleet: Fleet, target: dict[str, str], nights: dict[str, Night]) -> None:
    """Each host was changed by exactly one of the two; the other says who that was, or came when it was done."""
    for host in HOSTS:
        assert fleet.look(host).is_on(target[host])
        assert fleet.transaction(host) is None
        assert fleet.activations(host, target[host]) == 1
        words = {controller: night.outcomes[host] for controller, night in nights.items()}
        (winner,) = [controller for controller, word in words.items() if word == "updated"]
        (loser,) = set(words) - {winner}
        assert words[loser] in ("deferred", "unchanged"), words
        last = fleet.last(host)
        came_too_late = (last["controller"], last["run_id"]) == (loser, run_id(nights[loser]))
        # the loser may have had the host after that, and seen that it had come too late
        assert came_too_late or (last["controller"], last["run_id"]) == (winner, run_id(nights[winner]))
        if words[loser] == "deferred":
            # it came while the winner was at it, or later
            said = HELD.search(nights[loser].reason(host)) or WAS_HELD.search(nights[loser].reason(host))
            assert said, nights[loser].reason(host)
            assert (said["controller"], said["run"]) == (winner, run_id(nights[winner]))
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(last["since"]))
            assert said["since"] <= since if came_too_late else said["since"] == since
    assert all(night.rc == 0 for night in nights.values())


def assert_flake_is_whole(fleet: Fleet, path: str) -> None:
    """No git object, lock, worktree or half-written file of an update is left, and the flake evaluates."""
    script = """
        cd "$1"
        git fsck --strict --no-dangling
        git status --porcelain
        git worktree list --porcelain | grep -c "^worktree"
        find . -name "*.new" -o -name index.lock
        nix flake metadata --json --no-update-lock-file > /dev/null
    """
    done = fleet.lab.run("builder", ["sh", "-euc", script, "sh", path], check=True)
    assert done.stdout.split() == ["1"], done.stdout


def test_two_nights_that_begin_together_change_each_host_once_and_the_other_says_who_holds_it(fleet: Fleet):
    target = renew(fleet, dev="slow-activation=6", web="slow-activation=6")
    running = {controller: begin(fleet, controller) for controller in FLAKES}
    nights = {controller: run.wait() for controller, run in running.items()}
    assert_changed_once(fleet, target, nights)
    print({controller: night.outcomes for controller, night in nights.items()})


def test_a_dead_run_does_not_block_the_next_one_of_its_own_controller(fleet: Fleet):
    target = renew(fleet, dev="slow-activation=8")
    killed = begin(fleet, "a", "--limit", "dev")
    until(lambda: fleet.step("dev") == "activation", 240, "dev is being activated", 0.02)
    killed.kill()
    left = fleet.transaction("dev")
    assert left is not None
    night = begin(fleet, "a", "--limit", "dev").wait()
    assert (night.rc, night.outcomes) == (0, {"dev": "updated"}), night.output
    last = fleet.last("dev")
    assert last["run_id"] == run_id(night) != left["run_id"]
    # it was not waited for until then
    assert last["since"] < left["deadline"]
    assert fleet.look("dev").is_on(target["dev"])


@pytest.mark.soak
@pytest.mark.parametrize(
    ("faults", "settings"),
    [
        ({}, {}),
        ({"dev": "slow-activation=10", "web": "slow-activation=10"}, {}),
        # one host after the other, so that each may be changed by another controller
        ({"dev": "slow-activation=3"}, {"lab_batch": 1}),
    ],
    ids=["quick", "slow", "one by one"],
)
def test_whole_nights_that_begin_together_change_each_host_once(
    fleet: Fleet, faults: dict[str, str], settings: dict[str, Any]
):
    target = renew(fleet, **faults)
    running = {controller: begin(fleet, controller, **settings) for controller in FLAKES}
    nights = {controller: run.wait() for controller, run in running.items()}
    assert_changed_once(fleet, target, nights)
    for path in FLAKES.values():
        assert_flake_is_whole(fleet, path)


@pytest.mark.soak
def test_of_two_nights_that_begin_together_on_one_flake_one_waits_for_the_other(fleet: Fleet):
    fleet.lab.move()
    running = {controller: begin(fleet, controller, flake="/etc/nixos") for controller in FLAKES}
    nights = {controller: run.wait() for controller, run in running.items()}
    target = {host: fleet.target(host) for host in HOSTS}
    assert_changed_once(fleet, target, nights)
    assert_flake_is_whole(fleet, "/etc/nixos")
    for controller in FLAKES:
        again = begin(fleet, controller, flake="/etc/nixos").wait()
        assert (again.rc, set(again.outcomes.values())) == (0, {"unchanged"}), again.output


@pytest.mark.soak
def test_a_dead_run_of_another_controller_blocks_until_its_time_is_up_and_is_then_settled(fleet: Fleet):
    target = renew(fleet, dev="slow-activation=3")
    before = fleet.look("dev")
    short: dict[str, Any] = {"lab_activation_timeout": 20, "lab_confirm_timeout": 10}
    killed = begin(fleet, "a", "--limit", "dev", **short)
    until(lambda: fleet.step("dev") == "activation", 240, "dev is being activated", 0.02)
    killed.kill()
    left = fleet.transaction("dev")
    assert left is not None

    early = begin(fleet, "b", "--limit", "dev").wait()
    assert time.time() < left["deadline"], "the machine is too slow for this test"
    assert (early.rc, early.outcomes) == (0, {"dev": "deferred"}), early.output
    said = HELD.search(early.reason("dev"))
    assert said, early.reason("dev")
    assert (said["controller"], said["run"]) == ("a", left["run_id"])
    assert fleet.transaction("dev") == left

    until(lambda: time.time() > left["deadline"], 120, "its time is up")
    # nobody had to come for that
    assert fleet.look("dev").current == before.current
    late = begin(fleet, "b", "--limit", "dev").wait()
    assert (late.rc, late.outcomes) == (0, {"dev": "updated"}), late.output
    assert fleet.look("dev").is_on(target["dev"])
    assert fleet.transaction("dev") is None
    assert fleet.activations("dev", target["dev"]) == 2
