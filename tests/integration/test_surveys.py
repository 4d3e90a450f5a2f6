"""Playbooks where AWX and Semaphore run them: settings are text, and a container keeps nothing. Without a lab."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from tests.integration.awx import as_text
from tests.integration.fleet import ROOT, Running
from tests.integration.nowhere import Nowhere

DEFAULTS: dict[str, Any] = yaml.safe_load((ROOT / "roles/update/defaults/main.yml").read_text())
HOSTS: dict[str, dict[str, Any]] = {
    "dev": {"lab_stage": "dev"},
    "web": {},
    "nas": {},
    "builder": {"lab_managed": False},
}
EVERYBODY: dict[str, Any] = {
    "lab_stage": "infra",
    "lab_stages": ["dev", "infra"],
    "lab_batch": {"infra": "100%"},
    "lab_max_bad": {"all": 2, "infra": 2},
    "lab_never_together": [["web", "nas"]],
    "lab_flake_host": "builder",
    "lab_nix_options": {"max-jobs": 4},
    "lab_checks": [{"name": "shop", "kind": "tcp", "host": "shop.example", "port": 443}],
    "lab_window": ["22:00-06:00", "Sat,Sun 01:00-09:00 Europe/Vienna"],
    "lab_hold": {"reason": "New disk", "until": "2026-12-24"},
    "lab_mounts": ["/", "/srv"],
    "lab_deadline": 14400,
}
# a uid that no file knows, as of a container
NOBODY = ("unshare", "--user", "--map-user=61234", "--map-group=61234")


def plan(output: str) -> str:
    return output.split("in this order:")[1].split("PLAY RECAP")[0]


def test_every_setting_as_text_makes_the_same_plan(tmp_path: Path):
    hosts = Nowhere(tmp_path, HOSTS, **EVERYBODY)
    typed = hosts.begin("playbooks/validate.yml").wait(300)
    # what is one for all comes from the survey, what is a host's own from AWX's inventory
    survey = {name: as_text(value) for name, value in {**DEFAULTS, **EVERYBODY}.items()}
    survey["lab_state_directory"] = str(hosts.state)
    own = {name: survey.pop(name) for name in ("lab_stage", "lab_managed")}
    texts = {host: own | {name: as_text(value) for name, value in HOSTS[host].items()} for host in HOSTS}
    assert survey.keys() | own.keys() == DEFAULTS.keys()
    asked = Nowhere(tmp_path, texts).begin("playbooks/validate.yml", "-e", json.dumps(survey)).wait(300)
    assert (typed.rc, asked.rc) == (0, 0)
    assert plan(asked.output) == plan(typed.output)
    assert "3      1        nas" in plan(typed.output)
    assert "WARNING" not in asked.output
    assert hosts.contacts() == 0


def test_what_a_survey_gets_wrong_is_told_at_once_by_name(tmp_path: Path):
    hosts = Nowhere(tmp_path, {"dev": {}, "web": {}})
    answers = {"lab_settle": "soon", "lab_mounts": "[/, /srv", "lab_commit": "", "lab_fetch_timeout": None}
    told = hosts.begin("nightly.yml", "-e", json.dumps(answers)).wait(300)
    words = " ".join(told.output.split())
    assert told.rc == 2
    for sentence in (
        "4 settings cannot be meant, and no host was contacted.",
        "all hosts: argument 'lab_settle' is of type str and we were unable to convert to int",
        "all hosts: lab_mounts begins as a list of YAML or JSON does, and is none.",
        "all hosts: lab_commit is empty. Give it a value, or leave it out; a question of a survey needs a default.",
        "all hosts: lab_fetch_timeout is empty.",
    ):
        assert sentence in words, sentence
    assert hosts.contacts() == 0


def in_a_container(hosts: Nowhere, home: Path, *arguments: str, **environment: str) -> Running:
    """A night of somebody whom this machine does not know, with a home of its own and no terminal."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    command = [*NOBODY, *hosts.command("nightly.yml", *arguments)]
    return Running(command, {**kept, "ANSIBLE_NOCOLOR": "1", "HOME": str(home), **environment})


def test_a_night_needs_no_state_and_no_user_of_the_jobs_container(tmp_path: Path):
    hosts = Nowhere(tmp_path, {"dev": {}, "web": {}})
    (home := tmp_path / "runner").mkdir()
    mine = {"lab_state_directory": "", "lab_controller": "awx"}
    night = in_a_container(hosts, home, "-e", json.dumps(mine)).wait(300)
    assert set(night.outcomes.values()) == {"unreachable"}
    assert "WARNING" not in night.output
    # its home is all it writes to, and nothing is left of the run
    assert {path.name for path in tmp_path.iterdir()} == {"runner", "hosts.json", "ssh", "calls", "cp"}
    assert (notes := home / ".local/state/lab-auto-update").is_dir() and not (notes / "run.json").exists()

    # one that cannot be written to is said, and in nobody's way
    (home / ".local").rename(home / "gone")
    (home / ".local").touch()
    night = in_a_container(hosts, home, "-e", json.dumps(mine)).wait(300)
    assert set(night.outcomes.values()) == {"unreachable"}
    words = " ".join(night.output.split())
    assert "Set lab_state_directory, or else only the claims on hosts keep two runs apart." in words

    # one that was asked for has to be there
    asked = {**mine, "lab_state_directory": "/proc/nowhere"}
    night = in_a_container(hosts, home, "-e", json.dumps(asked)).wait(300)
    assert night.rc == 2
    assert "lab_state_directory is /proc/nowhere" in " ".join(night.output.split())


def test_host_keys_are_checked_though_the_job_runner_turns_that_off(tmp_path: Path):
    hosts = Nowhere(tmp_path, {"dev": {}})
    # as ansible-runner and Semaphore do
    environment = {"ANSIBLE_HOST_KEY_CHECKING": "False"}
    for playbook in ("nightly.yml", "playbooks/health.yml", "playbooks/rollback.yml"):
        contacts = hosts.contacts()
        hosts.begin(playbook, **environment).wait(300)
        assert hosts.contacts() > contacts
    assert "StrictHostKeyChecking" not in hosts.calls.read_text()
    # the owner's word is stronger
    hosts.begin("playbooks/health.yml", "-e", "ansible_host_key_checking=false", **environment).wait(300)
    assert "StrictHostKeyChecking=no" in hosts.calls.read_text()
