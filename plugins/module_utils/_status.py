# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a lab stands, from what its hosts say of themselves and of the nights, as plain values and as a table. Pure.

Nothing that a host says is believed to be of its type, nor shown as it is. A host speaks for itself alone; of whole
nights the flake's host and this controller speak.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils import _history, _transaction
from ansible_collections.homelab.nixos.plugins.module_utils._entries import NIGHT, OF_A_RUN, Entry, records
from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._history import WORDS, End
from ansible_collections.homelab.nixos.plugins.module_utils._lock_file import iso_date, printable
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import ON_TARGET
from ansible_collections.homelab.nixos.plugins.module_utils._report import WORST_FIRST, duration_words
from ansible_collections.homelab.nixos.plugins.module_utils._systems import short
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import LAST_TIME, utc

VERSION = 1
ENTRIES_SHOWN = 10
TIMER = "lab-auto-update.timer"

_DAY = 86400
# by so much a host's clock may be ahead of this one
_AHEAD = 300
_WIDTH = 110
_INDENT = "      "
_HEADINGS = ("HOST", "OUTCOME", "WHEN", "SYSTEM", "GEN", "RECOVERY", "REBOOT")
_WIDEST = (20, 15, 16, 30, 4, 9, 4)
_SENTENCE = 400
_GRADES = ("automatic", "on_reset", "manual")
_SHOWN = 5


@dataclass(frozen=True)
class Wanted:
    """What the inventory says of a host. C(hold) is the owner's hold there, as a sentence."""

    stale_after: int = 14
    hold: str = ""


@dataclass(frozen=True)
class Controller:
    """What this controller knows: its own records of runs, its timer, and what it could not tell anybody yet.

    C(next_run) is a time, C(None) for a timer that does not run; C(has_timer) says whether there is one.
    """

    records: Sequence[Entry] = ()
    skipped: int = 0
    has_timer: bool = False
    next_run: float | None = None
    undelivered: int = 0


@dataclass
class _Told:
    """The records of everybody, and how many lines were none."""

    records: list[Entry] = field(default_factory=list)
    skipped: int = 0


def status(
    hosts: Mapping[str, Wanted],
    looks: Mapping[str, Mapping[str, Any]],
    flake_host: str,
    controller: Controller,
    now: float,
    since: float,
) -> dict[str, Any]:
    """How the lab stands. C(looks) are results of nixos_info, by host, that of C(flake_host) among them."""
    told = _told(looks, flake_host, controller, now)
    ends = _history.ends(told.records)
    right = _history.last_right(told.records)
    found = [_host(name, wanted, looks.get(name) or {}, ends.get(name), now) for name, wanted in hosts.items()]
    for host in found:
        host["last_right"] = max(
            (t for t in (right.get(host["name"]), host["last_right"]) if t is not None), default=None
        )
        host["stale_days"] = _stale(host, told.records, hosts[host["name"]].stale_after, now)
    found.sort(key=lambda host: (_rank(host), host["name"]))
    going_on = _going_on(found, told.records)
    # whatever a host says: nothing that began before that is still to be waited for
    began = {entry.run_id: entry.time for entry in reversed(told.records)}
    unended = [run_id for run_id in going_on if began.get(run_id, now) > now - _DAY]
    stale = {host["name"]: host["stale_days"] for host in found if host["stale_days"] is not None}
    return {
        "version": VERSION,
        "time": int(now),
        "hosts": found,
        "inputs": [
            {"path": path, "last_modified": when, "days": max(0, int((now - when) // _DAY))}
            for path, when in sorted(_history.inputs(told.records, now).items())
        ],
        "timer": {"unit": TIMER, "found": controller.has_timer, "next": _whole(controller.next_run)},
        "going_on": going_on,
        "undelivered": controller.undelivered,
        "entries": [entry.as_result() for entry in told.records[-ENTRIES_SHOWN:]],
        "statistics": _history.statistics(told.records, since, stale, unended),
        "skipped": told.skipped,
    }


def table(told: Mapping[str, Any]) -> str:
    """What L(status) has made, for people at a terminal of 110 columns."""
    hosts = told["hosts"]
    counted = Counter(host["outcome"] or "unknown" for host in hosts)
    counts = ", ".join(f"{counted[word]} {word}" for word in (*WORST_FIRST, "unknown") if word in counted)
    everybody = "1 host" if len(hosts) == 1 else f"{len(hosts)} hosts"
    lines = _wrapped(f"Status at {utc(told['time'])} · {everybody}: {counts or 'none is managed'}")
    for text in _of_the_lab(told):
        lines += _wrapped(text)
    rows = [_row(host) for host in hosts]
    widths = [
        min(max(map(len, column)), most)
        for column, most in zip(zip(_HEADINGS, *rows, strict=True), _WIDEST, strict=True)
    ]
    lines += ["", _line(_HEADINGS, widths)]
    for host, row in zip(hosts, rows, strict=True):
        lines.append(_line(row, widths))
        # each thing once, in this order
        for text in dict.fromkeys(_of_a_host(host)):
            lines += _wrapped(text, _INDENT)
    lines += ["", "Last entries", *(map(_entry, told["entries"]) if told["entries"] else ["There are none."])]
    lines.append("")
    for text in _of_the_nights(told["statistics"]):
        lines += _wrapped(text)
    if told["skipped"]:
        lines += _wrapped(f"{_count(told['skipped'], 'line')} of the logs could not be read.")
    return "\n".join(lines)


def nobody(told: Mapping[str, Any]) -> str:
    """Why nothing could be told, in a sentence; empty when a host has answered."""
    hosts = told["hosts"]
    if not hosts:
        return "There is no host to tell of: lab_managed is false for all of them. Correct --limit, or the inventory."
    if any(host["answered"] for host in hosts):
        return ""
    return f"No host answered. {_clipped(hosts[0]['name'], 60)}: {_clipped(hosts[0]['message'])}"


def timer(shown: Mapping[str, str]) -> tuple[bool, float | None]:
    """Whether the timer is there, and when it elapses next, of what C(systemctl show --timestamp=unix) says."""
    text = shown.get("NextElapseUSecRealtime", "").removeprefix("@")
    found = shown.get("LoadState") == "loaded"
    return found, float(text) if found and text.isdigit() and 0 < int(text) <= LAST_TIME else None


def _told(looks: Mapping[str, Mapping[str, Any]], flake_host: str, controller: Controller, now: float) -> _Told:
    sources: list[list[Entry]] = []
    skipped = controller.skipped
    for name, look in looks.items():
        log = _mapping(look.get("log"))
        given = log.get("records")
        found, wrong = records(given if isinstance(given, (list, tuple)) else ())
        # whatever it calls itself; and of runs it knows nothing, unless it has the flake
        own = [
            replace(entry, host="" if entry.operation in OF_A_RUN else name)
            for entry in found
            if entry.operation not in OF_A_RUN or name == flake_host
        ]
        sources.append(own)
        skipped += wrong + (_whole(log.get("skipped")) or 0)
    # the same from every controller, as long as the flake's host answers
    merged = _history.merged(*sources, controller.records)
    # by a clock that was wrong
    past = [entry for entry in merged if entry.time <= now + _AHEAD]
    return _Told(past, skipped + len(merged) - len(past))


def _host(name: str, wanted: Wanted, look: Mapping[str, Any], end: End | None, now: float) -> dict[str, Any]:
    answered = isinstance(look.get("systems"), Mapping)
    last = _mapping(look.get("last"))
    ended = _whole(last.get("ended"))
    word = last.get("outcome")
    # of a time before there was a log
    if word in WORDS and ended is not None and ended <= now + _AHEAD and (end is None or ended > end.time + 1):
        end = End(str(word), _text(last.get("reason")), ended, _text(last.get("run_id")))
    described = _mapping(look.get("current"))
    grade = look.get("boot_recovery")
    failed = _failed_systems(_mapping(look.get("failed_systems")))
    return {
        "name": name,
        "answered": answered,
        "message": "" if answered else _text(look.get("msg")) or "It was not asked.",
        "outcome": end.word if end else None,
        "reason": end.reason if end else "",
        "time": int(end.time) if end else None,
        "run_id": end.run_id if end else None,
        "system": _text(_mapping(look.get("systems")).get("current")) or None,
        "generation": _whole(described.get("generation")),
        "nixos_version": _text(described.get("nixos_version")) or None,
        "kernel": _text(described.get("kernel")) or None,
        "drift": _texts(look.get("drift")),
        "failed_units": _texts(look.get("failed_units")),
        "reboot_required": bool(look.get("reboot_required")) if answered else None,
        "reboot_reasons": _texts(look.get("reboot_reasons")),
        "boot_recovery": grade if grade in _GRADES else None,
        "transaction": _transaction_of(look.get("transaction"), now),
        "failed_systems": failed if answered else None,
        "hold": _text(look.get("hold")) or wanted.hold or None,
        "deferrals": _deferrals(_mapping(look.get("deferrals"))),
        "proven_since": _whole(look.get("proven_since")),
        "last_right": ended if word in ON_TARGET and ended is not None and ended <= now else None,
        "stale_days": None,
    }


def _transaction_of(given: object, now: float) -> dict[str, Any] | None:
    if not isinstance(given, Mapping):
        return None
    try:
        found = _transaction.parse(json.dumps(given))
    except (Unreadable, TypeError, ValueError):
        why = _text(given.get("torn")) or "What the host says of it cannot be read."
        return {
            "torn": why,
            "run_id": None,
            "controller_name": None,
            "step": None,
            "since": None,
            "deadline": None,
            "expired": True,
        }
    return {
        "torn": None,
        "run_id": found.run_id,
        "controller_name": found.controller_name,
        "step": found.step,
        "since": found.since,
        "deadline": found.deadline,
        "expired": _transaction.is_over(found, now, None),
    }


def _failed_systems(given: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The systems that failed on a host, the newest last; C(None) when its list cannot be read."""
    if "torn" in given:
        return None
    found = [(str(system), _mapping(why)) for system, why in given.items()]
    return [
        {
            "system": system,
            "reason": _text(why.get("reason")),
            "run_id": _text(why.get("run_id")),
            "time": _whole(why.get("time")),
        }
        for system, why in found
    ]


def _deferrals(given: Mapping[str, Any]) -> dict[str, Any] | None:
    nights = _whole(given.get("nights"))
    if not nights:
        return None
    return {"nights": nights, "since": _whole(given.get("since")), "reason": _text(given.get("reason"))}


def _stale(host: Mapping[str, Any], told: Sequence[Entry], after: int, now: float) -> int | None:
    """For how many days a host has not been updated, where that is too long."""
    since = host["last_right"]
    if since is None:
        # it never was, for as long as anybody has known it
        known = (
            entry.time
            for entry in told
            if entry.host == host["name"]
            or (entry.operation == NIGHT and host["name"] in _mapping(entry.details.get("outcomes")))
        )
        since = min(known, default=now)
    days = int((now - since) // _DAY)
    return days if days >= after else None


def _going_on(hosts: Sequence[Mapping[str, Any]], told: Sequence[Entry]) -> list[str]:
    """The runs that are changing hosts. A host that is lost is held for a while after the night has ended."""
    ended = {entry.run_id for entry in told if entry.operation == NIGHT}
    return sorted({host["transaction"]["run_id"] for host in hosts if _is_held(host)} - ended)


def _is_held(host: Mapping[str, Any]) -> bool:
    """Whether a run has a claim to this host just now."""
    held = host["transaction"]
    return held is not None and not held["expired"] and held["run_id"] is not None


def _rank(host: Mapping[str, Any]) -> int:
    return WORST_FIRST.index(host["outcome"]) if host["outcome"] in WORST_FIRST else len(WORST_FIRST)


def _of_the_lab(told: Mapping[str, Any]) -> Iterator[str]:
    for run_id in told["going_on"]:
        yield f"A night is going on: {run_id}."
    silent = [host["name"] for host in told["hosts"] if not host["answered"]]
    if silent:
        yield f"No answer from {_some(silent)}; what is shown of them is what others know."
    ages = [f"{_clipped(one['path'], 40)} {_count(one['days'], 'day')} old" for one in told["inputs"]]
    yield f"Inputs: {', '.join(ages)}." if ages else "Inputs: it is not known of when they are."
    when = told["timer"]["next"]
    if when is not None:
        yield f"Next night: {_minute(when)}, by the timer of this controller."
    else:
        yield (
            f"Next night: {told['timer']['unit']} does not run."
            if told["timer"]["found"]
            else "Next night: no timer here."
        )
    if told["undelivered"]:
        yield f"{_count(told['undelivered'], 'notification')} could not be delivered yet."


def _of_a_host(host: Mapping[str, Any]) -> Iterator[str]:
    """What is to be known of a host beside its row."""
    if not host["answered"]:
        yield f"It does not answer: {_clipped(host['message'])}"
    if host["outcome"] not in ("updated", "unchanged") and host["reason"]:
        yield _clipped(host["reason"])
    held = host["transaction"]
    if held is not None and held["torn"]:
        yield f"Somebody is changing it, and it is not known who: {_clipped(held['torn'])}"
    elif held is not None:
        was = "Was left" if held["expired"] else "Held"
        until = "; its time is over" if held["expired"] else f", until {_minute(held['deadline'])} at most"
        yield (
            f"{was} at step {held['step']} by {held['controller_name']}, run {held['run_id']}, "
            f"since {_minute(held['since'])}{until}."
        )
    if host["hold"]:
        yield f"On hold: {_clipped(host['hold'])}"
    if host["reboot_reasons"]:
        yield f"A reboot is due: {_some(host['reboot_reasons'])}."
    if host["drift"]:
        yield f"Drift: {_clipped('; '.join(host['drift']))}."
    if host["failed_units"]:
        yield f"Failed units: {_some(host['failed_units'])}."
    if host["failed_systems"] is None and host["answered"]:
        yield "Which systems failed here cannot be read."
    for failed in (host["failed_systems"] or ())[-_SHOWN:]:
        yield f"Failed here: {short(failed['system'])}, {_day(failed['time'])}: {_clipped(failed['reason'])}"
    count = host["deferrals"]
    if count is not None:
        nights = f"{_count(count['nights'], 'night')} in a row, since {_day(count['since'])}"
        yield f"Left alone in {nights}: {_clipped(count['reason'])}"
    if host["stale_days"] is not None:
        yield f"Not updated for {_count(host['stale_days'], 'day')}."


def _of_the_nights(told: Mapping[str, Any]) -> Iterator[str]:
    begin = f"Since {iso_date(told['since'])}:"
    if told["nights"]:
        rate = f"{told['good']} good ({round(100 * told['success_rate'])} %)"
        took = f", {duration_words(told['median_seconds'])} in the middle" if told["median_seconds"] is not None else ""
        yield f"{begin} {_count(told['nights'], 'night')}, {rate}{took}; {_count(told['reboots'], 'reboot')}."
    else:
        yield f"{begin} no nights."
    if told["dry_runs"]:
        yield f"Dry runs: {told['dry_runs']}."
    if told["deferrals"]:
        yield f"Left alone for: {', '.join(f'{word} ({count})' for word, count in told['deferrals'].items())}."
    if told["stale"]:
        hosts = [f"{host} ({_count(days, 'day')})" for host, days in told["stale"].items()]
        yield f"Not updated for too long: {_some(hosts)}."


def _row(host: Mapping[str, Any]) -> tuple[str, ...]:
    system = " ".join(filter(None, [host["nixos_version"], short(host["system"] or "")]))
    reboot = "" if host["reboot_required"] is None else "due" if host["reboot_required"] else "no"
    cells = (
        host["name"],
        host["outcome"] or "unknown",
        "" if host["time"] is None else _minute(host["time"]).removesuffix(" UTC"),
        system if host["answered"] else "not seen",
        "" if host["generation"] is None else str(host["generation"]),
        host["boot_recovery"] or "",
        reboot,
    )
    return tuple(_clipped(cell, most) for cell, most in zip(cells, _WIDEST, strict=True))


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _entry(entry: Mapping[str, Any]) -> str:
    """A record of the log as a line."""
    seconds = "" if entry["seconds"] is None else f" {duration_words(entry['seconds'])}"
    why = _text(entry["details"].get("reason") or entry["details"].get("failure"))
    whole = "(a dry run)" if entry["details"].get("dry_run") is True else "(the night)"
    who = f"{entry['time'][:19].replace('T', ' ')} {entry['host'] or whole}"
    return _clipped(f"{who}: {entry['operation']} {entry['status']}{seconds}{f': {why}' if why else ''}", _WIDTH)


def _wrapped(text: str, indent: str = "") -> list[str]:
    # paths stay whole, so that they can be copied
    return textwrap.wrap(
        printable(text), _WIDTH, initial_indent=indent, subsequent_indent=indent or _INDENT, break_on_hyphens=False
    )


def _clipped(text: object, most: int = _SENTENCE) -> str:
    """Words of others: one line, of an end."""
    words = printable(" ".join(str(text).split()))
    return words if len(words) <= most else f"{words[: most - 1]}…"


def _some(names: Sequence[str]) -> str:
    shown = [_clipped(name, 60) for name in names[: 2 * _SHOWN]]
    more = len(names) - len(shown)
    return f"{', '.join(shown)} and {more} more" if more else ", ".join(shown)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _minute(seconds: float) -> str:
    return datetime.fromtimestamp(min(max(seconds, 0), LAST_TIME), UTC).strftime("%Y-%m-%d %H:%M UTC")


def _day(seconds: int | None) -> str:
    return "nobody knows when" if seconds is None else iso_date(seconds)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return str(value) if isinstance(value, str) else ""


def _texts(value: object) -> list[str]:
    return [str(one) for one in value if isinstance(one, str)] if isinstance(value, (list, tuple)) else []


def _whole(value: object) -> int | None:
    """A time, or a number of things."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LAST_TIME:
        return None
    return int(value)
