# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a flake lives, a git checkout or a plain directory: how a candidate of it is made, and how it is adopted.

flake.lock on disk is the old bytes or the new ones at every moment: it is only ever replaced by a rename. In git the
branch follows right after; a run that dies in between leaves a ref, by which the next one finishes the adoption.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from ansible_collections.homelab.nixos.plugins.module_utils import _lock_file
from ansible_collections.homelab.nixos.plugins.module_utils._command import CommandFailed, Completed, Run
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._nix import flake_url, remedy

LOCK_NAME = "flake.lock"
# one fixed place of ours inside the git directory: the lock of a run, and its worktree
OURS = "lab-auto-update"
# says which verified candidate was being adopted when a run died
ADOPTING = "refs/lab-auto-update/adopting"
_NEW_LOCK = ".flake.lock.lab-auto-update"
_INDEX_LOCK_WAIT = 10.0
_LOCK_POLL = 0.5


class Deadline:
    """The time that is left for everything together."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise LabError(f"The time-out of {self.seconds:g} s is over.", "Raise timeout.")
        return left

    def is_over(self) -> bool:
        return time.monotonic() >= self._end


@dataclass(frozen=True)
class Candidate:
    """A copy of the flake that may be changed: the directory of its flake.nix, its reference, and room for files."""

    directory: str
    flake: str
    scratch: str

    @property
    def lock_path(self) -> str:
        return os.path.join(self.directory, LOCK_NAME)

    def lock_bytes(self) -> bytes:
        return read_bytes(self.lock_path)


class Place(Protocol):
    """What L(update) needs to know of the place where a flake lives."""

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Hold the place for one run; raise if another one has it."""

    def settle(self, check_mode: bool) -> list[str]:
        """Put right what a killed run left; return what is worth telling."""

    def guard(self) -> list[str]:
        """Refuse a flake that cannot be updated; return what is worth telling."""

    def candidate(self) -> contextlib.AbstractContextManager[Candidate]:
        """A candidate, which is gone afterwards whatever happens."""

    def seal(self, candidate: Candidate, message: str) -> str | None:
        """Commit the candidate's flake.lock where there is git; return the commit."""

    def adopt(self, candidate: Candidate, commit: str | None) -> None:
        """Make the candidate's flake.lock the flake's own."""


def find_place(run: Run, path: str, deadline: Deadline) -> Place:
    """The place of the flake in directory C(path), found as Nix finds it: by a C(.git) here or above."""
    directory = os.path.realpath(path)
    if not os.path.isdir(directory):
        raise LabError(f"There is no directory {path}.", "Set path to the directory of the flake on the flake host.")
    if not os.path.exists(os.path.join(directory, "flake.nix")):
        raise LabError(f"There is no flake.nix in {path}.", "Set path to the directory of the flake on the flake host.")
    above = directory
    while not os.path.lexists(os.path.join(above, ".git")):
        above, below = os.path.dirname(above), above
        if above == below:
            return PlainPlace(directory, deadline)
    return GitPlace(run, directory, deadline)


class PlainPlace:
    """A flake outside git: the candidate is a copy, and adoption is one rename."""

    def __init__(self, directory: str, deadline: Deadline) -> None:
        self._directory = directory
        self._deadline = deadline
        self._lock_path = os.path.join(directory, LOCK_NAME)
        self._before = b""

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        return _held(self._directory, self._directory, self._deadline)

    def settle(self, check_mode: bool) -> list[str]:
        _remove_file(os.path.join(self._directory, _NEW_LOCK))
        return []

    def guard(self) -> list[str]:
        _refuse_torn(self._lock_path, "Restore it from a backup, or remove it to lock every input anew.")
        self._before = read_bytes(self._lock_path)
        return []

    @contextlib.contextmanager
    def candidate(self) -> Iterator[Candidate]:
        scratch = tempfile.mkdtemp(prefix=f"{OURS}-")
        try:
            copy = os.path.join(scratch, "flake")
            shutil.copytree(self._directory, copy, symlinks=True)
            yield Candidate(copy, f"path:{quote(copy)}", scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def seal(self, candidate: Candidate, message: str) -> str | None:
        return None

    def adopt(self, candidate: Candidate, commit: str | None) -> None:
        if read_bytes(self._lock_path) != self._before:
            raise LabError(f"{self._lock_path} was changed by somebody else during the update.", "Run it again.")
        replace_lock(self._lock_path, candidate.lock_bytes(), candidate.lock_path)


class GitPlace:
    """A flake in a git checkout: the candidate is a commit in a worktree of ours, and adoption is a fast-forward."""

    def __init__(self, run: Run, directory: str, deadline: Deadline) -> None:
        self._run = run
        self._directory = directory
        self._deadline = deadline
        words = ("--show-toplevel", "--git-common-dir", "--absolute-git-dir", "--is-shallow-repository")
        answer = self._git("rev-parse", "--path-format=absolute", *words, doing=f"Looking at the checkout {directory}")
        self._top, common, self._git_dir, shallow = answer.rstrip("\n").split("\n")
        self._shallow = shallow == "true"
        self._prefix = os.path.relpath(directory, os.path.realpath(self._top))
        self._prefix = "" if self._prefix == "." else self._prefix
        self._ours = os.path.join(common, OURS)
        self._lock_path = os.path.join(directory, LOCK_NAME)
        self._before = b""
        self._base = ""

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        try:
            os.makedirs(self._ours, exist_ok=True)
        except OSError as error:
            raise LabError(
                f"{self._ours} cannot be made: {error.strerror}.",
                "Run the task as the owner of the checkout (become_user).",
            ) from error
        return _held(self._ours, self._directory, self._deadline)

    def settle(self, check_mode: bool) -> list[str]:
        _remove_file(os.path.join(self._directory, _NEW_LOCK))
        self._remove_strays()
        commit = self._git("for-each-ref", "--format=%(objectname)", ADOPTING).strip()
        if not commit:
            return []
        if check_mode:
            raise LabError(
                f"A run was killed while it adopted a new flake.lock in {self._directory}.",
                "The next run without check mode finishes that.",
            )
        told: list[str] = []
        head, parent = self._head(), self._git("rev-parse", "--verify", f"{commit}^").strip()
        if head == parent and read_bytes(self._lock_path) == self._blob(commit):
            self._remove_stale_index_lock()
            self._follow(commit)
            told = [f"A run was killed while it adopted a new, verified flake.lock; commit {commit[:12]} completes it."]
        self._git("update-ref", "-d", ADOPTING)
        return told

    def guard(self) -> list[str]:
        self._base = self._head()
        if not self._quiet("cat-file", "-e", f"{self._base}:{self._relative('flake.nix')}").ok:
            raise LabError(
                f"{self._directory}/flake.nix is not committed, and a flake in git sees only what git knows.",
                f"git -C {self._top} add {self._relative('flake.nix')}, and commit it.",
            )
        _refuse_torn(self._lock_path, f"Restore it: {self._restore()}.")
        self._refuse_dirty()
        self._before = read_bytes(self._lock_path)
        dirty = self._git("status", "--porcelain", "--untracked-files=no").splitlines()
        if dirty:
            return [
                f"{self._top} has uncommitted changes in {len(dirty)} "
                f"{'file' if len(dirty) == 1 else 'files'}; only what is committed is built."
            ]
        return []

    @contextlib.contextmanager
    def candidate(self) -> Iterator[Candidate]:
        # a name of its own: a process of a killed run may still be writing to the former one
        scratch = tempfile.mkdtemp(prefix="candidate-", dir=self._ours)
        worktree = os.path.join(scratch, "worktree")
        try:
            self._git("worktree", "add", "--quiet", "--detach", worktree, self._base, doing="Making a worktree")
            flake = flake_url(worktree, self._prefix, self._shallow)
            yield Candidate(os.path.join(worktree, self._prefix) if self._prefix else worktree, flake, scratch)
        finally:
            self._remove_worktree(worktree)
            shutil.rmtree(scratch, ignore_errors=True)

    def seal(self, candidate: Candidate, message: str) -> str | None:
        trace = os.path.join(candidate.scratch, "trace")
        where = ["git", "-C", candidate.directory]
        doing = "Committing the candidate"
        written = candidate.lock_bytes()
        self._check(self._call([*where, "add", "--", LOCK_NAME]), doing)
        done = self._call(
            [*where, "commit", "--quiet", f"--message={message}", "--", LOCK_NAME], {"GIT_TRACE2_EVENT": trace}
        )
        if not done.ok:
            hook = refusing_hook(read_bytes(trace).decode("utf-8", "replace"))
            raise CommandFailed(
                done,
                f"Make the hook accept it, or set commit to false: see {hook} in the hooks of {self._top}."
                if hook
                else remedy(done.stderr + done.stdout),
                f"The git hook {hook} refused the commit of the new flake.lock" if hook else doing,
            )
        commit = self._check(self._call([*where, "rev-parse", "--verify", "HEAD"]), doing).stdout.strip()
        left = self._check(self._call([*where, "status", "--porcelain"]), doing).stdout.split()
        compare = [*where, "diff-tree", "-r", "-z", "--name-only", self._base, commit]
        names = self._check(self._call(compare), doing).stdout.split("\0")
        if left or names != [self._relative(LOCK_NAME), ""] or candidate.lock_bytes() != written:
            # a formatter, say: what it made of flake.lock would differ from what Nix writes, every night again
            raise LabError(
                "A git hook changed files while the new flake.lock was committed.",
                f"Make the hooks of {self._top} leave flake.lock and all else alone, or set commit to false.",
            )
        return commit

    def adopt(self, candidate: Candidate, commit: str | None) -> None:
        self._refuse_dirty()
        if self._head() != self._base:
            raise LabError(f"Somebody committed to {self._top} during the update.", "Run it again.")
        new = candidate.lock_bytes()
        if commit is None:
            replace_lock(self._lock_path, new, candidate.lock_path)
            return
        self._git("update-ref", ADOPTING, commit)
        try:
            replace_lock(self._lock_path, new, candidate.lock_path)
            self._follow(commit)
        except BaseException:
            self._take_back()
            raise
        finally:
            self._quiet("update-ref", "-d", ADOPTING)

    def _follow(self, commit: str) -> None:
        """Move the branch; with the new flake.lock in the index already, git leaves the file itself alone."""
        self._git("add", "--", self._lock_path, doing="Adopting the new flake.lock")
        self._git("merge", "--ff-only", "--quiet", commit, doing="Adopting the new flake.lock")

    def _take_back(self) -> None:
        if self._before:
            replace_lock(self._lock_path, self._before)
        else:
            _remove_file(self._lock_path)
        self._quiet("reset", "--quiet", "--", self._lock_path)

    def _restore(self) -> str:
        return f"git -C {self._top} restore --staged --worktree {self._relative(LOCK_NAME)}"

    def _refuse_dirty(self) -> None:
        state = self._git("status", "--porcelain", "--untracked-files=all", "--", self._lock_path)
        if state:
            how = "is not committed" if state.startswith("??") else "has uncommitted changes"
            raise LabError(
                f"{self._lock_path} {how}; it is only updated from what is committed.",
                f"Commit it, or throw the changes away: {self._restore()}.",
                {"git_status": state.strip()},
            )

    def _remove_strays(self) -> None:
        listing = self._git("worktree", "list", "--porcelain")
        for line in listing.splitlines():
            path = line.removeprefix("worktree ")
            if line.startswith("worktree ") and path.startswith(f"{self._ours}/"):
                self._remove_worktree(path)
        for name in os.listdir(self._ours):
            if name.startswith("candidate-"):
                shutil.rmtree(os.path.join(self._ours, name), ignore_errors=True)

    def _remove_worktree(self, path: str) -> None:
        # the files first: git refuses to remove a worktree of which a killed run left only a part
        shutil.rmtree(path, ignore_errors=True)
        self._quiet("worktree", "remove", "--force", "--force", path)

    def _remove_stale_index_lock(self) -> None:
        """Beside an adoption that died, an index.lock that stays is from the git that died with it."""
        path = os.path.join(self._git_dir, "index.lock")
        end = time.monotonic() + _INDEX_LOCK_WAIT
        while os.path.exists(path):
            if time.monotonic() > end:
                _remove_file(path)
                return
            time.sleep(0.1)

    def _head(self) -> str:
        done = self._quiet("rev-parse", "--verify", "--quiet", "HEAD")
        if not done.ok:
            raise LabError(f"{self._top} has no commit yet.", "Commit the flake first.")
        return done.stdout.strip()

    def _blob(self, commit: str) -> bytes:
        # a lock file is JSON, so it survives the decoding
        return self._git("cat-file", "-p", f"{commit}:{self._relative(LOCK_NAME)}").encode()

    def _relative(self, name: str) -> str:
        return os.path.join(self._prefix, name)

    def _git(self, *words: str, doing: str = "") -> str:
        return self._check(self._quiet(*words), doing).stdout

    def _quiet(self, *words: str) -> Completed:
        return self._call(["git", "-C", self._directory, *words])

    def _call(self, argv: list[str], env: Mapping[str, str] | None = None) -> Completed:
        # git may not ask anybody anything; cleaning up has its time even when the run's is over
        try:
            timeout = max(60.0, self._deadline.left())
        except LabError:
            timeout = 60.0
        return self._run(argv, timeout=timeout, env={"GIT_TERMINAL_PROMPT": "0", "GIT_EDITOR": "true", **(env or {})})

    def _check(self, done: Completed, doing: str) -> Completed:
        if done.ok:
            return done
        what = remedy(done.stderr + done.stdout)
        if "dubious ownership" in done.stderr:
            owner, me = _user(os.stat(self._directory).st_uid), _user(os.geteuid())
            raise LabError(
                f"The checkout {self._directory} belongs to {owner}, and git refuses to touch it as {me}.",
                f"Run the task with become_user: {owner}, or give the checkout to {me} with chown -R.",
            )
        raise CommandFailed(done, what, doing)


def replace_lock(path: str, content: bytes, like: str | None = None) -> None:
    """Make C(content) the file C(path) at one moment, on disk before anybody can see it; keep its mode and owner.

    The time stamp is that of C(like), because Nix makes it part of a flake outside git.
    """
    directory = os.path.dirname(path)
    new = os.path.join(directory, _NEW_LOCK)
    try:
        with open(new, "wb") as file:
            file.write(content)
            file.flush()
            _look_like(file.fileno(), path, directory)
            os.fsync(file.fileno())
        if like is not None:
            times = os.stat(like)
            os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))
        os.replace(new, path)
    except OSError as error:
        _remove_file(new)
        raise LabError(f"{path} cannot be written: {error.strerror}.", remedy(str(error))) from error
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_bytes(path: str) -> bytes:
    """The content of a file; one that is not there is empty."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}.") from error


def parse_bytes(content: bytes) -> _lock_file.LockFile:
    """The lock file in C(content); none at all locks nothing."""
    return _lock_file.parse_lock(content.decode("utf-8", "replace")) if content else _lock_file.EMPTY


def refusing_hook(trace: str) -> str | None:
    """The hook that ended with an error, in a trace of the form of GIT_TRACE2_EVENT."""
    hooks: dict[tuple[object, object], str] = {}
    for line in trace.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if not isinstance(event, dict):
            continue
        child = (event.get("sid"), event.get("child_id"))
        if event.get("event") == "child_start" and event.get("child_class") == "hook":
            hooks[child] = str(event.get("hook_name"))
        elif event.get("event") == "child_exit" and event.get("code") != 0 and child in hooks:
            return hooks[child]
    return None


@contextlib.contextmanager
def _held(directory: str, flake: str, deadline: Deadline) -> Iterator[None]:
    """Hold the lock of C(flake), once whoever has it is done with it."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while not _locked(handle):
            if deadline.is_over():
                raise LabError(
                    f"Another update of the flake in {flake} did not end within {deadline.seconds:g} s.",
                    "Wait for its end, or raise timeout.",
                )
            time.sleep(_LOCK_POLL)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse_torn(lock_path: str, restore: str) -> None:
    if not os.path.lexists(lock_path):
        return
    try:
        content = read_bytes(lock_path)
        if not content:
            raise Unreadable("flake.lock is torn: it is empty.")
        parse_bytes(content)
    except Unreadable as error:
        raise LabError(f"{lock_path}: {error.what}", restore) from error


def _look_like(handle: int, path: str, directory: str) -> None:
    try:
        old = os.stat(path)
        os.fchmod(handle, old.st_mode & 0o7777)
    except FileNotFoundError:
        old = os.stat(directory)
        os.fchmod(handle, 0o644)
    if os.geteuid() == 0:
        os.fchown(handle, old.st_uid, old.st_gid)


def _remove_file(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
