"""docs/rollout.md shows inventories that are there, and the plans that are made of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.manager import VariableManager
from ansible_collections.homelab.nixos.plugins.filter import plan as plan_filter

ROOT = Path(__file__).parents[2]
ROLLOUT = (ROOT / "docs/rollout.md").read_text()
DEFAULTS = yaml.safe_load((ROOT / "roles/update/defaults/main.yml").read_text())
EXAMPLES = {"small": 3, "medium": 12, "large": 40}


def planned(example: str) -> tuple[int, str]:
    """How many hosts of an inventory are updated, and the plan for them."""
    loader = DataLoader()
    inventory = InventoryManager(loader=loader, sources=[str(ROOT / "tests/inventories" / example)])
    variables = VariableManager(loader=loader, inventory=inventory)
    night: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    shared: dict[str, Any] = {}
    for host in inventory.get_hosts():
        shared = {**DEFAULTS, **variables.get_vars(host=host, include_hostvars=False)}
        described = {name: shared[f"lab_{name}"] for name in ("stage", "canary", "depends_on", "hypervisor_of")}
        last = host.name == shared["lab_flake_host"]
        (night if shared["lab_managed"] else others).append({**described, "name": host.name, "last": last})
    text = plan_filter.plan(
        night,
        shared["lab_stages"],
        shared["lab_batch"],
        shared["lab_max_bad"],
        shared["lab_critical_stages"],
        shared["lab_never_together"],
        inventory.get_groups_dict(),
        others,
        as_text=True,
    )
    return len(night), str(text)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_planned_as_shown(example: str):
    command = f"$ ansible-playbook playbooks/validate.yml -i tests/inventories/{example}\n"
    (shown,) = re.findall(rf"```\n{re.escape(command)}(.*?)\n```", ROLLOUT, re.DOTALL)
    assert planned(example) == (EXAMPLES[example], shown)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_the_inventory_that_is_shown(example: str):
    text = (ROOT / "tests/inventories" / example / "hosts.yml").read_text()
    assert f"```yaml\n{text.removeprefix('---')[1:]}```" in ROLLOUT


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_has_no_setting_that_there_is_not(example: str):
    text = (ROOT / "tests/inventories" / example / "hosts.yml").read_text()
    assert set(re.findall(r"\blab_\w+", text)) <= set(DEFAULTS)
