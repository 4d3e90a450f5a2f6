"""One vocabulary: the defaults, the specification, the example and the README name the same settings."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DEFAULTS = yaml.safe_load((ROOT / "roles/update/defaults/main.yml").read_text())
SPECIFICATION = yaml.safe_load((ROOT / "roles/update/meta/argument_specs.yml").read_text())["argument_specs"]["open"]


def test_defaults_are_those_of_the_specification():
    assert {name: option["default"] for name, option in SPECIFICATION["options"].items()} == DEFAULTS


def test_every_setting_is_a_lab_setting():
    assert all(name.startswith("lab_") for name in DEFAULTS)


def test_every_setting_is_used():
    # the controller's own are read by what runs there
    files = [
        *(ROOT / "roles/update").rglob("*.yml"),
        *(ROOT / "playbooks").glob("*.yml"),
        ROOT / "plugins/action/lab_run.py",
    ]
    used = "\n".join(file.read_text() for file in files if file.parent.name not in ("defaults", "meta"))
    assert [name for name in DEFAULTS if not re.search(rf"\b{name}\b", used)] == []


def test_the_readme_has_every_setting_with_its_default():
    section = (ROOT / "README.md").read_text().split("\n## Settings\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(lab_\w+)` \| (.*?) \|", section, re.MULTILINE))
    assert rows.keys() == DEFAULTS.keys()
    for name, default in DEFAULTS.items():
        if isinstance(default, int | str) and default != "" and "{{" not in str(default):
            assert rows[name].strip("`") == str(default).replace("True", "true").replace("False", "false"), name
