"""A Debian machine is made a controller by the role of that name, runs its nights by a timer, and is none any more."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.debian import INVENTORY, PROGRAM, UNIT, USER, Debian, changed
from tests.integration.fleet import Fleet, Night, until
from tests.lab import Lab

pytestmark = pytest.mark.lab

DOCS = (Path(__file__).parents[2] / "docs/controller.md").read_text()

SETTINGS = {
    "lab_settle": 4,
    "lab_confirm_timeout": 30,
    "lab_activation_timeout": 120,
    "lab_boot_confirm_timeout": 90,
    "lab_reboot_timeout": 120,
}
CONFINED = """derivation {
  name = "confined";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "echo built > $out" ];
}
"""
BUILDING = """[Service]
Environment=HOME=%S/lab-auto-update-controller
ExecStart=
ExecStart=/run/current-system/sw/bin/nix build --no-link --print-out-paths --file /srv/confined.nix
"""
OPTIONS = {
    "lab_controller_schedule": "03:17",
    "lab_controller_randomized_delay": 0,
    "lab_controller_on_failure": ["tell@%n.service"],
    "lab_controller_settings": SETTINGS,
}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab.temporary(2, prefix="role") as lab:
        yield Fleet(lab)


@pytest.fixture(scope="module")
def debian(fleet: Fleet) -> Debian:
    return Debian(fleet, "dev")


@pytest.fixture(scope="module")
def before(debian: Debian) -> set[str]:
    """All that was there before the role."""
    return debian.snapshot()


@pytest.fixture(scope="module")
def installed(debian: Debian, before: set[str]) -> Night:
    """The role, as it ended; the hosts let its key in."""
    night = debian.role(**OPTIONS, lab_controller_known_hosts=debian.known_hosts()).wait()
    assert night.rc == 0, night.output
    (key,) = re.findall(r"has to let this key in:\n +(ssh-ed25519 \S+ \S+)\n", night.output)
    for host in ("builder", "web"):
        keys = debian.lab.read(host, "/root/.ssh/authorized_keys") or ""
        debian.lab.write(host, "/root/.ssh/authorized_keys", f"{keys}{key}\n")
    return night


def test_a_dry_run_of_it_tells_what_is_new_and_does_nothing(debian: Debian, before: set[str]):
    night = debian.role("--check", "--diff", **OPTIONS).wait()
    assert night.rc == 0, night.output
    assert changed(night) > 5
    assert "+OnCalendar=03:17" in night.output
    assert debian.snapshot() == before


def test_a_start_timeout_that_no_turn_fits_into_is_told_at_once_and_nothing_is_scheduled(
    debian: Debian, before: set[str]
):
    night = debian.role(**OPTIONS, lab_controller_start_timeout=600).wait()
    assert night.rc == 2
    assert "lab_deadline is 300, and a host's turn may take" in night.output
    assert debian.show("ActiveState", unit="lab-auto-update.timer") == {"ActiveState": "inactive"}


def test_it_installs_and_the_timer_names_the_next_night(debian: Debian, installed: Night):
    timers = debian.sh("systemctl list-timers --no-pager --no-legend lab-auto-update.timer")
    assert " 03:17:00 " in timers and UNIT in timers
    service = debian.show("Type", "MemoryMax", "CPUQuotaPerSecUSec", "PrivateTmp", "TimeoutStopUSec", "OnFailure")
    assert service == {
        "Type": "oneshot",
        "MemoryMax": str(2 << 30),
        "CPUQuotaPerSecUSec": "500ms",
        "PrivateTmp": "yes",
        "TimeoutStopUSec": "5min",
        "OnFailure": "tell@lab-auto-update.service.service",
    }
    timer = debian.show("AccuracyUSec", "Persistent", unit="lab-auto-update.timer")
    assert timer == {"AccuracyUSec": "1min", "Persistent": "yes"}
    assert debian.show("TimeoutStartUSec") == {"TimeoutStartUSec": "4h"}


def test_again_it_changes_nothing(debian: Debian, installed: Night):
    night = debian.role(**OPTIONS, lab_controller_known_hosts=debian.known_hosts()).wait()
    assert (night.rc, changed(night)) == (0, 0), night.output


def test_another_schedule_holds_at_once(debian: Debian, installed: Night):
    other = {**OPTIONS, "lab_controller_schedule": "04:44"}
    night = debian.role(**other, lab_controller_known_hosts=debian.known_hosts()).wait()
    assert night.rc == 0, night.output
    assert " 04:44:00 " in debian.sh("systemctl list-timers --no-pager --no-legend lab-auto-update.timer")


def test_its_service_is_confined_and_its_user_can_change_nothing_that_it_runs(debian: Debian, installed: Night):
    units = "/etc/systemd/system/lab-auto-update*.*"
    assert debian.sh(f"systemd-analyze verify --man=no --recursive-errors=no {units} 2>&1") == ""
    said = debian.sh(f"systemd-analyze security --no-pager {UNIT}")
    exposure = re.search(rf"exposure level for {UNIT}: ([\d.]+)", said)
    assert exposure is not None and float(exposure[1]) <= 2.0, said
    assert f" and {exposure[1]} with what is below" in DOCS
    more = debian.writable(USER) - debian.writable("nobody")
    places = ("/var/lib/lab-auto-update-controller", "/var/log/lab-auto-update")
    assert more and [path for path in more if not path.startswith(places)] == []
    secrets = debian.sh("stat -c '%U:%G %a' /etc/lab-auto-update/.ssh/id_ed25519 /etc/lab-auto-update/settings.json")
    assert secrets.split("\n")[:2] == [f"root:{USER} 640"] * 2


def test_a_controller_that_has_nix_can_evaluate_and_build_in_that_confinement(debian: Debian, installed: Night):
    """As for a flake of its own; the service's own command is another one for this."""
    debian.lab.write("dev", "/srv/confined.nix", CONFINED)
    unit = "lab-auto-update-validate.service"
    place = f"/run/systemd/system/{unit}.d"
    debian.sh(f"mkdir -p {place}")
    debian.lab.write("dev", f"{place}/command.conf", BUILDING)
    try:
        debian.sh(f"systemctl daemon-reload; systemctl start {unit}")
        said = debian.sh(f"journalctl --sync; journalctl --output=cat --no-pager --unit={unit} --lines=4")
    finally:
        debian.sh(f"rm -r {place}; systemctl daemon-reload")
    (built,) = re.findall(r"^/nix/store/\S+-confined$", said, re.MULTILINE)
    assert debian.sh(f"cat {built}") == "built\n"


def test_a_night_runs_by_systemctl_start_and_nobody_gets_between(debian: Debian, fleet: Fleet, installed: Night):
    lab = fleet.lab
    lab.move()
    lab.fault("web", "slow-activation=15")
    nights: list[Night] = []
    running = threading.Thread(target=lambda: nights.append(debian.start()))
    running.start()
    until(lambda: fleet.step("web") == "activation", 120, "web is being activated")

    role = debian.role(**OPTIONS)
    second = debian.again("nightly")
    assert second.returncode != 0
    said = " ".join(second.stdout.split())
    assert "Another run is going on, and no host was contacted. It is run " in said, said
    assert "Its log is /var/log/lab-auto-update/ansible.log." in said, said
    refused = role.wait()
    assert refused.rc == 2 and "is going on here (process" in refused.output, refused.output

    running.join()
    (night,) = nights
    assert night.rc == 0, night.output
    assert night.outcomes == {"web": "updated"}, night.output
    assert fleet.look("web").is_on(fleet.target("web"))
    log = lab.read("dev", "/var/log/lab-auto-update/ansible.log") or ""
    assert "web   updated" in log
    assert lab.read("dev", "/srv/told") is None


def test_its_log_is_rotated_by_rename_and_the_next_run_begins_a_new_one(debian: Debian, installed: Night):
    place = "/var/log/lab-auto-update"
    rotate = "/usr/sbin/logrotate --state /srv/logrotate.status --force /etc/logrotate.d/lab-auto-update 2>&1"
    debian.sh(f"echo kept >> {place}/ansible.log")
    inode = debian.sh(f"stat -c %i {place}/ansible.log")
    assert debian.sh(rotate) == ""
    assert debian.sh(f"stat -c %i {place}/ansible.log.1") == inode
    assert debian.sh(f"stat -c '%U %a %s' {place}/ansible.log").split() == [USER, "644", "0"]
    assert debian.again("validate").returncode == 0
    assert "in this order" in debian.sh(f"cat {place}/ansible.log")
    # the one before is compressed a day later
    assert debian.sh(rotate) == ""
    assert "kept" in debian.sh(f"zcat {place}/ansible.log.2.gz")


def test_a_night_that_fails_fires_the_hook_and_says_so(debian: Debian, fleet: Fleet, installed: Night):
    fleet.lab.fault("web", "eval-fails")
    night = debian.start()
    assert night.rc != 0
    assert debian.show("Result") == {"Result": "exit-code"}
    until(lambda: fleet.lab.read("dev", "/srv/told") == f"{UNIT}\n", 10, "the hook was told")
    fleet.lab.fault("web")


def test_a_host_whose_key_is_not_known_is_not_connected_to(debian: Debian, installed: Night):
    place = "/etc/lab-auto-update/.ssh/known_hosts"
    known = debian.sh(f"cat {place}")
    try:
        debian.sh(f"sed 's/ AAAA/ BBBB/' {place} > /srv/wrong && cat /srv/wrong > {place}")
        asked = debian.again("health", "--limit", "web")
        assert asked.returncode != 0 and "Host key verification failed" in asked.stdout, asked.stdout
    finally:
        debian.sh(f"cat > {place} <<'EOF'\n{known}EOF")
    assert debian.again("health", "--limit", "web").returncode == 0


def test_uninstalled_nothing_of_it_is_left_and_what_the_owner_put_there_is(
    debian: Debian, before: set[str], installed: Night
):
    refused = debian.role(lab_controller_state="absent", lab_controller_user="daemon").wait()
    assert "lab_controller_user is daemon, a user whom this role has not made." in " ".join(refused.output.split())
    assert debian.show("ActiveState", unit="lab-auto-update.timer") == {"ActiveState": "active"}

    other = debian.role(lab_controller_state="absent", lab_controller_user="night").wait()
    assert f"the nights that are installed here are those of {USER}." in " ".join(other.output.split())
    nobody = debian.role(lab_controller_state="absent", lab_controller_hosts="controler").wait()
    assert nobody.rc == 2
    assert "lab_controller_hosts is controler, which is no host of this run." in " ".join(nobody.output.split())
    assert debian.show("ActiveState", unit="lab-auto-update.timer") == {"ActiveState": "active"}

    debian.sh("cd /etc/lab-auto-update; echo secret > vault; echo secret > .ssh/mine")
    night = debian.role(lab_controller_state="absent").wait()
    assert night.rc == 0, night.output
    left = {line.split()[0] for line in debian.snapshot() ^ before}
    assert left == {f"/etc/lab-auto-update{path}" for path in ("", "/vault", "/.ssh", "/.ssh/mine")}

    debian.sh("cd /etc/lab-auto-update; rm vault .ssh/mine")
    again = debian.role(lab_controller_state="absent").wait()
    # nothing but the directories that have become empty
    assert (again.rc, changed(again)) == (0, 1), again.output
    assert debian.snapshot() == before
    assert debian.lab.read("dev", INVENTORY) and debian.lab.read("dev", PROGRAM) is None
