# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What switch-to-configuration said and meant. Pure.

The contract relied on is that of switch-to-configuration-ng in nixpkgs
(C(pkgs/by-name/sw/switch-to-configuration-ng/src/main.rs)).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum


class Ending(Enum):
    """How an activation ended."""

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"
    ACTIVATE_FAILED = "activate_failed"
    UNITS_FAILED = "units_failed"
    REBOOT_NEEDED = "reboot_needed"
    TIMED_OUT = "timed_out"
    KILLED = "killed"
    UNCONFIRMED = "unconfirmed"
    REVERTED = "reverted"
    NOT_BEGUN = "not_begun"
    UNKNOWN = "unknown"


# after these the host is as it was
UNTOUCHED: frozenset[str] = frozenset({Ending.NOT_BEGUN.value, Ending.REFUSED.value, Ending.REBOOT_NEEDED.value})


@dataclass(frozen=True)
class Verdict:
    """C(ending) as a word, and C(sentence) for people. C(touched): the running system may have been changed."""

    ending: Ending
    sentence: str
    touched: bool

    @property
    def ok(self) -> bool:
        return self.ending is Ending.OK


@dataclass(frozen=True)
class Units:
    """Names of units by what happened, or by what would happen, to them."""

    stopped: tuple[str, ...] = ()
    started: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    reloaded: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def as_result(self) -> dict[str, list[str]]:
        return {key: list(value) for key, value in vars(self).items()}


_VERBS = {
    "stop": "stopped",
    "stopping": "stopped",
    "start": "started",
    "starting": "started",
    "restart": "restarted",
    "restarting": "restarted",
    "reload": "reloaded",
    "reloading": "reloaded",
}
_UNIT_LINE = re.compile(r"^(?:would )?(NOT )?(\w+) the following (?:changed )?units: (.+)$")
_NEW_UNITS = re.compile(r"^the following new units were started: (.+)$")
_FAILED_UNITS = re.compile(r"^warning: the following units failed: (.+)$")
_INHIBITORS = "switchInhibitors"
_REFUSED = re.compile(r"^Pre-switch check '([^']+)' failed", re.MULTILINE)


def units(text: str) -> Units:
    """Read what an activation did (C(stopping the following units: …)) or a dry run would (C(would stop …))."""
    found: dict[str, list[str]] = {}
    for line in (line.strip() for line in text.splitlines()):
        if match := _UNIT_LINE.match(line):
            key = "skipped" if match[1] else _VERBS.get(match[2], "")
            names = match[3]
        elif match := _NEW_UNITS.match(line):
            key, names = "started", match[1]
        elif match := _FAILED_UNITS.match(line):
            key, names = "failed", match[1]
        else:
            continue
        if key:
            known = found.setdefault(key, [])
            known += [unit for unit in names.split(", ") if unit not in known]
    return Units(**{key: tuple(names) for key, names in found.items()})


def verdict(rc: int, output: str, failed_before: Collection[str], failed_after: Collection[str]) -> Verdict:
    """Judge the exit code C(rc) of C(switch-to-configuration switch|test|boot|dry-activate).

    Exit code 4 is given when any unit of the host is failed at the end: units that were failed before do not count.
    A unit that it names counts even if systemd has restarted it since.
    """
    new = sorted({*failed_after, *units(output).failed} - set(failed_before))
    if rc == 0 or (rc == 4 and not new):
        return Verdict(Ending.OK, "The system was activated.", touched=True)
    if rc == 100:
        return Verdict(
            Ending.REBOOT_NEEDED,
            "The new system has another init interface: nothing was activated, it needs a reboot.",
            touched=False,
        )
    if rc == 4:
        return Verdict(Ending.UNITS_FAILED, f"Units failed with the new system: {', '.join(new)}.", touched=True)
    if rc == 2:
        return Verdict(
            Ending.ACTIVATE_FAILED, _with_words("The activate script of the new system failed", output), touched=True
        )
    refused = _REFUSED.search(output)
    if refused and refused[1] == _INHIBITORS:
        return Verdict(
            Ending.REBOOT_NEEDED,
            "The new system inhibits a switch to it: nothing was activated, it needs a reboot.",
            touched=False,
        )
    if refused:
        return Verdict(
            Ending.REFUSED,
            f"The pre-switch check {refused[1]} of the new system refused: nothing was activated.",
            touched=False,
        )
    sentence = _with_words(f"switch-to-configuration ended with exit code {rc}", output)
    return Verdict(Ending.FAILED, sentence, touched=True)


def unit_verdict(
    state: dict[str, str], output: str, failed_before: Collection[str], failed_after: Collection[str], timeout: float
) -> Verdict:
    """Judge the ended unit that ran switch-to-configuration by the properties that C(systemctl show) gives of it."""
    result = state.get("Result", "")
    if result == "timeout":
        return Verdict(
            Ending.TIMED_OUT, f"The activation did not end within {timeout:g} s and was stopped.", touched=True
        )
    if result in ("signal", "core-dump", "oom-kill", "watchdog"):
        return Verdict(Ending.KILLED, f"The activation was killed ({result}).", touched=True)
    return verdict(int(state.get("ExecMainStatus") or 1), output, failed_before, failed_after)


def properties(text: str) -> dict[str, str]:
    """Read C(systemctl show): lines of C(Key=value)."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _with_words(sentence: str, output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(error|fatal|failed)\b", line, re.IGNORECASE)]
    words = (errors or lines)[-1:] if lines else []
    return f"{sentence}: {words[0]}" if words else f"{sentence}."
