# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Evaluate and build the systems of a flake: each one exactly once, as many at a time as the memory holds.

An evaluation is a process of its own, with a bound on its memory: what one system takes is given back before the next,
and one that takes too much is named instead of taking the builder down. What is built are the derivations that came
out of it, so nothing is evaluated again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from ansible_collections.homelab.nixos.plugins.module_utils import _nix
from ansible_collections.homelab.nixos.plugins.module_utils._command import Completed, Run, check, first_error
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._flake_places import UNATTENDED, Deadline

_OUT_OF_MEMORY = ("out of memory", "Cannot allocate memory", "std::bad_alloc")
# run_command's word for a program that was killed, and that of timeout(1)
_KILLED = (-9, 137)
_MIB = 1 << 20

How = Literal["did not evaluate", "did not build"]


@dataclass(frozen=True)
class Limits:
    """How systems are evaluated: at most C(memory) MiB for each one, C(workers) of them at a time."""

    memory: int
    workers: int


class OverTime(Exception):
    """The time was over before the systems of C(attributes) were there."""

    def __init__(self, attributes: Sequence[str], how: How) -> None:
        self.attributes = attributes
        self.how = how
        super().__init__(how)


@dataclass(frozen=True)
class Failure:
    """Why there is no system: C(how) it failed, in Nix's own C(words), what to do, and the program that said so."""

    how: How
    words: str
    remedy: str
    done: Completed

    @property
    def sentence(self) -> str:
        """As the end of one that begins with whose system it is."""
        return f"{self.how}: {self.words.rstrip(' .;,')}. {self.remedy}".strip()


@dataclass(frozen=True)
class Built:
    """Store paths by attribute, why others are not there, and what Nix said on its way that is worth telling."""

    paths: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)
    said: str = ""


def limits(memory: int, available: int | None, processors: int, systems: int) -> Limits:
    """As many evaluations at a time as there are processors, and as C(available) MiB hold at C(memory) MiB each."""
    fitting = processors if available is None else min(processors, available // memory)
    return Limits(memory, max(1, min(fitting, systems)))


def make(
    run: Run,
    flake: str,
    links: str,
    attributes: Sequence[str],
    options: Mapping[str, object],
    bounds: Limits,
    deadline: Deadline,
    go_on: bool,
) -> Built:
    """Evaluate every one of C(attributes) of C(flake), then build all that evaluate in one go.

    Links that begin with C(links) keep all of it from the garbage collector until it has roots.

    Without C(go_on) nothing is built when one does not evaluate. Raise L(OverTime) when the time is over.
    """
    derivations, unevaluated = evaluate(run, flake, attributes, options, bounds, deadline)
    if unevaluated and not go_on:
        return Built(failures=unevaluated)
    built = build(run, links, derivations, options, deadline)
    return Built(built.paths, {**unevaluated, **built.failures}, built.said)


def evaluate(
    run: Run,
    flake: str,
    attributes: Sequence[str],
    options: Mapping[str, object],
    bounds: Limits,
    deadline: Deadline,
) -> tuple[dict[str, str], dict[str, Failure]]:
    """The derivation of each of C(attributes), or why there is none."""
    argv = ["prlimit", f"--as={bounds.memory * _MIB}", *_nix.NIX, "path-info", *_nix.option_args(options)]
    argv += ["--no-update-lock-file", "--derivation", "--"]

    def one(attribute: str) -> Completed | None:
        if deadline.is_over():
            return None
        return run([*argv, _nix.installable(flake, attribute)], timeout=deadline.left(), env=UNATTENDED)

    derivations: dict[str, str] = {}
    failures: dict[str, Failure] = {}
    with ThreadPoolExecutor(max_workers=bounds.workers) as pool:
        for attribute, done in zip(attributes, pool.map(one, attributes), strict=True):
            if done is None or done.timed_out:
                raise OverTime([attribute], "did not evaluate")
            if not done.ok:
                failures[attribute] = _unevaluated(done, bounds.memory)
                continue
            found = _nix.store_paths(done.stdout)
            if len(found) != 1 or not found[0].endswith(".drv"):
                raise Unreadable(f"Nix did not say which derivation {attribute} is: {done.stdout[:200]!r}.")
            derivations[attribute] = found[0]
    return derivations, failures


def build(
    run: Run,
    links: str,
    derivations: Mapping[str, str],
    options: Mapping[str, object],
    deadline: Deadline,
) -> Built:
    """Build what C(derivations) are for, and keep that and them from the garbage collector by C(links)."""
    if not derivations:
        return Built()
    nix_build = [*_nix.NIX, "build", *_nix.option_args(options)]
    check(
        run(
            [*nix_build, "--out-link", f"{links}-derivation", "--", *dict.fromkeys(derivations.values())],
            timeout=deadline.left(),
        ),
        doing="Keeping the derivations from the garbage collector",
    )
    paths: dict[str, str] = {}
    failures: dict[str, Failure] = {}
    said = ""
    waiting = dict(derivations)
    while waiting:
        # without --keep-going Nix cancels the others at the first failure, and names them as failed too
        argv = [*nix_build, "--keep-going", "--out-link", f"{links}-system", "--"]
        wanted = [f"{derivation}^out" for derivation in dict.fromkeys(waiting.values())]
        done = run([*argv, *wanted], timeout=deadline.left(), env=UNATTENDED)
        said += done.stderr
        for attribute, derivation in list(waiting.items()):
            path = _output(run, derivation)
            if path is not None:
                paths[attribute] = path
                del waiting[attribute]
        if waiting and done.timed_out:
            raise OverTime(list(waiting), "did not build")
        if waiting and done.ok:
            raise Unreadable(f"Nix built {next(iter(waiting))}, and has no store path for it.")
        blamed = _blame(run, waiting, done, deadline)
        failures |= blamed
        # Nix 2.26 gives up everything when one derivation is for another platform: the others have another go
        waiting = {attribute: derivation for attribute, derivation in waiting.items() if attribute not in blamed}
    return Built(paths, failures, said)


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


def sign(run: Run, key: str, paths: Sequence[str], options: Mapping[str, object], deadline: Deadline) -> None:
    """Sign the closures of C(paths), so that hosts which trust the key take them from anybody."""
    if not os.path.isfile(key):
        raise LabError(
            f"There is no signing key {key}.",
            f"Make one on the flake host: nix key generate-secret --key-name NAME > {key}.",
        )
    argv = [*_nix.NIX, "store", "sign", *_nix.option_args(options), "--recursive", "--key-file", key, "--"]
    check(run([*argv, *paths], timeout=deadline.left()), doing="Signing the systems", remedy="Look at the signing key.")


def _output(run: Run, derivation: str) -> str | None:
    """The store path that a derivation has built, C(None) while it has not."""
    done = run([*_nix.NIX, "path-info", "--", f"{derivation}^out"], timeout=60)
    found = _nix.store_paths(done.stdout) if done.ok else []
    return found[0] if len(found) == 1 else None


def _unevaluated(done: Completed, memory: int) -> Failure:
    starved = any(words in done.stderr for words in _OUT_OF_MEMORY)
    if starved or done.rc in _KILLED:
        what = f"its evaluation ran out of memory, of which it may have {memory} MiB (eval_memory)"
        if not starved:
            what = "its evaluation was killed, as the kernel does when the memory of the machine is used up"
        return Failure("did not evaluate", what, "Raise eval_memory, or give the builder more memory.", done)
    return Failure("did not evaluate", first_error(done.stderr), _nix.remedy(done.stderr), done)


def _blame(run: Run, unbuilt: Mapping[str, str], done: Completed, deadline: Deadline) -> dict[str, Failure]:
    """Which of the failures that Nix tells of each system has; where that cannot be told, all have the first."""
    errors = _nix.build_errors(done.stderr)
    blamed: dict[str, Failure] = {}
    for attribute, derivation in unbuilt.items():
        needed = _requisites(run, derivation, deadline) if errors else set()
        mine = [error for error in errors if error.derivation in needed]
        if mine:
            # the cause, and not what depends on it
            error = next((one for one in mine if not one.consequence), mine[0])
            blamed[attribute] = Failure("did not build", error.words, _nix.remedy(error.words + done.stderr), done)
    if unbuilt and not blamed:
        words = first_error(done.stderr)
        return {attribute: Failure("did not build", words, _nix.remedy(done.stderr), done) for attribute in unbuilt}
    return blamed


def _requisites(run: Run, derivation: str, deadline: Deadline) -> set[str]:
    done = run(["nix-store", "--query", "--requisites", derivation], timeout=deadline.left())
    return set(done.stdout.split()) if done.ok else set()
