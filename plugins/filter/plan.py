# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: plan
short_description: Batches of hosts in the order of their stages
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Puts hosts into batches that are updated one after the other, the hosts of a batch at once.
  - A batch never holds hosts of two stages. Stages follow the order of O(stages), hosts that of the inventory.
options:
  _input:
    description: The hosts, each with its C(name) and its C(stage); V("") for a host without a stage, which comes last.
    type: list
    elements: dict
    required: true
  stages:
    description: All stages in their order.
    type: list
    elements: str
    default: []
  size:
    description: How many hosts a batch has at most.
    type: int
    default: 1
"""

EXAMPLES = r"""
- name: Show the batches
  ansible.builtin.debug:
    msg: "{{ hosts | homelab.nixos.plan(stages=['dev', 'infra'], size=2) }}"  # [["dev"], ["web", "nas"]]
  vars:
    hosts:
      - {name: web, stage: infra}
      - {name: dev, stage: dev}
      - {name: nas, stage: infra}
"""

RETURN = r"""
_value:
  description: The batches, each a list of host names.
  type: list
  elements: list
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.nixos.plugins.module_utils import _plan
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError


def plan(hosts: Sequence[Mapping[str, str]], stages: Sequence[str] = (), size: int = 1) -> list[list[str]]:
    try:
        return _plan.batches(hosts, stages, int(size))
    except LabError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"plan": plan}
