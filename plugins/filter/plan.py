# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: plan
short_description: Batches of hosts in an order that is safe
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
extends_documentation_fragment: homelab.nixos.rollout
description:
  - Puts hosts into batches that are updated one after the other, the hosts of a batch at once.
  - A batch never holds hosts of two stages, a host together with one that it needs, or two that shall never be updated
    at the same time. Stages follow the order of O(stages). Within a stage canaries come first, each alone, then
    providers before those that need them, then the host whose window closes first, then the order of the inventory.
  - Dependencies that go round in a circle, names that nobody knows, and a plan without hosts are errors.
options:
  _input:
    description:
      - The hosts of the night in the order of the inventory, each with its C(name) and, if it has one, its C(stage);
        without one it comes after all stages.
      - Whether it is a C(canary), the hosts or groups of C(depends_on) and C(hypervisor_of), as its settings say.
      - C(seconds), the worst case of its turn, and C(window_closes), the Unix time at which its window closes.
      - Whether it comes C(last), alone after all others, as the host that builds and the controller do.
      - Whether it C(comes) at all. One that does not is in no batch, but others may need it.
    type: list
    elements: dict
    required: true
  batch:
    description:
      - How many hosts a batch has at most, a number, a percentage of the stage, or a dictionary of these by stage. It
        never has more than one host more than may end badly.
    type: raw
    default: 1
  never_together:
    description: Lists of hosts or groups, of which no two are in one batch.
    type: list
    elements: list
    default: []
  groups:
    description: All groups of the inventory with their hosts.
    type: dict
    default: {}
  others:
    description: The hosts of the inventory that are not in this night, as those that are.
    type: list
    elements: dict
    default: []
  allow_empty:
    description: Whether there may be nobody to plan.
    type: bool
    default: false
  as_text:
    description: Whether the plan is told as lines for people.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show the batches
  ansible.builtin.debug:
    msg: "{{ hosts | homelab.nixos.plan(stages=['dev', 'infra'], batch=2, as_text=true) }}"
    # STAGE  BATCH  AT ONCE  HOSTS
    # dev    1      1        dev
    # infra  2      1        nas
    # infra  3      1        web
  vars:
    hosts:
      - {name: web, stage: infra, depends_on: [nas]}
      - {name: dev, stage: dev}
      - {name: nas, stage: infra}
"""

RETURN = r"""
_value:
  description:
    - The batches, each with its C(stage), its C(hosts), whether it is that of a C(canary) or one of the C(last), and
      the worst case of its turn in C(seconds).
    - C(turns) has the worst case of each of its hosts, C(providers) all hosts of the night that it needs.
    - With O(as_text), a string.
  type: raw
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.nixos.plugins.module_utils import _plan
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError


def plan(
    hosts: Sequence[Mapping[str, Any]],
    stages: Sequence[str] = (),
    batch: Any = 1,
    max_bad: Any = 1,
    critical_stages: Sequence[str] = (),
    never_together: Sequence[Sequence[str]] = (),
    groups: Mapping[str, Sequence[str]] | None = None,
    others: Sequence[Mapping[str, Any]] = (),
    allow_empty: bool = False,
    as_text: bool = False,
) -> list[dict[str, Any]] | str:
    try:
        batches = _plan.plan(
            [_plan.Host.of(host) for host in hosts],
            _plan.names(stages, "lab_stages"),
            batch,
            max_bad,
            _plan.names(critical_stages, "lab_critical_stages"),
            never_together,
            groups,
            [_plan.Host.of(host) for host in others],
            allow_empty,
        )
    except LabError as error:
        raise AnsibleFilterError(str(error)) from error
    return _plan.describe(batches) if as_text else [each.as_result() for each in batches]


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"plan": plan}
