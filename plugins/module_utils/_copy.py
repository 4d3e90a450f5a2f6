# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Push a closure from this machine to a host over ssh, kept there from the garbage collector before it arrives."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.homelab.nixos.plugins.module_utils import _nix, _ssh_config
from ansible_collections.homelab.nixos.plugins.module_utils._command import PATH, CommandFailed, Completed, Run, check
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError, Unreadable

# ssh's own exit code; a program on the host can hardly have it
_SSH_FAILED = 255
# words that no banner and no profile prints
_PRESENT, _ABSENT = "lab-auto-update:present", "lab-auto-update:absent"
_SSH_WORDS = re.compile(
    r"^ssh: |^kex_|Permission denied|Host key verification failed|host key is known|Broken pipe|not responding"
    r"|Connection (?:closed|reset|timed out)|Bad configuration|Bad owner|Load key",
    re.MULTILINE,
)
_CANNOT_CONNECT = re.compile(r"error: (?:cannot connect to|failed to start SSH connection to) '")


@dataclass(frozen=True)
class Request:
    """What nix_copy was asked for; its options, which it documents. C(config) is the path of the ssh_config."""

    path: str
    host: str
    config: str
    ssh_key: str | None = None
    check_signatures: bool = False
    timeout: float = 1800
    options: Mapping[str, object] = field(default_factory=dict)


class HostOutOfReach(LabError):
    """ssh did not get to the host; the words are ssh's."""

    def __init__(self, host: str, words: str, remedy: str, data: Mapping[str, object]) -> None:
        super().__init__(f"The builder cannot reach {host}: {words}", remedy, {**data, "host_reachable": False})


def copy(run: Run, request: Request) -> dict[str, object]:
    """Carry out C(request) and return the module's result."""
    began = time.monotonic()
    path = _nix.store_path(request.path)
    config, alias = request.config, _ssh_config.alias(request.host)
    if re.search(r"\s", config):
        raise LabError(f"{config!r} has a blank in it, which Nix cannot pass to ssh.", "Set TMPDIR to another path.")
    if request.ssh_key is not None and not os.path.exists(request.ssh_key):
        raise LabError(
            f"The builder has no ssh key {request.ssh_key}.",
            "Make one there with ssh-keygen, and authorize it on hosts.",
        )
    if not run(["nix-store", "--check-validity", path]).ok:
        raise LabError(f"{path} is not in the store of the builder.", "Build it there first.")
    present = announce(run, request, alias, path)
    if not present:
        push(run, request, alias, path, request.timeout - (time.monotonic() - began))
    return {
        "changed": not present,
        # not "path": Ansible would add what the file system says about it
        "store_path": path,
        "host": request.host,
        "store": f"ssh-ng://{alias}",
        "durations": {"total": round(time.monotonic() - began, 1)},
    }


def announce(run: Run, request: Request, alias: str, path: str) -> bool:
    """Make the GC root on the host, which dangles until the path arrives, and ask whether it is there already."""
    target = shlex.quote(_nix.TARGET_ROOT)
    script = " && ".join(
        [
            "umask 022",
            f"mkdir -p {shlex.quote(_nix.GC_ROOTS)}",
            # a rename, so that at no moment there is neither the old root nor the new one; by a name of its own,
            # because another run may be doing the same just now
            f"ln -sfn {shlex.quote(path)} {target}.new.$$",
            f"mv -fT {target}.new.$$ {target}",
            f"if nix-store --check-validity {shlex.quote(path)} 2>/dev/null; "
            f"then echo {_PRESENT}; else echo {_ABSENT}; fi",
        ]
    )
    # the login shell may be any: sh reads the script, quotes mean the same to all
    command = f"sh -c {shlex.quote(f'PATH={PATH}:$PATH; export PATH; {script}')}"
    done = run(["ssh", "-F", request.config, "--", alias, command], timeout=min(60.0, request.timeout))
    if done.rc == _SSH_FAILED or done.timed_out:
        raise _out_of_reach(request, done)
    check(
        done,
        doing=f"Making the GC root on {request.host}",
        remedy="Push as a user who may write below /nix/var/nix/gcroots, such as root.",
    )
    words = done.stdout.split()
    if _PRESENT in words:
        return True
    if _ABSENT in words:
        return False
    raise Unreadable(f"{request.host} did not say whether it has {path}: {done.stdout[-200:]!r}.")


def push(run: Run, request: Request, alias: str, path: str, timeout: float) -> None:
    """Copy the closure of C(path)."""
    argv = [*_nix.NIX, "copy", *_nix.option_args(request.options), "--to", f"ssh-ng://{alias}"]
    if not request.check_signatures:
        argv.append("--no-check-sigs")
    done = run([*argv, "--", path], timeout=max(1.0, timeout), env={"NIX_SSHOPTS": f"-F {request.config}"})
    if done.ok:
        return
    if not done.timed_out and _CANNOT_CONNECT.search(done.stderr):
        raise _out_of_reach(request, done)
    raise CommandFailed(
        done,
        "Raise timeout, or look at the network." if done.timed_out else _nix.remedy(done.stderr),
        f"Copying {os.path.basename(path)} to {request.host}",
    )


def _out_of_reach(request: Request, done: Completed) -> HostOutOfReach:
    if done.timed_out:
        words = f"no answer within {done.seconds:.0f} s."
    else:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        words = next((line for line in lines if _SSH_WORDS.search(line)), lines[-1] if lines else "ssh said nothing.")
    data = {"rc": done.rc, "stderr": done.stderr[-4000:]}
    return HostOutOfReach(request.host, words, _nix.remedy(done.stderr), data)
