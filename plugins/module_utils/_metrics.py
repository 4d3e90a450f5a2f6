# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The nights as metrics: a file for the textfile collector of Prometheus's node_exporter. Pure.

What nobody knows has no sample: a zero would be a claim. The collector drops a whole file for one sample that is there
twice, or for one that it cannot read, so every label is escaped and every sample is there once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from ansible_collections.homelab.nixos.plugins.module_utils._outcome import ON_TARGET, Word

PREFIX = "lab_auto_update_"
# of the file: the collector reads names that end with .prom
FILE = "lab_auto_update.prom"

PHASES = ("probe", "copy", "activation", "verification", "reboot", "rollback")
# a host that ended so was changed tonight, and verified
_VERIFIED = ("updated", "pending")
# these keep their claim when the night has closed
_KEEPS_CLAIM = ("lost", "rollback_failed")

Sample = tuple[str, tuple[str, ...], float]


@dataclass(frozen=True)
class Family:
    """What the samples of one name tell. All of them are gauges: nothing is counted from night to night here."""

    help: str
    labels: tuple[str, ...] = ()


# in the order of the file
FAMILIES: Mapping[str, Family] = {
    f"{PREFIX}run_info": Family("The newest run, by the name it has everywhere else.", ("run_id",)),
    f"{PREFIX}run_start_timestamp_seconds": Family("When the newest run began."),
    f"{PREFIX}run_end_timestamp_seconds": Family("When the newest run ended."),
    f"{PREFIX}run_success": Family("Whether the newest run ended well."),
    f"{PREFIX}run_last_success_timestamp_seconds": Family("When the newest run that ended well ended."),
    f"{PREFIX}run_duration_seconds": Family("How long the newest run took."),
    f"{PREFIX}run_step_duration_seconds": Family("How long a step of the whole newest run took.", ("step",)),
    f"{PREFIX}input_last_modified_timestamp_seconds": Family("Of when an input of the flake is.", ("input",)),
    f"{PREFIX}host_outcome": Family("1 for the outcome of the host's newest night, 0 for others.", ("host", "outcome")),
    f"{PREFIX}host_last_success_timestamp_seconds": Family(
        "When the host was last known to run what the flake gives it.", ("host",)
    ),
    f"{PREFIX}host_last_seen_timestamp_seconds": Family("When a night in which the host was seen ended.", ("host",)),
    f"{PREFIX}host_phase_duration_seconds": Family(
        "How long a phase of the host's newest night took.", ("host", "phase")
    ),
    f"{PREFIX}host_phase_last_success_timestamp_seconds": Family(
        "When a phase last succeeded on the host.", ("host", "phase")
    ),
    f"{PREFIX}host_rebooted": Family("Whether the host was rebooted in its newest night.", ("host",)),
    f"{PREFIX}host_deferred_nights": Family(
        "For how many nights in a row the host asked not to be touched, by the newest reason.", ("host", "reason")
    ),
    f"{PREFIX}host_claimed": Family("Whether a run holds the host after the night.", ("host",)),
    f"{PREFIX}host_claimed_since_timestamp_seconds": Family("Since when that run holds the host.", ("host",)),
    f"{PREFIX}host_proven_since_timestamp_seconds": Family(
        "Since when the running system of the host is proven.", ("host",)
    ),
    f"{PREFIX}host_reboot_reason": Family("1 for each part of the host that only a reboot brings.", ("host", "reason")),
    # name and help of the community's textfile scripts: a name with two helps breaks a scrape
    "node_reboot_required": Family("Node reboot is required for software updates.", ("host",)),
}

_REBOOT_REASONS = frozenset(
    {"kernel", "initrd", "kernel-modules", "kernel-params", "systemd", "init-interface", "switch-inhibitor"}
)
# How the sentences with which hosts are deferred begin, by what they complain of: a kind of check, or a step of ours.
_COMPLAINTS: Mapping[str, str] = {
    "disk": r"% of its space in use, the limit is ",
    "inodes": r"% of its inodes in use, the limit is ",
    "boot": r"MiB free, it needs ",
    "systemd": r"systemd is \S+, not running\.",
    "failed_units": r"Failed units: ",
    "service": r"The service \S+ is ",
    "uptime": r"Up for \d+ min only",
    "memory": r"MiB of memory are available, ",
    "clock": r"The clock is not ",
    "sessions": r" (?:is|are) logged in\.",
    "inhibitors": r"Its shutdown is blocked by ",
    "busy": r"It is busy with ",
    "updater": r"Something else updates this host: ",
    "hold": r" holds this host|It is held",
    "window": r"Its window is not open",
    "alerts": r"Alerts that fire for it: ",
    "check": r"The check [^:]+: ",
    "drift": r"Drift: ",
    "space": r" has no room for ",
    "claim": r"Another run is changing this host|it was held by |Somebody else changed or rebooted it"
    r"|could not be claimed|What another run left",
    "unseen": r"could not be looked at",
}
# a sentence may hold words of others, without end
_MOST = 2000
_UNTOLD = re.compile(r"(?:^|\s)(\w+)(?::\S*)? cannot be told: ")
REASONS = (*_COMPLAINTS, "other")


def text(
    nights: Sequence[Mapping[str, Any]],
    knows: Mapping[str, Mapping[str, Any]],
    *,
    hosts: Collection[str] | None = None,
) -> str:
    """The file; empty when there is nothing to say, and then the one that is there stays.

    C(nights) are results of nights, the newest last; dry runs do not count. C(hosts) are those there are, where the
    newest had not all of them. C(knows) has what nixos_info said last of each host that answered in its newest night.
    """
    real = [night for night in nights if not night["dry_run"]]
    if not real:
        return ""
    found: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in FAMILIES}
    for name, labels, value in (*_run(real), *_inputs(real)):
        found[name][labels] = value
    for host in real[-1]["hosts"] if hosts is None else hosts:
        for name, labels, value in (*_nights(host, real), *_knowledge(host, real, knows)):
            found[name][(str(host), *labels)] = value
    return "".join(_family(name, samples) for name, samples in found.items() if samples)


def complaint(reason: str) -> str:
    """What the sentence of a deferral complains of first, one of L(REASONS): sentences would be labels without end."""
    reason = reason[:_MOST]
    begins = {
        word: match.start()
        for word, pattern in _COMPLAINTS.items()
        if (match := re.search(pattern, reason)) is not None
    }
    untold = _UNTOLD.search(reason)
    if untold is not None and untold[1] in _COMPLAINTS:
        begins[untold[1]] = min(untold.start(), begins.get(untold[1], untold.start()))
    return min(begins, key=lambda word: begins[word], default="other")


def _run(real: Sequence[Mapping[str, Any]]) -> Iterator[Sample]:
    tonight = real[-1]
    yield f"{PREFIX}run_info", (str(tonight["run_id"]),), 1
    yield f"{PREFIX}run_start_timestamp_seconds", (), tonight["began"]
    yield f"{PREFIX}run_end_timestamp_seconds", (), _end(tonight)
    yield f"{PREFIX}run_success", (), not tonight["failed"]
    yield f"{PREFIX}run_duration_seconds", (), tonight["durations"]["total"]
    good = [_end(night) for night in real if not night["failed"]]
    if good:
        yield f"{PREFIX}run_last_success_timestamp_seconds", (), max(good)
    for step in ("update", "build"):
        seconds = _number(tonight["durations"].get(step))
        if seconds is not None:
            yield f"{PREFIX}run_step_duration_seconds", (step,), seconds


def _inputs(real: Sequence[Mapping[str, Any]]) -> Iterator[Sample]:
    """Of when the inputs are that have moved in one of the nights."""
    locked: dict[str, float | None] = {}
    for night in real:
        # what was not adopted is not in use
        side = "after" if night["lock_hash"] else "before"
        for each in night["inputs"]:
            locked[each["path"]] = _number((each[side] or {}).get("last_modified"))
    for path, when in locked.items():
        if when is not None:
            yield f"{PREFIX}input_last_modified_timestamp_seconds", (path,), when


def _nights(host: str, real: Sequence[Mapping[str, Any]]) -> Iterator[Sample]:
    """What the nights tell of a host; the labels are those beside the host."""
    mine = [(night, night["hosts"][host]) for night in real if host in night["hosts"]]
    if not mine:
        return
    newest = mine[-1][1]
    for word in get_args(Word):
        yield f"{PREFIX}host_outcome", (word,), newest["outcome"] == word
    yield f"{PREFIX}host_rebooted", (), newest["rebooted"]
    for phase, seconds in _durations(newest).items():
        yield f"{PREFIX}host_phase_duration_seconds", (phase,), seconds
    seen = [_end(night) for night, own in mine if own["before"] is not None]
    if seen:
        yield f"{PREFIX}host_last_seen_timestamp_seconds", (), max(seen)
    ended: dict[str, float] = {}
    for night, own in mine:
        ended |= {phase: _phase_end(phase, night, own) for phase in PHASES if _succeeded(phase, own)}
    for phase, when in ended.items():
        yield f"{PREFIX}host_phase_last_success_timestamp_seconds", (phase,), when


def _knowledge(
    host: str, real: Sequence[Mapping[str, Any]], knows: Mapping[str, Mapping[str, Any]]
) -> Iterator[Sample]:
    """What the host tells of itself; none of its words is taken for a number, and no time that is still to come."""
    now = _end(real[-1])
    newest = next((night for night in reversed(real) if host in night["hosts"]), None)
    run_id, own = (newest["run_id"], newest["hosts"][host]) if newest else ("", {})
    outcome = own.get("outcome", "")
    known = _mapping(knows.get(host))

    last = _mapping(known.get("last"))
    right = [_end(night) for night in real if night["hosts"].get(host, {}).get("outcome") in ON_TARGET]
    ended = _time(last.get("ended"), now)
    if last.get("outcome") in ON_TARGET and ended is not None:
        right.append(ended)
    if right:
        yield f"{PREFIX}host_last_success_timestamp_seconds", (), max(right)

    if known or outcome == "pending":
        # a host that reboots after its own night was looked at before it needed to
        yield "node_reboot_required", (), outcome == "pending" or known.get("reboot_required") is True
    for each in _sequence(known.get("reboot_reasons")):
        word = str(each).partition(" ")[0]
        yield f"{PREFIX}host_reboot_reason", (word if word in _REBOOT_REASONS else "other",), 1
    since = _time(known.get("proven_since"), now)
    if since is not None:
        yield f"{PREFIX}host_proven_since_timestamp_seconds", (), since
    if known:
        yield from _claim(_mapping(known.get("transaction")), run_id, outcome, now)
    yield from _deferrals(_mapping(known.get("deferrals")), run_id, outcome, own.get("reason", ""))


def _claim(held: Mapping[str, Any], run_id: str, outcome: str, now: float) -> Iterator[Sample]:
    """Who holds the host when the night C(run_id) has closed."""
    keeps = outcome in _KEEPS_CLAIM
    if keeps and not held:
        # it was looked at before it was claimed
        return
    claimed = bool(held) and (keeps or held.get("run_id") != run_id)
    yield f"{PREFIX}host_claimed", (), claimed
    since = _time(held.get("since"), now)
    if claimed and since is not None:
        yield f"{PREFIX}host_claimed_since_timestamp_seconds", (), since


def _deferrals(told: Mapping[str, Any], run_id: str, outcome: str, why: str) -> Iterator[Sample]:
    """The row of nights in which the host was left alone, with the night C(run_id) in it."""
    counted = told.get("run_id") == run_id
    nights = _number(told.get("nights")) or 0
    reason = str(told.get("reason") or "")
    if outcome == "deferred" and not counted:
        nights, reason = nights + 1, why
    elif outcome in ON_TARGET and not counted:
        nights = 0
    if nights:
        yield f"{PREFIX}host_deferred_nights", (complaint(reason),), nights


def _end(night: Mapping[str, Any]) -> float:
    return float(night["began"]) + float(night["durations"]["total"])


def _spans(own: Mapping[str, Any], phase: str) -> list[tuple[float, float]]:
    """Begin and length of each time that a phase was made; empty where the night did not note them."""
    found = [
        (_number(span.get("began")), _number(span.get("seconds")))
        for span in own.get("spans") or ()
        if span.get("step") == phase
    ]
    return [(began, seconds) for began, seconds in found if began is not None and seconds is not None]


def _durations(own: Mapping[str, Any]) -> dict[str, float]:
    """How long each phase took that was made."""
    found = {phase: _number(own["durations"].get(phase)) for phase in PHASES}
    found |= {phase: sum(seconds for _began, seconds in spans) for phase in PHASES if (spans := _spans(own, phase))}
    return {phase: seconds for phase, seconds in found.items() if seconds is not None}


def _succeeded(phase: str, own: Mapping[str, Any]) -> bool:
    """Whether it is known that a phase was made and succeeded."""
    made, outcome = _durations(own), own["outcome"]
    verified = outcome in _VERIFIED and "activation" in made
    return {
        "probe": own["before"] is not None,
        "copy": "copy" in made and "activation" in made,
        "activation": verified,
        "verification": verified,
        "reboot": outcome in _VERIFIED and bool(own["rebooted"]),
        "rollback": outcome == "rolled_back" and "rollback" in made,
    }[phase]


def _phase_end(phase: str, night: Mapping[str, Any], own: Mapping[str, Any]) -> float:
    """When a phase ended; the end of the night where that was not noted."""
    return max((began + seconds for began, seconds in _spans(own, phase)), default=_end(night))


def _number(value: object) -> float | None:
    """A number of seconds or things; C(None) for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value < 1e15 and math.isfinite(value) else None


def _time(value: object, now: float) -> float | None:
    """A time that a host tells; one that is still to come is of a clock that is wrong, and would silence alerts."""
    number = _number(value)
    return number if number is not None and number <= now else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else ()


def _family(name: str, samples: Mapping[tuple[str, ...], float]) -> str:
    family = FAMILIES[name]
    lines = [f"# HELP {name} {family.help}", f"# TYPE {name} gauge"]
    written = {_labels(family.labels, values): value for values, value in samples.items()}
    lines += [f"{name}{labels} {_value(value)}" for labels, value in sorted(written.items())]
    return "".join(f"{line}\n" for line in lines)


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = [f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(value: str) -> str:
    """As the text format has it; what UTF-8 cannot say is a question mark."""
    plain = value.encode("utf-8", "replace").decode("utf-8")
    return plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _value(value: float) -> str:
    return repr(int(value) if float(value).is_integer() else round(float(value), 3))
