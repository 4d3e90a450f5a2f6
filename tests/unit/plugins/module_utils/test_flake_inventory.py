"""What a flake says becomes hosts, groups and variables; what it says wrongly becomes one sentence."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._flake_inventory import Inventory, Outputs, inventory

HOSTS = ("builder", "dev", "nas", "web")
LAB: dict[str, Any] = {
    "stages": ["development", "front-end"],
    "vars": {"ansible_user": "root", "lab_flake_host": "builder"},
    "hosts": {
        "builder": {"address": "192.0.2.2", "managed": False},
        "dev": {"address": "192.0.2.11", "stage": "development", "port": 2222, "user": "admin"},
        "web": {
            "stage": "front-end",
            "tags": ["public", "slow"],
            "depends_on": ["nas", "front-end"],
            "vars": {"lab_services": ["nginx.service"]},
        },
    },
    "groups": {"public": {"vars": {"lab_reboot": "never"}}},
}


def safe(name: str) -> str:
    """As Ansible does it."""
    return re.sub(r"^[\d\W]|[^\w]", "_", name)


def made(lab: object, *configurations: str) -> Inventory:
    return inventory(Outputs(configurations or HOSTS, lab), safe)


def refused(lab: object, *configurations: str) -> str:
    with pytest.raises(LabError) as error:
        made(lab, *configurations)
    assert error.value.remedy
    return str(error.value)


def host(**entry: Any) -> dict[str, Any]:
    """A lab of which only the host web says something."""
    return {"stages": ["infra"], "hosts": {"web": entry}}


def test_a_flake_without_lab_is_a_list_of_hosts():
    assert made(None) == Inventory({}, {name: {} for name in HOSTS}, {})
    assert made({}) == made(None)


def test_every_key_becomes_the_variable_that_ansible_and_the_night_know():
    found = made(LAB)
    assert found.variables == {
        "ansible_user": "root",
        "lab_flake_host": "builder",
        "lab_stages": ["development", "front-end"],
    }
    assert found.hosts == {
        "builder": {"ansible_host": "192.0.2.2", "lab_managed": False},
        "dev": {
            "ansible_host": "192.0.2.11",
            "ansible_port": 2222,
            "ansible_user": "admin",
            "lab_stage": "development",
        },
        "nas": {},
        "web": {
            "lab_services": ["nginx.service"],
            "lab_stage": "front-end",
            "lab_tags": ["public", "slow"],
            "lab_depends_on": ["nas", "front_end"],
        },
    }


def test_stages_and_tags_are_groups_and_a_stage_without_hosts_is_one_too():
    found = made({**LAB, "stages": ["development", "front-end", "critical"]})
    assert {name: group.hosts for name, group in found.groups.items()} == {
        "development": ("dev",),
        "front_end": ("web",),
        "critical": (),
        "public": ("web",),
        "slow": ("web",),
    }
    assert found.groups["public"].variables == {"lab_reboot": "never"}


def test_what_is_nearer_to_a_host_wins():
    lab = {
        "vars": {"a": "all", "b": "all", "c": "all", "d": "all"},
        "hosts": {"web": {"tags": ["x", "y"], "vars": {"d": "host"}}},
        "groups": {"y": {"vars": {"b": "y", "c": "y", "d": "y"}}, "x": {"vars": {"c": "x"}}},
    }
    assert made(lab).variables_of("web") == {"a": "all", "b": "y", "c": "y", "d": "host", "lab_tags": ["x", "y"]}
    assert made(lab).variables_of("nas") == {"a": "all", "b": "all", "c": "all", "d": "all"}


def test_a_machine_that_is_not_managed_need_not_be_in_the_flake():
    assert set(made(LAB, "dev", "nas", "web").hosts) == set(HOSTS)


@pytest.mark.parametrize(
    ("lab", "sentence"),
    [
        ([], "lab is []. It has to be an attribute set."),
        ({"stage": []}, "lab.stage is not known. The keys of lab are: stages, vars, hosts, groups."),
        (
            host(adress="192.0.2.1"),
            "lab.hosts.web.adress is not known. "
            "The keys of lab.hosts.web are: address, user, port, stage, depends_on, tags, managed, vars.",
        ),
        (
            {"hosts": {"web": {"tags": ["x"]}}, "groups": {"x": {"var": {}}}},
            "lab.groups.x.var is not known. The keys of lab.groups.x are: vars.",
        ),
        (host(address=""), "lab.hosts.web.address is ''. It has to be a text that is not empty."),
        (host(user=7), "lab.hosts.web.user is 7. It has to be a text that is not empty."),
        (host(port="22"), "lab.hosts.web.port is '22'. It has to be a number from 1 to 65535."),
        (host(port=True), "lab.hosts.web.port is True. It has to be a number from 1 to 65535."),
        (host(port=65536), "lab.hosts.web.port is 65536. It has to be a number from 1 to 65535."),
        (host(managed="no"), "lab.hosts.web.managed is 'no'. It has to be true or false."),
        (host(tags="public"), "lab.hosts.web.tags is 'public'. It has to be a list of names."),
        (host(tags=["a", "a"]), "lab.hosts.web.tags names 'a' more than once. Name it once."),
        (host(depends_on=[1]), "lab.hosts.web.depends_on is [1]. It has to be a list of names."),
        (host(vars=["x"]), "lab.hosts.web.vars is ['x']. It has to be an attribute set."),
        (
            host(vars={"not-one": 1}),
            "lab.hosts.web.vars.not-one cannot be a variable of Ansible. "
            "Use letters, digits and underscores in its name.",
        ),
        (
            host(vars={"ansible_host": "192.0.2.1"}),
            "lab.hosts.web.vars.ansible_host has a place of its own. Set lab.hosts.web.address instead.",
        ),
        ({"vars": {"lab_stages": []}}, "lab.vars.lab_stages has a place of its own. Set lab.stages instead."),
        ({"vars": {"lab_stage": "x"}}, "lab.vars.lab_stage has a place of its own. Set stage of each host instead."),
        ({"stages": ["x", "x"]}, "lab.stages names 'x' more than once. Name it once."),
        (
            host(stage="infar"),
            "lab.hosts.web.stage is 'infar', which lab.stages (infra) does not name. "
            "Add it to lab.stages where it belongs in the order, or correct it.",
        ),
        (
            {"hosts": {"wbe": {}}},
            "lab.hosts.wbe is not in nixosConfigurations (builder, dev, nas, web). "
            "Correct the name, or set managed = false for a machine that this flake does not configure.",
        ),
        (
            host(depends_on=["dns"]),
            "lab.hosts.web.depends_on names 'dns', which is neither a host nor a group. "
            "There are: builder, dev, nas, web, infra.",
        ),
        (
            host(depends_on=["web"]),
            "lab.hosts.web.depends_on names the host itself. Name the hosts and groups that it needs.",
        ),
        (
            host(tags=["dev"]),
            "Tag 'dev' makes a group dev, which is the name of a host. Choose another name.",
        ),
        (
            {"stages": ["web"]},
            "Stage 'web' makes a group web, which is the name of a host. Choose another name.",
        ),
        (
            {"stages": ["all"]},
            "Stage 'all' makes a group all, which is the name of one of Ansible's own groups. Choose another name.",
        ),
        (
            host(tags=["infra"]),
            "Stage 'infra' and Tag 'infra' make the same group infra. Rename one of them.",
        ),
        (
            host(tags=["a-b", "a_b"]),
            "Tag 'a-b' and Tag 'a_b' make the same group a_b. Rename one of them.",
        ),
        (
            host() | {"groups": {"infar": {}}},
            "lab.groups.infar is no group: no stage and no tag has that name. The groups are: infra.",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_with_a_remedy(lab: object, sentence: str):
    assert refused(lab) == sentence


@pytest.mark.parametrize("name", ["a b", "web:db", "!web", "web*", "-web", "", "all", "ungrouped", "web[1:3]"])
def test_a_name_that_means_something_in_a_pattern_cannot_be_a_hosts(name: str):
    assert "cannot be the name of a host in Ansible" in refused(None, name)


def test_a_secret_in_the_wrong_place_is_not_printed():
    assert "hunter2" not in refused({"hosts": "https://me:hunter2@example.org"})
