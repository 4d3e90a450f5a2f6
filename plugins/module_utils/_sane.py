# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What hosts have answered, of the types that a report needs: one odd answer takes no report of others along. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._diff import package_words
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import LAST_TIME

# no step of a night takes years
_LONGEST = 10 * 365 * 86400


def evidence(given: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a host's steps, without what is not of its type: nobody knows that then."""
    return {step: _result(result) for step, result in given.items() if isinstance(result, Mapping)}


def count(given: Mapping[str, Any]) -> dict[str, Any]:
    """The result of counting the nights in which a host was left alone; empty where it is no count."""
    told = given.get("deferrals", given)
    if told is None:
        return {"deferrals": None}
    if not isinstance(told, Mapping) or seconds(told.get("since"), LAST_TIME) is None:
        return {}
    nights = told.get("nights")
    return {"deferrals": dict(told)} if isinstance(nights, int) and not isinstance(nights, bool) else {}


def seconds(value: object, most: float = _LONGEST) -> float | None:
    """A number of seconds, V(None) for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value) if 0 <= value <= most else None


def _result(result: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(result)
    for key, sane in _SANE.items():
        if key in found:
            found[key] = sane(found[key])
    return found


def _systems(value: object) -> dict[str, str | None]:
    """All four, or none: half of what a host runs is no answer."""
    told = value if isinstance(value, Mapping) else {}
    good = all(one is None or isinstance(one, str) for one in told.values())
    return {str(name): one for name, one in told.items()} if good else {}


def _described(value: object) -> dict[str, Any] | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("system"), str):
        return None
    return {str(name): one if isinstance(one, (str, int)) else None for name, one in value.items()}


def _durations(value: object) -> dict[str, float]:
    told = value if isinstance(value, Mapping) else {}
    return {str(name): known for name, one in told.items() if (known := seconds(one)) is not None}


def _packages(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {}
    grown = value.get("closure_delta")
    told = {**value, "closure_delta": grown if isinstance(grown, int) and not isinstance(grown, bool) else None}
    try:
        package_words(told, 1, 1)
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
    return told


def _words(value: object) -> list[str]:
    told = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    return [str(one) for one in told if isinstance(one, str)]


def _span(value: object) -> dict[str, float]:
    told = value if isinstance(value, Mapping) else {}
    began, took = seconds(told.get("began"), LAST_TIME), seconds(told.get("seconds"))
    return {} if began is None or took is None else {"began": began, "seconds": took}


_SANE: Mapping[str, Callable[[Any], Any]] = {
    "systems": _systems,
    "before": _described,
    "after": _described,
    "durations": _durations,
    "elapsed": lambda value: seconds(value) or 0,
    "packages": _packages,
    "reboot_reasons": _words,
    "span": _span,
    "msg": lambda value: str(value or ""),
    "reason": lambda value: str(value or ""),
    "last": lambda value: value if isinstance(value, Mapping) else None,
}
