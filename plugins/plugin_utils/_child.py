# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Programs of ours that may hang, or use a library that misbehaves: each in a process of its own, which has an end.

What such a program has to know it gets over standard input, for the list of processes is everybody's to read. Each line
of its output is an answer, which counts when it is ended, too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.homelab.nixos.plugins.module_utils._errors import LabError
from ansible_collections.homelab.nixos.plugins.plugin_utils import _process


class Answers(NamedTuple):
    """What it said, and why it did not come to its end, empty if it did."""

    said: list[dict[str, Any]]
    trouble: str


def ask(program: str, request: Mapping[str, Any], seconds: float) -> Answers:
    """Run a program that is beside this file with C(request), and end it when the time is over."""
    # it finds what this process finds, however that was started
    data = json.dumps({"path": sys.path, "seconds": seconds, **request})
    argv = [sys.executable, "-P", str(Path(__file__).parent / program)]
    try:
        done = _process.run(argv, timeout=seconds, data=data)
    except (LabError, OSError) as error:
        return Answers([], f"no process can be started for it ({type(error).__name__})")
    said = []
    for line in done.stdout.splitlines():
        # the last one may be torn
        with suppress(ValueError):
            said.append(json.loads(line))
    if done.timed_out:
        return Answers(said, f"it was given up after {seconds:g} s")
    return Answers(said, f"its process ended with {done.rc}" if done.rc else "")
