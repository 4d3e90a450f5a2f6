# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A record of the log: one line of JSON for people's tools, and the same as fields of the journal. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ansible_collections.homelab.nixos.plugins.module_utils._redact import plain

VERSION = 1
# a sentence may hold words of others, without end
_LONGEST = 4096
# of systemd-journald: https://systemd.io/JOURNAL_NATIVE_PROTOCOL
_INFO, _WARNING = "6", "4"
_BAD = ("bad", "failed", "rolled_back", "rollback_failed", "lost")


@dataclass(frozen=True)
class Record:
    """That C(operation) of a run began or ended on a machine, with C(status); C(time) is in seconds since 1970.

    C(host) is the machine's own name, and empty where the record is of the whole night.
    """

    run_id: str
    time: float
    host: str
    operation: str
    status: str
    seconds: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def line(record: Record, seq: int) -> str:
    """The line of the file; C(seq) counts the records of this run that this machine has written."""
    told = {
        "version": VERSION,
        "run_id": record.run_id,
        "seq": seq,
        "time": iso(record.time),
        "host": record.host,
        "operation": record.operation,
        "status": record.status,
        "seconds": None if record.seconds is None else round(record.seconds, 1),
        "details": plain(record.details, _LONGEST),
    }
    # ASCII only: no character of others ends a line or moves a cursor
    return json.dumps(told, allow_nan=False) + "\n"


def journal_entry(record: Record, seq: int, text: str) -> bytes:
    """The record as a datagram for journald, with C(text), the line of the file, as C(LAB_RECORD)."""
    reason = plain(str(record.details.get("reason") or ""), _LONGEST)
    words = f"{record.operation}: {record.status}{f': {reason}' if reason else ''}"
    fields = {
        "MESSAGE": f"{record.host}: {words}" if record.host else words,
        "PRIORITY": _WARNING if record.status in _BAD else _INFO,
        "SYSLOG_IDENTIFIER": "lab-auto-update",
        "LAB_RUN_ID": record.run_id,
        "LAB_SEQ": str(seq),
        "LAB_HOST": record.host,
        "LAB_OPERATION": record.operation,
        "LAB_STATUS": record.status,
        "LAB_RECORD": text.rstrip("\n"),
    }
    return b"".join(_field(name, value.encode("utf-8", "replace")) for name, value in fields.items())


def iso(seconds: float) -> str:
    """A time as C(2026-11-22T02:03:04.123Z)."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        # then its length comes first
        return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name.encode() + b"=" + value + b"\n"
