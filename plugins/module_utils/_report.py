# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The night as a table for people. Pure."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._diff import package_words
from ansible_collections.homelab.nixos.plugins.module_utils._lock_file import iso_date, printable
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import BAD, steps
from ansible_collections.homelab.nixos.plugins.module_utils._systems import short

_HEADINGS = ("HOST", "OUTCOME", "OLD SYSTEM", "NEW SYSTEM", "REBOOT")
WORST_FIRST = (
    "lost",
    "rollback_failed",
    "rolled_back",
    "failed",
    "unreachable",
    "held",
    "deferred",
    "pending",
    "updated",
    "unchanged",
)
PACKAGES_SHOWN = 12
# of those that moved together, as all of a desktop does
NAMES_SHOWN = 4
_WIDTH = 110
_NEVER = 10**9
_INDENT = "      "


@dataclass(frozen=True)
class Rollout:
    """What the night is told of the rollout as a whole.

    C(hosts) have C(name), C(canary), C(optional), C(stale_after) (days) and C(defer_warn_after) (nights). C(reason)
    says why the inputs were not updated, C(stop) why the rollout was stopped (C(reason), C(critical)). C(noted) is the
    result of writing it down, with the time at which each host was seen to be right last as C(current); C(deferrals)
    are the results of counting.
    """

    hosts: Sequence[Mapping[str, Any]] = ()
    reason: str = ""
    stop: Mapping[str, Any] = field(default_factory=dict)
    noted: Mapping[str, Any] = field(default_factory=dict)
    deferrals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    now: float = 0


def verdict(nights: Mapping[str, Mapping[str, Any]], prepare: Mapping[str, Any], rollout: Rollout | None = None) -> str:
    """Why the run did not end well, in a sentence; empty when it did. C(nights) maps hosts to their outcomes."""
    complaints = []
    if rollout is not None and rollout.stop.get("critical") and rollout.noted.get("failed"):
        complaints.append(f"That the rollout is stopped could not be written down: {rollout.noted.get('msg', '')}")
    if prepare.get("failed"):
        complaints.append(f"Nothing could be prepared: {prepare.get('msg', '')}")
    bad = [f"{host} ({night['outcome']})" for host, night in sorted(nights.items()) if night["outcome"] in BAD]
    if bad:
        complaints.append(f"Ended badly: {', '.join(bad)}.")
    if nights and all(night["outcome"] == "unreachable" for night in nights.values()):
        complaints.append("No host could be reached.")
    elif nights and not any(_made(night).get("probe", {}).get("systems") for night in nights.values()):
        complaints.append("No host could be looked at.")
    undone = [host for host, night in sorted(nights.items()) if not night.get("decided", True)]
    if undone:
        complaints.append(f"The turn of {', '.join(undone)} did not come.")
    return " ".join(complaints)


def notes(nights: Mapping[str, Mapping[str, Any]], rollout: Rollout) -> list[str]:
    """What people should know beside the outcomes, each a sentence or two."""
    told = [str(text) for text in (rollout.stop.get("reason"), rollout.reason) if text]
    seen = rollout.noted.get("current") or {}
    for host in rollout.hosts:
        name, night = host["name"], nights[host["name"]]
        probe = _made(night).get("probe", {})
        last = probe.get("last") or {}
        if probe.get("is_controller") and last.get("outcome") in BAD:
            told.append(
                f"{name}, its own controller, was {last['outcome']} after the night before: {last.get('reason')}"
            )
        if host.get("canary") and night["outcome"] in ("unreachable", "deferred"):
            told.append(f"The canary {name} did not take part, it was {night['outcome']}.")
        if days := _stale_days(host, rollout):
            told.append(f"{name} has not been updated for {days} days, since {iso_date(seen[name])}.")
        if count := _left_alone(host, night, rollout):
            told.append(
                f"{name} was left alone in {count['nights']} nights in a row, since {iso_date(count['since'])}."
            )
    if rollout.noted.get("failed"):
        told.append(f"How far the rollout has come could not be written down: {rollout.noted.get('msg', '')}")
    return told


def warned(nights: Mapping[str, Mapping[str, Any]], rollout: Rollout) -> dict[str, str]:
    """The hosts that were not updated, or were left alone, for as long as their owner wants to be warned of."""
    told = {}
    for host in rollout.hosts:
        if _left_alone(host, nights[host["name"]], rollout):
            told[host["name"]] = "deferred"
        if _stale_days(host, rollout):
            told[host["name"]] = "stale"
    return told


def rejected_words(prepare: Mapping[str, Any]) -> list[str]:
    """A sentence for each input that stayed behind."""
    return [f"Input {name} was left alone: {why}" for name, why in (prepare.get("rejected_inputs") or {}).items()]


def table(
    nights: Mapping[str, Mapping[str, Any]],
    prepare: Mapping[str, Any],
    run_id: str,
    seconds: float,
    dry_run: bool,
    rollout: Rollout | None = None,
) -> str:
    """The summary of a night: what became of the inputs, and a row for each host, with its reason below it.

    C(nights) maps each host to C(outcome), C(reason), C(target) and C(evidence).
    """
    counted = Counter(night["outcome"] for night in nights.values())
    counts = ", ".join(f"{counted[word]} {word}" for word in WORST_FIRST if word in counted)
    hosts = "1 host" if len(nights) == 1 else f"{len(nights)} hosts"
    lines = [f"Night {run_id} · {hosts}: {counts} · {duration_words(seconds)}"]
    if dry_run:
        lines.append("Dry run: this is what a night would do; nothing was changed.")
    lines += [f"Input {text}" for text in input_words(prepare.get("inputs") or ())]
    lines += rejected_words(prepare)

    for text in notes(nights, rollout) if rollout is not None else ():
        lines += textwrap.wrap(text, _WIDTH, subsequent_indent=_INDENT, break_on_hyphens=False)
    optional = {host["name"] for host in (rollout.hosts if rollout is not None else ()) if host.get("optional")}

    rows = {host: _row(host, night) for host, night in nights.items()}
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows.values(), strict=True)]

    def line(row: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    # of a host that was not touched anyhow, too: the next night would stumble over it
    unbuilt = {} if prepare.get("failed") else prepare.get("failed_systems") or {}
    lines += ["", line(_HEADINGS)]
    for host, row in rows.items():
        lines.append(line(row))
        if host in optional and nights[host]["outcome"] == "unreachable":
            # nothing is wrong with a laptop that is off
            continue
        settled = _made(nights[host]).get("settle", {}).get("reason", "")
        # each thing once, in this order
        said = dict.fromkeys((settled, nights[host]["reason"], unbuilt.get(host, ""), _packages(nights[host])))
        for text in said:
            # paths stay whole, so that they can be copied
            lines += textwrap.wrap(
                text, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False
            )
    return "\n".join(lines)


def input_words(inputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each input that moved, C(nixpkgs 2026-11-20 1a2b3c4 → 2026-11-22 5d6e7f8), and its link below it."""
    return [
        printable(f"{one['path']} {locked_words(one.get('before'))} → {locked_words(one.get('after'))}")
        + (f"\n{_INDENT}{one['compare']}" if one.get("compare") else "")
        for one in inputs
    ]


def _stale_days(host: Mapping[str, Any], rollout: Rollout) -> int:
    """For how many days a host was not seen to be right, 0 where that is no matter yet."""
    seen = (rollout.noted.get("current") or {}).get(host["name"], rollout.now)
    days = int((rollout.now - seen) // 86400)
    return days if days >= int(host.get("stale_after") or _NEVER) else 0


def _left_alone(host: Mapping[str, Any], night: Mapping[str, Any], rollout: Rollout) -> Mapping[str, Any]:
    """The count of the nights in which a host was left alone, empty where that is no matter yet."""
    count: Mapping[str, Any] = (rollout.deferrals.get(host["name"]) or {}).get("deferrals") or {}
    matters = night.get("deferral") and count.get("nights", 0) >= int(host.get("defer_warn_after") or _NEVER)
    return count if matters else {}


def _made(night: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The steps of a host's night; the report is made even where nobody could say them."""
    return steps(night.get("evidence") or {})


def _row(host: str, night: Mapping[str, Any]) -> tuple[str, ...]:
    made = _made(night)
    looked = made.get("probe", {}).get("systems")
    activation = made.get("activation", {})
    if not looked:
        return host, night["outcome"], "not seen", "", ""
    old, new = activation.get("before"), activation.get("after")
    if not (old and new):
        return host, night["outcome"], short(looked["current"]), "", ""
    return host, night["outcome"], _system(old), _system(new), _reboot(made)


def _packages(night: Mapping[str, Any]) -> str:
    packages = _made(night).get("activation", {}).get("packages") or {}
    return "; ".join(package_words(packages, PACKAGES_SHOWN, NAMES_SHOWN))


def _reboot(made: Mapping[str, Mapping[str, Any]]) -> str:
    reasons = ", ".join(made["activation"]["reboot_reasons"]) or "asked for"
    if made.get("reboot", {}).get("rebooted"):
        return f"yes: {reasons}"
    return f"due: {reasons}" if made["activation"]["reboot_required"] else "no"


def _system(described: Mapping[str, Any]) -> str:
    return f"{described.get('nixos_version') or '?'} {short(described['system'])}"


def locked_words(locked: Mapping[str, Any] | None) -> str:
    """To what an input is locked, by day and revision, or by what it holds."""
    if locked is None:
        return "(none)"
    when = locked.get("last_modified")
    day = iso_date(when) if when else ""
    identity = (locked.get("rev") or str(locked.get("nar_hash") or "").removeprefix("sha256-"))[:7]
    return " ".join(word for word in (day, identity) if word)


def duration_words(seconds: float) -> str:
    """How long something took, V(1 min 12 s)."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
