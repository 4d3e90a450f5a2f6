# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who this controller is, and whether a run of it is dead. For action plugins, which run in a worker of the run."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.homelab.nixos.plugins.module_utils import _state, _transaction
from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._log import Log
from ansible_collections.homelab.nixos.plugins.module_utils._state import State
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import Process

MACHINE_ID = "/etc/machine-id"
# what role and NixOS module give the user of the nights
LOGS = "/var/log/lab-auto-update"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
# a process that is one of these has ended, and only its parent has not asked for it yet
_ENDED = ("Z", "X")


class Identity(NamedTuple):
    """This controller, its name for people, and the main process of this run; C(None) where that cannot be told."""

    controller: str
    name: str
    process: dict[str, int | str] | None


def identity(controller: object = None) -> Identity:
    """Who is asking: C(controller) when it is set, else this machine, by its host name where it has no machine id."""
    chosen = machine_id() or name() if controller in (None, "") else _transaction.controller_id(str(controller))
    # a worker's parent is the run itself
    found = process(os.getppid())
    return Identity(chosen, name(), None if found is None else asdict(found))


def machine_id() -> str | None:
    """The id of this machine, C(None) where it has none, as in many containers."""
    text = _read(MACHINE_ID).strip()
    return text if re.fullmatch(r"[0-9a-f]{32}", text) else None


def state_directory(setting: str = "") -> str:
    """Where this controller keeps what it has to remember: C(setting) when it is set, else root's or the user's."""
    return os.path.expandvars(os.path.expanduser(setting)) if setting else _state.directory_of_user()


def log(setting: str = "") -> Log:
    """The log of this controller: root's, the one that the service's user may write, or one in the state directory."""
    found = State(state_directory(setting)).log
    if os.geteuid() != 0 and os.access(LOGS, os.W_OK):
        found.path = os.path.join(LOGS, os.path.basename(found.path))
    return found


def name() -> str:
    """The host name of this machine, for people."""
    return re.sub(r"[^!-~]", "", platform.node())[:64] or "unnamed"


def boot_id() -> str:
    """The boot that this machine is in, empty when that cannot be told."""
    return _read(_BOOT_ID).strip()


def process(pid: int) -> Process | None:
    """The identity of a process that runs, C(None) when it cannot be told."""
    stat = _stat(pid)
    boot = boot_id()
    namespace = _pid_namespace()
    if stat is None or not boot or namespace is None:
        return None
    return Process(pid=pid, start=stat[1], boot_id=boot, pid_namespace=namespace)


def command(pid: int) -> list[str]:
    """The command line of a process, empty where it cannot be told."""
    return _read(f"/proc/{pid}/cmdline").rstrip("\0").split("\0")


def output(pid: int) -> str:
    """Where the output of a process can be read, empty where that is nowhere or cannot be told."""
    try:
        found = os.stat(f"/proc/{pid}/fd/1")
        target = os.readlink(f"/proc/{pid}/fd/1")
    except OSError:
        return ""
    # of a unit of systemd, which is in the journal; a shell within it inherits the variable, and has another output
    if os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}" and "INVOCATION_ID" in os.environ:
        return f"journalctl _SYSTEMD_INVOCATION_ID={os.environ['INVOCATION_ID']}"
    return target if target.startswith("/") and target != os.devnull else ""


def booted() -> float | None:
    """When this machine was booted, in Unix time."""
    found = re.search(r"^btime (\d+)$", _read("/proc/stat"), re.MULTILINE)
    return float(found[1]) if found else None


def is_dead(recorded: Mapping[str, Any] | None, *, same_machine: bool) -> bool:
    """Whether a process is certainly dead. C(same_machine): it ran on this machine, in this boot or in another."""
    try:
        was = _transaction.process(recorded)
    except Unreadable:
        return False
    boot = boot_id()
    if not boot:
        return False
    if was.boot_id != boot:
        return same_machine
    # a container's pids mean nothing outside of it
    return was.pid_namespace == _pid_namespace() and _is_gone(was)


def _is_gone(was: Process) -> bool:
    if not 0 < was.pid < 2**31:
        return False
    try:
        # also where /proc hides the processes of other users, which then only look gone
        os.kill(was.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    stat = _stat(was.pid)
    return stat is not None and (stat[0] in _ENDED or stat[1] != was.start)


def _stat(pid: int) -> tuple[str, int] | None:
    """The state of a process, and when it was started, in clock ticks since the boot."""
    # the program's name before it may hold anything
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (fields[0], int(fields[19])) if len(fields) > 19 else None


def _pid_namespace() -> int | None:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
