# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: report
short_description: A night as a table for people, and as values for machines
version_added: 0.1.0
author: homelab.nixos maintainers (@homelab-nixos)
description:
  - Makes the summary of a night, the sentence with which the run fails if it did not end well, and what AWX keeps of
    it.
options:
  _input:
    description:
      - For each host its V(outcome), V(reason) and V(evidence), as P(homelab.nixos.outcome#filter) has them.
    type: dict
    required: true
  prepare:
    description: The result of M(homelab.nixos.nix_flake_update).
    type: dict
    default: {}
  run_id:
    description: The identity of the run.
    type: str
    required: true
  seconds:
    description: How long the run took, in seconds.
    type: float
    required: true
  dry_run:
    description: Whether nothing was changed.
    type: bool
    default: false
  hosts:
    description:
      - The hosts of the night, each with C(name), and C(canary), C(optional), C(stale_after) in days and
        C(defer_warn_after) in nights where they have them.
    type: list
    elements: dict
    default: []
  reason:
    description: Why the inputs were not updated; empty when they were.
    type: str
    default: ''
  stop:
    description: Why the rollout was stopped, as P(homelab.nixos.stop#filter) has it.
    type: dict
    default: {}
  noted:
    description: The result of M(homelab.nixos.lab_rollout) with C(state=noted).
    type: dict
    default: {}
  deferrals:
    description: By host, the result of M(homelab.nixos.lab_claim) with C(state=deferred).
    type: dict
    default: {}
  now:
    description: Unix time, at the end of the run.
    type: float
    default: 0
"""

EXAMPLES = r"""
- name: Say how the night went
  ansible.builtin.debug:
    msg: "{{ (nights | homelab.nixos.report(run_id='20261122T020000Z-7f3a', seconds=42)).text }}"
"""

RETURN = r"""
_value:
  description:
    - V(text), the summary; V(failure), which is empty when all is well; V(result), the night as plain values, without
      secrets, see C(docs/awx.md); V(knows), what each host that answered said of itself last, as
      M(homelab.nixos.nixos_info) has it.
  type: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _artifacts, _report, _sane


def report(
    nights: Mapping[str, Mapping[str, Any]],
    prepare: Mapping[str, Any] | None = None,
    run_id: str = "",
    seconds: float = 0,
    dry_run: bool = False,
    hosts: Sequence[Mapping[str, Any]] = (),
    reason: str = "",
    stop: Mapping[str, Any] | None = None,
    noted: Mapping[str, Any] | None = None,
    deferrals: Mapping[str, Mapping[str, Any]] | None = None,
    now: float = 0,
) -> dict[str, Any]:
    # what hosts have answered may be anything
    nights = {
        host: {**night, "evidence": _sane.evidence(night.get("evidence") or {})} for host, night in nights.items()
    }
    counts = {host: _sane.count(counted) for host, counted in (deferrals or {}).items()}
    # a clock may be set back during a night
    seconds = max(0.0, seconds)
    rollout = _report.Rollout(hosts, reason, stop or {}, noted or {}, counts, now)
    failure = _report.verdict(nights, prepare or {}, rollout)
    return {
        "text": _report.table(nights, prepare or {}, run_id, seconds, dry_run, rollout),
        "failure": failure,
        "result": _artifacts.artifacts(
            nights,
            prepare or {},
            run_id=run_id,
            began=now - seconds,
            seconds=seconds,
            dry_run=dry_run,
            failure=failure,
            notes=[*_report.rejected_words(prepare or {}), *_report.notes(nights, rollout)],
            warned=_report.warned(nights, rollout),
        ),
        "knows": _artifacts.knowledge(nights, rollout.deferrals),
    }


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"report": report}
