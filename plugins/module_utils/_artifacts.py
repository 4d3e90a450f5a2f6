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
# what people call the steps that take time
_SPANS = {
    "probe": "probe",
    "copy": "copy",
    "activation": "activation",
    "verification": "verification",
    "reboot": "reboot",
    "reboot_verification": "verification",
    "rollback": "rollback",
    "rollback_reboot": "rollback",
    "rollback_verification": "rollback",
}


def artifacts(
    nights: Mapping[str, Mapping[str, Any]],
    prepare: Mapping[str, Any],
    *,
    run_id: str,
    began: float,
    seconds: float,
    dry_run: bool,
    failure: str,
    notes: Sequence[str] = (),
    warned: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a night was: C(nights) maps each host to its outcome, C(failure) says why the run fails, if it does.

    C(notes) are sentences for people, C(warned) the hosts among them that were C(stale) or C(deferred) for too long.
    """
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
        "spans": _of_the_night(prepare),
        "notes": list(notes),
        "warned": dict(warned or {}),
    }
    result: dict[str, Any] = plain(told)
    return result


def _host(night: Mapping[str, Any]) -> dict[str, Any]:
    made = steps(night.get("evidence") or {})
    packages = made.get("activation", {}).get("packages") or {}
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
        "after": _seen_last(made),
        "rebooted": any(made.get(step, {}).get("rebooted") for step in ("reboot", "rollback_reboot")),
        "changes": package_words({**packages, "closure_delta": None}, PACKAGES_SHOWN, NAMES_SHOWN),
        "closure_delta": packages.get("closure_delta"),
        "durations": {step: round(seconds, 1) for step, seconds in took.items() if step in made},
        "spans": [_span(word, **made[step]["span"]) for step, word in _SPANS.items() if made.get(step, {}).get("span")],
    }


def _seen_last(made: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The system that a host ran when it was seen last, by whichever step that was."""
    looks = {step: made[step]["systems"].get("current") for step in _LOOKS if made.get(step, {}).get("systems")}
    activation, rollback = made.get("activation", {}), made.get("rollback", {})
    seen = (
        looks.get("rollback_proof"),
        rollback.get("system") if rollback.get("activated") else None,
        looks.get("proof"),
        (activation.get("after") or {}).get("system") if activation.get("activated") else None,
        looks.get("look_again"),
        looks.get("probe"),
    )
    return next((system for system in seen if system), None)


def knowledge(
    nights: Mapping[str, Mapping[str, Any]], deferrals: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """What each host that answered said of itself last, with the nights in which it was left alone as counted now."""
    known = {}
    for host, night in nights.items():
        made = steps(night.get("evidence") or {})
        look = next((made[step] for step in _LOOKS if made.get(step, {}).get("systems")), None)
        if look is not None:
            counted = deferrals.get(host) or {}
            known[host] = {**look, "deferrals": counted["deferrals"]} if "deferrals" in counted else look
    return known


def _of_the_night(prepare: Mapping[str, Any]) -> list[dict[str, Any]]:
    """When the inputs were updated, and when everything was built after that."""
    durations = _numbers(prepare.get("durations"))
    began = prepare.get("span", {}).get("began")
    spans = []
    for step in ("update", "build"):
        if began is not None and step in durations:
            spans.append(_span(step, began, durations[step]))
            began += durations[step]
    return spans


def _span(step: str, began: float, seconds: float) -> dict[str, Any]:
    return {"step": step, "began": round(began, 1), "seconds": round(seconds, 1)}


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
