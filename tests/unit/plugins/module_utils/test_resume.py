"""What a controller leaves for the boot of its own host: whole, and nothing that a shell could take for more."""

from __future__ import annotations

import json

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _resume
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError

PROGRAM = "/nix/store/6gdlyhmzz1a91wyqc0sfzp8d45chxcv5-ansible-core-2.19.4/bin/ansible-playbook"
LEFT = {"argv": [PROGRAM, "homelab.nixos.resume"], "environment": {"PATH": "/bin"}, "night": {"target": "x"}}


@pytest.mark.parametrize(
    ("host", "own", "expected"), [("a-1", "a-1", True), ("a-1", "b-2", False), ("", "", False), (None, "", False)]
)
def test_a_host_is_the_controller_when_both_are_in_the_same_boot(host: object, own: str, expected: bool):
    assert _resume.is_controller(host, own) is expected


def test_what_is_left_is_read_again_as_it_was():
    note = _resume.note("run-1", json.dumps(LEFT))
    assert json.loads(_resume.dump(note)) == {"version": 1, "run_id": "run-1", **LEFT}


@pytest.mark.parametrize(
    "change",
    [
        {"argv": []},
        {"argv": "ls"},
        {"argv": [PROGRAM, ""]},
        {"argv": [PROGRAM, "a\nb"]},
        {"argv": ["ansible-playbook"]},
        {"environment": None},
        {"environment": {"A": 1}},
        {"environment": {"A=B": "x"}},
        {"environment": {"A": "x\ny"}},
        {"night": []},
    ],
)
def test_what_a_boot_could_not_run_as_it_is_meant_is_refused(change: dict):
    with pytest.raises(LabError, match="resume"):
        _resume.note("run-1", json.dumps({**LEFT, **change}))


@pytest.mark.parametrize("text", ["", "[]", "{}", "7", '{"argv": [], "environment": {}}'])
def test_what_is_no_note_at_all_is_refused(text: str):
    with pytest.raises(LabError, match="not JSON of an object"):
        _resume.note("run-1", text)


@pytest.mark.parametrize(
    ("program", "start"),
    [
        # a wrapper of Nix, or of a virtual environment, finds its libraries by itself
        (PROGRAM, [PROGRAM]),
        ("/srv/lib/ansible/__main__.py", ["/usr/bin/python3", "-m", "ansible", "playbook"]),
    ],
)
def test_the_night_is_finished_by_the_ansible_that_began_it(program: str, start: list[str]):
    assert _resume.command(program, "/usr/bin/python3", "web") == [*start, "homelab.nixos.resume", "--inventory=web,"]


def test_of_the_environment_nothing_is_kept_that_may_be_secret():
    present = {
        "PATH": "/bin",
        "PYTHONPATH": "/lib",
        "AWS_SECRET_ACCESS_KEY": "x",
        "ANSIBLE_VAULT_PASSWORD": "y",
        "TZ": "",
    }
    assert _resume.environment(present, "/srv/ansible.cfg", ["/a", "/b"]) == {
        "PATH": "/bin",
        "PYTHONPATH": "/lib",
        "ANSIBLE_CONFIG": "/srv/ansible.cfg",
        "ANSIBLE_COLLECTIONS_PATH": "/a:/b",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    assert "ANSIBLE_CONFIG" not in _resume.environment({}, None, [])


def test_the_reboot_waits_for_the_end_of_the_run_and_says_what_it_was_told_to():
    argv = _resume.order(4711, "+2", "Costs $HOME; really")
    assert argv[-5:] == ["/run/current-system/sw/bin/shutdown", "-r", "--", "+2", "Costs $$HOME; really"]
    (before,) = [word for word in argv if word.startswith("--property=ExecStartPre=")]
    assert "tail --pid=4711" in before
    # a transient unit finds nothing but programs of systemd by their names, and a run that hangs is not waited for
    assert "=-/run/current-system/sw/bin/timeout 600 /run/current-system/sw/bin/tail" in before
