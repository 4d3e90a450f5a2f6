"""The live view at a terminal, and its plain lines elsewhere, with ansible-playbook on hosts that are this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.fleet import ROOT
from tests.integration.terminal import Terminal

# returns what it is given
SPEAK = """#!/usr/bin/python
# WANT_JSON
import json, sys
print(json.dumps(json.load(open(sys.argv[1]))["result"]))
"""
# the same for a task that runs here, which no host answers
TELL = """from ansible.plugins.action import ActionBase

class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        return self._task.args["result"]
"""
EVIL = "\x1b[2J\x1b]0;owned\x07\r\u202eover"
Task = Mapping[str, Any]
WEB = ("web",)


class Runs:
    """Playbooks in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "library").mkdir()
        (directory / "library/speak.py").write_text(SPEAK)
        (directory / "action").mkdir()
        (directory / "action/lab_status.py").write_text(TELL)
        self.away = directory / "ssh"
        self.away.write_text("#!/bin/sh\nexit 255\n")
        self.away.chmod(0o755)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_LIBRARY": str(directory / "library"),
            "ANSIBLE_ACTION_PLUGINS": str(directory / "action"),
            "ANSIBLE_STDOUT_CALLBACK": "homelab.nixos.night",
            "ANSIBLE_FORKS": "60",
            "LC_ALL": "C.UTF-8",
        }

    def argv(self, tasks: Sequence[Task], names: Sequence[str] = WEB, *options: str, **play: Any) -> list[str]:
        inventory = {
            "all": {
                "hosts": {
                    name: {"ansible_connection": "ssh", "ansible_ssh_executable": str(self.away)}
                    if name == "away"
                    else {"ansible_connection": "local"}
                    for name in names
                },
                "vars": {"ansible_python_interpreter": sys.executable},
            }
        }
        (self.directory / "hosts.json").write_text(json.dumps(inventory))
        plays = [{"name": "A play", "hosts": "all", "gather_facts": False, **play, "tasks": tasks}]
        (self.directory / "play.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
        program = str(Path(sys.executable).parent / "ansible-playbook")
        return [program, str(self.directory / "play.yml"), "-i", str(self.directory / "hosts.json"), *options]

    def piped(self, tasks: Sequence[Task], *arguments: Any, env: Mapping[str, str] | None = None, **play: Any):
        return subprocess.run(
            self.argv(tasks, *arguments, **play),
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def raw(name: str, command: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "ansible.builtin.raw": command, **more}


def say(text: str, **more: Any) -> Task:
    return {"name": "Say", "ansible.builtin.debug": {"msg": text}, **more}


def speak(name: str, result: Mapping[str, Any], **more: Any) -> Task:
    return {"name": name, "speak": {"result": result}, **more}


def tell(result: Mapping[str, Any], **more: Any) -> Task:
    return {"name": "Tell", "lab_status": {"result": result}, **more}


def night(outcome: str, reason: str = "", **more: Any) -> Task:
    note = {"outcome": outcome, "reason": reason, "ended": True, "decided": True}
    return {"name": "Note", "ansible.builtin.set_fact": {"lab_night": note}, **more}


def without_clock(text: str) -> list[str]:
    return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in text.splitlines()]


# ---- at a terminal ---------------------------------------------------------------------------------------------------


def test_each_host_has_a_line_while_it_is_busy_and_nothing_of_that_stays(runs: Runs):
    tasks = [say("first\nsecond", run_once=True), raw("Work hard", "sleep 5", changed_when=False), night("updated")]
    with Terminal(runs.argv(tasks, ("web", "nas")), runs.env) as terminal:
        screen = terminal.screen
        terminal.see(lambda: "web  Work hard" in screen.text() and "nas  Work hard" in screen.text())
        shown = screen.shown()
        assert shown[:2] == ["first", "second"]
        assert re.fullmatch(r"A play · \d:\d\d", shown[2])
        assert re.fullmatch(r"nas  Work hard  0:0[2-5]", shown[4]) and shown[5] == ""
        assert terminal.wait() == 0
    assert screen.text().splitlines() == ["first", "second", "Hosts: 2 well."]
    assert (screen.row, screen.column) == (3, 0)
    assert screen.wrapped == 0
    # nothing to be given back: the cursor was never hidden
    assert b"\x1b[?" not in terminal.raw


def test_a_host_shows_how_its_night_ended_and_the_batch_goes_on(runs: Runs):
    batches = [{"hosts": ["nas"]}, {"hosts": ["web"]}]
    tasks = [
        raw("Look", "true"),
        {"name": "Plan", "ansible.builtin.set_fact": {"lab_rollout_batches": batches}},
        night("held", "Its provider is in trouble.", when="inventory_hostname == 'nas'"),
        raw("Work hard", "sleep 4", when="inventory_hostname == 'web'"),
    ]
    with Terminal(runs.argv(tasks, ("nas", "web"), serial=1), runs.env) as terminal:
        terminal.see(lambda: "web  Work hard" in terminal.screen.text())
        title, nas = terminal.screen.text().splitlines()[:2]
        assert title.startswith("A play · batch 2 of 2 · ")
        assert nas == "nas  held"
        assert terminal.wait() == 0


def test_failures_warnings_and_hosts_that_are_away_stay_on_the_screen(runs: Runs):
    tasks = [
        speak("Warn", {"changed": False, "warnings": ["the disk is old"]}, run_once=True),
        raw("Work hard", "sleep 3"),
        {
            "name": "Give up",
            "ansible.builtin.fail": {"msg": "There is no more."},
            "when": "inventory_hostname == 'web'",
        },
    ]
    with Terminal(runs.argv(tasks, ("web", "nas", "away")), runs.env) as terminal:
        assert terminal.wait() == 4
    text = terminal.screen.text()
    assert "[WARNING]: the disk is old" in text
    assert re.search(r"^\d\d:\d\d:\d\d web: Give up failed: There is no more\.$", text, re.M)
    assert re.search(r"^\d\d:\d\d:\d\d away: .* unreachable: ", text, re.M)
    assert text.splitlines()[-1] == "Hosts: 1 changed, 1 failed, 1 unreachable."
    assert "A play" not in text


def test_sixty_hosts_fit_on_24_rows_and_those_who_wait_are_counted(runs: Runs):
    hosts = [f"host{number:02}" for number in range(60)]
    tasks = [
        raw("Look", "true", changed_when=False),
        night("updated", when="inventory_hostname < 'host40'"),
        raw("Work hard", "sleep 8", when="inventory_hostname >= 'host55'"),
    ]
    with Terminal(runs.argv(tasks, hosts), runs.env) as terminal:
        terminal.see(lambda: "host59  Work hard" in terminal.screen.text())
        shown = terminal.screen.shown()
        assert len(shown) <= 24 and shown[0].startswith("A play")
        assert [line.split()[0] for line in shown if "Work hard" in line] == hosts[55:]
        assert re.fullmatch(r"and \d\d others: 40 updated.*|and \d\d others: .*\d\d updated", shown[-2])
        assert terminal.wait() == 0
    assert terminal.screen.text().strip() == "Hosts: 55 well, 5 changed."


@pytest.mark.parametrize(("columns", "rows"), [(20, 6), (9, 3), (2, 1)])
def test_a_small_terminal_is_not_written_over(runs: Runs, columns: int, rows: int):
    tasks = [raw("Work very hard indeed", "sleep 4", changed_when=False)]
    hosts = ("a-host-with-quite-a-long-name", "web", "nas", "dev")
    with Terminal(runs.argv(tasks, hosts), runs.env, columns, max(rows, 3)) as terminal:
        terminal.see(lambda: terminal.screen.sequences > 12)
        wrapped = terminal.screen.wrapped
        assert terminal.wait() == 0
    assert wrapped == 0


def test_what_is_drawn_follows_the_size_of_the_terminal(runs: Runs):
    with Terminal(runs.argv([raw("Work very hard indeed", "sleep 8")]), runs.env) as terminal:
        terminal.see(lambda: "web  Work very hard indeed" in terminal.screen.text())
        terminal.resize(12, 24)
        terminal.see(lambda: "web  Work …" in terminal.screen.text())
        # what was drawn before has gone, with the lines into which the terminal had wrapped it
        assert len(terminal.screen.shown()) == 3
        assert all(len(line) < 12 for line in terminal.screen.shown())
        terminal.resize(80, 24)
        terminal.see(lambda: "web  Work very hard indeed" in terminal.screen.text())
        assert terminal.wait() == 0
    assert terminal.screen.text() == "Hosts: 1 changed.\n"


@pytest.mark.parametrize("end", ["typed", signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_interrupted_leaves_a_terminal_that_can_be_used(runs: Runs, end: Any):
    with Terminal(runs.argv([raw("Work hard", "sleep 60")]), runs.env) as terminal:
        terminal.see(lambda: "web  Work hard" in terminal.screen.text())
        if end == "typed":
            terminal.type("\x03")
        else:
            os.kill(terminal.process.pid, end)
        # 99 is what ansible-playbook ends with when it is interrupted
        assert terminal.wait() == (99 if end == "typed" else -end)
    assert b"\x1b[?" not in terminal.raw
    assert terminal.screen.column == 0
    if end == "typed":
        assert "User interrupted execution" in terminal.screen.text()
        assert "Work hard" not in terminal.screen.text()


def test_a_question_is_not_drawn_over(runs: Runs):
    tasks = [
        raw("Work hard", "sleep 3"),
        {"name": "Ask", "ansible.builtin.pause": {"prompt": "Go on"}, "register": "answer"},
        raw("Wait", "sleep 3"),
        say("You said {{ answer.user_input }}", run_once=True),
    ]
    with Terminal(runs.argv(tasks), runs.env) as terminal:
        terminal.see(lambda: "Go on:" in terminal.screen.text())
        drawn = terminal.screen.sequences
        # what is typed too early is thrown away
        terminal.see(lambda: "aaaaa" in terminal.screen.text(), typing="a")
        assert terminal.screen.sequences == drawn
        terminal.see(lambda: "You said a" in terminal.screen.text(), typing="\r")
        assert terminal.wait() == 0
    assert terminal.screen.sequences > drawn


def test_without_colours_there_are_none(runs: Runs):
    tasks = [raw("Work hard", "sleep 3"), {"name": "Give up", "ansible.builtin.fail": {"msg": "No."}}]
    with Terminal(runs.argv(tasks), runs.env) as coloured:
        assert coloured.wait() == 2
    with Terminal(runs.argv(tasks), {**runs.env, "NO_COLOR": "1"}) as plain:
        assert plain.wait() == 2
    assert re.search(rb"\x1b\[[0-9;]*m", coloured.raw)
    assert b"\x1b[J" in plain.raw and not re.search(rb"\x1b\[[0-9;]*m", plain.raw)


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"HOMELAB_NIXOS_VIEW": "lines"}])
def test_a_terminal_may_have_plain_lines_too(runs: Runs, env: Mapping[str, str]):
    with Terminal(runs.argv([raw("Work hard", "true")]), {**runs.env, **env}) as terminal:
        assert terminal.wait() == 0
    assert terminal.screen.sequences == 0
    assert without_clock(terminal.screen.text()) == ["web: Work hard", "Hosts: 1 changed."]


def test_what_hosts_say_moves_nothing_at_a_terminal(runs: Runs):
    tasks = [
        speak("Warn", {"changed": False, "warnings": [EVIL]}),
        say(EVIL),
        night(EVIL, EVIL),
        raw("Work hard", "sleep 3"),
        speak("Fail", {"failed": True, "msg": EVIL}),
    ]
    # the screen of the test refuses whatever a terminal would obey
    with Terminal(runs.argv(tasks), runs.env) as terminal:
        assert terminal.wait() == 2
    assert terminal.screen.text().count("\ufffd[2J") >= 3


# ---- elsewhere -------------------------------------------------------------------------------------------------------


def test_elsewhere_there_is_a_line_for_each_thing_that_happens(runs: Runs):
    tasks = [
        say("The plan\n  is long", run_once=True),
        raw("Work hard", "sleep 3"),
        raw("Never", "true", when=False),
        night("updated", when="inventory_hostname == 'web'"),
        night("held", "Its turn never came.", when="inventory_hostname == 'nas'"),
        {"name": "Show how the night went", "ansible.builtin.debug": {"msg": "A\n  summary"}, "run_once": True},
    ]
    done = runs.piped(tasks, ("web", "nas"))
    assert (done.returncode, done.stderr) == (0, "")
    lines = without_clock(done.stdout)
    assert lines[:2] == ["The plan", "  is long"]
    assert sorted(lines[2:4]) == ["nas: Work hard", "web: Work hard"]
    assert lines[4:] == ["web: updated", "nas: held. Its turn never came.", "A", "  summary"]
    assert re.match(r"\d\d:\d\d:\d\d ", done.stdout.splitlines()[2])


def test_a_step_is_told_while_it_goes_on(runs: Runs):
    argv = runs.argv([raw("Work hard", f"cat {runs.directory}/end")])
    os.mkfifo(runs.directory / "end")
    with subprocess.Popen(argv, env=runs.env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().endswith(" web: Work hard\n")
        # only now can it end
        (runs.directory / "end").write_text("")
        assert process.stdout.read() == "Hosts: 1 changed.\n"
    assert process.returncode == 0


def test_tasks_of_a_role_are_the_steps_that_they_are(runs: Runs):
    role = runs.directory / "roles/one/tasks"
    role.mkdir(parents=True)
    prove = {"name": "Prove what the host runs", "homelab.nixos.nixos_info": {}, "ignore_errors": True}
    (role / "main.yml").write_text(yaml.safe_dump([prove, raw("Work hard", "true")]))
    done = runs.piped([], WEB, roles=["one"])
    assert done.returncode == 0
    lines = without_clock(done.stdout)
    assert lines[0] == "web: verify" and "web: Work hard" in lines


def test_a_failure_is_told_with_its_sentence_when_it_happens_and_at_the_end(runs: Runs):
    tasks: list[dict[str, Any]] = [
        {"name": "Let it pass", "ansible.builtin.fail": {"msg": "Not so bad."}, "ignore_errors": True},
        {
            "name": "Items",
            "ansible.builtin.command": "sh -c {{ item | quote }}",
            "loop": ["true", "echo why >&2; exit 3"],
        },
    ]
    # nas goes on, so that much may have been said since
    tasks += [raw("Go on", "true")]
    tasks[1]["when"] = "inventory_hostname == 'web'"
    done = runs.piped(tasks, ("web", "nas"))
    assert done.returncode == 2
    lines = without_clock(done.stdout)
    assert "web: Let it pass failed, and the run goes on: Not so bad." in lines
    failed = "web: Items [echo why >&2; exit 3] failed: non-zero return code"
    assert lines.index("web: Items") < lines.index(failed)
    assert lines[-4:] == ["nas: Go on", failed, "  why", "Hosts: 1 changed, 1 failed."]
    assert lines.count(failed) == 2
    # and is not told twice when nothing was
    assert without_clock(runs.piped(tasks[:2]).stdout).count(failed) == 1


def test_a_task_that_is_tried_again_says_so_and_a_play_without_hosts_too(runs: Runs):
    tasks = [raw("Try", "exit 1", register="tried", until="tried is success", retries=1, delay=0)]
    done = runs.piped(tasks)
    assert done.returncode == 2
    lines = without_clock(done.stdout)
    assert "web: Try failed, and is tried again, 1 times at most: non-zero return code" in lines
    assert "web: Try failed: non-zero return code" in lines
    done = runs.piped(tasks, hosts="all:!all")
    assert (done.returncode, done.stdout) == (0, "A play: no host, nothing to do.\n")


def test_hosts_that_are_away_warnings_and_deprecations_are_told(runs: Runs):
    deprecation = {"msg": "That is old.", "version": "9.9", "collection_name": "homelab.nixos"}
    result = {"changed": False, "warnings": ["the disk is old"], "deprecations": [deprecation]}
    done = runs.piped([speak("Speak", result)], ("web", "away"))
    assert done.returncode == 4
    assert re.search(r"^\d\d:\d\d:\d\d away: Speak unreachable: ", done.stdout, re.M)
    assert "[WARNING]: the disk is old" in done.stderr
    assert "That is old." in done.stderr


def test_no_escape_sequence_is_ever_piped(runs: Runs):
    tasks = [
        speak("Warn", {"changed": False, "warnings": [EVIL], "diff": {"before": EVIL, "after": f"{EVIL}\n"}}),
        speak("Change", {"changed": True, "diff": {"before": EVIL, "after": f"{EVIL}\n"}}),
        say(EVIL),
        night("held", EVIL),
        speak(f"Fail {EVIL}", {"failed": True, "msg": EVIL, "stderr": EVIL}, ignore_errors=True),
        speak("Fail", {"failed": True, "msg": EVIL}, loop=[EVIL]),
    ]
    done = runs.piped(tasks, WEB, "--diff", env={"ANSIBLE_FORCE_COLOR": "", "TERM": "xterm"})
    assert done.returncode == 2
    for text in (done.stdout, done.stderr):
        assert all(letter == "\n" or letter.isprintable() for letter in text)
    assert done.stdout.count("[2J") >= 6


def test_what_is_not_to_be_logged_is_not_shown(runs: Runs):
    tasks = [
        speak("Hide", {"changed": True, "msg": "s3cret"}, no_log=True),
        speak("Hide all", {"failed": True, "msg": "s3cret"}, no_log=True, loop=["s3cret"], ignore_errors=True),
        speak("Hide that too", {"failed": True, "msg": "s3cret"}, no_log=True),
    ]
    done = runs.piped(tasks)
    assert done.returncode == 2
    assert "web: Hide that too failed: " in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


def test_a_text_is_printed_line_by_line_and_moves_nothing(runs: Runs):
    done = runs.piped([tell({"changed": False, "lab_text": f"NAME  STATE\nweb   {EVIL}"})])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("NAME  STATE\nweb   \ufffd[2J\ufffd]0;owned\ufffd \ufffdover\n")


def test_no_host_tells_people_anything_or_silences_the_run(runs: Runs):
    night_of = {"lab_night": {"outcome": "updated", "reason": "", "ended": True, "decided": True}}
    result = {"changed": False, "lab_text": "All is well.", "lab_only": True, "ansible_facts": night_of}
    done = runs.piped([speak("Look", result), say("A word"), night("lost")])
    assert done.returncode == 0
    lines = without_clock(done.stdout)
    # a step may be over before anybody is sure that it began
    assert lines[-3:] == ["web: A word", "web: lost", "Hosts: 1 well."]
    assert lines[:-3] in ([], ["web: Look"])


def test_a_text_that_is_to_be_the_only_one_is(runs: Runs):
    tasks = [
        raw("Look", "true"),
        say("A word"),
        {"name": "Let it pass", "ansible.builtin.fail": {"msg": "Not so bad."}, "ignore_errors": True},
        tell({"changed": False, "lab_text": '{"a": 1}', "lab_only": True}, run_once=True),
        {"name": "Give up", "ansible.builtin.fail": {"msg": "There is no more."}},
    ]
    done = runs.piped(tasks, vars={"__lab_quiet": True})
    assert done.returncode == 2
    assert done.stdout == '{"a": 1}\n'
    assert [line.split(": ", 1)[1] for line in without_clock(done.stderr)] == [
        "Let it pass failed, and the run goes on: Not so bad.",
        "Give up failed: There is no more.",
    ]
    # at a terminal too
    with Terminal(runs.argv(tasks[3:4], vars={"__lab_quiet": True}), runs.env) as terminal:
        assert terminal.wait() == 0
    assert terminal.raw == b'{"a": 1}\r\n'


def test_with_v_it_is_ansibles_own(runs: Runs):
    tasks = [say("A word"), night("updated"), {"name": "Give up", "ansible.builtin.fail": {"msg": "No."}}]
    ours = runs.piped(tasks, WEB, "-v")
    theirs = runs.piped(tasks, WEB, "-v", env={"ANSIBLE_STDOUT_CALLBACK": "default"})
    assert "PLAY RECAP" in theirs.stdout
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
