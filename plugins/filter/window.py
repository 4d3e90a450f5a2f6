# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: window
short_description: When a host may be changed
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Tells whether one of a host's windows is open, and when that changes.
options:
  _input:
    description:
      - A window, as C(lab_window) and O(homelab.nixos.lab_health_check#module:window) have it, or a list of them. None
        means that it is always open.
    type: raw
    required: true
  now:
    description: The moment to look at, in seconds since 1970; this one when it is not set.
    type: float
"""

EXAMPLES = r"""
- name: Say when it closes
  ansible.builtin.debug:
    msg: "{{ ('22:00-06:00' | homelab.nixos.window).closes }}"
"""

RETURN = r"""
_value:
  description:
    - V(open), whether one is open; V(closes), in seconds since 1970, when it closes, or the next one while none is
      open, with those that open before it does, V(null) if that is never; V(opens), when the next one opens, V(null)
      while one is open.
  type: dict
"""

import time
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.nixos.plugins.module_utils import _windows
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.plugin_utils._zones import zone


def window(windows: object, now: float | str | None = None) -> dict[str, Any]:
    try:
        parsed = _windows.parse(windows, zone)
    except LabError as error:
        raise AnsibleFilterError(str(error)) from error
    moment = time.time() if now is None else float(now)
    return {
        "open": _windows.is_open(parsed, moment),
        "closes": _windows.closes(parsed, moment),
        "opens": _windows.opens(parsed, moment),
    }


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"window": window}
