# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: settings
short_description: Settings with their types, however they came
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Gives settings the types that the role homelab.nixos.update documents, for surveys and C(-e) know nothing but text.
  - The text of a list is YAML, JSON, or words with commas or line breaks between them; of a list of lists, a line for
    each. The text of a dictionary is YAML, JSON, or C(name=value) words.
  - What cannot have its type stays as it is; M(homelab.nixos.lab_run) says what is wrong with it.
options:
  _input:
    description: The values of settings, by name.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what a survey means
  ansible.builtin.debug:
    msg: "{{ {'lab_settle': '20', 'lab_services': 'nginx, postgresql'} | homelab.nixos.settings }}"
    # {"lab_settle": 20, "lab_services": ["nginx", "postgresql"]}
"""

RETURN = r"""
_value:
  description: The same settings, with their types.
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.homelab.nixos.plugins.plugin_utils import _specification


def settings(given: Mapping[str, object]) -> dict[str, object]:
    return _specification.typed(given).settings


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"settings": settings}
