"""A lab and nights on it, as their owner sees them. Hosts are watched from outside, never by the code under test."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.integration.conftest import run_module
from tests.lab import Lab
from tests.lab._system import open_within

ROOT = Path(__file__).parents[2]
TRANSACTION = "/var/lib/lab-auto-update/transaction.json"
LAST = "/var/lib/lab-auto-update/last.json"
# damage, see docs/testing.md
ACTIVATION_BROKEN = "/var/lib/activation-broken"
BOOT_BROKEN = "/var/lib/boot-broken"


@dataclass(frozen=True)
class Host:
    """What a host runs and would boot."""

    current: str
    profile: str
    boot_default: str
    boot_id: str

    def is_on(self, system: str) -> bool:
        return self.current == self.profile == self.boot_default == system


@dataclass(frozen=True)
class Night:
    """One run of a playbook, as its owner sees it."""

    rc: int
    output: str
    seconds: float

    @property
    def _table(self) -> list[str]:
        assert "HOST  " in self.output, self.output
        return self.output[self.output.index("HOST  ") :].splitlines()

    @property
    def outcomes(self) -> dict[str, str]:
        """The table's rows."""
        rows = [re.match(r" +(\w+) +([a-z_]+)  ", line) for line in self._table]
        return {row[1]: row[2] for row in rows if row}

    def failed_tasks(self, host: str) -> list[str]:
        """The tasks in which it failed, or could not be reached, in order."""
        tasks = self.output.split("\nTASK [")[1:]
        return [task.partition("]")[0] for task in tasks if f"\nfatal: [{host}]" in task]

    def reason(self, host: str) -> str:
        """The lines below the host's row, in one."""
        table = self._table
        rows = [number for number, line in enumerate(table) if re.match(r" +\w+ +[a-z_]+  ", line)]
        begin = next(number for number in rows if table[number].split()[0] == host)
        end = min([number for number in rows if number > begin] + [len(table)])
        return " ".join(" ".join(table[begin + 1 : end]).split())


class Running:
    """A playbook that runs."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 - it lives as long as this object
        self._began = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )

    def output(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    def wait(self, timeout: float = 1200) -> Night:
        try:
            rc = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        print(self.output())
        return Night(rc, self.output(), time.monotonic() - self._began)

    def kill(self) -> None:
        """SIGKILL for the controller with all it has started: its workers are sessions of their own and would go on."""
        # stopped first, so that no new ones come while they are counted
        family = [self.process.pid]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
            family += _children(pid)
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Fleet:
    """A lab, nights on it, and looks at its hosts."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.hosts = tuple(host for host in lab.settings()["hosts"] if host != "builder")
        self._owners = lab.directory / "owners.yml"

    # ---- nights -----------------------------------------------------------------------------------------------------
    def run(self, command: list[str]) -> Running:
        """Start one of Ansible's programs in the clone."""
        program = str(Path(sys.executable).parent / command[0])
        return Running([program, *command[1:]], {**os.environ, "ANSIBLE_NOCOLOR": "1"})

    def begin(self, *arguments: str, playbook: str = "nightly.yml", **settings: Any) -> Running:
        """Start C(ansible-playbook) on the lab; C(settings) are extra variables."""
        sources = [self.lab.inventory, *([self._owners] if self._owners.exists() else [])]
        inventory = [word for source in sources for word in ("-i", str(source))]
        return self.run(["ansible-playbook", playbook, *inventory, *arguments, "-e", json.dumps(settings)])

    def says(self, everybody: Mapping[str, Any], hosts: Mapping[str, Mapping[str, Any]]) -> None:
        """What the owner has in an inventory beside that of the lab: for everybody, and for single hosts."""
        self._owners.write_text(json.dumps({"all": {"vars": everybody, "hosts": hosts}}))

    def begin_module(self, host: str, module: str, arguments: str, *options: str, **variables: Any) -> Running:
        """Start one module on one host, as C(ansible) does."""
        inventory = str(self.lab.inventory)
        words = ["ansible", host, "-i", inventory, "-m", module, "-a", arguments]
        return self.run([*words, *options, "-e", json.dumps(variables)])

    def night(self, *arguments: str, timeout: float = 1200, **settings: Any) -> Night:
        """A whole night."""
        return self.begin(*arguments, **settings).wait(timeout)

    def module(self, host: str, name: str, **arguments: Any) -> dict[str, Any]:
        """One module on one host, to its end; returns its result."""
        return run_module(self.lab, host, name, arguments)

    # ---- the flake --------------------------------------------------------------------------------------------------
    def faults(self, **faults: str | tuple[str, ...]) -> None:
        """What the next systems of hosts suffer from; hosts that are not named have none."""
        for host in self.hosts:
            given = faults.get(host, ())
            self.lab.fault(host, *([given] if isinstance(given, str) else given))

    def locked(self) -> str:
        """The lock file and the commit that are on the flake's host."""
        script = "cd /etc/nixos; sha256sum flake.lock; git rev-parse HEAD"
        return self.lab.run("builder", ["sh", "-c", script], check=True).stdout

    def targets(self) -> dict[str, str]:
        """The system that the flake has for each host."""
        expression = "hosts: builtins.mapAttrs (_: host: host.config.system.build.toplevel.outPath) hosts"
        words = ["nix", "eval", "--json", "/etc/nixos#nixosConfigurations", "--apply", expression]
        found: dict[str, str] = json.loads(self.lab.run("builder", words, check=True).stdout)
        return {host: found[host] for host in self.hosts}

    def target(self, host: str) -> str:
        """The system that the flake, as it is on the builder now, has for a host."""
        attribute = f"/etc/nixos#nixosConfigurations.{host}.config.system.build.toplevel.outPath"
        return self.lab.run("builder", ["nix", "eval", "--raw", attribute], check=True).stdout.strip()

    # ---- what hosts show --------------------------------------------------------------------------------------------
    def look(self, host: str) -> Host:
        script = (
            "readlink -f /run/current-system /nix/var/nix/profiles/system;"
            'entry=$(sed -n "s/^default *//p" /boot/loader/loader.conf);'
            'grep -o "init=[^ ]*" "/boot/loader/entries/$entry"; cat /proc/sys/kernel/random/boot_id'
        )
        current, profile, init, boot_id = self.lab.run(host, ["sh", "-c", script], check=True).stdout.split()
        return Host(current, profile, init.removeprefix("init=").removesuffix("/init"), boot_id)

    def looks(self) -> dict[str, Host]:
        return {host: self.look(host) for host in self.hosts}

    def answers(self, host: str) -> bool:
        return self.lab.run(host, ["true"]).returncode == 0

    def link(self, host: str, path: str) -> str | None:
        """What a link of a host says, read from outside; C(None) when there is no such link."""
        directory, _, name = path.rpartition("/")
        root, below = self.lab._disk(host, directory)
        try:
            handle = open_within(root, below or "/", os.O_PATH | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return None
        try:
            return os.readlink(name, dir_fd=handle)
        except FileNotFoundError:
            return None
        finally:
            os.close(handle)

    def transaction(self, host: str) -> dict[str, Any] | None:
        """A host's note of who is changing it, read from outside; C(None) when there is none."""
        text = self.lab.read(host, TRANSACTION)
        return None if text is None else json.loads(text)

    def step(self, host: str) -> str | None:
        return (self.transaction(host) or {}).get("step")

    def last(self, host: str) -> dict[str, Any]:
        """How the last change of a host ended, by its own record."""
        text = self.lab.read(host, LAST)
        return {} if text is None else json.loads(text)

    def activations(self, host: str, system: str) -> int:
        """How often an update activated a system on a host, by the host's journal."""
        text = self.lab.run(host, ["journalctl", "--no-pager", "--unit", "lab-auto-update-activation.service"]).stdout
        return text.count(f"Starting lab-auto-update-activation.service - {system}/bin/switch-to-configuration test")

    def failed_systems(self, host: str) -> dict[str, Any]:
        """The systems that a host remembers as failed, by its own record."""
        text = self.lab.read(host, "/var/lib/lab-auto-update/failed.json")
        return {} if text is None else json.loads(text)["systems"]

    def is_live(self, host: str, system: str) -> bool:
        """Whether a system is the running one, seen from outside."""
        return self.link(host, "/run/current-system") == system

    def activation_times(self, host: str) -> list[tuple[float, str]]:
        """When updates began to activate which systems, by the host's journal; the host may be off."""
        text = self.lab.journal(host, "--unit=lab-auto-update-activation.service", "--output=json")
        found = []
        for entry in map(json.loads, text.splitlines()):
            begun = re.search(r"^Starting .* - (\S+)/bin/switch-to-configuration test", str(entry["MESSAGE"]))
            if begun:
                found.append((int(entry["__REALTIME_TIMESTAMP"]) / 1e6, begun[1]))
        return found

    def boot_default(self, host: str) -> str | None:
        """The system that the boot loader starts by default, read from outside; C(None) while that is in motion."""
        chosen = re.search(r"^default\s+(\S+)", self.lab.read(host, "/boot/loader/loader.conf") or "", re.MULTILINE)
        entry = self.lab.read(host, f"/boot/loader/entries/{chosen[1]}") if chosen else None
        init = re.search(r"\sinit=(\S+)/init\b", entry or "")
        return init[1] if init else None

    def leftovers(self, host: str) -> str:
        """What is there, one a line, of all that only a change in progress needs."""
        script = (
            "systemctl list-units --all --plain --no-legend 'lab-auto-update-revert*' 'lab-auto-update-activation*';"
            "find /run/systemd -name 'lab-auto-update-revert*'; find /nix/var/nix/profiles -name 'lab-candidate*';"
            "cat /var/lib/firmware/efivars/LoaderEntryOneShot 2> /dev/null; true"
        )
        return self.lab.run(host, ["sh", "-c", script], check=True).stdout

    def own_flakes(self, *hosts: str) -> dict[str, str]:
        """A copy of the flake for each host, and all systems built: one flake has one night at a time."""
        systems = [f"/etc/nixos#nixosConfigurations.{host}.config.system.build.toplevel" for host in hosts]
        self.lab.run("builder", ["nix", "build", "--no-link", *systems], check=True, timeout=300)
        copies = {host: f"/srv/flakes/{host}" for host in hosts}
        script = "rm -rf /srv/flakes; for copy; do git clone --quiet --no-hardlinks /etc/nixos $copy || exit; done"
        self.lab.run("builder", ["sh", "-c", script, "sh", *copies.values()], check=True)
        return copies


class Meanwhile:
    """What happens to hosts while a night goes on; what goes wrong in it shows at the end of the block."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor()
        self._jobs: list[Future[Any]] = []

    def do(self, job: Callable[..., Any], *arguments: Any) -> Future[Any]:
        self._jobs.append(self._pool.submit(job, *arguments))
        return self._jobs[-1]

    def __enter__(self) -> Meanwhile:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for job in self._jobs:
            job.result()


def each(others: object, **hosts: object) -> str:
    """A setting that is not the same for all hosts."""
    return f"{{{{ {hosts!r}.get(inventory_hostname, {others!r}) }}}}"


def once_live(fleet: Fleet, host: str, system: str, job: Callable[[], object]) -> None:
    """Do something to a host at the moment at which a system has become the running one."""
    until(lambda: fleet.is_live(host, system), 240, f"{host} runs {system}", 0.02)
    job()


def untouched(before: Mapping[str, Host], after: Mapping[str, Host], hosts: Iterable[str]) -> bool:
    """Whether hosts run and would boot what they did, and have not rebooted."""
    return all(after[host] == before[host] for host in hosts)


def window_in(hours: int) -> str:
    """A window of an hour that opens so many hours from now."""
    now = datetime.now(UTC)
    return f"{now + timedelta(hours=hours):%H:%M}-{now + timedelta(hours=hours + 1):%H:%M} UTC"


def until(condition: Callable[[], bool], seconds: float, what: str = "", interval: float = 0.2) -> float:
    """Wait for a condition, and return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(interval)
    return time.monotonic() - began


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (task / "children").read_text().split())
