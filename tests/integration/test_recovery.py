"""Hosts that come back by themselves, and what is made of it: what is tried again, and what is not.

The scenarios follow each other, as nights do. Every host has its own, and in one night all of them have theirs.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.fleet import (
    ACTIVATION_BROKEN,
    BOOT_BROKEN,
    Fleet,
    Meanwhile,
    Night,
    Running,
    each,
    once_live,
    until,
)
from tests.lab import Lab

pytestmark = pytest.mark.lab

HOSTS = ("dev", "web", "nas", "dns", "host5", "host6")
ROOTS = "/nix/var/nix/gcroots/lab-auto-update"
BACKUP_BROKEN = "/var/lib/backup-broken"
CONFIRM = 30
HANGS_FOR = 15


# all hosts at once, and waits as short as six busy guests on two cores allow
QUICK: dict[str, Any] = {
    "lab_stages": [],
    "lab_stage": "",
    "lab_batch": len(HOSTS),
    "lab_settle": 6,
    "lab_confirm_timeout": CONFIRM,
    "lab_activation_timeout": 120,
    "lab_boot_confirm_timeout": 20,
    "lab_reboot_timeout": 60,
}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab.temporary(len(HOSTS), prefix="recovery") as lab:
        yield Fleet(lab)


@pytest.fixture(autouse=True)
def undamaged(fleet: Fleet) -> Iterator[None]:
    """No damage of one scenario is left to the next."""
    yield
    for host in HOSTS:
        fleet.lab.mend(host)
        backup_is_broken = fleet.lab.read(host, BACKUP_BROKEN) is not None
        for path in (ACTIVATION_BROKEN, BACKUP_BROKEN, BOOT_BROKEN):
            fleet.lab.write(host, path, None)
        if backup_is_broken:
            fleet.lab.run(host, ["systemctl", "restart", "backup.service"], check=True)


def break_the_backup(fleet: Fleet, host: str) -> None:
    """The job fails that has nothing to do with any update; it does until its file is gone."""
    fleet.lab.write(host, BACKUP_BROKEN, "")
    fleet.lab.run(host, ["systemctl", "restart", "backup.service"])


def activations_and_reverts(fleet: Fleet, host: str, since: float) -> list[tuple[float, str]]:
    """What systemd said of the two units since a point in time, and when, by the host's journal."""
    units = ("lab-auto-update-activation.service", "lab-auto-update-revert.service")
    lines = fleet.lab.journal(host, "--output=json", *(f"--unit={unit}" for unit in units)).splitlines()
    entries = [json.loads(line) for line in lines]
    told = [(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, str(entry["MESSAGE"])) for entry in entries if "UNIT" in entry]
    return [(when, words) for when, words in told if when >= since]


def reverted_after(fleet: Fleet, host: str, since: float) -> float | None:
    """How long after the beginning of an activation the host was back, C(None) as long as it is not."""
    told = activations_and_reverts(fleet, host, since)
    begun = [when for when, words in told if words.startswith("Starting lab-auto-update-activation")]
    ended = [when for when, words in told if words.startswith("Finished lab-auto-update-revert")]
    return ended[-1] - begun[0] if begun and ended else None


def assert_reverted_in_time(fleet: Fleet, host: str, since: float) -> None:
    took = reverted_after(fleet, host, since)
    assert took is not None
    print(f"{host} was back {took:.1f} s after the beginning of an activation that hangs")
    assert took < HANGS_FOR + CONFIRM + 30


def until_in(run: Running, condition: Callable[[], bool], what: str) -> None:
    """Wait for a moment of a night, as long as the night goes on."""
    until(lambda: run.process.poll() is not None or condition(), 240, what, 0.02)
    assert run.process.poll() is None, run.output()


def is_being_activated(fleet: Fleet, host: str, system: str) -> bool:
    return fleet.step(host) == "activation" and fleet.activations(host, system) == 1


def go_back(fleet: Fleet, host: str, to: str) -> Night:
    """The emergency rollback of one host."""
    settings = {"lab_yes": True, "lab_rollback_to": to}
    return fleet.begin("--limit", host, playbook="playbooks/rollback.yml", **settings).wait(300)


def collect_garbage(fleet: Fleet, host: str) -> int:
    """Collect what nothing keeps, old generations included; returns how many store paths that were, one at least."""
    # something that nothing keeps is there for sure
    script = "nix store add-path --name garbage /etc/hostname && nix-collect-garbage -d"
    done = fleet.lab.run(host, ["sh", "-euc", script], check=True)
    found = re.search(r"(\d+) store paths deleted", done.stdout + done.stderr)
    return int(found[1]) if found else 0


def test_in_one_night_each_host_ends_as_what_happened_to_it_deserves(fleet: Fleet):
    """Failing units by the update, by somebody else, and for a while; an activation that hangs; a broken way back."""
    lab = fleet.lab
    fleet.faults(
        dev="unit-fails",
        web="slow-activation=1",
        nas="unit-flaps",
        dns="unit-fails",
        host5="activation-hangs",
        host6="unit-fails",
    )
    target = {host: fleet.target(host) for host in HOSTS}
    # failed long before anybody came, and its owner knows
    break_the_backup(fleet, "web")
    before, began = fleet.looks(), time.time()
    with Meanwhile() as meanwhile:
        # what breaks just now stays broken, whichever system runs
        meanwhile.do(once_live, fleet, "dns", target["dns"], lambda: break_the_backup(fleet, "dns"))
        old = before["host6"].current
        meanwhile.do(
            once_live, fleet, "host6", target["host6"], lambda: lab.write("host6", ACTIVATION_BROKEN, f"{old}\n")
        )
        settings = {
            "lab_ignored_units": each([], web=["backup.service"]),
            "lab_activation_timeout": each(120, host5=HANGS_FOR),
            "lab_settle": each(6, nas=14, host6=20),
        }
        night = fleet.night(**(QUICK | settings))
    assert night.rc == 2, night.output
    bad = dict.fromkeys(("dev", "dns", "host5", "host6"), "rolled_back")
    assert night.outcomes == {**bad, "web": "updated", "nas": "updated"}
    after = fleet.looks()
    for host in HOSTS:
        assert after[host].is_on(before[host].current if host in bad else target[host]), host
        assert fleet.transaction(host) is None
        assert fleet.last(host)["outcome"] == night.outcomes[host]
        assert fleet.activations(host, target[host]) == 1
        assert (after[host].boot_id != before[host].boot_id) == (host == "host6"), host

    # the new system's own doing: it is not tried here again
    for host in ("dev", "host6"):
        unit = f"{'app' if host == 'host6' else host}.service"
        assert unit in night.reason(host)
        assert unit in fleet.failed_systems(host)[target[host]]["reason"]
    # not its doing: the unit was failed before and may be, or failed for a while
    assert lab.run("web", ["systemctl", "is-failed", "backup.service"]).stdout.strip() == "failed"
    assert lab.run("nas", ["systemctl", "is-active", "nas.service"]).stdout.strip() == "active"
    # the old system fails its checks as well
    assert "Not caused by the update" in night.reason("dns")
    assert "backup.service" in night.reason("dns")
    assert fleet.failed_systems("dns") == {}

    assert f"did not end within {HANGS_FOR} s" in night.reason("host5")
    assert target["host5"] in fleet.failed_systems("host5")
    assert_reverted_in_time(fleet, "host5", began)


def test_a_cable_that_is_out_and_garbage_that_is_collected_meanwhile_do_not_stop_a_night(fleet: Fleet):
    lab = fleet.lab
    rest = [host for host in HOSTS if host not in ("dev", "web")]
    bad = fleet.target("dev")
    fleet.faults(dev="unit-fails", web="slow-activation=28", **dict.fromkeys(rest, "slow-activation=2"))
    target = {host: fleet.target(host) for host in HOSTS}
    assert target["dev"] == bad
    connection = lab.directory / f"connection-{lab.settings()['hosts']['web']['address']}"
    settings = {
        "lab_stages": ["first", "second"],
        "lab_stage": each("second", web="first"),
        # so that a dead connection is known as one well before the end of the activation
        "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=3",
        "ansible_control_path": f"{lab.directory}/connection-%%h",
    }
    run = fleet.begin(**(QUICK | settings))
    until_in(run, lambda: is_being_activated(fleet, "web", target["web"]), "web is being activated")
    lab.cut("web")
    began = time.monotonic()
    # everything is built and copied by now, and on the others nothing of it runs yet
    with Meanwhile() as meanwhile:
        collected = {host: meanwhile.do(collect_garbage, fleet, host) for host in ("builder", *rest)}
        meanwhile.do(until, lambda: not connection.exists(), 20, "the connection to web is given up")
    until(lambda: time.monotonic() - began >= 20, 20)
    assert not fleet.is_live("web", target["web"])
    assert {fleet.step(host) for host in rest} == {None}
    lab.mend("web")
    assert all(job.result() > 0 for job in collected.values())

    night = run.wait()
    assert night.rc == 0, night.output
    assert night.outcomes == {**dict.fromkeys(HOSTS, "updated"), "dev": "held"}
    for host in (*rest, "web"):
        assert fleet.look(host).is_on(target[host])
        assert fleet.activations(host, target[host]) == 1
        assert fleet.transaction(host) is None
    # the first night after the one in which it failed
    assert fleet.activations("dev", bad) == 1


def test_after_two_updates_and_a_collection_both_ways_back_are_there(fleet: Fleet):
    previous, newest = (fleet.link("nas", f"{ROOTS}/{name}") for name in ("from", "proven"))
    assert previous != newest
    assert fleet.look("nas").is_on(str(newest))
    assert collect_garbage(fleet, "nas") > 0
    for name, system in (("from", previous), ("proven", newest)):
        resolved = fleet.lab.run("nas", ["readlink", "-e", f"{ROOTS}/{name}/bin/switch-to-configuration"]).stdout
        assert resolved.strip() == f"{system}/bin/switch-to-configuration"
    for way, system in (("previous", previous), ("proven", newest)):
        done = go_back(fleet, "nas", way)
        assert (done.rc, done.outcomes) == (0, {"nas": "rolled_back"}), done.output
        assert fleet.look("nas").is_on(str(system))


def test_a_system_that_failed_is_held_until_it_changes_and_one_that_nobody_confirmed_is_not(fleet: Fleet):
    bad = fleet.target("dev")
    before = fleet.look("dev")
    third = fleet.night("--limit", "dev", **QUICK)
    assert (third.rc, third.outcomes) == (0, {"dev": "held"}), third.output
    assert "This system failed here in run" in third.reason("dev")
    assert fleet.activations("dev", bad) == 1

    asked = fleet.night("--limit", "dev", **QUICK, lab_retry_failed=True)
    assert (asked.rc, asked.outcomes) == (2, {"dev": "rolled_back"}), asked.output
    assert fleet.activations("dev", bad) == 2
    assert fleet.look("dev") == before

    # a new one is tried at once; and its night is killed before anybody could confirm it
    fleet.lab.move()
    fleet.faults(dev="slow-activation=8")
    killed = fleet.begin("--limit", "dev", **QUICK)
    until_in(killed, lambda: fleet.step("dev") == "activation", "dev is being activated")
    killed.kill()
    new = fleet.target("dev")
    assert new != bad
    until(lambda: fleet.is_live("dev", new), 60, "dev runs its new system")

    again = fleet.night("--limit", "dev", **QUICK)
    assert (again.rc, again.outcomes) == (0, {"dev": "updated"}), again.output
    assert fleet.look("dev").is_on(new)
    assert fleet.activations("dev", new) == 2
    assert new not in fleet.failed_systems("dev")
    assert bad in fleet.failed_systems("dev")


@pytest.mark.soak
def test_a_host_that_boots_no_more_after_a_rollback_that_failed_is_told_as_such(fleet: Fleet):
    lab = fleet.lab
    fleet.faults(host6="unit-fails")
    before, target = fleet.look("host6"), fleet.target("host6")

    def break_the_way_back() -> None:
        for path in (ACTIVATION_BROKEN, BOOT_BROKEN):
            lab.write("host6", path, f"{before.current}\n")

    with Meanwhile() as meanwhile:
        meanwhile.do(once_live, fleet, "host6", target, break_the_way_back)
        night = fleet.night("--limit", "host6", **QUICK)
    assert (night.rc, night.outcomes) == (2, {"host6": "rollback_failed"}), night.output
    assert lab.status()["hosts"]["host6"]["state"] == "hung"

    # a person mends it; the host is still on record as one in the middle of something, and the next run ends that
    lab.stop("host6")
    for path in (ACTIVATION_BROKEN, BOOT_BROKEN):
        lab.write("host6", path, None)
    lab.start("host6", wait=True)
    fleet.faults(host6="slow-activation=1")
    again = fleet.night("--limit", "host6", **QUICK)
    assert (again.rc, again.outcomes) == (0, {"host6": "updated"}), again.output
    assert fleet.transaction("host6") is None
    assert fleet.look("host6").is_on(fleet.target("host6"))


@pytest.mark.soak
def test_an_activation_that_hangs_is_stopped_and_reverted_also_without_a_controller(fleet: Fleet):
    fleet.faults(host5="activation-hangs")
    fleet.lab.move()
    before = fleet.look("host5")
    began = time.time()
    run = fleet.begin("--limit", "host5", **(QUICK | {"lab_activation_timeout": HANGS_FOR}))
    until_in(run, lambda: fleet.step("host5") == "activation", "host5 is being activated")
    until(lambda: bool(activations_and_reverts(fleet, "host5", since=began)), 30, "its activation has begun")
    run.kill()
    until(lambda: reverted_after(fleet, "host5", began) is not None, HANGS_FOR + CONFIRM + 60, "host5 is back")
    assert_reverted_in_time(fleet, "host5", began)
    assert fleet.look("host5") == before
    fleet.faults()
    again = fleet.night("--limit", "host5", **QUICK)
    assert (again.rc, again.outcomes) == (0, {"host5": "updated"}), again.output
