"""A host that asks not to be touched, and how often it did; against real guests."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import pytest

from tests.integration.conftest import Module
from tests.lab import Lab

pytestmark = pytest.mark.lab

HOST = "web"
STATE = "/var/lib/lab-auto-update"
PROVEN = "/nix/var/nix/gcroots/lab-auto-update/proven"
HOLD = f"{STATE}/hold"
SW = "/run/current-system/sw/bin"
GATES = {
    "defer_for_users": True,
    "defer_for_inhibitors": True,
    "busy_units": ["gate-busy*"],
    "other_updaters": ["gate-upgrade.timer", "comin.service"],
    "hold_file": HOLD,
}
KINDS = ("sessions", "inhibitors", "busy", "updater", "hold")


def gates(module: Module, variables: Mapping[str, Any] | None = None, **change: Any) -> dict[str, Any]:
    """The checks of a gate by their names, with how the module ended as C(result)."""
    result = module(HOST, "lab_health_check", {**GATES, **change}, **(variables or {}))
    return {check["name"]: check for check in result["checks"]} | {"result": result}


def status(found: dict[str, Any]) -> dict[str, str]:
    return {kind: found[kind]["status"] for kind in KINDS}


@contextmanager
def logged_in(lab: Lab, user: str, *argv: str) -> Iterator[str]:
    """A connection of C(user) that, until the end of the block; the id of its session."""
    before = sessions(lab)
    command = ["ssh", "-F", str(lab.ssh_config), "-l", user, *argv]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as ssh:
        try:
            yield until(lambda: sessions(lab) - before).pop()
        finally:
            ssh.terminate()


def sessions(lab: Lab) -> set[str]:
    """The ids of all sessions of people, but for the one that asks here."""
    text = "cat /proc/self/cgroup >&2; loginctl list-sessions --no-legend"
    done = lab.run(HOST, ["sh", "-c", text], check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[0] for row in rows if row[5] == "user" and f"/session-{row[0]}.scope" not in done.stderr}


T = TypeVar("T")


def until(ask: Callable[[], T]) -> T:
    """What C(ask) gives, once it gives anything."""
    end = time.monotonic() + 20
    while not (found := ask()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.fixture(autouse=True)
def alone(lab: Lab) -> None:
    """Nobody is logged in, no connection of an earlier test either."""
    for session in sessions(lab):
        lab.run(HOST, ["loginctl", "terminate-session", session])
    until(lambda: not sessions(lab))


@pytest.fixture
def loginctl(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Puts another program before the real one, until the end of the test."""
    path = "/run/wrappers/bin/loginctl"

    def replace(script: str) -> None:
        lab.run(HOST, ["sh", "-c", f"cat > {path}; chmod +x {path}"], stdin=f"#!/bin/sh\n{script}\n", check=True)

    yield replace
    lab.run(HOST, ["rm", "-f", path], check=True)


@pytest.fixture
def forgotten(lab: Lab) -> Iterator[None]:
    """The host is nobody's and remembers nothing, before and afterwards."""
    for _when in ("before", "after"):
        lab.run(HOST, ["rm", "-rf", "--", STATE, PROVEN], check=True)
        if _when == "before":
            yield


def test_the_controllers_connections_are_nobody_and_a_quiet_host_may_be_touched(lab: Lab, module: Module):
    # such as Ansible keeps for a while, and such as are left when a cable was out
    with logged_in(lab, "root", "-N", HOST):
        found = gates(module)
    assert status(found) == dict.fromkeys(KINDS, "ok"), found["result"]["msg"]
    assert found["result"]["healthy"]


def test_who_becomes_root_by_sudo_is_not_kept_out_by_their_own_login(module: Module):
    sudo = {"ansible_user": "admin", "ansible_become": True}
    assert gates(module, sudo)["sessions"]["observed"] == "nobody"


def test_somebody_who_is_logged_in_is_named_unless_they_are_idle_or_may_be(lab: Lab, module: Module):
    with logged_in(lab, "admin", "-tt", HOST, "cat"):
        found = gates(module)
        assert found["sessions"]["message"] == "admin (pts/0, from 198.18.0.1) is logged in."
        assert not found["result"]["healthy"]
        assert status(gates(module, ignored_users=["admin"]))["sessions"] == "ok"
        lab.run(HOST, ["touch", "-a", "--date=-31 minutes", "/dev/pts/0"], check=True)
        assert status(gates(module))["sessions"] == "ok"
        assert status(gates(module, user_idle=0))["sessions"] == "fail"


def test_root_counts_from_here_with_a_shell_and_from_elsewhere_without(lab: Lab, module: Module):
    with logged_in(lab, "root", "-tt", HOST, "cat"):
        assert "root (pts/0, from 198.18.0.1)" in gates(module)["sessions"]["observed"]
    address = {host: facts["address"] for host, facts in lab.status()["hosts"].items()}
    with logged_in(lab, "root", "-tt", "builder", "ssh", "-N", f"root@{address[HOST]}"):
        found = gates(module)
    assert found["sessions"]["message"] == f"root (sshd, from {address['builder']}) is logged in."


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sleep 600", "took longer than 1 s"),
        ("echo Hello, world; echo how are you", "loginctl list-sessions printed 'Hello, world"),
        ("exit 0", "does not list"),
    ],
    ids=["hangs", "garbage", "silence"],
)
def test_a_loginctl_that_cannot_be_believed_defers(module: Module, loginctl: Any, script: str, words: str):
    loginctl(script)
    began = time.monotonic()
    found = gates(module, timeout=1)
    assert found["sessions"]["status"] == "unknown"
    assert words in found["sessions"]["message"]
    assert not found["result"]["healthy"]
    assert time.monotonic() - began < 30


def test_a_host_without_loginctl_defers(lab: Lab, module: Module):
    lab.run(HOST, ["mv", "/usr/bin/loginctl", "/usr/bin/loginctl.away"], check=True)
    try:
        found = gates(module)
    finally:
        lab.run(HOST, ["mv", "/usr/bin/loginctl.away", "/usr/bin/loginctl"], check=True)
    assert found["sessions"]["status"] == "unknown"
    assert not found["result"]["healthy"]


@pytest.mark.usefixtures("forgotten")
def test_inhibitors_units_another_updater_and_a_file_each_defer_with_their_reason(lab: Lab, module: Module):
    block = [f"{SW}/systemd-inhibit", "--what=shutdown", "--mode=block", "--who=movers", "--why=raid rebuild"]
    started = {
        "gate-block.service": ["--unit=gate-block", *block, f"{SW}/sleep", "300"],
        "gate-busy-home.service": ["--unit=gate-busy-home", f"{SW}/sleep", "300"],
        "gate-upgrade.timer": ["--unit=gate-upgrade", "--on-active=1h", f"{SW}/true"],
    }
    with ExitStack() as stack:
        stack.callback(lab.run, HOST, ["systemctl", "stop", *started], check=True)
        for argv in started.values():
            lab.run(HOST, ["systemd-run", "--collect", *argv], check=True)
        lab.run(HOST, ["mkdir", "-p", STATE], check=True)
        lab.run(HOST, ["tee", HOLD], stdin="A disk is being replaced.\nNot before Friday.\n", check=True)
        until(lambda: "movers" in lab.run(HOST, ["systemd-inhibit", "--list"]).stdout)
        found = gates(module)
    assert status(found) == {"sessions": "ok", **dict.fromkeys(KINDS[1:], "fail")}, found["result"]["msg"]
    assert "movers (raid rebuild, pid " in found["inhibitors"]["message"]
    assert found["busy"]["message"] == "It is busy with gate-busy-home.service (active)."
    assert "gate-upgrade.timer (active)" in found["updater"]["message"]
    assert found["hold"]["message"] == f"{HOLD} holds this host: A disk is being replaced."
    # the reason of a night that left the host alone is all of them
    assert all(found[kind]["message"] in found["result"]["msg"] for kind in KINDS[1:])
    # a level moves them like all others
    found = gates(module, levels={"hold": "wanted"}, timeout=5)
    assert (found["hold"]["status"], found["result"]["healthy"]) == ("fail", True)


@pytest.mark.usefixtures("forgotten")
def test_a_night_that_left_a_host_alone_counts_once_and_an_update_ends_the_row(lab: Lab, module: Module):
    def claim(state: str, run_id: str, **options: Any) -> dict[str, Any]:
        result = module(HOST, "lab_claim", {"controller": "tower", "state": state, "run_id": run_id, **options})
        assert not result["failed"], result
        return result

    reason = "admin (pts/0, from 192.0.2.7) is logged in."
    first = claim("noted", "night-1", outcome="deferred", deferral=True, reason=reason)
    again = claim("noted", "night-1", outcome="deferred", deferral=True, reason="Another one.")
    assert (first["changed"], again["changed"]) == (True, False)
    assert again["deferrals"] == first["deferrals"]
    second = claim("noted", "night-2", outcome="deferred", deferral=True, reason="It is busy.")["deferrals"]
    assert second == {**first["deferrals"], "nights": 2, "reason": "It is busy.", "run_id": "night-2"}
    assert json.loads(lab.read(HOST, f"{STATE}/deferrals.json") or "") == {"version": 1, **second}

    claim("taken", "night-3")
    claim("renewed", "night-3", proven=True)
    info = module(HOST, "nixos_info", {})
    assert info["deferrals"] == second
    assert info["proven"] == info["systems"]["current"]
    # a second later it would be another time
    until(lambda: int(lab.run(HOST, ["date", "+%s"], check=True).stdout) > info["proven_since"] + 1)
    claim("released", "night-3", outcome="updated", proven=True)
    after = module(HOST, "nixos_info", {})
    assert after["deferrals"] is None
    assert after["proven_since"] == info["proven_since"]

    # and a host that was found right, which nobody takes
    claim("noted", "night-4", outcome="deferred", deferral=True, reason=reason)
    assert claim("noted", "night-5", outcome="unchanged")["changed"]
    assert lab.read(HOST, f"{STATE}/deferrals.json") is None
