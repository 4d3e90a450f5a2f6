# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a host answers is data. Ansible obeys some keys of a result, and our callback others: none is kept. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ORDERS = frozenset(
    (
        *("ansible_facts", "ansible_stats", "add_host", "add_group"),
        *("unreachable", "skipped", "results"),
        *("lab_text", "lab_only"),
    )
)
# Ansible adds these after it has taken away the host's own, so that it need not look for an interpreter again
_DISCOVERED = "discovered_interpreter_"


def without_orders(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a module as C(_execute_module) returns it, without what anybody would act on."""
    kept = {key: value for key, value in result.items() if key not in _ORDERS and not key.startswith("_ansible_")}
    facts = result.get("ansible_facts")
    found = {key: facts[key] for key in facts if key.startswith(_DISCOVERED)} if isinstance(facts, Mapping) else {}
    return {**kept, "ansible_facts": found} if found else kept
