# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A night, read from its result: was it good, what became of each host, and what is to be done now. Pure.

Takes what L(artifacts) has made, also that of former nights. What hosts said in it is still theirs: whoever shows it
escapes it for where it goes.
"""

from __future__ import annotations

import datetime
import math
import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, TypeVar, get_args

from ansible_collections.homelab.nixos.plugins.module_utils._artifacts import VERSION
from ansible_collections.homelab.nixos.plugins.module_utils._closures import size_words
from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._lock_file import printable
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import BAD, Word
from ansible_collections.homelab.nixos.plugins.module_utils._report import WORST_FIRST, duration_words
from ansible_collections.homelab.nixos.plugins.module_utils._systems import name as system_name
from ansible_collections.homelab.nixos.plugins.module_utils._systems import short
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import LAST_TIME, checked_run_id

Verdict = Literal["good", "mixed", "bad"]

RIGHT: frozenset[str] = frozenset({"updated", "unchanged"})
# what their systems are is what was seen last, and not what is
_UNSEEN = ("lost", "rollback_failed", "unreachable")
MEANINGS: Mapping[str, str] = {
    "lost": "was being changed and did not come back",
    "rollback_failed": "the update went wrong, and nobody saw the host back on its old system",
    "rolled_back": "the update went wrong, and the host is back on its old system",
    "failed": "nothing was activated",
    "unreachable": "never answered",
    "held": "we chose not to touch it",
    "deferred": "it asked not to be touched",
    "pending": "runs the new system, and a reboot is still due",
    "updated": "runs the new system, verified",
    "unchanged": "was right already",
}
# from the root of a clone; `lab-auto-update {}` on a controller that the role has set up
PLAYBOOK = "ansible-playbook playbooks/{}.yml"
_NAMES_SHOWN = 3
_FAILURE_SHOWN = 200
_VALUE_SHOWN = 60
_MISSING_SHOWN = 3
_LONGEST = 100 * 365 * 86400
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Span:
    """A step of a night, and when it was made, in seconds since 1970."""

    step: str
    began: float
    seconds: float

    @property
    def end(self) -> float:
        return self.began + self.seconds


@dataclass(frozen=True)
class Host:
    """What became of a host. C(changes) are its packages, in words, as far as they were told."""

    name: str
    word: Word
    reason: str
    before: str | None
    after: str | None
    rebooted: bool
    optional: bool
    changes: tuple[str, ...]
    closure_delta: int | None
    durations: Mapping[str, float]
    spans: tuple[Span, ...]

    @property
    def bad(self) -> bool:
        return self.word in BAD

    @property
    def changed(self) -> bool:
        """Whether it has what was new; a host that ended badly was only to get it."""
        return self.word in ("updated", "pending")

    @property
    def left(self) -> bool:
        """Whether something is left to do, though nothing went wrong; not for a laptop that is off."""
        return not self.bad and self.word not in RIGHT and not (self.optional and self.word == "unreachable")


@dataclass(frozen=True)
class Night:
    """A night, its hosts the worst first, and in the order of their names."""

    run_id: str
    began: float
    seconds: float
    dry_run: bool
    failed: bool
    failure: str
    hosts: tuple[Host, ...]
    inputs: tuple[Mapping[str, Any], ...]
    lock_hash: str
    durations: Mapping[str, float]
    spans: tuple[Span, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of what the run and its hosts say."""
        if self.failed or any(host.bad for host in self.hosts):
            return "bad"
        return "mixed" if not self.hosts or any(host.left for host in self.hosts) else "good"

    @property
    def counts(self) -> dict[str, int]:
        counted: Counter[str] = Counter(host.word for host in self.hosts)
        return {word: counted[word] for word in WORST_FIRST if word in counted}


@dataclass(frozen=True)
class Command:
    """What to type, where, and what it is good for. C(host) is empty for the controller."""

    purpose: str
    line: str
    host: str = ""


@dataclass(frozen=True)
class Trend:
    """Nights up to one of them, the newest first, without dry runs; C(missing) says why others are not among them."""

    nights: tuple[Night, ...]
    missing: tuple[str, ...]

    def newest(self, most: int) -> Trend:
        return Trend(self.nights[:most], self.missing)

    @property
    def good(self) -> int:
        return sum(night.verdict == "good" for night in self.nights)

    @property
    def reboots(self) -> int:
        return sum(host.rebooted for night in self.nights for host in night.hosts)

    @property
    def seconds(self) -> float:
        """How long a night takes, in the middle."""
        return median(night.seconds for night in self.nights) if self.nights else 0.0

    def streak(self, host: str) -> int:
        """In how many of the newest nights in a row, that had this host, it ended badly."""
        words = (one.word for night in self.nights for one in night.hosts if one.name == host)
        count = 0
        for word in words:
            if word not in BAD:
                break
            count += 1
        return count


def read(result: Mapping[str, Any], optional: Collection[str] = ()) -> Night:
    """Return the night that C(result) tells of. C(optional) are hosts of which nobody minds that they are off."""
    version = _mapping(result, "The result").get("version")
    if version != VERSION:
        raise Unreadable(
            f"The result of a night has version {_shown(version)}, and only version {VERSION} is understood."
        )
    durations = _numbers(result, "durations")
    hosts = [_host(name, _mapping(told, name), name in optional) for name, told in _hosts(result).items()]
    return Night(
        run_id=checked_run_id(result.get("run_id")),
        began=_number(result.get("began"), "began", LAST_TIME),
        seconds=durations.get("total", 0.0),
        dry_run=result.get("dry_run") is True,
        # what does not say that it went well did not
        failed=result.get("failed") is not False,
        failure=_text(result, "failure"),
        hosts=tuple(sorted(hosts, key=lambda host: (WORST_FIRST.index(host.word), host.name))),
        inputs=tuple(_input(_mapping(one, "inputs")) for one in _list(result, "inputs")),
        lock_hash=_text(result, "lock_hash"),
        durations=durations,
        spans=_spans(result),
        notes=tuple(_typed(one, str, "notes") for one in _list(result, "notes")),
    )


def trend(tonight: Night, former: Sequence[Mapping[str, Any]], optional: Collection[str] = ()) -> Trend:
    """The nights up to this one. C(former) are results, the newest last."""
    nights, missing = read_all(former, optional)
    before = [night for night in nights if not night.dry_run and night.run_id != tonight.run_id]
    return Trend(tuple(before if tonight.dry_run else [tonight, *before]), tuple(missing))


def read_all(results: Sequence[Mapping[str, Any]], optional: Collection[str] = ()) -> tuple[list[Night], list[str]]:
    """The nights of C(results), the newest first, and sentences about those that cannot be read."""
    nights: list[Night] = []
    missing: list[str] = []
    for result in reversed(results):
        try:
            nights.append(read(result, optional))
        except Unreadable as error:
            missing.append(f"A night is missing here: {error}")
    more = len(missing) - _MISSING_SHOWN
    return nights, [*missing[:_MISSING_SHOWN], f"And {more} more."] if more > 0 else missing


def headline(night: Night) -> str:
    """How the night went, in a sentence, on one line."""
    everybody = _of(len(night.hosts))
    bad = [host for host in night.hosts if host.bad]
    left = [host for host in night.hosts if host.left]
    off = [host.name for host in night.hosts if host.optional and host.word == "unreachable"]
    if bad:
        said = f"{len(bad)} of {everybody} ended badly: {_names(bad)}."
    elif night.failed:
        said = clipped(night.failure or "The run failed, and did not say why.", _FAILURE_SHOWN)
    elif not night.hosts:
        said = "No host took part."
    elif night.dry_run:
        said = f"Nothing was changed on {everybody}."
    elif left:
        said = f"No host ended badly, and {len(left)} of {everybody} {_is(len(left))} left to do: {_names(left)}."
    elif off:
        said = (
            f"All that answered run what they should, {len(night.hosts) - len(off)} of {everybody}. Off: {_some(off)}."
        )
    else:
        said = "The host runs what it should." if len(night.hosts) == 1 else f"All {everybody} run what they should."
    return printable(said)


def subject(night: Night, lab: str = "", zone: datetime.tzinfo = datetime.UTC) -> str:
    """The subject of a mail: the verdict, the day, and why."""
    counts = ", ".join(f"{count} {word}" for word, count in night.counts.items())
    bad = [host for host in night.hosts if host.bad]
    good = ", ".join(f"{count} {word}" for word, count in night.counts.items() if word not in BAD)
    if bad:
        why = "; ".join(text for text in (_names(bad), good) if text)
    else:
        why = headline(night) if night.failed or not night.hosts else counts
    prefix = f"[{lab}] " if lab else ""
    return printable(f"{prefix}{title(night, zone)}: {why}")


def title(night: Night, zone: datetime.tzinfo = datetime.UTC) -> str:
    """What to call the night, as C(Bad night of 2026-11-22)."""
    what = "dry run" if night.dry_run else "night"
    return f"{night.verdict.capitalize()} {what} of {clock(night.began, zone):%Y-%m-%d}"


def commands(hosts: Sequence[Host], night: Night, playbook: str = PLAYBOOK) -> list[Command]:
    """What to do next for hosts that all have the same outcome, which is bad or leaves something to do."""
    names = [host.name for host in hosts]

    def run(name: str, more: str = "") -> str:
        return f"{playbook.format(name)} --limit {limit(names)}{f' {more}' if more else ''}"

    journal = f"journalctl --unit='lab-auto-update-*' --since=@{int(night.began)} --no-pager"
    look = Command("See why", journal, ", ".join(names))
    back = Command("Put it back on the system that was proven last", run("rollback"))
    told: Mapping[str, list[Command]] = {
        "lost": [Command("See whether it answers again; if it does not, reset it", run("health")), look, back],
        "rollback_failed": [back, Command("See whether it is well then", run("health")), look],
        "rolled_back": [
            look,
            Command("Once the cause is mended, try this system again", run("nightly", "-e lab_retry_failed=true")),
        ],
        "failed": [Command("Once what it says is mended, try it again", run("nightly"))],
        "pending": [Command("To reboot before the next night", run("nightly", "-e lab_reboot=always"))],
        "held": [Command("See what a night would do now", run("nightly", "--check --diff"))],
        "deferred": [Command("See how it is now", run("health"))],
        "unreachable": [Command("See whether it answers now", run("health"))],
    }
    return told.get(hosts[0].word, [])


def of_the_run(night: Night, playbook: str = PLAYBOOK) -> list[Command]:
    """What to do next for a run that failed, though no host ended badly."""
    if not night.failed or any(host.bad for host in night.hosts):
        return []
    return [Command("Once what it says is mended, run the night again", playbook.format("nightly"))]


def left_to_do(night: Night) -> list[list[Host]]:
    """The hosts that are left to do, those with the same outcome and reason together."""
    groups: dict[tuple[str, str], list[Host]] = {}
    for host in night.hosts:
        if host.left:
            groups.setdefault((host.word, host.reason), []).append(host)
    return list(groups.values())


def packages(night: Night) -> dict[str, list[str]]:
    """What changed on hosts, or would have in a dry run, and on which; what most of them have comes first."""
    changed: dict[str, list[str]] = {}
    for host in night.hosts:
        for text in host.changes if host.changed or night.dry_run else ():
            changed.setdefault(text, []).append(host.name)
    return {text: sorted(names) for text, names in sorted(changed.items(), key=lambda one: (-len(one[1]), one[0]))}


def limit(names: Sequence[str]) -> str:
    """A word of a shell that limits a playbook to these very hosts, whatever their names have in them."""
    patterns = (
        # what means something in a pattern of Ansible is written as a number
        name if _PLAIN_NAME.fullmatch(name) else f"~{''.join(_letter(letter) for letter in name)}$"
        for name in names
    )
    return shlex.quote(",".join(patterns))


def change(host: Host) -> str:
    """From which system to which, as far as that was seen."""
    if host.before is None:
        return "not seen"
    if host.after is None or host.after == host.before:
        return f"{'last seen on' if host.word in _UNSEEN else 'still'} {_system(host.before)}"
    return f"{_system(host.before)} → {_system(host.after)}{', seen last' if host.word in _UNSEEN else ''}"


def closure(host: Host, night: Night) -> str:
    """By how much its system grew, or would have in a dry run."""
    shown = host.closure_delta is not None and (host.changed or night.dry_run)
    return size_words(host.closure_delta or 0) if shown else ""


def tried(host: Host) -> str:
    """What a bad host was to get."""
    return f"It was to get: {'; '.join(host.changes)}." if host.bad and host.changes else ""


def clock(seconds: float, zone: datetime.tzinfo = datetime.UTC) -> datetime.datetime:
    """A point in time where the owner is."""
    return datetime.datetime.fromtimestamp(seconds, zone)


def took(spans: Sequence[Span], durations: Mapping[str, float]) -> str:
    """How long each step took, in the order in which they began, C(copy 3.2 s, reboot 31 s)."""
    seconds: dict[str, float] = {}
    for span in spans:
        seconds[span.step] = seconds.get(span.step, 0) + span.seconds
    return ", ".join(f"{step} {_seconds(each)}" for step, each in (seconds or durations).items()) or "no step was timed"


def clipped(text: str, most: int) -> str:
    return f"{text[:most]}…" if len(text) > most else text


def page_name(run_id: str) -> str:
    """The name of the file that has the page of a run."""
    return f"night-{checked_run_id(run_id)}.html"


def _names(hosts: Sequence[Host]) -> str:
    return _some([f"{host.name} {host.word}" for host in hosts])


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    # one more is as short as its name
    return f"{', '.join(names[:_NAMES_SHOWN])} and {more} more" if more > 1 else ", ".join(names)


def _of(count: int) -> str:
    return "1 host" if count == 1 else f"{count} hosts"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 9.95 else duration_words(seconds)


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _letter(letter: str) -> str:
    if _PLAIN_NAME.fullmatch(letter):
        return letter
    return f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\U{ord(letter):08x}"


def _system(path: str) -> str:
    words = (system_name(path).removeprefix("nixos-system-"), short(path))
    return " ".join(dict.fromkeys(word for word in words if word))


def _hosts(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(result.get("hosts"), "hosts")


def _host(name: str, told: Mapping[str, Any], optional: bool) -> Host:
    word: Any = told.get("outcome")
    if word not in get_args(Word):
        raise Unreadable(f"The outcome of {name} is {_shown(word)}, which is none.")
    return Host(
        name=str(name),
        word=word,
        reason=_text(told, "reason"),
        before=_text(told, "before") or None,
        after=_text(told, "after") or None,
        rebooted=told.get("rebooted") is True,
        optional=optional,
        changes=tuple(_typed(text, str, "changes") for text in _list(told, "changes")),
        closure_delta=None
        if told.get("closure_delta") is None
        else _typed(told["closure_delta"], int, "closure_delta"),
        durations=_numbers(told, "durations"),
        spans=_spans(told),
    )


def _input(one: Mapping[str, Any]) -> Mapping[str, Any]:
    sides = {side: None if one.get(side) is None else _locked(one, side) for side in ("before", "after")}
    return {"path": _text(one, "path"), **sides, "compare": _text(one, "compare")}


def _locked(one: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    locked = _mapping(one[side], side)
    when = locked.get("last_modified")
    return {
        **{key: _text(locked, key) for key in ("url", "rev", "nar_hash")},
        "last_modified": None if when is None else int(_number(when, "last_modified", LAST_TIME)),
    }


def _spans(told: Mapping[str, Any]) -> tuple[Span, ...]:
    spans = (_mapping(one, "spans") for one in _list(told, "spans"))
    read = (
        Span(
            _text(one, "step"),
            _number(one.get("began"), "began", LAST_TIME),
            _number(one.get("seconds"), "seconds", _LONGEST),
        )
        for one in spans
    )
    return tuple(sorted(read, key=lambda span: span.began))


def _numbers(told: Mapping[str, Any], key: str) -> dict[str, float]:
    given = _mapping(told.get(key) or {}, key)
    return {str(name): _number(seconds, str(name), _LONGEST) for name, seconds in given.items()}


def _number(value: object, what: str, most: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise Unreadable(f"{what} of a night is {_shown(value)}, which is no number of seconds.")
    if value > most:
        raise Unreadable(f"{what} of a night is {_shown(value)}, which is too much.")
    return float(value)


def _text(told: Mapping[str, Any], key: str) -> str:
    value = told.get(key)
    return "" if value is None else _typed(value, str, key)


def _list(told: Mapping[str, Any], key: str) -> Sequence[Any]:
    value: Sequence[Any] = _typed(told.get(key) or [], list, key)
    return value


def _shown(value: object) -> str:
    return clipped(repr(value), _VALUE_SHOWN)


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Unreadable(f"{what} of a night is {_shown(value)}, which is no mapping.")
    return value


def _typed(value: Any, wanted: type[_T], what: str) -> _T:
    if not isinstance(value, wanted):
        raise Unreadable(f"{what} of a night is {_shown(value)}, which is no {wanted.__name__.lower()}.")
    return value
