# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the nights went, told from the log's records of several machines. Pure.

Where a run has a record of the whole night, that is believed. Where it has none, because the run was killed or the
flake's host is gone, it is told from what the hosts have written: one that was claimed and never let go did not end
well. Whoever asks sees to it that a host's log speaks of that host alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any, get_args

from ansible_collections.homelab.nixos.plugins.module_utils._entries import CLAIM, NIGHT, OUTCOME, Entry
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._metrics import complaint
from ansible_collections.homelab.nixos.plugins.module_utils._outcome import BAD, ON_TARGET, Word
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import LAST_TIME

WORDS: tuple[Word, ...] = get_args(Word)

_PERIOD = re.compile(r"([0-9]{1,6})([hdw])")
_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True)
class End:
    """How a run ended for a host, and when."""

    word: str
    reason: str
    time: float
    run_id: str


@dataclass
class Night:
    """A run: the record of the whole of it, if there is one, and what its hosts have written."""

    whole: Entry | None = None
    claimed: set[str] = field(default_factory=set)
    ended: dict[str, Entry] = field(default_factory=dict)

    @property
    def dry_run(self) -> bool:
        return self.whole is not None and self.whole.details.get("dry_run") is True

    @property
    def good(self) -> bool:
        """Whether the run ended well, by its exit code."""
        if self.whole is not None:
            # what does not say that it went well did not
            return self.whole.details.get("failed") is False
        words = {entry.status for entry in self.ended.values()}
        return self.claimed <= self.ended.keys() and not words & BAD

    @property
    def outcomes(self) -> dict[str, str]:
        """The outcome of each host that is known to have had one."""
        if self.whole is not None:
            told = _mapping(self.whole.details.get("outcomes"))
            return {str(host): str(word) for host, word in told.items() if word in WORDS}
        return {host: entry.status for host, entry in self.ended.items()}

    def reason(self, host: str) -> str:
        """Why, in a sentence; empty where nobody said."""
        told = _mapping(self.whole.details.get("reasons")).get(host) if self.whole is not None else None
        own = self.ended[host].details.get("reason") if host in self.ended else None
        return next((text for text in (told, own) if text and isinstance(text, str)), "")

    @property
    def rebooted(self) -> set[str]:
        """The hosts that were rebooted."""
        told = self.whole.details.get("rebooted") if self.whole is not None else None
        names = {str(host) for host in told} if isinstance(told, (list, tuple)) else set()
        return names | {host for host, entry in self.ended.items() if entry.details.get("rebooted") is True}


def since(given: object, now: float, setting: str = "lab_since") -> float:
    """From when on, in seconds since 1970: C(12h), C(30d) or C(4w) before C(now), or the beginning of a day."""
    text = str(given).strip()
    found = _PERIOD.fullmatch(text)
    if found:
        when = now - int(found[1]) * _SECONDS[found[2]]
    else:
        try:
            # only the form with dashes, which people can tell from a number
            when = datetime.fromisoformat(text if _DATE.fullmatch(text) else "").astimezone().timestamp()
        except (ValueError, OverflowError, OSError):
            when = -1
    if not 0 <= when < now:
        raise LabError(
            f"{setting} is {text[:60]!a}, which is no time that has passed.",
            "Write it as 12h, 30d, 4w, or as a day, 2026-11-01.",
        )
    return when


def merged(*sources: Iterable[Entry]) -> list[Entry]:
    """The records of several machines, each once, the oldest first. Of two of the same night, the first is kept."""
    found: dict[tuple[object, ...], Entry] = {}
    for source in sources:
        for entry in source:
            whole = entry.operation == NIGHT
            key = (entry.run_id, NIGHT) if whole else (entry.run_id, entry.host, entry.operation, entry.seq, entry.time)
            found.setdefault(key, entry)
    return sorted(found.values(), key=lambda entry: (entry.time, entry.seq))


def nights(records: Sequence[Entry]) -> dict[str, Night]:
    """The runs of C(records), which are merged, by their ids; in the order in which they began."""
    found: dict[str, Night] = {}
    for entry in records:
        if entry.operation not in (NIGHT, CLAIM, OUTCOME) or not entry.run_id:
            continue
        night = found.setdefault(entry.run_id, Night())
        if entry.operation == NIGHT:
            night.whole = entry
        elif entry.operation == CLAIM:
            night.claimed.add(entry.host)
        elif entry.status in WORDS:
            night.ended[entry.host] = entry
    return found


def ends(records: Sequence[Entry]) -> dict[str, End]:
    """How the last run ended for each host that is known to have been in one. Dry runs do not count."""
    found: dict[str, End] = {}
    for run_id, night in nights(records).items():
        if night.dry_run:
            continue
        told = {host: (word, night.whole.time) for host, word in night.outcomes.items()} if night.whole else {}
        for host, (word, time) in told.items():
            own = night.ended.get(host)
            # the host knows when; one that ended its own night after the others says what became of it
            if own is None or (own.status != word and own.time < time):
                _put(found, host, End(word, night.reason(host), time, run_id))
    for entry in records:
        if entry.operation == OUTCOME and entry.status in WORDS:
            reason = entry.details.get("reason")
            _put(
                found,
                entry.host,
                End(entry.status, reason if isinstance(reason, str) else "", entry.time, entry.run_id),
            )
    return found


def last_right(records: Sequence[Entry]) -> dict[str, float]:
    """When each host was last known to run what the flake gives it."""
    found: dict[str, float] = {}
    for night in nights(records).values():
        if night.whole is not None and not night.dry_run:
            for host, word in night.outcomes.items():
                if word in ON_TARGET:
                    found[host] = max(night.whole.time, found.get(host, 0))
    for entry in records:
        if entry.operation == OUTCOME and entry.status in ON_TARGET:
            found[entry.host] = max(entry.time, found.get(entry.host, 0))
    return found


def inputs(records: Sequence[Entry], now: float) -> dict[str, int]:
    """Of when the inputs of the flake are, as far as one of the nights moved them."""
    found: dict[str, int] = {}
    for night in nights(records).values():
        moved = night.whole.details.get("inputs") if night.whole is not None and not night.dry_run else None
        for each in moved if isinstance(moved, (list, tuple)) else ():
            told = _mapping(each)
            path, when = told.get("path"), told.get("last_modified")
            if isinstance(path, str) and isinstance(when, int) and 0 <= when <= min(now + 86400, LAST_TIME):
                found[path] = int(when)
    return found


def statistics(
    records: Sequence[Entry], since: float, stale: Mapping[str, int], going_on: Collection[str] = ()
) -> dict[str, Any]:
    """How the nights since then went. C(stale) are the hosts without an update for too long, with the days.

    C(going_on) are the runs that have not ended, of which nobody knows how they will.
    """
    told = nights([entry for entry in records if entry.time >= since])
    real = {run_id: night for run_id, night in told.items() if not night.dry_run and run_id not in going_on}
    good = sum(night.good for night in real.values())
    took = [
        night.whole.seconds for night in real.values() if night.whole is not None and night.whole.seconds is not None
    ]
    left_alone = [
        complaint(night.reason(host))
        for night in real.values()
        for host, word in night.outcomes.items()
        if word == "deferred"
    ]
    return {
        "since": int(since),
        "nights": len(real),
        "good": good,
        "success_rate": round(good / len(real), 3) if real else None,
        "median_seconds": round(median(took), 1) if took else None,
        "dry_runs": sum(night.dry_run for night in told.values()),
        "reboots": sum(len(night.rebooted) for night in real.values()),
        "deferrals": dict(Counter(left_alone).most_common()),
        "stale": dict(stale),
    }


def _put(found: dict[str, End], host: str, end: End) -> None:
    if host not in found or end.time >= found[host].time:
        found[host] = end


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
