# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a flake lives, a git checkout or a plain directory: how a candidate of it is made, and how it is adopted.

flake.lock on disk is the old bytes or the new ones at every moment: it is only ever replaced by a rename. In git the
branch follows right after; a run that dies in between leaves a ref, by which the next one finishes the adoption.
Commits of others that were fetched are part of the candidate, so that they, too, arrive only once everything builds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from ansible_collections.homelab.nixos.plugins.module_utils import _lock_file
from ansible_collections.homelab.nixos.plugins.module_utils._command import CommandFailed, Completed, Run, check
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._nix import NIX, flake_url, remedy

LOCK_NAME = "flake.lock"
# one fixed place of ours inside the git directory: the lock of a run, and its worktree
OURS = "lab-auto-update"
# below it, by the branch, which verified candidate was being adopted when a run died
ADOPTING = "refs/lab-auto-update/adopting"
_NEW_LOCK = ".flake.lock.lab-auto-update"
_INDEX_LOCK_WAIT = 10.0
# nobody is there to be asked, and a transfer that stalls for a minute is given up (git-config, http.lowSpeedLimit)
UNATTENDED = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_HTTP_LOW_SPEED_LIMIT": "1",
    "GIT_HTTP_LOW_SPEED_TIME": "60",
}
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
class Lock:
    """The bytes of a flake.lock, none for a flake without one, and the time stamp, which is a part of a plain flake."""

    content: bytes
    changed_ns: int | None = None


@dataclass(frozen=True)
class Git:
    """What to do with the branch that a checkout follows, and how long that may take in seconds."""

    pull: bool = False
    push: bool = False
    timeout: float = 600


@dataclass(frozen=True)
class Candidate:
    """A copy of the flake that may be changed: the directory of its flake.nix, its reference, and room for files."""

    directory: str
    flake: str
    scratch: str

    @property
    def lock_path(self) -> str:
        return os.path.join(self.directory, LOCK_NAME)

    def lock(self) -> Lock:
        """Its flake.lock as it is now."""
        return read_lock(self.lock_path)

    def put(self, lock: Lock) -> None:
        """Make C(lock) its flake.lock."""
        put_lock(self.lock_path, lock)


class Place(Protocol):
    """What L(update) needs to know of the place where a flake lives."""

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Hold the place for one run; raise if another one has it."""

    def settle(self, check_mode: bool) -> list[str]:
        """Put right what a killed run left; return what is worth telling."""

    def guard(self) -> list[str]:
        """Refuse a flake that cannot be updated; return what is worth telling."""

    def lock(self) -> Lock:
        """The flake's own flake.lock, as the guard has seen it."""

    def candidate(self) -> contextlib.AbstractContextManager[Candidate]:
        """A candidate, which is gone afterwards whatever happens."""

    def seal(self, candidate: Candidate, message: str) -> str | None:
        """Commit the candidate's flake.lock where there is git; return the commit."""

    def rewind(self, candidate: Candidate) -> None:
        """Make the candidate what it was at first, but for a flake.lock that is not committed."""

    def moves(self) -> bool:
        """Whether the candidate begins further on than the flake is, because of what was fetched."""

    def adopt(self, lock: Lock, commit: str | None) -> list[str]:
        """Make C(lock), which C(commit) has, the flake's own; return what is worth telling."""

    def revision(self) -> str:
        """What the flake is now: its commit, or a hash of its files."""


def find_place(run: Run, path: str, git: Git, deadline: Deadline) -> Place:
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
            if git.pull or git.push:
                raise LabError(f"{path} is not in a git checkout.", "Set pull and push to false.")
            return PlainPlace(run, directory, deadline)
    return GitPlace(run, directory, git, deadline)


class PlainPlace:
    """A flake outside git: the candidate is a copy, and adoption is one rename."""

    def __init__(self, run: Run, directory: str, deadline: Deadline) -> None:
        self._run = run
        self._directory = directory
        self._deadline = deadline
        self._lock_path = os.path.join(directory, LOCK_NAME)
        self._before = Lock(b"")

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        return _held(self._directory, self._directory, self._deadline)

    def settle(self, check_mode: bool) -> list[str]:
        _remove_file(os.path.join(self._directory, _NEW_LOCK))
        return []

    def guard(self) -> list[str]:
        _refuse_torn(self._lock_path, "Restore it from a backup, or remove it to lock every input anew.")
        self._before = read_lock(self._lock_path)
        return []

    def lock(self) -> Lock:
        return self._before

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

    def rewind(self, candidate: Candidate) -> None:
        pass

    def moves(self) -> bool:
        return False

    def adopt(self, lock: Lock, commit: str | None) -> list[str]:
        if read_bytes(self._lock_path) != self._before.content:
            raise LabError(f"{self._lock_path} was changed by somebody else during the update.", "Run it again.")
        put_lock(self._lock_path, lock)
        return []

    def revision(self) -> str:
        hashed = self._run([*NIX, "hash", "path", self._directory], timeout=self._deadline.left())
        return check(hashed, f"Hashing {self._directory}").stdout.strip()


@dataclass(frozen=True)
class Upstream:
    """What the branch of a checkout follows: a branch of a remote, and what was fetched of it last."""

    branch: str
    remote: str
    merge: str
    tracking: str


class GitPlace:
    """A flake in a git checkout: the candidate is a commit in a worktree of ours, and adoption is a fast-forward."""

    def __init__(self, run: Run, directory: str, git: Git, deadline: Deadline) -> None:
        self._run = run
        self._directory = directory
        self._wanted = git
        self._deadline = deadline
        words = ("--show-toplevel", "--git-common-dir", "--absolute-git-dir", "--is-shallow-repository")
        answer = self._git("rev-parse", "--path-format=absolute", *words, doing=f"Looking at the checkout {directory}")
        self._top, common, self._git_dir, shallow = answer.rstrip("\n").split("\n")
        self._shallow = shallow == "true"
        self._prefix = os.path.relpath(directory, os.path.realpath(self._top))
        self._prefix = "" if self._prefix == "." else self._prefix
        self._ours = os.path.join(common, OURS)
        self._lock_path = os.path.join(directory, LOCK_NAME)
        self._before = Lock(b"")
        # where the branch is, and where the candidate begins: further on, where commits of others were fetched
        self._began = ""
        self._base = ""
        self._branch = ""
        self._upstream: Upstream | None = None
        self._pushes = False

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
        told: list[str] = []
        for line in self._git("for-each-ref", "--format=%(objectname) %(refname)", ADOPTING).splitlines():
            if check_mode:
                raise LabError(
                    f"A run was killed while it adopted a new flake.lock in {self._directory}.",
                    "The next run without check mode finishes that.",
                )
            commit, ref = line.split(" ", 1)
            # an owner who has moved on to another branch since then has decided what becomes of it
            if ref == self._adopting() and self._can_finish(commit):
                self._remove_stale_index_lock()
                self._take_up(commit)
                self._follow(commit)
                told += [f"A run was killed while it adopted a verified flake.lock; commit {commit[:12]} completes it."]
            self._git("update-ref", "-d", ref)
        return told

    def _can_finish(self, commit: str) -> bool:
        head = self._head()
        return head != commit and self._is_ancestor(head, commit) and read_bytes(self._lock_path) == self._blob(commit)

    def guard(self) -> list[str]:
        told: list[str] = []
        self._began = self._base = self._head()
        self._branch = self._adopting()
        _refuse_torn(self._lock_path, f"Restore it: {self._restore()}.")
        self._refuse_dirty()
        self._before = read_lock(self._lock_path)
        if self._wanted.pull or self._wanted.push:
            self._upstream = self._find_upstream()
            told += self._fetch(self._upstream)
        if not self._quiet("cat-file", "-e", f"{self._base}:{self._relative('flake.nix')}").ok:
            raise LabError(
                f"{self._directory}/flake.nix is not committed, and a flake in git sees only what git knows.",
                f"{self._by_hand('add', self._relative('flake.nix'))}, and commit it.",
            )
        dirty = self._git("status", "--porcelain", "--untracked-files=no").splitlines()
        if dirty:
            told += [
                f"{self._top} has uncommitted changes in {len(dirty)} "
                f"{'file' if len(dirty) == 1 else 'files'}; only what is committed is built."
            ]
        return told

    def lock(self) -> Lock:
        return self._before

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
        written = candidate.lock().content
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
        if left or names != [self._relative(LOCK_NAME), ""] or candidate.lock().content != written:
            # a formatter, say: what it made of flake.lock would differ from what Nix writes, every night again
            raise LabError(
                "A git hook changed files while the new flake.lock was committed.",
                f"Make the hooks of {self._top} leave flake.lock and all else alone, or set commit to false.",
            )
        return commit

    def rewind(self, candidate: Candidate) -> None:
        self._git("-C", candidate.directory, "reset", "--quiet", "--hard", self._base, doing="Beginning anew")

    def moves(self) -> bool:
        return self._base != self._began

    def adopt(self, lock: Lock, commit: str | None) -> list[str]:
        self._refuse_dirty()
        if self._head() != self._began or self._adopting() != self._branch:
            raise LabError(f"Somebody committed to {self._top} during the update.", "Run it again.")
        if commit is None and not self.moves():
            put_lock(self._lock_path, lock)
            return []
        target = commit or self._base
        self._refuse_local_changes(target)
        if self._upstream is not None and self._pushes and commit is not None:
            self._push(self._upstream, commit)
        self._git("update-ref", self._branch, target)
        told: list[str] = []
        try:
            put_lock(self._lock_path, lock)
            self._follow(target)
        except BaseException as error:
            # git moves the branch first and runs its hooks then
            if self._head() != target:
                self._take_back()
                raise
            told = [f"The new flake.lock is adopted, but git did not end well after that: {error}"]
        finally:
            self._quiet("update-ref", "-d", self._branch)
        return told

    def revision(self) -> str:
        return self._head()

    def _adopting(self) -> str:
        """The ref that says which commit is being adopted on the branch that is checked out."""
        branch = self._quiet("symbolic-ref", "--quiet", "HEAD").stdout.strip().removeprefix("refs/")
        return f"{ADOPTING}/{branch or 'HEAD'}"

    def _follow(self, target: str) -> None:
        """Move the branch; with the new flake.lock in the index already, git leaves that file alone.

        Of other files git overwrites none in which there is work of somebody, ignored or not.
        """
        doing = "Adopting the new flake.lock"
        if os.path.lexists(self._lock_path) or self._quiet("ls-files", "--error-unmatch", "--", self._lock_path).ok:
            self._git("add", "--all", "--", self._lock_path, doing=doing)
        self._git("merge", "--ff-only", "--quiet", "--no-overwrite-ignore", target, doing=doing)

    def _take_back(self) -> None:
        # the file last: as long as it is the new one, a run that comes after a kill goes on instead
        self._quiet("reset", "--quiet", "--", self._lock_path)
        put_lock(self._lock_path, self._before)

    # ---- the branch that it follows
    def _find_upstream(self) -> Upstream:
        branch = self._quiet("symbolic-ref", "--quiet", "--short", "HEAD").stdout.strip()
        if not branch:
            raise LabError(
                f"{self._top} is on no branch, so there is nothing to pull or push.",
                "Check a branch out, or set pull and push to false.",
            )
        tracking = self._quiet("rev-parse", "--verify", "--quiet", "--symbolic-full-name", "@{upstream}").stdout.strip()
        remote = self._quiet("config", f"branch.{branch}.remote").stdout.strip()
        merge = self._quiet("config", f"branch.{branch}.merge").stdout.strip()
        if not (tracking and remote and merge):
            raise LabError(
                f"The branch {branch} of {self._top} follows no branch of a remote that could be pulled or pushed.",
                f"{self._by_hand('branch', f'--set-upstream-to=REMOTE/{branch}')}, or set pull and push to false.",
            )
        return Upstream(branch, remote, merge, tracking)

    def _fetch(self, upstream: Upstream) -> list[str]:
        """Fetch, and let the candidate begin with what came; return what is worth telling."""
        doing = f"Fetching {upstream.remote} for {self._top}"
        self._transfer(["fetch", "--quiet", "--", upstream.remote], doing)
        there = self._git("rev-parse", "--verify", upstream.tracking, doing=doing).strip()
        self._pushes = self._wanted.push
        if self._is_ancestor(there, self._began):
            if there == self._began or not self._wanted.push:
                return []
            # what the owner has not pushed is not ours to publish
            self._pushes = False
            return [
                f"The branch {upstream.branch} of {self._top} has commits that {upstream.remote} has not, so a new"
                " flake.lock is not pushed: push them first, or remove them."
            ]
        if not self._is_ancestor(self._began, there):
            raise LabError(
                f"The branch {upstream.branch} of {self._top} and {upstream.merge} of {upstream.remote} have both moved"
                " on, and only a fast-forward is made.",
                f"Bring them together by hand: {self._by_hand('pull', '--rebase')}.",
            )
        self._refuse_local_changes(there)
        self._base = there
        return []

    def _push(self, upstream: Upstream, commit: str) -> None:
        """Before the adoption: what the remote refuses would leave two histories behind."""
        words = ["push", "--quiet", "--", upstream.remote, f"{commit}:{upstream.merge}"]
        self._transfer(words, f"Pushing the new flake.lock to {upstream.remote}")

    def _transfer(self, words: list[str], doing: str) -> None:
        done = self._call(["git", "-C", self._directory, *words], timeout=self._wanted.timeout)
        if done.timed_out:
            raise CommandFailed(done, "Look at the remote, or raise fetch_timeout.", doing)
        self._check(done, doing, "Look at the remote and at the way to it, or set pull and push to false.")

    def _is_ancestor(self, commit: str, of: str) -> bool:
        return self._quiet("merge-base", "--is-ancestor", commit, of).ok

    def _others(self, old: str, new: str) -> list[str]:
        """The files but flake.lock in which two commits differ, as paths from the top of the checkout."""
        differ = ["diff-tree", "-r", "-z", "--no-renames", "--name-only", old, new]
        return [name for name in self._git(*differ).split("\0") if name not in ("", self._relative(LOCK_NAME))]

    def _refuse_local_changes(self, target: str) -> None:
        """Refuse what git would refuse, and what it would overwrite because it is ignored, before anything is done."""
        others = [f":(top,literal){name}" for name in self._others(self._began, target)]
        if not others:
            return
        remedy_ = "Commit them, move them away, or throw them away."
        state = self._git("status", "--porcelain", "--untracked-files=all", "--ignored=matching", "--", *others)
        if state:
            name = state.splitlines()[0][3:]
            raise LabError(
                f"{self._top} has uncommitted changes in {name}, which the fetched commits change, too.", remedy_
            )
        # the index as it would be; flake.lock has been found clean
        done = self._quiet("read-tree", "--dry-run", "-m", "-u", self._began, target)
        if not done.ok:
            self._check(done, f"Bringing {self._top} to {target[:12]}", remedy_)

    def _take_up(self, target: str) -> None:
        """Tell git what a killed adoption has done already, and undo what it has half done.

        A file with the whole new content is put into the index, and one that is a beginning of that is put back. All
        else is left for git to judge, which loses nothing.
        """
        head = self._head()
        for name in self._others(head, target):
            path, there = os.path.join(self._top, name), f":(top,literal){name}"
            new = self._quiet("cat-file", "-p", f"{target}:{name}")
            old = self._quiet("rev-parse", "--verify", "--quiet", f"{head}:{name}").stdout.strip()
            if not os.path.lexists(path):
                if not new.ok:
                    self._quiet("rm", "--quiet", "--cached", "--ignore-unmatch", "--", there)
                elif old:
                    # removed to be written anew
                    self._quiet("checkout", "--quiet", head, "--", there)
                continue
            if not new.ok or not os.path.isfile(path) or os.path.islink(path):
                continue
            found = self._quiet("-C", self._top, "hash-object", f"--path={name}", "--", name).stdout.strip()
            if found == old:
                continue
            if found == self._git("rev-parse", "--verify", f"{target}:{name}").strip():
                self._git("add", "--force", "--", there)
            elif new.stdout.startswith(read_bytes(path).decode("utf-8", "replace").rstrip("\ufffd")):
                _remove_file(path)
                if old:
                    self._quiet("checkout", "--quiet", head, "--", there)

    def _restore(self) -> str:
        return self._by_hand("restore", "--staged", "--worktree", self._relative(LOCK_NAME))

    def _by_hand(self, *words: str) -> str:
        """A command that a person can paste, whatever the checkout and its branch are called."""
        return shlex.join(["git", "-C", self._top, *words])

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
        # a lock file is JSON, so it survives the decoding; a flake without inputs has none
        return self._quiet("cat-file", "-p", f"{commit}:{self._relative(LOCK_NAME)}").stdout.encode()

    def _relative(self, name: str) -> str:
        return os.path.join(self._prefix, name)

    def _git(self, *words: str, doing: str = "") -> str:
        return self._check(self._quiet(*words), doing).stdout

    def _quiet(self, *words: str) -> Completed:
        return self._call(["git", "-C", self._directory, *words])

    def _call(self, argv: list[str], env: Mapping[str, str] | None = None, timeout: float | None = None) -> Completed:
        # cleaning up has its time even when the run's is over
        try:
            left = max(60.0, self._deadline.left())
        except LabError:
            left = 60.0
        more = {**UNATTENDED, "GIT_EDITOR": "true", **(env or {})}
        return self._run(argv, timeout=min(left, timeout or left), env=more)

    def _check(self, done: Completed, doing: str, otherwise: str = "") -> Completed:
        if done.ok:
            return done
        what = remedy(done.stderr + done.stdout) or otherwise
        if "dubious ownership" in done.stderr:
            owner, me = _user(os.stat(self._directory).st_uid), _user(os.geteuid())
            raise LabError(
                f"The checkout {self._directory} belongs to {owner}, and git refuses to touch it as {me}.",
                f"Run the task with become_user: {owner}, or give the checkout to {me} with chown -R.",
            )
        raise CommandFailed(done, what, doing)


def put_lock(path: str, lock: Lock) -> None:
    """Make C(lock) the file C(path) at one moment, on disk before anybody can see it; keep its mode and owner."""
    directory = os.path.dirname(path)
    new = os.path.join(directory, _NEW_LOCK)
    try:
        if lock.content:
            with open(new, "wb") as file:
                file.write(lock.content)
                file.flush()
                _look_like(file.fileno(), path, directory)
                os.fsync(file.fileno())
            if lock.changed_ns is not None:
                os.utime(new, ns=(lock.changed_ns, lock.changed_ns))
            os.replace(new, path)
        else:
            _remove_file(path)
    except OSError as error:
        _remove_file(new)
        raise LabError(f"{path} cannot be written: {error.strerror}.", remedy(str(error))) from error
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_lock(path: str) -> Lock:
    """The flake.lock at C(path); one that is not there is empty."""
    content = read_bytes(path)
    return Lock(content, os.stat(path).st_mtime_ns if content else None)


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
