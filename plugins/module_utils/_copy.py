# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Push a closure from this machine to a host over ssh, kept there from the garbage collector before it arrives.

Or push closures to a store that is no host's, as a binary cache.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ansible_collections.homelab.nixos.plugins.module_utils import _nix, _space, _ssh_config
from ansible_collections.homelab.nixos.plugins.module_utils._command import PATH, CommandFailed, Completed, Run, check
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact

# ssh's own exit code; a program on the host can hardly have it
_SSH_FAILED = 255
# words that no banner and no profile prints
_ROOTED, _MISSING, _SPACE = (f"lab-auto-update:{word}" for word in ("rooted", "missing", "space"))
_SSH_WORDS = re.compile(
    r"^ssh: |^kex_|Permission denied|Host key verification failed|host key is known|Broken pipe|not responding"
    r"|Connection (?:closed|reset|timed out)|Bad configuration|Bad owner|Load key",
    re.MULTILINE,
)
_CANNOT_CONNECT = re.compile(r"error: (?:cannot connect to|failed to start SSH connection to) '")
# ssh would take a host that begins with a dash for an option
_STORE = re.compile(r"[a-z][a-z0-9+.-]*://(?!-)\S+")
# a command line has an end
_AT_ONCE = 1000
# a connection of the user's own, shared, hangs nix copy, and nobody is there to answer a question
_SSH_OPTIONS = "-o BatchMode=yes -o ConnectTimeout=10 -o ControlMaster=no -o ControlPath=none"


@dataclass(frozen=True)
class Request:
    """What nix_copy was asked for; its options, which it documents. C(config) is the path of the ssh_config."""

    path: Sequence[str]
    host: str | None = None
    store: str | None = None
    config: str = ""
    ssh_key: str | None = None
    check_signatures: bool = False
    local: bool = False
    timeout: float = 1800
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a host says of a closure that is to come: which of it is C(missing), and what its store has room for."""

    missing: tuple[str, ...]
    store: _space.FileSystem


class HostOutOfReach(LabError):
    """ssh did not get to the host; the words are ssh's."""

    def __init__(self, host: str, words: str, remedy: str, data: Mapping[str, object]) -> None:
        super().__init__(f"The builder cannot reach {host}: {words}", remedy, {**data, "host_reachable": False})


def copy(run: Run, request: Request) -> dict[str, object]:
    """Carry out C(request) and return the module's result."""
    began = time.monotonic()
    paths = [_nix.store_path(path) for path in dict.fromkeys(request.path)]
    if not paths:
        raise LabError("path names nothing.", "Name at least one store path.")
    if request.ssh_key is not None and not os.path.exists(request.ssh_key):
        raise LabError(
            f"The builder has no ssh key {request.ssh_key}.",
            "Make one there with ssh-keygen, and authorize it on hosts.",
        )
    for path in paths:
        if not run(["nix-store", "--check-validity", path]).ok:
            raise LabError(f"{path} is not in the store of the builder.", "Build it there first.")
    end = began + request.timeout
    if request.local:
        # what was built here is kept by the root of the builder
        result: dict[str, object] = {"store_path": paths[0], "host": request.host, "store": "auto", "changed": False}
        return {**result, "durations": {"total": round(time.monotonic() - began, 1)}}
    result = _to_store(run, request, paths, end) if request.host is None else _to_host(run, request, paths, end)
    return {**result, "durations": {"total": round(time.monotonic() - began, 1)}}


def _to_host(run: Run, request: Request, paths: Sequence[str], end: float) -> dict[str, object]:
    host, alias = str(request.host), _ssh_config.alias(str(request.host))
    if len(paths) != 1:
        raise LabError(f"{host} cannot be brought {len(paths)} paths at once.", "Name one path, or a store.")
    if re.search(r"\s", request.config):
        raise LabError(
            f"{request.config!r} has a blank in it, which Nix cannot pass to ssh.", "Set TMPDIR to another path."
        )
    (path,) = paths
    answer = announce(run, request, alias, path)
    # not "path": Ansible would add what the file system says about it
    result: dict[str, object] = {"store_path": path, "host": host, "store": f"ssh-ng://{alias}"}
    if path not in answer.missing:
        return {**result, "changed": False}
    what, where = os.path.basename(path), f"The store of {host}"
    result["space"] = _space.check(_need(run, answer.missing), answer.store, what, where)
    push(run, request, f"ssh-ng://{alias}", paths, f"-F {request.config}", end - time.monotonic())
    return {**result, "changed": True}


def _to_store(run: Run, request: Request, paths: Sequence[str], end: float) -> dict[str, object]:
    store = store_url(request.store or "")
    options = _nix.option_args(_nix.bounded_options(request.options))
    # whoever keeps a cache sweeps it, too: what this machine remembers of it does not count
    ask = [*_nix.NIX, "path-info", "--refresh", *options, "--store", store, "--", *paths]
    there = run(ask, timeout=max(1.0, end - time.monotonic()), env={"NIX_SSHOPTS": _SSH_OPTIONS}).ok
    # also when all are there: what they need may not be
    push(run, request, store, paths, _SSH_OPTIONS, end - time.monotonic())
    return {"store_paths": list(paths), "store": redact(store), "changed": not there}


def store_url(text: str, what: str = "store") -> str:
    """Return C(text) if it is the URL of a store; C(what) names the setting in the complaint."""
    if not _STORE.fullmatch(text):
        raise LabError(
            f"{what} is {text!r}, which is not the URL of a store.",
            "It has the form s3://BUCKET, file:///DIRECTORY, ssh-ng://HOST, or another that Nix knows.",
        )
    return text


def announce(run: Run, request: Request, alias: str, path: str) -> Answer:
    """Make the GC root on the host, which dangles until the path arrives, and ask what the host lacks and has."""
    asked = check(run(["nix-store", "--query", "--requisites", path]), doing=f"Asking what {path} needs")
    closure = _nix.store_paths(asked.stdout)
    target = shlex.quote(_nix.TARGET_ROOT)
    root = " && ".join(
        [
            "umask 022",
            f"mkdir -p {shlex.quote(_nix.GC_ROOTS)}",
            # a rename, so that at no moment there is neither the old root nor the new one; by a name of its own,
            # because another run may be doing the same just now
            f"ln -sfn {shlex.quote(path)} {target}.new.$$",
            f"mv -fT {target}.new.$$ {target}",
        ]
    )
    script = "; ".join(
        [
            f"PATH={PATH}:$PATH",
            "export PATH",
            'if [ "$(id -u)" = 0 ]',
            "then sudo=",
            'else sudo="sudo -n"',
            "fi",
            f"$sudo sh -c {shlex.quote(root)} < /dev/null || exit",
            f"echo {_ROOTED}",
            f"echo {_MISSING}",
            "xargs -r nix-store --check-validity --print-invalid || exit",
            f"echo {_SPACE}",
            f"stat --file-system --format={shlex.quote(_space.STAT_FORMAT)} {_nix.STORE_DIR}",
        ]
    )
    # the login shell may be any: sh reads the script, quotes mean the same to all
    command = f"sh -c {shlex.quote(script)}"
    argv = ["ssh", "-F", request.config, "--", alias, command]
    done = run(argv, timeout=min(60.0, request.timeout), data="".join(f"{one}\n" for one in closure))
    if done.rc == _SSH_FAILED or done.timed_out:
        raise _out_of_reach(request, done)
    # what it printed are words of ours
    silent = replace(done, stdout="")
    if _ROOTED not in done.stdout.split():
        check(
            silent,
            doing=f"Making the GC root on {request.host}",
            remedy="Push as root, or as a user who may use sudo without a password (security.sudo.extraRules).",
        )
    check(silent, doing=f"Asking {request.host} what it lacks and has room for")
    return _answer(done.stdout, closure, f"{request.host} did not say what of {path} it lacks and has room for")


def _answer(stdout: str, closure: Iterable[str], complaint: str) -> Answer:
    _before, missing, rest = stdout.partition(f"{_MISSING}\n")
    listed, space, stat = rest.partition(f"{_SPACE}\n")
    if not (missing and space):
        raise Unreadable(f"{complaint}: {stdout[-200:]!r}.")
    paths = _nix.store_paths(listed)
    if not set(paths) <= set(closure):
        raise Unreadable(f"{complaint}: it lacks {paths[0]}, of which nobody spoke.")
    return Answer(tuple(paths), _space.parse_stat(stat))


def _need(run: Run, paths: Sequence[str]) -> _space.Need:
    """What C(paths) take in a store: the sizes that Nix knows, and their files, which only walking counts."""
    size = 0
    for begin in range(0, len(paths), _AT_ONCE):
        asked = paths[begin : begin + _AT_ONCE]
        # text since ever: the JSON of path-info has another shape in every other version
        words = check(run(["nix-store", "--query", "--size", *asked]), doing="Asking for sizes").stdout.split()
        if len(words) != len(asked) or not all(word.isdecimal() for word in words):
            raise Unreadable(f"Nix named {len(words)} sizes for {len(asked)} paths: {words[:3]}.")
        size += sum(map(int, words))
    return _space.Need(size, sum(map(_files, paths)))


def _files(path: str) -> int:
    """How many files, directories and links there are, C(path) included."""
    if os.path.islink(path):
        return 1
    return 1 + sum(len(directories) + len(files) for _place, directories, files in os.walk(path))


def push(run: Run, request: Request, store: str, paths: Sequence[str], ssh_options: str, timeout: float) -> None:
    """Copy the closures of C(paths)."""
    options = request.options if request.host is not None else _nix.bounded_options(request.options)
    argv = [*_nix.NIX, "copy", *_nix.option_args(options), "--to", store]
    if request.host is None:
        argv.append("--refresh")
    if not request.check_signatures:
        argv.append("--no-check-sigs")
    done = run([*argv, "--", *paths], timeout=max(1.0, timeout), env={"NIX_SSHOPTS": ssh_options})
    if done.ok:
        return
    if request.host is not None and not done.timed_out and _CANNOT_CONNECT.search(done.stderr):
        raise _out_of_reach(request, done)
    what = os.path.basename(paths[0]) if len(paths) == 1 else f"{len(paths)} paths"
    raise CommandFailed(
        done,
        "Raise timeout, or look at the network." if done.timed_out else _nix.remedy(done.stderr),
        f"Copying {what} to {request.host or redact(store)}",
    )


def _out_of_reach(request: Request, done: Completed) -> HostOutOfReach:
    if done.timed_out:
        words = f"no answer within {done.seconds:.0f} s."
    else:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        words = next((line for line in lines if _SSH_WORDS.search(line)), lines[-1] if lines else "ssh said nothing.")
    data = {"rc": done.rc, "stderr": done.stderr[-4000:]}
    return HostOutOfReach(str(request.host), words, _nix.remedy(done.stderr), data)
