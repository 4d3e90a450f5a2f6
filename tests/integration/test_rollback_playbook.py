"""The emergency rollback, by the very playbook that a person in trouble runs, on four hosts, one without Python.

The scenarios follow each other. Hosts are watched over ssh or from outside, and the boot default is read as the loader
reads it, never by the code under test.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.homelab.nixos.plugins.module_utils import _revert_units, _transaction
from ansible_collections.homelab.nixos.plugins.module_utils._systems import Systems

from tests.integration.fleet import ROOT, TRANSACTION, Fleet, Night, Running, until
from tests.lab import Lab

pytestmark = pytest.mark.lab

HOSTS = ("dev", "web", "nas", "dns")
PLAYBOOK = "playbooks/rollback.yml"
ROOTS = "/nix/var/nix/gcroots/lab-auto-update"
PROFILE = "/nix/var/nix/profiles/system"
UNIT = "lab-auto-update-rollback.service"
# whatever a rollback that does nothing may not change
STATE = r"""
readlink -f /run/current-system /run/booted-system /nix/var/nix/profiles/system
ls /nix/var/nix/profiles
cat /proc/sys/kernel/random/boot_id
find /boot /var/lib/lab-auto-update /run/lab-auto-update /run/systemd/system -type f -exec sha256sum {} + 2>&1 | sort
systemctl list-units --all --plain --no-legend 'lab-auto-update-*'
"""


class Emergency(Fleet):
    """The lab, and what each host booted first (C(first)) and was proven to work on (C(proven))."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.first = {host: self.look(host).current for host in HOSTS}
        lab.move()
        lab.update()
        self.proven = self.build(dict.fromkeys(HOSTS, "slow-activation=4"))
        self.prove(self.proven)
        for host in HOSTS:
            # generation 2 is the proven one, and 3 is what runs and boots again
            for system in (self.proven[host], self.first[host]):
                self.sh(host, f"nix-env -p {PROFILE} --set {system}")

    def build(self, faults: Mapping[str, str]) -> dict[str, str]:
        """Systems with these faults, on their hosts."""
        for host, fault in faults.items():
            self.lab.fault(host, fault)
        with ThreadPoolExecutor() as pool:
            return dict(zip(faults, pool.map(self.lab.build, faults), strict=True))

    def prove(self, systems: Mapping[str, str]) -> None:
        for host, system in systems.items():
            self.sh(host, f"mkdir -p {ROOTS}; ln -sfn {system} {ROOTS}/proven")

    def sh(self, host: str, script: str) -> str:
        return self.lab.run(host, ["sh", "-euc", script], check=True).stdout.strip()

    def rollback(self, *arguments: str, **settings: Any) -> Night:
        return self.begin_rollback(*arguments, **settings).wait(300)

    def begin_rollback(self, *arguments: str, **settings: Any) -> Running:
        return self.begin(*arguments, playbook=PLAYBOOK, **settings)

    def state(self) -> dict[str, str]:
        return {host: self.lab.run(host, ["sh", "-c", STATE]).stdout for host in HOSTS}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Emergency]:
    with Lab.temporary(len(HOSTS), prefix="rollback", without_python=["dns"]) as lab:
        yield Emergency(lab)


def test_a_dry_run_says_where_each_host_would_go_and_touches_nothing(fleet: Emergency):
    before = fleet.state()
    done = fleet.rollback("--check")
    assert done.rc == 0
    for host in HOSTS:
        wanted = f"Dry run: it would go back from {name(fleet.first[host])} to {name(fleet.proven[host])}."
        assert done.reason(host).startswith(wanted)
    assert fleet.state() == before


def test_run_by_nobody_it_touches_nothing_without_lab_yes(fleet: Emergency):
    before = fleet.state()
    done = fleet.rollback()
    assert done.rc == 2
    assert "Nobody said yes, and nothing was touched." in flat(done.output)
    assert fleet.state() == before


@pytest.mark.parametrize(
    ("setting", "value"), [("lab_rollback_to", "41; reboot"), ("lab_rollback_to", "proven\n"), ("lab_yes", "maybe")]
)
def test_a_value_that_cannot_be_meant_stops_it_before_any_host_is_contacted(fleet: Emergency, setting: str, value: str):
    done = fleet.rollback(**{setting: value})
    assert done.rc == 2
    assert f"{setting} is '{value.strip()}" in flat(done.output)
    assert "Look at the host" not in done.output


def test_four_hosts_go_back_at_once_also_from_a_broken_userland_and_without_python(fleet: Emergency):
    # none of the running system's own programs can be used
    fleet.sh("dev", "mkdir /run/none; mount --bind /run/none $(readlink -f /run/current-system/sw/bin)")
    leave_an_update_open(fleet, "web")
    boots = {host: fleet.lab.boots(host) for host in HOSTS}
    done = fleet.rollback(lab_yes=True)
    fleet.sh("dev", f"umount $(readlink -f {fleet.first['dev']}/sw/bin)")
    assert done.rc == 0, done.output
    assert done.outcomes == dict.fromkeys(HOSTS, "rolled_back")
    for host in HOSTS:
        assert fleet.look(host).is_on(fleet.proven[host])
        assert fleet.lab.boots(host) == boots[host]
    assert fleet.lab.run("dns", ["sh", "-c", "command -v python3"]).returncode != 0

    spans = [span(fleet, host) for host in HOSTS]
    assert max(begin for begin, _ in spans) < min(end for _, end in spans)
    assert all(end - begin > 4 for begin, end in spans)

    # nothing of what was under way there is left to undo it
    assert fleet.transaction("web") is None
    last = fleet.last("web")
    assert (last.pop("outcome"), last.pop("reason")) == ("rolled_back", "Asked for with playbooks/rollback.yml.")
    assert last.pop("ended") >= last["since"]
    note = _transaction.parse(json.dumps(last))
    assert (note.step, note.origin, note.controller) == ("rollback", fleet.proven["web"], "rollback.yml")
    assert "lab-auto-update" not in fleet.sh("web", "ls /run/systemd/system")
    assert fleet.sh("web", "systemctl list-units --plain --no-legend --state=active,failed 'lab-auto-update-*'") == ""
    assert "lab-candidate" not in fleet.sh("web", "ls /nix/var/nix/profiles/system-profiles /boot/loader/entries")
    assert "OneShot" not in fleet.sh("web", "bootctl status")
    assert fleet.lab.run("web", ["test", "-e", "/run/systemd/shutdown/scheduled"]).returncode != 0


def test_a_second_time_there_is_nothing_to_do(fleet: Emergency):
    before = fleet.state()
    done = fleet.rollback(lab_yes="true")
    assert done.rc == 0, done.output
    assert done.outcomes == dict.fromkeys(HOSTS, "unchanged")
    assert not re.search(r"changed=[1-9]", done.output)
    assert fleet.state() == before


def test_each_host_ends_on_its_own_generation_or_former_system_or_says_why_not(fleet: Emergency, tmp_path: Path):
    """A number, `previous`, a root that is not there, and a host that is off, all in one run."""
    fleet.sh("web", f"ln -sfn {fleet.first['web']} {ROOTS}/from")
    fleet.lab.stop("dns")
    # as a survey, or -e, would give it
    wanted = {"dev": "1", "web": "previous", "nas": "previous", "dns": "proven"}
    hosts = {host: {"lab_rollback_to": to} for host, to in wanted.items()}
    (tmp_path / "wanted.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    done = fleet.rollback("-i", str(tmp_path / "wanted.yml"), lab_yes="yes")
    fleet.lab.start("dns", wait=True)
    assert done.rc == 2
    assert done.outcomes == {"dev": "rolled_back", "web": "rolled_back", "nas": "failed", "dns": "unreachable"}
    assert f"{ROOTS}/from does not lead to a system of this host, and nothing was touched." in done.reason("nas")
    generations = (f"4 ({name(fleet.proven['nas'])})", f"3 ({name(fleet.first['nas'])})")
    assert f"Its generations are: {', '.join(generations)}, 2 " in done.reason("nas")
    assert failed_hosts(done) == ["dns", "nas"]
    for host in ("dev", "web"):
        assert fleet.look(host).is_on(fleet.first[host])
    for host in ("nas", "dns"):
        assert fleet.look(host).is_on(fleet.proven[host])


@pytest.mark.soak
def test_a_person_is_asked_and_only_a_yes_counts(fleet: Emergency):
    goal = {"dev": fleet.proven["dev"]}
    fleet.prove(goal)
    before = fleet.look("dev")
    rc, output = by_hand(fleet, "y\n", "--limit", "dev")
    assert rc == 2
    assert f"dev: It is to go back from {name(before.current)} to {name(goal['dev'])}." in output
    assert fleet.look("dev") == before
    rc, output = by_hand(fleet, "yes\n", "--limit", "dev")
    assert rc == 0, output
    assert fleet.look("dev").is_on(goal["dev"])


@pytest.mark.soak
def test_systems_that_cannot_be_activated_are_booted(fleet: Emergency):
    faults = {
        "dev": "inhibitor",
        "web": "activate-fails",
        "nas": "init-interface-changed",
        "dns": "activation-hangs",
    }
    fleet.lab.move()
    fleet.lab.update()
    goal = fleet.build(faults)
    fleet.prove(goal)
    before = fleet.looks()
    forbidden = fleet.rollback("--limit", "dev", lab_yes=True, lab_rollback_reboot="false")
    assert (forbidden.rc, forbidden.outcomes) == (2, {"dev": "rollback_failed"})
    assert "It boots this system: reboot it (lab_rollback_reboot is false)." in forbidden.reason("dev")
    assert fleet.look("dev").current == before["dev"].current
    assert fleet.look("dev").profile == fleet.look("dev").boot_default == goal["dev"]

    # what is left of that is no reason to do nothing now; and all can be left again in the same way
    for target in (goal, {host: before[host].current for host in HOSTS}):
        fleet.prove(target)
        before = fleet.looks()
        # the activation that hangs is waited for
        done = fleet.rollback(lab_yes=True, lab_activation_timeout=30 if target is goal else 300)
        assert done.rc == 0, done.output
        assert done.outcomes == dict.fromkeys(HOSTS, "rolled_back")
        after = fleet.looks()
        assert all(after[host].is_on(target[host]) for host in HOSTS)
        assert all(fleet.transaction(host) is None for host in HOSTS)
        rebooted = {host for host in HOSTS if after[host].boot_id != before[host].boot_id}
        assert rebooted == (set(HOSTS) if target is goal else {"dev", "nas"})
    assert "Its activation did not end in time" not in done.output


@pytest.mark.soak
def test_lost_connections_power_cuts_and_lost_hosts_are_told_apart(fleet: Emergency):
    """The rollback needs no controller: a host whose connection is cut, or its power, still ends on its system."""
    fleet.lab.move()
    fleet.lab.update()
    goal = fleet.build(dict.fromkeys(HOSTS, "slow-activation=15"))
    fleet.prove(goal)
    running = fleet.begin_rollback("--limit", "dev,web,nas", lab_yes=True)
    # given up early, because it will not come back
    lost = fleet.begin_rollback("--limit", "dns", lab_yes=True, lab_activation_timeout=30, lab_reboot_timeout=10)
    until(lambda: all(fleet.look(host).boot_default == goal[host] for host in HOSTS), 120, "boot defaults")
    held = _transaction.parse(fleet.lab.read("web", TRANSACTION) or "")
    assert (held.step, held.origin, held.target) == ("rollback", goal["web"], goal["web"])
    assert held.deadline > time.time() + 100

    for host in ("web", "dns"):
        fleet.lab.cut(host)
    fleet.lab.stop("nas")
    fleet.lab.start("nas")
    until(lambda: "failed: [web] (item=attempt" in running.output(), 120, "the connection is lost")
    fleet.lab.mend("web")
    done = running.wait()
    assert done.rc == 0, done.output
    assert done.outcomes == {"dev": "rolled_back", "web": "rolled_back", "nas": "rolled_back"}
    assert done.reason("nas").startswith("It was rebooted into it.")

    done = lost.wait()
    fleet.lab.mend("dns")
    assert (done.rc, done.outcomes) == (2, {"dns": "rollback_failed"})
    assert failed_hosts(done) == ["dns"]
    assert "could not be looked at since" in done.reason("dns")
    # it was done there too, and nobody saw it
    until(lambda: fleet.lab.run("dns", ["true"]).returncode == 0, 60, "dns is back")
    for host in HOSTS:
        assert fleet.look(host).is_on(goal[host])
    again = fleet.rollback(lab_yes=True)
    assert (again.rc, again.outcomes) == (0, dict.fromkeys(HOSTS, "unchanged"))


@pytest.mark.soak
def test_it_goes_on_without_its_controller_and_the_next_night_settles_it(fleet: Emergency):
    goal = fleet.build({"web": "slow-activation=8"})["web"]
    assert fleet.look("web").current != goal
    fleet.prove({"web": goal})
    running = fleet.begin_rollback("--limit", "web", lab_yes=True)
    until(lambda: fleet.look("web").boot_default == goal, 60, "the boot default")
    running.kill()
    until(lambda: fleet.look("web").is_on(goal), 60, "the rollback goes on")
    left = _transaction.parse(fleet.lab.read("web", TRANSACTION) or "")
    assert _transaction.settle(left, Systems(goal, None, goal, goal)) == "reverted"


@pytest.mark.soak
def test_the_line_for_the_console_does_the_same(fleet: Emergency):
    text = (ROOT / PLAYBOOK).read_text()
    (line,) = re.findall(r"^#   (S=.*(?:\n#   .*)*)$", text, re.MULTILINE)
    goal = next(each["web"] for each in (fleet.first, fleet.proven) if each["web"] != fleet.look("web").current)
    fleet.prove({"web": goal})
    fleet.sh("web", "mkdir -p /var/lib/lab-auto-update")
    fleet.lab.write("web", TRANSACTION, "torn")
    fleet.sh("web", line.replace("\n#  ", ""))
    assert fleet.look("web").is_on(goal)
    assert fleet.lab.read("web", TRANSACTION) is None


def leave_an_update_open(fleet: Emergency, host: str) -> None:
    """All that an update can have left: a claim, a revert that runs, a timer, a candidate, an entry for one boot."""
    first, now = fleet.first[host], int(time.time())
    claim = _transaction.Transaction(
        "other", "desk", "20261122T020000Z-0001", None, now, now + 3600, "verification", "b", first, fleet.proven[host]
    )
    fleet.sh(host, "mkdir -p /var/lib/lab-auto-update")
    fleet.lab.write(host, TRANSACTION, _transaction.dump(claim))
    seconds: dict[_revert_units.Stage, float] = dict.fromkeys(_revert_units.STAGES, 3600)
    for unit, text in _revert_units.texts(first, first, seconds, 600).items():
        # both are to be under way at once, which they would not be for long
        text = re.sub(r"ExecStartPre=.*\n", "", text)
        slow = text.replace(f"{first}/bin/switch-to-configuration test", f"{first}/sw/bin/sleep 600")
        fleet.lab.run(host, ["sh", "-c", f"cat > {_revert_units.DIRECTORY}/{unit}"], stdin=slow, check=True)
    fleet.sh(
        host,
        f"""
systemctl daemon-reload
systemctl start --no-block {_revert_units.REVERT} {_revert_units.timer("verification")}
systemd-run --quiet --no-block --service-type=oneshot --property=OnFailure={_revert_units.timer("confirmation")} \
  --unit={_revert_units.ACTIVATION} {first}/sw/bin/sleep 600
mkdir -p /nix/var/nix/profiles/system-profiles
nix-env -p /nix/var/nix/profiles/system-profiles/lab-candidate --set {fleet.proven[host]}
{first}/bin/switch-to-configuration boot
bootctl set-oneshot nixos-lab-candidate-generation-1.conf
shutdown -r +60 2>&1
test -e /run/systemd/shutdown/scheduled
""",
    )
    states = ["systemctl", "is-active", _revert_units.REVERT, _revert_units.ACTIVATION]
    until(lambda: fleet.lab.run(host, states).stdout == "activating\nactivating\n", 20, "units of an update")


def by_hand(fleet: Emergency, answer: str, *arguments: str) -> tuple[int, str]:
    """Run the playbook on a terminal, and type an answer when it asks."""
    program = str(Path(sys.executable).parent / "ansible-playbook")
    command = [program, PLAYBOOK, "-i", str(fleet.lab.inventory), *arguments]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(program, command, {**os.environ, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "300"})
    output, answered = b"", 0.0
    end = time.monotonic() + 300
    try:
        while time.monotonic() < end:
            if select.select([terminal], [], [], 1)[0]:
                output += os.read(terminal, 4096)
            # what is typed too early is thrown away
            elif b"Answer yes to go on" in output and time.monotonic() > answered + 5:
                os.write(terminal, answer.replace("\n", "\r").encode())
                answered = time.monotonic()
    except OSError:
        pass  # the other side has closed the terminal
    # hangs up, should it still run
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    print(output.decode(errors="replace"))
    return os.waitstatus_to_exitcode(status), output.decode(errors="replace").replace("\r\n", "\n")


def span(fleet: Emergency, host: str) -> tuple[float, float]:
    """When the last rollback of a host began and ended, by its journal."""
    text = fleet.sh(host, f"journalctl --no-pager --output=short-unix --unit={UNIT}")
    began = re.findall(rf"^(\S+) .* Starting {re.escape(UNIT)}", text, re.MULTILINE)
    ended = re.findall(rf"^(\S+) .* Finished {re.escape(UNIT)}", text, re.MULTILINE)
    return float(began[-1]), float(ended[-1])


def name(system: str) -> str:
    """How the playbook calls a system."""
    digest, _, rest = system.removeprefix("/nix/store/").partition("-")
    return f"{rest} {digest[:7]}"


def flat(text: str) -> str:
    return " ".join(text.split())


def failed_hosts(done: Night) -> list[str]:
    return sorted(re.findall(r"^(\w+) .*failed=1", done.output, re.MULTILINE))
