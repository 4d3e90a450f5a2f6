"""Whether a host asks not to be touched, by what programs have really said on hosts with systemd 257 and 262."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _gates, _vitals
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._gates import Process, Session
from ansible_collections.homelab.nixos.plugins.module_utils._health import Check
from ansible_collections.homelab.nixos.plugins.module_utils._vitals import Wanted

# of Debian 13, on a kernel with both versions of control groups
CGROUP = """9:name=systemd:/
8:pids:/
1:cpu:/
0::/user.slice/user-0.slice/session-c9.scope
"""
LIST_257 = """c2    0 root  - 127 manager-early - no -
c4    0 root  - 153 user          - no -
c5 1000 admin - 162 user          - no -
c6 1000 admin - 170 manager       - no -
c8    0 root  - 193 user          - no -
c9    0 root  - 201 user          - no -
"""
LIST_262 = """c12    0 root  - 322 user          - no -
 c2    0 root  - 123 manager-early - no -
c20    0 root  - 770 user          - no -
"""
# the same of both; systemd 250 leaves out what is empty
SHOWN = """Id={id}
Name={user}
TTY=
RemoteHost=198.18.0.1
Service=sshd
Type=tty
Class=user
State=active
IdleHint=no
IdleSinceHint=0
"""
MANAGER = """Id={id}
Name={user}
TTY=
RemoteHost=
Service=systemd-user
Type=unspecified
Class={kind}
State=active
IdleHint=no
IdleSinceHint=0
"""
SHOW_257 = "\n".join(
    (
        MANAGER.format(id="c2", user="root", kind="manager-early"),
        SHOWN.format(id="c4", user="root"),
        SHOWN.format(id="c5", user="admin"),
        MANAGER.format(id="c6", user="admin", kind="manager"),
        SHOWN.format(id="c8", user="root"),
        SHOWN.format(id="c9", user="root"),
    )
)
# c4 runs systemd-inhibit, c5 has a terminal, c8 is `ssh -N`, c9 asks
PS = """?        systemd         0::/init.scope
?        (sd-pam)        0::/user.slice/user-0.slice/user@0.service/init.scope
?        sshd            0::/system.slice/sshd.service
?        sshd-session    0::/user.slice/user-0.slice/session-c4.scope
?        sshd-session    0::/user.slice/user-0.slice/session-c4.scope
?        systemd-inhibit 0::/user.slice/user-0.slice/session-c4.scope
?        sleep           0::/user.slice/user-0.slice/session-c4.scope
?        sshd-session    0::/user.slice/user-1000.slice/session-c5.scope
?        systemd         0::/user.slice/user-1000.slice/user@1000.service/init.scope
?        sshd-session    0::/user.slice/user-1000.slice/session-c5.scope
pts/0    sleep           0::/user.slice/user-1000.slice/session-c5.scope
?        sshd-session    0::/user.slice/user-0.slice/session-c8.scope
?        sshd-session    0::/user.slice/user-0.slice/session-c8.scope
?        sshd-session    0::/user.slice/user-0.slice/session-c9.scope
?        sshd-session    0::/user.slice/user-0.slice/session-c9.scope
?        bash            0::/user.slice/user-0.slice/session-c9.scope
?        ps              0::/user.slice/user-0.slice/session-c9.scope
"""
INHIBITORS = (
    '{"type":"a(ssssuu)","data":[[["shutdown","delayer","w","delay",0,759],["shutdown:sleep","Back up","nightly; with: '
    'odd [chars]","block",0,748],["shutdown:idle","weak","w","block-weak",0,768]]]}\n'
)
UNITS = """Id=web.service
ActiveState=active

Id=nope.service
ActiveState=inactive

Id=systemd-tmpfiles-clean.timer
ActiveState=active
"""
TYPED = 1795635939
NOW = TYPED + 60

US = Session("c9", "root", "user", "active", "tty", "", "sshd", "198.18.0.1", commands=("sshd-session", "bash", "ps"))
KIM = Session(
    *("c5", "kim", "user", "active", "tty", "", "sshd", "192.0.2.7"),
    terminals=("pts/0",),
    commands=("sshd-session", "bash"),
    used=TYPED,
)


def people(*others: Session, now: float = NOW, idle: int = 30, ignored: tuple[str, ...] = ()) -> list[str]:
    """Who counts beside us."""
    return [session.id for session in _gates.people([*others, US], "c9", now, idle, ignored)]


def recorded(idle: int = 30, now: float = NOW) -> list[Session]:
    ids = _gates.session_ids(LIST_257, "c9")
    found = _gates.processes(PS)
    used = _gates.last_used(f"{TYPED} /dev/pts/0\n")
    sessions = _gates.at_work(_gates.described(SHOW_257, ids), found, used)
    return _gates.people(sessions, _gates.own_session(CGROUP), now, idle, ())


def test_of_a_real_host_it_is_told_who_is_at_work_and_neither_we_nor_managers_count():
    found = recorded()
    assert [(session.id, session.user, session.terminals) for session in found] == [
        ("c4", "root", ()),
        ("c5", "admin", ("pts/0",)),
    ]
    (check,) = _gates.sessions(found, 30)
    assert (check.status, check.expected) == ("fail", "nobody within 30 min")
    assert check.message == "root (sshd, from 198.18.0.1), admin (pts/0, from 198.18.0.1) are logged in."
    # a command without a terminal is never idle, and a terminal is
    assert [session.id for session in recorded(now=TYPED + 1801)] == ["c4"]
    assert [session.id for session in recorded(now=TYPED + 1800)] == ["c4", "c5"]
    assert [session.id for session in recorded(idle=0, now=TYPED + 10**9)] == ["c4", "c5"]
    (well,) = _gates.sessions([], 0)
    assert (well.status, well.observed, well.expected) == ("ok", "nobody", "nobody")


def test_a_list_of_sessions_is_read_whatever_its_columns_are():
    assert _gates.session_ids(LIST_262, "c20") == ["c12", "c2", "c20"]
    assert _gates.session_ids("     3 1000 kim seat0 tty2 \n", None) == ["3"]
    assert _gates.session_ids("", None) == []


@pytest.mark.parametrize("text", ["", "\n", LIST_262])
def test_a_list_without_our_own_session_is_not_believed(text: str):
    with pytest.raises(Unreadable, match="does not list c9"):
        _gates.session_ids(text, "c9")


@pytest.mark.parametrize(
    ("text", "own"),
    [
        (CGROUP, "c9"),
        ("0::/user.slice/user-1000.slice/session-17.scope\n", "17"),
        ("0::/user.slice/user-0.slice/session-3.scope/inner\n", "3"),
        ("1:name=systemd:/user.slice/user-0.slice/session-3.scope\n0::/user.slice/user-0.slice/session-3.scope\n", "3"),
        ("0::/system.slice/sshd.service\n", None),
        # anybody may name a scope of their own so
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/session-3.scope\n", None),
    ],
)
def test_our_own_session_is_that_of_our_control_group(text: str, own: str | None):
    assert _gates.own_session(text) == own


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({}, True),
        ({"state": "online"}, True),
        ({"state": "opening"}, True),
        ({"state": "closing"}, False),
        *(({"kind": kind}, True) for kind in ("user", "user-early", "user-light", "user-incomplete", "unheard-of")),
        *(({"kind": kind}, False) for kind in ("greeter", "lock-screen", "background", "background-light", "manager")),
        ({"user": "backup"}, False),
    ],
)
def test_only_sessions_of_people_count_and_a_class_that_nobody_knows_may_be_one(change: dict, counts: bool):
    assert people(replace(KIM, **change), ignored=("backup",)) == (["c5"] if counts else [])


IDLE = 31 * 60
DESKTOP = replace(KIM, type="wayland", terminals=(), used=None)


@pytest.mark.parametrize(
    ("session", "counts"),
    [
        (replace(KIM, used=NOW - 1800), True),
        (replace(KIM, used=NOW - 1801), False),
        # where something keeps utmp, logind knows the terminal, and its hint has a limit of its own
        (replace(KIM, terminal="pts/0", idle_since=NOW - IDLE, used=NOW - IDLE), False),
        (replace(KIM, terminal="pts/0", idle_since=NOW - IDLE, used=NOW), True),
        (replace(KIM, terminals=(), used=None, idle_since=NOW - IDLE), False),
        (replace(KIM, terminals=(), used=None), True),
        # a terminal that does not tell, beside one that does
        (replace(KIM, terminals=("pts/0", "pts/1"), used=None, idle_since=NOW - IDLE), True),
        # what a clock that was set makes of it
        (replace(KIM, used=NOW + 9999), True),
        # of a desktop that is in use, the time is when it began to be
        (replace(DESKTOP, idle_since=NOW - IDLE), True),
        (replace(DESKTOP, idle_since=NOW - IDLE, idle_hint=True), False),
        (replace(DESKTOP, idle_since=NOW - 60, idle_hint=True), True),
        (replace(DESKTOP, idle_since=0, idle_hint=True), True),
    ],
)
def test_somebody_counts_until_it_is_known_that_they_are_idle(session: Session, counts: bool):
    assert people(session) == (["c5"] if counts else [])
    assert people(session, idle=0) == ["c5"]


KEPT = replace(US, id="c8", commands=("sshd-session", "sshd-session"))


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({}, False),
        ({"commands": ("sshd",)}, False),
        ({"commands": ("sshd-session", "sshd-session", "bash")}, True),
        ({"commands": ()}, True),
        ({"user": "kim"}, True),
        ({"remote_host": "192.0.2.7"}, True),
        ({"remote_host": ""}, True),
    ],
)
def test_a_connection_of_ours_in_which_nothing_runs_is_nobody_and_any_other_is_somebody(change: dict, counts: bool):
    assert people(replace(KEPT, **change)) == (["c8"] if counts else [])


def test_where_we_are_in_no_session_every_other_counts():
    local = replace(US, remote_host="")
    assert _gates.people([KEPT], None, NOW, 30, ()) == [KEPT]
    assert _gates.people([KEPT, local], "c9", NOW, 30, ()) == [KEPT]
    assert _gates.people([replace(KEPT, remote_host=""), local], "c9", NOW, 30, ()) != []


def test_a_terminal_that_is_gone_is_one_of_which_nobody_knows():
    found = [Process("c5", "pts/0", "bash"), Process("c5", "pts/1", "vi"), Process("c5", "", "sshd-session")]
    assert _gates.terminals(found) == ["/dev/pts/0", "/dev/pts/1"]
    both = {"/dev/pts/0": 5.0, "/dev/pts/1": 7.0}
    assert [session.used for session in _gates.at_work([KIM], found, both)] == [7.0]
    assert [session.used for session in _gates.at_work([KIM], found, {"/dev/pts/1": 7.0})] == [None]
    assert [session.used for session in _gates.at_work([KIM], [], {})] == [None]


def test_who_may_log_out_in_a_moment_has_no_terminal():
    program = replace(KIM, terminals=(), used=None)
    assert _gates.may_be_leaving([program])
    assert not _gates.may_be_leaving([program, KIM])
    assert not _gates.may_be_leaving([replace(program, terminal="tty1")])
    assert not _gates.may_be_leaving([])


def test_names_of_others_are_short_and_printable_in_a_sentence():
    (check,) = _gates.sessions([replace(KIM, user="k\x1b[31mim", remote_host="h" * 500)], 30)
    assert check.message.isprintable()
    assert len(check.message) < 200
    assert "k?[31mim" in check.message


def test_who_blocks_a_shutdown_is_named_and_a_delay_is_no_block():
    (check,) = _gates.inhibitors(INHIBITORS)
    assert check.message == (
        "Its shutdown is blocked by Back up (nightly; with: odd [chars], pid 748), weak (w, pid 768)."
    )
    assert check.status == "fail"
    assert _gates.inhibitors('{"type":"a(ssssuu)","data":[[]]}')[0].status == "ok"
    other = {"data": [[["sleep:idle", "a", "b", "block", 0, 1], ["shutdown", "a", "b", "new-mode", 0, 1]]]}
    assert _gates.inhibitors(json.dumps(other))[0].observed == "a (b, pid 1)"


def test_a_name_without_a_type_is_that_of_a_service():
    given = ["restic-*", "backup", "restic-*", "a.timer", "b.*", "user@1000", "x.y"]
    assert _gates.unit_names(given) == [
        *("restic-*.service", "backup.service", "a.timer", "b.*", "user@1000.service", "x.y.service"),
    ]


def test_a_unit_at_work_keeps_the_host_busy_and_one_that_is_not_there_does_not():
    names = ["web.service", "nope.service", "syst*.timer", "no*pe.service"]
    (check,) = _gates.busy(names, UNITS)
    assert check.message == "It is busy with systemd-tmpfiles-clean.timer (active), web.service (active)."
    assert _gates.busy(["nope.service"], "Id=nope.service\nActiveState=inactive\n")[0].status == "ok"
    # a pattern that matches nothing
    assert _gates.busy(["no*pe.service"], "")[0].status == "ok"


@pytest.mark.parametrize(
    ("state", "status"),
    [
        *((state, "fail") for state in ("active", "activating", "reloading", "deactivating", "refreshing")),
        *((state, "ok") for state in ("inactive", "failed")),
    ],
)
def test_a_unit_is_at_work_in_every_state_but_two(state: str, status: str):
    text = f"Id=a.timer\nActiveState={state}\n"
    assert _gates.busy(["a.timer"], text)[0].status == status
    assert _gates.updater(["a.timer"], text)[0].status == status


def test_another_updater_is_named_with_what_to_do_about_it():
    (check,) = _gates.updater(["nixos-upgrade.timer"], "Id=nixos-upgrade.timer\nActiveState=active\n")
    assert "nixos-upgrade.timer (active)" in check.message
    assert "system.autoUpgrade.enable = false" in check.message
    assert "lab_managed: false" in check.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Disk is being replaced.\nsecond line\n", "/h holds this host: Disk is being replaced."),
        ("", "/h holds this host, and gives no reason."),
        (" \n", "/h holds this host, and gives no reason."),
        ("\x1b[1mx\0y\n", "/h holds this host: ?[1mx?y."),
    ],
)
def test_a_file_holds_a_host_by_being_there_and_its_first_line_is_the_reason(text: str, words: str):
    (check,) = _gates.hold("/h", True, text)
    assert (check.status, check.message) == ("fail", words)
    assert _gates.hold("/h", False, "")[0].status == "ok"
    assert len(_gates.hold("/h", True, "x" * 5000)[0].message) < 300


@pytest.mark.parametrize(
    "question",
    [
        lambda: _gates.own_session(""),
        lambda: _gates.own_session("hello\n"),
        lambda: _gates.own_session(
            "1:name=systemd:/user.slice/user-0.slice/session-1.scope\n0::/user.slice/user-0.slice/session-2.scope\n"
        ),
        lambda: _gates.session_ids("c9 0 root\nCannot connect: no\n../x 1\n", "c9"),
        lambda: _gates.session_ids("\x1b[1mc9\n", None),
        lambda: _gates.described("", ["c5"]),
        lambda: _gates.described("hello\n", ["c5"]),
        lambda: _gates.described(SHOWN.format(id="c6", user="kim"), ["c5"]),
        lambda: _gates.described(SHOWN.format(id="c5", user=""), ["c5"]),
        lambda: _gates.described(SHOWN.format(id="c5", user="kim").replace("Class=user\n", ""), ["c5"]),
        lambda: _gates.described(SHOWN.format(id="c5", user="kim").replace("State=active\n", ""), ["c5"]),
        lambda: _gates.processes("hello\n"),
        *(
            lambda text=text: _gates.inhibitors(text)
            for text in (
                *("", "hello", "[]", "{}", '{"data":[]}', '{"data":[[],[]]}', '{"data":[[["shutdown"]]]}', "[" * 10000),
                *('{"data":[{"a":1}]}', '{"data":[[["shutdown","a","b",3,0,1]]]}', '{"data":["abc"]}', '{"data":null}'),
            )
        ),
        lambda: _gates.busy(["a.service"], ""),
        lambda: _gates.busy(["a.service"], "hello\n"),
        lambda: _gates.busy(["a*.service"], "Id=ab.service\n"),
    ],
)
def test_what_cannot_be_understood_is_never_nobody(question: Callable[[], object]):
    with pytest.raises(Unreadable):
        question()


def test_minutes_that_would_make_everybody_idle_are_refused():
    with pytest.raises(LabError, match="user_idle is -1"):
        Wanted(user_idle=-1)


class Host:
    """A host that gives recorded answers; C(ended) sessions are listed until they are asked for."""

    def __init__(self, **answers: str) -> None:
        self.answers = {
            "list-sessions": LIST_257,
            "cat": CGROUP,
            "ps": PS,
            "stat": f"{int(time.time()) - 60} /dev/pts/0\n",
        } | answers
        self.ended: list[str] = []
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, argv, **options) -> Completed:
        assert options == {"timeout": 7}
        self.asked.append(tuple(argv))
        if "show-session" in argv:
            ids = argv[argv.index("--") + 1 :]
            gone = [each for each in ids if each in self.ended]
            self.ended = []
            blocks = [block for block in SHOW_257.split("\n\n") if block.split("\n")[0][3:] in ids]
            return Completed(tuple(argv), 1 if gone else 0, "\n\n".join(blocks), "No session known" if gone else "")
        if argv[1:2] == ["list-sessions"] or argv[1:2] == ("list-sessions",):
            extra = "".join(f"{each} 0 kim - 1 user - no -\n" for each in self.ended)
            return Completed(tuple(argv), 0, self.answers["list-sessions"] + extra, "")
        return Completed(tuple(argv), 0, self.answers[argv[0]], "")


def asked(host: Host, **wanted) -> Check:
    """The check on sessions, as lab_health_check makes it."""
    return _vitals._sessions(lambda *argv: host(argv, timeout=7), Wanted(defer_for_users=True, **wanted))[0]


def test_a_session_that_ends_between_two_questions_is_asked_for_again():
    host = Host()
    host.ended = ["c77"]
    check = asked(host)
    assert check.observed == "root (sshd, from 198.18.0.1), admin (pts/0, from 198.18.0.1)"
    shows = [argv for argv in host.asked if "show-session" in argv]
    assert ["c77" in argv for argv in shows] == [True, False]


def test_sessions_that_end_all_the_time_or_cannot_be_shown_are_not_nobody(monkeypatch: pytest.MonkeyPatch):
    host = Host()

    def never_told(argv, **options) -> Completed:
        if "show-session" in argv:
            return Completed(tuple(argv), 1, "", "Failed to get session path: Connection timed out")
        return host(argv, **options)

    with pytest.raises(LabError, match="Connection timed out"):
        _vitals._sessions(lambda *argv: never_told(argv, timeout=7), Wanted())
    number = iter(range(1000))

    def always_others(argv, **options) -> Completed:
        if "list-sessions" in argv:
            return Completed(tuple(argv), 0, f"c9 0\nx{next(number)} 0\n", "")
        return never_told(argv, **options)

    with pytest.raises(Unreadable, match="Sessions ended"):
        _vitals._sessions(lambda *argv: always_others(argv, timeout=7), Wanted())


def test_a_program_that_is_done_is_given_a_moment_to_log_out(monkeypatch: pytest.MonkeyPatch):
    host = Host(ps=PS.replace("pts/0 ", "?     "))
    monkeypatch.setattr("time.sleep", lambda _seconds: host.answers.update({"list-sessions": "c9 0 root\n"}))
    assert asked(host).status == "ok"
    # and not a person with a terminal
    assert asked(Host()).status == "fail"


def test_the_gates_are_asked_only_when_they_are_wanted():
    seen: list[str] = []

    def silent(argv, **_options):
        seen.append(" ".join(argv))
        return Completed(tuple(argv), 124, "", "", timed_out=True, seconds=10)

    _vitals.examine(silent, Wanted())
    assert not any("loginctl" in argv or "busctl" in argv or "systemctl show" in argv for argv in seen)
    everything = Wanted(
        defer_for_users=True, defer_for_inhibitors=True, busy_units=["a"], other_updaters=["b"], hold_file="/h"
    )
    checks = {check.name: check.status for check in _vitals.examine(silent, everything)}
    gates = ("sessions", "inhibitors", "busy", "updater", "hold")
    assert {name: checks[name] for name in gates} == dict.fromkeys(gates, "unknown")


@pytest.mark.parametrize(
    ("rc", "words", "status"),
    [
        (0, "", "fail"),
        (1, "stat: cannot statx '/h': No such file or directory\n", "ok"),
        (1, "stat: cannot statx '/h': Permission denied\n", "unknown"),
        (1, "stat: cannot statx '/h/x': Not a directory\n", "unknown"),
        (124, "", "unknown"),
        (127, "timeout: failed to run command 'stat': No such file or directory\n", "unknown"),
    ],
)
def test_a_file_that_cannot_be_looked_for_is_not_one_that_is_not_there(rc: int, words: str, status: str):
    def run(argv, **_options):
        return Completed(tuple(argv), rc, "100", words)

    found = {check.name: check.status for check in _vitals.examine(run, Wanted(hold_file="/h"))}
    assert found["hold"] == status
