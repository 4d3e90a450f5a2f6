"""Hosts from the flake itself: what the builder's Nix is asked, and a night by nothing but that inventory.

The builder's log of Nix calls is a program in front of Nix, in /run/wrappers/bin, which is the first directory on PATH.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils import _flake_inventory

from tests.integration.fleet import ROOT, Fleet, Night
from tests.lab import Lab

pytestmark = pytest.mark.lab

WRAPPER = "/run/wrappers/bin/nix"
CALLS = "/run/nix-calls"
LOGGING = f"""#!/bin/sh
printf '%s\\n' "$*" >> {CALLS}
exec /run/current-system/sw/bin/nix "$@"
"""
GRAPH = """@all:
  |--@ungrouped:
  |  |--builder
  |--@development:
  |  |--dev
  |--@infrastructure:
  |  |--web
  |--@critical:
  |--@public:
  |  |--web
"""
LOOK, EVALUATE = "flake metadata", "eval"


class Flake(Fleet):
    """The lab, and what its builder's Nix is asked."""

    def graph(self, *options: str) -> str:
        return self.run(["ansible-inventory", "-i", str(self.lab.flake_inventory), "--graph", *options]).wait().output

    def whole_night(self) -> Night:
        """C(ansible-playbook nightly.yml) with this inventory and nothing else."""
        return self.run(["ansible-playbook", "nightly.yml", "-i", str(self.lab.flake_inventory)]).wait()

    def edit(self, script: str) -> None:
        """Change the flake on the builder, as its owner would."""
        self.lab.run("builder", ["sh", "-ec", f"cd /etc/nixos; {script}"], check=True)

    def calls(self) -> list[str]:
        """What Nix was asked on the builder since the last time, by the builder's own log."""
        text = self.lab.read("builder", CALLS) or ""
        self.lab.write("builder", CALLS, None)
        return [word for line in text.splitlines() for word in (LOOK, EVALUATE) if f" {word} " in line]


@pytest.fixture(scope="module")
def flake() -> Iterator[Flake]:
    with Lab.temporary(2, prefix="inventory", nix=os.environ.get("LAB_NIX", "trixie")) as lab:
        lab.write("builder", WRAPPER, LOGGING)
        lab.run("builder", ["chmod", "+x", WRAPPER], check=True)
        yield Flake(lab)


def test_hosts_and_groups_are_those_of_the_flake(flake: Flake):
    assert flake.graph() == GRAPH
    assert flake.calls() == [LOOK, EVALUATE]


def test_its_hosts_have_the_settings_of_the_other_inventory(flake: Flake):
    def of(source: object) -> dict[str, dict[str, object]]:
        done = flake.run(["ansible-inventory", "-i", str(source), "--list"]).wait()
        hosts: dict[str, dict[str, object]] = json.loads(done.output)["_meta"]["hostvars"]
        return hosts

    by_flake, by_file = of(flake.lab.flake_inventory), of(flake.lab.inventory)
    assert by_flake.keys() == by_file.keys()
    for host, variables in by_file.items():
        assert by_flake[host] | variables == by_flake[host]
        assert by_flake[host].keys() - variables.keys() <= {"lab_tags", "lab_depends_on"}


def test_what_has_not_changed_is_not_evaluated_again(flake: Flake):
    flake.graph()
    flake.calls()
    assert flake.graph() == GRAPH
    assert flake.calls() == [LOOK]
    assert flake.graph("--flush-cache") == GRAPH
    assert flake.calls() == [LOOK, EVALUATE]


def test_an_uncommitted_edit_counts_and_is_not_kept_and_a_commit_counts_at_once(flake: Flake):
    flake.calls()
    edited = GRAPH.replace("critical", "kernel_lab")
    flake.edit('sed -i \'s/"critical"/"kernel-lab"/\' flake.nix')
    assert flake.graph() == flake.graph() == edited
    assert flake.calls() == [LOOK, EVALUATE] * 2
    flake.edit("git commit --quiet --all --message 'Another stage'")
    assert flake.graph() == flake.graph() == edited
    assert flake.calls() == [LOOK, EVALUATE, LOOK]
    flake.edit("git revert --no-edit HEAD > /dev/null")
    assert flake.graph() == GRAPH
    assert flake.calls() == [LOOK, EVALUATE]


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (
            "s/{ inherit (host) address; }/{ adress = host.address; }/",
            "lab.hosts.builder.adress is not known. The keys of lab.hosts.builder are: address, user, port, stage, "
            "depends_on, tags, managed, vars.",
        ),
        (
            's/"infrastructure"/"infra"/',
            "lab.hosts.web.stage is 'infrastructure', which lab.stages (development, infra, critical) does not name. "
            "Add it to lab.stages where it belongs in the order, or correct it.",
        ),
        (
            's/lab_min_uptime = 0/lab_min_uptime = throw "nobody knows"/',
            "Asking the flake /etc/nixos on root@builder: nix ended with exit code 1: error: nobody knows. "
            "Mend the flake; nix flake check shows more.",
        ),
    ],
)
def test_a_flake_that_is_wrong_stops_the_night_before_it_begins(flake: Flake, edit: str, sentence: str):
    flake.edit(f"sed -i '{edit}' flake.nix")
    try:
        night = flake.whole_night()
    finally:
        flake.edit("git checkout --quiet flake.nix")
    assert night.rc != 0, night.output
    assert sentence in " ".join(night.output.split())
    assert "PLAY" not in night.output


def test_a_builder_without_nix_or_without_a_flake_or_out_of_reach_is_named(flake: Flake, tmp_path: Path):
    source = flake.lab.flake_inventory.read_text()

    def told(text: str) -> str:
        (tmp_path / "lab.nix_flake.yml").write_text(text)
        done = flake.run(["ansible-inventory", "-i", str(tmp_path), "--graph"]).wait()
        assert done.rc != 0
        return " ".join(done.output.split())

    assert "There is no flake /srv on root@builder: " in told(source.replace("/etc/nixos", "/srv"))
    assert "ssh does not get to root@nowhere: " in told(source.replace("root@builder", "root@nowhere"))
    flake.lab.write("builder", WRAPPER, "#!/bin/sh\nexec sleep 100\n")
    flake.lab.run("builder", ["chmod", "+x", WRAPPER], check=True)
    assert "on root@builder took longer than 1 s. Raise timeout" in told(f"{source}timeout: 1\n")
    assert flake.lab.run("builder", ["pgrep", "--full", "^sleep 100"]).stdout == ""
    flake.lab.write("builder", WRAPPER, None)


def test_the_example_of_the_documentation_is_a_lab(flake: Flake):
    text = (ROOT / "plugins/inventory/nix_flake.py").read_text()
    block = re.search(r"^#     lab = \{$.*?^#     \};$", text, re.MULTILINE | re.DOTALL)
    assert block
    expression = "({" + re.sub(r"^#", "", block[0], flags=re.MULTILINE) + "}).lab"
    lab = json.loads(flake.lab.run("builder", ["nix", "eval", "--json", "--expr", expression], check=True).stdout)
    found = _flake_inventory.inventory(_flake_inventory.Outputs(("dev", "web", "nas", "dns"), lab), str)
    assert {name: group.hosts for name, group in found.groups.items()} == {
        "development": ("dev",),
        "infrastructure": ("nas", "web"),
        "critical": ("dns",),
        "public": ("dns", "web"),
    }


def test_a_whole_night_by_that_inventory_alone(flake: Flake):
    flake.lab.move()
    night = flake.whole_night()
    assert night.rc == 0, night.output
    assert night.outcomes == {"dev": "updated", "web": "updated"}
    plan = "in this order: STAGE BATCH AT ONCE HOSTS development 1 1 dev infrastructure 2 1 web"
    assert plan in " ".join(night.output.split())
    for host in flake.hosts:
        assert flake.look(host).is_on(flake.target(host))
