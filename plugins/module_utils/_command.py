# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The door to processes: every program that a module of this collection runs, it runs through here.

Always an argv list and never a shell, in the C locale, with the PATH of NixOS, with an end, decoded with replacement,
and with secrets taken out of what programs say. Code that needs programs takes a L(Run) as a parameter, so that tests
hand it recorded answers.
"""

from __future__ import annotations

import os
import re
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact, redacted_argv

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

# NixOS has no /usr/bin and no /sbin: its programs are here, setuid wrappers first
PATH = "/run/wrappers/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin"
# for a builder or controller that is not NixOS
FHS_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# timeout(1) of coreutils reports an elapsed time with this exit status, and 137 if it had to kill
_TIMED_OUT = (124, 137)
_KILL_AFTER = 10
# execve(2) ends words there, and Python has no bytes for them
NO_WORD = "A word of a command line has neither NUL nor half a character in it."
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Completed:
    """How a program ended. C(stderr) has no secrets and no colours in it; C(stdout) is as the program wrote it."""

    argv: tuple[str, ...]
    rc: int
    stdout: str
    stderr: str
    timed_out: bool = False
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.rc == 0


class CommandFailed(LabError):
    """A program ended with an error; C(what) says which, how, and its own first words about it."""

    def __init__(self, done: Completed, remedy: str = "", doing: str = "") -> None:
        self.done = done
        name = done.argv[0].rpartition("/")[2]
        how = f"took longer than {done.seconds:.0f} s" if done.timed_out else f"ended with exit code {done.rc}"
        words = first_error(done.stderr) or redact(first_error(done.stdout))
        if done.timed_out and "interrupted by the user" in words:
            # what Nix says of the signal that our own time-out sent
            words = ""
        what = f"{doing}: {name} {how}" if doing else f"{name} {how}"
        super().__init__(
            f"{what}: {words.rstrip(' .:;,')}." if words else f"{what}.",
            remedy,
            {"cmd": redacted_argv(done.argv), "rc": done.rc, "stderr": done.stderr[-4000:]},
        )


class Run(Protocol):
    """Run a program to its end and say how it ended; never raises for an exit code. C(timeout) is in seconds."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        data: str | None = None,
    ) -> Completed: ...


def first_error(text: str) -> str:
    """The line of a program's output that tells most: the first that says C(error), else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if line.lower().startswith(("error:", "fatal:")):
            # Nix prints a bare "error:", then how it got there, and the words that count at the end
            if line.lower() == "error:" and number + 1 < len(lines):
                below = lines[number + 1 :]
                return next((words for words in below if words.startswith("error: ")), f"error: {below[0]}")
            return line
    return lines[-1] if lines else ""


def check(done: Completed, doing: str = "", remedy: str = "") -> Completed:
    """Return C(done) if it ended well, else raise L(CommandFailed)."""
    if not done.ok:
        raise CommandFailed(done, remedy=remedy, doing=doing)
    return done


def peak_memory() -> int:
    """How much memory the largest program that was run so far has had at its largest, in MiB."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024


def door(module: AnsibleModule) -> Run:
    """The real L(Run) of a module."""

    def run(
        argv: Sequence[str],
        *,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        data: str | None = None,
    ) -> Completed:
        began = time.monotonic()
        # run_command has no time-out of its own; timeout(1) also ends the program's children
        full = ["timeout", f"--kill-after={_KILL_AFTER}", f"{max(timeout, 0.001):g}", *argv]
        try:
            with nullcontext() if data is None else _standard_input(data):
                rc, out, err = module.run_command(
                    full,
                    # ours may be in the Nix store, where Nix takes the URL of a flake for a path in there
                    cwd=cwd or "/",
                    environ_update={
                        "LC_ALL": "C",
                        "LANGUAGE": "C",
                        "PATH": f"{PATH}:{FHS_PATH}",
                        # a unit of systemd has none, where the controller is the host; git and ssh want their files
                        "HOME": os.path.expanduser("~"),
                        **(env or {}),
                    },
                    expand_user_and_vars=False,
                    ignore_invalid_cwd=False,
                    handle_exceptions=False,
                    encoding=None,
                )
        except OSError as error:
            raise LabError(f"{argv[0]} cannot be run: {error}.", f"It is looked for in {PATH}.") from error
        except ValueError as error:
            raise LabError(f"{argv[0]} cannot be given such words: {error}.", NO_WORD) from error
        seconds = time.monotonic() - began
        return Completed(
            argv=tuple(argv),
            rc=rc,
            stdout=out.decode("utf-8", "replace"),
            stderr=redact(_ANSI.sub("", err.decode("utf-8", "replace"))),
            timed_out=rc in _TIMED_OUT and seconds >= timeout,
            seconds=seconds,
        )

    return run


@contextmanager
def _standard_input(data: str) -> Iterator[None]:
    """Let programs read C(data). From a file: a pipe breaks with a program that ends early, and fills up."""
    with tempfile.TemporaryFile() as file:
        file.write(data.encode())
        file.seek(0)
        before = os.dup(0)
        try:
            os.dup2(file.fileno(), 0)
            yield
        finally:
            os.dup2(before, 0)
            os.close(before)
