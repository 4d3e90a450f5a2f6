# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: stop
short_description: Whether a rollout has stopped, and why
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
extends_documentation_fragment: homelab.nixos.rollout
description:
  - Tells what P(homelab.nixos.breaker#filter) went by when it let nobody begin any more.
options:
  _input:
    description: The batches, as P(homelab.nixos.plan#filter) makes them.
    type: list
    elements: dict
    required: true
  ended:
    description:
      - All hosts of the night whose outcome is final, also those that were decided before the rollout, each with
        its C(outcome), whether its turn C(began), and whether it is C(counted). A host that we could not see is not.
    type: dict
    required: true
  closed_stages:
    description:
      - Why a stage may not begin, by stage. What comes last is closed with V(""), too, which are the hosts without a
        stage.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Say why it has stopped
  ansible.builtin.debug:
    msg: "{{ stopped.reason }}"
  when: stopped | length > 0
  vars:
    stopped: "{{ plan | homelab.nixos.stop(ended=ended, max_bad=2) }}"
"""

RETURN = r"""
_value:
  description:
    - V({}) when it has not stopped.
    - Otherwise the C(stage) in which it did, V("") being the hosts without one, and the C(reason).
    - C(critical_stages) are the critical stages of which a host ended badly or was kept from its turn, and C(critical)
      says whether there are any.
  type: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.nixos.plugins.module_utils import _breaker
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError


def stop(
    plan: Sequence[Mapping[str, Any]],
    ended: Mapping[str, Mapping[str, Any]],
    stages: Sequence[str] = (),
    max_bad: Any = 1,
    critical_stages: Sequence[str] = (),
    closed_stages: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    try:
        stopped = _breaker.stop(_breaker.rollout(plan, ended, stages, max_bad, critical_stages, closed_stages or {}))
    except LabError as error:
        raise AnsibleFilterError(str(error)) from error
    if stopped is None:
        return {}
    hit = list(stopped.critical_stages)
    return {"stage": stopped.stage, "reason": stopped.reason, "critical": bool(hit), "critical_stages": hit}


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"stop": stop}
