"""One guest's power supply and firmware: mounts its disks, starts what its boot loader says, again after a reboot.

Runs as a program of its own, in the lab's network namespace and a mount namespace of its own, until it is killed.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

REBOOT = 133


class Guest:
    """A guest's directory in the lab's state, and its disks while this process lives."""

    def __init__(self, settings_file: Path) -> None:
        settings = json.loads(settings_file.read_text())
        self.name: str = settings["host"]
        self.bridge: str = settings["bridge"]
        self.lower: list[str] = settings["lower"]
        self.seed: str = settings["boot"]
        self.boot_size: str = settings["boot_size"]
        self.groups = [Path(group) for group in settings["groups"]]
        self.directory = settings_file.parent
        self.root = self.directory / "root"
        self.boot = self.directory / "boot"
        self.variables = self.root / "var/lib/firmware/efivars"
        self.boots = 0

    def mount(self) -> None:
        """Put the disks together; the mounts are in this process's namespace and end with it."""
        upper, work = self.directory / "upper", self.directory / "work"
        options = f"lowerdir={':'.join(self.lower)},upperdir={upper},workdir={work}"
        self._run(
            "mount",
            "-t",
            "overlay",
            "overlay",
            "-o",
            f"{options},redirect_dir=off,metacopy=off,index=off,volatile",
            str(self.root),
        )
        self._run("mount", "-t", "tmpfs", "-o", f"size={self.boot_size},mode=755", "boot", str(self.boot))
        self._run("cp", "-a", f"{self.seed}/.", str(self.boot))
        # nspawn wants a file system of its own for what it shares with guests
        Path("/run/systemd/nspawn").mkdir(parents=True, exist_ok=True)
        self._run("mount", "-t", "tmpfs", "-o", "mode=755", "nspawn", "/run/systemd/nspawn")

    def _run(self, *argv: str) -> None:
        subprocess.run(argv, check=True)

    def _variable(self, name: str) -> str:
        try:
            return (self.variables / name).read_text().strip()
        except FileNotFoundError:
            return ""

    @staticmethod
    def _newest(names: Iterable[str]) -> list[str]:
        """The entry with the highest generation, as a list that is empty when there is none."""
        return sorted(names, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])[-1:]

    def _chosen(self, entries: Iterable[str]) -> str:
        """The entry that somebody picks at the console, this time only."""
        choice = self.directory / "choice"
        try:
            pattern = choice.read_text().strip()
        except FileNotFoundError:
            return ""
        choice.unlink()
        return next(iter(self._newest(fnmatch.filter(entries, pattern))), "")

    def choose(self) -> tuple[str, str]:
        """What the boot loader starts: the entry's id and the init it names; says why when there is nothing."""
        entries = {path.name: path for path in (self.boot / "loader/entries").glob("*.conf")}
        pattern = ""
        if not (self.root / "var/lib/firmware/without-one-shot").exists():
            pattern = self._variable("LoaderEntryOneShot")
            (self.variables / "LoaderEntryOneShot").unlink(missing_ok=True)
        # somebody at the console beats whatever is configured, once
        if chosen := self._chosen(entries):
            pattern = chosen
        if pattern not in entries:
            pattern = self._variable("LoaderEntryDefault")
        if not pattern:
            try:
                configuration = (self.boot / "loader/loader.conf").read_text()
            except FileNotFoundError:
                configuration = ""
            found = re.search(r"^default\s+(\S+)", configuration, re.MULTILINE)
            pattern = found.group(1) if found else ""
        matching = sorted(name for name in entries if fnmatch.fnmatchcase(name, pattern))
        # like systemd-boot: without a usable default the newest entry is started
        names = matching or self._newest(entries)
        if not names:
            raise LookupError("the boot file system has no entry")
        fields = dict(
            line.split(None, 1) for line in entries[names[0]].read_text().splitlines() if len(line.split(None, 1)) == 2
        )
        for field in ("linux", "initrd"):
            if field not in fields or not (self.boot / fields[field].lstrip("/")).is_file():
                raise LookupError(f"the {field} file of {names[0]} is missing")
        init = re.search(r"(?:^|\s)init=(\S+)", fields.get("options", ""))
        if not init or not os.path.lexists(self.root / init.group(1).lstrip("/")):
            raise LookupError(f"the init of {names[0]} does not exist")
        self.variables.mkdir(parents=True, exist_ok=True)
        (self.variables / "LoaderEntrySelected").write_text(names[0])
        return names[0], init.group(1)

    def record(self, phase: str, **more: object) -> None:
        """Tell the tool how the guest is."""
        state = {"phase": phase, "boots": self.boots, "since": time.time(), **more}
        temporary = self.directory / "state.json.new"
        temporary.write_text(json.dumps(state))
        temporary.rename(self.directory / "state.json")

    def power(self) -> bool:
        """Whether the power switch is on."""
        return (self.directory / "power").read_text().strip() == "on"

    def power_off(self) -> None:
        (self.directory / "power").write_text("off\n")

    def run_once(self, console: int) -> int | None:
        """One boot, from the loader to the end of the machine; None when the loader found nothing to start."""
        try:
            entry, init = self.choose()
        except (LookupError, OSError) as error:
            os.write(console, f"boot loader: {error}\n".encode())
            self.record("hung", reason=str(error))
            return None
        self.boots += 1
        os.write(console, f"boot loader: {entry}\n".encode())
        # the kernel takes its time with the cable of a machine that was killed
        subprocess.run(["ip", "link", "delete", f"vb-{self.name}"], stderr=subprocess.DEVNULL, check=False)

        # a control group that was killed once kills what is forked from it into new ones, so every boot has its own
        for group in self.groups:
            for directory, _, _ in os.walk(group / "guest", topdown=False):
                os.rmdir(directory)

        def enter() -> None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
            for group in self.groups:
                (group / "guest").mkdir(exist_ok=True)
                (group / "guest" / "cgroup.procs").write_text(str(os.getpid()))

        process = subprocess.Popen(
            [
                "systemd-nspawn",
                f"--directory={self.root}",
                f"--machine={self.name}",
                f"--hostname={self.name}",
                "--register=no",
                "--keep-unit",
                "--settings=no",
                "--console=pipe",
                "--link-journal=no",
                "--resolv-conf=off",
                "--timezone=off",
                f"--network-bridge={self.bridge}",
                f"--bind={self.boot}:/boot",
                "--quiet",
                init,
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            preexec_fn=enter,
            env={"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )
        self.record("running", nspawn=process.pid, entry=entry)
        return process.wait()

    def supervise(self) -> None:
        """Boot while the power is on."""
        console = os.open(self.directory / "console.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        # the power switch was moved: kept pending until it is waited for, so it cannot be missed
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        while True:
            while not self.power():
                signal.sigwait([signal.SIGUSR1])
            ended = self.run_once(console)
            if ended is None:
                signal.sigwait([signal.SIGUSR1])
            elif ended != REBOOT:
                if self.power() and ended > 0:
                    os.write(console, f"systemd-nspawn ended with {ended}\n".encode())
                self.power_off()
            if not self.power():
                self.record("stopped", reason="" if ended is None else f"ended with {ended}")


if __name__ == "__main__":
    guest = Guest(Path(sys.argv[1]))
    guest.mount()
    guest.supervise()
