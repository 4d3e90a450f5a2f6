"""The note of the run that is going on: who may go on beside it, what is no such note, and that no secret is in it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _run_lock
from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._run_lock import Holder
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import Process

PROCESS = Process(pid=4711, start=885421, boot_id="0b7a2c1d-6d9e-4f0a-8c3b-5e4d3c2b1a09", pid_namespace=4026531836)
HOLDER = Holder(
    run_id="20261122T020000Z-7f3a",
    controller="3f0a8d5f6a8f4e0c9d0b2f4f7a1c6e5d",
    controller_name="tower",
    machine="3f0a8d5f6a8f4e0c9d0b2f4f7a1c6e5d",
    process=PROCESS,
    began=1795312800,
    log="/var/log/nightly.log",
    command="ansible-playbook nightly.yml",
)


@pytest.mark.parametrize("holder", [HOLDER, replace(HOLDER, process=None, machine="", log="", command="")])
def test_what_was_written_is_read(holder: Holder):
    assert _run_lock.parse(_run_lock.dump(holder)) == holder


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0" * 400,
        "[]",
        "{}",
        _run_lock.dump(HOLDER)[:200],
        json.dumps({**HOLDER.as_result(), "version": 2}),
        json.dumps({**HOLDER.as_result(), "version": True}),
        json.dumps({**HOLDER.as_result(), "run_id": "../x"}),
        json.dumps({**HOLDER.as_result(), "log": None}),
        json.dumps({**HOLDER.as_result(), "began": -1}),
        json.dumps({**HOLDER.as_result(), "process": {"pid": 1}}),
    ],
)
def test_what_is_not_such_a_note_is_never_taken_for_one(text: str):
    with pytest.raises(Unreadable):
        _run_lock.parse(text)


@pytest.mark.parametrize(
    ("process", "is_dead", "expected"),
    [
        (replace(PROCESS, pid=1), True, "over"),
        (PROCESS, False, "own"),
        (replace(PROCESS, pid=1), False, "going_on"),
        (replace(PROCESS, start=1), False, "going_on"),
        (replace(PROCESS, pid_namespace=1), False, "unknown"),
        (replace(PROCESS, boot_id="another"), False, "unknown"),
        (None, False, "unknown"),
    ],
)
def test_a_run_goes_on_while_its_process_may_live_on_this_machine(
    process: Process | None, is_dead: bool, expected: str
):
    assert _run_lock.standing(replace(HOLDER, process=process), HOLDER, is_dead=is_dead) == expected


def test_where_processes_have_no_identity_nobody_can_tell():
    assert _run_lock.standing(HOLDER, replace(HOLDER, process=None), is_dead=False) == "unknown"


def test_who_is_refused_is_told_the_holder_its_start_and_its_log():
    told = str(_run_lock.Busy(HOLDER))
    for words in ("20261122T020000Z-7f3a", "tower", "4711", "2026-11-22 02:00:00 UTC", "/var/log/nightly.log", "kill"):
        assert words in told
    assert "It keeps no log." in str(_run_lock.Busy(replace(HOLDER, log="")))


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("ansible-playbook nightly.yml --limit web", "ansible-playbook nightly.yml --limit web"),
        ("ansible-playbook -e a=secret nightly.yml", "ansible-playbook -e *** nightly.yml"),
        ("ansible-playbook -ea=secret nightly.yml", "ansible-playbook -e *** nightly.yml"),
        ("ansible-playbook -be a=secret nightly.yml", "ansible-playbook -be *** nightly.yml"),
        ("ansible-playbook --extra-vars a=secret nightly.yml", "ansible-playbook --extra-vars *** nightly.yml"),
        ("ansible-playbook --extra-vars=a=secret nightly.yml", "ansible-playbook --extra-vars *** nightly.yml"),
        ("ansible-playbook --extra a=secret nightly.yml", "ansible-playbook --extra *** nightly.yml"),
        (
            "ansible-playbook -i https://user:secret@host/ nightly.yml",
            "ansible-playbook -i https://***@host/ nightly.yml",
        ),
    ],
)
def test_no_secret_of_a_command_line_is_written_down(command: str, shown: str):
    assert _run_lock.shown_command(command.split(" ")) == shown


def test_a_command_line_is_one_short_line():
    shown = _run_lock.shown_command(["ansible-playbook", "a\nb", "x" * 1000])
    assert shown.startswith("ansible-playbook a b xxx")
    assert shown.isprintable()
    assert len(shown) == 300
