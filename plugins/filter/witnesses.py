# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: witnesses
short_description: Whom to ask whether a host is gone, or the controller sees nobody
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Picks up to three hosts that answered tonight, are not changed just now, and did not end badly. Those that nobody
    has changed tonight come first.
  - When a host goes away and none of them answers either, it is the controller that is blind.
options:
  _input:
    description:
      - For each host of the night C(seen), whether it was looked at; C(began), whether its turn has begun; and
        C(outcome).
    type: dict
    required: true
  batch:
    description: The hosts that are being changed.
    type: list
    elements: str
    required: true
  others:
    description: Hosts that can be asked and take no part in the night.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Ask others
  homelab.nixos.nixos_info:
  delegate_to: "{{ item }}"
  loop: "{{ nights | homelab.nixos.witnesses(batch=['web']) }}"
"""

RETURN = r"""
_value:
  description: Names of hosts; none where there is nobody to ask.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._witness import witnesses


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"witnesses": witnesses}
