# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The door to the log: a file of JSON Lines, and the journal. Records are never torn, and never there twice.

Each record is one C(write), appended to whatever file has the name at that moment, so rotation by rename loses none.
One that did not fit is taken off again, under the lock that all writers of the machine's log take; it also counts the
records. What has no room in the file is in the journal all the same.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress

from ansible_collections.homelab.nixos.plugins.module_utils import _record
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._record import Record

PATH = "/var/log/lab-auto-update.log"
JOURNAL = "/run/systemd/journal/socket"
# beside the log it would have no room either
COUNTER = "log.json"
_LOCK_SECONDS = 5.0
_POLL = 0.001
_MOST = 4096


class Log:
    """The log of this machine at C(path). Its counter is in C(directory), the one of the machine's state."""

    def __init__(self, path: str, directory: str) -> None:
        self.path = path
        self.directory = directory
        # of what could not be written, in sentences; who told nobody where they go finds them here
        self.warnings: list[str] = []
        self.warn: Callable[[str], object] = self.warnings.append

    def write(self, record: Record) -> None:
        """Write a record; one that the file cannot take raises L(LabError), and is in the journal alone."""
        seq, text, trouble = 0, "", ""
        try:
            counter = self._counter()
            try:
                seq = _next(counter, record.run_id)
                text = _record.line(record, seq)
                self._append(text.encode())
            finally:
                os.close(counter)
        except OSError as error:
            trouble = f"{self.path} cannot be written: {error.strerror or error}."
        # a machine without a journal, as a container, has the file
        missing = self._tell_journal(record, seq, text or _record.line(record, seq), silent=not trouble)
        if trouble:
            where = f"The journal has no record of it, either: {missing}." if missing else "The journal has the record."
            raise LabError(
                f"{trouble} {where}",
                "See that its directory is there and its disk has room; it is written as root (become).",
            )

    def note(self, record: Record) -> None:
        """Write a record of what goes on all the same; a file that cannot take it is a warning."""
        try:
            self.write(record)
        except LabError as error:
            self.warn(error.what)

    def _append(self, data: bytes) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISFIFO(status.st_mode):
                # nobody may ever read it
                raise OSError(None, "it is a pipe, and no file")
            size = status.st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                # the power went in the middle of one; the next begins on a line of its own
                data = b"\n" + data
            written = os.write(descriptor, data)
            if written != len(data):
                os.ftruncate(descriptor, size)
                raise OSError(None, f"only {written} of {len(data)} bytes had room")
        finally:
            os.close(descriptor)

    def _tell_journal(self, record: Record, seq: int, text: str, *, silent: bool) -> str:
        """Tell the journal, and return why it was not told; C(silent) when it is no matter that there is none."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as journal:
                # a journal that does not read its socket holds nobody up
                journal.settimeout(1.0)
                journal.sendto(_record.journal_entry(record, seq, text), JOURNAL)
        except OSError as error:
            why = str(error.strerror or error)
            if not (silent and isinstance(error, FileNotFoundError)):
                self.warn(f"The journal could not be told of {record.operation}: {why}.")
            return why
        return ""

    def _counter(self) -> int:
        """The counter, opened and locked."""
        os.makedirs(self.directory, mode=0o755, exist_ok=True)
        descriptor = os.open(os.path.join(self.directory, COUNTER), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError as error:
                if time.monotonic() > end:
                    os.close(descriptor)
                    raise OSError(None, f"another process has locked its counter for {_LOCK_SECONDS:g} s") from error
            time.sleep(_POLL)


def _next(counter: int, run_id: str) -> int:
    """Count one more record of C(run_id); one that cannot be read starts again."""
    seq = 1
    with suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
        found = json.loads(os.pread(counter, _MOST, 0))
        if found["run_id"] == run_id:
            seq = max(0, int(found["seq"])) + 1
    data = json.dumps({"run_id": run_id, "seq": seq}).encode() + b"\n"
    os.pwrite(counter, data, 0)
    os.ftruncate(counter, len(data))
    return seq
