# Copyright: homelab.nixos maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Waiting for a host through its reboot, and judging what came back. Pure but for the callables it is given."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ansible_collections.homelab.nixos.plugins.module_utils._systems import name

# a shell that is half up cannot print what this pattern wants: an answer is proof
_ANSWER = re.compile(
    r"^lab-boot-id=(?P<boot_id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\s+"
    r"lab-booted=(?P<booted>/nix/store/[0-9a-z]{32}-\S+)\s*$",
    re.MULTILINE,
)
# constant: no value from outside is in it; needs a shell and coreutils, but neither Python nor the right PATH
QUESTION = (
    "PATH=/run/current-system/sw/bin:$PATH; "
    'echo "lab-boot-id=$(cat /proc/sys/kernel/random/boot_id)"; echo "lab-booted=$(readlink -f /run/booted-system)"'
)
_POLL = 1.0


@dataclass(frozen=True)
class Seen:
    """One answer of a host."""

    boot_id: str
    booted: str


@dataclass(frozen=True)
class Reboot:
    """How a reboot went, every field always set; C(failed) unless the expected system was booted by a new boot."""

    rebooted: bool
    boot_id_before: str | None
    boot_id_after: str | None
    booted_system: str | None
    elapsed: float
    connection_lost: bool
    failed: bool
    msg: str


def answer(text: str) -> Seen | None:
    """What a host said to L(QUESTION), or C(None) when that is no answer."""
    found = _ANSWER.search(text)
    return Seen(found["boot_id"], found["booted"]) if found else None


def wait(
    look: Callable[[], Seen | None],
    before: Seen,
    expected: str,
    timeout: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Reboot:
    """Look until the host shows a new boot, for C(timeout) seconds of C(clock).

    A host that answers with the old boot id has not gone down yet, and is not what is waited for.
    """
    began = clock()
    last: Seen | None = before
    while clock() - began < timeout:
        last = look()
        if last is not None and last.boot_id != before.boot_id:
            good = last.booted == expected
            message = (
                f"Booted {name(last.booted)}."
                if good
                else f"Booted {last.booted}, and not {expected}: the boot loader fell back, or was told otherwise."
            )
            return Reboot(True, before.boot_id, last.boot_id, last.booted, clock() - began, False, not good, message)
        sleep(_POLL)
    waited = f"{timeout:g} s after it was told to reboot"
    message = (
        f"The host did not answer {waited}."
        if last is None
        else f"The host still ran its old boot {waited}: it never went down."
    )
    return Reboot(False, before.boot_id, None, None, clock() - began, last is None, True, message)


def not_begun(
    message: str, before: Seen | None = None, *, connection_lost: bool = False, failed: bool = True
) -> Reboot:
    """The result of a reboot that was not asked for."""
    return Reboot(False, before.boot_id if before else None, None, None, 0.0, connection_lost, failed, message)
