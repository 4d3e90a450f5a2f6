# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The door to processes for plugins that run on the controller, where there is no module: an argv list, with an end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from ansible_collections.homelab.nixos.plugins.module_utils._command import NO_WORD, PATH, Completed
from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.module_utils._redact import redact

_MERCY = 5.0


def search_path() -> str:
    """Where programs are looked for: where the user has them, then where NixOS has them."""
    return os.pathsep.join(filter(None, [os.environ.get("PATH", ""), PATH]))


def found(program: str) -> bool:
    return shutil.which(program, path=search_path()) is not None


def run(
    argv: Sequence[str],
    *,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    data: str | None = None,
) -> Completed:
    """Run a program to its end, or end it with all that it has started when the time is over."""
    began = time.monotonic()
    program = shutil.which(argv[0], path=search_path())
    if program is None:
        raise LabError(f"{argv[0]} is not on this controller.", f"It is looked for in {search_path()}.")
    try:
        process = subprocess.Popen(
            [program, *argv[1:]],
            env={**os.environ, "LC_ALL": "C", "LANGUAGE": "C", "PATH": search_path(), **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # a group of its own, to be ended as a whole
            start_new_session=True,
        )
    except ValueError as error:
        raise LabError(f"{argv[0]} cannot be given such words: {error}.", NO_WORD) from error
    timed_out = False
    try:
        out, err = process.communicate(None if data is None else data.encode(), timeout)
    except subprocess.TimeoutExpired:
        timed_out = True
        out, err = _end(process)
    except BaseException:
        _end(process)
        raise
    return Completed(
        argv=tuple(argv),
        rc=process.returncode,
        stdout=out.decode("utf-8", "replace"),
        stderr=redact(err.decode("utf-8", "replace")),
        timed_out=timed_out,
        seconds=time.monotonic() - began,
    )


def _end(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_MERCY)
    # somebody outside the group holds the pipes
    return b"", b""
