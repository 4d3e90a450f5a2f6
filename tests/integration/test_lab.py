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
    """The new system loses the network; the old one, activated by a timer of the host's own, brings it back."""
    first = systems(lab, "dns")["current"]
    lab.fault("dns", "network-lost")
    target = lab.build("dns")
    out(
        lab,
        "dns",
        "systemd-run",
        "--unit=back",
        "--on-active=7",
        "--timer-property=AccuracySec=1s",
        f"{first}/bin/switch-to-configuration",
        "test",
    )
    out(lab, "dns", "systemd-run", "--unit=forth", f"{target}/bin/switch-to-configuration", "test")
    time.sleep(2)
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
    ):
        lab.fault("dns", fault)
        target = lab.build("dns")
        forth, back = (f"{system}/bin/switch-to-configuration test" for system in (target, first))
        script = f"{forth}; {check}; code=$?; {back}; exit $code"
        begun = time.monotonic()
        done = lab.run("dns", ["bash", "-c", f"({script}) > /tmp/log 2>&1"])
        assert (fault, done.returncode) == (fault, code), out(lab, "dns", "cat", "/tmp/log")
        assert not fault.startswith("slow") or time.monotonic() - begun > 2
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
    lab.start("nas", wait=True)
    assert systems(lab, "nas")["booted"] == first
    out(lab, "nas", "bootctl", "set-default", "")
    assert systems(lab, "nas")["default"] == target
    settle(lab, "nas")
    assert systems(lab, "nas") == everywhere(first)


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
    ):
        done = tool(*argv)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1), done.stderr
        assert argv[-1] in done.stderr


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
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/homelab-lab/{name}")]
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
