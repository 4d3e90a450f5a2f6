# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take a host's vitals: run what L(_health) judges, with an end for every question."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.homelab.nixos.plugins.module_utils import _gates, _health, _host
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed, Run, check
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._health import Check, Level

_BOOT_MOUNTS = ("/boot", "/boot/efi", "/efi")
# how long a host has to stay healthy, at least, in seconds
_HOLD = 5.0
_POLL = 1.0
# how long a session may take to end when its program has, in seconds
_LEAVING = 3.0
_LEAVING_POLL = 0.25
# how often sessions are asked for again that ended between two questions
_TRIES = 5
_LOGIN1 = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
_NO_SUCH_FILE = "No such file or directory"

# a question to the host, with its end
_Ask = Callable[..., Completed]


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
    defer_for_users: bool = False
    user_idle: int = 30
    ignored_users: Sequence[str] = ()
    defer_for_inhibitors: bool = False
    busy_units: Sequence[str] = ()
    other_updaters: Sequence[str] = ()
    hold_file: str | None = None

    def __post_init__(self) -> None:
        _gates.checked_minutes(self.user_idle)


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

    def units(names: Sequence[str], judge: Callable[[Sequence[str], str], list[Check]]) -> list[Check]:
        typed = _gates.unit_names(names)
        return judge(typed, text("systemctl", "show", "--property=Id,ActiveState", "--", *typed))

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
    if wanted.defer_for_users:
        questions.append(("sessions", "nobody", lambda: _sessions(ask, wanted)))
    if wanted.defer_for_inhibitors:
        bus = ("busctl", "--json=short", "call", *_LOGIN1, "ListInhibitors")
        questions.append(("inhibitors", "none", lambda: _gates.inhibitors(text(*bus))))
    if wanted.busy_units:
        questions.append(("busy", "none at work", lambda: units(wanted.busy_units, _gates.busy)))
    if wanted.other_updaters:
        questions.append(("updater", "none", lambda: units(wanted.other_updaters, _gates.updater)))
    if wanted.hold_file:
        questions.append(("hold", "not held", lambda: _hold(ask, str(wanted.hold_file))))
    checks: list[Check] = []
    for name, expected, question in questions:
        try:
            checks += question()
        except LabError as error:
            checks.append(_health.unknown(name, expected, str(error)))
    return checks


def _sessions(ask: _Ask, wanted: Wanted) -> list[Check]:
    """Programs that are about to log out are given a moment for that."""
    end = time.monotonic() + _LEAVING
    while True:
        own = _gates.own_session(check(ask("cat", "/proc/self/cgroup")).stdout)
        found = _logged_in(ask, own)
        listed = check(ask("ps", "-e", "-ww", "-o", "tty=", "-o", "comm:15=", "-o", "cgroup="))
        processes = _gates.processes(listed.stdout)
        devices = _gates.terminals(processes)
        # a terminal that is gone by now has no time
        used = _gates.last_used(ask("stat", "--format=%X %n", "--", *devices).stdout) if devices else {}
        people = _gates.people(
            _gates.at_work(found, processes, used), own, time.time(), wanted.user_idle, wanted.ignored_users
        )
        if not _gates.may_be_leaving(people) or time.monotonic() >= end:
            return _gates.sessions(people, wanted.user_idle)
        time.sleep(_LEAVING_POLL)


def _logged_in(ask: _Ask, own: str | None) -> list[_gates.Session]:
    """All sessions, also while some begin and end."""

    def listed() -> list[str]:
        done = check(ask("loginctl", "list-sessions", "--no-legend", "--no-pager"))
        return _gates.session_ids(done.stdout, own)

    properties = [f"--property={name}" for name in _gates.SESSION_PROPERTIES]
    ids = listed()
    for _try in range(_TRIES):
        if not ids:
            return []
        shown = ask("loginctl", "show-session", "--no-pager", *properties, "--", *ids)
        if shown.ok:
            return _gates.described(shown.stdout, ids)
        before, ids = ids, listed()
        if set(before) <= set(ids):
            # none of them has ended, so that was not why
            check(shown)
    raise Unreadable(f"Sessions ended {_TRIES} times while loginctl was asked for them.")


def _hold(ask: _Ask, path: str) -> list[Check]:
    # of the name itself: a link that leads nowhere holds, too
    found = ask("stat", "--format=%F", "--", path)
    # a host without the program says the same words, with another exit code
    if not found.ok and not (found.rc == 1 and found.stderr.strip().endswith(_NO_SUCH_FILE)):
        check(found)
    # that the reason cannot be read does not make it a host that is not held
    return _gates.hold(path, found.ok, ask("head", "--bytes=1024", "--", path).stdout if found.ok else "")
