"""The inventory plugin where the controller has Nix: a stand-in answers, and notes what it was asked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _flake_inventory

ROOT = Path(__file__).parents[4]
NIX = """\
#!/bin/sh
here=$(dirname "$0")
printf '%s\\n' "$*" >> "$here/asked"
case "$*" in *" metadata "*) cat "$here/metadata" ;; *) cat "$here/outputs" ;; esac
"""
# Ansible itself, in a process of its own: it loads one source after the other, as often as it is asked
LOADER = """\
import json, os, sys
from ansible.plugins.loader import init_plugin_loader, inventory_loader
from ansible.errors import AnsibleError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
init_plugin_loader()
for line in sys.stdin:
    source, cache, os.environ["PATH"] = json.loads(line)
    plugin, inventory = inventory_loader.get("homelab.nixos.nix_flake"), InventoryData()
    try:
        plugin.parse(inventory, DataLoader(), source, cache)
        if hasattr(plugin, "_cache"):
            plugin.update_cache_if_changed()
    except AnsibleError as error:
        answer = {"verified": plugin.verify_file(source), "error": str(error)}
    else:
        groups = {name: sorted(host.name for host in group.hosts) for name, group in inventory.groups.items()}
        hosts = {name: host.vars for name, host in inventory.hosts.items()}
        answer = {"hosts": hosts, "groups": groups, "all": inventory.groups["all"].vars}
    print(json.dumps(answer, default=str), flush=True)
"""
OUTPUTS: dict[str, Any] = {
    "hosts": ["dev", "web"],
    "lab": {
        "stages": ["first"],
        "vars": {"greeting": "{{ inventory_hostname }}!"},
        "hosts": {"dev": {"stage": "first", "tags": ["front-end"]}},
    },
}
ENVIRONMENT = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}


@pytest.fixture(scope="module")
def loader() -> Iterator[subprocess.Popen[str]]:
    # in a directory that is not that of a source
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": "/", "env": ENVIRONMENT}
    with subprocess.Popen([sys.executable, "-c", LOADER], **pipes) as process:
        yield process
        process.stdin.close()  # type: ignore[union-attr]


class Place:
    """A directory with a source, and a Nix that answers."""

    def __init__(self, directory: Path, loader: subprocess.Popen[str]) -> None:
        self.directory = directory
        self.cache = directory / "cache"
        self.source = directory / "lab.nix_flake.yml"
        self.bin = directory / "bin"
        self.path = f"{self.bin}:{os.environ['PATH']}"
        self._loader = loader
        self.bin.mkdir()
        (self.bin / "nix").write_text(NIX)
        (self.bin / "nix").chmod(0o755)
        self.configure()
        self.answer()

    def configure(self, **options: Any) -> None:
        given = {"plugin": "homelab.nixos.nix_flake", "flake": ".", "cache_connection": str(self.cache)} | options
        self.source.write_text(json.dumps(given))

    def answer(self, rev: str = "1", outputs: object = OUTPUTS, **locked: Any) -> None:
        metadata = {"url": f"git+file:///x?rev={rev}", "locked": locked or {"rev": rev}, "locks": {"nodes": {}}}
        (self.bin / "metadata").write_text(json.dumps(metadata))
        (self.bin / "outputs").write_text(json.dumps(outputs))

    def load(self, cache: bool = True) -> dict[str, Any]:
        assert self._loader.stdin and self._loader.stdout
        self._loader.stdin.write(json.dumps([str(self.source), cache, self.path]) + "\n")
        self._loader.stdin.flush()
        found: dict[str, Any] = json.loads(self._loader.stdout.readline())
        return found

    def hosts(self, cache: bool = True) -> list[str]:
        return sorted(self.load(cache)["hosts"])

    def asked(self) -> list[str]:
        """What Nix was asked since the last time."""
        log = self.bin / "asked"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return ["metadata" if " metadata " in line else "outputs" for line in lines]


@pytest.fixture
def place(tmp_path: Path, loader: subprocess.Popen[str]) -> Place:
    return Place(tmp_path, loader)


ONCE = ["metadata", "outputs"]


def test_hosts_groups_and_variables_are_those_of_the_flake_beside_the_source(place: Place):
    found = place.load()
    asked = (place.bin / "asked").read_text().splitlines()
    assert asked[0].endswith(f" {place.directory}")
    # the flake as it was looked at
    assert " git+file:///x?rev=1#. " in asked[1]
    assert {name: found["groups"][name] for name in ("first", "front_end")} == {"first": ["dev"], "front_end": ["dev"]}
    assert found["hosts"]["dev"] | {"lab_stage": "first", "lab_tags": ["front-end"]} == found["hosts"]["dev"]
    assert found["all"]["lab_stages"] == ["first"]


def test_a_value_is_a_template_as_in_any_inventory(place: Place):
    program = str(Path(sys.executable).parent / "ansible")
    command = [program, "-i", str(place.source), "web", "-m", "ansible.builtin.debug", "-a", "msg={{ greeting }}"]
    env = {**ENVIRONMENT, "PATH": place.path}
    done = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, timeout=120, check=False)
    assert "web!" in done.stdout, done


def test_what_the_flake_does_not_know_is_composed(place: Place):
    place.configure(
        strict=True,
        compose={"ansible_host": "inventory_hostname ~ '.example'", "stages": "lab_stages | length"},
        groups={"early": "lab_stage | default('') == 'first'"},
        keyed_groups=[{"key": "lab_tags | default([])", "prefix": "tag"}],
    )
    found = place.load()
    assert found["hosts"]["web"]["ansible_host"] == "web.example"
    assert found["hosts"]["web"]["stages"] == 1
    assert found["groups"]["early"] == found["groups"]["tag_front_end"] == ["dev"]


def test_the_flake_is_asked_once_until_it_changes(place: Place):
    first = place.load()
    assert place.asked() == ONCE
    assert place.load() == first
    assert place.asked() == ["metadata"]
    place.answer(rev="2", outputs={"hosts": ["dev"], "lab": None})
    assert place.hosts() == ["dev"]
    assert place.asked() == ONCE
    # one entry, however many commits
    assert len(list(place.cache.iterdir())) == 1


def test_flush_cache_asks_anew_and_cache_false_always_does(place: Place):
    place.load()
    place.answer(outputs={"hosts": ["dev"], "lab": None})
    assert place.hosts() == ["dev", "web"]
    assert place.hosts(cache=False) == ["dev"]
    assert place.hosts() == ["dev"]
    assert place.asked() == [*ONCE, "metadata", *ONCE, "metadata"]
    place.configure(cache=False)
    assert place.hosts() == place.hosts() == ["dev"]
    assert place.asked() == ONCE * 2


def test_another_question_is_not_answered_from_the_cache(place: Place):
    place.load()
    place.configure(nix_options={"tarball-ttl": 0})
    place.load()
    place.configure(flake="elsewhere")
    place.load()
    assert place.asked() == ONCE * 3


def test_what_is_not_committed_is_not_kept(place: Place):
    place.answer(dirtyRev="1-dirty", narHash="sha256-x")
    place.load()
    place.load()
    assert place.asked() == ONCE * 2


def test_what_was_refused_is_refused_again(place: Place):
    place.answer(outputs={"hosts": ["dev"], "lab": {"stage": []}})
    for _ in range(2):
        assert place.load()["error"] == "lab.stage is not known. The keys of lab are: stages, vars, hosts, groups."


@pytest.mark.parametrize("content", ["{", "[]", '{"identity": 1}', ""])
def test_a_damaged_cache_costs_no_host(place: Place, content: str):
    place.load()
    for entry in place.cache.iterdir():
        entry.write_text(content)
    assert place.hosts() == place.hosts() == ["dev", "web"]
    assert place.asked() == [*ONCE, *ONCE, "metadata"]


def test_a_cache_that_cannot_be_written_costs_no_host(place: Place):
    place.configure(cache_connection="/proc/nowhere")
    assert place.hosts() == ["dev", "web"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flaek": "."}, "flaek is not an option of nix_flake. The options are: cache, "),
        ({"flake": "/etc/nixos#lab"}, "flake is '/etc/nixos#lab', which is neither a directory nor a flake reference."),
        ({"timeout": 0}, "timeout is 0. It is a number of seconds, at least 1."),
        ({"nix_options": {"access-tokens": "x"}}, "access-tokens is a secret and cannot be an option."),
        ({"ssh_args": "-v"}, "ssh_args is set, and ssh is not."),
        ({"strict": True, "compose": {"x": "nobody"}}, "Could not set x for host dev: 'nobody' is undefined"),
    ],
)
def test_a_source_that_is_wrong_is_refused_in_a_sentence(place: Place, options: dict[str, Any], words: str):
    place.configure(**options)
    assert words in place.load()["error"]


def test_nix_that_hangs_has_an_end(place: Place):
    (place.bin / "nix").write_text("#!/bin/sh\nsleep 100\n")
    place.configure(timeout=1)
    assert "on this controller took longer than 1 s. Raise timeout" in place.load()["error"]


def test_a_controller_without_nix_is_told_the_way_round(place: Place):
    place.path = "/usr/bin:/bin"
    assert place.load()["error"] == (
        "This controller has no nix, and the inventory needs it to ask the flake. "
        "Set ssh to a machine that has Nix and the flake, for example root@builder."
    )


def test_the_documentation_names_every_key():
    text = (ROOT / "plugins/inventory/nix_flake.py").read_text()
    for key in _flake_inventory._LAB_KEYS:
        assert re.search(rf"C\(lab\.{key}\b", text), key
    for key in _flake_inventory._HOST_KEYS:
        assert re.search(rf"C\({key}\b", text), key
    for variable in _flake_inventory._VARIABLES.values():
        assert f"C({variable})" in text, variable


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("lab.nix_flake.yml", True),
        ("lab.nix_flake.yaml", True),
        ("nix_flake.yml", True),
        ("lab.yml", False),
        ("lab_nix_flake.yml", False),
        ("lab.nix_flake.yml.orig", False),
    ],
)
def test_a_source_is_known_by_its_name(place: Place, name: str, ours: bool):
    place.source = place.directory / name
    place.configure(timeout=0)
    assert place.load()["verified"] is ours
