# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The door to C(/var/lib/lab-auto-update): every file that a module keeps there, it keeps through here.

A file is there as a whole, old or new, whenever a writer is killed or the power goes: a temporary file in the same
directory, fsync, rename, fsync of the directory. Every change is made under one lock, which the boot guard takes too.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from ansible_collections.homelab.nixos.plugins.module_utils import _log, _resume, _rollout, _transaction
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._log import Log
from ansible_collections.homelab.nixos.plugins.module_utils._record import Record
from ansible_collections.homelab.nixos.plugins.module_utils._resume import Note
from ansible_collections.homelab.nixos.plugins.module_utils._transaction import Torn, Transaction

DIRECTORY = "/var/lib/lab-auto-update"
LOCK = "lock"
TRANSACTION = "transaction.json"
LAST = "last.json"
FAILED = "failed.json"
BOOT_GUARD = "boot-guard"
# a controller's, of the run that is going on there
RUN = "run.json"
DEFERRALS = "deferrals.json"
# what the next boot has to run, and the same from when it runs
RESUME = "resume.json"
RESUMING = "resuming.json"
# the owner's, as lab_hold_file has it by default
HOLD = f"{DIRECTORY}/hold"

# the newest are kept
REMEMBERED = 20
_LOCK_SECONDS = 10.0
_POLL = 0.02
# ours are a few hundred bytes; of whatever else is there, this much is looked at
_MOST = 1 << 20
_TORN_KEPT = 4096
_REASON = 200
_REMEDY = "Make it writable and see that its disk has room; it is written as root (become)."


@dataclass(frozen=True)
class FailedSystem:
    """Why a system is not tried again on this host, which run saw it fail, and when (Unix time)."""

    reason: str
    run_id: str
    time: int


@dataclass(frozen=True)
class Deferrals:
    """In how many nights in a row this host asked not to be touched, since when, and what the last of them was."""

    nights: int
    since: int
    reason: str
    run_id: str


def directory_of_user() -> str:
    """Root's is the host's; others have one of their own, where the XDG Base Directory Specification has it."""
    if os.geteuid() == 0:
        return DIRECTORY
    given = os.environ.get("XDG_STATE_HOME", "")
    # by its specification, a relative one does not count
    base = given if given.startswith("/") else os.path.expanduser("~/.local/state")
    return os.path.join(base, os.path.basename(DIRECTORY))


class State:
    """What this host keeps of its updates. Nothing is touched until one of the methods is called.

    C(log) is what it tells of them, C(mode) that of the directory, where it has to be made.
    """

    def __init__(self, directory: str = DIRECTORY, mode: int = 0o755) -> None:
        self.directory = directory
        # a directory of somebody else's has its log in it
        self.log = Log(_log.PATH if directory == DIRECTORY else self.path(os.path.basename(_log.PATH)), directory)
        self._mode = mode
        self._depth = 0

    def path(self, name: str) -> str:
        """The path of one of the files."""
        return os.path.join(self.directory, name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes anything within the block; blocks of the same object may be nested."""
        if self._depth == 0:
            lock = self._lock()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                os.close(lock)

    def transaction(self) -> Transaction | Torn | None:
        """Who is changing this host. A note that cannot be read is somebody's: never an exception, and never nobody."""
        path = self.path(TRANSACTION)
        try:
            text = _read(path)
            return None if text is None else _transaction.parse(text)
        except Unreadable as error:
            return Torn(f"{path} cannot be used: {error.what}")
        except OSError as error:
            return Torn(f"{path} cannot be read: {error.strerror}.")

    def write(self, transaction: Transaction) -> None:
        """Make it the note of who is changing this host; the log is told of each step that begins."""
        with self.locked():
            before = self.transaction()
            self._replace(TRANSACTION, _transaction.dump(transaction))
        begins = (transaction.run_id, transaction.step)
        # that it was claimed is told by who claims it, before anything else
        known = transaction.step == "claimed" or (
            isinstance(before, Transaction) and begins == (before.run_id, before.step)
        )
        if not known:
            details = {"from": transaction.origin, "target": transaction.target}
            self.log.note(self.record(transaction.run_id, transaction.step, "begun", details=details))

    def record(
        self,
        run_id: str,
        operation: str,
        status: str,
        seconds: float | None = None,
        details: Mapping[str, object] | None = None,
    ) -> Record:
        """A record of this machine, of now."""
        return Record(run_id, time.time(), os.uname().nodename, operation, status, seconds, details or {})

    def close(
        self, outcome: str, reason: str, now: float, ended: Transaction | None = None, rebooted: bool = False
    ) -> None:
        """End what is open: it becomes the last transaction, and the host is nobody's. A torn one is kept as it is.

        C(ended) is the one that it was, where another run has ended it.
        """
        with self.locked(), _telling(self.path(TRANSACTION)):
            found = ended or self.transaction()
            if found is None:
                raise LabError("Nobody is changing this host, so there is nothing to end.", "Take it first.")
            if isinstance(found, Torn):
                kept: dict[str, object] = {"version": _transaction.VERSION, "torn": self._remains()}
            else:
                kept = found.as_result()
            last = {**kept, "outcome": outcome, "reason": reason, "ended": int(now)}
            if outcome == "pending":
                # it may be so night after night, and has been well since the first of them
                before = self.last() or {}
                same = before.get("outcome") == "pending" and before.get("target") == kept.get("target")
                last["pending_since"] = before.get("pending_since", int(now)) if same else int(now)
            self._replace(LAST, _transaction.lines(last))
            os.unlink(self.path(TRANSACTION))
            for name in (BOOT_GUARD, RESUME, RESUMING):
                with suppress(FileNotFoundError):
                    os.unlink(self.path(name))
            # before anything else can fail: whoever ends it once more finds that it is ended, and tells nobody
            details = {"reason": reason, "from": kept.get("from"), "target": kept.get("target"), "rebooted": rebooted}
            run_id, seconds = ("", None) if isinstance(found, Torn) else (found.run_id, now - found.since)
            self.log.note(self.record(run_id, "outcome", outcome, seconds, details))
            _sync(self.directory)

    def last(self) -> dict[str, object] | None:
        """The transaction that was ended last, with its end; one that cannot be read is none: nothing hangs on it."""
        try:
            data = json.loads(_read(self.path(LAST)) or "null")
        except (OSError, ValueError, RecursionError):
            return None
        return data if isinstance(data, dict) else None

    def failed_systems(self) -> dict[str, FailedSystem]:
        """The systems that failed here, oldest first. That they cannot be told is an error: any of them may be one."""
        path = self.path(FAILED)
        try:
            text = _read(path)
            return {} if text is None else _failed_systems(text)
        except (OSError, ValueError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
            raise Unreadable(
                f"{path} cannot be read, so it is not known which systems failed on this host: {why}.",
                f"Look at it and remove it on the host (rm {path}); then those systems are tried again.",
                {"path": path},
            ) from error

    def remember_failed(self, system: str, reason: str, run_id: str, now: float) -> None:
        """From now on C(system) is one that failed here."""
        with self.locked():
            failed = self.failed_systems()
            failed.pop(system, None)
            failed[system] = FailedSystem(reason, run_id, int(now))
            self._write_failed(dict(list(failed.items())[-REMEMBERED:]))

    def forget_failed(self, system: str) -> None:
        """C(system) is not one that failed here, or not any more."""
        with self.locked():
            failed = self.failed_systems()
            if failed.pop(system, None) is not None:
                self._write_failed(failed)

    def rollout(self, flake: str) -> _rollout.Record:
        """How far the rollout of the flake in directory C(flake) has come. That it cannot be told is an error."""
        path = self.path(_rollout.file_name(os.path.realpath(flake)))
        try:
            text = _read(path)
            return _rollout.Record() if text is None else _rollout.parse(text)
        except (Unreadable, OSError) as error:
            why = error.what if isinstance(error, Unreadable) else str(error.strerror)
            raise Unreadable(
                f"{path} cannot be read, so it is not known whether the rollout of {flake} was stopped: "
                f"{why.rstrip('.')}.",
                f"Look at it and remove it on the flake's host (rm {path}); then the rollout goes on.",
            ) from error

    def write_rollout(self, flake: str, record: _rollout.Record) -> None:
        """Note how far the rollout of a flake has come."""
        with self.locked():
            self._replace(_rollout.file_name(os.path.realpath(flake)), _rollout.dump(record))

    def deferrals(self) -> Deferrals | None:
        """The nights in which this host asked not to be touched. A count that cannot be read starts again."""
        try:
            text = _read(self.path(DEFERRALS))
            return None if text is None else _deferrals(text)
        except (OSError, ValueError, RecursionError):
            return None

    def defer(self, reason: str, run_id: str, now: float) -> Deferrals:
        """Count the night of C(run_id), once."""
        with self.locked():
            before = self.deferrals()
            counted = deferred(before, reason, run_id, now)
            if counted != before:
                self._replace(DEFERRALS, _transaction.lines({"version": _transaction.VERSION, **vars(counted)}))
            return counted

    def clear_deferrals(self) -> None:
        """The row of those nights has ended."""
        path = self.path(DEFERRALS)
        with self.locked(), _telling(path), suppress(FileNotFoundError):
            os.unlink(path)
            _sync(self.directory)

    def guard_acted(self, run_id: str) -> bool:
        """Whether the boot guard has put this host back because C(run_id) did not confirm its new system."""
        try:
            return (_read(self.path(BOOT_GUARD)) or "").strip() == run_id
        except OSError:
            return False

    def text(self, name: str) -> str | None:
        """What a file of this directory says, C(None) when there is none; OSError when that cannot be told."""
        return _read(self.path(name))

    def put(self, name: str, text: str) -> None:
        """Give a file of this directory its new contents."""
        with self.locked():
            self._replace(name, text)

    def remove(self, name: str) -> None:
        """A file of this directory is not there any more."""
        with self.locked(), _telling(self.path(name)):
            os.unlink(self.path(name))
            _sync(self.directory)

    def leave(self, note: Note) -> None:
        """Leave what the next boot has to run. Root's alone: it may hold whatever the owner's settings do."""
        with self.locked():
            with _telling(self.path(RESUMING)), suppress(FileNotFoundError):
                os.unlink(self.path(RESUMING))
            self._replace(RESUME, _resume.dump(note), mode=0o600)

    def is_left(self, run_id: str) -> bool:
        """Whether something is left by C(run_id) for a boot to run, or for this one."""
        return any(self._left_by(name) == run_id for name in (RESUME, RESUMING))

    def _left_by(self, name: str) -> object:
        try:
            data = json.loads(_read(self.path(name)) or "null")
        except (OSError, ValueError, RecursionError):
            # the boot cannot make anything of it either
            return None
        return data.get("run_id") if isinstance(data, dict) else None

    def _write_failed(self, failed: Mapping[str, FailedSystem]) -> None:
        systems = {system: vars(entry) for system, entry in failed.items()}
        self._replace(FAILED, _transaction.lines({"version": _transaction.VERSION, "systems": systems}))

    def _remains(self) -> str:
        try:
            return (_read(self.path(TRANSACTION)) or "")[:_TORN_KEPT]
        except OSError as error:
            return str(error)

    def _lock(self) -> int:
        path = self.path(LOCK)
        end = time.monotonic() + _LOCK_SECONDS
        with _telling(path):
            self._make_directory()
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # a file that was removed meanwhile locks nothing
                    if _is_same(descriptor, path):
                        return descriptor
                except BlockingIOError:
                    pass
                except BaseException:
                    os.close(descriptor)
                    raise
                os.close(descriptor)
                if time.monotonic() > end:
                    raise LabError(
                        f"{path} was locked by another process of this host for {_LOCK_SECONDS:g} s.",
                        f"See who holds it with lslocks or fuser {path}, and try again.",
                    )
                time.sleep(_POLL)

    def _make_directory(self) -> None:
        missing = []
        path = os.path.abspath(self.directory)
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for path in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(path)
                # whatever the umask is
                os.chmod(path, self._mode if path == missing[0] else 0o755)
            _sync(os.path.dirname(path))

    def _replace(self, name: str, text: str, mode: int = 0o644) -> None:
        """Give a file its new contents. The temporary name is fixed: a killed writer leaves one file, not many."""
        path = self.path(name)
        with _telling(path), open(f"{path}.new", "w", encoding="utf-8") as file:
            _fill(file, path, text, mode)


def publish(path: str, text: str) -> None:
    """Give a file that others read its new contents. Its directory is not ours: it is not made, and gets no lock.

    So each writer has a temporary file of its own, of a hidden name that nobody can prepare.
    """
    directory, name = os.path.split(os.path.abspath(path))
    remedy = "See that its directory is there and may be written by who runs the night."
    with (
        _telling(path, remedy),
        tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=directory, prefix=f".{name}.", delete=False) as file,
    ):
        _fill(file, path, text, 0o644)


def hold(path: str) -> str | None:
    """Why the file C(path) holds this host, by its first line; C(None) when there is none of that name."""
    try:
        # of the name itself: a link that leads nowhere holds, too
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"Whether {path} is there cannot be told: {error.strerror}."
    try:
        lines = (_read(path) or "").splitlines()
    except OSError as error:
        lines = [f"Why cannot be told, {path} cannot be read: {error.strerror}."]
    return (lines[0].strip() if lines else "")[:_REASON] or f"{path} is there, and gives no reason."


def deferred(before: Deferrals | None, reason: str, run_id: str, now: float) -> Deferrals:
    """The count with the night of C(run_id) in it."""
    if before is None:
        return Deferrals(1, int(now), reason, run_id)
    return before if before.run_id == run_id else Deferrals(before.nights + 1, before.since, reason, run_id)


def _failed_systems(text: str) -> dict[str, FailedSystem]:
    """Read the file of failed systems; ValueError for anything else."""
    data = json.loads(text)
    if not isinstance(data, dict) or data.get("version") != _transaction.VERSION:
        raise ValueError("it is not a list of failed systems of a known version")
    systems = data.get("systems")
    if not isinstance(systems, dict):
        raise ValueError("it has no systems")
    wanted = {"reason": str, "run_id": str, "time": int}
    for system, entry in systems.items():
        if not isinstance(entry, dict) or {key: type(value) for key, value in entry.items()} != wanted:
            raise ValueError(f"its entry for {system!a} is not reason, run_id and time")
    return {system: FailedSystem(**entry) for system, entry in systems.items()}


def _deferrals(text: str) -> Deferrals:
    """Read the count of deferrals; ValueError for anything else."""
    data = json.loads(text)
    if not isinstance(data, dict) or data.pop("version", None) != _transaction.VERSION:
        raise ValueError("it is not a count of deferrals of a known version")
    if {key: type(value) for key, value in data.items()} != {"nights": int, "since": int, "reason": str, "run_id": str}:
        raise ValueError("it is not nights, since, reason and run_id")
    return Deferrals(**data)


def _read(path: str) -> str | None:
    """The contents of a file, C(None) when there is none. Bytes that are no text do not stop anybody."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MOST)
    except FileNotFoundError:
        return None


def _fill(file: IO[str], path: str, text: str, mode: int) -> None:
    """Write a file beside C(path) that takes its place as a whole."""
    try:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
        os.rename(file.name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(file.name)
        raise
    _sync(os.path.dirname(os.path.abspath(path)))


def _is_same(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _telling(path: str, remedy: str = _REMEDY) -> Iterator[None]:
    """Errors of the operating system as sentences."""
    try:
        yield
    except OSError as error:
        raise LabError(f"{path} cannot be written: {error.strerror or error}.", remedy) from error
