"""From a host without Python to one that a night updates, and back again when its Python is gone.

The scenarios follow each other, on one guest. Its nixpkgs is a stand-in: a directory whose python3 comes from a cache.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.fleet import Fleet, Night
from tests.lab import Lab

pytestmark = pytest.mark.lab

GUEST = "dev"
ADDRESS = "198.18.0.11"
PLAYBOOK = "playbooks/bootstrap.yml"
PYTHON_ROOT = "/nix/var/nix/gcroots/lab-auto-update/python"
INTERPRETER = f"{PYTHON_ROOT}/bin/python3"
# what the bootstrap asks for
ROOTED = {GUEST: {"ansible_python_interpreter": INTERPRETER, "lab_require_python": False}}
PROFILE = "/nix/var/nix/profiles/system"
# whatever a bootstrap that does nothing may not change
STATE = """
ls /nix/store
find /nix/var/nix/gcroots /nix/var/nix/profiles /var/lib/lab-auto-update /root -printf '%p %l\\n' 2>&1 | sort
readlink -f /run/current-system
"""
# on the builder: a cache with its Python, and a nixpkgs that has it, both for the guest
NIXPKGS = f"""
python=$(readlink /nix/var/nix/gcroots/stand-ins/python3)
mkdir -p /srv/guest/srv/nixpkgs
nix copy --to 'file:///srv/guest/srv/cache?compression=none' $python
cat > /srv/guest/srv/nixpkgs/default.nix << NIX
{{ ... }}: {{
  python3 = derivation {{
    name = "${{python#*-}}";
    system = "x86_64-linux";
    builder = "/is-in-the-cache";
    outputHashMode = "recursive";
    outputHash = "$(nix-store --query --hash $python)";
  }};
}}
NIX
tar -C /srv/guest -c srv | ssh root@{ADDRESS} tar -C / -x
"""


class Bare(Fleet):
    """The lab with a guest that has no Python, and the nixpkgs of its own system."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.sh("builder", NIXPKGS)
        lab.write(GUEST, "/etc/nix/local.conf", "substituters = file:///srv/cache\n")
        # as on NixOS, a login has it and a command over ssh may not
        lab.write(GUEST, "/etc/set-environment", 'export NIX_PATH="nixpkgs=/srv/nixpkgs"\n')

    def sh(self, host: str, script: str) -> str:
        return self.lab.run(host, ["sh", "-euc", script], check=True).stdout.strip()

    def state(self) -> str:
        return self.sh(GUEST, STATE)

    def bootstrap(self, *arguments: str, **settings: Any) -> Night:
        return self.begin(*arguments, playbook=PLAYBOOK, **settings).wait(300)

    def has_python(self, value: bool) -> None:
        """What the owner's flake has for the guest from now on."""
        text = f'jq ".dev.python = {str(value).lower()}" hosts.json > hosts.new; mv hosts.new hosts.json'
        self.sh("builder", f"cd /etc/nixos; {text}; git commit --quiet --all --message 'Python or not'")

    def switch(self) -> str:
        """What nixos-rebuild switch does, by hand."""
        system = self.lab.build(GUEST)
        self.sh(GUEST, f"nix-env -p {PROFILE} --set {system}; {system}/bin/switch-to-configuration switch")
        return system


@pytest.fixture(scope="module")
def fleet() -> Iterator[Bare]:
    with Lab.temporary(1, prefix="bootstrap", without_python=[GUEST]) as lab:
        yield Bare(lab)


@pytest.fixture
def others(tmp_path: Path) -> tuple[str, str]:
    """A host that is off, in an inventory beside that of the lab."""
    file = tmp_path / "others.yml"
    file.write_text(yaml.safe_dump({"all": {"hosts": {"ghost": {"ansible_host": "198.18.0.99"}}}}))
    return "-i", str(file)


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(fleet: Bare):
    before = fleet.state()
    done = fleet.bootstrap("--check", "--limit", GUEST)
    assert (done.rc, done.outcomes) == (0, {GUEST: "pending"})
    assert row(done, GUEST) == "Dry run: its Python would be that of <nixpkgs>."
    assert not changed(done)
    assert fleet.state() == before


def test_a_host_without_python_becomes_manageable_and_one_that_is_off_stops_nobody(
    fleet: Bare, others: tuple[str, str]
):
    done = fleet.bootstrap(*others)
    assert done.rc == 2
    assert done.outcomes == {GUEST: "manageable", "builder": "manageable", "ghost": "unreachable"}
    assert changed(done) == [GUEST]
    assert fleet.sh(GUEST, f"readlink {PYTHON_ROOT}") in fleet.sh(
        "builder", "readlink /nix/var/nix/gcroots/stand-ins/python3"
    )
    told = done.reason(GUEST)
    assert f"is kept by {PYTHON_ROOT}; its system has none. " in told
    # the guest's loader can boot once, and nothing resets a guest that hangs
    assert "(boot recovery: on_reset)" in told
    assert f"In the inventory: ansible_python_interpreter: {INTERPRETER} lab_require_python: false" in told
    assert told.endswith("In its configuration: environment.systemPackages = [ pkgs.python3 ];")
    assert "is part of its system." in done.reason("builder")
    assert "In its configuration" not in done.reason("builder")


def test_a_second_time_it_changes_nothing_and_a_second_updater_is_named(fleet: Bare):
    fleet.says({}, ROOTED)
    fleet.sh(GUEST, "systemd-run --quiet --unit=nixos-upgrade --on-active=1d true")
    before = fleet.state()
    done = fleet.bootstrap()
    fleet.sh(GUEST, "systemctl stop nixos-upgrade.timer")
    assert (done.rc, done.outcomes) == (0, {GUEST: "manageable", "builder": "manageable"})
    assert not changed(done)
    assert fleet.state() == before
    told = done.reason(GUEST)
    assert "Something else updates this host: nixos-upgrade.timer" in told
    assert "system.autoUpgrade.enable = false;" in told
    assert "In the inventory" not in told


def test_host_keys_are_checked_unless_the_owner_says_which_they_are(fleet: Bare, tmp_path: Path):
    keys = {
        host: (fleet.lab.directory / f"hosts/{host}/upper/etc/ssh/ssh_host_ed25519_key.pub")
        for host in (GUEST, "builder")
    }
    right, wrong = (fingerprint(keys[host]) for host in (GUEST, "builder"))
    words = {"unknown": "check", "wrong": wrong, "right": right, "first": "accept_new", "changed": "accept_new"}
    hosts = {
        name: {
            "ansible_host": ADDRESS,
            "ansible_ssh_common_args": f"-F {fleet.lab.ssh_config} -o UserKnownHostsFile={tmp_path / name}",
            "lab_bootstrap_host_keys": word,
            "lab_bootstrap_known_hosts": str(tmp_path / name),
        }
        for name, word in words.items()
    }
    file = tmp_path / "hosts.yml"
    file.write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    other = f"{ADDRESS} {' '.join(keys['builder'].read_text().split()[:2])}\n"
    (tmp_path / "changed").write_text(other)
    inventory = ("-i", str(file), "--limit")

    # a dry run compares, and writes nothing down
    dry = fleet.bootstrap("--check", *inventory, "right,first")
    assert (dry.rc, dry.outcomes) == (2, {"right": "manageable", "first": "unreachable"})
    assert not (tmp_path / "right").exists() and not (tmp_path / "first").exists()

    done = fleet.bootstrap(*inventory, ",".join(words))
    assert done.rc == 2
    assert done.outcomes == {name: "manageable" if name in ("right", "first") else "unreachable" for name in words}
    for name in ("unknown", "wrong"):
        assert "Its key is not among the known ones, or not the expected one." in row(done, name)
        assert not (tmp_path / name).exists()
    assert "It shows another key than it did." in row(done, "changed")
    assert (tmp_path / "changed").read_text() == other
    key = keys[GUEST].read_text().split()[1]
    for name in ("right", "first"):
        (line,) = (tmp_path / name).read_text().splitlines()
        assert line.endswith(f" ssh-ed25519 {key}")


def test_settings_that_cannot_be_meant_are_refused_before_any_host_is_contacted(fleet: Bare):
    wrong = {
        "lab_bootstrap_host_keys": "no",
        "lab_bootstrap_known_hosts": '/tmp/x" -o x',
        "lab_bootstrap_python": "--expr 1; reboot",
        "lab_bootstrap_timeout": "-1",
    }
    done = fleet.bootstrap(**wrong)
    assert done.rc == 2
    for setting, value in wrong.items():
        assert f"{setting} is '{value}'" in flat(done.output).replace("''", "'")
    assert "TASK [Log in" not in done.output


def test_its_python_outlives_garbage_collection_and_a_night(fleet: Bare):
    fleet.says({}, ROOTED)
    fleet.lab.move()
    fleet.sh(GUEST, "nix-collect-garbage -d 2> /dev/null")
    night = fleet.night()
    assert (night.rc, night.outcomes) == (0, {GUEST: "updated"}), night.output
    assert fleet.look(GUEST).is_on(fleet.target(GUEST))
    assert fleet.lab.run(GUEST, ["test", "-e", "/run/current-system/sw/bin/python3"]).returncode == 1
    fleet.sh(GUEST, "nix-collect-garbage -d 2> /dev/null")
    assert fleet.sh(GUEST, f"{INTERPRETER} -c 'print(1)'") == "1"


def test_a_system_that_drops_python_is_refused_and_a_host_that_lost_it_is_brought_back(fleet: Bare):
    # the owner has done what was asked for, and then undoes it
    fleet.has_python(True)
    good = fleet.switch()
    fleet.says({}, {})
    done = fleet.bootstrap("--limit", GUEST)
    assert (done.rc, done.outcomes, changed(done)) == (0, {GUEST: "manageable"}, [])
    assert "In its configuration" not in done.reason(GUEST)
    fleet.sh(GUEST, f"rm {PYTHON_ROOT}")

    fleet.has_python(False)
    night = fleet.night()
    assert (night.rc, night.outcomes) == (2, {GUEST: "failed"})
    assert "has no sw/bin/python3" in night.reason(GUEST)
    assert fleet.look(GUEST).is_on(good)

    bad = fleet.switch()
    night = fleet.night()
    # nobody else is there, so it was nobody's night
    assert (night.rc, night.outcomes) == (2, {GUEST: "deferred"})
    assert "python3' was not found" in night.reason(GUEST)
    assert fleet.look(GUEST).is_on(bad)

    back = fleet.begin(playbook="playbooks/rollback.yml", lab_yes=True).wait(300)
    assert (back.rc, back.outcomes) == (0, {GUEST: "rolled_back"}), back.output
    assert fleet.look(GUEST).is_on(good)

    # or it stays there, and what is still in its store serves
    fleet.sh(GUEST, f"nix-env -p {PROFILE} --set {bad}; {bad}/bin/switch-to-configuration switch")
    done = fleet.bootstrap("--limit", GUEST)
    assert (done.rc, done.outcomes, changed(done)) == (0, {GUEST: "manageable"}, [GUEST])


def changed(done: Night) -> list[str]:
    return sorted(re.findall(r"^(\w+) .*changed=[1-9]", done.output, re.MULTILINE))


def row(done: Night, host: str) -> str:
    """The reason that is beside the outcome of a host."""
    (found,) = re.findall(rf"^ +{host} +\w+  +(.*)$", done.output, re.MULTILINE)
    return found


def flat(text: str) -> str:
    return " ".join(text.split())


def fingerprint(key: Path) -> str:
    done = subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]
