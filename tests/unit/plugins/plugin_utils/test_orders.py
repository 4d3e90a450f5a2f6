"""What a host answers is data, and no order to this controller."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.homelab.nixos.plugins.plugin_utils._orders import without_orders

ORDERS: dict[str, Any] = {
    "ansible_facts": {"lab_output": "/etc/passwd"},
    "ansible_stats": {"data": {"lab_night": "good"}},
    "add_host": {"host_name": "evil", "groups": [], "host_vars": {"ansible_connection": "local"}},
    "add_group": "evil",
    "_ansible_notify": ["a handler"],
    "_ansible_no_log": True,
    "unreachable": True,
    "skipped": True,
    "results": [{"changed": True}],
    "lab_text": "\x1b[2J",
    "lab_only": True,
}


@pytest.mark.parametrize("key", sorted(ORDERS))
def test_no_order_of_a_host_is_kept(key: str):
    assert without_orders({"changed": True, key: ORDERS[key], "msg": "Hello"}) == {"changed": True, "msg": "Hello"}


@pytest.mark.parametrize("facts", [None, "discovered_interpreter_python", ["discovered_interpreter_python"], 7, {}])
def test_facts_that_are_none_are_no_trouble(facts: object):
    assert without_orders({"changed": False, "ansible_facts": facts}) == {"changed": False}


def test_what_ansible_found_out_of_the_interpreter_is_kept():
    found = {"discovered_interpreter_python": "/usr/bin/python3.11"}
    given: dict[str, Any] = {"changed": False, "ansible_facts": {**found, "lab_output": "/etc/passwd"}}
    assert without_orders(given) == {"changed": False, "ansible_facts": found}
    # and what is given is left as it is
    assert "lab_output" in given["ansible_facts"]
