# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The night for machines: what AWX keeps of a job and hands to the next one. Pure.

Plain values with the same keys each time, and no secret in any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from ansible_collections.homelab.nixos.plugins.module_utils._diff import package_words
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import Word, steps
from ansible_collections.homelab.nixos.plugins.module_utils._redact import plain
from ansible_collections.homelab.nixos.plugins.module_utils._report import NAMES_SHOWN, PACKAGES_SHOWN

VERSION = 1
# whatever is not here is for people, or for one version of Nix alone
_LOCK = ("url", "rev", "last_modified", "nar_hash")
# where a host was looked at, the last first
_LOOKS = ("rollback_proof", "proof", "look_again", "probe")


def artifacts(
    nights: Mapping[str, Mapping[str, Any]],
    prepare: Mapping[str, Any],
    *,
    run_id: str,
    began: float,
    seconds: float,
    dry_run: bool,
    failure: str,
) -> dict[str, Any]:
    """What a night was: C(nights) maps each host to its outcome, C(failure) says why the run fails, if it does."""
    told = {
        "version": VERSION,
        "run_id": run_id,
        "dry_run": dry_run,
        "failed": bool(failure),
        "failure": failure,
        "began": int(began),
        "durations": {**_numbers(prepare.get("durations")), "total": round(seconds, 1)},
        "outcomes": {
            word: sorted(host for host, night in nights.items() if night["outcome"] == word) for word in get_args(Word)
        },
        "hosts": {host: _host(night) for host, night in sorted(nights.items())},
        "inputs": [_input(each) for each in prepare.get("inputs") or ()],
        "lock_hash": prepare.get("lock_hash"),
    }
    return plain(told)


def _host(night: Mapping[str, Any]) -> dict[str, Any]:
    made = steps(night.get("evidence") or {})
    packages = made.get("activation", {}).get("packages") or {}
    looks = [made[step]["systems"].get("current") for step in _LOOKS if made.get(step, {}).get("systems")]
    took = {
        "copy": sum(_numbers(made.get("copy", {}).get("durations")).values()),
        "activation": sum(_numbers(made.get("activation", {}).get("durations")).values()),
        "reboot": made.get("reboot", {}).get("elapsed") or 0,
        "rollback": sum(_numbers(made.get("rollback", {}).get("durations")).values()),
    }
    return {
        "outcome": night["outcome"],
        "reason": night["reason"],
        "before": made.get("probe", {}).get("systems", {}).get("current"),
        "after": looks[0] if looks else None,
        "rebooted": bool(made.get("reboot", {}).get("rebooted")),
        "changes": package_words({**packages, "closure_delta": None}, PACKAGES_SHOWN, NAMES_SHOWN),
        "closure_delta": packages.get("closure_delta"),
        "durations": {step: round(seconds, 1) for step, seconds in took.items() if step in made},
    }


def _input(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "path": one["path"],
        **{
            side: None if one.get(side) is None else {key: one[side].get(key) for key in _LOCK}
            for side in ("before", "after")
        },
        "compare": one.get("compare"),
    }


def _numbers(given: Mapping[str, Any] | None) -> dict[str, float]:
    return {str(name): round(float(seconds), 1) for name, seconds in (given or {}).items()}
