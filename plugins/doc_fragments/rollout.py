# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations


class ModuleDocFragment:
    """What the filters that decide about a rollout have in common."""

    DOCUMENTATION = r"""
options:
  stages:
    description: All stages in their order.
    type: list
    elements: str
    default: []
  max_bad:
    description:
      - How many hosts may end badly, a number, a percentage of all, or a dictionary of these by stage, in which V(all)
        is for the whole run.
    type: raw
    default: 1
  critical_stages:
    description: Stages in which no host may end badly.
    type: list
    elements: str
    default: []
"""
