"""A lab: N guests and a flake host in a network namespace of their own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import image
from ._system import (
    STATE,
    control_groups,
    fail,
    kill_group,
    locked,
    open_within,
    remove_group,
    run,
    start_time,
    wait_for,
)

BUILDER = "builder"
NAMED = ("dev", "web", "nas", "dns")
SERVICES = {"dev": ["dev"], "web": ["web"], "nas": ["nas"], "dns": ["dns"]}
STAGES = ("development", "infrastructure", "critical")
STAGE = {"dev": "development", "dns": "critical"}
TAGS = {"web": ["public"], "dns": ["public"]}
DEPENDS_ON = {"web": ["nas"]}
FLAKE = "/etc/nixos"
BRIDGE = "lab0"
MAX_HOSTS = 50
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
INOTIFY_WANTED = 8192
GATEWAY = "198.18.0.1"

FAULTS = {
    "activate-fails": "the activation script fails (exit code 2)",
    "activation-hangs": "the activation never ends",
    "boot-fails": "init never reaches systemd; the guest hangs until it is powered off",
    "build-fails": "the system does not build",
    "emergency-mode": "a file system is missing at boot, which ends in emergency mode",
    "esp-full": "the boot loader step writes nothing and exits with 0",
    "eval-fails": "the configuration does not evaluate",
    "eval-hungry": "the evaluation takes 2 GiB of memory",
    "firewall-drops-ssh": "the firewall lets no new ssh connection in",
    "foreign-platform": "the system is for aarch64-linux",
    "guard-gone": "no boot guard in the new system",
    "inhibitor": "switch-inhibitors differ, so a switch is refused",
    "init-interface-changed": "init-interface-version differs (exit code 100)",
    "kernel-changed": "another kernel, initrd and modules [=VERSION]",
    "kernel-params-changed": "other kernel parameters",
    "loader-fails": "the boot loader step fails (exit code 1)",
    "network-lost": "the network configuration has a wrong address",
    "network-lost-after-boot": "the address is wrong after a boot only",
    "python-broken": "python3 in the new system exits with 127",
    "python-gone": "no Python in the new system",
    "slow-activation": "the activation takes 15 s [=SECONDS]",
    "slow-loader": "the boot loader step takes 5 s [=SECONDS]",
    "sshd-broken": "sshd does not start any more",
    "sudo-gone": "no sudo in /run/wrappers/bin",
    "systemd-changed": "another systemd [=VERSION]",
    "unit-fails": "the host's main service fails to start",
    "unit-flaps": "the host's main service fails for 5 s, then settles [=SECONDS]",
}

PACKAGE_FAULTS = {
    "build-fails": "it does not build",
    "build-hangs": "its build takes ten minutes",
    "eval-fails": "what uses it does not evaluate",
    "fills-disk": "its build writes 256 MiB",
}

# What moves of each input unless packages are named: nothing that asks for a reboot.
MOVING = {"packages": ("hello", "nginx", "openssl"), "tools": ("restic",)}


def host_names(count: int) -> list[str]:
    """The managed hosts of a lab of that size."""
    return [*NAMED, *(f"host{number}" for number in range(5, count + 1))][:count]


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", name):
        fail(
            f"'{name}' cannot be the name of a lab; use up to 20 lower-case letters, digits and dashes, a letter first."
        )
    return name


class Lab:
    """A lab by name. Nothing is touched until one of its methods is called."""

    def __init__(self, name: str = "demo") -> None:
        self.name = _check_name(name)
        self.directory = STATE / name
        self.netns = f"homelab-{name}"
        self.ssh_config = self.directory / "ssh_config"
        self.ssh_key = self.directory / "ssh_key"
        self.inventory = self.directory / "inventory.yml"
        self.flake_inventory = self.directory / "lab.nix_flake.yml"

    # ---- the whole lab ----------------------------------------------------------------------------------------------
    @classmethod
    def up(
        cls,
        count: int,
        name: str = "demo",
        nix: str = "trixie",
        without_python: Iterable[str] = (),
        without_guard: Iterable[str] = (),
    ) -> Lab:
        """Start a lab afresh; whatever a lab of that name left behind goes first."""
        lab = cls(name)
        names = host_names(count)
        if not 1 <= count <= MAX_HOSTS:
            fail(f"A lab cannot have {count} hosts; ask for 1 to {MAX_HOSTS}.")
        without = {"Python": set(without_python), "boot guard": set(without_guard)}
        for what, missing in without.items():
            for host in sorted(missing - set(names)):
                fail(
                    f"'{host}' is not a host of this lab, so it cannot be without {what}; "
                    f"its hosts are {', '.join(names)}."
                )
        _require_root()
        hosts: dict[str, dict[str, Any]] = {}
        for index, host in enumerate([BUILDER, *names]):
            hosts[host] = {
                "address": f"198.18.0.{2 if host == BUILDER else 10 + index}",
                "services": SERVICES.get(host, [] if host == BUILDER else ["app"]),
                "python": host not in without["Python"],
                "guard": host not in without["boot guard"],
                "faults": [],
            }
            if host != BUILDER:
                hosts[host] |= {
                    "stage": STAGE.get(host, "infrastructure"),
                    "tags": TAGS.get(host, []),
                    "depends_on": [name for name in DEPENDS_ON.get(host, []) if name in names],
                }
        with lab._lock():
            lab._remove()
            systems = image.systems(image.image(nix), hosts)
            lab._create(hosts, systems, nix)
            _raise_limit()
            lab._start_network(hosts)
            for host in hosts:
                lab._start_supervisor(host)
            lab.wait_ready(hosts, accepted=("running",))
            lab._write_settings(hosts, nix, ready=True)
        return lab

    @classmethod
    @contextmanager
    def temporary(cls, count: int, prefix: str = "test", **options: Any) -> Iterator[Lab]:
        """A lab for as long as the block runs, with a name that no other process uses."""
        _require_root()
        for lab in cls.all():
            found = re.fullmatch(rf"{re.escape(prefix)}-([0-9a-z]+)-([0-9a-z]+)", lab.name)
            if found and start_time(int(found[1], 36)) != int(found[2], 36):
                lab.down()  # its test run was killed
        pid = os.getpid()
        lab = cls(f"{prefix}-{_base36(pid)}-{_base36(start_time(pid) or 0)}")
        try:
            yield cls.up(count, name=lab.name, **options)
        finally:
            lab.down()

    def down(self) -> None:
        """Leave no process, mount, namespace or file of the lab."""
        _require_root()
        with self._lock():
            self._remove()
            (STATE / f"{self.name}.lock").unlink(missing_ok=True)
        _restore_limit()

    @staticmethod
    def all() -> list[Lab]:
        """Every lab that has left a trace on this machine."""
        names = {path.name for path in STATE.glob("*") if path.is_dir()}
        names |= {path.name.removeprefix("homelab-") for path in Path("/run/netns").glob("homelab-*")}
        for group in control_groups():
            names |= {path.name for path in (group / "homelab-lab").glob("*") if path.is_dir()}
        return [Lab(name) for name in sorted(names)]

    def _lock(self) -> Any:
        return locked(STATE / f"{self.name}.lock")

    def _groups(self, *below: str) -> list[Path]:
        return [group.joinpath("homelab-lab", self.name, *below) for group in control_groups()]

    def _remove(self) -> None:
        unified, *others = self._groups()
        # every process of a lab is born in its control group, so a reused pid can never be hit
        kill_group(unified)
        for group in (unified, *others):
            remove_group(group)
            with suppress(OSError):  # another lab is up
                group.parent.rmdir()
        if Path("/run/netns", self.netns).exists():
            run(["ip", "netns", "delete", self.netns])
        if self.directory.exists():
            shutil.rmtree(self.directory)

    def _create(self, hosts: dict[str, dict[str, Any]], systems: image.Systems, nix: str) -> None:
        self.directory.mkdir(parents=True)
        self.directory.chmod(0o700)
        here = Path(__file__).parent
        for program in ("supervisor.py", "fdproxy.py"):
            shutil.copy(here / program, self.directory)
        self._keygen(self.ssh_key, f"lab {self.name}")
        push_key = self.directory / "push_key"
        self._keygen(push_key, f"root@{BUILDER}")
        authorized = self.ssh_key.with_suffix(".pub").read_text() + push_key.with_suffix(".pub").read_text()
        known = []
        for host, data in hosts.items():
            directory = self.directory / "hosts" / host
            for sub in ("upper/etc/ssh", "upper/root/.ssh", "upper/home/admin/.ssh", "work", "root", "boot"):
                (directory / sub).mkdir(parents=True)
            upper = directory / "upper"
            (upper / "root").chmod(0o700)
            (upper / "root/.ssh").chmod(0o700)
            (upper / "root/.ssh/authorized_keys").write_text(authorized)
            for place in (upper / "home/admin", upper / "home/admin/.ssh"):
                shutil.chown(place, 1000, 1000)
            (upper / "home/admin/.ssh/authorized_keys").write_text(authorized)
            self._keygen(upper / "etc/ssh/ssh_host_ed25519_key", f"root@{host}")
            public = (upper / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
            known.append(f"{host},{data['address']} {public[0]} {public[1]}\n")
            (directory / "power").write_text("on\n")
            (directory / "settings.json").write_text(
                json.dumps(
                    {
                        "host": host,
                        "bridge": f"sw-{host}",
                        "lower": [str(path) for path in systems.lower(host)],
                        "boot": str(systems.boot(host)),
                        "boot_size": "32m",
                        "groups": [str(group) for group in self._groups(host)],
                    }
                )
            )
        (self.directory / "known_hosts").write_text("".join(known))
        builder = self.directory / "hosts" / BUILDER / "upper"
        shutil.copy(self.directory / "known_hosts", builder / "etc/ssh/ssh_known_hosts")
        for suffix in ("", ".pub"):
            shutil.copy(f"{push_key}{suffix}", builder / f"root/.ssh/id_ed25519{suffix}")
        self._write_ssh_config(hosts)
        self._write_inventory(hosts)
        self._write_flake_inventory()
        self._write_settings(hosts, nix, ready=False)

    @staticmethod
    def _keygen(path: Path, comment: str) -> None:
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path])

    def _write_settings(self, hosts: dict[str, dict[str, Any]], nix: str, *, ready: bool) -> None:
        settings = {"name": self.name, "nix": nix, "ready": ready, "hosts": hosts}
        temporary = self.directory / "lab.json.new"
        temporary.write_text(json.dumps(settings, indent=2) + "\n")
        temporary.rename(self.directory / "lab.json")

    def _write_ssh_config(self, hosts: dict[str, dict[str, Any]]) -> None:
        python = Path(sys.executable).resolve()
        proxy = f"nsenter --net=/run/netns/{self.netns} {python} -ISE {self.directory}/fdproxy.py %h %p"
        blocks = [f"Host {host}\n  HostName {data['address']}\n" for host, data in hosts.items()]
        self.ssh_config.write_text(
            "".join(blocks)
            + f"""Host {" ".join(hosts)} 198.18.*
  User root
  IdentityFile {self.ssh_key}
  IdentitiesOnly yes
  UserKnownHostsFile {self.directory}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  ProxyCommand {proxy}
  ProxyUseFdpass yes
  ConnectTimeout 5
  ServerAliveInterval 5
  ServerAliveCountMax 3
"""
        )

    def _write_inventory(self, hosts: dict[str, dict[str, Any]]) -> None:
        groups: dict[str, list[str]] = {stage: [] for stage in STAGES}
        lines = [
            f"# The lab '{self.name}', written by its 'up'.",
            "all:",
            "  vars:",
            "    ansible_user: root",
            f"    ansible_ssh_common_args: -F {self.ssh_config}",
            "    ansible_python_interpreter: /run/current-system/sw/bin/python3",
            f"    lab_flake_host: {BUILDER}",
            f"    lab_flake: {FLAKE}",
            "    lab_push_key: /root/.ssh/id_ed25519",
            # Ansible shares connections by address, and all labs have the same
            f"    ansible_control_path_dir: {self.directory}/cp",
            # each lab has its nights, and a machine may have many labs
            f"    lab_state_directory: {self.directory}/state",
            f"    lab_stages: [{', '.join(STAGES)}]",
            "    lab_min_uptime: 0",
            "    lab_reboot_delay: 0",
            # faults and visitors are what labs are for
            "    lab_max_bad: 1000",
            "    lab_defer_for_users: false",
            "  hosts:",
        ]
        for host, data in hosts.items():
            lines += [f"    {host}:", f"      ansible_host: {data['address']}"]
            if host == BUILDER:
                lines.append("      lab_managed: false")
            else:
                groups[data["stage"]].append(host)
                lines.append(f"      lab_stage: {data['stage']}")
        lines.append("  children:")
        for group, members in groups.items():
            lines += [f"    {group}:", "      hosts:" if members else "      hosts: {}"]
            lines += [f"        {member}:" for member in members]
        self.inventory.write_text("\n".join(lines) + "\n")

    def _write_flake_inventory(self) -> None:
        """The same hosts by way of the flake, which says all but what only this machine knows."""
        lines = [
            f"# The lab '{self.name}' as its own flake has it, written by its 'up'.",
            "plugin: homelab.nixos.nix_flake",
            f"flake: {FLAKE}",
            f"ssh: root@{BUILDER}",
            f"ssh_args: -F {self.ssh_config}",
            # nothing of a lab outlives it
            f"cache_connection: {self.directory}/inventory-cache",
            "strict: true",
            "compose:",
            f"""  ansible_ssh_common_args: "'-F {self.ssh_config}'\"""",
            f"""  ansible_control_path_dir: "'{self.directory}/cp'\"""",
            """  ansible_python_interpreter: "'/run/current-system/sw/bin/python3'\"""",
            f"""  lab_state_directory: "'{self.directory}/state'\"""",
        ]
        self.flake_inventory.write_text("\n".join(lines) + "\n")

    def _start_network(self, hosts: Iterable[str]) -> None:
        lines = [
            "link set lo up",
            f"link add {BRIDGE} type bridge forward_delay 0 stp_state 0",
            f"link set {BRIDGE} address 02:00:c6:12:00:01",
            f"addr add {GATEWAY}/24 dev {BRIDGE}",
            f"link set {BRIDGE} up",
        ]
        for host in hosts:
            # a guest's own interface comes and goes with its boots; the cable behind it can stay cut meanwhile
            lines += [
                f"link add sw-{host} type bridge forward_delay 0 stp_state 0",
                f"link add up-{host} type veth peer name {_cable(host)}",
                f"link set sw-{host} up",
                f"link set up-{host} master sw-{host} up",
                f"link set {_cable(host)} master {BRIDGE} up",
            ]
        run(["ip", "netns", "add", self.netns])
        run(["ip", "-n", self.netns, "-batch", "-"], stdin="\n".join(lines) + "\n")

    def _start_supervisor(self, host: str) -> None:
        groups = self._groups(host)
        directory = self.directory / "hosts" / host

        def enter() -> None:
            for group in groups:
                group.mkdir(parents=True, exist_ok=True)
                (group / "supervisor").mkdir(exist_ok=True)
                (group / "supervisor" / "cgroup.procs").write_text(str(os.getpid()))

        with (directory / "supervisor.log").open("a") as log:
            process = subprocess.Popen(
                [
                    "nsenter",
                    f"--net=/run/netns/{self.netns}",
                    "unshare",
                    "--mount",
                    "--propagation",
                    "slave",
                    str(Path(sys.executable).resolve()),
                    "-ISE",
                    str(self.directory / "supervisor.py"),
                    str(directory / "settings.json"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=enter,
                cwd="/",
            )
        (directory / "supervisor.json").write_text(json.dumps({"pid": process.pid, "start": start_time(process.pid)}))

    def wait_ready(
        self, hosts: Iterable[str], seconds: float = 60, accepted: Iterable[str] = ("running", "degraded")
    ) -> None:
        """Wait until these hosts answer over ssh and systemd says it has finished booting."""
        deadline = time.monotonic() + seconds
        waiting = {
            host: subprocess.Popen(
                [
                    "ssh",
                    "-F",
                    str(self.ssh_config),
                    "-o",
                    "ConnectTimeout=2",
                    host,
                    "systemctl is-system-running --wait",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for host in hosts
            if self._await_port(host, deadline)
        }
        for host, process in waiting.items():
            try:
                out, err = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
            if out.strip() not in accepted:
                fail(f"'{host}' did not finish booting ({(out or err).strip()}); its console is {self.console(host)}.")

    def _await_port(self, host: str, deadline: float) -> bool:
        address = self.settings()["hosts"][host]["address"]
        script = (
            "import os, socket, sys, time\n"
            # a killed `up` is not outlived
            "while time.monotonic() < float(sys.argv[2]) and os.getppid() == int(sys.argv[3]):\n"
            "    try:\n"
            "        with socket.create_connection((sys.argv[1], 22), timeout=1) as s:\n"
            "            if s.recv(4) == b'SSH-': sys.exit(0)\n"
            "    except OSError:\n"
            "        time.sleep(0.05)\n"
            "sys.exit(1)\n"
        )
        arguments = [address, str(deadline), str(os.getpid())]
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.netns}", sys.executable, "-ISE", "-c", script, *arguments], check=False
        )
        if done.returncode != 0:
            fail(f"'{host}' does not answer on its ssh port; its console is {self.console(host)}.")
        return True

    # ---- what is there ----------------------------------------------------------------------------------------------
    def settings(self) -> dict[str, Any]:
        """What `up` wrote about the lab."""
        try:
            found: dict[str, Any] = json.loads((self.directory / "lab.json").read_text())
        except FileNotFoundError:
            others = ", ".join(path.parent.name for path in STATE.glob("*/lab.json")) or "none"
            fail(f"There is no lab '{self.name}' (labs: {others}); start it with 'up 4 --name {self.name}'.")
        return found

    def console(self, host: str) -> Path:
        return self.directory / "hosts" / host / "console.log"

    def known(self, host: str) -> str:
        hosts = self.settings()["hosts"]
        if host not in hosts:
            fail(f"'{host}' is not a host of the lab '{self.name}'; its hosts are {', '.join(hosts)}.")
        return host

    def _supervisor(self, host: str) -> int | None:
        try:
            recorded = json.loads((self.directory / "hosts" / host / "supervisor.json").read_text())
        except FileNotFoundError:
            return None
        pid: int = recorded["pid"]
        return pid if start_time(pid) == recorded["start"] else None

    def _state(self, host: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.directory / "hosts" / host / "state.json").read_text())
        except FileNotFoundError:
            found = {"phase": "stopped"}
        return found

    def _leader(self, nspawn: int) -> int | None:
        """The guest's PID 1 as this machine sees it: nspawn's child that is 1 in its own namespace."""
        try:
            children = Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()
            for child in children:
                found = re.search(r"^NSpid:.*\s1$", Path(f"/proc/{child}/status").read_text(), re.MULTILINE)
                if found:
                    return int(child)
        except (FileNotFoundError, ProcessLookupError):
            pass
        return None

    def status(self) -> dict[str, Any]:
        """Everything somebody needs to use the lab."""
        settings = self.settings()
        hosts = {}
        for host, data in settings["hosts"].items():
            state = self._state(host)
            phase, leader = state["phase"], None
            if self._supervisor(host) is None:
                phase = "stopped"
            elif phase == "running":
                leader = self._leader(state["nspawn"])
                # init gives way to systemd (later to systemd-shutdown) within a fraction of a second, or never
                if leader is not None and "systemd" not in _program(leader) and time.time() - state["since"] > 3:
                    phase = "hung"
            hosts[host] = {
                "address": data["address"],
                "pid": leader,
                "supervisor": self._supervisor(host),
                "console": str(self.console(host)),
                "state": phase,
                "python": data["python"],
            }
        return {
            "name": self.name,
            "netns": self.netns,
            "inventory": str(self.inventory),
            "flake_inventory": str(self.flake_inventory),
            "ssh_config": str(self.ssh_config),
            "ssh_key": str(self.ssh_key),
            "flake_host": BUILDER,
            "flake": FLAKE,
            "nix": settings["nix"],
            "ready": settings["ready"],
            "hosts": hosts,
        }

    # ---- one host ---------------------------------------------------------------------------------------------------
    def run(
        self, host: str, argv: Sequence[str], *, stdin: str | None = None, check: bool = False, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host over ssh, as root."""
        return subprocess.run(
            ["ssh", "-F", str(self.ssh_config), self.known(host), shlex.join(argv)],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout,
        )

    def stop(self, host: str) -> None:
        """Cut a host's power: every process of it is killed at once."""
        directory = self.directory / "hosts" / self.known(host)
        (directory / "power").write_text("off\n")
        kill_group(self._groups(host, "guest")[0])
        self._signal(host)
        if not wait_for(lambda: self._state(host)["phase"] == "stopped", 10):
            fail(f"'{host}' did not stop; look into {directory}/supervisor.log.")

    def start(self, host: str, *, wait: bool = False) -> None:
        """Switch a host on; with `wait`, until it has booted."""
        directory = self.directory / "hosts" / self.known(host)
        if self._supervisor(host) is None:
            fail(f"The lab '{self.name}' is not running; start it again with 'up'.")
        (directory / "power").write_text("on\n")
        self._signal(host)
        if not wait_for(lambda: self._state(host)["phase"] != "stopped", 10):
            fail(f"'{host}' did not start; look into {directory}/supervisor.log.")
        if wait:
            self.wait_ready([host])

    def _signal(self, host: str) -> None:
        pid = self._supervisor(host)
        if pid is not None:
            os.kill(pid, signal.SIGUSR1)

    def choose(self, host: str, entry: str) -> None:
        """At the next boot only, somebody at the console picks this entry (a glob; the newest that matches)."""
        temporary = self.directory / "hosts" / self.known(host) / "choice.new"
        temporary.write_text(entry + "\n")
        temporary.rename(temporary.with_suffix(""))

    def firmware(self, host: str, *, one_shot: bool) -> None:
        """Whether the host's boot loader knows one-shot entries; it does until told otherwise."""
        self.write(host, "/var/lib/firmware/without-one-shot", None if one_shot else "")

    def cut(self, host: str) -> None:
        """Pull the host's network cable; it stays out through reboots."""
        run(["ip", "-n", self.netns, "link", "set", _cable(self.known(host)), "down"])

    def mend(self, host: str) -> None:
        """Plug the host's network cable in again."""
        run(["ip", "-n", self.netns, "link", "set", _cable(self.known(host)), "up"])

    def boots(self, host: str) -> int:
        """How many boots of the host have begun."""
        return int(self._state(self.known(host)).get("boots", 0))

    # ---- one host, seen from outside: no ssh, no network, nothing that it notices --------------------------------
    def _disk(self, host: str, path: str) -> tuple[Path, str]:
        """Where a guest's path is from here: a directory that is a root for it, and the path below that."""
        pid = self._supervisor(self.known(host))
        if pid is None:
            fail(f"The lab '{self.name}' is not running; start it again with 'up'.")
        directory = Path(f"/proc/{pid}/root/{self.directory}/hosts/{host}")
        first, _, rest = path.lstrip("/").partition("/")
        match first:
            case "boot":
                return directory / "boot", rest
            case "run":
                # memory of the machine that is on; its first process has another root for a moment
                leader = self._leader(self._state(host).get("nspawn", 0))
                with suppress(FileNotFoundError, ProcessLookupError):
                    if leader and os.path.samefile(f"/proc/{leader}/root", directory / "root"):
                        return Path(f"/proc/{leader}/root"), path
        return directory / "root", path

    def read(self, host: str, path: str) -> str | None:
        """What a file of the host holds, None when there is no such file; the host may be off or out of reach."""
        root, below = self._disk(host, path)
        try:
            with open(open_within(root, below), encoding="utf-8", errors="replace") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return None

    def write(self, host: str, path: str, text: str | None) -> None:
        """Put a file on the host's disk, whole and at once; None removes it."""
        directory, _, name = path.rpartition("/")
        root, below = self._disk(host, directory or "/")
        try:
            handle = open_within(root, below or "/", os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            fail(f"'{path}' cannot be written on '{host}': {error.strerror}.")
        place = Path(f"/proc/self/fd/{handle}")
        try:
            if text is None:
                (place / name).unlink(missing_ok=True)
            else:
                (place / f".{name}.new").write_text(text)
                (place / f".{name}.new").rename(place / name)
        finally:
            os.close(handle)

    def journal(self, host: str, *arguments: str) -> str:
        """The host's journal as `journalctl ARGUMENTS` shows it; the host may be off or out of reach."""
        self._disk(host, "/")
        return run(
            [
                "nsenter",
                f"--mount=/proc/{self._supervisor(host)}/ns/mnt",
                "chroot",
                self.directory / "hosts" / host / "root",
                "/usr/bin/journalctl",
                "--no-pager",
                "--directory=/var/log/journal",
                *arguments,
            ]
        )

    # ---- the flake --------------------------------------------------------------------------------------------------
    def _builder(self, argv: Sequence[str], stdin: str | None = None) -> str:
        done = self.run(BUILDER, argv, stdin=stdin)
        if done.returncode != 0:
            fail(f"The flake host could not run '{shlex.join(argv)}': {done.stderr.strip()}")
        return done.stdout

    def move(self, moving: str = "packages", packages: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
        """Give an input a new commit with newer packages; returns {package: (old, new)}."""
        self.settings()
        if moving not in MOVING:
            fail(f"'{moving}' is not an input of the lab's flake; its inputs are {', '.join(MOVING)}.")
        chosen = list(packages or MOVING[moving])
        answer = self._edit(_MOVE, f"/srv/{moving}", *chosen)
        if answer["unknown"]:
            unknown, known = answer["unknown"][0], ", ".join(answer["known"])
            fail(f"'{unknown}' is not a package of the input '{moving}'; it has {known}.")
        return {package: (old, new) for package, (old, new) in answer["changes"].items()}

    def spoil(self, package: str, fault: str = "") -> None:
        """Give an input a new commit in which a package has a fault; every host that has it suffers. None heals."""
        self.settings()
        if fault and fault not in PACKAGE_FAULTS:
            fail(f"'{fault}' is not a fault of a package; those are {', '.join(PACKAGE_FAULTS)}.")
        if not self._edit(_SPOIL, "/srv", package, fault):
            fail(f"'{package}' is not a package of an input of the lab's flake.")

    def _edit(self, program: str, *arguments: str) -> Any:
        """Run a small Python program on the flake host, and read the JSON that it prints."""
        python = "/run/current-system/sw/bin/python3"
        return json.loads(self._builder([python, "-", *arguments], stdin=_EDIT + program))

    def update(self) -> None:
        """Move the flake's lock to the newest inputs, by hand as an owner would: `nix flake update` and a commit."""
        self._builder(
            ["sh", "-c", f"cd {FLAKE} && nix flake update --quiet && git commit --quiet --all --message update"]
        )

    def build(self, host: str, *, copy: bool = True) -> str:
        """Build a host's next system on the flake host, and bring it to the host; returns its store path."""
        attribute = f"nixosConfigurations.{self.known(host)}.config.system.build.toplevel"
        path = self._builder(["nix", "build", "--no-link", "--print-out-paths", f"{FLAKE}#{attribute}"]).strip()
        if copy:
            self._builder(["nix", "copy", "--no-check-sigs", "--to", f"ssh-ng://root@{host}", path])
        return path

    def fault(self, host: str, *faults: str) -> None:
        """What the host's next system will suffer from; no fault at all clears."""
        self.known(host)
        for fault in faults:
            name, _, value = fault.partition("=")
            if name not in FAULTS:
                fail(f"'{name}' is not a fault; 'fault --help' lists them all.")
            if "=" in fault and not ("[=" in FAULTS[name] and re.fullmatch(r"[0-9][0-9a-z.]*", value)):
                fail(f"'{fault}' is not understood; 'fault --help' shows which faults take a value.")
        self._edit(_FAULT, FLAKE, host, *faults)


# What changes on the flake host is changed there, in one go, and committed.
_EDIT = """
import json, os, subprocess, sys
def change(repository, name, value, message):
    text = "{\\n" + ",\\n".join(f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()) + "\\n}\\n"
    with open(f"{repository}/{name}.new", "w") as new: new.write(text)
    os.rename(f"{repository}/{name}.new", f"{repository}/{name}")
    if subprocess.run(["git", "-C", repository, "diff", "--quiet", "--", name]).returncode:
        subprocess.run(["git", "-C", repository, "commit", "--quiet", "--message", message, "--", name], check=True)
repository, *words = sys.argv[1:]
"""
_MOVE = """
with open(f"{repository}/versions.json") as file: versions = json.load(file)
changes = {}
unknown = [package for package in words if package not in versions]
if not unknown:
    for package in words:
        old = versions[package]["version"]
        head, _, last = old.rpartition(".")
        versions[package] = {"version": f"{head}.{int(last) + 1}", "size": versions[package]["size"] + 1}
        changes[package] = [old, versions[package]["version"]]
    change(repository, "versions.json", versions, ", ".join(f"{name} {new}" for name, (_, new) in changes.items()))
print(json.dumps({"changes": changes, "unknown": unknown, "known": list(versions)}))
"""
_SPOIL = """
package, fault = words
found = [name for name in os.listdir(repository) if os.path.exists(f"{repository}/{name}/versions.json")]
known = {}
for name in found:
    with open(f"{repository}/{name}/versions.json") as file: known[name] = json.load(file)
having = [name for name in found if package in known[name]]
for name in having:
    known[name][package].pop("fault", None)
    if fault: known[name][package]["fault"] = fault
    change(f"{repository}/{name}", "versions.json", known[name], f"{package}: {fault or 'healed'}")
print(json.dumps(bool(having)))
"""
_FAULT = """
host, *faults = words
with open(f"{repository}/hosts.json") as file: hosts = json.load(file)
hosts[host]["faults"] = faults
change(repository, "hosts.json", hosts, f"{host}: {', '.join(faults) or 'no faults'}")
print("null")
"""


def _cable(host: str) -> str:
    """The port of the lab's bridge that a host's cable is plugged into."""
    return f"to-{host}"


def _base36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    return (_base36(number // 36) if number >= 36 else "") + digits[number % 36]


def _program(pid: int) -> str:
    """What a process executes; of one that is gone, nothing that could be mistaken for an init."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError):
        return "systemd, gone"


def _raise_limit() -> None:
    """Every guest's root counts as this machine's root, and 128 inotify instances do not last for three guests."""
    with locked(STATE / "limit.lock"):
        before = INOTIFY.read_text().strip()
        if int(before) < INOTIFY_WANTED:
            (STATE / "inotify-limit").write_text(before)
            INOTIFY.write_text(str(INOTIFY_WANTED))


def _restore_limit() -> None:
    """The last lab takes its change of the limit with it."""
    with locked(STATE / "limit.lock"):
        saved = STATE / "inotify-limit"
        if saved.exists() and not Lab.all():
            INOTIFY.write_text(saved.read_text())
            saved.unlink()


def _require_root() -> None:
    if os.geteuid() != 0:
        fail("The lab needs root for namespaces and mounts; run the command with sudo.")
