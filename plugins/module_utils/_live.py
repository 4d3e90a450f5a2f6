# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run looks like while it goes on: the step of each host, and the lines that show it. Pure."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._html import visible
from ansible_collections.homelab.nixos.plugins.module_utils._lock_file import printable

# Whether a task is skipped is known a little after it began: a step is believed once it has lasted so long, in seconds.
SURE = 2.0

# The tasks that tell at the end how a run went, so that no recap is needed.
SUMMARIES = ("Show how the night went", "Show how it went", "Show what was found, and what is missing")

# Of these, no reason has to be told.
WELL = ("updated", "unchanged")
_BAD = ("failed", "rolled_back", "rollback_failed", "lost", "unreachable")

_STEPS = {
    "lab_health_check": "gate",
    "lab_log": "note",
    "lab_rollout": "note",
    "lab_tell": "tell",
    "nix_copy": "copy",
    "nix_flake_update": "build",
    "nix_realise": "copy",
    "nixos_info": "probe",
    "nixos_reboot": "reboot",
    "wait_for_connection": "wait",
}
_STEPS_OF_REBUILD = {"test": "activate", "switch": "activate", "boot": "commit", "boot_once": "commit"}
_STEPS_OF_CLAIM = {
    "taken": "claim",
    "renewed": "claim",
    "settled": "settle",
    "released": "release",
    "noted": "note",
}
# They take no time, or speak for themselves.
_NO_STEP = (
    "add_host",
    "assert",
    "debug",
    "fail",
    "group_by",
    "import_playbook",
    "import_role",
    "import_tasks",
    "include_role",
    "include_tasks",
    "include_vars",
    "lab_run",
    "meta",
    "set_fact",
    "set_stats",
    "validate_argument_spec",
)


def step(action: str, args: Mapping[str, Any], name: str, delegated: bool = False) -> str:
    """The step that a task is, in a word where it is one of a night's; empty where it is none, else the task's name."""
    verb = action.rpartition(".")[2]
    if verb in _NO_STEP:
        return ""
    if verb == "nixos_rebuild":
        asked = str(args.get("action", ""))
        return _STEPS_OF_REBUILD.get(asked, asked)
    if verb == "lab_claim":
        return _STEPS_OF_CLAIM.get(str(args.get("state", "")), "note")
    # what has just started is given time to settle, and so it is no gate
    if (verb == "lab_health_check" and "settle" in args) or (verb == "nixos_info" and name.startswith("Prove ")):
        return "verify"
    if verb == "nixos_info" and delegated:
        return "witness"
    return _STEPS.get(verb) or printable(name)


@dataclass(frozen=True)
class Host:
    """The step that a host is in (C(step)), or may be in (C(next)), and since when; C(idle): since when in none."""

    step: str = ""
    since: float = 0.0
    next: str = ""
    next_since: float = 0.0
    idle: float = 0.0
    outcome: str = ""


@dataclass(frozen=True)
class State:
    """What is shown of a run; replaced and never changed, so that it can be drawn at any time."""

    began: float
    play: str = ""
    dry_run: bool = False
    batch: int = 0
    batches: int = 0
    # what runs once, for all
    once: Host = field(default_factory=Host)
    hosts: Mapping[str, Host] = field(default_factory=dict)


def opened(state: State, play: str, dry_run: bool, in_batches: bool) -> State:
    """A play has begun; one in batches begins anew with each of them."""
    batch = (state.batch + 1 if state.play == play else 1) if in_batches else 0
    return replace(state, play=play, dry_run=dry_run, batch=batch, once=Host())


def begun(state: State, host: str, what: str, now: float) -> State:
    """A task of this step began on the host; without a host, one that runs once for all."""
    before = _of(state, host)
    if not what:
        return _with(state, host, before)
    if what == before.step:
        return _with(state, host, replace(before, next="", idle=0.0))
    return _with(state, host, replace(before, next=what, next_since=now))


def ended(state: State, host: str, skipped: bool, now: float) -> State:
    """The task that began last on the host has ended, or there was nothing to do."""
    before = _of(state, host)
    after = before if skipped else _promoted(before)
    idle = now if not before.idle or after is not before else before.idle
    return _with(state, host, replace(after, next="", idle=idle))


def confirmed(state: State, host: str) -> State:
    """The task that began last on the host is not skipped."""
    return _with(state, host, _promoted(_of(state, host)))


def judged(state: State, host: str, outcome: str) -> State:
    """The host's night has ended so; one that nothing was done with has no part in it."""
    before = _of(state, host)
    return _with(state, host, replace(before, outcome=outcome)) if before.step else state


def believed(state: State, now: float) -> State:
    """The steps that have lasted long enough to be more than a task that is skipped."""
    for name in ("", *state.hosts):
        host = _of(state, name)
        if host.next and now - host.next_since >= SURE:
            state = _with(state, name, _promoted(host))
    return state


def news(before: State, after: State) -> list[tuple[float, str, str]]:
    """The steps that C(after) has and C(before) had not: since when, of which host, and which."""
    found = []
    for name in ("", *after.hosts):
        old, new = _of(before, name), _of(after, name)
        if new.step and (new.step, new.since) != (old.step, old.since):
            found.append((new.since, name, new.step))
    return sorted(found)


def outcome(facts: Any) -> tuple[str, str]:
    """The outcome and its reason in what a task noted of a host's night, when that is the last word; else empty."""
    night = facts.get("lab_night") if isinstance(facts, Mapping) else None
    if not isinstance(night, Mapping) or not night.get("ended"):
        return "", ""
    # until its turn has come, a host is judged for the case that it never comes
    if not (night.get("decided") or night.get("began")):
        return "", ""
    return str(night.get("outcome", "")), str(night.get("reason", ""))


def sentence(result: Mapping[str, Any]) -> str:
    """Why a task failed, as text for people; empty when the result does not say."""
    said = result.get("msg") or result.get("censored") or ""
    if isinstance(said, (list, tuple)):
        said = "\n".join(map(str, said))
    parts = [str(said).strip()]
    for key in ("module_stderr", "module_stdout", "stderr", "stdout"):
        more = str(result.get(key) or "").strip()
        if more and not any(more in part for part in parts):
            parts.append(more)
    return visible("\n".join(part for part in parts if part))


def paragraph(intro: str, text: str) -> str:
    """C(intro: text), where further lines of the text are indented."""
    first, *others = visible(text).splitlines() or [""]
    return "\n".join([f"{printable(intro)}: {first}", *(f"  {line}" for line in others)])


def clean(value: Any) -> Any:
    """The same data, with all its texts as a terminal may show them."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {clean(key): clean(each) for key, each in value.items()}
    return [clean(each) for each in value] if isinstance(value, (list, tuple)) else value


def recap(
    counted: Mapping[str, Mapping[str, int]], failures: Mapping[str, str], just_told: Collection[str] = ()
) -> list[str]:
    """The end of a run of which nothing else tells: hosts that failed and why, if that scrolled by, and how many."""
    told = []
    total: Counter[str] = Counter()
    for host, counts in counted.items():
        bad = "unreachable" if counts["unreachable"] else "failed" if counts["failures"] else ""
        total[bad or ("changed" if counts["changed"] else "well")] += 1
        if bad and host not in just_told:
            told.append(failures.get(host) or printable(f"{host}: {bad}"))
    sums = [f"{total[word]} {word}" for word in ("well", "changed", "failed", "unreachable") if total[word]]
    return [*told, f"Hosts: {', '.join(sums)}."] if sums else told


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(max(int(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(frozen=True)
class Line:
    """A line to draw, and how: C(title), C(busy), C(idle), C(well), C(held) or C(bad)."""

    kind: str
    text: str


def lines(state: State, width: int, height: int, now: float) -> list[Line]:
    """The run as it stands, on at most so many lines, each narrower than so many columns."""
    rows = [(printable(name), *_row(host, now)) for name, host in state.hosts.items()]
    # those that nothing was done with so far tell nothing
    rows = [row for row in rows if row[2]]
    room = max(height - 1, 0)
    shown = rows
    if len(rows) > room:
        # who is busy, then whom it went badly with; the last line counts the others
        first = sorted(range(len(rows)), key=lambda at: (_ORDER.index(rows[at][1]), at))[: max(room - 1, 0)]
        shown = [rows[at] for at in sorted(first)]
    names, words = (min(max((columns(row[at]) for row in shown), default=0), width // 2) for at in (0, 2))
    drawn = [Line("title", _title(state, now))]
    for name, kind, what, seconds in shown:
        drawn.append(Line(kind, f"{_padded(name, names)}  {_padded(what, words)}  {seconds}"))
    if len(shown) < len(rows):
        others = Counter(what for name, kind, what, seconds in rows if (name, kind, what, seconds) not in shown)
        counted = ", ".join(f"{count} {what}" for what, count in others.most_common())
        drawn.append(Line("idle", f"{'and ' if shown else ''}{len(rows) - len(shown)} others: {counted}"))
    return [Line(line.kind, clipped(line.text, width - 1).rstrip()) for line in drawn[: max(height, 1)]]


def rows_taken(widths: Sequence[int], width: int) -> int:
    """On how many rows lines of these widths are now, in a terminal that wraps them anew when it becomes narrower."""
    return sum(max(-(-each // max(width, 1)), 1) for each in widths)


def columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(map(_columns, text))


def clipped(text: str, width: int) -> str:
    """The text, cut where it is wider than that, which shows."""
    if columns(text) <= width:
        return text
    kept, taken = "", 0
    for letter in text:
        taken += _columns(letter)
        if taken > width - 1:
            break
        kept += letter
    return kept + "\N{HORIZONTAL ELLIPSIS}" if width > 0 else ""


_ORDER = ("busy", "bad", "held", "idle", "well")


def _row(host: Host, now: float) -> tuple[str, str, str]:
    """How a host is shown, with which word, and for how long it has been so."""
    if host.outcome:
        kind = "well" if host.outcome in WELL else "bad" if host.outcome in _BAD else "held"
        return kind, printable(host.outcome), ""
    if host.next and now - host.next_since >= SURE:
        host = _promoted(host)
    if not host.step:
        return "idle", "", ""
    # a pause between two tasks is no waiting
    if host.idle and now - host.idle >= SURE:
        return "idle", "waits", duration(now - host.idle)
    return "busy", host.step, duration(now - host.since)


def _title(state: State, now: float) -> str:
    parts = [printable(state.play) + (" (dry run)" if state.dry_run else "")]
    if state.batch:
        parts.append(f"batch {state.batch}" + (f" of {state.batches}" if state.batches >= state.batch else ""))
    kind, what, seconds = _row(state.once, now)
    if kind == "busy":
        parts.append(f"{what} {seconds}")
    parts.append(duration(now - state.began))
    return " \N{MIDDLE DOT} ".join(part for part in parts if part)


def _of(state: State, host: str) -> Host:
    return state.hosts.get(host, Host()) if host else state.once


def _with(state: State, name: str, host: Host) -> State:
    return replace(state, hosts={**state.hosts, name: host}) if name else replace(state, once=host)


def _promoted(host: Host) -> Host:
    return replace(host, step=host.next, since=host.next_since, next="", idle=0.0) if host.next else host


def _padded(text: str, width: int) -> str:
    text = clipped(text, width)
    return text + " " * (width - columns(text))


def _columns(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
