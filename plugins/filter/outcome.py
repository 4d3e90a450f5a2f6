# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: outcome
short_description: How a host's night ended, or stands
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Judges the results of the steps of a night on one host.
  - Only what was seen counts. A step without a result, a lost connection, or a host that did not come back never make
    V(updated).
options:
  _input:
    description:
      - The registered results by step. The steps are V(probe), V(settle), V(gate), V(prepare), V(copy),
        V(admission), V(claim), V(look_again), V(gate_again), V(activation), V(verification), V(members),
        V(reboot_gate), V(commit), V(boot_once), V(reboot), V(reboot_verification), V(reboot_members),
        V(commit_booted), V(proof), V(witness), V(rollback), V(rollback_reboot), V(rollback_verification),
        V(rollback_proof), V(release) and V(goodbye).
      - V(admission) is what P(homelab.nixos.breaker#filter) said of the host, V(witness) has C(results), those
        of looks at other hosts.
    type: dict
    required: true
  target:
    description: The system wanted; without one nothing was built.
    type: str
  build_failure:
    description: Why there is no system for this host, where there are some for others.
    type: str
    default: ''
  adopt_drift:
    description: Whether a host whose systems disagree before the update is updated all the same.
    type: bool
    default: false
  dry_run:
    description: Whether the steps were made in check mode.
    type: bool
    default: false
  retry_failed:
    description: Whether a system that failed on this host before is tried again.
    type: bool
    default: false
  closed:
    description: Why nobody may touch the host's stage tonight; empty when somebody may.
    type: str
    default: ''
  rebooted_below:
    description: Whether the machine that the host runs on, as a virtual machine, was rebooted tonight.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Take part in the rollout
  ansible.builtin.debug:
    msg: "{{ inventory_hostname }} is next"
  when: not (evidence | homelab.nixos.outcome(target=system)).decided
  vars:
    evidence: {probe: "{{ probe }}", gate: "{{ gate }}"}
"""

RETURN = r"""
_value:
  description:
    - V(outcome), the word; V(reason), a sentence; V(bad), whether the run has failed because of it; V(decided), whether
      there is nothing left to do for this host tonight; V(must_be_put_back), whether the host may run or boot another
      system than the one it came from; V(proven), whether the running system has passed its verification;
      V(remember), whether it was the system that failed, which is then not tried here again; V(counted), whether the
      breaker counts it; V(deferral), whether the host asked not to be touched, or not to be rebooted; V(went_away),
      whether it could not be reached once since its turn began; V(seen), whether it was looked at tonight;
      V(reboots_into), the system into which a host that is its own controller reboots when the night has closed,
      V(null) for every other.
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _outcome


def outcome(
    evidence: Mapping[str, Any],
    target: str | None = None,
    build_failure: str = "",
    adopt_drift: bool = False,
    dry_run: bool = False,
    retry_failed: bool = False,
    closed: str = "",
    rebooted_below: bool = False,
) -> dict[str, Any]:
    told = _outcome.outcome(
        evidence, target or None, build_failure, adopt_drift, dry_run, retry_failed, closed, rebooted_below
    )
    return {
        "outcome": told.word,
        "reason": told.reason,
        "bad": told.bad,
        "decided": told.decided,
        "must_be_put_back": _outcome.must_be_put_back(evidence, target or None),
        "proven": told.word == "updated",
        "remember": told.remember,
        "counted": told.counted,
        "deferral": told.deferral,
        "went_away": _outcome.went_away(evidence),
        "seen": bool((evidence.get("probe") or {}).get("systems")),
        "reboots_into": _outcome.reboots_later(evidence, target or None),
    }


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"outcome": outcome}
