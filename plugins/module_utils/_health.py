# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Health: from what was observed on a host to a verdict on it. Pure.

Every function here takes the text that a program or file gave and returns checks. What cannot be understood raises
L(Unreadable), and the caller makes of it a check that failed: a host of which nothing is known is not healthy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable

Level = Literal["required", "wanted"]
Status = Literal["ok", "fail", "unknown"]

# without a synchronised clock a host still works; everything else stands for an outage
DEFAULT_LEVELS: Mapping[str, Level] = {"clock": "wanted"}
KINDS = (
    *("disk", "inodes", "boot", "systemd", "failed_units", "service", "uptime", "memory", "clock"),
    # whether it wants to be left alone
    *("sessions", "inhibitors", "busy", "updater", "hold"),
    # what the controller knows of a host, and what the owner wants to know
    *("window", "alerts", "check"),
)


@dataclass(frozen=True)
class Check:
    """One check and how it went. C(name) is a kind of L(KINDS), with C(:what) behind it where there are several."""

    name: str
    status: Status
    observed: str
    expected: str
    message: str
    level: Level = "required"

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    def as_result(self) -> dict[str, str]:
        return {
            "name": self.name,
            "level": self.level,
            "status": self.status,
            "observed": self.observed,
            "expected": self.expected,
            "message": self.message,
        }


def levels(given: Mapping[str, object]) -> dict[str, Level]:
    """Check the owner's levels: C({'clock': 'required', 'disk:/srv': 'wanted'})."""
    for name, level in given.items():
        if name.partition(":")[0] not in KINDS:
            raise LabError(f"levels names {name!r}, which is no check.", f"The kinds are {', '.join(KINDS)}.")
        if level not in ("required", "wanted"):
            raise LabError(f"levels has {level!r} for {name}.", "A level is required or wanted.")
    return {name: "required" if level == "required" else "wanted" for name, level in given.items()}


def healthy(checks: Collection[Check]) -> bool:
    """Whether every required check is ok, and there is at least one."""
    return bool(checks) and all(check.status == "ok" for check in checks if check.level == "required")


def complaint(checks: Sequence[Check]) -> str:
    """One sentence for all required checks that are not ok."""
    return " ".join(check.message for check in checks if check.level == "required" and check.status != "ok")


def graded(checks: Sequence[Check], levels: Mapping[str, Level]) -> list[Check]:
    """The checks with the owner's levels, given by name or by kind; the name wins."""
    return [
        replace(
            check, level=levels.get(check.name) or levels.get(check.kind) or DEFAULT_LEVELS.get(check.kind, "required")
        )
        for check in checks
    ]


def unknown(name: str, expected: str, why: str) -> Check:
    """A check that could not be made."""
    return Check(name, "unknown", "unknown", expected, f"{name} cannot be told: {why}")


def disk(mount: str, text: str, max_disk_percent: int, max_inode_percent: int) -> list[Check]:
    """Space and inodes, from C(df --output=target,pcent,ipcent MOUNT)."""
    _target, used, inodes = _row(text, 3)
    checks = [_percent(f"disk:{mount}", f"The file system of {mount}", "space", used, max_disk_percent)]
    if inodes == "-":
        # btrfs and ZFS make inodes as they need them
        checks.append(Check(f"inodes:{mount}", "ok", "not limited", f"at most {max_inode_percent} %", "Not limited."))
    else:
        what = f"The file system of {mount}"
        checks.append(_percent(f"inodes:{mount}", what, "inodes", inodes, max_inode_percent))
    return checks


def boot(mount: str, text: str, min_free: int) -> list[Check]:
    """Free space for kernels, from C(df --block-size=1M --output=target,avail MOUNT), if MOUNT is one."""
    target, free = _row(text, 2)
    if target != mount:
        return []
    number = _number(free)
    expected = f"at least {min_free} MiB free"
    ok = number >= min_free
    message = f"{mount} has {number} MiB free." if ok else f"{mount} has {number} MiB free, it needs {min_free} MiB."
    return [Check(f"boot:{mount}", "ok" if ok else "fail", f"{number} MiB free", expected, message)]


def systemd(text: str, failed: Sequence[str], excused: Collection[str]) -> list[Check]:
    """The state of the manager and of its units, from C(systemctl is-system-running) and the list of failed units.

    C(degraded) only says that units are failed, so it is good when all of them are excused.
    """
    state = text.strip().splitlines()[0] if text.strip() else ""
    if not state:
        raise Unreadable("systemctl is-system-running said nothing.")
    new = [unit for unit in failed if unit not in excused]
    fine = state == "running" or (state == "degraded" and not new)
    names = ", ".join(new)
    return [
        Check(
            "systemd",
            "ok" if fine else "fail",
            state,
            "running",
            f"systemd is {state}." if fine else f"systemd is {state}, not running.",
        ),
        Check(
            "failed_units",
            "fail" if new else "ok",
            names or "none",
            f"none but {', '.join(sorted(excused))}" if excused else "none",
            f"Failed units: {names}." if new else "No unit failed that is not excused.",
        ),
    ]


def services(names: Sequence[str], text: str) -> list[Check]:
    """Required services, from C(systemctl show --property=Id,LoadState,ActiveState,SubState NAMES)."""
    blocks = [block for block in text.strip().split("\n\n") if block.strip()]
    if len(blocks) != len(names):
        raise Unreadable(f"systemctl show gave {len(blocks)} units for {len(names)} names.")
    checks = []
    for name, block in zip(names, blocks, strict=True):
        state = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        active = state.get("ActiveState", "unknown")
        observed = "not found" if state.get("LoadState") == "not-found" else f"{active} ({state.get('SubState')})"
        ok = active == "active"
        checks.append(
            Check(f"service:{name}", "ok" if ok else "fail", observed, "active", f"The service {name} is {observed}.")
        )
    return checks


def uptime(uptime_text: str, stat_text: str, ticks: int, min_uptime: int) -> list[Check]:
    """How long PID 1 runs, in minutes, from C(/proc/uptime) and C(/proc/1/stat).

    C(/proc/uptime) alone is the kernel's, and wrong in a container.
    """
    try:
        # the name of the program is in brackets and may hold anything; starttime is field 22
        started = int(stat_text.rpartition(")")[2].split()[19]) / ticks
        seconds = float(uptime_text.split()[0]) - started
    except (IndexError, ValueError) as error:
        raise Unreadable(f"/proc/uptime or /proc/1/stat is not as proc(5) has it: {error}.") from error
    minutes = int(seconds // 60)
    ok = minutes >= min_uptime
    return [
        Check(
            "uptime",
            "ok" if ok else "fail",
            f"{minutes} min",
            f"at least {min_uptime} min",
            f"Up for {minutes} min." if ok else f"Up for {minutes} min only, {min_uptime} min are asked for.",
        )
    ]


def memory(text: str, min_memory: int) -> list[Check]:
    """Available memory in MiB, from C(/proc/meminfo)."""
    free = available_memory(text)
    if free is None:
        raise Unreadable("/proc/meminfo has no MemAvailable.")
    ok = free >= min_memory
    message = f"{free} MiB of memory are available"
    return [
        Check(
            "memory",
            "ok" if ok else "fail",
            f"{free} MiB",
            f"at least {min_memory} MiB",
            f"{message}." if ok else f"{message}, {min_memory} MiB are asked for.",
        )
    ]


def available_memory(text: str) -> int | None:
    """How many MiB can be had without swapping, by C(/proc/meminfo); C(None) where it does not say."""
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return _number(line.split()[1]) // 1024
    return None


def clock(text: str) -> list[Check]:
    """Whether the clock is synchronised, from C(timedatectl show --property=NTPSynchronized --value)."""
    word = text.strip()
    if word not in ("yes", "no"):
        raise Unreadable(f"timedatectl says {word!r}.")
    ok = word == "yes"
    observed = "synchronised" if ok else "not synchronised"
    return [Check("clock", "ok" if ok else "fail", observed, "synchronised", f"The clock is {observed}.")]


def _percent(name: str, what: str, of_what: str, text: str, limit: int) -> Check:
    used = _number(text.rstrip("%"))
    ok = used <= limit
    return Check(
        name,
        "ok" if ok else "fail",
        f"{used} %",
        f"at most {limit} %",
        f"{what} has {used} % of its {of_what} in use" + ("." if ok else f", the limit is {limit} %."),
    )


def _row(text: str, columns: int) -> list[str]:
    lines = text.strip().splitlines()
    # the mount point comes first and may hold blanks
    cells = lines[-1].rsplit(None, columns - 1) if len(lines) == 2 else []
    if len(cells) != columns:
        raise Unreadable(f"df printed {text.strip()!r}.")
    return cells


def _number(text: str) -> int:
    try:
        return int(text.strip())
    except ValueError as error:
        raise Unreadable(f"{text.strip()!r} is not a number.") from error
