# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fetch a closure from a substituter onto this machine, kept from the garbage collector before it arrives."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.homelab.nixos.plugins.module_utils import _fetch, _nix, _space
from ansible_collections.homelab.nixos.plugins.module_utils._command import CommandFailed, Completed, Run, check
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact
from ansible_collections.homelab.nixos.plugins.module_utils._roots import set_root

_DEFAULTS: Mapping[str, object] = {
    # what a substituter did not have an hour ago, or had a month ago, says nothing of tonight
    "narinfo-cache-negative-ttl": 0,
    "narinfo-cache-positive-ttl": 0,
    # one substituter that is out of order does not keep the others from being asked; nothing is built for it
    "fallback": True,
}
# a store path is never built, and these say so once more
_NEVER_BUILD = ("--option", "max-jobs", "0", "--option", "builders", "")


@dataclass(frozen=True)
class Request:
    """What nix_realise was asked for; its options, which it documents."""

    path: str
    substituters: Sequence[str] | None = None
    timeout: float = 1800
    options: Mapping[str, object] = field(default_factory=dict)


class NotFetched(LabError):
    """No substituter gave the path; which ones failed is said."""


def realise(run: Run, request: Request) -> dict[str, object]:
    """Carry out C(request) and return the module's result."""
    began = time.monotonic()
    path = _nix.store_path(request.path)
    if path.endswith(".drv"):
        raise LabError(f"{path} is a derivation, which would be built here.", "Name what it builds.")
    options = _options(request)
    set_root(run, _nix.TARGET_ROOT, path)
    result: dict[str, object] = {"store_path": path, "changed": False, "fetched": 0}
    if not run(["nix-store", "--check-validity", path]).ok:
        result |= _fetched(run, request, path, options, began + request.timeout)
    return {**result, "durations": {"total": round(time.monotonic() - began, 1)}}


def _fetched(run: Run, request: Request, path: str, options: Sequence[str], end: float) -> dict[str, object]:
    argv = ["nix-store", "--realise", *options, *_NEVER_BUILD]
    done = run([*argv, "--dry-run", path], timeout=max(1.0, end - time.monotonic()))
    if not done.ok:
        raise _failure(run, request, done, path)
    plan = _fetch.parse_plan(done.stderr)
    if plan.unknown or path not in plan.paths:
        raise _failure(run, request, done, path)
    stat = ["stat", "--file-system", f"--format={_space.STAT_FORMAT}", _nix.STORE_DIR]
    store = _space.parse_stat(check(run(stat), doing=f"Asking for the room in {_nix.STORE_DIR}").stdout)
    need = _space.estimate(plan.unpacked, store)
    space = _space.check(need, store, os.path.basename(path), _nix.STORE_DIR)

    done = run([*argv, path], timeout=max(1.0, end - time.monotonic()))
    if not done.ok:
        raise _failure(run, request, done, path)
    if _nix.store_paths(done.stdout) != [path]:
        raise Unreadable(f"Nix fetched {done.stdout[-200:]!r}, and {path} was asked for.")
    return {"changed": True, "fetched": len(plan.paths), "space": space}


def _options(request: Request) -> list[str]:
    args = _nix.option_args({**_DEFAULTS, **_nix.bounded_options(request.options)})
    if request.substituters is not None:
        args += ["--option", "substituters", " ".join(map(substituter, request.substituters))]
    return args


def substituter(url: str) -> str:
    """Return C(url) if it can be one: Nix takes them apart at blanks, and ssh takes a dash for an option."""
    if not url or re.search(r"\s|^-|://-", url):
        raise LabError(f"{url!r} is not a substituter.", "Write one URL in each element.")
    return url


def _failure(run: Run, request: Request, done: Completed, path: str) -> LabError:
    """Why nothing came, and from whom."""
    failures = _nix.substituter_failures(done.stderr)
    unsigned = [] if failures else _nix.unsigned_substituters(done.stderr)
    data: dict[str, object] = {
        "failing_substituters": list(failures),
        "rc": done.rc,
        "stderr": done.stderr[-4000:],
    }
    name = os.path.basename(path)
    if done.timed_out:
        waited = f", waiting for {', '.join(failures)}" if failures else ""
        return NotFetched(
            f"Fetching {name} took longer than {request.timeout:.0f} s{waited}.",
            "Raise timeout, or look at the network and the substituters.",
            data,
        )
    if failures:
        reasons = "; ".join(f"the substituter {url} failed: {words}" for url, words in failures.items())
        return NotFetched(
            f"{name} could not be fetched: {reasons}.",
            "Mend it, or set substituters (lab_substituters) to others.",
            data,
        )
    if unsigned:
        return NotFetched(
            f"{name} could not be fetched: {', '.join(unsigned)} has it without a signature by a key that this host"
            " trusts.",
            "Sign what the builder builds (lab_signing_key), and add its key to trusted-public-keys of the host.",
            data,
        )
    if _nix.remedy(done.stderr):
        return CommandFailed(done, _nix.remedy(done.stderr), f"Fetching {name}")
    return NotFetched(
        f"{name} could not be fetched: {_asked(run, request)}.",
        "Copy it to a substituter first (lab_cache), or set substituters (lab_substituters) to one that has it.",
        data,
    )


def _asked(run: Run, request: Request) -> str:
    urls = request.substituters
    if urls is None:
        done = run([*_nix.NIX, "config", "show", "substituters"])
        if not done.ok:
            return "no substituter of this host has it"
        urls = done.stdout.split()
    if not urls:
        return "there is no substituter to ask"
    return f"no substituter has it, asked were {redact(', '.join(urls))}"
