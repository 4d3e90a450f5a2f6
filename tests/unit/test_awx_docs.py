"""The pages for AWX and Semaphore, and the surveys to import, speak of what there is."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from ansible_collections.homelab.nixos.plugins.plugin_utils import _specification

from tests.unit.plugins.module_utils.test_artifacts import artifacts
from tests.unit.test_settings import DEFAULTS, ROOT, SPECIFICATION

AWX = (ROOT / "docs/awx.md").read_text()
SEMAPHORE = (ROOT / "docs/semaphore.md").read_text()
SURVEYS: dict[str, dict[str, Any]] = {
    file.name: json.loads(file.read_text()) for file in (ROOT / "docs").glob("awx-survey*.json")
}
# what the rollback takes, as its playbook has it
OF_ROLLBACK = {"lab_rollback_to": "proven", "lab_rollback_reboot": True, "lab_yes": False}


def test_the_surveys_are_such_as_awx_imports():
    assert len(SURVEYS) == 2
    for name, survey in SURVEYS.items():
        assert survey.keys() == {"name", "description", "spec"}
        for question in survey["spec"]:
            assert question["type"] in ("text", "multiplechoice", "integer")
            assert question["question_name"] and question["question_description"]
            kind = int if question["type"] == "integer" else str
            assert type(question["default"]) is kind
            assert question["default"] in question.get("choices", [question["default"]])
        assert f"({name})" in AWX


def test_an_answer_that_nobody_changes_is_the_default_but_for_the_end_of_the_night():
    night = {question["variable"]: question["default"] for question in SURVEYS["awx-survey.json"]["spec"]}
    given = _specification.typed(night)
    assert given.problems == []
    assert given.settings.pop("lab_deadline") == 14100
    assert given.settings == {name: DEFAULTS[name] for name in given.settings}


def test_every_choice_is_one_that_the_setting_has():
    for question in SURVEYS["awx-survey.json"]["spec"]:
        option = SPECIFICATION["options"][question["variable"]]
        if "choices" in option:
            assert question["choices"] == option["choices"]
        for choice in question.get("choices", ()):
            assert _specification.typed({question["variable"]: choice}).problems == []


def test_a_rollback_that_nobody_confirms_touches_nothing():
    asked = {question["variable"]: question["default"] for question in SURVEYS["awx-survey-rollback.json"]["spec"]}
    playbook = (ROOT / "playbooks/rollback.yml").read_text()
    for name, default in OF_ROLLBACK.items():
        said = "true" if default is True else "false" if default is False else f"'{default}'"
        assert f"{name} | default({said})" in playbook
    assert {name: yaml.safe_load(answer) for name, answer in asked.items()} == OF_ROLLBACK


def test_the_deadline_is_as_long_before_the_timeout_as_it_says():
    (timeout, more) = re.findall(r"\| \*Timeout\* \| `(\d+)`, (\d+) more", AWX)[0]
    deadlines = set(re.findall(r"lab_deadline\"?: (\d+)", AWX + SEMAPHORE))
    assert deadlines == {str(int(timeout) - int(more))}


def test_what_is_said_of_the_artifacts_is_what_there_is():
    table = AWX.split("| `lab_night_result.` | |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (`[^|]+) \| (.*) \|$", table, re.MULTILINE)
    told = artifacts()
    named = {name.removesuffix(".NAME") for head, _text in rows for name in re.findall(r"`([^`]+)`", head)}
    assert named == told.keys()
    text = {head.strip("`"): set(re.findall(r"`(\w+)`", said)) for head, said in rows}
    host = told["hosts"]["web"]
    assert text["hosts.NAME"] == {*host, "copy", "activation", "reboot", "rollback", "probe", "verification"}
    assert text["spans"] == {*told["spans"][0], *(span["step"] for span in told["spans"])}
    assert text["inputs"] == {*told["inputs"][0], *told["inputs"][0]["before"]}
    assert text["durations"] == told["durations"].keys()
    assert f"| `version` | {told['version']} |" in table
    assert "all ten are there" in table and len(told["outcomes"]) == 10


@pytest.mark.parametrize("text", [AWX, SEMAPHORE], ids=["awx", "semaphore"])
def test_every_setting_test_and_file_they_name_is_one(text: str):
    words = " ".join(re.findall(r"`([^`\n]+)`", text))
    known = {*DEFAULTS, *OF_ROLLBACK, "lab_night_result"}
    assert set(re.findall(r"\blab_[a-z_]+", words)) - known == set()
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in tests] == []
    files = re.findall(r"`((?:playbooks|inventory)/[\w.-]+\.yml|nightly\.yml|ansible\.cfg|bindep\.txt)`", text)
    assert len(files) > 2
    assert [name for name in files if not (ROOT / name).exists()] == []
    links = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_the_readme_leads_to_them():
    readme = (ROOT / "README.md").read_text()
    assert "](docs/awx.md)" in readme
    assert "](docs/semaphore.md)" in readme
