# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Records of the log, read from its lines. Pure, and small: hosts read their own.

Whatever is not exactly a record of this version is skipped and counted: a line may be torn, and a host may be hostile.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._errors import Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._record import VERSION, iso
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import checked_run_id

NIGHT = "night"
# a run that was refused at its beginning
OPEN = "open"
# these tell of a run, and the others of a host
OF_A_RUN = (NIGHT, OPEN)
CLAIM = "claim"
OUTCOME = "outcome"

_LONGEST_LINE = 1 << 20
_LONGEST_NAME = 255
_LONGEST_TIME = 100 * 365 * 86400
_WORD = re.compile(r"[a-z_]{1,40}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z")


@dataclass(frozen=True)
class Entry:
    """A record that was read; what is in C(details) nobody has looked at."""

    run_id: str
    seq: int
    time: float
    host: str
    operation: str
    status: str
    seconds: float | None
    details: Mapping[str, Any]

    def as_result(self) -> dict[str, object]:
        """As the log has it."""
        return {"version": VERSION, **vars(self), "time": iso(self.time), "details": dict(self.details)}


def records(lines: Iterable[object]) -> tuple[list[Entry], int]:
    """The records of C(lines), in their order, and how many lines are none. A line is text, or a mapping from JSON."""
    found, skipped = [], 0
    for line in lines:
        if isinstance(line, str) and not line.strip():
            continue
        try:
            found.append(_record(line))
        except (ValueError, RecursionError, Unreadable):
            skipped += 1
    return found, skipped


def worth_telling(found: Sequence[Entry], since: float, newest: int) -> list[Entry]:
    """What a host has to tell of C(found), the oldest first.

    That is how each run since then ended, and that it never did; of every kind of record, the C(newest); and how the
    last run of all ended.
    """
    ordered = sorted(found, key=lambda entry: entry.time)
    ended = {entry.run_id for entry in ordered if entry.operation == OUTCOME}
    last = max((number for number, entry in enumerate(ordered) if entry.operation == OUTCOME), default=-1)

    def tells(entry: Entry) -> bool:
        return entry.operation in (OUTCOME, NIGHT) or (entry.operation == CLAIM and entry.run_id not in ended)

    return [
        entry
        for number, entry in enumerate(ordered)
        if number >= len(ordered) - newest or number == last or (entry.time >= since and tells(entry))
    ]


def _record(line: object) -> Entry:
    """ValueError for what is no record."""
    if isinstance(line, str):
        if len(line) > _LONGEST_LINE:
            raise ValueError("it is too long")
        line = json.loads(line)
    if not isinstance(line, Mapping):
        raise ValueError("it is no record")
    if line.get("version") != VERSION or isinstance(line["version"], bool):
        raise ValueError("it is of another version")
    # what no file and no terminal can take
    json.dumps(line, ensure_ascii=False, allow_nan=False).encode()
    time, details = line.get("time"), line.get("details")
    if not isinstance(time, str) or not _TIME.fullmatch(time) or not isinstance(details, Mapping):
        raise ValueError("it has no time or no details")
    return Entry(
        run_id=_run_id(line.get("run_id")),
        seq=int(_number(line.get("seq"))),
        time=datetime.fromisoformat(time).timestamp(),
        host=_name(line.get("host")),
        operation=_word(line.get("operation")),
        status=_word(line.get("status")),
        seconds=None if line.get("seconds") is None else _number(line.get("seconds"), _LONGEST_TIME),
        details=details,
    )


def _run_id(value: object) -> str:
    # a transaction that could not be read was of some run
    return "" if value == "" else checked_run_id(value)


def _word(value: object) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ValueError("it has a word that is none")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not value.isprintable():
        raise ValueError("it has a host that is none")
    return value


def _number(value: object, most: float = 2**63) -> float:
    # one that is not a number at all is not between others either
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise ValueError("it has a number that is none")
    return value
