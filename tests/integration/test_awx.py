"""The clone as a project of AWX: jobs of ansible-runner whose settings are all text, on a lab of two hosts."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import Word

from tests.integration.awx import BIN, Tower, as_text
from tests.integration.fleet import ROOT, Fleet
from tests.lab import Lab

pytestmark = pytest.mark.lab

HOSTS = ("dev", "web")
DEFAULTS: dict[str, Any] = yaml.safe_load((ROOT / "roles/update/defaults/main.yml").read_text())
# a survey is one for all hosts; what is a host's own is text in the inventory
OF_HOSTS = {"lab_managed", "lab_stage"}


class Night(Tower):
    """The lab as an inventory of AWX, and a survey that asks for every setting."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        done = subprocess.run(
            [str(BIN / "ansible-inventory"), "-i", str(lab.inventory), "--list"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        inventory = json.loads(done.stdout)
        variables = inventory["_meta"]["hostvars"]
        answers = {**DEFAULTS, **variables["dev"], "lab_state_directory": str(directory / "state")}
        answers |= {
            "lab_controller": "awx",
            "lab_batch": 2,
            "lab_stages": ["development", "infrastructure"],
            "lab_depends_on": [],
            "lab_mounts": ["/", "/var"],
            "lab_nix_options": {"max-jobs": 2, "cores": 1},
            "lab_settle": 6,
            "lab_activation_timeout": 120,
            "lab_confirm_timeout": 20,
            "lab_reboot_timeout": 60,
            "lab_boot_confirm_timeout": 50,
        }
        self.survey = {name: as_text(answers[name]) for name in DEFAULTS if name not in OF_HOSTS}
        for number, (host, own) in enumerate(variables.items()):
            kept = {name: value for name, value in own.items() if name not in (*DEFAULTS, "ansible_control_path_dir")}
            mine = {"lab_managed": as_text(host != "builder"), "lab_stage": "development" if host != "builder" else ""}
            variables[host] = {**kept, **mine, "remote_tower_enabled": "true", "remote_tower_id": number}
            # as docs/awx.md says, for nothing else of a container lasts
            variables[host]["ansible_ssh_common_args"] += " -o UserKnownHostsFile={{ playbook_dir }}/../known_hosts"
        super().__init__(directory, inventory)
        self.known_hosts = self.project / "known_hosts"
        self.known_hosts.write_text((lab.directory / "known_hosts").read_text())


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab.temporary(len(HOSTS), prefix="awx") as lab:
        yield Fleet(lab)


@pytest.fixture(scope="module")
def tower(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Night:
    return Night(fleet.lab, tmp_path_factory.mktemp("awx"))


def test_every_setting_is_text_and_the_clone_finds_itself(tower: Night):
    assert tower.survey.keys() | OF_HOSTS == DEFAULTS.keys()
    assert all(isinstance(answer, str) for answer in tower.survey.values())
    link = tower.project / "collections/ansible_collections/homelab/nixos"
    assert link.is_symlink() and link.resolve() == tower.project


def test_a_job_of_type_check_changes_nothing_and_its_artifacts_say_so(fleet: Fleet, tower: Night):
    fleet.lab.move()
    fleet.lab.fault("web", "unit-fails")
    before, locked = fleet.looks(), fleet.locked()
    job = tower.job("1", "nightly.yml", "--check", answers=tower.survey)
    assert (job.rc, job.status) == (0, "successful")
    assert (fleet.looks(), fleet.locked()) == (before, locked)
    (name,) = job.artifacts
    assert name == "lab_night_result"
    result = job.artifacts[name]
    assert (result["dry_run"], result["failed"], result["failure"]) == (True, False, "")
    assert {word: hosts for word, hosts in result["outcomes"].items() if hosts} == {"unchanged": list(HOSTS)}
    # what it would bring
    assert [each["path"] for each in result["inputs"]] == ["packages"]


def test_a_job_that_fails_for_a_host_has_told_before_what_became_of_all(fleet: Fleet, tower: Night):
    before = fleet.looks()
    canary = f"c4n{secrets.token_hex(12)}"
    checks = [
        {"name": "page", "kind": "http", "url": f"http://u:{canary}@127.0.0.1:1/?token={canary}", "level": "wanted"},
        {"name": "said", "kind": "command", "argv": ["cat", f"/no/{canary}"], "level": "wanted"},
    ]
    job = tower.job("2", "nightly.yml", "-vvv", answers={**tower.survey, "lab_checks": json.dumps(checks)})
    assert (job.rc, job.status) == (2, "failed")
    after, target = fleet.looks(), fleet.target("dev")
    assert after["dev"].is_on(target)
    assert after["web"].is_on(before["web"].current)

    result = job.artifacts["lab_night_result"]
    assert list(result["outcomes"]) == list(get_args(Word))
    assert {word: hosts for word, hosts in result["outcomes"].items() if hosts} == {
        "updated": ["dev"],
        "rolled_back": ["web"],
    }
    assert (result["failed"], result["failure"]) == (True, "Ended badly: web (rolled_back).")
    assert (result["version"], result["dry_run"]) == (1, False)
    assert f"Night {result['run_id']} " in job.stdout
    for host, system in {"dev": target, "web": before["web"].current}.items():
        assert (result["hosts"][host]["before"], result["hosts"][host]["after"]) == (before[host].current, system)
    assert "web.service" in result["hosts"]["web"]["reason"]
    assert result["lock_hash"] == fleet.locked().split()[0]
    (moved,) = result["inputs"]
    assert moved["path"] == "packages" and moved["before"]["rev"] != moved["after"]["rev"]
    assert result["durations"].keys() == {"update", "build", "total"}
    assert result["hosts"]["dev"]["durations"]["activation"] > 0

    # what AWX keeps of a job and shows to whoever may see it
    kept = [path for path in (tower.directory / "artifacts/2").rglob("*") if path.is_file()]
    assert len(kept) > 100
    assert any(b"No such file or directory" in path.read_bytes() for path in kept)
    assert [path.name for path in kept if canary.encode() in path.read_bytes()] == []

    # the stats come last, after the task that fails; what they hold was set before it
    tasks = [event.get("event_data", {}).get("task") for event in job.events]
    handed = tasks.index("Hand the result to whoever has started the run")
    assert handed < tasks.index("Fail when it did not go well")


def test_a_job_is_not_asked_but_told_what_to_set(fleet: Fleet, tower: Night):
    before = fleet.look("dev")
    job = tower.job("3", "playbooks/rollback.yml", "-l", "dev", timeout=180, answers={"lab_rollback_to": "previous"})
    assert (job.rc, job.status) == (2, "failed")
    assert "Nobody said yes, and nothing was touched." in " ".join(job.stdout.split())
    assert fleet.look("dev") == before


def test_a_host_whose_key_nobody_knows_is_refused_and_nobody_is_asked(fleet: Fleet, tower: Night):
    known = tower.known_hosts.read_text()
    tower.known_hosts.write_text("")
    # the default of ssh, which the lab's own file overrides
    words = f"-F {fleet.lab.ssh_config} -o StrictHostKeyChecking=ask -o UserKnownHostsFile={tower.known_hosts}"
    answers = {**tower.survey, "ansible_ssh_common_args": words}
    job = tower.job("6", "playbooks/health.yml", "-l", "dev", timeout=180, answers=answers)
    tower.known_hosts.write_text(known)
    assert (job.rc, job.status) == (2, "failed")
    assert "Host key verification failed" in job.stdout


def test_the_health_of_hosts_is_asked_with_the_same_answers(fleet: Fleet, tower: Night):
    job = tower.job("4", "playbooks/health.yml", "-l", "dev", timeout=180, answers=tower.survey)
    assert job.rc == 0
    wrong = {**tower.survey, "lab_services": "sshd, nowhere.service"}
    job = tower.job("5", "playbooks/health.yml", "-l", "dev", timeout=180, answers=wrong)
    assert job.rc == 2
    assert "nowhere.service" in job.stdout
