# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: soak
short_description: Which stages may begin by what the earlier ones have shown
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - A stage may begin when every host of all earlier stages that took part runs what the present lock gives it, and has
    done so, verified, for O(soak).
  - V(unreachable) and V(deferred) hosts did not take part. A stage none of whose hosts did has shown nothing, and the
    following ones wait.
options:
  _input:
    description:
      - All hosts of the night, each with its C(name), its C(stage), and whether it comes C(last), after all stages.
      - C(outcome) is empty for a host whose turn is still to come. Where it is known beforehand it has to be there, as
        V(held) for a system that failed on this host before. Otherwise its turn would be waited for.
      - C(on_target), whether it runs what the present lock gives it, and C(since), the Unix time at which that was
        verified, or none.
    type: list
    elements: dict
    required: true
  stages:
    description: All stages in their order.
    type: list
    elements: str
    required: true
  soak:
    description: How long the hosts of a stage have to be well before the next one begins, in seconds.
    type: float
    required: true
  now:
    description: The time, a Unix time.
    type: float
    required: true
"""

EXAMPLES = r"""
- name: Leave the lock alone while it is on its way through the stages
  ansible.builtin.debug:
    msg: "{{ passed.closed }}"
  when: passed.state in ['soaking', 'due']
  vars:
    passed: "{{ hosts | homelab.nixos.soak(stages=['dev', 'infra'], soak=86400, now=now().timestamp()) }}"
    hosts:
      - {name: dev, stage: dev, outcome: unchanged, on_target: true, since: 1795392000}
      - {name: web, stage: infra, outcome: '', on_target: false, since: null}
"""

RETURN = r"""
_value:
  description:
    - C(closed), why stages may not begin yet, by stage; V("") are the hosts without one and those that come last.
    - C(state), how it is with the present lock. V(passed), it is everywhere. V(due), hosts of a stage that may begin do
      not run it yet. V(soaking), time alone is missing. V(failed), a host did not pass, or nobody took part; the lock
      will get no further, and may be updated.
    - C(reason), why that is so; also where no stage waits for it, because the hosts are those of the last one.
  type: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.nixos.plugins.module_utils import _plan, _soak
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError


def soak(hosts: Sequence[Mapping[str, Any]], stages: Sequence[str], soak: Any, now: Any) -> dict[str, Any]:
    try:
        passed = _soak.closed_by_soak(
            _plan.names(stages, "lab_stages"),
            [_soak.Member.of(host) for host in hosts],
            _plan.number(soak, "lab_soak"),
            _plan.number(now, "The time"),
        )
    except LabError as error:
        raise AnsibleFilterError(str(error)) from error
    return {"state": passed.state, "closed": dict(passed.closed), "reason": passed.reason}


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"soak": soak}
