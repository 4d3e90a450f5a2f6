"""Hostile values in every setting are refused by name before any host is contacted, or passed word for word.

The table is held against the specification, so that a new setting says how it takes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from ansible_collections.homelab.nixos.plugins.action.lab_run import _LANGUAGES
from ansible_collections.homelab.nixos.plugins.module_utils import (
    _ask_checks,
    _flake_build,
    _flake_update,
    _history,
    _nix,
    _plan,
    _realise,
    _reboot,
    _rebuild,
    _resume,
    _settings,
    _ssh_config,
    _transaction,
    _user_checks,
    _vitals,
)
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._flake_places import Deadline, Git, find_place
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact
from ansible_collections.homelab.nixos.plugins.module_utils._settings import Host
from ansible_collections.homelab.nixos.plugins.plugin_utils import _known, _specification

from tests.unit.test_settings import DEFAULTS, ROOT, SPECIFICATION

OPTIONS: dict[str, dict[str, Any]] = SPECIFICATION["options"]
HOSTILE = {
    "shell": "; rm -rf /tmp/x",
    "substitution": "$(touch /tmp/x)",
    "option": "--upload-pack=touch /tmp/x",
    "ssh option": "-oProxyCommand=touch /tmp/x",
    "path": "/srv/../$(touch x); rm -rf x",
    "parent": "../../etc/shadow",
    "url": "ssh-ng://-oProxyCommand=sh",
    "template": "{{ 7*7 }}",
    "newline": "web\nnas",
    "nul": "web\0nas",
    "surrogate": "web\udcffnas",
    "long": "x" * 100_000,
    "empty": "",
}
# no program can be handed these, and no setting takes them
NEVER = {"nul", "surrogate", "long"}
# those of a plain word, of several lines, of a path, and of none at all
WORD = set(HOSTILE) - NEVER - {"newline", "empty"}
PATHS = {"substitution", "path"}
NOTHING = {"empty"}


class Recorder:
    """A machine that runs nothing, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.rc = 0

    def __call__(self, argv: Sequence[str], **_rest: Any) -> Completed:
        self.calls.append(list(argv))
        return Completed(tuple(argv), self.rc, "", "")


Words = Callable[[str, Recorder, Path], None]


@dataclass(frozen=True)
class Way:
    """How a setting takes them: C(put) writes one into it, C(passes) are those that it takes, and C(words) run what
    it is handed to. Without words no program is ever handed it: it is compared here, or opened by its path.
    """

    put: Callable[[str], object]
    passes: Collection[str] = ()
    words: Words | None = None


def _vital(option: str) -> Words:
    def ask(text: str, run: Recorder, _directory: Path) -> None:
        run.rc = 1
        wanted: dict[str, Any] = {option: text if option == "hold_file" else [text]}
        _vitals.examine(run, _vitals.Wanted(**wanted))

    return ask


def _flake(text: str, run: Recorder, directory: Path) -> None:
    place = directory / text.replace("/", "_")
    place.mkdir()
    (place / "flake.nix").touch()
    find_place(run, str(place), Git(), Deadline(60)).revision()


def _evaluate(text: str, run: Recorder, _directory: Path) -> None:
    bounds = _flake_build.Limits(memory=1024, workers=1)
    with pytest.raises(LabError):  # a machine that runs nothing names no derivation
        _flake_build.evaluate(run, "git+file:///srv/flake", [text], {}, bounds, Deadline(60))


def _sign(text: str, run: Recorder, directory: Path) -> None:
    key = directory / text.replace("/", "_")
    key.touch()
    _flake_build.sign(run, str(key), ["/nix/store/x"], {}, Deadline(60))


def _option(text: str, run: Recorder, _directory: Path) -> None:
    run([*_nix.NIX, *_nix.option_args({"builders": text})])


def _substituters(text: str, run: Recorder, _directory: Path) -> None:
    run(["nix-store", "--realise", *_realise._options(_realise.Request("/nix/store/x", [text]))])


def _identity(text: str, run: Recorder, _directory: Path) -> None:
    lines = _ssh_config.ssh_config("web", host_name="web", identity_file=text).splitlines()
    run([line.split(" ", 3)[3].strip('"') for line in lines if line.startswith("  IdentityFile ")])


def _announced(text: str, run: Recorder, _directory: Path) -> None:
    run(_reboot.order("+2", text))
    run([word.replace("$$", "$") for word in _resume.order(1, "+2", text)])


def _command(text: str, run: Recorder, _directory: Path) -> None:
    _ask_checks.ask_all(run, "/bin", _user_checks.parse(_check(text)), {})


def _check(text: str) -> list[dict[str, Any]]:
    return [{"name": "page", "kind": "command", "argv": ["curl", text]}]


def itself(text: str) -> object:
    return text


def one(text: str) -> object:
    return [text]


WAYS = {
    "lab_stage": Way(itself, NOTHING),
    "lab_stages": Way(one, WORD),
    "lab_batch": Way(itself),
    "lab_depends_on": Way(one),
    "lab_never_together": Way(lambda text: [[text, "web"]]),
    "lab_hypervisor_of": Way(one),
    "lab_max_bad": Way(itself),
    "lab_critical_stages": Way(one),
    "lab_flake_host": Way(itself),
    "lab_flake": Way(itself, PATHS, _flake),
    "lab_attribute": Way(itself, WORD - {"option", "ssh option"}, _evaluate),
    "lab_inputs": Way(one),
    "lab_nix_options": Way(lambda text: {"builders": text}, WORD | NOTHING | {"newline"}, _option),
    "lab_push_key": Way(itself, PATHS | NOTHING, _identity),
    "lab_signing_key": Way(itself, PATHS | NOTHING, _sign),
    "lab_cache": Way(itself, NOTHING),
    "lab_substituters": Way(one, {"parent"}, _substituters),
    "lab_window": Way(itself, NOTHING),
    "lab_hold": Way(itself, WORD | NOTHING | {"newline"}),
    "lab_hold_file": Way(itself, PATHS, _vital("hold_file")),
    "lab_ignored_users": Way(one, WORD),
    "lab_busy_units": Way(one, WORD, _vital("busy_units")),
    "lab_other_updaters": Way(one, WORD, _vital("other_updaters")),
    "lab_alerts_url": Way(itself, NOTHING),
    "lab_alerts_labels": Way(lambda text: {"instance": text}, WORD),
    "lab_ignored_alerts": Way(one, WORD),
    "lab_silence_url": Way(itself, NOTHING),
    "lab_mounts": Way(one, PATHS, _vital("mounts")),
    "lab_services": Way(one, WORD, _vital("services")),
    "lab_checks": Way(_check, WORD | NOTHING | {"newline"}, _command),
    "lab_ignored_units": Way(one, WORD),
    "lab_check_levels": Way(lambda text: {text: "required"}),
    "lab_controller": Way(itself, {"parent", "url"} | NOTHING),
    "lab_state_directory": Way(itself, PATHS | NOTHING),
    "lab_report_directory": Way(itself, PATHS | NOTHING),
    "lab_metrics_directory": Way(itself, PATHS | NOTHING),
    "lab_reboot_message": Way(itself, WORD | NOTHING, _announced),
    "lab_title": Way(itself, WORD | NOTHING),
    "lab_notify": Way(one),
    "lab_ping_url": Way(itself, NOTHING),
}
# and where a dictionary has names, these
NAMES = {
    "lab_nix_options": lambda text: {text: "x"},
    "lab_alerts_labels": lambda text: {text: "x"},
    "lab_batch": lambda text: {text: 1},
    "lab_max_bad": lambda text: {text: 1},
}
# a number, a choice, and yes or no are no words at all
TYPES = ("bool", "int")


def problems(setting: str, value: object) -> list[str]:
    """What stops a run over one host, before any host is contacted."""
    settings = DEFAULTS | {"lab_attribute": 'a."web"', "lab_flake_host": "web", setting: value}
    if setting in ("lab_cache", "lab_substituters"):
        settings["lab_delivery"] = "pull"
    found = _specification.typed(settings)
    if found.problems:
        return list(found.problems)
    host = Host("web", True, found.settings)
    told = [_settings.sentences([each], ["web"]) for each in _settings.check_values([host], ["web"], _LANGUAGES)]
    return told or _unplanned(host.settings)


def _unplanned(settings: Mapping[str, Any]) -> list[str]:
    """As the plan is made in the same breath."""
    short = {name.removeprefix("lab_"): value for name, value in settings.items()}
    kept = {name: short[name] for name in ("stages", "batch", "max_bad", "critical_stages", "never_together")}
    try:
        _plan.plan([_plan.Host.of(short | {"name": "web", "managed": True, "stage": ""})], **kept)
    except LabError as error:
        return [str(error)]
    return []


def test_every_setting_says_how_it_takes_hostile_values():
    words = {name for name, option in OPTIONS.items() if option["type"] not in TYPES and "choices" not in option}
    assert WAYS.keys() == words
    for name in NAMES:
        assert OPTIONS[name]["type"] in ("dict", "raw")


@pytest.mark.parametrize("setting", OPTIONS)
def test_hostile_values_are_refused_by_name_or_passed_word_for_word(setting: str, tmp_path: Path):
    for kind, text in HOSTILE.items():
        _is_taken_as_the_table_says(setting, WAYS.get(setting, Way(itself)), kind, text, tmp_path)


@pytest.mark.parametrize("setting", [name for name, option in OPTIONS.items() if option["type"] in ("list", "dict")])
def test_they_are_no_better_as_the_text_of_a_survey(setting: str):
    way = WAYS[setting]
    for kind, text in HOSTILE.items():
        told = problems(setting, json.dumps(way.put(text)))
        if kind in way.passes:
            assert told == [], kind
        else:
            assert any(setting in sentence for sentence in told), (kind, told)


@pytest.mark.parametrize("between", ["\n", ", "])
def test_a_hostile_line_of_a_list_is_refused_by_the_name_of_its_setting(between: str):
    (told,) = problems("lab_inputs", f"nixpkgs{between}{HOSTILE['option']}")
    assert "lab_inputs" in told


def _is_taken_as_the_table_says(setting: str, way: Way, kind: str, text: str, directory: Path) -> None:
    told = problems(setting, way.put(text))
    if kind not in way.passes:
        assert any(setting in sentence for sentence in told), (kind, told)
        # with a remedy: another sentence, or what it may be
        assert all(len(sentence.split()) > 5 for sentence in told)
        return
    assert told == [], kind
    if way.words is None or text == "":
        return
    run = Recorder()
    way.words(text, run, directory)
    handed = [(argv, at) for argv in run.calls for at, word in enumerate(argv) if _is_in(text, word)]
    assert handed, run.calls
    for argv, at in handed:
        # no shell is handed it, and where it begins as an option does, options have ended or its own takes it as value
        assert argv[0] != "sh"
        assert not argv[at].startswith("-") or _ends_options(argv[:at])


def _is_in(text: str, word: str) -> bool:
    return any(form in word for form in (text, text.replace("/", "_"))) or text in unquote(word)


def _ends_options(before: Sequence[str]) -> bool:
    return "--" in before or before[-2:-1] == ["--option"] or before[0] == "env"


@pytest.mark.parametrize("setting", NAMES)
def test_a_hostile_name_within_a_setting_is_refused(setting: str):
    for kind, text in HOSTILE.items():
        assert any(setting in sentence for sentence in problems(setting, NAMES[setting](text))), kind


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_name_or_address_of_a_host_is_refused(kind: str):
    text = HOSTILE[kind]
    if kind != "empty":
        host = Host(text, True, DEFAULTS | {"lab_flake_host": "localhost", "lab_attribute": "x"})
        assert any("name of a GC root" in each.what for each in _settings.check_values([host], [text]))
    named = _settings.check_hosts({text: None})
    addressed = _settings.check_hosts({"web": text})
    assert bool(named) == bool(addressed) == (kind in {"option", "ssh option", "newline"} | NEVER)


def test_a_secret_is_not_shown_where_its_setting_is_refused():
    for setting, value in {
        "lab_nix_options": {"access-tokens": "example.org=c4n4ry"},
        "lab_checks": [{"name": "x", "kind": "command", "argv": ["curl", "--token", "c4n4ry", "\0"]}],
        "lab_cache": "https//user:c4n4ry@example.org",
        "lab_alerts_url": "ftp://user:c4n4ry@example.org",
        "lab_silence_url": "ftp://user:c4n4ry@example.org",
        "lab_notify": ["json://hooks.example/c4n4ry", "c4n4ry://c4n4ry"],
        "lab_ping_url": "hc-ping.com/c4n4ry",
    }.items():
        told = " ".join(problems(setting, value))
        assert setting in told
        assert "c4n4ry" not in redact(told)


# ---- the options of modules, for whoever calls one by itself -------------------------------------------------------
def _parsed(option: str) -> Callable[[str], object]:
    """nixos_rebuild with a hostile option."""
    good: dict[str, Any] = {
        "action": "build",
        "system": None,
        "options": {},
        "ignored_units": [],
        "phase": None,
        "run_id": None,
        "controller": None,
        "check_mode": False,
        "timeout": 1,
        "confirm_timeout": 1,
        "verify_timeout": 1,
        "settle": 0,
        "specialisation": None,
    }
    return lambda text: _rebuild.request(**good | {option: text})


def _left(text: str) -> object:
    return _resume.note("x", json.dumps({"argv": [text], "environment": {}, "night": {}}))


def _root_of(text: str) -> None:
    _flake_update._check(_flake_update.Request("/srv/flake", must_build={text: "a"}))


# what refuses all of them but the named kinds, the setting that is the same, or why no program is ever handed one
REFUSED: dict[tuple[str, str], tuple[Callable[[str], object], set[str]]] = {
    ("lab_claim", "run_id"): (_transaction.checked_run_id, set()),
    ("lab_claim", "dead_run"): (_transaction.checked_run_id, set()),
    ("lab_claim", "resume"): (_left, {"path"}),
    ("lab_log", "run_id"): (_transaction.checked_run_id, set()),
    ("lab_run", "run_id"): (_transaction.checked_run_id, set()),
    ("lab_status", "since"): (lambda text: _history.since(text, 1795312800), set()),
    ("lab_status", "format"): (_known.checked_format, set()),
    ("nix_copy", "path"): (_nix.store_path, set()),
    ("nix_flake_update", "must_build"): (_root_of, set()),
    ("nix_realise", "path"): (_nix.store_path, set()),
    ("nixos_info", "target"): (_nix.store_path, set()),
    ("nixos_reboot", "expected_system"): (_nix.store_path, set()),
    ("nixos_reboot", "run_id"): (_transaction.checked_run_id, set()),
    ("nixos_rebuild", "system"): (_parsed("system"), set()),
    ("nixos_rebuild", "specialisation"): (_parsed("specialisation"), {"long"}),
    ("nixos_rebuild", "run_id"): (_transaction.checked_run_id, set()),
}
AS_SETTING = {
    **{("lab_health_check", name): f"lab_{name}" for name in ("mounts", "services", "ignored_units", "ignored_users")},
    **{("lab_health_check", name): f"lab_{name}" for name in ("busy_units", "other_updaters", "hold_file", "checks")},
    **{("lab_health_check", name): f"lab_{name}" for name in ("window", "hold", "alerts_url", "alerts_labels")},
    ("lab_health_check", "ignored_alerts"): "lab_ignored_alerts",
    ("nixos_info", "hold_file"): "lab_hold_file",
    ("lab_health_check", "baseline_units"): "lab_ignored_units",
    ("lab_health_check", "levels"): "lab_check_levels",
    ("lab_claim", "controller"): "lab_controller",
    **{("lab_tell", name): f"lab_{name}" for name in ("notify", "ping_url", "state_directory")},
    **{("lab_tell", name): f"lab_{name}" for name in ("report_directory", "metrics_directory")},
    ("lab_tell", "name"): "lab_title",
    ("lab_rollout", "path"): "lab_flake",
    ("nix_copy", "store"): "lab_cache",
    ("nix_copy", "ssh_key"): "lab_push_key",
    **{
        (name, "options"): "lab_nix_options"
        for name in ("nix_copy", "nix_flake_update", "nix_realise", "nixos_rebuild")
    },
    ("nix_flake_update", "path"): "lab_flake",
    ("nix_flake_update", "inputs"): "lab_inputs",
    ("nix_flake_update", "signing_key"): "lab_signing_key",
    ("nix_realise", "substituters"): "lab_substituters",
    ("nixos_reboot", "msg"): "lab_reboot_message",
    ("nixos_reboot", "controller"): "lab_controller",
    ("nixos_reboot", "silence_url"): "lab_silence_url",
    ("nixos_reboot", "silence_labels"): "lab_alerts_labels",
    ("nixos_rebuild", "attribute"): "lab_attribute",
    ("nixos_rebuild", "ignored_units"): "lab_ignored_units",
    ("nixos_rebuild", "controller"): "lab_controller",
}
NO_WORD = {
    **dict.fromkeys([("lab_claim", name) for name in ("reason", "controller_name", "process")], "written as JSON"),
    **dict.fromkeys([("lab_rollout", name) for name in ("run_id", "revision", "stop")], "written as JSON"),
    **dict.fromkeys([("lab_rollout", name) for name in ("critical_stages", "soaking", "hosts", "current")], "as JSON"),
    **{("lab_log", name): "written as JSON" for name in ("operation", "status", "details", "seconds")},
    **{("lab_tell", name): "as JSON, and escaped for pages" for name in ("result", "knows", "hosts", "optional")},
    ("lab_run", "hosts"): "checked here, as settings",
    ("lab_run", "lock"): "a path that is opened",
    **dict.fromkeys([("lab_status", name) for name in ("hosts", "looks")], "read, and shown escaped"),
    ("lab_status", "output"): "a path that is opened",
    ("lab_status", "query"): "compiled here, as JMESPath",
    ("nixos_info", "log"): "numbers",
    ("nix_copy", "host"): "a name of the inventory, an alias is made of it",
    ("nix_copy", "user"): "a line of a file, and no line break passes",
    ("nix_copy", "ssh_config"): "made by the action plugin, a file",
    ("nix_flake_update", "commit_message"): "behind --message=, in the same word",
    ("nix_flake_update", "gc_roots"): "the directory of a path that is joined",
    ("nixos_reboot", "witnesses"): "names of the inventory",
    ("nixos_reboot", "night"): "written as JSON",
    ("nixos_rebuild", "flake"): "before the # of an installable, behind --",
    ("nixos_rebuild", "witnesses"): "names of the inventory",
}


def test_every_option_of_every_module_says_how_it_takes_hostile_values():
    found = set()
    for file in (ROOT / "plugins/modules").glob("*.py"):
        (text,) = re.findall(r'^DOCUMENTATION = r?"""(.*?)^"""', file.read_text(), re.MULTILINE | re.DOTALL)
        for name, option in yaml.safe_load(text)["options"].items():
            if option["type"] not in TYPES and "choices" not in option:
                found.add((file.stem, name))
    assert {*REFUSED, *AS_SETTING, *NO_WORD} == found
    assert set(AS_SETTING.values()) <= WAYS.keys()


@pytest.mark.parametrize("option", REFUSED, ids=".".join)
def test_a_module_refuses_what_its_option_cannot_be(option: tuple[str, str]):
    refuse, passes = REFUSED[option]
    for kind, text in HOSTILE.items():
        if kind not in passes:
            with pytest.raises(LabError):
                refuse(text)


def test_an_alias_and_a_line_for_ssh_hold_whatever_the_inventory_says():
    for text in HOSTILE.values():
        assert re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*", _ssh_config.alias(text))
    with pytest.raises(LabError, match="User has a line break or a control character"):
        _ssh_config.ssh_config("web", host_name="web", user=HOSTILE["newline"])
