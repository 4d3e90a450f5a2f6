"""What is set is checked before any host is contacted, by every playbook of a night. Without a lab: nobody is there."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.fleet import ROOT, Night
from tests.integration.nowhere import Nowhere

DEFAULTS: dict[str, Any] = yaml.safe_load((ROOT / "roles/update/defaults/main.yml").read_text())
HOSTS: dict[str, dict[str, Any]] = {
    "dev": {"lab_stage": "dev"},
    "web": {"lab_stage": "infra"},
    "nas": {"lab_stage": "infra"},
    "builder": {"lab_managed": False},
}
EVERYBODY = {"lab_stages": ["dev", "infra"], "lab_batch": 2, "lab_flake_host": "builder"}
PLAN = "in this order: STAGE BATCH AT ONCE HOSTS dev 1 1 dev infra 2 2 web + nas"


def nowhere(directory: Path, **hosts: dict[str, Any]) -> Nowhere:
    return Nowhere(directory, {host: HOSTS[host] | hosts.get(host, {}) for host in HOSTS}, **EVERYBODY)


def said(night: Night) -> str:
    return " ".join(night.output.split())


def test_the_plan_is_printed_and_nobody_contacted(tmp_path: Path):
    hosts = nowhere(tmp_path)
    night = hosts.begin("playbooks/validate.yml").wait(300)
    assert night.rc == 0
    assert PLAN in said(night)
    assert "WARNING" not in night.output
    assert hosts.contacts() == 0
    # nor is anything written
    assert not hosts.state.exists()


@pytest.mark.parametrize("name", ["small", "medium", "large"])
def test_the_examples_are_planned_by_the_playbook_as_the_docs_show(name: str):
    call = f"$ ansible-playbook playbooks/validate.yml -i tests/inventories/{name}\n"
    shown = (ROOT / "docs/rollout.md").read_text().split(call)[1].split("```")[0]
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), *call.split()[2:]]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    lines = [line.strip() for line in done.stdout.splitlines()]
    begin = lines.index("A night, in this order:") + 1
    told = lines[begin : begin + len(shown.splitlines())]
    assert told == [line.strip() for line in shown.splitlines()]


def test_misspelt_names_of_hosts_and_of_the_command_line_stop_every_night_before_the_first_contact(tmp_path: Path):
    # one of a few names at a time: the unit tests have all of them, with every slip
    sample = random.Random(5).sample(sorted(DEFAULTS), 4)
    slips = {name[:-2] + name[-1] + name[-2]: name for name in sample if name[-1] != name[-2]}
    hosts = nowhere(tmp_path, web=slips, dev={"lab_satge": "dev"})
    for playbook in ("playbooks/validate.yml", "nightly.yml", "playbooks/emergency.yml"):
        night = hosts.begin(playbook, "-e", "lab-controler=x").wait(300)
        assert night.rc == 2
        assert "dev: There is no setting lab_satge. Did you mean lab_stage?" in said(night)
        assert "all hosts: There is no setting lab-controler. Did you mean lab_controller?" in said(night)
        for slip, name in slips.items():
            assert f"web: There is no setting {slip}. Did you mean {name}" in said(night)
        assert PLAN not in said(night)
    assert hosts.contacts() == 0
    assert hosts.run() is None


def test_a_misspelt_name_in_a_playbook_of_the_owners_is_one_too(tmp_path: Path):
    own = tmp_path / "own.yml"
    play = {"ansible.builtin.import_playbook": str(ROOT / "playbooks/validate.yml"), "vars": {"lab_windwo": []}}
    own.write_text(yaml.safe_dump([play]))
    night = nowhere(tmp_path).begin(str(own)).wait(300)
    assert night.rc == 2
    assert "There is no setting lab_windwo. Did you mean lab_window?" in said(night)


def test_everything_that_cannot_be_meant_is_told_at_once(tmp_path: Path):
    hosts = nowhere(tmp_path, web={"lab_stage": "infar"}, nas={"lab_boot_confirm_timeout": 900})
    night = hosts.begin("playbooks/validate.yml", "-e", "lab_settle=-1 lab_commit=no lab_flake_pull=yes").wait(300)
    assert night.rc == 2
    for words in (
        "4 settings cannot be meant, and no host was contacted.",
        "all hosts: lab_settle is -1. It is a number of seconds, from 0 to 21600.",
        "only commits can be pulled and pushed.",
        "web: lab_stage is 'infar', which lab_stages (dev, infra) does not name.",
        "nas: lab_boot_confirm_timeout is 900, and lab_reboot_timeout 600:",
    ):
        assert words in said(night), words


def test_variables_of_owners_are_one_warning_and_their_values_are_not_looked_at(tmp_path: Path):
    own = {"lab_domain": "lab.example", "lab_subnet": "{{ nobody_has_set_this }}"}
    hosts = nowhere(tmp_path, web=own, nas={"lab_domain": "{{ 1 / 0 }}"})
    night = hosts.begin("playbooks/validate.yml", "-e", "lab_user=me").wait(300)
    assert night.rc == 0
    assert night.output.count("WARNING") == 1
    assert "a variable of your own may: lab_domain, lab_subnet, lab_user." in said(night)


def test_only_hosts_of_the_night_are_looked_at(tmp_path: Path):
    hosts = nowhere(tmp_path, web={"lab_satge": "dev"})
    night = hosts.begin("playbooks/validate.yml", "--limit", "dev").wait(300)
    assert night.rc == 0
    assert "in this order: STAGE BATCH AT ONCE HOSTS dev 1 1 dev PLAY RECAP" in said(night)


def test_an_emergency_has_no_windows_and_no_soak_whatever_hosts_have_and_the_command_line_wins(tmp_path: Path):
    windows = {"lab_window": "03:00-04:00", "lab_soak": 3600, "lab_deadline": 7200, "lab_inputs": ["packages"]}
    hosts = nowhere(tmp_path, **dict.fromkeys(HOSTS, windows) | {"web": windows | {"lab_inputs": ["other"]}})
    arguments = ("--limit", "dev:web", "-e", "lab_deadline=14400")
    inputs = ("-e", json.dumps({"lab_inputs": ["nixpkgs"]}))
    begun = hosts.begin("playbooks/emergency.yml", "-v", *arguments, *inputs, ANSIBLE_CALLBACK_RESULT_FORMAT="json")
    night = begun.wait(300)
    # a whole night, that finds nobody
    assert night.rc == 2
    assert "No host could be reached." in night.output
    assert hosts.contacts() > 0
    turn = night.output[night.output.index("Note whether it is this host's turn") :]
    data, _end = json.JSONDecoder().raw_decode(turn, turn.index("{"))
    # one that there is closes some time
    assert data["ansible_facts"]["__lab_turn"]["window_closes"] is None
    # asked of each host where stages soak
    assert "Note where that leaves its stage" not in night.output
    # and what is set here can be overruled
    checked = hosts.begin("playbooks/emergency.yml", *arguments, "-e", "lab_soak=-1 lab_deadline=-2").wait(300)
    assert "lab_inputs. It is ['packages'] for dev and ['other'] for web." in said(checked)
    assert "lab_soak is -1." in said(checked)
    assert "lab_deadline is -2." in said(checked)
    assert hosts.run() is None


def test_hostile_values_are_refused_by_name_before_the_first_contact_and_no_secret_is_shown(tmp_path: Path):
    """Some of those in tests/unit/test_hostile_values.py, which has them all."""
    marker = tmp_path / "marker"
    settings: dict[str, Any] = {
        "lab_attribute": "--override-input",
        "lab_push_key": f"-oProxyCommand=touch {marker}",
        "lab_hold_file": "../hold",
        "lab_services": ["web\nnas"],
        "lab_busy_units": ["", "backup.service"],
        "lab_reboot_message": "x" * 5000,
        "lab_check_levels": {f"$(touch {marker})": "required"},
    }
    shared = {
        "lab_inputs": [f"--upload-pack=touch {marker}"],
        "lab_nix_options": {"access-tokens": "example.org=c4n4ry"},
        "lab_cache": f"; touch {marker} https//user:c4n4ry@example.org",
        "lab_controller": "web\x01",
    }
    hosts = nowhere(tmp_path, dev=shared, nas=shared, web=settings | shared)
    for playbook in ("playbooks/validate.yml", "nightly.yml"):
        night = hosts.begin(playbook, "-vvv", ANSIBLE_LOG_PATH=str(tmp_path / "log")).wait(300)
        assert night.rc == 2
        for name in settings:
            assert f"web: {name}" in said(night), name
        for name in shared:
            assert f"dev, web, nas: {name}" in said(night), name
        assert "c4n4ry" not in night.output + (tmp_path / "log").read_text()
    assert hosts.contacts() == 0
    assert not marker.exists()


def test_a_host_that_ssh_would_take_for_an_option_is_never_contacted(tmp_path: Path):
    marker = tmp_path / "marker"
    hosts = nowhere(tmp_path, web={"ansible_host": f"-oProxyCommand=touch {marker}"})
    night = hosts.begin("nightly.yml").wait(300)
    assert night.rc == 2
    assert "web: The address of web is '-oProxyCommand=touch" in said(night)
    assert (hosts.contacts(), marker.exists()) == (0, False)
