"""What can be said of the role controller without a machine to install it on."""

from __future__ import annotations

import configparser
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import jinja2
import pytest
import yaml
from ansible_collections.homelab.nixos.plugins.module_utils import _settings

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles/controller"
DEFAULTS = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
SPECIFICATION = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
SETTINGS = yaml.safe_load((ROOT / "roles/update/defaults/main.yml").read_text())
DOCS = (ROOT / "docs/controller.md").read_text()
PACKER = ROLE / "files/pack.py"

specification = importlib.util.spec_from_file_location("pack", PACKER)
assert specification is not None and specification.loader is not None
packer = importlib.util.module_from_spec(specification)
specification.loader.exec_module(packer)


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return opened.getnames()


# ---- options ---------------------------------------------------------------------------------------------------------
def test_defaults_are_those_of_the_specification():
    assert {name: option["default"] for name, option in SPECIFICATION.items()} == DEFAULTS


def test_every_option_is_used_and_none_is_a_setting_of_the_night():
    files = [file for part in ("tasks", "templates", "vars") for file in (ROLE / part).iterdir()]
    used = "\n".join(file.read_text() for file in files)
    assert [name for name in DEFAULTS if not re.search(rf"\b{name}\b", used)] == []
    assert DEFAULTS.keys() & SETTINGS.keys() == set()


def test_a_name_close_to_an_option_is_told_before_a_night_as_those_of_settings_are():
    known = [*SETTINGS, *DEFAULTS]
    assert _settings.check_names({name: ["web"] for name in [*DEFAULTS, "lab_controller_hosts"]}, known) == ([], [])
    problems, _strangers = _settings.check_names({"lab_controller_shedule": ["web"]}, known)
    assert "lab_controller_schedule" in problems[0].remedy


def test_the_plan_s_defaults_are_the_defaults():
    assert {name.removeprefix("lab_controller_"): DEFAULTS[name] for name in DEFAULTS}.items() >= {
        "schedule": "02:00",
        "randomized_delay": 30 * 60,
        "persistent": True,
        "accuracy": 60,
        "memory_max": "2G",
        "cpu_quota": "50%",
        "stop_timeout": 5 * 60,
        "log_retention_days": 30,
    }.items()


def test_a_host_s_turn_fits_into_the_start_timeout_and_not_into_half_an_hour():
    """Why the one default differs from the plan's."""
    longest = _settings.worst_case(SETTINGS)
    assert longest > 30 * 60 - 300
    # building and copying come before it
    assert longest + SETTINGS["lab_build_timeout"] + SETTINGS["lab_copy_timeout"] < (
        DEFAULTS["lab_controller_start_timeout"] - 300
    )
    said = SPECIFICATION["lab_controller_start_timeout"]["description"][0]
    assert f"{longest} s" in said
    assert f"{longest} s" in DOCS


def installation(**options: object) -> str:
    """What the playbook says, here and in a dry run."""
    program = str(Path(sys.executable).parent / "ansible-playbook")
    given = json.dumps({"lab_controller_hosts": "localhost", "lab_controller_python": sys.executable, **options})
    argv = [program, "playbooks/controller.yml", "-i", "localhost,", "-c", "local", "--check", "-e", given]
    environment = os.environ | {"ANSIBLE_NOCOLOR": "1", "COLUMNS": "999"}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    # the sentence alone, without what Ansible shows below it
    return "\n".join(re.findall(r"Action failed: (.*)", done.stdout + done.stderr))


def test_all_options_that_cannot_be_meant_are_told_at_once():
    said = installation(
        lab_controller_randomized_delay="-1",
        lab_controller_accuracy=0,
        lab_controller_start_timeout=300,
        lab_controller_stop_timeout=0,
        lab_controller_log_retention_days=0,
        lab_controller_memory_max="2G\n",
        lab_controller_cpu_quota="50",
        lab_controller_user="root",
        lab_controller_on_failure=["mail@%n.service", "; reboot.service"],
        lab_controller_settings={"lab_deadline": 60, "lab_nix_options": {"access-tokens": "canary"}},
    )
    for sentence in (
        "lab_controller_randomized_delay is -1. It is a number of seconds, at least 0.",
        "lab_controller_accuracy is 0. It is a number of seconds, at least 1.",
        "lab_controller_start_timeout is 300. It is a number of seconds, more than 300, for the night gets 300 less.",
        "lab_controller_stop_timeout is 0. It is a number of seconds, at least 1.",
        "lab_controller_log_retention_days is 0. It is a number of days, at least 1.",
        "lab_controller_memory_max is 2G",
        "lab_controller_cpu_quota is 50. It is a percentage as 50%, or empty.",
        "lab_controller_user is root. ",
        "'; reboot.service']. It is a list of names of services or targets of systemd.",
        "Leave lab_deadline out, it is lab_controller_start_timeout less five minutes.",
    ):
        assert sentence in said, said
    assert "canary" not in said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lab_controller_shedule": "03:00"}, "There is no option lab_controller_shedule."),
        ({"lab_controller_arguments": "--diff"}, "lab_controller_arguments is a text."),
        (
            {"lab_controller_writable": ["/srv", "/srv\n/"]},
            r'lab_controller_writable has "/srv", "/srv\n/". It is',
        ),
    ],
)
def test_an_option_that_is_none_or_has_another_form_is_told_by_name(options: dict[str, object], sentence: str):
    assert sentence in installation(**options)


# ---- templates -------------------------------------------------------------------------------------------------------
def rendered(name: str, **options: object) -> str:
    variables = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"ternary": lambda value, yes, no: yes if value else no, "comment": str, "bool": bool}
    template = environment.from_string((ROLE / "templates" / name).read_text())
    return template.render({**variables, **DEFAULTS, "ansible_managed": "# ours", **options})


def test_the_timer_has_what_the_options_say():
    timer = rendered("lab-auto-update.timer.j2", lab_controller_schedule="Mon 03:00", lab_controller_persistent=False)
    assert {"OnCalendar=Mon 03:00", "RandomizedDelaySec=1800s", "AccuracySec=60s", "Persistent=no"} <= set(
        timer.splitlines()
    )


@pytest.mark.parametrize("name", ["/var/log/lab-auto-update.log", "/var/log/lab-auto-update/*.log"])
def test_logs_are_rotated_as_the_plan_has_it(name: str):
    text = rendered("logrotate.j2", lab_controller_log_retention_days=12)
    (body,) = re.findall(rf"^{re.escape(name)} {{\n(.*?)^}}", text, re.MULTILINE | re.DOTALL)
    said = {line.strip() for line in body.splitlines()}
    assert said >= {
        *("daily", "rotate 12", "compress", "delaycompress", "missingok", "notifempty", "create 0644"),
    }
    assert "copytruncate" not in text


def test_ansible_works_there_as_in_a_clone():
    """But for what names a clone's own files."""
    ours, clone = configparser.ConfigParser(), configparser.ConfigParser()
    ours.read_string((ROLE / "templates/ansible.cfg.j2").read_text().partition("\n")[2])
    clone.read(ROOT / "ansible.cfg")
    for name in ("inventory", "collections_path", "library", "action_plugins", "roles_path"):
        clone.remove_option("defaults", name)
    assert {name: dict(ours[name]) for name in ours} == {name: dict(clone[name]) for name in clone}


def test_it_installs_the_versions_that_are_tested():
    here = set((ROOT / "requirements.txt").read_text().splitlines())
    there = set((ROLE / "files/requirements.txt").read_text().splitlines())
    assert {line for line in here if line[:1] not in ("", "#", "-")} <= there
    assert all("==" in line for line in there if not line.startswith("#"))


# ---- the archive of the collection -----------------------------------------------------------------------------------
def test_the_archive_has_what_a_night_needs_and_nothing_of_a_clone():
    found = {name.removeprefix("ansible_collections/homelab/nixos/") for name in names(packer.pack(ROOT))}
    assert {
        *("galaxy.yml", "playbooks/nightly.yml", "playbooks/files/rollback.sh", "meta/runtime.yml"),
        *("plugins/modules/lab_run.py", "roles/update/tasks/open.yml", "roles/controller/meta/argument_specs.yml"),
    } <= found
    assert {name.partition("/")[0] for name in found} <= set(packer.CONTENTS)
    assert [name for name in found if "__pycache__" in name or "/." in name] == []


def test_the_same_files_make_the_same_archive_wherever_and_whenever(tmp_path: Path):
    copy = tmp_path / "copy"
    for name in packer.CONTENTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, copy_function=shutil.copyfile)
    (copy / "galaxy.yml").write_bytes((ROOT / "galaxy.yml").read_bytes())
    for name in ("LICENSE", "README.md"):
        shutil.copyfile(ROOT / name, copy / name)
    assert packer.pack(copy) == packer.pack(ROOT)
    (copy / "plugins/modules/__pycache__").mkdir(exist_ok=True)
    (copy / "plugins/modules/__pycache__/lab_run.pyc").write_text("compiled")
    assert packer.pack(copy) == packer.pack(ROOT)
    (copy / "playbooks/nightly.yml").write_text("[]")
    assert packer.pack(copy) != packer.pack(ROOT)


def test_it_prints_the_digest_of_what_it_wrote(tmp_path: Path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/one.py").write_text("1")
    argv = [sys.executable, str(PACKER), str(tmp_path), str(tmp_path / "archive.tar.gz")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    sums = subprocess.run(["sha256sum", tmp_path / "archive.tar.gz"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == sums.stdout.split()[0]
    assert names((tmp_path / "archive.tar.gz").read_bytes()) == ["ansible_collections/homelab/nixos/plugins/one.py"]


# ---- the page --------------------------------------------------------------------------------------------------------
def test_the_page_names_options_and_settings_that_there_are():
    named = set(re.findall(r"\blab_[a-z_]+", DOCS))
    assert len(named & DEFAULTS.keys()) > 10
    assert named - DEFAULTS.keys() - SETTINGS.keys() - {"lab_controller_hosts"} == set()


def test_the_page_s_table_of_confinement_is_that_of_the_unit():
    unit = (ROLE / "templates/lab-auto-update.service.j2").read_text()
    hardening = unit.split("{% if lab_controller_hardening | bool %}")[1]
    there = set(re.findall(r"^(\w+)=", hardening, re.MULTILINE))
    rows = "\n".join(re.findall(r"^\| (`.*?) \|", DOCS.split("## What the service may do")[1], re.MULTILINE))
    assert set(re.findall(r"`([A-Z]\w+)", rows)) == there


def test_the_readme_leads_to_it():
    assert "](docs/controller.md)" in (ROOT / "README.md").read_text()
