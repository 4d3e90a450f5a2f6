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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.conftest import run_module
from tests.lab import Lab
from tests.lab._system import open_within

ROOT = Path(__file__).parents[2]
TRANSACTION = "/var/lib/lab-auto-update/transaction.json"
LAST = "/var/lib/lab-auto-update/last.json"


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

    def wait(self, timeout: float = 600) -> Night:
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

    # ---- nights -----------------------------------------------------------------------------------------------------
    def begin(self, *arguments: str, playbook: str = "nightly.yml", **settings: Any) -> Running:
        """Start C(ansible-playbook) on the lab; C(settings) are extra variables."""
        command = [
            *(str(Path(sys.executable).parent / "ansible-playbook"), playbook, "-i", str(self.lab.inventory)),
            *arguments,
            *("-e", json.dumps(settings)),
        ]
        return Running(command, {**os.environ, "ANSIBLE_NOCOLOR": "1"})

    def begin_module(self, host: str, module: str, arguments: str, *options: str, **variables: Any) -> Running:
        """Start one module on one host, as C(ansible) does."""
        command = [
            *(str(Path(sys.executable).parent / "ansible"), host, "-i", str(self.lab.inventory), "-m", module),
            *("-a", arguments, *options, "-e", json.dumps(variables)),
        ]
        return Running(command, {**os.environ, "ANSIBLE_NOCOLOR": "1"})

    def night(self, *arguments: str, timeout: float = 600, **settings: Any) -> Night:
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
