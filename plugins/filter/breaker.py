# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: breaker
short_description: Who of a batch may begin now
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
extends_documentation_fragment: homelab.nixos.rollout
description:
  - Asked before each round of a batch, it says who begins, who waits for the next round, and who is left alone tonight.
  - When as many hosts have ended badly as may, when a canary or a host of a critical stage did, nobody begins any more.
    A round never has more hosts than may still end badly, and one, so no more than one host too many ends badly.
  - A host that needs one that ended badly, or is in trouble, is left alone, and so is one whose worst case does not fit
    before the end of the night.
options:
  _input:
    description: The hosts of one batch. Those that have ended are not judged again.
    type: list
    elements: str
    required: true
  plan:
    description: The batches, as P(homelab.nixos.plan#filter) makes them.
    type: list
    elements: dict
    required: true
  ended:
    description:
      - All hosts of the night whose outcome is final, also those that were decided before the rollout, each with
        its C(outcome), whether its turn C(began), and whether it is C(counted). A host that we could not see is not.
    type: dict
    default: {}
  closed_stages:
    description:
      - Why a stage may not begin, by stage. What comes last is closed with V(""), too, which are the hosts without a
        stage.
    type: dict
    default: {}
  trouble:
    description: What is the matter with hosts that others need, by host.
    type: dict
    default: {}
  looks:
    description:
      - Results of looks at other hosts, when the last that went away may have done so for the controller's fault. If
        none of them could be reached either, nobody begins.
    type: list
    elements: dict
    default: []
  now:
    description: The time, a Unix time.
    type: float
    required: true
  ends:
    description: When the night ends, a Unix time; never when 0.
    type: float
    default: 0
"""

EXAMPLES = r"""
- name: Let those begin that may
  ansible.builtin.debug:
    msg: "{{ verdicts[inventory_hostname].verdict }}"
  vars:
    verdicts: "{{ batch.hosts | homelab.nixos.breaker(plan=plan, ended=ended, max_bad=2, now=now().timestamp()) }}"
    ended:
      nas: {outcome: rolled_back, began: true, counted: true}
"""

RETURN = r"""
_value:
  description:
    - For each host that has not ended its C(verdict), one of V(begins), V(waits) and V(held), and the C(reason) for it.
    - Whenever one waits another one begins.
  type: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.nixos.plugins.module_utils import _breaker
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import nobody


def breaker(
    hosts: Sequence[str],
    plan: Sequence[Mapping[str, Any]],
    now: Any,
    ended: Mapping[str, Mapping[str, Any]] | None = None,
    stages: Sequence[str] = (),
    max_bad: Any = 1,
    critical_stages: Sequence[str] = (),
    closed_stages: Mapping[str, str] | None = None,
    trouble: Mapping[str, str] | None = None,
    ends: Any = 0,
    looks: Sequence[Mapping[str, Any]] = (),
) -> dict[str, dict[str, str]]:
    try:
        rollout = _breaker.rollout(
            plan,
            ended or {},
            stages,
            max_bad,
            critical_stages,
            closed_stages or {},
            trouble or {},
            now,
            ends,
            nobody(looks),
        )
        verdicts = _breaker.breaker(hosts, rollout)
    except LabError as error:
        raise AnsibleFilterError(str(error)) from error
    return {host: {"verdict": each.verdict, "reason": each.reason} for host, each in verdicts.items()}


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"breaker": breaker}
