"""What holds for every file of ours, whoever writes the next one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.nixos.plugins.module_utils import _user_checks
from ansible_collections.homelab.nixos.plugins.module_utils._command import CommandFailed, Completed
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._module import LabModule
from ansible_collections.homelab.nixos.plugins.plugin_utils._lab_action import LabAction

ROOT = Path(__file__).parents[2]
SECRET = "c4n4ry"
# what people run, and what runs there; the lab has keys of its own
OURS = ("ansible.cfg", "nightly.yml", *("playbooks", "roles", "plugins", "inventory", "meta", "nix", "molecule"))
UNCHECKED = re.compile(
    r"StrictHostKeyChecking\W+(?:no|off|false|accept-new)|host_key_checking\W+(?:false|no|0|off)"
    r"|UserKnownHostsFile\W+/dev/null|NoHostAuthenticationForLocalhost|ssh-keyscan\b.*>>",
    re.IGNORECASE,
)


def files() -> list[Path]:
    places = [ROOT / name for name in OURS]
    found = [path for place in places for path in ([place] if place.is_file() else place.rglob("*"))]
    return [path for path in found if path.is_file() and path.suffix != ".pyc"]


def test_no_file_of_ours_lets_an_unknown_host_key_pass():
    assert len(files()) > 100
    found = {str(path.relative_to(ROOT)): UNCHECKED.findall(path.read_text()) for path in files()}
    # the one that an owner may ask for by name, at the first contact of a bootstrap
    assert {name: lines for name, lines in found.items() if lines} == {
        "playbooks/bootstrap.yml": ["StrictHostKeyChecking=accept-new"]
    }
    assert "default('check')" in (ROOT / "playbooks/bootstrap.yml").read_text()


def test_every_play_checks_host_keys_where_a_job_runner_has_turned_that_off():
    for path in (ROOT / "playbooks").glob("*.yml"):
        for play in yaml.safe_load(path.read_text()):
            # those that contact nobody but this machine, and what is imported
            if "hosts" in play and play.get("connection") != "local" and path.stem != "validate":
                assert play.get("vars", {}).get("ansible_host_key_checking") is True, (path.name, play["name"])


@pytest.mark.parametrize(
    "line",
    [
        "host_key_checking = false",
        "-o StrictHostKeyChecking=no",
        "StrictHostKeyChecking accept-new",
        "ANSIBLE_HOST_KEY_CHECKING: 'False'",
    ],
)
def test_such_lines_would_be_found(line: str):
    assert UNCHECKED.search(line)


def test_the_whole_of_the_settings_is_logged_nowhere():
    """A fact is shown at -v: those that are made of all settings, or of checks, are not."""
    made_of_settings = (
        r"ansible\.builtin\.vars|__lab_checks|opened\.shared|night\.settings|lookup\(.*lab_left"
        r"|__lab_(?:set|host|gates|left_for_boot|run)\b(?![.'])"
    )
    without_secrets = {
        "prepare: Note whether it is this host's turn",
        "rollback: Note what is set for this host",
    }
    facts = {}
    for path in [*(ROOT / "roles").rglob("tasks/*.yml"), *(ROOT / "playbooks").glob("*.yml")]:
        for task in _tasks(yaml.safe_load(path.read_text())):
            if re.search(made_of_settings, f"{task.get('ansible.builtin.set_fact', '')} {task.get('loop', '')}"):
                facts[f"{path.stem}: {task['name']}"] = task.get("no_log")
    assert len(facts) >= 5
    assert {name for name, hidden in facts.items() if not hidden} == without_secrets


def _tasks(data: object) -> list[dict[str, object]]:
    if isinstance(data, list):
        return [task for one in data for task in _tasks(one)]
    if isinstance(data, dict):
        return [data, *(task for one in data.values() for task in _tasks(one))]
    return []


def test_no_error_has_a_secret_in_it():
    url = f"https://user:{SECRET}@example.org"
    error = LabError(f"No {url}.", f"Look at {url}.", {"cmd": ["curl", url], "held_by": {"password": SECRET}})
    assert SECRET not in f"{error} {error.what} {error.remedy} {error.data}"
    done = Completed(("nix", "--option", "access-tokens", f"example.org={SECRET}", url), 1, f"error: {url}", "")
    failed = CommandFailed(done, doing=f"Fetching {url}")
    assert SECRET not in f"{failed} {failed.data}"


class Ours(LabModule):
    """A module as it is when it ends: it prints its result."""

    def __init__(self) -> None:
        self._unshown, self._whole = ["checks"], ["bodies"]
        self.argument_spec = {"resume": {"type": "str", "no_log": True}, "n": {"type": "int"}}
        self.params = {
            # Ansible looks for the whole of it, which redaction would have changed
            "resume": f"https://user:password@example.org {SECRET}",
            "store": f"s3://u:{SECRET}@cache",
            "checks": [SECRET],
            "options": {"access-tokens": SECRET},
            "n": 1,
        }


def test_what_leaves_a_host_has_no_secret_in_it(monkeypatch: pytest.MonkeyPatch):
    printed: list[dict[str, object]] = []
    for way in ("exit_json", "fail_json"):
        monkeypatch.setattr(
            AnsibleModule, way, lambda _self, *words, **result: printed.append({"words": words, **result})
        )
    Ours().exit_json(changed=True, stderr=f"Authorization: Bearer {SECRET}", bodies={"page": "token=1"})
    Ours().fail_json(f"https://u:{SECRET}@example.org", rc=1)
    assert SECRET not in str(printed)
    assert (printed[0]["changed"], printed[0]["bodies"], printed[1]["rc"]) == (True, {"page": "token=1"}, 1)
    arguments = {"store": "s3://***@cache", "options": {"access-tokens": "***"}, "n": 1}
    assert [result["invocation"] for result in printed] == [{"module_args": arguments}] * 2


def test_every_module_of_ours_is_such_a_one():
    for path in (ROOT / "plugins/modules").glob("*.py"):
        assert not re.search(r"\bAnsibleModule\(", path.read_text()), path.name


class Failing(LabAction):
    """What any module of ours gives."""

    def __init__(self) -> None:
        self.seen: dict[str, object] = {}

    def perform(self, task_vars: dict[str, object]) -> dict[str, object]:
        self.seen = task_vars
        arguments = {"store": f"s3://user:{SECRET}@cache", "options": {"access-tokens": SECRET}}
        return {"msg": f"?token={SECRET}", "count": 3, "invocation": {"module_args": arguments}}


def test_no_result_has_a_secret_in_it_and_no_host_writes_down_what_it_was_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ansible.plugins.action.ActionBase.run", lambda *_arguments: {})
    action = Failing()
    result = action.run(task_vars={"inventory_hostname": "web"})
    assert SECRET not in str(result)
    assert (result["msg"], result["count"]) == ("?token=***", 3)
    assert action.seen == {"inventory_hostname": "web", "ansible_no_target_syslog": True}


def test_of_a_command_of_an_owner_the_program_alone_is_shown_whatever_it_says_itself():
    argv: object = ["psql", f"--pin={SECRET}", f"a {SECRET}"]
    (check,) = _user_checks.parse([{"name": "x", "kind": "command", "argv": argv}])
    said = f"psql: error: {SECRET}, a {SECRET} and --pin={SECRET}"
    found = _user_checks.judge(check, Completed(("env",), 2, "", said))
    assert found.status == "fail"
    assert SECRET not in str(found)
    assert "psql ends with exit code 2" in found.message
    for argv in (["psql", SECRET, "\0"], f"psql {SECRET}"):
        with pytest.raises(LabError, match="psql' and other words") as raised:
            _user_checks.parse([{"name": "x", "kind": "command", "argv": argv}])
        assert SECRET not in str(raised.value)
