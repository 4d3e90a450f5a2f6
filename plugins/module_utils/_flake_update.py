# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Update a flake's inputs in a candidate, build every system from it, and adopt its flake.lock only then."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ansible_collections.homelab.nixos.plugins.module_utils import _flake_build, _health, _lock_file, _nix
from ansible_collections.homelab.nixos.plugins.module_utils._command import CommandFailed, Run, peak_memory
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._flake_places import (
    UNATTENDED,
    Candidate,
    Deadline,
    Git,
    Lock,
    Place,
    find_place,
    parse_bytes,
    read_bytes,
)
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact

# of the reasons why systems are not there, a sentence has this many
_MOST_REASONS = 3


@dataclass(frozen=True)
class Request:
    """What nix_flake_update was asked for; its options, which it documents."""

    path: str
    inputs: Sequence[str] = ()
    update: bool = True
    must_build: Mapping[str, str] = field(default_factory=dict)
    build_failure: Literal["stop", "skip"] = "stop"
    fallback: Literal["none", "per_input"] = "none"
    commit: bool = True
    commit_message: str = "flake.lock: update"
    pull: bool = False
    push: bool = False
    fetch_timeout: float = 600
    allow_downgrade: bool = False
    max_age: int | None = None
    eval_memory: int = 4096
    signing_key: str | None = None
    timeout: float = 3600
    gc_roots: str = _nix.BUILDER_ROOTS
    options: Mapping[str, object] = field(default_factory=dict)
    check_mode: bool = False


@dataclass(frozen=True)
class Attempt:
    """A candidate that may be adopted: its flake.lock, its commit where it has one, and what it builds."""

    lock: Lock
    commit: str | None
    systems: Mapping[str, str]
    failed_systems: Mapping[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of it. C(commit) is None where nothing was committed, C(before) and C(after) are lines for people."""

    changed: bool
    changes: tuple[_lock_file.InputChange, ...]
    systems: Mapping[str, str]
    failed_systems: Mapping[str, str]
    rejected_inputs: Mapping[str, str]
    lock_hash: str | None
    commit: str | None
    evaluation: Mapping[str, int]
    durations: Mapping[str, float]
    warnings: tuple[str, ...]

    def as_result(self) -> dict[str, object]:
        before, after = _lock_file.describe_changes(self.changes)
        return {
            "changed": self.changed,
            "inputs": [change.as_dict() for change in self.changes],
            "systems": dict(self.systems),
            "failed_systems": dict(self.failed_systems),
            "rejected_inputs": dict(self.rejected_inputs),
            "lock_hash": self.lock_hash,
            "commit": self.commit,
            "evaluation": dict(self.evaluation),
            "durations": dict(self.durations),
            "diff": {"before_header": "flake.lock", "after_header": "flake.lock", "before": before, "after": after},
        }


class Unfit(LabError):
    """This candidate cannot be adopted, because of its inputs: one with other inputs may.

    C(partial) is what is left of it when the systems that failed are left out, and C(None) when that is nothing.
    """

    def __init__(self, error: LabError, partial: Attempt | None = None) -> None:
        super().__init__(error.what, error.remedy, error.data)
        self.partial = partial


def update(run: Run, request: Request) -> Outcome:
    """Carry out C(request). flake.lock has its old bytes if this raises, and the candidate is gone in any case."""
    _check(request)
    deadline = Deadline(request.timeout)
    place = find_place(run, request.path, Git(request.pull, request.push, request.fetch_timeout), deadline)
    with place.exclusive():
        warnings = place.settle(request.check_mode)
        warnings += place.guard()
        with place.candidate() as candidate:
            maker = _Maker(run, place, candidate, request, deadline)
            attempt, rejected = maker.best()
            changed = attempt.lock.content != place.lock().content or place.moves()
            if changed and not request.check_mode:
                warnings += place.adopt(attempt.lock, attempt.commit)
    changes = _lock_file.diff(parse_bytes(place.lock().content), parse_bytes(attempt.lock.content))
    content = attempt.lock.content
    return Outcome(
        changed=changed,
        changes=tuple(changes),
        systems=attempt.systems,
        failed_systems=attempt.failed_systems,
        rejected_inputs=rejected,
        lock_hash=hashlib.sha256(content).hexdigest() if content else None,
        commit=None if request.check_mode else attempt.commit,
        evaluation=maker.evaluation(),
        durations=maker.durations(),
        warnings=(
            *warnings,
            *attempt.warnings,
            *(f"The input '{name}' was left alone: {why}" for name, why in rejected.items()),
        ),
    )


def _check(request: Request) -> None:
    """Refuse what cannot be meant, before anything is looked at."""
    _lock_file.check_input_names(request.inputs)
    _nix.option_args(request.options)
    for name, attribute in request.must_build.items():
        _nix.root_name(name)
        _nix.installable(".", attribute)
    if request.fetch_timeout < 1:
        raise LabError(f"fetch_timeout is {request.fetch_timeout:g}.", "It is a number of seconds, at least 1.")
    if request.eval_memory < 256:
        raise LabError(f"eval_memory is {request.eval_memory}.", "It is a number of MiB, at least 256.")
    if (request.pull or request.push) and not request.commit:
        raise LabError("commit is false, and pull or push is true.", "Only commits can be pulled and pushed.")


class _Maker:
    """Makes attempts with one candidate, one after the other, in the time that all of them have together."""

    def __init__(self, run: Run, place: Place, candidate: Candidate, request: Request, deadline: Deadline) -> None:
        self._run = run
        self._place = place
        self._candidate = candidate
        self._request = request
        self._deadline = deadline
        self._began = time.monotonic()
        self._durations: dict[str, float] = {}
        self._base = candidate.lock()
        # those that are known not to build need not be built again
        self._unfit: dict[bytes, Unfit] = {}
        self._attempts = 0
        available = _health.available_memory(read_bytes("/proc/meminfo").decode("utf-8", "replace"))
        attributes = set(request.must_build.values())
        self._limits = _flake_build.limits(request.eval_memory, available, os.cpu_count() or 1, len(attributes))

    def best(self) -> tuple[Attempt, dict[str, str]]:
        """What can be adopted of the update, and why which inputs cannot."""
        rejected: dict[str, str] = {}
        try:
            if self._request.update:
                self._refresh(self._request.inputs)
            found = self._attempt()
        except Unfit as error:
            kept = None
            if self._request.update and self._request.fallback == "per_input":
                kept, rejected = self._one_by_one()
            if kept is None:
                if self._request.build_failure == "stop" or error.partial is None:
                    raise self._nothing(error, rejected) from error
                kept, rejected = error.partial, {}
            found = kept
        self._keep(found)
        return found, rejected

    def evaluation(self) -> dict[str, int]:
        """How systems were evaluated: how many at a time, and what the largest program took, in MiB."""
        return {"workers": self._limits.workers, "memory": self._limits.memory, "peak_memory": peak_memory()}

    def durations(self) -> dict[str, float]:
        taken = {**self._durations, "total": time.monotonic() - self._began}
        return {name: round(seconds, 1) for name, seconds in taken.items()}

    def _one_by_one(self) -> tuple[Attempt | None, dict[str, str]]:
        """Add inputs one at a time to those that build, and tell why the others were left alone.

        With C(build_failure) V(skip), systems that do not build as they are locked are no input's fault. Where no input
        moves, because it is up to date or was left alone, what is locked has to build. C(None) is nothing to adopt.
        """
        names = self._request.inputs or _lock_file.own_inputs(parse_bytes(self._base.content))
        locked = self._as_locked() if self._request.build_failure == "skip" else None
        broken = locked.failed_systems.keys() if locked else frozenset()
        found: Attempt | None = None
        rejected: dict[str, str] = {}
        for name in names:
            lock = found.lock if found else self._base
            self._begin_with(lock)
            try:
                self._refresh([name])
                if self._candidate.lock().content != lock.content:
                    found = self._attempt()
            except Unfit as error:
                if error.partial is not None and error.partial.failed_systems.keys() <= broken:
                    found = error.partial
                else:
                    rejected[name] = str(error)
        if found is None and len(rejected) < len(names):
            found = locked or self._as_locked()
        return found, rejected

    def _as_locked(self) -> Attempt | None:
        """What is locked now, without the systems that do not build where that may be."""
        self._begin_with(self._base)
        try:
            return self._attempt()
        except Unfit as error:
            return error.partial if self._request.build_failure == "skip" else None

    def _begin_with(self, lock: Lock) -> None:
        self._place.rewind(self._candidate)
        self._candidate.put(lock)

    @staticmethod
    def _nothing(error: Unfit, rejected: Mapping[str, str]) -> LabError:
        if not rejected:
            return error
        alone = "No set of fewer inputs can be adopted either."
        return LabError(f"{error.what} {alone}", error.remedy, {**error.data, "rejected_inputs": dict(rejected)})

    def _refresh(self, inputs: Sequence[str]) -> None:
        with self._timed("update"):
            refresh(self._run, self._candidate, self._request, inputs, self._deadline)

    def _attempt(self) -> Attempt:
        """Build every system of the candidate as it is now; raise L(Unfit) where it cannot be adopted as a whole."""
        request, candidate = self._request, self._candidate
        lock = candidate.lock()
        before, after = parse_bytes(self._base.content), parse_bytes(lock.content)
        _lock_file.check_inputs_exist(request.inputs, after)
        changes = _lock_file.diff(before, after)
        # what came with the commits of others counts as well: it is what is here now that may not get older
        here = parse_bytes(self._place.lock().content)
        warnings = guards(here, after, request, time.time())
        if lock.content in self._unfit:
            raise self._unfit[lock.content]
        commit = None
        if lock.content != self._base.content and request.commit:
            commit = self._place.seal(candidate, _message(request.commit_message, changes))
        try:
            with self._timed("build"):
                self._attempts += 1
                built = _flake_build.make(
                    self._run,
                    candidate.flake,
                    os.path.join(candidate.scratch, f"attempt-{self._attempts}"),
                    list(dict.fromkeys(request.must_build.values())),
                    _nix.bounded_options(request.options),
                    self._limits,
                    self._deadline,
                    go_on=request.build_failure == "skip",
                )
        except _flake_build.OverTime as late:
            raise self._late(late, changes) from late
        systems = {name: built.paths[what] for name, what in request.must_build.items() if what in built.paths}
        failures = {name: built.failures[what] for name, what in request.must_build.items() if what in built.failures}
        failed = {name: f"Its system {failure.sentence}" for name, failure in failures.items()}
        warnings += [
            f"The substituter {redact(url)} of the builder did not help: {words}. What it would have had was built."
            for url, words in _nix.substituter_failures(built.said).items()
        ]
        attempt = Attempt(lock, commit, systems, failed, tuple(warnings))
        if failures:
            self._unfit[lock.content] = Unfit(_do_not_build(failures, changes, failed), attempt if systems else None)
            raise self._unfit[lock.content]
        return attempt

    def _keep(self, attempt: Attempt) -> None:
        """Root the systems of an attempt, and sign them where there is a key."""
        for name, path in attempt.systems.items():
            _flake_build.root(self._run, self._request.gc_roots, name, path)
        if self._request.signing_key and attempt.systems:
            paths = list(dict.fromkeys(attempt.systems.values()))
            _flake_build.sign(self._run, self._request.signing_key, paths, self._request.options, self._deadline)

    def _late(self, late: _flake_build.OverTime, changes: Sequence[_lock_file.InputChange]) -> LabError:
        names = [name for name, what in self._request.must_build.items() if what in late.attributes]
        return LabError(
            _with_the_new(changes, [f"the {_systems(names)} {late.how} within {self._deadline.seconds:g} s."]),
            "Raise timeout.",
            {"failed_systems": dict.fromkeys(names, "The time was over before its system was there.")},
        )

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Note how long something took, also when it failed."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._durations[name] = self._durations.get(name, 0) + time.monotonic() - began


def refresh(run: Run, candidate: Candidate, request: Request, inputs: Sequence[str], deadline: Deadline) -> None:
    """Let Nix update the candidate's flake.lock, and take its word for nothing but the file."""
    argv = [*_nix.NIX, "flake", "update", *_nix.option_args(_nix.bounded_options(request.options))]
    left = deadline.left()
    done = run(
        [*argv, "--flake", candidate.flake, "--", *inputs], timeout=min(left, request.fetch_timeout), env=UNATTENDED
    )
    if not done.ok:
        name = _nix.failing_input(done.stderr)
        late = "Raise fetch_timeout, or look at the source." if request.fetch_timeout < left else "Raise timeout."
        names = [name] if name else inputs or _lock_file.own_inputs(parse_bytes(candidate.lock().content))
        raise Unfit(
            CommandFailed(
                done,
                late if done.timed_out else _nix.remedy(done.stderr),
                f"Updating the {'input' if len(names) == 1 else 'inputs'} {_and(names)}".rstrip(),
            )
        )
    stale = _nix.stale_fetches(done.stderr)
    if stale:
        raise Unfit(
            LabError(
                f"Nix could not fetch an input and used an older copy of it: {stale[0]}",
                "Run it again when the source can be reached.",
                {"stderr": done.stderr[-4000:]},
            )
        )
    unknown = _nix.unknown_inputs(done.stderr)
    if unknown:
        known = parse_bytes(candidate.lock().content)
        _lock_file.check_inputs_exist(unknown, known)
        raise LabError(
            f"The input '{unknown[0]}' follows another one, so it cannot be updated by itself.",
            "Update the input that it follows.",
        )


def guards(before: _lock_file.LockFile, after: _lock_file.LockFile, request: Request, now: float) -> list[str]:
    """Refuse inputs that go back in time, unless that is wanted; warn of others that a person should look at."""
    changes = _lock_file.diff(before, after)
    back = [] if request.allow_downgrade else _lock_file.downgrades(before, after)
    if back:
        words = [
            f"'{change.path}' from {_lock_file.iso_date(change.before.last_modified)}"
            f" to {_lock_file.iso_date(change.after.last_modified)}"
            for change in back
            if change.before is not None
            and change.after is not None
            and change.before.last_modified is not None
            and change.after.last_modified is not None
        ]
        raise Unfit(
            LabError(
                f"The update would take inputs back in time: {', '.join(words)}.",
                "Look at their sources, or set allow_downgrade to true if that is wanted.",
                {"inputs": [change.as_dict() for change in back]},
            )
        )
    remarks = _lock_file.remarks(changes, after, request.inputs)
    if request.max_age is None:
        return remarks
    return remarks + [
        f"The input '{_lock_file.printable(path)}' is {age} days old, more than max_age ({request.max_age} days)."
        for path, age in _lock_file.older_than(after, request.max_age, now)
    ]


def _message(subject: str, changes: Sequence[_lock_file.InputChange]) -> str:
    lines = _lock_file.message_lines(changes)
    return "\n".join([subject, "", *lines]) if lines else subject


def _do_not_build(
    failures: Mapping[str, _flake_build.Failure],
    changes: Sequence[_lock_file.InputChange],
    failed: Mapping[str, str],
) -> LabError:
    """The error that says whose systems are not there, and why in Nix's own words, each reason once."""
    reasons: dict[str, list[str]] = {}
    for name, failure in failures.items():
        reasons.setdefault(failure.sentence, []).append(name)
    sentences = [f"the {_systems(names)} {sentence}" for sentence, names in reasons.items()]
    if len(sentences) > _MOST_REASONS:
        sentences[_MOST_REASONS:] = [f"there are {len(sentences) - _MOST_REASONS} more reasons."]
    done = next(iter(failures.values())).done
    data = {"failed_systems": dict(failed), "rc": done.rc, "stderr": done.stderr[-4000:]}
    return LabError(_with_the_new(changes, sentences), "", data)


def _with_the_new(changes: Sequence[_lock_file.InputChange], sentences: Sequence[str]) -> str:
    """Sentences, the first of which names the inputs that moved: these are the first thing to look at."""
    moved = dict.fromkeys(change.path.partition("/")[0] for change in changes if change.after is not None)
    names = [_lock_file.printable(name) for name in moved]
    first, *others = sentences
    first = f"with the new {_and(names)}, {first}" if names else first
    return " ".join(f"{words[0].upper()}{words[1:]}" for words in (first, *others))


def _systems(names: Sequence[str]) -> str:
    return f"{'system' if len(names) == 1 else 'systems'} of {_and(names)}"


def _and(names: Sequence[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)
