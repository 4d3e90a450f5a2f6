# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Update a flake's inputs in a candidate, build every system from it, and adopt its flake.lock only then."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.homelab.nixos.plugins.module_utils import _lock_file, _nix
from ansible_collections.homelab.nixos.plugins.module_utils._command import CommandFailed, Completed, Run, check
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._flake_places import (
    Candidate,
    Deadline,
    find_place,
    parse_bytes,
)

_TOO_SHORT = "Raise timeout."


@dataclass(frozen=True)
class Request:
    """What nix_flake_update was asked for; its options, which it documents."""

    path: str
    inputs: Sequence[str] = ()
    update: bool = True
    must_build: Mapping[str, str] = field(default_factory=dict)
    commit: bool = True
    commit_message: str = "flake.lock: update"
    allow_downgrade: bool = False
    max_age: int | None = None
    timeout: float = 3600
    gc_roots: str = _nix.BUILDER_ROOTS
    options: Mapping[str, object] = field(default_factory=dict)
    check_mode: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of it. C(commit) is None where nothing was committed, C(before) and C(after) are lines for people."""

    changed: bool
    changes: tuple[_lock_file.InputChange, ...]
    systems: Mapping[str, str]
    lock_hash: str | None
    commit: str | None
    durations: Mapping[str, float]
    warnings: tuple[str, ...]

    def as_result(self) -> dict[str, object]:
        before, after = _lock_file.describe_changes(self.changes)
        return {
            "changed": self.changed,
            "inputs": [change.as_dict() for change in self.changes],
            "systems": dict(self.systems),
            "lock_hash": self.lock_hash,
            "commit": self.commit,
            "durations": dict(self.durations),
            "diff": {"before_header": "flake.lock", "after_header": "flake.lock", "before": before, "after": after},
        }


def update(run: Run, request: Request) -> Outcome:
    """Carry out C(request). flake.lock has its old bytes if this raises, and the candidate is gone in any case."""
    began = time.monotonic()
    deadline = Deadline(request.timeout)
    _lock_file.check_input_names(request.inputs)
    for name, attribute in request.must_build.items():
        _nix.root_name(name)
        _nix.installable(".", attribute)
    commit = None
    durations: dict[str, float] = {}
    place = find_place(run, request.path, deadline)
    with place.exclusive():
        warnings = place.settle(request.check_mode)
        warnings += place.guard()
        with place.candidate() as candidate:
            old = candidate.lock_bytes()
            if request.update:
                with _timed(durations, "update"):
                    refresh(run, candidate, request, deadline)
            new = candidate.lock_bytes()
            before, after = parse_bytes(old), parse_bytes(new)
            _lock_file.check_inputs_exist(request.inputs, after)
            changes = _lock_file.diff(before, after)
            warnings += guards(changes, after, request, time.time())
            changed = old != new
            if changed and request.commit:
                commit = place.seal(candidate, _message(request.commit_message, changes))
            with _timed(durations, "build"):
                systems = build(run, candidate, request, deadline)
            if changed and not request.check_mode:
                place.adopt(candidate, commit)
    durations["total"] = round(time.monotonic() - began, 1)
    return Outcome(
        changed=changed,
        changes=tuple(changes),
        systems=systems,
        lock_hash=hashlib.sha256(new).hexdigest() if new else None,
        commit=None if request.check_mode else commit,
        durations=durations,
        warnings=tuple(warnings),
    )


def refresh(run: Run, candidate: Candidate, request: Request, deadline: Deadline) -> None:
    """Let Nix update the candidate's flake.lock, and take its word for nothing but the file."""
    argv = [*_nix.NIX, "flake", "update", *_nix.option_args(request.options)]
    done = run(
        [*argv, "--flake", candidate.flake, "--", *request.inputs],
        timeout=deadline.left(),
        env={"GIT_TERMINAL_PROMPT": "0"},
    )
    if not done.ok:
        name = _nix.failing_input(done.stderr)
        raise CommandFailed(
            done,
            _TOO_SHORT if done.timed_out else _nix.remedy(done.stderr),
            f"Updating the input '{name}'" if name else "Updating the inputs",
        )
    stale = _nix.stale_fetches(done.stderr)
    if stale:
        raise LabError(
            f"Nix could not fetch an input and used an older copy of it: {stale[0]}",
            "Run it again when the source can be reached.",
            {"stderr": done.stderr[-4000:]},
        )
    unknown = _nix.unknown_inputs(done.stderr)
    if unknown:
        known = parse_bytes(candidate.lock_bytes())
        _lock_file.check_inputs_exist(unknown, known)
        raise LabError(
            f"The input '{unknown[0]}' follows another one, so it cannot be updated by itself.",
            "Update the input that it follows.",
        )


def guards(
    changes: Sequence[_lock_file.InputChange], after: _lock_file.LockFile, request: Request, now: float
) -> list[str]:
    """Refuse inputs that go back in time, unless that is wanted; warn of others that a person should look at."""
    back = [] if request.allow_downgrade else _lock_file.downgrades(changes)
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
        raise LabError(
            f"The update would take inputs back in time: {', '.join(words)}.",
            "Look at their sources, or set allow_downgrade to true if that is wanted.",
            {"inputs": [change.as_dict() for change in back]},
        )
    remarks = _lock_file.remarks(changes, after, request.inputs)
    if request.max_age is None:
        return remarks
    return remarks + [
        f"The input '{_lock_file.printable(path)}' is {age} days old, more than max_age ({request.max_age} days)."
        for path, age in _lock_file.older_than(after, request.max_age, now)
    ]


def build(run: Run, candidate: Candidate, request: Request, deadline: Deadline) -> dict[str, str]:
    """Build every system of the candidate in one go, root it on this host, and return its store path by its name."""
    if not request.must_build:
        return {}
    attributes = list(dict.fromkeys(request.must_build.values()))
    options = _nix.option_args(request.options)
    # the links keep the results from the garbage collector until the roots are there
    links = os.path.join(candidate.scratch, "system")
    # without --keep-going Nix cancels the others at the first failure, and names them as failed too
    argv = [*_nix.NIX, "build", *options, "--keep-going", "--no-update-lock-file", "--json", "--out-link", links, "--"]
    done = run(
        [*argv, *(_nix.installable(candidate.flake, attribute) for attribute in attributes)],
        timeout=deadline.left(),
        env={"GIT_TERMINAL_PROMPT": "0"},
    )
    if not done.ok:
        raise build_failure(run, candidate, request, deadline, done)
    results = [_result(entry) for entry in _entries(done.stdout)]
    if len(results) == len(attributes):
        paths = {attribute: path for attribute, (_derivation, path) in zip(attributes, results, strict=True)}
    else:
        # Nix 2.26 prints a derivation that k attributes share k*k times, so order tells nothing
        by_derivation = dict(results)
        paths = {}
        for attribute in attributes:
            derivation = _derivation(run, candidate, attribute, request, deadline)
            path = by_derivation.get(derivation or "")
            if path is None:
                raise Unreadable(f"Nix did not say what it built for {attribute}.")
            paths[attribute] = path
    systems = {name: paths[attribute] for name, attribute in request.must_build.items()}
    for name, path in systems.items():
        root(run, request.gc_roots, name, path)
    return systems


def root(run: Run, directory: str, name: str, path: str) -> None:
    """Keep C(path) from the garbage collector under C(name)."""
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise LabError(
            f"{directory} cannot be made: {error.strerror}.", "Set gc_roots to a directory that this user can write."
        ) from error
    check(
        run(["nix-store", "--realise", path, "--add-root", os.path.join(directory, name)]),
        doing=f"Making the GC root of '{name}'",
        remedy="Set gc_roots to a directory that this user can write.",
    )


def build_failure(run: Run, candidate: Candidate, request: Request, deadline: Deadline, done: Completed) -> LabError:
    """The error that says whose system does not build, and why in Nix's own words."""
    if done.timed_out:
        return CommandFailed(done, _TOO_SHORT, "Building the systems")
    broken = set(_nix.failed_derivations(done.stderr))
    affected: list[str] = []
    told = done
    try:
        for attribute in dict.fromkeys(request.must_build.values()):
            asked = _path_info(run, candidate, attribute, request, deadline)
            if not asked.ok:
                told = asked if not affected else told
                affected.append(attribute)
            elif broken and broken & _requisites(run, asked.stdout.strip(), deadline):
                affected.append(attribute)
    except LabError:
        # the time is over: the first words of Nix have to do
        pass
    names = [name for name, attribute in request.must_build.items() if attribute in affected]
    log = _nix.last_log_line(done.stderr)
    doing = "Building the systems"
    if names:
        doing = f"The {'system' if len(names) == 1 else 'systems'} of {_and(names)} did not build"
    failure = CommandFailed(told, _nix.remedy(told.stderr), doing)
    if log and told is done:
        failure = CommandFailed(told, f"Its last words: {log!r}. {_nix.remedy(told.stderr)}".strip(), doing)
    failure.data["failed_systems"] = names
    return failure


def _derivation(run: Run, candidate: Candidate, attribute: str, request: Request, deadline: Deadline) -> str | None:
    done = _path_info(run, candidate, attribute, request, deadline)
    return check(done, doing=f"Asking for the derivation of {attribute}").stdout.strip()


def _path_info(run: Run, candidate: Candidate, attribute: str, request: Request, deadline: Deadline) -> Completed:
    """Ask for the derivation of an attribute, which evaluates it again only if Nix has not cached the answer."""
    argv = [*_nix.NIX, "path-info", *_nix.option_args(request.options), "--no-update-lock-file", "--derivation"]
    return run([*argv, "--", _nix.installable(candidate.flake, attribute)], timeout=deadline.left())


def _requisites(run: Run, derivation: str, deadline: Deadline) -> set[str]:
    done = run(["nix-store", "--query", "--requisites", derivation], timeout=deadline.left())
    return set(done.stdout.split()) if done.ok else set()


def _entries(stdout: str) -> list[object]:
    try:
        entries = json.loads(stdout)
    except ValueError as error:
        raise Unreadable(f"Nix did not print JSON about what it built: {stdout[:200]!r}.") from error
    if not isinstance(entries, list):
        raise Unreadable(f"Nix printed something else than a list of what it built: {stdout[:200]!r}.")
    return entries


def _result(entry: object) -> tuple[str, str]:
    """Derivation and output of one entry of C(nix build --json); a plain store path stands for itself."""
    if isinstance(entry, str) and _nix.is_store_path(entry):
        return entry, entry
    if isinstance(entry, dict):
        derivation, outputs = entry.get("drvPath"), entry.get("outputs")
        if isinstance(outputs, dict) and isinstance(derivation, str):
            path = outputs.get("out")
            if isinstance(path, str) and _nix.is_store_path(path):
                return derivation, path
    raise Unreadable(f"Nix printed {entry!r} about what it built, which has no output 'out'.")


def _message(subject: str, changes: Sequence[_lock_file.InputChange]) -> str:
    lines = _lock_file.message_lines(changes)
    return "\n".join([subject, "", *lines]) if lines else subject


def _and(names: Sequence[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)


class _timed:
    """Note how long something took, also when it failed."""

    def __init__(self, durations: dict[str, float], name: str) -> None:
        self._durations, self._name = durations, name

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_exc: object) -> None:
        self._durations[self._name] = round(time.monotonic() - self._began, 1)
