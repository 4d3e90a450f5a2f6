"""Settings as a survey gives them: as text, empty, or not at all."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from ansible_collections.homelab.nixos.plugins.module_utils import _answers
from ansible_collections.homelab.nixos.plugins.plugin_utils import _specification

from tests.unit.test_settings import DEFAULTS, ROOT, SPECIFICATION

OPTIONS = SPECIFICATION["options"]
CHECK = {"name": "shop", "kind": "http", "url": "https://shop.example/health"}
# For each setting that is no plain text, number or truth: what it may be, and how people may write that.
STRUCTURES: dict[str, list[tuple[object, str]]] = {
    "lab_batch": [({"dev": "50%", "infra": 3}, "dev: 50%\ninfra: 3"), ({"dev": "50%"}, "dev: 50%"), ("25%", "25%")],
    "lab_max_bad": [({"all": "10%", "infra": 1}, "{all: 10%, infra: 1}")],
    "lab_never_together": [
        ([["web", "monitor"], ["dns1", "dns2"]], "web, monitor\ndns1, dns2"),
        ([["hypervisors"]], "- [hypervisors]"),
    ],
    "lab_nix_options": [
        ({"max-jobs": 4, "cores": 2}, "max-jobs: 4\ncores: 2\n"),
        ({"access-tokens": "github.com=x"}, "access-tokens: github.com=x"),
        ({"max-jobs": "4", "cores": "2"}, "max-jobs=4, cores=2"),
    ],
    "lab_window": [
        (["Mon..Fri 23:00-05:30", "Sat,Sun 01:00-09:00"], "- Mon..Fri 23:00-05:30\n- Sat,Sun 01:00-09:00"),
        (["Mon..Fri 23:00-05:30", "Sat,Sun 01:00-09:00"], "Mon..Fri 23:00-05:30\n Sat,Sun 01:00-09:00\n"),
        ("Sat,Sun 01:00-09:00 Europe/Vienna", "Sat,Sun 01:00-09:00 Europe/Vienna"),
    ],
    "lab_hold": [
        ({"reason": "New disk", "until": "2026-12-24"}, "reason: New disk\nuntil: '2026-12-24'\n"),
        ("Waiting: new disk", "Waiting: new disk"),
        ("[urgent] new disk", "[urgent] new disk"),
        ("New disk: ordered,\nask: Ben: or Ann", "New disk: ordered,\nask: Ben: or Ann"),
    ],
    "lab_alerts_labels": [({"instance": "web:.*"}, "instance: web:.*"), ({"instance": "web"}, "instance=web")],
    "lab_checks": [([CHECK], yaml.safe_dump([CHECK])), ([CHECK], json.dumps([CHECK], indent=2))],
    "lab_check_levels": [({"memory": "wanted"}, "memory: wanted")],
}


def answers(name: str) -> list[tuple[object, str]]:
    """Values of a setting, each with a text that means it."""
    option = OPTIONS[name]
    match option:
        case {"choices": choices}:
            return [(choice, choice) for choice in choices]
        case {"type": "bool"}:
            words = {True: ("true", "True", "yes", "on", "1"), False: ("false", "False", "no", "off", "0")}
            return [(truth, word) for truth in words for word in words[truth]]
        case {"type": "int"}:
            return [(10, "10"), (0, "0"), (7200, " 7200 ")]
        case {"type": "str" | "path"}:
            return [("a word, {and} 10", "a word, {and} 10"), ("", "")]
        case {"type": "list", "elements": "str" | "path"}:
            two = ["/srv", "/var/lib"]
            written = (
                "/srv, /var/lib",
                "/srv,/var/lib",
                "/srv\n/var/lib\n",
                "- /srv\n- /var/lib",
                '["/srv", "/var/lib"]',
            )
            return [(["/srv"], "/srv"), *((two, text) for text in written)]
    values = [value for value, _text in STRUCTURES[name]]
    texts = [(value, json.dumps(value, indent=2)) for value in values if not isinstance(value, str)]
    return [*STRUCTURES[name], *texts]


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_setting_means_the_same_as_text(name: str):
    for value, text in [*answers(name), (DEFAULTS[name], DEFAULTS[name])]:
        given = _specification.typed({name: text})
        assert (given.settings, given.problems) == ({name: value}, []), text


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_setting_that_has_its_type_keeps_it(name: str):
    for value, _text in answers(name):
        assert _specification.typed({name: value}).settings == {name: value}


@pytest.mark.parametrize("name", sorted(OPTIONS))
@pytest.mark.parametrize("answer", [None, "", " \n"], ids=["null", "empty", "blank"])
def test_an_unanswered_question_is_nothing_where_that_can_be_and_else_is_named(name: str, answer: str | None):
    option = OPTIONS[name]
    given = _specification.typed({name: answer})
    if "choices" in option or option["type"] in ("bool", "int"):
        assert given.settings == {name: answer}
        assert given.problems == [
            f"{name} is empty. Give it a value, or leave it out; a question of a survey needs a default."
        ]
    else:
        empty = {"list": [], "dict": {}, "raw": ""}.get(option["type"], answer or "")
        assert (given.settings, given.problems) == ({name: empty}, [])


@pytest.mark.parametrize("text", ["[/, /srv", "- /\n /srv: [", "[web]*.service"])
def test_a_list_that_is_begun_and_none_is_refused_by_name(text: str):
    given = _specification.typed({"lab_mounts": text})
    assert given.settings == {"lab_mounts": text}
    assert given.problems == [
        "lab_mounts begins as a list of YAML or JSON does, and is none. Close what it opens, and quote its words."
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lab_settle", "soon"),
        ("lab_commit", "maybe"),
        ("lab_reboot", "sometimes"),
        ("lab_nix_options", "{max-jobs: [}"),
        ("lab_check_levels", "wanted"),
        ("lab_checks", "http"),
        ("lab_checks", "{name: shop}"),
    ],
)
def test_what_has_no_such_meaning_stays_and_is_told_by_name(name: str, text: str):
    given = _specification.typed({name: text, "lab_fetch_timeout": "20"})
    assert len(given.problems) == 1
    assert name in given.problems[0]
    assert given.settings["lab_fetch_timeout"] == 20
    # so whoever looks at it later says the same
    assert _specification.typed(given.settings).problems == given.problems


def test_secrets_are_not_told():
    given = _specification.typed({"lab_nix_options": "hunter2", "lab_check_levels": "{hunter2: ["})
    assert len(given.problems) == 2
    assert "hunter2" not in "".join(given.problems)


def test_ansibles_own_text_is_read_like_any_other():
    class Tagged(str):
        pass

    given = _specification.typed({"lab_nix_options": Tagged("cores: 2"), "lab_mounts": Tagged('["/", "/srv"]')})
    assert given.settings == {"lab_nix_options": {"cores": 2}, "lab_mounts": ["/", "/srv"]}


def test_nothing_is_copied_that_is_a_template_until_it_is_looked_into():
    class Lazy(dict[str, Any]):
        def __deepcopy__(self, memo: object) -> object:
            raise AssertionError

    settings = {"lab_alerts_labels": Lazy(instance="web"), "lab_checks": [Lazy(CHECK)]}
    assert _answers.typed(settings, OPTIONS, yaml.safe_load).settings == settings


def test_nothing_but_the_types_reads_a_setting_as_it_came():
    """A role's variable that reads one by itself would have a survey's text."""
    names = "|".join(DEFAULTS)
    files = [ROOT / "roles/update/vars/main.yml", *(ROOT / "roles/update/tasks").glob("*.yml")]
    assert len(files) > 10
    for file in files:
        lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
        # in quotes it is a name, and not what it has
        found = [line for line in lines if re.search(rf"(?<![\w.'])(?:{names})(?!\w)", line)]
        assert found == [], file.name
