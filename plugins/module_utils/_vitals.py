# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take a host's vitals: run what L(_health) judges, with an end for every question."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.homelab.nixos.plugins.module_utils import _health, _host
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed, Run, check
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._health import Check, Level

_BOOT_MOUNTS = ("/boot", "/boot/efi", "/efi")
# how long a host has to stay healthy, at least, in seconds
_HOLD = 5.0
_POLL = 1.0


@dataclass(frozen=True)
class Wanted:
    """What a healthy host looks like; the options of lab_health_check, which documents them."""

    mounts: Sequence[str] = ("/",)
    max_disk_percent: int = 90
    max_inode_percent: int = 90
    min_boot_free: int = 16
    min_memory: int = 64
    min_uptime: int = 0
    services: Sequence[str] = ()
    ignored_units: Sequence[str] = ()
    baseline_units: Sequence[str] = ()
    levels: Mapping[str, Level] = field(default_factory=dict)
    timeout: float = 10


def examine(run: Run, wanted: Wanted, settle: float = 0, also: Callable[[], list[Check]] | None = None) -> list[Check]:
    """All checks, and those that C(also) makes. What C(settle) is, L(settled) says."""
    return settled(lambda: _health.graded([*_once(run, wanted), *(also() if also else [])], wanted.levels), settle)


def settled(look: Callable[[], list[Check]], settle: float) -> list[Check]:
    """Look until it is well. It has C(settle) seconds to become so, and has to stay so for a while.

    A unit that crashes, starts and crashes again looks well at times.
    """
    end = time.monotonic() + settle
    hold = min(_HOLD, settle / 2)
    well_since: float | None = None
    while True:
        checks = look()
        now = time.monotonic()
        if not _health.healthy(checks):
            well_since = None
            if now >= end:
                return checks
        else:
            well_since = now if well_since is None else well_since
            if now - well_since >= hold:
                return checks
        time.sleep(_POLL)


def _once(run: Run, wanted: Wanted) -> list[Check]:
    def ask(*argv: str) -> Completed:
        return run(argv, timeout=wanted.timeout)

    def text(*argv: str) -> str:
        return check(ask(*argv)).stdout

    def file(path: str) -> str:
        contents = _host.read_files(run, [path])
        if path not in contents:
            raise Unreadable(f"{path} cannot be read.")
        return contents[path]

    def disk(mount: str) -> list[Check]:
        answer = text("df", "--output=target,pcent,ipcent", "--", mount)
        return _health.disk(mount, answer, wanted.max_disk_percent, wanted.max_inode_percent)

    def boot(mount: str) -> list[Check]:
        exists = ask("test", "-e", mount)
        if exists.rc == 1:
            return []
        check(exists)
        answer = text("df", "--block-size=1M", "--output=target,avail", "--", mount)
        return _health.boot(mount, answer, wanted.min_boot_free)

    def systemd() -> list[Check]:
        # its exit code only repeats its word
        state = ask("systemctl", "is-system-running").stdout
        excused = {*wanted.ignored_units, *wanted.baseline_units}
        return _health.systemd(state, _host.failed_units(run), excused)

    def services() -> list[Check]:
        if not wanted.services:
            return []
        properties = "--property=Id,LoadState,ActiveState,SubState"
        return _health.services(wanted.services, text("systemctl", "show", properties, "--", *wanted.services))

    def uptime() -> list[Check]:
        ticks = int(text("getconf", "CLK_TCK"))
        return _health.uptime(file("/proc/uptime"), file("/proc/1/stat"), ticks, wanted.min_uptime)

    questions: list[tuple[str, str, Callable[[], list[Check]]]] = [
        *(
            (f"disk:{mount}", f"at most {wanted.max_disk_percent} %", lambda m=mount: disk(m))
            for mount in wanted.mounts
        ),
        *(
            (f"boot:{mount}", f"at least {wanted.min_boot_free} MiB free", lambda m=mount: boot(m))
            for mount in _BOOT_MOUNTS
        ),
        ("systemd", "running", systemd),
        ("service", "active", services),
        ("uptime", f"at least {wanted.min_uptime} min", uptime),
        (
            "memory",
            f"at least {wanted.min_memory} MiB",
            lambda: _health.memory(file("/proc/meminfo"), wanted.min_memory),
        ),
        (
            "clock",
            "synchronised",
            lambda: _health.clock(text("timedatectl", "show", "--property=NTPSynchronized", "--value")),
        ),
    ]
    checks: list[Check] = []
    for name, expected, question in questions:
        try:
            checks += question()
        except LabError as error:
            checks.append(_health.unknown(name, expected, str(error)))
    return checks
