# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Gates: whether a host asks not to be touched now, from what its programs say. Pure.

As in L(_health), what cannot be understood raises L(Unreadable), and the caller makes of it a check that failed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._health import Check

# of which a host is asked, each once: a list is not understood by loginctl of systemd 250
SESSION_PROPERTIES = (
    *("Id", "Name", "Class", "State", "Type", "TTY", "Service", "RemoteHost"),
    *("IdleHint", "IdleSinceHint"),
)
# classes of sessions that are nobody's; all others, new ones too, may be somebody's
_NOBODYS = frozenset({"manager", "manager-early", "background", "background-light", "greeter", "lock-screen", "none"})
# what is left of a connection over ssh in which nothing runs
_SSHD = frozenset({"sshd", "sshd-session", "sshd-auth"})
_SCOPE = re.compile(r"/user-\d+\.slice/session-([A-Za-z0-9]+)\.scope(?=[/,]|$)")
_SESSION_ID = re.compile(r"[A-Za-z0-9]{1,64}")
_CGROUP_LINE = re.compile(r"\d+:[^:]*:/.*")
# terminal, name and control groups of a process
_PROCESS = re.compile(r"(\S+)\s+(.*?)\s*(\d+:[^:]*:.*|-)")
_UNIT_TYPES = frozenset(
    {"service", "socket", "target", "device", "mount", "automount", "swap", "timer", "path", "slice", "scope"}
)
_RESTING = ("inactive", "failed")
_GLOB = frozenset("*?[")


@dataclass(frozen=True)
class Session:
    """Somebody, or something, that is logged in.

    C(idle_since) is Unix time and 0 when it is not known; C(used) when one of C(terminals) was used last. C(terminals)
    and C(commands) are those of its processes.
    """

    id: str
    user: str
    kind: str
    state: str
    type: str = ""
    terminal: str = ""
    service: str = ""
    remote_host: str = ""
    idle_hint: bool = False
    idle_since: float = 0
    terminals: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    used: float | None = None


@dataclass(frozen=True)
class Process:
    """A process of a session; C(terminal) is empty when it has none."""

    session: str
    terminal: str
    command: str


def checked_minutes(minutes: int) -> int:
    """Return C(minutes) if somebody may be idle for so long."""
    if minutes < 0:
        # else nobody would ever count
        raise LabError(f"user_idle is {minutes}.", "Set it to a number of minutes, or to 0 for never.")
    return minutes


def own_session(text: str) -> str | None:
    """The id of the session in which a process runs, from its C(/proc/PID/cgroup); C(None) outside of any."""
    lines = text.splitlines()
    if not lines or not all(_CGROUP_LINE.fullmatch(line) for line in lines):
        raise Unreadable(f"/proc/self/cgroup holds {plain(text)!r}.")
    found = {match[1] for line in lines for match in _SCOPE.finditer(line)}
    if len(found) > 1:
        raise Unreadable(f"/proc/self/cgroup names the sessions {', '.join(sorted(found))}, and there can be only one.")
    return found.pop() if found else None


def session_ids(text: str, own: str | None) -> list[str]:
    """The ids of all sessions, from C(loginctl list-sessions --no-legend). An answer without C(own) is not believed."""
    found = [line.split()[0] for line in text.splitlines() if line.strip()]
    wrong = [each for each in found if not _SESSION_ID.fullmatch(each)]
    if wrong:
        raise Unreadable(f"loginctl list-sessions printed {plain(text)!r}.")
    if own is not None and own not in found:
        raise Unreadable(f"loginctl list-sessions does not list {own}, the session in which this check runs.")
    return found


def described(text: str, ids: Collection[str]) -> list[Session]:
    """The sessions C(ids), from C(loginctl show-session) with L(SESSION_PROPERTIES)."""
    found = []
    for values in _blocks(text):
        missing = [name for name in ("Id", "Name", "Class", "State") if not values.get(name)]
        if missing:
            raise Unreadable(f"loginctl show-session tells of a session no {', '.join(missing)}: {plain(text)!r}.")
        since = values.get("IdleSinceHint", "")
        found.append(
            Session(
                id=values["Id"],
                user=values["Name"],
                kind=values["Class"],
                state=values["State"],
                type=values.get("Type", ""),
                terminal=values.get("TTY", ""),
                service=values.get("Service", ""),
                remote_host=values.get("RemoteHost", ""),
                idle_hint=values.get("IdleHint") == "yes",
                idle_since=int(since) / 1e6 if since.isascii() and since.isdigit() else 0,
            )
        )
    if sorted(session.id for session in found) != sorted(ids):
        raise Unreadable(
            f"loginctl show-session was asked for {', '.join(ids) or 'nothing'}, and says {plain(text)!r}."
        )
    return found


def processes(text: str) -> list[Process]:
    """The processes of all sessions, from C(ps -e -ww -o tty= -o comm:15= -o cgroup=)."""
    found = []
    for line in text.splitlines():
        match = _PROCESS.fullmatch(line.strip())
        if match is None:
            raise Unreadable(f"ps printed {plain(line)!r}.")
        terminal, command, groups = match.groups()
        scope = _SCOPE.search(groups)
        if scope is not None:
            found.append(Process(scope[1], "" if terminal == "?" else terminal, command))
    return found


def terminals(found: Sequence[Process]) -> list[str]:
    """The devices of all terminals that the processes have."""
    return sorted({f"/dev/{process.terminal}" for process in found if process.terminal})


def last_used(text: str) -> dict[str, float]:
    """When somebody typed on each of the terminals, from C(stat --format='%X %n')."""
    found = {}
    for line in text.splitlines():
        when, _blank, device = line.partition(" ")
        if when.isascii() and when.isdigit():
            found[device] = float(when)
    return found


def at_work(found: Sequence[Session], all_processes: Sequence[Process], used: Mapping[str, float]) -> list[Session]:
    """The sessions with what their processes tell of them.

    Where no program keeps utmp any more, logind does not know the terminal of a login over ssh.
    """
    complete = []
    for session in found:
        mine = [process for process in all_processes if process.session == session.id]
        devices = terminals(mine)
        complete.append(
            replace(
                session,
                terminals=tuple(device.removeprefix("/dev/") for device in devices),
                commands=tuple(process.command for process in mine),
                # of a terminal that does not tell, nobody knows that it was not used
                used=max(used[device] for device in devices) if devices and used.keys() >= set(devices) else None,
            )
        )
    return complete


def people(
    found: Sequence[Session], own: str | None, now: float, user_idle: int, ignored: Collection[str]
) -> list[Session]:
    """Those of the sessions in which somebody may be at work: not C(own), and no other connection of ours."""
    ours = next((session for session in found if session.id == own), None)
    return [
        session
        for session in found
        if session.id != own
        and session.kind not in _NOBODYS
        and session.state != "closing"
        and session.user not in ignored
        and not _is_kept(session, ours)
        and not _is_idle(session, now, user_idle)
    ]


def may_be_leaving(found: Sequence[Session]) -> bool:
    """Whether there are sessions, and none of them has a terminal: programs log out when they are done."""
    return bool(found) and not any(session.terminals or session.terminal for session in found)


def sessions(found: Sequence[Session], user_idle: int) -> list[Check]:
    """The check on the sessions of L(people)."""
    names = ", ".join(_who(session) for session in found)
    verb = "is" if len(found) == 1 else "are"
    return [
        Check(
            "sessions",
            "fail" if found else "ok",
            names or "nobody",
            f"nobody within {user_idle} min" if user_idle else "nobody",
            f"{names} {verb} logged in." if found else "Nobody is logged in who counts.",
        )
    ]


def inhibitors(text: str) -> list[Check]:
    """Who blocks a shutdown, from C(ListInhibitors) of logind as C(busctl --json=short) prints it."""
    try:
        (entries,) = json.loads(text)["data"]
        found = [_inhibitor(entry) for entry in entries]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Unreadable(f"busctl printed {plain(text)!r} for the list of inhibitors.") from error
    # what is not only a delay blocks, whatever it will be called
    blocking = [who for what, who, mode in found if "shutdown" in what.split(":") and mode != "delay"]
    names = ", ".join(blocking)
    return [
        Check(
            "inhibitors",
            "fail" if blocking else "ok",
            names or "none",
            "none",
            f"Its shutdown is blocked by {names}." if blocking else "Nothing blocks its shutdown.",
        )
    ]


def unit_names(given: Sequence[str]) -> list[str]:
    """Names and patterns of units, each once and with a type: C(restic-*) would be their timers, too."""
    return list(dict.fromkeys(name if _has_type(name) else f"{name}.service" for name in given))


def busy(names: Sequence[str], text: str) -> list[Check]:
    """Units during which the host is left alone, from C(systemctl show --property=Id,ActiveState NAMES)."""
    observed = _at_work(names, text)
    return [
        Check(
            "busy",
            "fail" if observed else "ok",
            observed or "none at work",
            "none at work",
            f"It is busy with {observed}." if observed else "No unit is at work that keeps it busy.",
        )
    ]


def updater(names: Sequence[str], text: str) -> list[Check]:
    """Units that update the host as well, from the same as L(busy)."""
    observed = _at_work(names, text)
    return [
        Check(
            "updater",
            "fail" if observed else "ok",
            observed or "none",
            "none",
            f"Something else updates this host: {observed}. Disable it there (system.autoUpgrade.enable = false;"
            " services.comin.enable = false;), or leave the host to it with lab_managed: false."
            if observed
            else "Nothing else updates this host.",
        )
    ]


def hold(path: str, exists: bool, text: str) -> list[Check]:
    """Whether the file C(path) holds the host; C(text) is how it begins."""
    if not exists:
        return [Check("hold", "ok", "not held", "not held", f"There is no {path}.")]
    lines = text.splitlines()
    reason = plain(lines[0].strip(), 200) if lines else ""
    said = f": {reason.rstrip('.')}." if reason else ", and gives no reason."
    return [Check("hold", "fail", reason or "held", "not held", f"{path} holds this host{said}")]


def plain(text: str, most: int = 80) -> str:
    """Words of others for a sentence of ours: printable, and not too many."""
    short = text if len(text) <= most else f"{text[: most - 3]}..."
    return "".join(each if each.isprintable() else "?" for each in short)


def _blocks(text: str) -> list[dict[str, str]]:
    """What C(show) of systemd's programs prints: one property on a line, an empty line between two things."""
    blocks = [block for block in text.split("\n\n") if block.strip()]
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]


def _is_kept(session: Session, ours: Session | None) -> bool:
    """Whether nothing runs in it but the ssh server, for the same user and from the same address as our own session.

    Ansible keeps connections open, and one that broke on the way stays open on this side for hours.
    """
    return (
        ours is not None
        and bool(ours.remote_host)
        and (session.user, session.remote_host) == (ours.user, ours.remote_host)
        and bool(session.commands)
        and _SSHD.issuperset(session.commands)
    )


def _is_idle(session: Session, now: float, user_idle: int) -> bool:
    """Whether nobody has used it for more than C(user_idle) minutes; 0 is never, and what is not known is no."""
    since = session.idle_since
    if session.type == "tty":
        # logind says when its terminal was used last, whatever the hint; a multiplexed connection has several
        since = max(since, session.used or 0)
        if session.terminals and session.used is None:
            since = 0
    elif not session.idle_hint:
        # of a desktop it says when the hint has changed
        since = 0
    return user_idle > 0 and since > 0 and now - since > 60 * user_idle


def _who(session: Session) -> str:
    terminal = "+".join(session.terminals) or session.terminal or session.service
    details = [plain(terminal, 40), f"from {plain(session.remote_host, 60)}" if session.remote_host else ""]
    said = ", ".join(each for each in details if each)
    return f"{plain(session.user, 40)} ({said})" if said else plain(session.user, 40)


def _inhibitor(entry: Sequence[object]) -> tuple[str, str, str]:
    """What is inhibited, by whom and why, and how."""
    what, who, why, mode, _uid, pid = entry
    if not (isinstance(what, str) and isinstance(mode, str) and isinstance(pid, int)):
        raise TypeError("an inhibitor is four strings and two numbers")
    return what, f"{plain(str(who), 40)} ({plain(str(why))}, pid {pid})", mode


def _has_type(name: str) -> bool:
    suffix = name.rpartition(".")[2]
    return "." in name and (suffix in _UNIT_TYPES or bool(_GLOB & set(suffix)))


def _at_work(names: Sequence[str], text: str) -> str:
    """The units that are neither inactive nor failed, with their states; empty when there are none.

    A unit that is not there is inactive.
    """
    found = _blocks(text)
    # a pattern may match nothing
    least = len([name for name in names if not _GLOB & set(name)])
    if len(found) < least or not all(unit.get("Id") and unit.get("ActiveState") for unit in found):
        raise Unreadable(f"systemctl show was asked for {plain(' '.join(names))}, and says {plain(text)!r}.")
    units = sorted(
        (plain(unit["Id"]), plain(unit["ActiveState"])) for unit in found if unit["ActiveState"] not in _RESTING
    )
    return ", ".join(f"{unit} ({state})" for unit, state in units)
