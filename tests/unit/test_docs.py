"""The pages in docs speak of what there is: tests, settings, units and files are those of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml
from ansible_collections.homelab.nixos.plugins.module_utils import (
    _activation_unit,
    _bootstrap,
    _info,
    _nix,
    _resume,
    _revert_units,
    _settings,
    _state,
    _transaction,
)

ROOT = Path(__file__).parents[2]
SAFETY = (ROOT / "docs/safety.md").read_text()
UPDATES = (ROOT / "docs/updates.md").read_text()
ROLLOUT = (ROOT / "docs/rollout.md").read_text()
BOOTSTRAP = (ROOT / "docs/bootstrap.md").read_text()
SECURITY = (ROOT / "docs/security.md").read_text()
MONITORING = (ROOT / "docs/monitoring.md").read_text()
NOTIFICATIONS = (ROOT / "docs/notifications.md").read_text()
DEFAULTS = yaml.safe_load((ROOT / "roles/update/defaults/main.yml").read_text())
ROLLBACK = (ROOT / "playbooks/files/rollback.sh").read_text()


# how many tests each names at the least
PAGES = {
    "safety": (SAFETY, 21),
    "updates": (UPDATES, 21),
    "rollout": (ROLLOUT, 21),
    "bootstrap": (BOOTSTRAP, 10),
    "security": (SECURITY, 5),
    "monitoring": (MONITORING, 9),
    "notifications": (NOTIFICATIONS, 10),
}


@pytest.mark.parametrize(("text", "least"), PAGES.values(), ids=PAGES)
def test_every_test_it_names_exists_and_is_long_where_it_says_so(text: str, least: int):
    named = dict(re.findall(r"`(test_\w+)`(,? ?\(?soak\)?)?", text))
    assert len(named) >= least
    soak = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        source = file.read_text()
        whole = re.search(r"^pytestmark = .*soak", source, re.MULTILINE) is not None
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                soak[node.name] = whole or any("soak" in ast.unparse(each) for each in node.decorator_list)
    assert [name for name in named if name not in soak] == []
    # a parametrized test may have long cases beside the others
    assert {name for name, said in named.items() if said and not soak[name]} == set()
    assert {name for name, said in named.items() if soak[name] and not said} == set()


@pytest.mark.parametrize("text", [text for text, _least in PAGES.values()], ids=PAGES)
def test_every_setting_it_names_is_one(text: str):
    playbooks = "\n".join(file.read_text() for file in (ROOT / "playbooks").glob("*.yml"))
    named = set(re.findall(r"\blab_[a-z_]+", "\n".join(re.findall(r"`([^`\n]+)`", text))))
    modules = {file.stem for file in (ROOT / "plugins/modules").glob("*.py")}
    assert named & {
        "lab_confirm_timeout",
        "lab_fetch_timeout",
        "lab_max_bad",
        "lab_nix_options",
        "lab_managed",
        "lab_notify",
    }
    known = set(DEFAULTS) | set(re.findall(r"\{\{ (lab_[a-z_]+) \| default", playbooks)) | modules
    assert named - known - {name for name in named if name.startswith("lab_auto_update")} == set()


def test_times_have_the_defaults_that_it_says():
    rows = dict(re.findall(r"^\| `(lab_\w+)` \| (\d+) s \|", SAFETY, re.MULTILINE))
    assert len(rows) == 5
    assert {name: int(seconds) for name, seconds in rows.items()} == {name: DEFAULTS[name] for name in rows}
    both = DEFAULTS["lab_activation_timeout"] + DEFAULTS["lab_confirm_timeout"]
    assert f"has both: {both} s" in SAFETY
    question = DEFAULTS["lab_settle"] + DEFAULTS["lab_confirm_timeout"] + 180
    verification = question + DEFAULTS["lab_reboot_delay"] + 60 + DEFAULTS["lab_reboot_timeout"]
    assert f"| (verification) | {verification} s |" in SAFETY
    assert f"killed {_revert_units.STOP_SECONDS} s later" in SAFETY
    assert f"the newest {_state.REMEMBERED} |" in SAFETY


def test_every_unit_it_names_is_one_and_none_is_missing():
    named = set(re.findall(r"`(lab-auto-update-[a-z-]+\.(?:service|timer))`", SAFETY))
    (rollback,) = re.findall(r"^unit=(\S+)$", ROLLBACK, re.MULTILINE)
    units = {
        *(_revert_units.ACTIVATION, _revert_units.REVERT, _activation_unit.BOOT, _info.BOOT_GUARD, rollback),
        *(_resume.UNIT, _resume.REBOOT_UNIT),
        *map(_revert_units.timer, _revert_units.STAGES),
    }
    assert named == units


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        (
            f"| in `{_state.DIRECTORY}/` | |",
            {
                *(_state.TRANSACTION, _state.LAST, _state.FAILED, _state.DEFERRALS, _state.BOOT_GUARD, "rollback.log"),
                DEFAULTS["lab_hold_file"].removeprefix(f"{_state.DIRECTORY}/"),
                *(_state.RESUME, _state.RESUMING, "rollout-….json"),
            },
        ),
        (
            f"| GC root in `{_nix.GC_ROOTS}/` | |",
            {
                root.rpartition("/")[2]
                for root in (_nix.TARGET_ROOT, _nix.FROM_ROOT, _nix.PROVEN_ROOT, _nix.PYTHON_ROOT)
            },
        ),
    ],
)
def test_files_and_roots_are_those_of_the_code(heading: str, names: set[str]):
    table = SAFETY.split(heading)[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)) == names


def test_every_absolute_path_of_ours_is_one():
    ours = set(re.findall(r"/[\w./-]*lab-auto-update/[\w.-]+", SAFETY))
    files = {f"{_state.DIRECTORY}/{name}" for name in (_state.TRANSACTION, _state.LAST, _state.FAILED)}
    assert ours <= files | {_nix.TARGET_ROOT, _nix.FROM_ROOT, _nix.PROVEN_ROOT}


def test_the_diagrams_name_the_steps_of_the_protocol():
    diagrams = "\n".join(re.findall(r"```mermaid\n(.*?)```", SAFETY, re.DOTALL))
    named = set(re.findall(r"\bstep (\w+)", diagrams))
    # a rollback is begun from anywhere
    assert named == set(_transaction.STEPS) - {"rollback"}


def test_the_grades_are_those_of_the_code():
    table = SAFETY.split("(`boot_recovery`):")[1].split("\n\n")[1]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == ["automatic", "on_reset", "manual"]


def test_the_line_for_the_console_is_that_of_the_playbook():
    (line,) = re.findall(r"^S=\$\(readlink.*$", SAFETY, re.MULTILINE)
    comment = re.search(r"^#   (S=.*)\n#   (.*)$", (ROOT / "playbooks/rollback.yml").read_text(), re.MULTILINE)
    assert comment is not None
    assert line == f"{comment[1]} {comment[2]}"


def test_the_module_of_the_host_is_the_flakes():
    assert re.search(r"nixosModules = \{\s*host = ", (ROOT / "flake.nix").read_text())
    assert "options.services.lab-auto-update-host" in (ROOT / "nix/host.nix").read_text()
    assert "nixosModules.host" in SAFETY
    assert "services.lab-auto-update-host.enable = true" in SAFETY


def test_what_finishes_a_night_is_called_the_same_everywhere():
    module = (ROOT / "nix/host.nix").read_text()
    script = (ROOT / "nix/resume.sh").read_text()
    assert f"systemd.services.{_resume.UNIT.removesuffix('.service')} = " in module
    assert f"{_state.DIRECTORY}/{_state.RESUME}" in module
    assert f"$state/{_state.RESUME}\n" in script and f"$state/{_state.RESUMING}\n" in script
    playbook = (ROOT / f"playbooks/{_resume.PLAYBOOK.rpartition('.')[2]}.yml").read_text()
    assert f"{_state.DIRECTORY}/{_state.RESUMING}" in playbook
    for unit in (_resume.UNIT, _resume.REBOOT_UNIT):
        assert f"={unit}\n" in ROLLBACK


def test_the_readme_leads_to_it():
    readme = (ROOT / "README.md").read_text()
    assert "](docs/safety.md)" in readme
    assert "](docs/updates.md)" in readme
    assert "](docs/rollout.md)" in readme
    assert "](docs/bootstrap.md)" in readme


def test_the_settings_of_the_bootstrap_are_those_of_its_playbook():
    playbook = (ROOT / "playbooks/bootstrap.yml").read_text()
    defaults = dict(re.findall(r"\{\{ (lab_bootstrap_\w+) \| default\('?(.*?)'?\) \}\}", playbook))
    rows = dict(re.findall(r"^\| `(lab_bootstrap_\w+)` \| (.*?) \|", BOOTSTRAP, re.MULTILINE))
    assert {name: default.strip('`"') for name, default in rows.items()} == defaults
    assert set(defaults) <= set(_settings.OF_OTHER_PLAYBOOKS)


def test_the_lines_of_the_bootstrap_are_those_of_the_code():
    code = (ROOT / "plugins/module_utils/_bootstrap.py").read_text()
    lines = re.findall(r"^\| `([^`]+;)`(?:, `([^`]+;)`)? \|", BOOTSTRAP, re.MULTILINE)
    assert len(lines) == 4
    assert [line for row in lines for line in row if line.partition(" = ")[0] not in code] == []
    for path in (_bootstrap.ROOTED_PYTHON, _bootstrap.SYSTEM_PYTHON, _nix.PYTHON_ROOT):
        assert path in BOOTSTRAP
    assert _bootstrap.ROOM == 1024
    assert "With less than 1 GiB free" in BOOTSTRAP
