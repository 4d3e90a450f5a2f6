"""What the test lab itself promises: its guests are like NixOS hosts, and nothing of it is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab import Lab, LabError
from tests.lab._system import wait_for

pytestmark = pytest.mark.lab

REPOSITORY = Path(__file__).resolve().parents[2]
PROFILE = "/nix/var/nix/profiles/system"


@pytest.fixture(scope="module")
def lab():
    with Lab.temporary(4, "lab", without_python=["nas"]) as running:
        yield running


def out(lab, host, *argv):
    done = lab.run(host, argv)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def stc(lab, host, system, action, *environment, profile=False):
    """Run a system's switch-to-configuration, after making it the profile's newest generation if asked to."""
    script = f"nix-env --profile {PROFILE} --set {system} && " if profile else ""
    return lab.run(
        host, ["sh", "-c", f"{script}exec env {' '.join(environment)} {system}/bin/switch-to-configuration {action}"]
    )


def systems(lab, host):
    """Current, booted, profile and boot default, each as a store path."""
    links = f"/run/current-system /run/booted-system {PROFILE}"
    lines = out(lab, host, "sh", "-c", f"readlink -f {links}; bootctl list --json=short").splitlines()
    (default,) = [entry for entry in json.loads(lines[3]) if entry["isDefault"]]
    init = default["options"].split()[0]
    return {
        "current": lines[0],
        "booted": lines[1],
        "profile": lines[2],
        "default": init.removeprefix("init=").removesuffix("/init"),
    }


def everywhere(system):
    return {"current": system, "booted": system, "profile": system, "default": system}


def boot_id(lab, host):
    return out(lab, host, "cat", "/proc/sys/kernel/random/boot_id")


def reboot(lab, host):
    before = boot_id(lab, host)
    lab.run(host, ["systemctl", "reboot"])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done = lab.run(host, ["cat", "/proc/sys/kernel/random/boot_id"])
        if done.returncode == 0 and done.stdout.strip() != before:
            lab.wait_ready([host])
            return
        time.sleep(0.1)
    pytest.fail(f"{host} did not come back with another boot_id")


def settle(lab, host):
    """Back to the first system, in every respect."""
    lab.fault(host)
    first = f"$(readlink -f {PROFILE}-1-link)"
    out(
        lab,
        host,
        "sh",
        "-c",
        f"nix-env --profile {PROFILE} --set {first} && NIXOS_NO_CHECK=1 {first}/bin/switch-to-configuration switch",
    )


# ---- guests --------------------------------------------------------------------------------------------------------
def test_status_and_inventory_name_every_host(lab):
    status = lab.status()
    assert list(status["hosts"]) == ["builder", "dev", "web", "nas", "dns"]
    assert {host["state"] for host in status["hosts"].values()} == {"running"}
    for host in status["hosts"].values():
        assert Path(f"/proc/{host['pid']}/comm").read_text() == "systemd\n"
        assert Path(host["console"]).is_file()
    assert {name for name, host in status["hosts"].items() if not host["python"]} == {"nas"}
    inventory = lab.inventory.read_text()
    for name, host in status["hosts"].items():
        assert f"    {name}:\n      ansible_host: {host['address']}\n" in inventory
    # the same hosts by way of the flake: test_inventory.py
    assert Path(status["flake_inventory"]).read_text() == lab.flake_inventory.read_text()


def test_every_guest_runs_the_first_system_of_the_flake(lab):
    for host in lab.status()["hosts"]:
        found = systems(lab, host)
        assert found == everywhere(found["current"])
        assert f"-nixos-system-{host}-26.11." in found["current"]
        assert (
            out(lab, host, "sh", "-c", f"readlink {PROFILE}; systemctl is-system-running") == "system-1-link\nrunning"
        )
        if host in ("builder", "web"):
            assert lab.build(host, copy=False) == found["current"]
    assert out(lab, "builder", "git", "-C", "/etc/nixos", "status", "--porcelain") == ""


def test_a_guest_looks_like_nixos_over_ssh(lab):
    path = "/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin"
    assert out(lab, "web", "printenv", "PATH") == path
    assert out(lab, "web", "bash", "-lc", "echo $PATH") == path
    assert out(lab, "web", "sh", "-c", "command -v sudo") == "/run/wrappers/bin/sudo"
    programs = ["bash", "bootctl", "cat", "df", "getconf", "git", "journalctl", "ln", "loginctl", "mkdir", "nix"]
    programs += [
        "nix-env",
        "nix-store",
        "readlink",
        "realpath",
        "sh",
        "shutdown",
        "ssh",
        "stat",
        "systemctl",
        "systemd-run",
    ]
    programs += ["timedatectl", "timeout", "wall"]
    found = out(lab, "web", "sh", "-c", 'for p in "$@"; do command -v "$p"; done', "sh", *programs).split()
    assert found == [f"/run/current-system/sw/bin/{program}" for program in programs]
    assert out(lab, "web", "readlink", "/nix/var/nix/gcroots/current-system") == "/run/current-system"
    assert out(lab, "web", "systemctl", "show", "-P", "FragmentPath", "sshd") == "/etc/systemd/system/sshd.service"
    # /boot is a small file system of its own
    assert int(out(lab, "web", "df", "--output=size", "-BM", "/boot").split()[-1].rstrip("M")) <= 64
    # an account with sudo rights and nothing else
    assert out(lab, "web", "/run/wrappers/bin/sudo", "-u", "admin", "/run/wrappers/bin/sudo", "-n", "id", "-u") == "0"


def test_python_is_only_where_nixos_has_it(lab):
    check = "import ctypes, json, selectors, sqlite3, ssl, sys, zipfile; print(sys.prefix)"
    prefix = out(lab, "web", "/run/current-system/sw/bin/python3", "-c", check)
    assert prefix.startswith("/nix/store/")
    for host in ("web", "nas"):
        assert out(lab, host, "find", "/usr", "/opt", "-name", "*python*") == ""
    assert lab.run("nas", ["sh", "-c", "command -v python3"]).returncode != 0
    assert out(lab, "nas", "find", "/nix/store", "-maxdepth", "1", "-name", "*python3*") == ""


def test_guests_reach_each_other_and_nothing_else(lab):
    assert out(lab, "dev", "curl", "-sS", "http://web/") == "nginx 1.28.0"
    assert out(lab, "dev", "ip", "-4", "route") == "198.18.0.0/24 dev host0 proto kernel scope link src 198.18.0.11"
    assert out(lab, "dns", "sh", "-c", "ip -4 route show default; ip -6 route show default") == ""
    assert out(lab, "builder", "ssh", "-o", "BatchMode=yes", "root@nas", "hostname") == "nas"


def test_two_inputs_of_the_flake_move_apart(lab):
    before = json.loads(out(lab, "builder", "cat", "/etc/nixos/flake.lock"))
    assert lab.move("tools") == {"restic": ("0.18.1", "0.18.2")}
    lab.update()
    after = json.loads(out(lab, "builder", "cat", "/etc/nixos/flake.lock"))
    changed = [node for node in after["nodes"] if after["nodes"][node] != before["nodes"][node]]
    assert changed == ["tools"]


# ---- from outside --------------------------------------------------------------------------------------------------
def test_files_of_a_guest_are_read_and_written_without_its_help(lab):
    first = systems(lab, "web")["current"]
    assert lab.read("web", "/etc/hostname") == "web\n"
    # absolute links stay inside, and what is mounted there is seen
    assert lab.read("web", f"{PROFILE}/nixos-version") == lab.read("web", "/run/current-system/nixos-version")
    assert lab.read("web", f"{PROFILE}/init") == out(lab, "web", "cat", f"{first}/init") + "\n"
    assert "default nixos-generation-1.conf\n" in lab.read("web", "/boot/loader/loader.conf")
    assert lab.read("web", "/absent") is lab.read("web", "/etc/hostname/absent") is None

    lab.write("web", "/var/lib/note", "torn at\0")
    assert out(lab, "web", "cat", "/var/lib/note") == lab.read("web", "/var/lib/note") == "torn at\0"
    begun = time.monotonic()
    assert {lab.read("web", "/var/lib/note") for _ in range(200)} == {"torn at\0"}
    assert time.monotonic() - begun < 1
    lab.write("web", "/var/lib/note", None)
    lab.write("web", "/var/lib/note", None)
    assert lab.read("web", "/var/lib/note") is None
    assert out(lab, "web", "find", "/var/lib", "-name", "*note*") == ""
    with pytest.raises(LabError, match="/absent/note"):
        lab.write("web", "/absent/note", "")


def test_the_journal_is_read_without_the_guests_help(lab):
    out(lab, "web", "logger", "-t", "lab", "hallo")
    assert wait_for(lambda: lab.journal("web", "-b", "-t", "lab", "-o", "cat") == "hallo\n", 5)
    assert lab.boots("web") >= 1


def answers(lab, host):
    """Whether a new connection reaches sshd, asked with less patience than ssh has."""
    address = lab.status()["hosts"][host]["address"]
    connect = ["timeout", "1", "bash", "-c", f": < /dev/tcp/{address}/22"]
    return (
        subprocess.run(
            ["nsenter", f"--net=/run/netns/{lab.netns}", *connect], capture_output=True, check=False
        ).returncode
        == 0
    )


def test_a_cable_is_pulled_and_plugged_in_again(lab):
    script = "echo begun; sleep 1.5; echo ended"
    with subprocess.Popen(
        ["ssh", "-F", str(lab.ssh_config), "web", script], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as open_connection:
        assert open_connection.stdout
        assert open_connection.stdout.readline() == "begun\n"
        lab.cut("web")
        assert not answers(lab, "web")
        assert answers(lab, "dns")
        lab.mend("web")
        assert wait_for(lambda: answers(lab, "web"), 5)
        # a connection that nobody gave up outlives it
        assert open_connection.stdout.read() == "ended\n"


# ---- systems -------------------------------------------------------------------------------------------------------
def test_a_new_system_goes_live_without_becoming_the_boot_default(lab):
    before = systems(lab, "web")
    lab.move()
    lab.update()
    target = lab.build("web")
    assert target != before["current"]
    changes = out(lab, "web", "nix", "store", "diff-closures", before["current"], target)
    assert "hello: 1.0 → 1.1" in changes
    dry = stc(lab, "web", target, "dry-activate")
    assert (dry.returncode, systems(lab, "web")) == (0, before)
    assert "would stop the following units: web.service\n" in dry.stderr
    assert "would start the following units: web.service\n" in dry.stderr

    live = stc(lab, "web", target, "test")
    assert live.returncode == 0, live.stderr
    assert systems(lab, "web") == {**before, "current": target}
    assert "stopping the following units: web.service\n" in live.stderr
    assert "activating the configuration...\n" in live.stderr
    assert out(lab, "web", "curl", "-sS", "http://localhost/") == "nginx 1.28.1"

    # the loader step knows generations of profiles only
    assert stc(lab, "web", target, "boot").returncode == 0
    assert systems(lab, "web")["default"] == before["default"]
    settle(lab, "web")


def test_reboots_start_what_the_loader_says(lab):
    first = systems(lab, "dev")["current"]
    lab.fault("dev", "kernel-changed")
    target = lab.build("dev")
    kernels = out(lab, "dev", "readlink", "-f", f"{first}/kernel", f"{target}/kernel").splitlines()
    assert kernels[0] != kernels[1]

    out(lab, "dev", "mkdir", "-p", f"{PROFILE}-profiles")
    out(lab, "dev", "nix-env", "--profile", f"{PROFILE}-profiles/lab-candidate", "--set", target)
    assert stc(lab, "dev", first, "boot").returncode == 0
    assert systems(lab, "dev") == everywhere(first)
    out(lab, "dev", "bootctl", "set-oneshot", "nixos-lab-candidate-generation-1.conf")
    reboot(lab, "dev")
    assert systems(lab, "dev") == {"current": target, "booted": target, "profile": first, "default": first}
    reboot(lab, "dev")
    assert systems(lab, "dev") == everywhere(first)
    out(lab, "dev", "rm", "-r", f"{PROFILE}-profiles")
    settle(lab, "dev")
    assert "candidate" not in out(lab, "dev", "bootctl", "list")


def test_what_bootctl_says_of_the_loader(lab):
    status = out(lab, "web", "bootctl", "status").splitlines()
    assert "     Features: ✓ Boot counting" in status
    assert "               ✓ One-shot entry control" in status
    assert "Current Entry: nixos-generation-1.conf" in status
    assert not [line for line in status if line.startswith(("Default Entry", "OneShot Entry"))]
    out(lab, "web", "bootctl", "set-oneshot", "nixos-generation-1.conf")
    assert "OneShot Entry: nixos-generation-1.conf" in out(lab, "web", "bootctl", "status").splitlines()
    out(lab, "web", "bootctl", "set-oneshot", "")
    assert out(lab, "web", "bootctl", "status").splitlines() == status
    # as modules see it
    assert "               + One-shot entry control" in out(lab, "web", "env", "LC_ALL=C", "bootctl", "status")

    lab.firmware("web", one_shot=False)
    assert "               ✗ One-shot entry control" in out(lab, "web", "bootctl", "status")
    assert lab.run("web", ["bootctl", "set-oneshot", "nixos-generation-1.conf"]).returncode == 1
    lab.firmware("web", one_shot=True)
    assert out(lab, "web", "bootctl", "status").splitlines() == status


def test_a_loader_without_one_shot_entries_and_somebody_at_the_console(lab):
    first = systems(lab, "dev")["current"]
    lab.fault("dev", "kernel-changed")
    target = lab.build("dev")
    assert stc(lab, "dev", target, "boot", profile=True).returncode == 0
    out(lab, "dev", "bootctl", "set-oneshot", "nixos-generation-1.conf")
    lab.firmware("dev", one_shot=False)
    boots = lab.boots("dev")
    reboot(lab, "dev")
    assert (systems(lab, "dev")["booted"], lab.boots("dev")) == (target, boots + 1)
    # the order for a single boot is still there, and is carried out unless somebody picks another entry
    lab.firmware("dev", one_shot=True)
    lab.write("dev", "/var/lib/firmware/efivars/LoaderEntryOneShot", "nixos-generation-2.conf")
    lab.choose("dev", "nixos-generation-1*")
    reboot(lab, "dev")
    assert systems(lab, "dev") == {"current": first, "booted": first, "profile": target, "default": target}
    assert "OneShot" not in out(lab, "dev", "bootctl", "status").splitlines()
    assert not (lab.directory / "hosts/dev/choice").exists()
    settle(lab, "dev")
    assert systems(lab, "dev") == everywhere(first)


EXITS = {
    "loader-fails": ("boot", 1, "Failed to install bootloader"),
    "esp-full": ("boot", 0, ""),
    "init-interface-changed": ("test", 100, "Warning: the new NixOS configuration has an 'init'"),
    "inhibitor": ("test", 1, "Pre-switch check 'switchInhibitors' failed"),
    "activate-fails": ("test", 2, "Failed to run activate script"),
    "unit-fails": ("test", 4, "warning: the following units failed: dns.service"),
}


def test_exit_codes_of_switch_to_configuration(lab):
    first = systems(lab, "dns")["current"]
    for fault, (action, code, message) in EXITS.items():
        before = systems(lab, "dns")
        lab.fault("dns", fault)
        target = lab.build("dns")
        done = stc(lab, "dns", target, action, profile=True)
        assert (fault, done.returncode, message in done.stderr) == (fault, code, True), done.stderr
        live = target if code in (2, 4) else before["current"]
        assert systems(lab, "dns") == {**before, "profile": target, "current": live}
    settle(lab, "dns")
    assert systems(lab, "dns") == everywhere(first)


def test_a_host_that_is_damaged_activates_nothing(lab):
    first = systems(lab, "dns")["current"]
    lab.fault("dns", "kernel-params-changed")
    target = lab.build("dns")
    damage = "/var/lib/activation-broken"
    lab.write("dns", damage, f"{target}\n")
    etc = lab.read("dns", "/etc/os-release"), out(lab, "dns", "readlink", "/etc/static")
    done = stc(lab, "dns", target, "test")
    assert (done.returncode, "Failed to run activate script\n" in done.stderr) == (2, True)
    assert systems(lab, "dns") == everywhere(first)
    assert (lab.read("dns", "/etc/os-release"), out(lab, "dns", "readlink", "/etc/static")) == etc
    # the file names who suffers, and nobody is everybody
    assert stc(lab, "dns", first, "test").returncode == 0
    lab.write("dns", damage, "")
    assert stc(lab, "dns", first, "test").returncode == 2
    lab.write("dns", damage, None)
    settle(lab, "dns")


def test_an_inhibitor_refuses_a_switch_and_never_a_boot(lab):
    lab.fault("dns", "inhibitor")
    target = lab.build("dns")
    before = systems(lab, "dns")
    for action in ("switch", "test", "dry-activate", "check"):
        done = stc(lab, "dns", target, action)
        assert (done.returncode, "Pre-switch check 'switchInhibitors' failed\n" in done.stderr) == (1, True)
    assert systems(lab, "dns") == before
    assert stc(lab, "dns", target, "boot", profile=True).returncode == 0
    assert systems(lab, "dns") == {**before, "profile": target, "default": target}
    assert stc(lab, "dns", target, "test", "NIXOS_NO_CHECK=1").returncode == 0
    settle(lab, "dns")


def test_a_bad_action_prints_the_usage(lab):
    done = stc(lab, "web", "/run/current-system", "sideways")
    assert (done.returncode, "[check|switch|boot|test|dry-activate]" in done.stderr) == (1, True)


def test_switches_wait_for_each_other(lab):
    lock = "/run/nixos/switch-to-configuration.lock"
    out(
        lab,
        "web",
        "systemd-run",
        "--unit=holder",
        "--service-type=exec",
        "/bin/sh",
        "-c",
        f"exec /run/current-system/sw/bin/flock {lock} /run/current-system/sw/bin/sleep 2",
    )
    begun = time.monotonic()
    assert stc(lab, "web", "/run/current-system", "check").returncode == 0
    assert time.monotonic() - begun > 1


def test_transient_units_survive_a_switch(lab):
    out(lab, "web", "systemd-run", "--unit=survivor", "/run/current-system/sw/bin/sleep", "300")
    pid = out(lab, "web", "systemctl", "show", "-P", "MainPID", "survivor")
    lab.fault("web", "kernel-params-changed")
    assert stc(lab, "web", lab.build("web"), "test").returncode == 0
    assert out(lab, "web", "systemctl", "show", "-P", "MainPID", "survivor") == pid != "0"
    out(lab, "web", "systemctl", "stop", "survivor")
    settle(lab, "web")


@pytest.mark.parametrize("fault", ["build-fails", "eval-fails"])
def test_a_system_that_cannot_be_built(lab, fault):
    lab.fault("web", fault)
    with pytest.raises(LabError, match=fault):
        lab.build("web")
    lab.build("dns", copy=False)
    lab.fault("web")


@pytest.mark.soak
def test_a_host_can_cut_itself_off_and_come_back(lab):
    """The new system loses the network; the old one, activated by the host itself, brings it back."""
    first = systems(lab, "dns")["current"]
    lab.fault("dns", "network-lost")
    target = lab.build("dns")
    forth, back = (f"{system}/bin/switch-to-configuration test" for system in (target, first))
    script = f"{forth}; /run/current-system/sw/bin/sleep 8; {back}"
    out(lab, "dns", "systemd-run", "--unit=forth-and-back", "/bin/sh", "-c", script)
    assert wait_for(lambda: not answers(lab, "dns"), 20)
    begun = time.monotonic()
    lost = lab.run("dns", ["true"])
    assert (lost.returncode, time.monotonic() - begun < 6.5) == (255, True)
    lab.wait_ready(["dns"], 20)
    assert systems(lab, "dns")["current"] == first
    lab.fault("dns")


@pytest.mark.soak
def test_faults_that_show_in_the_new_system(lab):
    first = systems(lab, "dns")["current"]
    for fault, check, code in (
        ("python-gone", "command -v python3", 1),
        ("sudo-gone", "test -e /run/wrappers/bin/sudo", 1),
        ("firewall-drops-ssh", "nft list ruleset | grep -q 'dport 22'", 1),
        ("unit-flaps=2", "systemctl is-active dns", 3),
        ("slow-activation=2", "true", 0),
        ("systemd-changed", "test /run/current-system/systemd/bin -ef /run/booted-system/systemd/bin", 1),
        ("sshd-broken", "systemctl is-active sshd", 3),
        ("python-broken", "python3 --version", 127),
        ("guard-gone", f"systemctl cat {GUARD}", 1),
    ):
        lab.fault("dns", fault)
        target = lab.build("dns")
        forth, back = (f"{system}/bin/switch-to-configuration test" for system in (target, first))
        script = f"{forth}; {check}; code=$?; {back}; exit $code"
        begun = time.monotonic()
        done = lab.run("dns", ["bash", "-c", f"({script}) > /tmp/log 2>&1"])
        assert (fault, done.returncode) == (fault, code), out(lab, "dns", "cat", "/tmp/log")
        assert not fault.startswith("slow") or time.monotonic() - begun > 2
    lab.fault("dns", "slow-loader=2")
    target = lab.build("dns")
    for action, least in (("test", 0), ("boot", 2)):
        begun = time.monotonic()
        assert stc(lab, "dns", target, action).returncode == 0
        assert time.monotonic() - begun >= least
    settle(lab, "dns")
    deadline = time.monotonic() + 10
    while out(lab, "dns", "systemctl", "is-active", "dns", "sshd") != "active\nactive":
        assert time.monotonic() < deadline


@pytest.mark.soak
def test_a_network_that_is_lost_after_a_boot_only(lab):
    first = systems(lab, "dns")["current"]
    lab.fault("dns", "network-lost-after-boot")
    target = lab.build("dns")
    assert stc(lab, "dns", target, "switch", profile=True).returncode == 0
    out(lab, "dns", "bootctl", "set-oneshot", "@default")
    out(lab, "dns", "ln", "-sfn", "system-1-link", PROFILE)
    assert stc(lab, "dns", first, "boot").returncode == 0
    lab.run("dns", ["systemctl", "reboot"])
    with pytest.raises(LabError, match="does not answer"):
        lab.wait_ready(["dns"], 8)
    assert lab.status()["hosts"]["dns"]["state"] == "running"
    lab.stop("dns")
    lab.start("dns", wait=True)
    assert systems(lab, "dns")["current"] == first
    settle(lab, "dns")


# ---- the boot guard ------------------------------------------------------------------------------------------------
GUARD = "lab-auto-update-boot-guard.service"
STATE = "/var/lib/lab-auto-update"


def transaction(lab, host, step, **changes):
    """What a controller leaves on a host, written by hand."""
    seconds = int(time.time())
    note = {
        "version": 1,
        "controller": "test",
        "controller_name": "test",
        "run_id": f"run-{host}",
        "process": None,
        "since": seconds,
        "deadline": seconds + 600,
        "step": step,
        "boot_id": boot_id(lab, host),
        "from": None,
        "target": None,
        "failed_units": [],
        "verified": False,
        "guard_seconds": None,
        "guard_until": None,
    }
    lab.write(host, f"{STATE}/transaction.json", json.dumps({**note, **changes}))


def boot_once(lab, host, first, target):
    """Let the next boot, and no other, start a system, as the collection does it."""
    candidate = f"{PROFILE}-profiles/lab-candidate"
    script = f"""
        mkdir -p {PROFILE}-profiles && nix-env --profile {candidate} --set {target} &&
        {first}/bin/switch-to-configuration boot && bootctl set-oneshot nixos-lab-candidate-generation-1.conf
    """
    out(lab, host, "sh", "-c", script)


def guard_state(lab, host):
    shown = out(lab, host, "systemctl", "show", "-p", "ActiveState,Result", GUARD)
    return sorted(line.partition("=")[2] for line in shown.splitlines())


def is_back(lab, host, first, boots):
    """The host has been put back by its guard, and by a second reboot."""
    assert wait_for(lambda: lab.boots(host) > boots + 1, 30), lab.journal(host, "-u", GUARD)
    lab.wait_ready([host], accepted=["running"])
    assert systems(lab, host) == everywhere(first)
    assert (lab.boots(host), lab.read(host, f"{STATE}/boot-guard")) == (boots + 2, f"run-{host}\n")
    assert out(lab, host, "find", "/nix/var/nix/profiles", "/boot", "-name", "*candidate*-*") == ""
    said = lab.journal(host, "-u", GUARD, "-o", "cat")
    assert f"Run run-{host} did not confirm this boot in time; going back to {first}.\n" in said
    assert f"This host is back on {first}; nothing to put back.\n" in said


def stays(lab, host, target, boots):
    """The guard has ended, and done nothing."""
    assert wait_for(lambda: guard_state(lab, host) == ["inactive", "success"], 10)
    assert systems(lab, host)["booted"] == target
    assert (lab.boots(host), lab.read(host, f"{STATE}/boot-guard")) == (boots + 1, None)


def unguard(lab, host):
    out(lab, host, "sh", "-c", f"rm -rf {STATE}/transaction.json {STATE}/boot-guard {PROFILE}-profiles")
    settle(lab, host)


def test_the_boot_guard_takes_a_host_back_that_nobody_confirmed(lab):
    first, target, boots = {}, {}, {}
    for host, fault in {"dns": "network-lost-after-boot", "web": "kernel-changed"}.items():
        first[host], boots[host] = systems(lab, host)["current"], lab.boots(host)
        # so far it has had nothing to do
        assert guard_state(lab, host) == ["inactive", "success"]
        lab.fault(host, fault)
        target[host] = lab.build(host)
        boot_once(lab, host, first[host], target[host])
    transaction(lab, "dns", "reboot", **{"from": first["dns"], "target": target["dns"], "guard_seconds": 3})
    # on this one, everything was confirmed before the guard's time
    transaction(lab, "web", "commit", **{"from": first["web"], "target": target["web"], "guard_seconds": 0})
    for host in target:
        lab.run(host, ["systemctl", "reboot"])
    assert wait_for(lambda: lab.boots("web") > boots["web"], 20)
    lab.wait_ready(["web"])
    is_back(lab, "dns", first["dns"], boots["dns"])
    stays(lab, "web", target["web"], boots["web"])
    for host in target:
        unguard(lab, host)


@pytest.mark.soak
@pytest.mark.parametrize("fault", ["network-lost-after-boot", "emergency-mode"])
def test_the_boot_guard_of_a_host_whose_loader_knows_no_single_boots(lab, fault):
    """The new system is the default there, and the guard makes the old one the default again."""
    first, boots = systems(lab, "dns")["current"], lab.boots("dns")
    lab.fault("dns", fault)
    target = lab.build("dns")
    assert stc(lab, "dns", target, "boot", profile=True).returncode == 0
    transaction(lab, "dns", "reboot", **{"from": first, "target": target, "guard_seconds": 3})
    lab.run("dns", ["systemctl", "reboot"])
    is_back(lab, "dns", first, boots)
    assert ("emergency.target" in lab.journal("dns", "-b", "-1")) == (fault == "emergency-mode")
    unguard(lab, "dns")


@pytest.mark.soak
@pytest.mark.parametrize("verified", [True, False])
def test_the_boot_guard_waits_for_a_verification_that_has_begun(lab, verified):
    first, boots = systems(lab, "dns")["current"], lab.boots("dns")
    lab.fault("dns", "kernel-changed")
    target = lab.build("dns")
    boot_once(lab, "dns", first, target)
    ways = {"from": first, "target": target}
    transaction(lab, "dns", "reboot", guard_seconds=300, **ways)
    reboot(lab, "dns")
    assert guard_state(lab, "dns") == ["active", "success"]
    until = float(out(lab, "dns", "cat", "/proc/uptime").split()[0]) + 6
    transaction(lab, "dns", "reboot_verification", guard_seconds=300, guard_until=until, **ways)
    if verified:
        lab.write("dns", f"{STATE}/transaction.json", None)
        stays(lab, "dns", target, boots)
    else:
        is_back(lab, "dns", first, boots)
    unguard(lab, "dns")


@pytest.mark.soak
def test_the_boot_guard_reboots_once_and_then_activates(lab):
    """Somebody at the console sends the host into the new system again."""
    first, boots = systems(lab, "dns")["current"], lab.boots("dns")
    lab.fault("dns", "network-lost-after-boot")
    target = lab.build("dns")
    assert stc(lab, "dns", target, "boot", profile=True).returncode == 0
    transaction(lab, "dns", "reboot", **{"from": first, "target": target, "guard_seconds": 3})
    lab.write("dns", f"{STATE}/boot-guard", "run-dns\n")
    lab.run("dns", ["systemctl", "reboot"])
    assert wait_for(lambda: "the next run settles the rest" in lab.journal("dns", "-u", GUARD), 30)
    assert lab.boots("dns") == boots + 1
    # as it runs, it has the wrong address still: that of the network's file in /run
    assert lab.read("dns", "/run/current-system/init") == lab.read("dns", f"{first}/init")
    lab.stop("dns")
    lab.start("dns", wait=True)
    assert systems(lab, "dns") == everywhere(first)
    unguard(lab, "dns")


def test_a_switch_leaves_a_waiting_boot_guard_alone(lab):
    """Also a switch to a system that has none."""
    first = systems(lab, "dns")["current"]
    lab.fault("dns", "guard-gone")
    target = lab.build("dns")
    transaction(lab, "dns", "reboot", **{"from": target, "boot_id": "another", "guard_seconds": 300})
    out(lab, "dns", "systemctl", "start", GUARD)
    pid = out(lab, "dns", "systemctl", "show", "-P", "MainPID", GUARD)
    assert pid != "0"
    for system in (target, first):
        done = stc(lab, "dns", system, "test")
        assert (done.returncode, GUARD in done.stderr) == (0, False), done.stderr
        assert out(lab, "dns", "systemctl", "show", "-P", "MainPID", GUARD) == pid
    lab.write("dns", f"{STATE}/transaction.json", None)
    assert wait_for(lambda: guard_state(lab, "dns")[0] == "inactive", 10)
    settle(lab, "dns")


# ---- power ---------------------------------------------------------------------------------------------------------
@pytest.mark.soak
def test_power_off_is_hard_and_a_hung_boot_shows(lab):
    before = boot_id(lab, "nas")
    lab.stop("nas")
    status = lab.status()["hosts"]["nas"]
    assert (status["state"], status["pid"]) == ("stopped", None)
    begun = time.monotonic()
    assert lab.run("nas", ["true"]).returncode == 255
    assert time.monotonic() - begun < 6.5
    lab.start("nas", wait=True)
    assert boot_id(lab, "nas") != before

    first = systems(lab, "nas")["current"]
    lab.fault("nas", "boot-fails")
    target = lab.build("nas")
    assert stc(lab, "nas", target, "boot", profile=True).returncode == 0
    assert systems(lab, "nas")["default"] == target
    out(lab, "nas", "bootctl", "set-default", "nixos-generation-1.conf")
    out(lab, "nas", "bootctl", "set-oneshot", "nixos-generation-2.conf")
    lab.run("nas", ["systemctl", "reboot"])
    deadline = time.monotonic() + 20
    while lab.status()["hosts"]["nas"]["state"] != "hung":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # the one-shot is used up, so the next start is the default's
    lab.stop("nas")
    assert lab.read("nas", "/run/booted-system/nixos-version") is None
    assert lab.read("nas", "/etc/hostname") == "nas\n"
    assert "Reached target" in lab.journal("nas")
    lab.start("nas", wait=True)
    assert systems(lab, "nas")["booted"] == first
    out(lab, "nas", "bootctl", "set-default", "")
    assert systems(lab, "nas")["default"] == target
    settle(lab, "nas")
    assert systems(lab, "nas") == everywhere(first)


@pytest.mark.soak
def test_a_host_that_cannot_boot_and_one_that_reboots_without_its_cable(lab):
    first = systems(lab, "dns")["current"]
    lab.write("dns", "/var/lib/boot-broken", f"{first}\n")
    lab.cut("web")
    boots = lab.boots("web")
    lab.stop("web")
    lab.start("web")
    lab.run("dns", ["systemctl", "reboot"])
    assert wait_for(lambda: lab.status()["hosts"]["dns"]["state"] == "hung", 20)
    lab.stop("dns")
    # another system boots all the same
    lab.write("dns", "/var/lib/boot-broken", f"{first}-other\n")
    lab.start("dns", wait=True)
    lab.write("dns", "/var/lib/boot-broken", None)

    assert wait_for(lambda: "Startup finished" in lab.journal("web", "-b"), 20)
    assert (answers(lab, "web"), lab.boots("web")) == (False, boots + 1)
    lab.mend("web")
    lab.wait_ready(["web"], 10)


# ---- the tool ------------------------------------------------------------------------------------------------------
def tool(*argv):
    return subprocess.run(
        [sys.executable, "-m", "tests.lab", *argv],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "argv, said",
    [
        (["up", "0"], "'0'|0 hosts"),
        (["up", "2", "--name", "No Lab"], "No Lab"),
        (["up", "2", "--without-python", "nas"], "nas"),
        (["up", "2", "--without-guard", "nas"], "nas"),
        (["status", "--name", "absent"], "absent"),
        (["exec", "--name", "absent", "--", "true"], "absent"),
    ],
)
def test_bad_input_is_one_sentence(argv, said):
    done = tool(*argv)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert any(word in done.stderr for word in said.split("|"))


def test_bad_names_on_a_running_lab(lab):
    for argv in (
        ["fault", "--name", lab.name, "web", "unit-fail"],
        ["move", "--name", lab.name, "nixpkgs"],
        ["stop", "--name", lab.name, "wbe"],
        ["cut", "--name", lab.name, "wbe"],
        ["read", "--name", lab.name, "web", "/absent"],
    ):
        done = tool(*argv)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1), done.stderr
        assert argv[-1] in done.stderr


def test_a_guest_is_looked_into_by_the_tool(lab):
    assert tool("read", "--name", lab.name, "web", "/etc/hostname").stdout == "web\n"
    assert tool("journal", "--name", lab.name, "web", "--", "-n", "1", "-o", "cat").stdout.count("\n") >= 1


def test_exec_runs_in_the_labs_network(lab):
    done = tool("exec", "--name", lab.name, "--", "ip", "-4", "-o", "addr", "show", "lab0")
    assert "198.18.0.1/24" in done.stdout


def traces(name):
    """Whatever of a lab can be found on this machine."""
    found = [
        str(path)
        for path in (Path("/run/netns", f"homelab-{name}"), Path("/var/lib/homelab-lab", name))
        if path.exists()
    ]
    # other labs come and go meanwhile
    found += [path for path, _, _ in os.walk("/sys/fs/cgroup") if path.endswith(f"/homelab-lab/{name}")]
    needle = f"/var/lib/homelab-lab/{name}/"
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            if needle in (process / "mountinfo").read_text() or needle in (process / "cmdline").read_text():
                found.append(str(process))
        except OSError:
            continue  # gone meanwhile
    return found


def test_a_killed_up_leaves_nothing_that_stops_the_next_one():
    name = f"killed-{os.getpid() % 100000}"
    lab = Lab(name)
    hosts = lab.directory / "hosts"
    try:
        for sign in ("lab.json", "hosts/builder/supervisor.json", "hosts/dev/state.json"):
            process = subprocess.Popen([sys.executable, "-m", "tests.lab", "up", "1", "--name", name], cwd=REPOSITORY)
            deadline = time.monotonic() + 60
            while not (lab.directory / sign).exists() or json.loads((lab.directory / "lab.json").read_text())["ready"]:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert traces(name)
        Lab.up(1, name=name)
        assert out(lab, "dev", "systemctl", "is-system-running") == "running"
        assert len(list(hosts.iterdir())) == 2
    finally:
        lab.down()
    assert traces(name) == []


@pytest.mark.soak
@pytest.mark.parametrize("nix, version", [("trixie", "2.26"), ("forky", "2.34")])
def test_both_generations_of_nix(nix, version):
    with Lab.temporary(1, "nix", nix=nix) as lab:
        name = lab.name
        assert f" {version}." in out(lab, "dev", "nix", "--version")
        lab.move()
        lab.update()
        target = lab.build("dev")
        assert stc(lab, "dev", target, "test").returncode == 0
        assert systems(lab, "dev")["current"] == target
        reboot(lab, "dev")
        assert systems(lab, "dev")["current"] != target
    assert traces(name) == []
