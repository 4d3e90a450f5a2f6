# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: check_seconds
short_description: How long the owner's own checks may take
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Adds up how long checks may take that are made one after the other, with all that is retried.
  - Fails where one of them is none, and names it. So it also tells that before anything is asked.
options:
  _input:
    description: The checks, as C(lab_checks) and O(homelab.nixos.lab_health_check#module:checks) have them.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Refuse checks that are none
  ansible.builtin.assert:
    that: lab_checks | homelab.nixos.check_seconds >= 0
"""

RETURN = r"""
_value:
  description: Whole seconds.
  type: int
"""

import math
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.nixos.plugins.module_utils import _user_checks
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.plugin_utils import _controller_checks


def check_seconds(checks: object) -> int:
    try:
        parsed = _user_checks.parse(checks, "lab_checks")
        _controller_checks.check_expressions(parsed)
    except LabError as error:
        raise AnsibleFilterError(str(error)) from error
    return math.ceil(sum(check.seconds for check in parsed))


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"check_seconds": check_seconds}
