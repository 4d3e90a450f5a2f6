"""Gates over random hosts: who is there counts, whatever the others are, and noise is never nobody."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from ansible_collections.homelab.nixos.plugins.module_utils import _gates
from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._gates import Session
from hypothesis import given
from hypothesis import strategies as st

NOW = 1795635999.0
OURS = Session("c9", "root", "user", "active", "tty", "", "sshd", "198.18.0.1", commands=("sshd-session", "sh"))
NAMES = st.sampled_from(["root", "kim", "backup"])
HOSTS = st.sampled_from(["198.18.0.1", "192.0.2.7", ""])
COMMANDS = st.lists(st.sampled_from(["sshd", "sshd-session", "bash", "rsync"]), max_size=4).map(tuple)
TIMES = st.one_of(st.none(), st.floats(NOW - 86400, NOW + 86400))
SESSIONS = st.builds(
    Session,
    id=st.sampled_from([f"c{number}" for number in range(9)]),
    user=NAMES,
    kind=st.sampled_from(["user", "user-early", "manager", "background", "greeter", "new"]),
    state=st.sampled_from(["active", "online", "opening", "closing"]),
    type=st.sampled_from(["tty", "x11", "wayland", "unspecified", ""]),
    remote_host=HOSTS,
    idle_hint=st.booleans(),
    idle_since=TIMES.map(lambda time: time or 0.0),
    terminals=st.sampled_from([(), ("pts/0",), ("pts/0", "pts/1")]),
    commands=COMMANDS,
    used=TIMES,
)


@given(st.lists(SESSIONS, max_size=8), NAMES, HOSTS, st.integers(0, 60))
def test_somebody_who_runs_a_shell_and_was_just_there_always_counts(
    others: list[Session], user: str, host: str, idle: int
):
    kim = Session("kim", user, "user", "active", "tty", "", "sshd", host, terminals=("pts/9",), commands=("bash",))
    ignored = {"root", "kim", "backup"} - {user}
    for used in (None, NOW - 60 * idle, NOW):
        found = _gates.people([*others, replace(kim, used=used), OURS], "c9", NOW, idle, ignored)
        assert "kim" in [session.id for session in found]
        assert "c9" not in [session.id for session in found]


@given(st.lists(SESSIONS, max_size=8), st.integers(0, 60))
def test_to_know_less_of_a_host_never_frees_it(found: list[Session], idle: int):
    known = _gates.people([*found, OURS], "c9", NOW, idle, ())
    blind = [replace(session, used=None, idle_since=0, idle_hint=False, commands=()) for session in found]
    ids = [session.id for session in _gates.people([*blind, OURS], "c9", NOW, idle, ())]
    assert all(session.id in ids for session in known)


@given(st.text(), st.sampled_from(["c9", None]))
def test_noise_in_place_of_sessions_and_inhibitors_is_never_nobody(text: str, own: str | None):
    with contextlib.suppress(Unreadable):
        # in a session of our own there is at least that one
        assert _gates.session_ids(text, own) or own is None
    for question in (
        lambda: _gates.described(text, ["c5"]),
        lambda: _gates.inhibitors(text),
        lambda: _gates.busy(["a.service"], text),
    ):
        with contextlib.suppress(Unreadable):
            question()
            raise AssertionError(f"{text!r} was understood")
