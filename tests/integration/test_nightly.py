"""Whole nights on one lab of four guests, by the very playbook and the example inventory that a clone has.

The scenarios follow each other, as nights do: what one leaves is what the next finds. Hosts are watched over ssh, and
the boot default is read as the loader reads it, never by the code under test.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import fleet as fleet_of_a_lab
from tests.integration.fleet import Night, until
from tests.lab import Lab

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
HOSTS = ("dev", "web", "nas", "dns")
# what a dry run may not change, and how to print it; sums of files, so that a difference shows as one
STATE = r"""
readlink -f /run/current-system /run/booted-system /nix/var/nix/profiles/system
ls /nix/var/nix/profiles
cat /proc/sys/kernel/random/boot_id
find /boot /var/lib/lab-auto-update /var/log/lab-auto-update.log -type f -exec sha256sum {} + 2>/dev/null | sort
"""


class Fleet(fleet_of_a_lab.Fleet):
    """Nights by the example's inventory."""

    def night(self, *arguments: str, playbook: str = "nightly.yml") -> Night:  # type: ignore[override]
        """C(ansible-playbook nightly.yml), from the clone, with its own ansible.cfg and inventory."""
        return self.call("ansible-playbook", playbook, *arguments)

    def call(self, program: str, *arguments: str) -> Night:
        # only the way to the guests is another: the example's leads to the lab of `make demo`
        way = {
            "ansible_ssh_common_args": f"-F {self.lab.ssh_config}",
            "ansible_control_path_dir": str(self.lab.directory / "cp"),
            "lab_state_directory": str(self.lab.directory / "state"),
        }
        return self.run([program, *arguments, "-e", json.dumps(way)]).wait()

    def state(self) -> dict[str, str]:
        state = {host: self.lab.run(host, ["sh", "-c", STATE]).stdout for host in HOSTS}
        lock = "cd /etc/nixos; sha256sum flake.lock; git rev-parse HEAD; git status --porcelain; git worktree list"
        state["builder"] = self.lab.run("builder", ["sh", "-c", lock], check=True).stdout
        return state


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab.temporary(4, prefix="nightly") as lab:
        yield Fleet(lab)


def test_a_dry_run_shows_everything_and_changes_nothing(fleet: Fleet):
    fleet.lab.move()
    fleet.lab.fault("dns", "kernel-changed")
    before = fleet.state()
    night = fleet.night("--check", "--diff")
    assert night.rc == 0, night.output
    assert fleet.state() == before
    assert set(night.outcomes.values()) == {"unchanged"}
    assert "Dry run" in night.output
    for words in ("packages ", "  nginx 1.28.0 → 1.28.1", "  unit web.service", "reboot needed: kernel"):
        assert words in night.output, words


def test_a_limit_updates_exactly_that_group(fleet: Fleet):
    before = fleet.looks()
    # -e gives strings, as a survey would
    numbers = "lab_settle=20 lab_activation_timeout=300 lab_copy_timeout=300 lab_build_timeout=600 lab_batch=3"
    night = fleet.night("--limit", "development", "-e", numbers)
    assert night.rc == 0, night.output
    assert night.outcomes == {"dev": "updated"}
    assert re.search(r"in this order:\n +STAGE .*\n +development +1 +1 +dev\n\n", night.output)
    after = fleet.looks()
    assert after["dev"].is_on(fleet.target("dev"))
    assert after["dev"] != before.pop("dev")
    assert {host: after[host] for host in before} == before


@pytest.mark.parametrize("limit", ["builder", "nowhere", "development:&critical"])
def test_a_limit_that_leaves_no_host_is_an_error(fleet: Fleet, limit: str):
    night = fleet.night("--limit", limit)
    assert night.rc != 0, night.output
    assert "HOST  " not in night.output


def test_a_misspelt_value_stops_the_run_before_any_host_is_contacted(fleet: Fleet):
    before = fleet.state()
    night = fleet.night("-e", "lab_reboot=somtimes")
    assert night.rc != 0
    assert "lab_reboot" in night.output
    assert "somtimes" in night.output
    assert "Look at the host" not in night.output
    assert fleet.state() == before
    # and it is noticed by whoever reads the log
    *_others, left = (fleet.lab.directory / "state" / "lab-auto-update.log").read_text().splitlines()
    record = json.loads(left)
    assert (record["operation"], record["status"]) == ("open", "failed")
    assert "somtimes" in record["details"]["reason"]


def test_one_bad_value_of_one_host_stops_the_night_of_all(fleet: Fleet, tmp_path: Path):
    (tmp_path / "bad.yml").write_text("all: {hosts: {dns: {lab_reboot: somtimes}}}\n")
    night = fleet.night("-i", "inventory", "-i", str(tmp_path / "bad.yml"))
    assert night.rc != 0
    assert "somtimes" in night.output
    assert "Look at the host" not in night.output


def test_hosts_that_are_not_well_are_deferred_with_their_reason_and_the_others_updated(fleet: Fleet):
    run = fleet.lab.run
    run("web", ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/srv"], check=True)
    run("web", ["dd", "if=/dev/zero", "of=/srv/data", "bs=1k", "count=980"], check=True)
    run("nas", ["systemctl", "kill", "--signal=KILL", "nas.service"], check=True)
    run("nas", ["nix-env", "--profile", "/nix/var/nix/profiles/system", "--set", fleet.look("nas").current], check=True)
    # somebody has built a boot entry by hand
    other = fleet.lab.build("dns")
    run("dns", ["nix-env", "--profile", "/nix/var/nix/profiles/system", "--set", other], check=True)
    fleet.lab.move()
    before = fleet.looks()
    night = fleet.night("-e", '{"lab_mounts": ["/", "/srv"]}')
    assert night.rc == 0, night.output
    assert night.outcomes == {"dev": "updated", "web": "deferred", "nas": "deferred", "dns": "deferred"}
    assert "/srv has 96 % of its space in use" in night.reason("web")
    assert "nas.service" in night.reason("nas")
    assert "Drift: the system profile is" in night.reason("dns")
    after = fleet.looks()
    assert after["dev"].is_on(fleet.target("dev"))
    assert after["dev"] != before.pop("dev")
    assert {host: after[host] for host in before} == before
    run("web", ["umount", "/srv"], check=True)
    run("nas", ["systemctl", "restart", "nas.service"], check=True)
    run("dns", ["nix-env", "--profile", "/nix/var/nix/profiles/system", "--set", after["dns"].current], check=True)


@pytest.mark.soak
def test_a_system_that_does_not_build_ends_the_night_before_any_host_is_touched(fleet: Fleet):
    fleet.lab.move()
    fleet.lab.fault("nas", "build-fails")
    before = fleet.state()
    night = fleet.night()
    fleet.lab.fault("nas")
    assert night.rc == 2
    assert set(night.outcomes.values()) == {"held"}
    assert "nas" in night.reason("dev")
    after = fleet.state()
    assert {host: after[host] for host in HOSTS} == {host: before[host] for host in HOSTS}
    assert after["builder"].splitlines()[0] == before["builder"].splitlines()[0]


def test_a_host_that_booted_a_minute_ago_is_deferred_under_the_default_of_the_plan(fleet: Fleet):
    before = fleet.look("web")
    night = fleet.night("--limit", "web", "-e", "lab_min_uptime=30")
    assert (night.rc, night.outcomes) == (0, {"web": "deferred"})
    assert "30 min are asked for" in night.reason("web")
    assert fleet.look("web") == before


def test_one_bad_one_absent_and_one_lost_host_are_told_apart_and_the_good_one_is_updated(fleet: Fleet):
    lab = fleet.lab
    lab.move()
    lab.fault("web", "activate-fails")
    lab.fault("dns", "slow-activation=20")
    lab.stop("nas")
    before = {host: fleet.look(host) for host in ("dev", "web", "dns")}

    activations = len(fleet.activation_times("dns"))

    def cut_the_power_of_dns() -> None:
        # seen from outside: whoever logged in to look would be a reason to leave the host alone
        until(lambda: len(fleet.activation_times("dns")) > activations, 300, "dns is being activated")
        lab.stop("dns")

    cutter = threading.Thread(target=cut_the_power_of_dns)
    cutter.start()
    # short waits for a host that never comes back
    bounds = "lab_activation_timeout=40 lab_confirm_timeout=15 lab_reboot_timeout=30 lab_boot_confirm_timeout=20"
    night = fleet.night("-e", f"{bounds} lab_max_bad=3")
    cutter.join()

    assert night.rc != 0
    assert night.outcomes == {"dev": "updated", "web": "rolled_back", "nas": "unreachable", "dns": "lost"}
    assert "activate script" in night.reason("web")
    assert "web (rolled_back)" in night.output
    assert "dns (lost)" in night.output
    assert fleet.look("dev").is_on(fleet.target("dev"))
    assert fleet.look("web") == before["web"]

    # back in the morning: the one never was changed, the other never had a new boot default
    for host in ("nas", "dns"):
        lab.start(host, wait=True)
    assert fleet.look("dns").is_on(before["dns"].current)


def test_a_second_night_has_nothing_to_do_and_an_absent_host_costs_it_one_connect_timeout(fleet: Fleet):
    lab = fleet.lab
    lab.move()
    for host in ("dev", "web"):
        lab.fault(host)
    for host in ("nas", "dns"):
        lab.fault(host, "kernel-changed")
    before = fleet.looks()
    first = fleet.night()
    assert (first.rc, first.outcomes) == (0, dict.fromkeys(HOSTS, "updated"))
    after = fleet.looks()
    assert all(after[host].is_on(fleet.target(host)) for host in HOSTS)
    assert {host for host in HOSTS if after[host].boot_id != before[host].boot_id} == {"nas", "dns"}

    nights = [fleet.night(), fleet.night()]
    for night in nights:
        assert (night.rc, night.outcomes) == (0, dict.fromkeys(HOSTS, "unchanged"))
        assert not re.search(r"changed=[1-9]", night.output)
    assert fleet.looks() == after
    # the better of two, because other tests run beside this one
    present = min(nights, key=lambda night: night.seconds)
    assert present.seconds < first.seconds / 4

    lab.stop("nas")
    absent = fleet.night()
    nobody = fleet.night("--limit", "nas")
    lab.start("nas", wait=True)
    assert (nobody.rc, nobody.outcomes) == (2, {"nas": "unreachable"})
    assert "No host could be reached." in nobody.output
    assert absent.rc == 0, absent.output
    assert absent.outcomes == {**dict.fromkeys(HOSTS, "unchanged"), "nas": "unreachable"}
    # one ConnectTimeout of ansible.cfg, and as much of a night again for a busy machine
    assert absent.seconds < 2 * max(night.seconds for night in nights) + 10
    # and nobody waited for it again
    assert absent.failed_tasks("nas") == ["homelab.nixos.update : Look at the host"]


def test_a_system_that_needs_a_reboot_and_is_not_well_after_it_is_taken_back_by_a_reboot(fleet: Fleet):
    fleet.lab.fault("web", "inhibitor", "unit-fails")
    before = fleet.look("web")
    night = fleet.night("--limit", "web", "-e", "lab_settle=3")
    fleet.lab.fault("web")
    assert (night.rc, night.outcomes) == (2, {"web": "rolled_back"})
    assert "web.service" in night.reason("web")
    after = fleet.look("web")
    assert after.is_on(before.current)
    assert after.boot_id != before.boot_id
    assert fleet.lab.run("web", ["systemctl", "is-active", "web.service"]).stdout == "active\n"


def test_the_health_check_works_by_hand_and_by_playbook(fleet: Fleet):
    for name in ("lab_health_check", "homelab.nixos.lab_health_check"):
        done = fleet.call("ansible", "all", "-m", name)
        assert done.rc == 0, done.output
        assert done.output.count("SUCCESS") == len(HOSTS) + 1
    fleet.lab.run("web", ["systemctl", "stop", "web.service"], check=True)
    night = fleet.night(playbook="playbooks/health.yml")
    fleet.lab.run("web", ["systemctl", "start", "web.service"], check=True)
    assert night.rc != 0
    failed = re.findall(r"^(\w+) .*failed=1", night.output, re.MULTILINE)
    assert failed == ["web"]
    assert "The service web.service is inactive (dead)." in " ".join(night.output.split())


def test_every_setting_of_the_example_is_a_setting(fleet: Fleet):
    """The example is what people copy."""
    done = fleet.call("ansible-inventory", "--list", "--export")
    data = json.loads(done.output[done.output.index("{") : done.output.rindex("}") + 1])
    used = {name for group in data.values() for name in group.get("vars", {})}
    used |= {name for hostvars in data["_meta"]["hostvars"].values() for name in hostvars}
    specification = (ROOT / "roles/update/meta/argument_specs.yml").read_text()
    known = set(re.findall(r"^ {6}(lab_\w+):", specification, re.MULTILINE))
    assert {name for name in used if name.startswith("lab_")} <= known
