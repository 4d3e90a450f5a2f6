# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: rollback
short_description: How an emergency rollback ended on a host, or stands
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Judges what C(playbooks/files/rollback.sh) said on one host, before and after.
  - Only what was seen over a new connection counts. A host that was told to go back and did not show that it runs and
    boots that system is V(rollback_failed).
options:
  _input:
    description:
      - The registered results by step. The steps are V(look), V(start), V(follow), V(look_again) and V(close).
    type: dict
    required: true
  run_id:
    description: The identity of the run, by which its own words are told from those of an earlier one.
    type: str
    required: true
  reboot:
    description: Whether the host reboots when the system cannot be activated.
    type: bool
    default: true
  dry_run:
    description: Whether nothing is to be changed.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Say how it went
  ansible.builtin.debug:
    msg: "{{ (evidence | homelab.nixos.rollback(run_id='20261122T020000Z-7f3a')).outcome }}"
  vars:
    evidence: {look: "{{ look }}", start: "{{ start }}", look_again: "{{ look_again }}"}
"""

RETURN = r"""
_value:
  description:
    - V(outcome), the word; V(reason), a sentence; V(system), where the rollback leads; V(current), what the host ran
      before; V(bad), whether the run has failed because of it; V(due), whether the host is still to be rolled back.
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _rollback


def rollback(evidence: Mapping[str, Any], run_id: str, reboot: bool = True, dry_run: bool = False) -> dict[str, object]:
    return _rollback.standing(evidence, run_id, reboot, dry_run).as_result()


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"rollback": rollback}
